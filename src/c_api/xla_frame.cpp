// src/c_api/xla_frame.cpp: reads a call by XLA, and checks that it is one that is understood.
#include "xla_frame.hpp"

#include <algorithm>

namespace window_matmul::c_api::xla {
namespace {

std::string quoted(std::string_view name) { return "'" + std::string(name) + "'"; }

// Structs that lie in another have exactly this size, or what follows lies elsewhere; others may have grown.
void check_size(const char* name, std::size_t size, std::size_t need, bool may_be_more) {
  if (size < need || (size > need && !may_be_more))
    throw Refusal{"XLA's " + std::string(name) + " has " + std::to_string(size) + " bytes; it needs to have " + std::to_string(need) +
                  ": this XLA is of another age than this window_matmul"};
}

int dtype_of(int dtype) {
  switch (dtype) {
    case kF64:
      return WM_FLOAT64;
    case kF32:
      return WM_FLOAT32;
    case kBF16:
      return WM_BFLOAT16;
    case kF16:
      return WM_FLOAT16;
    case kS32:
      return WM_INT32;
    case kS64:
      return WM_INT64;
    case kPred:
      return WM_BOOL;
    default:
      throw Refusal{"a buffer is of XLA's dtype " + std::to_string(dtype) + ", which no argument has"};
  }
}

wm_tensor tensor_of(const Buffer& buffer, std::string_view name) {
  check_size("buffer", buffer.size, sizeof buffer, true);
  if (buffer.rank < 0 || buffer.rank > WM_MAX_DIMS)
    throw Refusal{std::string(name) + " has " + std::to_string(buffer.rank) + " dims; it needs at most " + std::to_string(WM_MAX_DIMS)};
  return wm_contiguous(buffer.data, dtype_of(buffer.dtype), static_cast<std::int32_t>(buffer.rank), buffer.dims);
}

// Before anything else is read.
const CallFrame& checked(const CallFrame& frame) {
  check_size("call frame", frame.size, offsetof(CallFrame, attributes) + sizeof frame.attributes, true);
  const Version& version = frame.api->version;
  if (version.major_version != kMajorVersion || version.minor_version < kMinorVersion)
    throw Refusal{"the version of XLA's FFI is " + std::to_string(version.major_version) + "." + std::to_string(version.minor_version) +
                  "; it needs to be 0.1 or a later 0"};
  if (frame.stage != kExecute) throw Refusal{"the stage of XLA's call is " + std::to_string(frame.stage) + "; it needs to be 3, execution"};
  check_size("arguments", frame.arguments.size, sizeof frame.arguments, false);
  check_size("results", frame.results.size, sizeof frame.results, false);
  check_size("attributes", frame.attributes.size, sizeof frame.attributes, false);
  return frame;
}

}  // namespace

Frame::Frame(const CallFrame& frame) : attributes_(checked(frame).attributes) {
  add(frame.arguments, text("operands"));
  add(frame.results, text("results"));
}

void Frame::add(const Buffers& buffers, std::string_view names) {
  for (index_t n = 0; n < buffers.count; ++n) {
    const std::string_view name = names.substr(0, names.find(' '));
    names.remove_prefix(std::min(names.size(), name.size() + 1));
    if (name.empty() || buffers.kinds[n] != kDenseBuffer) throw Refusal{"XLA's buffer " + std::to_string(n) + " has no name, or is none"};
    const wm_tensor tensor = tensor_of(*static_cast<const Buffer*>(buffers.buffers[n]), name);
    operands_.push_back({name, tensor, tensor});
  }
  if (!names.empty()) throw Refusal{"XLA has no buffer for " + quoted(names)};
}

const wm_tensor* Frame::operator()(std::string_view name) const {
  const auto found = std::find_if(operands_.begin(), operands_.end(), [&](const Operand& operand) { return operand.name == name; });
  return found == operands_.end() ? nullptr : &found->entry;
}

// Null where there is none of that name.
const void* Frame::attribute(std::string_view name, int kind) const {
  for (index_t n = 0; n < attributes_.count; ++n) {
    if (std::string_view(attributes_.names[n]->data, attributes_.names[n]->size) != name) continue;
    if (attributes_.kinds[n] != kind) throw Refusal{"the attribute " + quoted(name) + " is of another kind"};
    return attributes_.values[n];
  }
  return nullptr;
}

const double* Frame::real_if_given(std::string_view name) const {
  const auto* scalar = static_cast<const Scalar*>(attribute(name, kScalar));
  if (scalar == nullptr) return nullptr;
  if (scalar->dtype != kF64) throw Refusal{"the attribute " + quoted(name) + " needs to be a float64"};
  return static_cast<const double*>(scalar->value);
}

double Frame::real(std::string_view name) const {
  const double* number = real_if_given(name);
  if (number == nullptr) throw Refusal{"the attribute " + quoted(name) + " is missing"};
  return *number;
}

std::int64_t Frame::integer(std::string_view name) const {
  const auto* scalar = static_cast<const Scalar*>(attribute(name, kScalar));
  if (scalar == nullptr || scalar->dtype != kS64) throw Refusal{"the attribute " + quoted(name) + " needs to be an int64"};
  return *static_cast<const std::int64_t*>(scalar->value);
}

std::span<const std::int64_t> Frame::integers(std::string_view name) const {
  const auto* array = static_cast<const Array*>(attribute(name, kArray));
  if (array == nullptr || array->dtype != kS64) throw Refusal{"the attribute " + quoted(name) + " needs to be an array of int64"};
  return {static_cast<const std::int64_t*>(array->data), array->count};
}

std::string_view Frame::text(std::string_view name) const {
  const auto* text = static_cast<const Text*>(attribute(name, kText));
  if (text == nullptr) throw Refusal{"the attribute " + quoted(name) + " needs to be a text"};
  return {text->data, text->size};
}

index_t Frame::num_entries(int vmapped_dims) {
  sizes_.assign(static_cast<std::size_t>(vmapped_dims), 1);
  index_t entries = 1;
  for (int dim = 0; dim < vmapped_dims; ++dim) {
    index_t& size = sizes_[static_cast<std::size_t>(dim)];
    for (const auto& [name, whole, _] : operands_) {
      const index_t its = dim < whole.ndim ? whole.shape[dim] : -1;
      if (its < 0 || (its != 1 && size != 1 && its != size)) throw Refusal{std::string(name) + " has not the dims that vmap maps"};
      if (its != 1) size = its;
    }
    entries *= size;
  }
  for (auto& [name, whole, entry] : operands_) {
    entry.ndim = whole.ndim - vmapped_dims;
    std::copy(whole.shape + vmapped_dims, whole.shape + whole.ndim, entry.shape);
    std::copy(whole.strides + vmapped_dims, whole.strides + whole.ndim, entry.strides);
  }
  return entries;
}

void Frame::turn_to(index_t entry) {
  for (auto& [name, whole, part] : operands_) {
    index_t rest = entry, offset = 0;
    for (std::size_t dim = sizes_.size(); dim-- > 0; rest /= sizes_[dim])
      if (whole.shape[dim] != 1) offset += rest % sizes_[dim] * whole.strides[dim];
    if (whole.data != nullptr) part.data = static_cast<char*>(whole.data) + offset * static_cast<index_t>(element_bytes(whole.dtype));
  }
}

}  // namespace window_matmul::c_api::xla
