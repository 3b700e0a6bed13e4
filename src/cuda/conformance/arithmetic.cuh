// src/cuda/conformance/arithmetic.cuh: the little kernels around matrix instructions and arithmetic, and the list of all.
#pragma once

#include "cuda/conformance/kernels.cuh"

namespace window_matmul::cuda::conformance {
namespace {

// ---- matrices -----------------------------------------------------------------------------------------------------------------------

enum class Move : std::uint8_t { load, load_transposed, store };

// Four 8 x 8 matrices of 16 bits. A load stores the registers of each lane; a store's result is read back as it lies.
template <Move M>
struct Matrix {
  static constexpr const char* kName = M == Move::load ? "load_matrices" : M == Move::store ? "store_matrices" : "load_matrices_transposed";
  static constexpr Grid kGrid{1, 32, 512, 512, 512};
  static constexpr bool kNeedsSm90 = M == Move::store;
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int me = thread_index();
    const std::uint32_t mine = offset_of(me, 16);
    const auto brought = read<Bytes16>(in, me);
    Fragment r = {brought.word[0], brought.word[1], brought.word[2], brought.word[3]};
    if constexpr (M == Move::store) {
#if !defined(__CUDACC__) || __CUDA_ARCH__ >= 900
      store_matrices(mine, r);
#endif
      sync_warp();
      write(out, me, load_shared<Bytes16>(mine));
    } else {
      store_shared(mine, brought);
      sync_warp();
      if constexpr (M == Move::load)
        load_matrices(r, mine);
      else
        load_matrices_transposed(r, mine);
      write(out, me, Bytes16{{r[0], r[1], r[2], r[3]}});
    }
  }
};

// in: A (16 x 16), B (16 x 8) of E, C (16 x 8) of float, row by row. Which lane holds what: the PTX manual's figures of mma.m16n8k16.
// Flags: instead of the sums whether each is finite.
template <class E, bool Flags>
struct Mma {
  static constexpr bool kIsHalf = std::is_same_v<E, f16>;
  static constexpr const char* kName = Flags ? (kIsHalf ? "mma of float16 that is not finite" : "mma of bfloat16 that is not finite")
                                             : (kIsHalf ? "mma of float16" : "mma of bfloat16");
  static constexpr Grid kGrid{1, 32, 0, 16 * 16 * 2 + 16 * 8 * 2 + 16 * 8 * 4, 16 * 8 * 4};
  WINDOW_MATMUL_DEVICE static std::uint32_t two(E low, E high) { return std::uint32_t{low.bits} | std::uint32_t{high.bits} << 16; }
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int g = thread_index() / 4, t = thread_index() % 4;
    const auto a = [&](int row, int k) { return two(read<E>(in, row * 16 + k), read<E>(in, row * 16 + k + 1)); };
    const auto b = [&](int k) { return two(read<E>(in + 512, k * 8 + g), read<E>(in + 512, (k + 1) * 8 + g)); };
    const Fragment fa = {a(g, 2 * t), a(g + 8, 2 * t), a(g, 2 * t + 8), a(g + 8, 2 * t + 8)};
    const int at[4] = {8 * g + 2 * t, 8 * g + 2 * t + 1, 8 * (g + 8) + 2 * t, 8 * (g + 8) + 2 * t + 1};
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = read<float>(in + 768, at[i]);
    mma(d, fa, b(2 * t), b(2 * t + 8), E{});
    for (int i = 0; i < 4; ++i) {
      if constexpr (Flags)
        write(out, at[i], static_cast<std::uint32_t>(is_finite(d[i])));
      else
        write(out, at[i], d[i]);
    }
  }
};

// in: A (16 x 8), B (8 x 8), C (16 x 8), all words of 32 bits.
struct MmaTf32 {
  static constexpr const char* kName = "mma_tf32";
  static constexpr Grid kGrid{1, 32, 0, 512 + 256 + 512, 512};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int g = thread_index() / 4, t = thread_index() % 4;
    const auto a = [&](int row, int k) { return read<std::uint32_t>(in, row * 8 + k); };
    const Fragment fa = {a(g, t), a(g + 8, t), a(g, t + 4), a(g + 8, t + 4)};
    const int at[4] = {8 * g + 2 * t, 8 * g + 2 * t + 1, 8 * (g + 8) + 2 * t, 8 * (g + 8) + 2 * t + 1};
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = read<float>(in + 768, at[i]);
    mma_tf32(d, fa, read<std::uint32_t>(in + 512, t * 8 + g), read<std::uint32_t>(in + 512, (t + 4) * 8 + g));
    for (int i = 0; i < 4; ++i) write(out, at[i], d[i]);
  }
};

// in: A (8 x 4), B (4 x 8), C (8 x 8) of double.
struct MmaF64 {
  static constexpr const char* kName = "mma_f64";
  static constexpr Grid kGrid{1, 32, 0, 256 + 256 + 512, 512};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int g = thread_index() / 4, t = thread_index() % 4;
    double d[2] = {read<double>(in + 512, 8 * g + 2 * t), read<double>(in + 512, 8 * g + 2 * t + 1)};
    mma_f64(d, read<double>(in, 4 * g + t), read<double>(in + 256, 8 * t + g));
    write(out, 8 * g + 2 * t, d[0]), write(out, 8 * g + 2 * t + 1, d[1]);
  }
};

// ---- numbers ------------------------------------------------------------------------------------------------------------------------

template <class E>
struct Pack {
  static constexpr const char* kName = std::is_same_v<E, f16> ? "pack of float16" : "pack of bfloat16";
  static constexpr Grid kGrid{1, 256, 0, 512 * 4, 256 * 4};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int me = thread_index();
    write(out, me, pack<E>(read<float>(in, 2 * me), read<float>(in, 2 * me + 1)));
  }
};

template <class E>
struct Unpack {
  static constexpr const char* kName = std::is_same_v<E, f16> ? "unpack of float16" : "unpack of bfloat16";
  static constexpr Grid kGrid{1, 256, 0, 256 * 4, 512 * 4};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int me = thread_index();
    const auto packed = read<std::uint32_t>(in, me);
    write(out, 2 * me, unpack<E>(packed, 0)), write(out, 2 * me + 1, unpack<E>(packed, 1));
  }
};

template <class T>
struct MultiplyAdd {
  static constexpr const char* kName = sizeof(T) == 4 ? "fused_multiply_add of float32" : "fused_multiply_add of float64";
  static constexpr Grid kGrid{1, 256, 0, 3 * 256 * sizeof(T), 256 * sizeof(T)};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int me = thread_index();
    write(out, me, fused_multiply_add(read<T>(in, 3 * me), read<T>(in, 3 * me + 1), read<T>(in, 3 * me + 2)));
  }
};

enum class Function : std::uint8_t { exponential, power_of_two, logarithm, hyperbolic_tangent };

template <class T, Function F>
struct OfOneNumber {
  static constexpr const char* kNames[] = {"exponential of float32",        "exponential of float64",       "power_of_two of float32",
                                           "power_of_two of float64",       "logarithm of float32",         "logarithm of float64",
                                           "hyperbolic_tangent of float32", "hyperbolic_tangent of float64"};
  static constexpr const char* kName = kNames[2 * static_cast<int>(F) + (sizeof(T) == 8)];
  static constexpr Grid kGrid{1, 256, 0, 256 * sizeof(T), 256 * sizeof(T)};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const T x = read<T>(in, thread_index());
    if constexpr (F == Function::exponential) write(out, thread_index(), exponential(x));
    if constexpr (F == Function::power_of_two) write(out, thread_index(), power_of_two(x));
    if constexpr (F == Function::logarithm) write(out, thread_index(), logarithm(x));
    if constexpr (F == Function::hyperbolic_tangent) write(out, thread_index(), hyperbolic_tangent(x));
  }
};

template <class T>
struct Maximum {
  static constexpr const char* kName = sizeof(T) == 4 ? "maximum of float32" : "maximum of float64";
  static constexpr Grid kGrid{1, 256, 0, 2 * 256 * sizeof(T), 256 * sizeof(T)};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int me = thread_index();
    write(out, me, maximum(read<T>(in, 2 * me), read<T>(in, 2 * me + 1)));
  }
};

struct Byte {
  static constexpr const char* kName = "load_byte";
  static constexpr Grid kGrid{1, 256, 0, 256, 256 * 4};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int me = thread_index();
    write(out, me, std::uint32_t{load_byte(in + static_cast<std::uintptr_t>(me))});
  }
};

template <class T>
struct Finite {
  static constexpr const char* kName = sizeof(T) == 4 ? "is_finite of float32" : "is_finite of float64";
  static constexpr Grid kGrid{1, 256, 0, 256 * sizeof(T), 256 * 4};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    write(out, thread_index(), static_cast<std::uint32_t>(is_finite(read<T>(in, thread_index()))));
  }
};

template <class... Kernels, class F>
void each_of(F&& f) {
  (f.template operator()<Kernels>(), ...);
}

// Calls f<Kernel>() for every one.
template <class F>
void for_each_kernel(F&& f) {
  each_of<Indices, SyncThreads, SyncNamed, SyncWarp>(f);
  each_of<Shuffles<float, false>, Shuffles<double, false>, Shuffles<std::uint32_t, false>>(f);
  each_of<Shuffles<float, true>, Shuffles<double, true>, Shuffles<std::uint32_t, true>>(f);
  each_of<Global, Shared, Copies<4>, Copies<8>, Copies<16>, CopyGroups>(f);
  each_of<Matrix<Move::load>, Matrix<Move::load_transposed>, Matrix<Move::store>>(f);
  each_of<Mma<bf16, false>, Mma<f16, false>, Mma<bf16, true>, Mma<f16, true>, MmaTf32, MmaF64>(f);
  each_of<Pack<bf16>, Pack<f16>, Unpack<bf16>, Unpack<f16>, MultiplyAdd<float>, MultiplyAdd<double>>(f);
  each_of<Finite<float>, Finite<double>, Maximum<float>, Maximum<double>, Byte>(f);
  each_of<OfOneNumber<float, Function::exponential>, OfOneNumber<double, Function::exponential>>(f);
  each_of<OfOneNumber<float, Function::power_of_two>, OfOneNumber<double, Function::power_of_two>>(f);
  each_of<OfOneNumber<float, Function::logarithm>, OfOneNumber<double, Function::logarithm>>(f);
  each_of<OfOneNumber<float, Function::hyperbolic_tangent>, OfOneNumber<double, Function::hyperbolic_tangent>>(f);
}

template <class Kernel>
constexpr bool needs_sm90() {
  if constexpr (requires { Kernel::kNeedsSm90; })
    return Kernel::kNeedsSm90;
  else
    return false;
}

}  // namespace
}  // namespace window_matmul::cuda::conformance
