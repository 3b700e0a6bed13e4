// src/cuda/primitives/primitives.hpp: everything a kernel may ask of the machine; two implementations, one for GPUs and one for any CPU.
//
// What each word means is written here once. ptx.cuh says it in PTX for nvcc; emulated.hpp says it in C++ for a block whose threads are
// fibers (../emulation). Kernels know neither: they include this file, index no pointer, and are compiled by both compilers as they stand.
//
//   thread_index() block_index() grid_size()         one-dimensional
//   sync_threads()                                   barrier of the block
//   sync_named<Id>(threads)                          barrier of `threads` threads, whole warps; Id 1..15
//   sync_warp()                                      barrier of a warp, and the memory order that goes with it
//   shuffle(v, lane) shuffle_xor(v, mask)            float, double, uint32_t
//   load_global<T>(address) store_global(address, v) T of 2, 4, 8 or 16 bytes, aligned to its size
//   load_byte(address)                               one byte
//   load_shared<T>(offset)  store_shared(offset, v)  likewise; shared memory is addressed by 32-bit offsets
//   copy_async<N>(shared, global, valid)             N = 4, 8 or 16 bytes, aligned; the bytes from `valid` on become zero, and are not read
//   commit_copies() wait_copies<N>()                 copies since the last commit become a group; all groups but the newest N have landed
//                                                    for this thread: others need a barrier besides
//   load_matrices(r, offset)                         ldmatrix.x4: four 8 x 8 matrices of 16-bit elements; lane l names row l % 8 of matrix
//                                                    l / 8
//   load_matrices_transposed(r, offset)              the same, each matrix transposed
//   store_matrices(offset, r)                        stmatrix.x4, the inverse of load_matrices; sm_90 and newer
//   mma(sums, a, b, E{})                             16 x 8 += (16 x 16) (16 x 8), E = bf16 or f16, float sums
//   mma_tf32(sums, a, b)                             16 x 8 += (16 x 8) (8 x 8), factors cut to 10 bits of fraction
//   mma_f64(sums, a, b)                              8 x 8 += (8 x 4) (4 x 8)
//   pack<E>(low, high)  unpack<E>(packed, which)     two floats rounded to E in one register; one of them as a float (0: low, 1: high)
//   fused_multiply_add(a, b, c)  exponential(x)      float and double
//   is_finite(x) power_of_two(x) logarithm(x)        likewise; 2^x in fp32 to 2 units in the last place, subnormal results may be 0
//   hyperbolic_tangent(x) maximum(a, b)              likewise; of a number and a NaN the number
//   forget(x)                                        does nothing; what was made of x is made again rather than kept: Bytes16, int, index_t
//
// TMA, mbarrier and wgmma, when they come, are files of their own beside these two: ptx_sm90.cuh and emulated_sm90.hpp.
#pragma once

#include <cstdint>

#include "half.hpp"
#include "window_matmul/band.hpp"

namespace window_matmul::cuda {

struct alignas(16) Bytes16 {
  std::uint32_t word[4];
};

inline constexpr int kWarp = 32;

}  // namespace window_matmul::cuda

#if defined(__CUDACC__)
#include "cuda/primitives/ptx.cuh"
#else
#include "cuda/primitives/emulated.hpp"
#endif
