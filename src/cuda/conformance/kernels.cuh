// src/cuda/conformance/kernels.cuh: a little kernel around each primitive: one text, compiled for GPUs and for the emulation.
//
// A kernel reads `in`, does what its primitive does, and stores all it got to `out`, each byte once. definitions.cpp says what that must
// be.
#pragma once

#include <type_traits>

#include "cuda/conformance/runner.hpp"
#include "cuda/primitives/primitives.hpp"

namespace window_matmul::cuda::conformance {
namespace {

template <class T>
WINDOW_MATMUL_DEVICE T read(std::uintptr_t in, int i) {
  return load_global<T>(in + static_cast<std::uintptr_t>(i) * sizeof(T));
}
template <class T>
WINDOW_MATMUL_DEVICE void write(std::uintptr_t out, int i, T value) {
  store_global(out + static_cast<std::uintptr_t>(i) * sizeof(T), value);
}
WINDOW_MATMUL_DEVICE std::uint32_t offset_of(int i, int bytes) { return static_cast<std::uint32_t>(i * bytes); }

struct Indices {
  static constexpr const char* kName = "thread_index, block_index, grid_size";
  static constexpr Grid kGrid{3, 64, 0, 4, 3 * 64 * 12};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t, std::uintptr_t out) {
    const int i = static_cast<int>(block_index()) * 64 + thread_index();
    write(out, 3 * i, static_cast<std::uint32_t>(thread_index()));
    write(out, 3 * i + 1, static_cast<std::uint32_t>(block_index()));
    write(out, 3 * i + 2, static_cast<std::uint32_t>(grid_size()));
  }
};

// ---- barriers and shuffles ----------------------------------------------------------------------------------------------------------

// Twice round the block: each thread takes what another one left, with a barrier between reading and writing again.
struct SyncThreads {
  static constexpr const char* kName = "sync_threads";
  static constexpr Grid kGrid{2, 160, 160 * 4, 160 * 4, 2 * 160 * 4};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int me = thread_index();
    auto value = read<float>(in, me);
    for (int round = 0; round < 2; ++round) {
      store_shared(offset_of(me, 4), value);
      sync_threads();
      value = load_shared<float>(offset_of((me + 71) % 160, 4));
      sync_threads();
    }
    write(out, static_cast<int>(block_index()) * 160 + me, value);
  }
};

// Two pairs of warps, each with a barrier of its own.
struct SyncNamed {
  static constexpr const char* kName = "sync_named";
  static constexpr Grid kGrid{1, 128, 128 * 4, 128 * 4, 128 * 4};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int me = thread_index(), pair = me / 64;
    store_shared(offset_of(me, 4), read<float>(in, me));
    if (pair == 0)
      sync_named<1>(64);
    else
      sync_named<15>(64);
    write(out, me, load_shared<float>(offset_of(64 * pair + (me + 33) % 64, 4)));
  }
};

struct SyncWarp {
  static constexpr const char* kName = "sync_warp";
  static constexpr Grid kGrid{1, 64, 64 * 4, 64 * 4, 64 * 4};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int me = thread_index();
    store_shared(offset_of(me, 4), read<float>(in, me));
    sync_warp();
    write(out, me, load_shared<float>(offset_of(me ^ 13, 4)));
  }
};

// in: 64 values, then as many lanes or masks, from 0 to 31.
template <class T, bool Xor>
struct Shuffles {
  static constexpr const char* kName = std::is_same_v<T, float>    ? (Xor ? "shuffle_xor of float32" : "shuffle of float32")
                                       : std::is_same_v<T, double> ? (Xor ? "shuffle_xor of float64" : "shuffle of float64")
                                                                   : (Xor ? "shuffle_xor of uint32" : "shuffle of uint32");
  static constexpr Grid kGrid{1, 64, 0, 64 * sizeof(T) + 64 * 4, 64 * sizeof(T)};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int me = thread_index();
    const T value = read<T>(in, me);
    const auto other = [&](int i) { return static_cast<int>(read<std::uint32_t>(in + 64 * sizeof(T), i)); };
    if constexpr (Xor)
      write(out, me, shuffle_xor(value, other(0)));  // one mask for all
    else
      write(out, me, shuffle(value, other(me)));
  }
};

// ---- memory -------------------------------------------------------------------------------------------------------------------------

// The same bytes four times over, moved 2, 4, 8 and 16 at a time.
struct Global {
  static constexpr const char* kName = "load_global, store_global";
  static constexpr Grid kGrid{1, 32, 0, 512, 4 * 512};
  template <class T>
  WINDOW_MATMUL_DEVICE static void copy(std::uintptr_t in, std::uintptr_t out) {
    for (int i = thread_index(); i < static_cast<int>(512 / sizeof(T)); i += 32) write(out, i, read<T>(in, i));
  }
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    copy<std::uint16_t>(in, out), copy<std::uint32_t>(in, out + 512), copy<std::uint64_t>(in, out + 1024), copy<Bytes16>(in, out + 1536);
  }
};

// Stored as 16 bytes, floats and doubles; loaded in pieces of 2, 4, 8 and 16.
struct Shared {
  static constexpr const char* kName = "load_shared, store_shared";
  static constexpr Grid kGrid{1, 32, 32 * 32, 32 * 32, 32 * 32};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int me = thread_index();
    const std::uint32_t mine = offset_of(me, 32);
    const std::uintptr_t from = in + mine, to = out + mine;
    store_shared(mine, load_global<Bytes16>(from));
    store_shared(mine + 16, load_global<float>(from + 16)), store_shared(mine + 20, load_global<float>(from + 20));
    store_shared(mine + 24, load_global<double>(from + 24));
    store_global(to, load_shared<std::uint16_t>(mine)), store_global(to + 2, load_shared<std::uint16_t>(mine + 2));
    store_global(to + 4, load_shared<float>(mine + 4));
    store_global(to + 8, load_shared<double>(mine + 8));
    store_global(to + 16, load_shared<Bytes16>(mine + 16));
  }
};

// Thread t brings its Bytes bytes, of which t % (Bytes / 2 + 1) pairs are valid.
template <int Bytes>
struct Copies {
  static constexpr const char* kName = Bytes == 4 ? "copy_async of 4" : Bytes == 8 ? "copy_async of 8" : "copy_async of 16";
  static constexpr Grid kGrid{1, 32, 32 * Bytes, 32 * Bytes, 32 * Bytes};
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    const int me = thread_index(), valid = me % (Bytes / 2 + 1) * 2;
    copy_async<Bytes>(offset_of(me, Bytes), in + static_cast<std::uintptr_t>(Bytes * me), valid);
    commit_copies();
    wait_copies<0>();
    for (int i = 0; i < Bytes / 2; ++i) write(out, Bytes / 2 * me + i, load_shared<std::uint16_t>(offset_of(me, Bytes) + offset_of(i, 2)));
  }
};

// Three groups under way; each is read as soon as no more than the newer ones may be.
struct CopyGroups {
  static constexpr const char* kName = "commit_copies, wait_copies";
  static constexpr Grid kGrid{1, 64, 3 * 64 * 16, 3 * 64 * 16, 3 * 64 * 16};
  template <int Group>
  WINDOW_MATMUL_DEVICE static void take(std::uintptr_t out) {
    wait_copies<2 - Group>();
    sync_threads();
    const int from = Group * 64 + (thread_index() + 17) % 64;
    write(out, Group * 64 + thread_index(), load_shared<Bytes16>(offset_of(from, 16)));
  }
  WINDOW_MATMUL_DEVICE static void run(std::uintptr_t in, std::uintptr_t out) {
    for (int group = 0; group < 3; ++group) {
      const int i = group * 64 + thread_index();
      copy_async<16>(offset_of(i, 16), in + static_cast<std::uintptr_t>(16 * i), 16);
      commit_copies();
    }
    take<0>(out), take<1>(out), take<2>(out);
  }
};

}  // namespace
}  // namespace window_matmul::cuda::conformance
