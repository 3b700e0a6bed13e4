// python/bindings/attention_operators.hpp: the bodies of fused attention's two operators, once for every device. Stable ABI only.
#pragma once

#include "window_matmul/attention.hpp"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "tensors.hpp"

namespace window_matmul::binding {
namespace {

using MaybeTensor = std::optional<Tensor>;
using Numbers = std::vector<std::int64_t>;
using Reals = std::vector<double>;

constexpr int kRank = 4;                                // (B, H, L, n), and B = 1 for packed sequences
constexpr int kHeadsInside[kRank] = {0, 2, 1, 3};       // stored as (B, L, H, n)
enum : std::size_t { left, right, form, first_dilation };  // Numbers
enum : std::int64_t { heads_inside = 1, wide_out = 2, split_lse = 4, high_precision = 8 };  // form: a sum of these
enum : std::size_t { softcap, dropout_p, scale };                                        // Reals; the last may be missing

struct Given {  // the arguments that both operators have
  const Tensor &q, &k, &v;
  const MaybeTensor &bias, &sinks, &key_mask, &global_mask, &cu_q, &cu_k, &seed, &key_lengths, &offsets;
  const Numbers& band;
  std::int64_t shift, global_tokens;
  const Reals& reals;
};

// ---- tensors as the core takes them ----------------------------------------------------------------------------------------------

TensorView view_of_rank(const Tensor& tensor, const char* name, int rank) {
  const TensorView view = view_of(tensor, name);
  require(view.rank == rank, name, text_of_shape(view), ("a tensor of " + std::to_string(rank) + " dims").c_str());
  return view;
}

TensorView view_of_sinks(const Tensor& sinks) {
  require(sinks.dim() == 1, "sinks", "a tensor of " + std::to_string(sinks.dim()) + " dims", "one of 1 dim");
  TensorView view{const_cast<void*>(sinks.const_data_ptr()), dtype_of(sinks, "sinks"), 1};
  view.shape[0] = sinks.size(0), view.stride[0] = sinks.stride(0);
  return view;
}

// The core's masks have no shape of their own, so that it is checked here.
MaskView view_of_mask(const Tensor& mask, const char* name, index_t batch, index_t num_keys) {
  require(mask.scalar_type() == torch::headeronly::ScalarType::Bool, name, "of another dtype", "bool");
  require(mask.dim() == 2 && mask.size(0) == batch && mask.size(1) == num_keys, name, "of another shape",
          ("(" + std::to_string(batch) + ", " + std::to_string(num_keys) + ")").c_str());
  return {static_cast<const std::uint8_t*>(mask.const_data_ptr()), mask.stride(0), mask.stride(1)};
}

template <class T>
std::vector<index_t> copy_of(const Tensor& tensor) {
  std::vector<index_t> numbers(static_cast<std::size_t>(tensor.size(0)));
  const T* data = static_cast<const T*>(tensor.const_data_ptr());
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = data[static_cast<index_t>(i) * tensor.stride(0)];
  return numbers;
}

std::vector<index_t> numbers_of(const Tensor& tensor, const char* name) {
  using enum torch::headeronly::ScalarType;
  require(tensor.scalar_type() == Int || tensor.scalar_type() == Long, name, "of another dtype", "int32 or int64");
  require(tensor.dim() == 1, name, "a tensor of " + std::to_string(tensor.dim()) + " dims", "one of 1 dim");
  return tensor.scalar_type() == Int ? copy_of<std::int32_t>(tensor) : copy_of<std::int64_t>(tensor);
}

// The same in the memory of a GPU, for its kernels alone.
NumbersView numbers_there(const Tensor& tensor, const char* name) {
  using enum torch::headeronly::ScalarType;
  require(tensor.scalar_type() == Int || tensor.scalar_type() == Long, name, "of another dtype", "int32 or int64");
  require(tensor.dim() == 1, name, "a tensor of " + std::to_string(tensor.dim()) + " dims", "one of 1 dim");
  return {tensor.const_data_ptr(), tensor.scalar_type() == Long, tensor.size(0), tensor.stride(0)};
}

std::vector<index_t> bounds_of(const Tensor& cu, const char* name, index_t total) {
  const std::vector<index_t> bounds = numbers_of(cu, name);
  require(!bounds.empty(), name, "of another shape", "(number of sequences + 1,)");
  const auto fall = std::is_sorted_until(bounds.begin(), bounds.end());
  if (fall != bounds.end()) {
    require(false, name, std::to_string(*fall) + " after " + std::to_string(*(fall - 1)), "a sequence that never falls");
  }
  require(bounds.front() >= 0, name, "a sequence from " + std::to_string(bounds.front()), "one from 0 or later");
  require(bounds.back() <= total, name, "a sequence to " + std::to_string(bounds.back()),
          ("one to at most the number of rows, " + std::to_string(total)).c_str());
  return bounds;
}

// ---- the arguments as the core takes them ----------------------------------------------------------------------------------------

void set_band(const Given& given, AttentionInputs* inputs) {
  const Numbers& band = given.band;
  require(band.size() >= first_dilation, "band", "a list of " + std::to_string(band.size()), "(left, right, form, *dilation)");
  inputs->window = {band[left], band[right], {band.begin() + first_dilation, band.end()}, given.shift};
  inputs->global_tokens = given.global_tokens;
}

void set_reals(const Given& given, AttentionInputs* inputs) {
  const Reals& reals = given.reals;
  require(reals.size() == scale || reals.size() == scale + 1, "reals", "a list of " + std::to_string(reals.size()),
          "(softcap, dropout_p), or these and the scale");
  inputs->softcap = reals[softcap], inputs->dropout_p = reals[dropout_p];
  if (reals.size() > scale) inputs->scale = reals[scale];
}

template <class Device>
void set_sequences(const Given& given, AttentionInputs* inputs) {
  require(given.cu_q.has_value() == given.cu_k.has_value(), "cu_seqlens_q", "given alone", "beside cu_seqlens_k");
  if (!given.cu_q) return;
  require(inputs->q.shape[0] == 1, "q", text_of_shape(inputs->q), "of batch size 1 where sequences are packed");
  inputs->window.query_offset.reset();
  if constexpr (!Device::kReadsNumbers) {
    inputs->there.cu_q = numbers_there(*given.cu_q, "cu_seqlens_q"), inputs->there.cu_k = numbers_there(*given.cu_k, "cu_seqlens_k");
    return;
  }
  inputs->cu_q = bounds_of(*given.cu_q, "cu_seqlens_q", inputs->q.shape[2]);
  inputs->cu_k = bounds_of(*given.cu_k, "cu_seqlens_k", inputs->k.shape[2]);
  require(inputs->cu_q.size() == inputs->cu_k.size(), "cu_seqlens_k", "of length " + std::to_string(inputs->cu_k.size()),
          ("as long as cu_seqlens_q, " + std::to_string(inputs->cu_q.size())).c_str());
}

template <class Device>
void set_entries(const Given& given, AttentionInputs* inputs) {
  const auto numbers = [&](const Tensor& tensor, const char* name) {
    std::vector<index_t> of_entries = numbers_of(tensor, name);
    require(static_cast<index_t>(of_entries.size()) == inputs->q.shape[0], name, "of length " + std::to_string(of_entries.size()),
            ("a number for each of the " + std::to_string(inputs->q.shape[0]) + " entries of the batch").c_str());
    return of_entries;
  };
  if constexpr (!Device::kReadsNumbers) {
    if (given.key_lengths) inputs->there.key_lengths = numbers_there(*given.key_lengths, "key_lengths");
    if (!given.offsets) return;
    inputs->window.query_offset.reset();
    inputs->there.query_offsets = numbers_there(*given.offsets, "query_offset");
    return;
  }
  if (given.key_lengths) inputs->key_lengths = numbers(*given.key_lengths, "key_lengths");
  if (!given.offsets) return;
  inputs->window.query_offset.reset();
  inputs->query_offsets = numbers(*given.offsets, "query_offset");
}

// One number; of a part of a larger call the places of its sequences, queries (B, Lq) and keys (Lk) behind it.
template <class Device>
void set_dropout(const Given& given, AttentionInputs* inputs) {
  if (inputs->dropout_p == 0) return;
  require(given.seed && given.seed->scalar_type() == torch::headeronly::ScalarType::Long && given.seed->is_contiguous(), "seed", "missing",
          "a contiguous int64 tensor beside dropout");
  const index_t batch = inputs->q.shape[0], queries = batch * inputs->q.shape[2];
  const index_t sequences = given.cu_q ? given.cu_q->numel() - 1 : batch;
  const index_t with_places = 1 + sequences + queries + inputs->k.shape[2], numbers = given.seed->numel();
  require(numbers == 1 || numbers == with_places, "seed", "a tensor of " + std::to_string(numbers) + " numbers",
          ("one of 1, or of " + std::to_string(with_places) + " with all places").c_str());
  const auto* data = static_cast<const std::int64_t*>(given.seed->const_data_ptr());
  if constexpr (Device::kReadsNumbers)
    inputs->dropout_seed = static_cast<std::uint64_t>(*data);
  else
    inputs->there.dropout_seed = {data, true, 1, 1};
  if (numbers > 1) inputs->dropout_places = {data + 1, data + 1 + sequences, data + 1 + sequences + queries};
}

// An operator reads the memory of all of its tensors from one device.
void require_one_device(const Given& given) {
  const auto check_device = [&](const char* name, const Tensor& tensor) {
    if (tensor.device() != given.q.device()) require(false, name, "on another device", "on that of q");
  };
  check_device("k", given.k), check_device("v", given.v);
  for (const auto& [name, tensor] : {std::pair{"bias", &given.bias},
                                     {"sinks", &given.sinks},
                                     {"key_mask", &given.key_mask},
                                     {"global_tokens", &given.global_mask},
                                     {"cu_seqlens_q", &given.cu_q},
                                     {"cu_seqlens_k", &given.cu_k},
                                     {"seed", &given.seed},
                                     {"key_lengths", &given.key_lengths},
                                     {"query_offset", &given.offsets}})
    if (*tensor) check_device(name, **tensor);
}

template <class Device>
AttentionInputs inputs_of(const Given& given) {
  require_one_device(given);
  AttentionInputs inputs;
  inputs.q = view_of_rank(given.q, "q", kRank);
  inputs.k = view_of_rank(given.k, "k", kRank);
  inputs.v = view_of_rank(given.v, "v", kRank);
  set_band(given, &inputs);
  set_reals(given, &inputs);
  set_sequences<Device>(given, &inputs);
  set_entries<Device>(given, &inputs);
  set_dropout<Device>(given, &inputs);
  if (given.bias) inputs.bias = view_of(*given.bias, "bias");
  if (given.sinks) inputs.sinks = view_of_sinks(*given.sinks);
  const index_t batch = inputs.q.shape[0], num_keys = inputs.k.shape[2];
  if (given.key_mask) inputs.key_mask = view_of_mask(*given.key_mask, "key_mask", batch, num_keys);
  if (given.global_mask) inputs.global_mask = view_of_mask(*given.global_mask, "global_mask", batch, num_keys);
  return inputs;
}

bool has_form(const Given& given, std::int64_t which) { return (given.band[form] & which) != 0; }

template <class Device>
RunOptions options_for(const Device& device, const Given& given, const AttentionInputs& inputs) {
  const Window& window = inputs.window;
  const double width = static_cast<double>(window.left) + static_cast<double>(window.right) + 1;
  const double seen = std::min(width + static_cast<double>(inputs.global_tokens), static_cast<double>(inputs.k.shape[2]));
  double work = seen * static_cast<double>(inputs.q.shape[3] + inputs.v.shape[3]);
  for (int dim = 0; dim < 3; ++dim) work *= static_cast<double>(inputs.q.shape[dim]);
  RunOptions options = device.options(work);
  options.precision = has_form(given, high_precision) ? Precision::high : Precision::highest;
  return options;
}

// ---- results ---------------------------------------------------------------------------------------------------------------------

const int* order_of(const Given& given) { return has_form(given, heads_inside) ? kHeadsInside : nullptr; }

// A gradient shaped as `like`; without elements where it is not wanted.
Tensor gradient(const Given& given, const TensorView& like, bool wanted, const int* order, TensorView* view) {
  if (wanted) {
    *view = like;
    return allocate(given.q, view, order);
  }
  TensorView nothing{nullptr, dtype_of(given.q, "q"), 1};
  return allocate(given.q, &nothing);
}

// ---- the operators ---------------------------------------------------------------------------------------------------------------

template <class Device>
std::tuple<Tensor, Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, const MaybeTensor& bias, const MaybeTensor& sinks,
                                     const MaybeTensor& key_mask, const MaybeTensor& global_mask, const MaybeTensor& cu_q,
                                     const MaybeTensor& cu_k, const MaybeTensor& seed, const MaybeTensor& key_lengths,
                                     const MaybeTensor& offsets, const Numbers& band, std::int64_t shift, std::int64_t global_tokens,
                                     const Reals& reals) {
  const Given given{q, k, v, bias, sinks, key_mask, global_mask, cu_q, cu_k, seed, key_lengths, offsets, band, shift, global_tokens, reals};
  const Device device(q);
  const AttentionInputs inputs = inputs_of<Device>(given);
  TensorView out_view = inputs.q, lse_view = inputs.q;
  out_view.shape[3] = inputs.v.shape[3];
  const DType sums = inputs.q.dtype == DType::f64 ? DType::f64 : DType::f32;
  if (has_form(given, wide_out)) out_view.dtype = sums;
  lse_view.rank = has_form(given, split_lse) ? 4 : 3, lse_view.shape[3] = 2, lse_view.dtype = sums;
  Tensor out = allocate(q, &out_view, order_of(given)), lse = allocate(q, &lse_view);
  check(window_attention(inputs, out_view, lse_view, options_for(device, given, inputs)));
  return {std::move(out), std::move(lse)};
}

void differentiate(const AttentionInputs& inputs, const Tensor& d_out, const MaybeTensor& d_lse, const Tensor& out, const Tensor& lse,
                   const AttentionGradients& to, const RunOptions& options) {
  const TensorView d_lse_view = d_lse ? view_of_rank(*d_lse, "d_lse", 3) : TensorView{};
  check(window_attention_backward(inputs, view_of_rank(out, "out", kRank), view_of_rank(lse, "lse", 3), view_of_rank(d_out, "d_out", kRank),
                                  d_lse_view, to, options));
}

// Bit n of `wanted` asks for the n-th result.
template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& d_out, const MaybeTensor& d_lse, const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
    const MaybeTensor& bias, const MaybeTensor& sinks, const MaybeTensor& key_mask, const MaybeTensor& global_mask, const MaybeTensor& cu_q,
    const MaybeTensor& cu_k, const MaybeTensor& seed, const MaybeTensor& key_lengths, const MaybeTensor& offsets, const Numbers& band,
    std::int64_t shift, std::int64_t global_tokens, const Reals& reals, std::int64_t wanted) {
  const Given given{q, k, v, bias, sinks, key_mask, global_mask, cu_q, cu_k, seed, key_lengths, offsets, band, shift, global_tokens, reals};
  const Device device(q);
  const AttentionInputs inputs = inputs_of<Device>(given);
  const auto wants = [&](int result) { return (wanted >> result & 1) != 0; };
  require(!wants(3) || bias, "wanted", std::to_string(wanted), "without bit 3 where there is no bias");
  require(!wants(4) || sinks, "wanted", std::to_string(wanted), "without bit 4 where there are no sinks");
  AttentionGradients views;
  Tensor d_q = gradient(given, inputs.q, wants(0), order_of(given), &views.d_q);
  Tensor d_k = gradient(given, inputs.k, wants(1), order_of(given), &views.d_k);
  Tensor d_v = gradient(given, inputs.v, wants(2), order_of(given), &views.d_v);
  Tensor d_bias = gradient(given, inputs.bias, wants(3), nullptr, &views.d_bias);
  Tensor d_sinks = gradient(given, inputs.sinks, wants(4), nullptr, &views.d_sinks);
  differentiate(inputs, d_out, d_lse, out, lse, views, options_for(device, given, inputs));
  return {std::move(d_q), std::move(d_k), std::move(d_v), std::move(d_bias), std::move(d_sinks)};
}

template <class Device, class Library>
void implement_attention(Library& library) {
  library.impl("attention", TORCH_BOX(&attention<Device>));
  library.impl("attention_backward", TORCH_BOX(&attention_backward<Device>));
  library.impl("_attention", TORCH_BOX(&attention<Device>));
  library.impl("_attention_backward", TORCH_BOX(&attention_backward<Device>));
}

}  // namespace
}  // namespace window_matmul::binding
