// src/cuda/kernels/store_run.cuh: 16 bytes of neighbouring sums, rounded and stored in vectors as wide as their alignment allows.
#pragma once

#include "cuda/kernels/tile_load.cuh"

namespace window_matmul::cuda {

template <class E>
struct alignas(16) Rounded {  // 16 bytes
  static constexpr int kCount = 16 / sizeof(E);
  E e[kCount];

  template <class Sum>
  WINDOW_MATMUL_DEVICE explicit Rounded(const Sum (&sums)[kCount]) {
    if constexpr (sizeof(E) == 2) {
      WINDOW_MATMUL_UNROLL
      for (int i = 0; i < kCount; i += 2) {
        const std::uint32_t two = pack<E>(sums[i], sums[i + 1]);
        __builtin_memcpy(e + i, &two, 4);
      }
    } else {
      __builtin_memcpy(e, sums, 16);
    }
  }
  template <class Vector>
  WINDOW_MATMUL_DEVICE void store_as(std::uintptr_t address) const {
    constexpr std::uintptr_t kVectors = 16 / sizeof(Vector);
    Vector vectors[kVectors];
    __builtin_memcpy(vectors, e, 16);
    WINDOW_MATMUL_UNROLL
    for (std::uintptr_t i = 0; i < kVectors; ++i) store_global(address + i * sizeof(Vector), vectors[i]);
  }
};

template <class Sum, int Count>
WINDOW_MATMUL_DEVICE bool all_finite(const Sum (&sums)[Count]) {
  bool finite = true;
  WINDOW_MATMUL_UNROLL
  for (int i = 0; i < Count; ++i) finite = finite && is_finite(sums[i]);
  return finite;
}

template <class E, class Sum>
WINDOW_MATMUL_DEVICE E rounded(Sum sum) {
  if constexpr (sizeof(E) == sizeof(Sum))
    return E{sum};
  else
    return narrow<E>(sum);
}

// One sum in plain multiply-adds, over what exists and nothing else: sum of x(row, d) y(column, d).
template <class E>
WINDOW_MATMUL_DEVICE E sum_again(const Operand& x, const Operand& y, index_t row, index_t column, Range depths) {
  decltype(widen(E{})) sum = 0;
  WINDOW_MATMUL_NO_UNROLL
  for (index_t d = depths.begin; d < depths.end; ++d)
    sum = fused_multiply_add(widen(load_global<E>(address_of(x, row, d, sizeof(E)))),
                             widen(load_global<E>(address_of(y, column, d, sizeof(E)))), sum);
  return rounded<E>(sum);
}

// Stores elements `seen` (from 0) of a run that begins at `address`. `alignment`: that of the address, whatever the row.
template <class E>
WINDOW_MATMUL_DEVICE void store_run(std::uintptr_t address, index_t stride, std::uintptr_t alignment, Range seen, const Rounded<E>& run) {
  if (stride == 1 && seen.size() == Rounded<E>::kCount && alignment > sizeof(E)) {
    if (alignment == 16) return run.template store_as<Bytes16>(address);
    if (alignment == 8) return run.template store_as<std::uint64_t>(address);
    return run.template store_as<std::uint32_t>(address);
  }
  const std::uintptr_t step = std::uintptr_t(stride) * sizeof(E);
  WINDOW_MATMUL_UNROLL
  for (int i = 0; i < Rounded<E>::kCount; ++i, address += step)
    if (seen.contains(i)) store_global(address, run.e[i]);
}

}  // namespace window_matmul::cuda
