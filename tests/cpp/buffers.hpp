// tests/cpp/buffers.hpp: tensors of any layout in memory whose every other byte is watched.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "elements.hpp"
#include "window_matmul/tensor.hpp"

namespace window_matmul::testing_tools {

using Shape = std::vector<index_t>;

index_t volume(const Shape&);
std::string text(const Shape&);

// How a tensor lies in memory. The default is dense and row-major.
struct Layout {
  bool turned = false;        // the last two dims swapped: a view of the transposed tensor
  bool heads_inside = false;  // dims -3 and -2 swapped: (..., L, H, N) seen as (..., H, L, N)
  bool backwards = false;     // negative strides in the last two dims
  bool repeated = false;      // stride 0 in dim -2: inputs only
  index_t step = 1;           // stride of the innermost dim
  index_t gap = 0;            // elements left out after each innermost run
  index_t offset = 0;         // elements from an aligned address to the first one in memory
};

std::string text(const Layout&);

enum class Role { input, output };

// What lies around a tensor: bytes that are compared afterwards, or on one side nothing at all.
enum class Around { canaries, fence_before, fence_after };

class Tensor {
 public:
  Tensor(DType dtype, Shape shape, Role role, const Layout& layout = {}, Around around = Around::canaries);

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  index_t size() const { return static_cast<index_t>(offsets_.size()); }

  // Elements by their place in row-major order.
  double operator[](index_t i) const { return load(dtype_, at(i)); }
  void set(index_t i, double value) { store(dtype_, value, at(i)); }
  void set_bits(index_t i, const void* bits);
  std::vector<double> values() const;
  std::vector<std::byte> bits() const;

  void blank();  // NaN in every element
  TensorView view() const;

  void watch();          // from here on nothing may change but the elements of an output
  std::string damage();  // "" or the first byte that changed though it must not

 private:
  void set_strides(const Layout& layout);
  void set_offsets();
  template <class F>
  void for_each_place(F f) const;
  std::size_t byte_of(index_t offset) const { return static_cast<std::size_t>(offset) * size_of(dtype_); }
  std::byte* at(index_t i) const { return memory_.get() + lead_ + byte_of(offsets_[static_cast<std::size_t>(i)] - lowest_); }
  std::string describe(std::size_t byte) const;

  DType dtype_;
  Shape shape_, strides_;
  Role role_;
  std::vector<index_t> offsets_;         // of each element from element (0, ..., 0), in elements
  index_t lowest_ = 0, highest_ = 0;     // of the offsets; half-open
  std::size_t lead_ = 0, bytes_ = 0;     // watched bytes before the lowest element; bytes in all
  std::shared_ptr<std::byte> memory_;
  std::vector<std::byte> before_;
};

}  // namespace window_matmul::testing_tools
