// tests/cpp/attention_trial.cpp: fused attention on one case: tensors made, poisoned where nothing may look, run, and compared.
#include "attention_trial.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "attention_tolerance.hpp"

namespace window_matmul::testing_tools {
namespace {

template <class F>
const AttentionResults& remembered(const std::string& what, F compute) {
  static std::map<std::string, AttentionResults> known;  // for each F
  const auto [place, is_new] = known.try_emplace(what);
  if (is_new) place->second = compute();
  return place->second;
}

struct Result {
  const char* name;
  const Tensor& tensor;
  std::vector<double> AttentionResults::* values;
};
std::vector<Result> results(const AttentionTrial& t, Op op) {
  using R = AttentionResults;
  if (op == Op::attention_backward)
    return {{"d_q", t.d_q, &R::d_q},
            {"d_k", t.d_k, &R::d_k},
            {"d_v", t.d_v, &R::d_v},
            {"d_bias", t.d_bias, &R::d_bias},
            {"d_sinks", t.d_sinks, &R::d_sinks}};
  if (!t.c.with_lse) return {{"out", t.out, &R::out}};
  return {{"out", t.out, &R::out}, {"lse", t.lse, &R::lse}};
}

}  // namespace

AttentionTrial::AttentionTrial(const AttentionCase& case_, std::uint64_t seed, Around around)
    : c(case_),
      layouts_(c.layout_seed),
      q(input(c.dtype, {c.batch, c.heads, c.queries, c.dim}, around)),
      k(input(c.dtype, {c.batch, c.kv_heads, c.keys, c.dim}, around)),
      v(input(c.dtype, {c.batch, c.kv_heads, c.keys, c.value_dim}, around)),
      bias(input(c.extra_dtype(), shape_of_bias(), around)),
      sinks(input(c.extra_dtype(), {c.sinks ? c.heads : 0}, around)),
      d_out(input(c.out_dtype(), {c.batch, c.heads, c.queries, c.value_dim}, around)),
      d_lse(input(lse_dtype(), {c.batch, c.heads, c.queries}, around)),
      out(output(c.out_dtype(), d_out.shape(), around)),
      lse(output(lse_dtype(), d_lse.shape(), around)),
      d_q(output(c.dtype, q.shape(), around)),
      d_k(output(c.dtype, k.shape(), around)),
      d_v(output(c.dtype, v.shape(), around)),
      d_bias(output(bias.dtype(), bias.shape(), around)),
      d_sinks(output(sinks.dtype(), sinks.shape(), around)),
      key_mask{c.batch, c.keys, c.key_mask},
      global_mask{c.batch, c.keys, c.global_mask} {
  fill(seed);
}

AttentionInputs AttentionTrial::inputs() const {
  AttentionInputs in{.q = q.view(), .k = k.view(), .v = v.view(), .window = c.window};
  if (c.elsewhere > 0) in.dropout_places = {sequence_places.data(), query_places.data(), key_places.data()};
  in.scale = c.scale, in.softcap = c.softcap, in.dropout_p = c.dropout_p, in.dropout_seed = dropout_seed;
  if (c.bias_rank > 0) in.bias = bias.view();
  if (c.sinks) in.sinks = sinks.view();
  in.key_mask = key_mask.view(), in.global_mask = global_mask.view(), in.global_tokens = c.global_tokens;
  if (on_gpu) {
    const bool wide = c.layout_seed % 2 == 0;
    in.there = {there_[0].view(c.cu_q, wide),
                there_[1].view(c.cu_k, wide),
                there_[2].view(c.key_lengths, wide),
                there_[3].view(c.query_offsets, wide),
                {}};
    if (wide) in.there.dropout_seed = {&dropout_seed, true, 1, 1}, in.dropout_seed = 0;
    return in;
  }
  in.cu_q = c.cu_q, in.cu_k = c.cu_k, in.key_lengths = c.key_lengths, in.query_offsets = c.query_offsets;
  return in;
}

AttentionGradients AttentionTrial::gradients() const {
  AttentionGradients g{d_q.view(), d_k.view(), d_v.view()};
  if (c.bias_rank > 0) g.d_bias = d_bias.view();
  if (c.sinks) g.d_sinks = d_sinks.view();
  return g;
}

Status AttentionTrial::run(Op op, const RunOptions& options) {
  if (op == Op::attention) return window_attention(inputs(), out.view(), c.with_lse ? lse.view() : TensorView{}, options);
  return window_attention_backward(inputs(), out.view(), lse.view(), d_out.view(), c.with_lse ? d_lse.view() : TensorView{}, gradients(),
                                   options);
}

AttentionValues<double> AttentionTrial::values() const {
  AttentionValues<double> x{q.values(), k.values(), v.values(), bias.values(), sinks.values()};
  for (index_t b = 0; b < c.batch; ++b)
    for (index_t j = 0; j < c.keys; ++j) {
      x.key_mask.push_back(const_cast<MaskBytes&>(key_mask).at(b, j) != 0);
      x.global_mask.push_back(const_cast<MaskBytes&>(global_mask).at(b, j) != 0);
    }
  x.d_out = d_out.values(), x.d_lse = d_lse.values(), x.dropout_seed = dropout_seed;
  return x;
}

const AttentionResults& AttentionTrial::expected(Op op) const {
  return remembered(name_of(op) + (" of " + name(exact())), [&] {
    const AttentionValues<double> x = values();
    AttentionResults r = forward_of(c, x);
    if (op == Op::attention_backward) add_gradients(c, x, r);
    return r;
  });
}

const AttentionResults& AttentionTrial::from_reference() const {
  return remembered(name(exact()), [&] { return computed_by_reference(); });
}

const AttentionResults& AttentionTrial::errors() const {
  return remembered(name(c), [&] { return errors_of(c, values()); });
}

AttentionResults AttentionTrial::computed_by_reference() const {
  AttentionCase wide = c;
  wide.dtype = DType::f64, wide.float_extras = false, wide.layout_seed = 0;
  AttentionTrial twin(wide, 1);
  twin.copy_inputs(*this);
  const RunOptions options{.backend = "reference"};
  EXPECT_EQ(twin.run(Op::attention, options).message(), "");
  EXPECT_EQ(twin.run(Op::attention_backward, options).message(), "");
  return {twin.out.values(),    twin.c.with_lse ? twin.lse.values() : forward_of(c, values()).lse,
          twin.d_q.values(),    twin.d_k.values(),
          twin.d_v.values(),    twin.d_bias.values(),
          twin.d_sinks.values()};
}

testing::AssertionResult AttentionTrial::check(Op op, const RunOptions& options, const AttentionResults& want,
                                               const AttentionResults& errors) {
  if (op == Op::attention_backward) give_results_of_forward(want);
  for (Tensor* t : tensors()) t->watch();
  const Status status = run(op, options);
  const std::string what = std::string(name_of(op)) + " of " + text(c) + ": ";
  if (!status.ok()) return testing::AssertionFailure() << what << status.message();
  for (Tensor* t : tensors())
    if (const std::string damage = t->damage(); !damage.empty()) return testing::AssertionFailure() << what << damage;
  const std::string difference = first_difference(op, want, errors, zeros_of(c));
  return difference.empty() ? testing::AssertionSuccess() : testing::AssertionFailure() << what << difference;
}

std::string AttentionTrial::first_difference(Op op, const AttentionResults& want, const AttentionResults& errors,
                                             const AttentionResults& ignored) const {
  for (const auto& [name, tensor, values] : results(*this, op)) {
    Numbers numbers;
    numbers.reserve((want.*values).size());
    for (std::size_t n = 0; n < (want.*values).size(); ++n) {
      const bool any = (ignored.*values)[n] != 0;
      numbers.push_back(any ? Expected{tensor[static_cast<index_t>(n)], 0}
                            : stored(tensor.dtype(), (want.*values)[n], (errors.*values)[n]));
    }
    if (const testing::AssertionResult result = close(tensor, numbers); !result) return std::string(name) + ": " + result.message();
  }
  return "";
}

void AttentionTrial::give_results_of_forward(const AttentionResults& r) {
  for (index_t n = 0; n < out.size(); ++n) out.set(n, r.out[static_cast<std::size_t>(n)]);
  for (index_t n = 0; n < lse.size(); ++n) lse.set(n, r.lse[static_cast<std::size_t>(n)]);
}

std::vector<Tensor*> AttentionTrial::outputs(Op op) {
  if (op == Op::attention) return c.with_lse ? std::vector{&out, &lse} : std::vector{&out};
  return {&d_q, &d_k, &d_v, &d_bias, &d_sinks};
}

std::vector<std::byte> AttentionTrial::bits(Op op) {
  std::vector<std::byte> all;
  for (const Tensor* t : outputs(op)) {
    const std::vector<std::byte> some = t->bits();
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

Shape AttentionTrial::shape_of_bias() const {
  if (c.bias_rank == 0) return {0};
  return c.bias_rank == 2 ? Shape{c.heads, c.width()} : Shape{c.batch, c.heads, c.queries, c.width()};
}

Tensor AttentionTrial::tensor(DType dtype, Shape shape, Role role, Around around) {
  return {dtype, std::move(shape), role, c.layout_seed == 0 ? Layout{} : any_layout(layouts_, role), around};
}

AttentionCase AttentionTrial::exact() const {
  AttentionCase same = c;
  same.rounds_weights = same.narrows_weights = same.splits_factors = false;
  return same;
}

std::string AttentionTrial::name(const AttentionCase& case_) const {
  std::string bytes = std::to_string(dropout_seed);
  for (const Tensor* t : {&q, &k, &v, &bias, &sinks, &d_out, &d_lse}) {
    const std::vector<std::byte> bits = t->bits();
    bytes.append(reinterpret_cast<const char*>(bits.data()), bits.size());
  }
  for (const MaskBytes* mask : {&key_mask, &global_mask}) bytes.append(mask->bytes.begin(), mask->bytes.end());
  return text(case_) + " on " + std::to_string(std::hash<std::string>{}(bytes));
}

void AttentionTrial::copy_inputs(const AttentionTrial& from) {
  const std::pair<Tensor*, const Tensor*> pairs[] = {{&q, &from.q},        {&k, &from.k},         {&v, &from.v},
                                                     {&bias, &from.bias},  {&sinks, &from.sinks}, {&d_out, &from.d_out},
                                                     {&d_lse, &from.d_lse}};
  for (const auto& [to, source] : pairs)
    for (index_t n = 0; n < to->size(); ++n) to->set(n, (*source)[n]);
  key_mask = from.key_mask, global_mask = from.global_mask, dropout_seed = from.dropout_seed;
}

// Numbers wherever the definition looks; the NaN that the tensors are made of elsewhere.
void AttentionTrial::fill(std::uint64_t seed) {
  Random random(seed);
  dropout_seed = random.bits();
  for (std::size_t s = 0; s < c.pieces().size(); ++s) sequence_places.push_back(c.dropout_sequence(static_cast<index_t>(s)));
  for (index_t b = 0; b < c.batch; ++b)
    for (index_t i = 0; i < c.queries; ++i) query_places.push_back(c.dropout_query(b, i));
  for (index_t j = 0; j < c.keys; ++j) key_places.push_back(c.dropout_key(j));
  for (index_t b = 0; b < c.batch; ++b)
    for (index_t j = 0; j < c.keys; ++j) key_mask.at(b, j) = !random.one_in(3), global_mask.at(b, j) = random.one_in(4);
  for (index_t n = 0; n < sinks.size(); ++n) sinks.set(n, c.sinks_from + random.between(-2, 2));
  for (index_t n = 0; c.hides && n < bias.size(); ++n) bias.set(n, random.one_in(5) ? -kInf : 0);
  const AttentionValues<double> x = values();
  const AttentionDefinition<double> definition(c, x);
  for (index_t n = 0; n < bias.size(); ++n) bias.set(n, kNaN);
  for_each_row(c, [&](index_t s, index_t h, index_t i) { fill_row(definition, random, s, h, i); });
  for (index_t n = 0; c.hides && n < bias.size(); ++n)
    if (x.bias[static_cast<std::size_t>(n)] == -kInf) bias.set(n, -kInf);
}

void AttentionTrial::fill_row(const AttentionDefinition<double>& definition, Random& random, index_t s, index_t h, index_t i) {
  const auto draw = [&](Tensor& t, index_t first, index_t count) {
    for (index_t n = first; n < first + count; ++n) t.set(n, random.between(-1, 1));
  };
  const auto seen = definition.sight(s, h, i);
  for (const auto& key : seen) {
    const index_t j = definition.key_at(s, h, key.key);
    if (c.dim > 0 && std::isnan(k[j * c.dim])) draw(k, j * c.dim, c.dim);
    if (c.value_dim > 0 && std::isnan(v[j * c.value_dim])) draw(v, j * c.value_dim, c.value_dim);
    if (c.bias_rank > 0 && key.slot >= 0) draw(bias, definition.bias_at(s, h, i, key.slot), 1);
  }
  if (seen.empty()) return;
  draw(q, definition.q_at(s, h, i), c.dim);
  draw(d_out, definition.out_at(s, h, i), c.value_dim);
  draw(d_lse, definition.row_at(s, h, i), 1);
}

std::vector<std::string> rows_of_attention(Op op, DType dtype) {
  return rows_here({.op = op, .dtype = dtype, .band = {8, 8, 2, 2, 0}, .dim = 4, .attention = {.kv_heads = 1, .value_dim = 4}});
}

std::vector<RowAndOp> attention_rows() {
  std::vector<RowAndOp> all;
  for (const Op op : {Op::attention, Op::attention_backward})
    for (const std::string& row : rows_of_attention(op, DType::bf16)) all.push_back({row, op});
  return all;
}

AttentionCase OnEachAttention::taken(AttentionCase c) const {
  const std::vector<std::string> of_all = rows_of_attention(op(), DType::f32);
  if (std::find(of_all.begin(), of_all.end(), row()) == of_all.end()) c.dtype = DType::bf16, c.rounds_weights = row() == "cpu.amx";
  return c;
}

}  // namespace window_matmul::testing_tools
