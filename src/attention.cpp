// src/attention.cpp: fused attention: validate -> launch.
#include "window_matmul/attention.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "launch.hpp"
#include "validate_attention.hpp"
#include "window_matmul/backends.hpp"

namespace window_matmul {
namespace {

// Calls f with the address of every element.
template <class F>
void for_each_element(const TensorView& t, F f, int dim = 0, index_t offset = 0) {
  if (dim == t.rank) return f(static_cast<std::byte*>(t.data) + offset * static_cast<index_t>(size_of(t.dtype)));
  for (index_t i = 0; i < t.shape[dim]; ++i) for_each_element(t, f, dim + 1, offset + i * t.stride[dim]);
}

bool has_elements(const TensorView& t) { return t.data != nullptr && std::find(t.shape, t.shape + t.rank, 0) == t.shape + t.rank; }

void clear(const TensorView& t) {
  if (!has_elements(t)) return;
  TensorView pieces = t;  // rows, where their elements lie side by side
  const bool whole_rows = t.rank > 0 && t.stride[t.rank - 1] == 1;
  if (whole_rows) --pieces.rank;
  const std::size_t bytes = size_of(t.dtype) * (whole_rows ? static_cast<std::size_t>(t.shape[t.rank - 1]) : 1);
  for_each_element(pieces, [&](std::byte* at) { std::memset(at, 0, bytes); });
}

// -inf; where it is taken in two, -inf and 0.
void fill_with_minus_infinity(const TensorView& lse) {
  if (!has_elements(lse)) return;
  TensorView highest = lse;
  if (lse.rank == 4) clear(lse), highest.rank = 3;
  for_each_element(highest, [&](std::byte* at) {
    const double wide = -std::numeric_limits<double>::infinity();
    const float narrow = -std::numeric_limits<float>::infinity();
    std::memcpy(at, lse.dtype == DType::f64 ? static_cast<const void*>(&wide) : &narrow, size_of(lse.dtype));
  });
}

// Where there are no queries or no keys at all, nothing is seen.
void write_nothing_seen(const AttentionCall& call) {
  if (call.op() == Op::attention) {
    clear(call.out);
    fill_with_minus_infinity(call.lse);
  } else {
    const AttentionGradients& g = *call.gradients;
    for (const TensorView* gradient : {&g.d_q, &g.d_k, &g.d_v, &g.d_bias, &g.d_sinks}) clear(*gradient);
  }
}

// Rows of one entry of a (B, H, L, ...) tensor.
TensorView rows_of(const TensorView& t, index_t batch, Range rows) {
  if (!has_elements(t)) return {};
  TensorView some = t;
  const index_t offset = batch * t.stride[0] + rows.begin * t.stride[2];
  some.data = static_cast<std::byte*>(t.data) + offset * static_cast<index_t>(size_of(t.dtype));
  some.shape[0] = 1, some.shape[2] = rows.size();
  return some;
}

// Rows that belong to no sequence: no kernel knows of them.
class Outside {
 public:
  Outside(const Problem& p, const AttentionCall& call) : call_(call) {
    const AttentionOptions& a = p.attention;
    if (!a.cu_q.empty()) {
      for (const Range rows : {Range{0, a.cu_q.front()}, Range{a.cu_q.back(), p.band.rows}}) add_queries(rows);
      for (const Range keys : {Range{0, a.cu_k.front()}, Range{a.cu_k.back(), p.band.cols}}) add_keys(0, keys);
    }
    for (std::size_t b = 0; b < a.key_lengths.size(); ++b) add_keys(static_cast<index_t>(b), {a.key_lengths[b], p.band.cols});
  }

  void write(const Executor& executor) const {
    executor.for_each_range(static_cast<index_t>(zeros_.size()), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) clear(zeros_[static_cast<std::size_t>(i)]);
    });
    for (const TensorView& lse : unseen_) fill_with_minus_infinity(lse);
  }

 private:
  void add_queries(Range rows) {
    if (rows.empty()) return;
    if (call_.op() == Op::attention) {
      zeros_.push_back(rows_of(call_.out, 0, rows)), unseen_.push_back(rows_of(call_.lse, 0, rows));
    } else {
      zeros_.push_back(rows_of(call_.gradients->d_q, 0, rows));
      if (call_.gradients->d_bias.rank == 4) zeros_.push_back(rows_of(call_.gradients->d_bias, 0, rows));
    }
  }
  void add_keys(index_t batch, Range rows) {
    if (rows.empty() || call_.op() == Op::attention) return;
    zeros_.push_back(rows_of(call_.gradients->d_k, batch, rows)), zeros_.push_back(rows_of(call_.gradients->d_v, batch, rows));
  }

  const AttentionCall& call_;
  std::vector<TensorView> zeros_, unseen_;
};

// Numbers that differ from sequence to sequence are where the tensors are, or none can read them without waiting for the other.
std::string misplaced_numbers(const AttentionInputs& in, bool on_gpu) {
  const bool here = !in.cu_q.empty() || !in.cu_k.empty() || !in.key_lengths.empty() || !in.query_offsets.empty();
  const bool there = in.there.any_of_sequences() || in.there.dropout_seed.data != nullptr;
  if (on_gpu && here) return "cu_q, cu_k, key_lengths and query_offset of tensors on a GPU need to be there too";
  if (!on_gpu && there) return "numbers on a GPU (AttentionNumbers) need tensors there";
  return "";
}

// On a GPU kernels write all that is to be written.
bool is_nothing_to_write(const AttentionCall& call, const Problem& p) {
  if (p.batch == 0 || p.heads == 0) return true;
  return p.band.rows == 0 && (call.op() == Op::attention || p.band.cols == 0);
}

Status run(const AttentionCall& call, const RunOptions& options) {
  if (options.stats != nullptr) *options.stats = {};
  Problem problem;
  Args args;
  if (Status status = validate(call, &problem, &args); !status.ok()) return status;
  const bool on_gpu = options.device != nullptr && options.device->kind == DeviceInfo::Kind::cuda;
  if (const std::string e = misplaced_numbers(call.in, on_gpu); !e.empty())
    return {StatusCode::invalid_argument, std::string(name_of(call.op())) + ": " + e};
  if (problem.dtype == DType::f32) problem.precision = options.precision;
  if (on_gpu) return launch(problem, args, options, is_nothing_to_write(call, problem));
  const bool nothing_to_see = problem.batch == 0 || problem.heads == 0 || problem.band.rows == 0 || problem.band.cols == 0;
  Status status = launch(problem, args, options, nothing_to_see);
  if (status.ok() && nothing_to_see) write_nothing_seen(call);
  if (status.ok() && !nothing_to_see) Outside(problem, call).write(options.executor);
  return status;
}

}  // namespace

Status window_attention(const AttentionInputs& in, const TensorView& out, const TensorView& lse, const RunOptions& options) {
  return run({.in = in, .out = out, .lse = lse}, options);
}

Status window_attention_backward(const AttentionInputs& in, const TensorView& out, const TensorView& lse, const TensorView& d_out,
                                 const TensorView& d_lse, const AttentionGradients& gradients, const RunOptions& options) {
  return run({in, out, lse, &d_out, &d_lse, &gradients}, options);
}

}  // namespace window_matmul
