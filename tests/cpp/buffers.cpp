// tests/cpp/buffers.cpp: tensors of any layout in memory whose every other byte is watched.
#include "buffers.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <type_traits>

namespace window_matmul::testing_tools {

namespace {

constexpr std::size_t kGuard = 256;  // a multiple of every vector's size: `offset` alone decides the alignment

using Memory = std::shared_ptr<std::byte>;

Memory plain_memory(std::size_t bytes, std::align_val_t alignment) {
  return {static_cast<std::byte*>(::operator new(bytes, alignment)), [=](std::byte* p) { ::operator delete(p, alignment); }};
}

// Beside a page that faults when touched.
Memory fenced_memory(std::size_t bytes, Around side) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t usable = (bytes + page - 1) / page * page, all = usable + page;
  void* begin = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (begin == MAP_FAILED) throw std::bad_alloc();
  auto* first = static_cast<std::byte*>(begin);
  std::byte* fence = side == Around::fence_before ? first : first + usable;
  if (mprotect(fence, page, PROT_NONE) != 0) throw std::bad_alloc();
  std::byte* start = side == Around::fence_before ? first + page : first + usable - bytes;
  return {start, [=](std::byte*) { munmap(begin, all); }};
}

}  // namespace

index_t volume(const Shape& shape) {
  index_t product = 1;
  for (const index_t extent : shape) product *= extent;
  return product;
}

std::string text(const Shape& shape) {
  std::string out = "(";
  for (const index_t extent : shape) out += (out.size() > 1 ? ", " : "") + std::to_string(extent);
  return out + ")";
}

std::string text(const Layout& l) {
  std::string out;
  if (l.turned) out += " turned";
  if (l.heads_inside) out += " heads-inside";
  if (l.backwards) out += " backwards";
  if (l.repeated) out += " repeated";
  if (l.step > 1) out += " step-" + std::to_string(l.step);
  if (l.gap > 0) out += " gap-" + std::to_string(l.gap);
  if (l.offset > 0) out += " offset-" + std::to_string(l.offset);
  return out.empty() ? "dense" : out.substr(1);
}

Tensor::Tensor(DType dtype, Shape shape, Role role, const Layout& layout, Around around)
    : dtype_(dtype), shape_(std::move(shape)), role_(role) {
  set_strides(layout);
  set_offsets();
  const std::size_t element = size_of(dtype_), extent = static_cast<std::size_t>(highest_ - lowest_) * element;
  lead_ = around == Around::fence_before ? 0 : kGuard + static_cast<std::size_t>(layout.offset) * element;
  bytes_ = lead_ + extent + (around == Around::fence_after ? 0 : kGuard);
  memory_ = around == Around::canaries ? plain_memory(bytes_, std::align_val_t{kGuard}) : fenced_memory(bytes_, around);
  // Around inputs lie NaNs of every dtype, so that a stray read shows in the result; around outputs lies what no kernel writes.
  std::memset(memory_.get(), role_ == Role::input ? 0xFF : 0xA5, bytes_);
  if (role_ == Role::output) blank();
  watch();
}

// f(place, dtype): the elements in row-major order, their dtype known to the compiler.
template <class F>
void Tensor::for_each_place(F f) const {
  const auto as = [&]<DType D>(std::integral_constant<DType, D> dtype) {
    std::byte* const lowest = memory_.get() + lead_;
    for (const index_t offset : offsets_) f(lowest + static_cast<std::size_t>(offset - lowest_) * size_of(D), dtype);
  };
  switch (dtype_) {
    case DType::f64:
      return as(std::integral_constant<DType, DType::f64>{});
    case DType::f32:
      return as(std::integral_constant<DType, DType::f32>{});
    case DType::bf16:
      return as(std::integral_constant<DType, DType::bf16>{});
    case DType::f16:
      return as(std::integral_constant<DType, DType::f16>{});
  }
}

void Tensor::set_bits(index_t i, const void* bits) { std::memcpy(at(i), bits, size_of(dtype_)); }

std::vector<double> Tensor::values() const {
  std::vector<double> all(offsets_.size());
  double* to = all.data();
  for_each_place([&](const std::byte* place, auto dtype) { *to++ = load(dtype, place); });
  return all;
}

std::vector<std::byte> Tensor::bits() const {
  std::vector<std::byte> all(offsets_.size() * size_of(dtype_));
  std::byte* to = all.data();
  for_each_place([&](const std::byte* place, auto dtype) { std::memcpy(to, place, size_of(dtype)), to += size_of(dtype); });
  return all;
}

void Tensor::blank() {
  for_each_place([](std::byte* place, auto dtype) { std::memset(place, 0xFF, size_of(dtype)); });
}

TensorView Tensor::view() const {
  TensorView view{memory_.get() + lead_ + byte_of(-lowest_), dtype_, static_cast<int>(shape_.size())};
  std::copy(shape_.begin(), shape_.end(), view.shape);
  std::copy(strides_.begin(), strides_.end(), view.stride);
  return view;
}

void Tensor::watch() {
  before_.resize(bytes_);
  std::memcpy(before_.data(), memory_.get(), bytes_);  // AddressSanitizer's memmove, which `assign` calls, goes byte by byte
}

std::string Tensor::damage() {
  if (role_ == Role::output)
    for_each_place(
        [&](const std::byte* place, auto dtype) { std::memcpy(before_.data() + (place - memory_.get()), place, size_of(dtype)); });
  if (std::memcmp(before_.data(), memory_.get(), bytes_) == 0) return "";
  const auto byte = static_cast<std::size_t>(std::mismatch(before_.begin(), before_.end(), memory_.get()).first - before_.begin());
  return describe(byte);
}

void Tensor::set_strides(const Layout& layout) {
  const std::size_t rank = shape_.size();
  std::vector<std::size_t> order(rank);  // the dims from the outermost in memory to the innermost
  for (std::size_t d = 0; d < rank; ++d) order[d] = d;
  if (layout.turned && rank >= 2) std::swap(order[rank - 2], order[rank - 1]);
  if (layout.heads_inside && rank >= 3) std::swap(order[rank - 3], order[rank - 2]);
  strides_.assign(rank, 0);
  index_t step = layout.step;
  for (std::size_t n = rank; n-- > 0;) {
    strides_[order[n]] = step;
    step = step * std::max<index_t>(shape_[order[n]], 1) + (n + 1 == rank ? layout.gap : 0);
  }
  if (layout.repeated && rank >= 2) strides_[rank - 2] = 0;
  for (std::size_t d = rank - std::min<std::size_t>(rank, 2); layout.backwards && d < rank; ++d) strides_[d] = -strides_[d];
}

void Tensor::set_offsets() {
  if (volume(shape_) == 0) return;
  offsets_ = {0};
  for (std::size_t d = 0; d < shape_.size(); ++d) {
    std::vector<index_t> longer;
    longer.reserve(offsets_.size() * static_cast<std::size_t>(shape_[d]));
    for (const index_t offset : offsets_) {
      for (index_t n = 0; n < shape_[d]; ++n) longer.push_back(offset + n * strides_[d]);
    }
    offsets_ = std::move(longer);
  }
  lowest_ = 0, highest_ = 1;
  for (std::size_t d = 0; d < shape_.size(); ++d) (strides_[d] < 0 ? lowest_ : highest_) += (shape_[d] - 1) * strides_[d];
}

std::string Tensor::describe(std::size_t byte) const {
  const std::string whose = role_ == Role::input ? "an input " : "an output ";
  const std::string name = whose + text(shape_) + " of " + name_of(dtype_) + " was written to: ";
  const std::size_t end = lead_ + byte_of(highest_ - lowest_);
  if (byte < lead_) return name + std::to_string(lead_ - byte) + " bytes before its first byte";
  if (byte >= end) return name + "byte " + std::to_string(byte - end) + " after its last byte";
  return name + "byte " + std::to_string(byte - lead_) + " from its lowest address, " + (role_ == Role::input ? "inside" : "in a gap");
}

}  // namespace window_matmul::testing_tools
