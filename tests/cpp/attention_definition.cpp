// tests/cpp/attention_definition.cpp: fused attention, written from its contract alone: rows, results, and gradients by the complex step.
#include "attention_definition.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace window_matmul::testing_tools {

std::uint32_t philox_word(std::uint64_t seed, PhiloxCounter counter, std::size_t which) {
  std::uint32_t key[2] = {static_cast<std::uint32_t>(seed & 0xFFFFFFFFu), static_cast<std::uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const PhiloxCounter c = counter;
    const std::uint64_t a = 0xD2511F53ull * c[0], b = 0xCD9E8D57ull * c[2];
    counter[0] = static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ key[0], counter[1] = static_cast<std::uint32_t>(b);
    counter[2] = static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ key[1], counter[3] = static_cast<std::uint32_t>(a);
    key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
  }
  return counter[which];
}

// The keys that row i sees, with their slots.
template <class T>
std::vector<SeenByRow<T>> AttentionDefinition<T>::sight(index_t s, index_t h, index_t i) const {
  const Piece& piece = pieces_[static_cast<std::size_t>(s)];
  const std::vector<index_t> slots = slots_of(piece, h, i);
  const bool both_ways = piece.queries == piece.keys && piece.shift == 0 && c_.window.right > 0;
  std::vector<SeenByRow<T>> seen;
  seen.reserve(slots.size());
  for (index_t j = 0; j < piece.keys; ++j) {
    const index_t slot = slots[static_cast<std::size_t>(j)];
    if (c_.key_mask && !x_.key_mask[mask_at(piece, j)]) continue;
    const bool column = is_global(piece, j) && (c_.window.right > 0 || j <= i + piece.shift);
    if (slot < 0 && !column && !(both_ways && is_global(piece, i))) continue;
    if (slot >= 0 && c_.bias_rank > 0 && real_of(at(x_.bias, bias_at(s, h, i, slot))) == -kInf) continue;
    seen.push_back({j, slot, {}, {}, {}, kept(s, h, i, j)});
  }
  return seen;
}

template <class T>
AttentionRow<T> AttentionDefinition<T>::row(index_t s, index_t h, index_t i, std::vector<SeenByRow<T>> seen) const {
  AttentionRow<T> row{std::move(seen), {}, {}, std::vector<T>(static_cast<std::size_t>(c_.value_dim))};
  T highest{-kInf}, total{};
  const auto raise = [&](const T& to) { highest = real_of(to) > real_of(highest) ? T{real_of(to)} : highest; };
  const index_t q = q_at(s, h, i);
  for (auto& key : row.keys) {
    const index_t k = key_at(s, h, key.key) * c_.dim;
    for (index_t n = 0; n < c_.dim; ++n) key.capped += at(x_.q, q + n) * at(x_.k, k + n);
    key.capped *= c_.actual_scale();
    if (c_.softcap > 0) key.capped = c_.softcap * std::tanh(key.capped / c_.softcap);
    key.score = key.capped;
    if (key.slot >= 0 && c_.bias_rank > 0) key.score += at(x_.bias, bias_at(s, h, i, key.slot));
    raise(key.score);
  }
  if (row.keys.empty()) return row;
  if (c_.sinks) raise(at(x_.sinks, h));
  for (auto& key : row.keys) total += key.p = std::exp(key.score - highest);
  row.lse = highest + std::log(total);
  if (c_.sinks) total += row.p_of_sink = std::exp(at(x_.sinks, h) - highest);
  row.p_of_sink /= total;
  for (auto& key : row.keys) {
    key.p /= total;
    const index_t v = key_at(s, h, key.key) * c_.value_dim;
    const T weight = key.kept * key.p;
    for (index_t n = 0; key.kept != 0 && n < c_.value_dim; ++n) row.out[static_cast<std::size_t>(n)] += weight * at(x_.v, v + n);
  }
  return row;
}

template <class T>
T AttentionDefinition<T>::loss(index_t s, index_t h, index_t i, const std::vector<SeenByRow<T>>& seen) const {
  const AttentionRow<T> r = row(s, h, i, seen);
  T sum{};
  if (r.keys.empty()) return sum;
  for (index_t n = 0; n < c_.value_dim; ++n) sum += r.out[static_cast<std::size_t>(n)] * at(x_.d_out, out_at(s, h, i) + n);
  return c_.with_lse ? sum + r.lse * at(x_.d_lse, row_at(s, h, i)) : sum;
}

template <class T>
T AttentionDefinition<T>::loss_of_head(index_t s, index_t h, const std::vector<std::vector<SeenByRow<T>>>& sights) const {
  T sum{};
  for (std::size_t i = 0; i < sights.size(); ++i) sum += loss(s, h, static_cast<index_t>(i), sights[i]);
  return sum;
}

template <class T>
bool AttentionDefinition<T>::is_global(const Piece& piece, index_t j) const {
  return j < c_.global_tokens || (c_.global_mask && x_.global_mask[mask_at(piece, j)]);
}

// j = i + shift + t * dilation for t from -left to right is slot t + left; -1 for other keys.
template <class T>
std::vector<index_t> AttentionDefinition<T>::slots_of(const Piece& piece, index_t h, index_t i) const {
  std::vector<index_t> slots(static_cast<std::size_t>(piece.keys), -1);
  const index_t dilation = c_.dilation_of(h), far = (piece.queries + piece.keys + std::abs(piece.shift)) / dilation + 1;
  for (index_t t = -std::min(c_.window.left, far); t <= std::min(c_.window.right, far); ++t) {
    const index_t j = i + piece.shift + t * dilation;
    if (0 <= j && j < piece.keys) slots[static_cast<std::size_t>(j)] = t + c_.window.left;
  }
  return slots;
}

template <class T>
double AttentionDefinition<T>::kept(index_t s, index_t h, index_t i, index_t j) const {
  if (c_.dropout_p == 0) return 1;
  const auto word = [](index_t n) { return static_cast<std::uint32_t>(n); };
  const Piece& piece = pieces_[static_cast<std::size_t>(s)];
  if (c_.elsewhere > 0) i = c_.dropout_query(piece.batch, piece.first_query + i), j = c_.dropout_key(piece.first_key + j);
  const PhiloxCounter counter = {word(j / 4), word(i), word(h), word(c_.dropout_sequence(s))};
  const std::uint32_t drawn = philox_word(x_.dropout_seed, counter, static_cast<std::size_t>(j % 4));
  return static_cast<double>(drawn) >= std::floor(c_.dropout_p * 0x1p32) ? 1 / (1 - c_.dropout_p) : 0;
}
template class AttentionDefinition<double>;
template class AttentionDefinition<Complex>;

std::size_t rows_of_all(const AttentionCase& c) { return static_cast<std::size_t>(c.batch * c.heads * c.queries); }
AttentionResults zeros_of(const AttentionCase& c) {
  const auto n = [](index_t count) { return std::vector<double>(static_cast<std::size_t>(count)); };
  const index_t rows = static_cast<index_t>(rows_of_all(c)), keys = c.batch * c.kv_heads * c.keys;
  const index_t rows_of_bias = c.bias_rank == 0 ? 0 : c.bias_rank == 2 ? c.heads : rows;
  return {n(rows * c.value_dim),   n(rows),
          n(rows * c.dim),         n(keys * c.dim),
          n(keys * c.value_dim),   n(rows_of_bias == 0 ? 0 : rows_of_bias * c.width()),
          n(c.sinks ? c.heads : 0)};
}

AttentionResults forward_of(const AttentionCase& c, const AttentionValues<double>& x) {
  AttentionResults r = zeros_of(c);
  const AttentionDefinition<double> definition(c, x);
  std::fill(r.lse.begin(), r.lse.end(), -kInf);
  for_each_row(c, [&](index_t s, index_t h, index_t i) {
    const AttentionRow<double> row = definition.row(s, h, i);
    std::copy(row.out.begin(), row.out.end(), r.out.begin() + definition.out_at(s, h, i));
    if (!row.keys.empty()) r.lse[static_cast<std::size_t>(definition.row_at(s, h, i))] = row.lse;
  });
  return r;
}

namespace {

// Gradients by the complex step: f'(x) = Im f(x + ih) / h, exact for an h so small that its square is lost.
class ComplexStep {
 public:
  ComplexStep(const AttentionCase& c, const AttentionValues<double>& x) : c_(c), definition_(c_, x_) {
    const auto widened = [](const std::vector<double>& list) { return std::vector<Complex>(list.begin(), list.end()); };
    x_.q = widened(x.q), x_.k = widened(x.k), x_.v = widened(x.v), x_.bias = widened(x.bias), x_.sinks = widened(x.sinks);
    x_.key_mask = x.key_mask, x_.global_mask = x.global_mask, x_.d_out = x.d_out, x_.d_lse = x.d_lse, x_.dropout_seed = x.dropout_seed;
  }

  void add_to(AttentionResults& r) {
    const std::vector<Piece> pieces = c_.pieces();
    for (index_t s = 0; s < static_cast<index_t>(pieces.size()); ++s)
      for (index_t h = 0; h < c_.heads; ++h) add_head(s, h, pieces[static_cast<std::size_t>(s)], r);
  }

 private:
  template <class F>
  void step(std::vector<Complex>& values, index_t first, index_t count, std::vector<double>& into, F loss) {
    constexpr double h = 0x1p-100;
    for (index_t n = first; n < first + count; ++n) {
      Complex& x = values[static_cast<std::size_t>(n)];
      const Complex before = x;
      x = {before.real(), h};
      into[static_cast<std::size_t>(n)] += loss().imag() / h;
      x = before;
    }
  }
  void add_head(index_t s, index_t h, const Piece& piece, AttentionResults& r) {
    std::vector<std::vector<SeenByRow<Complex>>> sights;  // no step changes them
    for (index_t i = 0; i < piece.queries; ++i) sights.push_back(definition_.sight(s, h, i));
    const auto of_head = [&] { return definition_.loss_of_head(s, h, sights); };
    for (index_t i = 0; i < piece.queries; ++i) {
      const auto of_row = [&] { return definition_.loss(s, h, i, sights[static_cast<std::size_t>(i)]); };
      step(x_.q, definition_.q_at(s, h, i), c_.dim, r.d_q, of_row);
      if (c_.bias_rank == 4) step(x_.bias, definition_.bias_at(s, h, i, 0), c_.width(), r.d_bias, of_row);
    }
    for (index_t j = 0; j < piece.keys; ++j) {
      step(x_.k, definition_.key_at(s, h, j) * c_.dim, c_.dim, r.d_k, of_head);
      step(x_.v, definition_.key_at(s, h, j) * c_.value_dim, c_.value_dim, r.d_v, of_head);
    }
    if (c_.bias_rank == 2) step(x_.bias, definition_.bias_at(s, h, 0, 0), c_.width(), r.d_bias, of_head);
    if (c_.sinks) step(x_.sinks, h, 1, r.d_sinks, of_head);
  }

  const AttentionCase& c_;
  AttentionValues<Complex> x_;
  AttentionDefinition<Complex> definition_;
};

}  // namespace

void add_gradients(const AttentionCase& c, const AttentionValues<double>& x, AttentionResults& r) { ComplexStep(c, x).add_to(r); }

}  // namespace window_matmul::testing_tools
