// src/cuda/kernels/store_run.cuh: a run of neighbouring sums, rounded and stored in vectors as wide as their alignment allows.
#pragma once

#include "cuda/kernels/tile_load.cuh"

namespace window_matmul::cuda {

template <class E, int Count, class Sum>
struct alignas(Count * sizeof(E)) Rounded {
  E e[Count];

  WINDOW_MATMUL_DEVICE explicit Rounded(const Sum (&sums)[Count]) {
    if constexpr (sizeof(E) == 2) {
      WINDOW_MATMUL_UNROLL
      for (int i = 0; i < Count; i += 2) {
        const std::uint32_t two = pack<E>(sums[i], sums[i + 1]);
        __builtin_memcpy(e + i, &two, 4);
      }
    } else {
      WINDOW_MATMUL_UNROLL
      for (int i = 0; i < Count; ++i) e[i] = sums[i];
    }
  }
  template <class Vector>
  WINDOW_MATMUL_DEVICE void store_as(std::uintptr_t address) const {
    constexpr int kVectors = static_cast<int>(Count * sizeof(E)) / static_cast<int>(sizeof(Vector));
    Vector vectors[kVectors];
    __builtin_memcpy(vectors, e, sizeof e);
    WINDOW_MATMUL_UNROLL
    for (int i = 0; i < kVectors; ++i) store_global(address + static_cast<std::uintptr_t>(i) * sizeof(Vector), vectors[i]);
  }
};

// Stores elements `seen` (from 0) of a run that begins at `address`. `alignment`: that of the address, whatever the row.
template <class E, int Count, class Sum>
WINDOW_MATMUL_DEVICE void store_run(std::uintptr_t address, index_t stride, std::uintptr_t alignment, Range seen,
                                    const Sum (&sums)[Count]) {
  const Rounded<E, Count, Sum> run(sums);
  constexpr std::uintptr_t kBytes = Count * sizeof(E);
  if (stride == 1 && seen.size() == Count && alignment > sizeof(E)) {
    if constexpr (kBytes == 16)
      if (alignment == 16) return run.template store_as<Bytes16>(address);
    if constexpr (kBytes >= 8)
      if (alignment >= 8) return run.template store_as<std::uint64_t>(address);
    if constexpr (sizeof(E) == 2) return run.template store_as<std::uint32_t>(address);
  }
  WINDOW_MATMUL_UNROLL
  for (int i = 0; i < Count; ++i)
    if (seen.contains(i))
      store_global(address + static_cast<std::uintptr_t>(i) * static_cast<std::uintptr_t>(stride) * sizeof(E), run.e[i]);
}

}  // namespace window_matmul::cuda
