// src/cuda/primitives/ptx.cuh: the primitives on a GPU: one instruction each.
#pragma once

#define WINDOW_MATMUL_DEVICE __device__ __forceinline__
#define WINDOW_MATMUL_UNROLL _Pragma("unroll")
#define WINDOW_MATMUL_NO_UNROLL _Pragma("unroll 1")

namespace window_matmul::cuda::inline gpu {

WINDOW_MATMUL_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
WINDOW_MATMUL_DEVICE index_t block_index() { return blockIdx.x; }
WINDOW_MATMUL_DEVICE index_t grid_size() { return gridDim.x; }

// ---- barriers and shuffles ----------------------------------------------------------------------------------------------------------

WINDOW_MATMUL_DEVICE void sync_threads() { __syncthreads(); }
template <int Id>
WINDOW_MATMUL_DEVICE void sync_named(int threads) {
  asm volatile("bar.sync %0, %1;" ::"n"(Id), "r"(threads) : "memory");
}
WINDOW_MATMUL_DEVICE void sync_warp() { __syncwarp(); }
template <class T>
WINDOW_MATMUL_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
template <class T>
WINDOW_MATMUL_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// ---- memory -------------------------------------------------------------------------------------------------------------------------

template <class T>
WINDOW_MATMUL_DEVICE T load_global(std::uintptr_t address) {
  T value;
  if constexpr (sizeof(T) == 2) {
    std::uint16_t bits;
    asm volatile("ld.global.u16 %0, [%1];" : "=h"(bits) : "l"(address));
    __builtin_memcpy(&value, &bits, 2);
  } else if constexpr (sizeof(T) == 4) {
    std::uint32_t bits;
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(bits) : "l"(address));
    __builtin_memcpy(&value, &bits, 4);
  } else if constexpr (sizeof(T) == 8) {
    std::uint64_t bits;
    asm volatile("ld.global.u64 %0, [%1];" : "=l"(bits) : "l"(address));
    __builtin_memcpy(&value, &bits, 8);
  } else {
    static_assert(sizeof(T) == 16);
    Bytes16 b;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b.word[0]), "=r"(b.word[1]), "=r"(b.word[2]), "=r"(b.word[3])
                 : "l"(address));
    __builtin_memcpy(&value, &b, 16);
  }
  return value;
}

WINDOW_MATMUL_DEVICE std::uint8_t load_byte(std::uintptr_t address) {
  std::uint32_t byte;
  asm volatile("ld.global.u8 %0, [%1];" : "=r"(byte) : "l"(address));
  return static_cast<std::uint8_t>(byte);
}
template <class T>
WINDOW_MATMUL_DEVICE void store_global(std::uintptr_t address, T value) {
  if constexpr (sizeof(T) == 2) {
    std::uint16_t bits;
    __builtin_memcpy(&bits, &value, 2);
    asm volatile("st.global.u16 [%0], %1;" ::"l"(address), "h"(bits) : "memory");
  } else if constexpr (sizeof(T) == 4) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    asm volatile("st.global.u32 [%0], %1;" ::"l"(address), "r"(bits) : "memory");
  } else if constexpr (sizeof(T) == 8) {
    std::uint64_t bits;
    __builtin_memcpy(&bits, &value, 8);
    asm volatile("st.global.u64 [%0], %1;" ::"l"(address), "l"(bits) : "memory");
  } else {
    static_assert(sizeof(T) == 16);
    Bytes16 b;
    __builtin_memcpy(&b, &value, 16);
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(b.word[0]), "r"(b.word[1]), "r"(b.word[2]), "r"(b.word[3])
                 : "memory");
  }
}

extern __shared__ Bytes16 shared_memory[];

// Offset 0 is the start of the block's dynamic shared memory.
WINDOW_MATMUL_DEVICE std::uint32_t shared_address(std::uint32_t offset) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared_memory)) + offset;
}

template <class T>
WINDOW_MATMUL_DEVICE T load_shared(std::uint32_t offset) {
  T value;
  if constexpr (sizeof(T) == 2) {
    std::uint16_t bits;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(bits) : "r"(shared_address(offset)));
    __builtin_memcpy(&value, &bits, 2);
  } else if constexpr (sizeof(T) == 4) {
    std::uint32_t bits;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(bits) : "r"(shared_address(offset)));
    __builtin_memcpy(&value, &bits, 4);
  } else if constexpr (sizeof(T) == 8) {
    std::uint64_t bits;
    asm volatile("ld.shared.u64 %0, [%1];" : "=l"(bits) : "r"(shared_address(offset)));
    __builtin_memcpy(&value, &bits, 8);
  } else {
    static_assert(sizeof(T) == 16);
    Bytes16 b;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b.word[0]), "=r"(b.word[1]), "=r"(b.word[2]), "=r"(b.word[3])
                 : "r"(shared_address(offset)));
    __builtin_memcpy(&value, &b, 16);
  }
  return value;
}

WINDOW_MATMUL_DEVICE void store_shared(std::uint32_t offset, Bytes16 b) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(offset)), "r"(b.word[0]), "r"(b.word[1]), "r"(b.word[2]),
               "r"(b.word[3])
               : "memory");
}
WINDOW_MATMUL_DEVICE void store_shared(std::uint32_t offset, std::uint32_t value) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(shared_address(offset)), "r"(value) : "memory");
}
WINDOW_MATMUL_DEVICE void store_shared(std::uint32_t offset, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(shared_address(offset)), "f"(value) : "memory");
}
WINDOW_MATMUL_DEVICE void store_shared(std::uint32_t offset, double value) {
  asm volatile("st.shared.f64 [%0], %1;" ::"r"(shared_address(offset)), "d"(value) : "memory");
}

template <int Bytes>
WINDOW_MATMUL_DEVICE void copy_async(std::uint32_t shared, std::uintptr_t global, int valid) {
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid), "n"(Bytes)
                 : "memory");
}
WINDOW_MATMUL_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Newest>
WINDOW_MATMUL_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Newest) : "memory");
}

// ---- matrices -----------------------------------------------------------------------------------------------------------------------

using Fragment = std::uint32_t[4];

WINDOW_MATMUL_DEVICE void load_matrices(Fragment& r, std::uint32_t offset) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(offset))
               : "memory");
}
WINDOW_MATMUL_DEVICE void load_matrices_transposed(Fragment& r, std::uint32_t offset) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(offset))
               : "memory");
}
#if __CUDA_ARCH__ >= 900
WINDOW_MATMUL_DEVICE void store_matrices(std::uint32_t offset, const Fragment& r) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(offset)), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
}
#endif

WINDOW_MATMUL_DEVICE void mma(float (&d)[4], const Fragment& a, std::uint32_t b0, std::uint32_t b1, bf16) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
WINDOW_MATMUL_DEVICE void mma(float (&d)[4], const Fragment& a, std::uint32_t b0, std::uint32_t b1, f16) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
WINDOW_MATMUL_DEVICE void mma_tf32(float (&d)[4], const Fragment& a, std::uint32_t b0, std::uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
WINDOW_MATMUL_DEVICE void mma_f64(double (&d)[2], double a, double b) {
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};" : "+d"(d[0]), "+d"(d[1]) : "d"(a), "d"(b));
}

// ---- numbers ------------------------------------------------------------------------------------------------------------------------

template <class E>
WINDOW_MATMUL_DEVICE std::uint32_t pack(float low, float high) {
  std::uint32_t packed;
  if constexpr (sizeof(E) == 2 && __is_same(E, bf16))
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
template <class E>
WINDOW_MATMUL_DEVICE float unpack(std::uint32_t packed, int which) {
  float x;
  if constexpr (__is_same(E, bf16))
    x = __uint_as_float(which == 0 ? packed << 16 : packed & 0xffff0000u);
  else if (which == 0)
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(x) : "r"(packed));
  else
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(x) : "r"(packed));
  return x;
}
WINDOW_MATMUL_DEVICE float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
WINDOW_MATMUL_DEVICE double fused_multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }
WINDOW_MATMUL_DEVICE float exponential(float x) { return expf(x); }
WINDOW_MATMUL_DEVICE double exponential(double x) { return exp(x); }
WINDOW_MATMUL_DEVICE float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
WINDOW_MATMUL_DEVICE double power_of_two(double x) { return exp2(x); }
WINDOW_MATMUL_DEVICE float logarithm(float x) { return logf(x); }
WINDOW_MATMUL_DEVICE double logarithm(double x) { return log(x); }
WINDOW_MATMUL_DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }
WINDOW_MATMUL_DEVICE double hyperbolic_tangent(double x) { return tanh(x); }
WINDOW_MATMUL_DEVICE float maximum(float a, float b) { return fmaxf(a, b); }
WINDOW_MATMUL_DEVICE double maximum(double a, double b) { return fmax(a, b); }
WINDOW_MATMUL_DEVICE void forget(int& x) { asm volatile("" : "+r"(x)); }
WINDOW_MATMUL_DEVICE void forget(index_t& x) { asm volatile("" : "+l"(x)); }
WINDOW_MATMUL_DEVICE void forget(Bytes16& b) { asm volatile("" : "+r"(b.word[0]), "+r"(b.word[1]), "+r"(b.word[2]), "+r"(b.word[3])); }
WINDOW_MATMUL_DEVICE bool is_finite(float x) { return isfinite(x); }
WINDOW_MATMUL_DEVICE bool is_finite(double x) { return isfinite(x); }

}  // namespace window_matmul::cuda::inline gpu
