// tests/cuda_emulation/emulation_test.cpp: what the emulation must find in wrong kernels, and must not find in right ones.
#include "grid.hpp"

namespace window_matmul::cuda {
namespace {

using namespace testing_tools;

constexpr std::uint64_t kSeeds = 8;

std::uint32_t word_of(int thread) { return static_cast<std::uint32_t>(4 * thread); }

void exchange(bool with_barrier) {  // each thread stores a word and loads another warp's
  const int me = thread_index();
  store_shared(word_of(me), static_cast<float>(me));
  if (with_barrier) sync_threads();
  load_shared<float>(word_of((me + 32) % 64));
}
TEST(Emulation, RacesWithoutABarrier) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    EXPECT_FALSE(run([] { exchange(false); }, 64, 256, {}, seed).ok());
    const Report right = run([] { exchange(true); }, 64, 256, {}, seed);
    EXPECT_TRUE(right.ok()) << all_of(right);
  }
}

TEST(Emulation, RacesOfAStoreWithAnEarlierLoad) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const auto kernel = [](bool with_barrier) {
      store_shared(word_of(thread_index()), 1.0f);
      sync_threads();
      load_shared<float>(word_of((thread_index() + 32) % 64));
      if (with_barrier) sync_threads();
      store_shared(word_of(thread_index()), 2.0f);
    };
    EXPECT_TRUE(says(run([&] { kernel(false); }, 64, 256, {}, seed), "races with a"));
    EXPECT_TRUE(run([&] { kernel(true); }, 64, 256, {}, seed).ok());
  }
}

TEST(Emulation, AWarpIsOrderedByItsBarrierOnly) {
  const auto kernel = [](bool with_barrier) {
    store_shared(word_of(thread_index()), 1.0f);
    if (with_barrier) sync_warp();
    load_shared<float>(word_of(thread_index() ^ 1));
  };
  EXPECT_FALSE(run([&] { kernel(false); }, 32, 128).ok());
  EXPECT_TRUE(run([&] { kernel(true); }, 32, 128).ok());
}

TEST(Emulation, SharedMemoryStartsPoisoned) {
  EXPECT_TRUE(says(run([] { load_shared<float>(word_of(thread_index())); }, 32, 128), "nothing was stored there"));
  EXPECT_TRUE(says(run([] { store_shared(word_of(thread_index()) + 4, 0.0f); }, 32, 128), "of 128"));
  EXPECT_TRUE(says(run([] { store_shared(word_of(thread_index()) + 2, 0.0f); }, 32, 256), "not aligned"));
}

TEST(Emulation, ABlockHasNothingOfTheOneBeforeIt) {
  const auto one_stores = [] {
    if (block_index() == 0) store_shared(word_of(thread_index()), 1.0f);
    if (block_index() == 1) load_shared<float>(word_of(thread_index()));
  };
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    EXPECT_TRUE(says(run(one_stores, 32, 128, {}, seed, 2), "nothing was stored there"));
    EXPECT_TRUE(run([] { exchange(true); }, 64, 256, {}, seed, 3).ok());  // loads of one block, and stores of the next
  }
}

TEST(Emulation, CopiesAreNotThereBeforeTheyAreWaitedFor) {
  alignas(16) float in[32] = {};
  const Buffers b{in, sizeof in};
  const auto kernel = [&](bool waits) {
    copy_async<4>(word_of(thread_index()), address(in + thread_index()), 4);
    commit_copies();
    if (waits) wait_copies<0>();
    load_shared<float>(word_of(thread_index()));
    wait_copies<0>();
  };
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    EXPECT_TRUE(says(run([&] { kernel(false); }, 32, 128, b, seed), "may not have landed"));
    EXPECT_TRUE(run([&] { kernel(true); }, 32, 128, b, seed).ok());
  }
  EXPECT_TRUE(says(run([&] { copy_async<4>(word_of(thread_index()), address(in), 4); }, 32, 128, b), "without having waited"));
}

TEST(Emulation, WaitsForGroupsInOrder) {
  alignas(16) float in[64] = {};
  const Buffers b{in, sizeof in};
  const auto kernel = [&](int first_read) {
    for (int group = 0; group < 2; ++group) {
      copy_async<4>(word_of(thread_index() + 32 * group), address(in + thread_index() + 32 * group), 4);
      commit_copies();
    }
    wait_copies<1>();
    load_shared<float>(word_of(thread_index() + first_read));
    wait_copies<0>();
  };
  EXPECT_TRUE(run([&] { kernel(0); }, 32, 256, b).ok());
  EXPECT_FALSE(run([&] { kernel(32); }, 32, 256, b).ok());
}

TEST(Emulation, ABarrierIsNeededBesideTheWait) {
  alignas(16) float in[64] = {};
  const Buffers b{in, sizeof in};
  const auto kernel = [&](bool with_barrier) {
    copy_async<4>(word_of(thread_index()), address(in + thread_index()), 4);
    commit_copies();
    wait_copies<0>();
    if (with_barrier) sync_threads();
    load_shared<float>(word_of((thread_index() + 32) % 64));
  };
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    EXPECT_FALSE(run([&] { kernel(false); }, 64, 256, b, seed).ok());
    EXPECT_TRUE(run([&] { kernel(true); }, 64, 256, b, seed).ok());
  }
}

TEST(Emulation, GlobalAccessesAreChecked) {
  alignas(16) float in[32] = {}, out[32] = {};
  const Buffers b{in, sizeof in, out, sizeof out}, only_in{in, sizeof in};
  const auto at = [](float* p) { return address(p + thread_index()); };
  EXPECT_TRUE(run([&] { store_global(at(out), load_global<float>(at(in))); }, 32, 0, b).ok());
  EXPECT_TRUE(says(run([&] { load_global<float>(at(in) + 4); }, 32, 0, only_in), "load of 4 bytes at byte 128 of in"));
  EXPECT_TRUE(says(run([&] { load_global<float>(at(out)); }, 32, 0, b), "only written"));
  EXPECT_TRUE(says(run([&] { store_global(at(in), 0.0f); }, 32, 0, only_in), "only read"));
  EXPECT_TRUE(says(run([&] { load_global<float>(at(in) + 2); }, 32, 0, b), "modulo 4"));
  EXPECT_TRUE(says(run([&] { store_global(address(out), 0.0f); }, 32, 0, b), "written twice"));
  EXPECT_TRUE(says(run([&] { store_global(at(out), 0.0f); }, 32, 0, b, 1, 2), "written twice"));  // by two blocks
}

TEST(Emulation, DeadlocksAreReported) {
  EXPECT_TRUE(says(run(
                       [] {
                         if (thread_index() < 32) sync_threads();
                       },
                       64, 0),
                   "deadlock"));
  EXPECT_TRUE(says(run(
                       [] {
                         if (thread_index() > 0) sync_warp();
                       },
                       32, 0),
                   "deadlock"));
  EXPECT_TRUE(says(run([] { sync_named<1>(thread_index() < 32 ? 32 : 64); }, 64, 0), "asked for"));
  EXPECT_TRUE(says(run([] { thread_index() % 32 < 16 ? sync_named<1>(32) : sync_named<2>(32); }, 64, 0), "alone come"));
  EXPECT_TRUE(run(
                  [] {
                    if (thread_index() < 32) sync_named<1>(32);
                  },
                  64, 0)
                  .ok());
  EXPECT_TRUE(says(run([] { thread_index() < 16 ? sync_warp() : void(shuffle(1.0f, 0)); }, 32, 0), "different instructions"));
}

// Counts that can be found with pencil and paper.
TEST(Emulation, CountsBankConflicts) {
  const auto conflicts = [](std::uint32_t stride) {
    return run([=] { store_shared(static_cast<std::uint32_t>(thread_index()) * stride, 0.0f); }, 32, 8192).conflicts();
  };
  EXPECT_EQ(conflicts(4), 1);
  EXPECT_EQ(conflicts(8), 2);
  EXPECT_EQ(conflicts(12), 1);
  EXPECT_EQ(conflicts(128), 32);
  const auto of_vectors = [](std::uint32_t stride) {
    return run([=] { store_shared(static_cast<std::uint32_t>(thread_index()) * stride, Bytes16{}); }, 32, 8192).conflicts();
  };
  EXPECT_EQ(of_vectors(16), 1);
  EXPECT_EQ(of_vectors(32), 2);
  EXPECT_EQ(of_vectors(128), 8);
  EXPECT_EQ(of_vectors(144), 1);
}

TEST(Emulation, CountsSectors) {
  alignas(32) float in[1024] = {};
  const auto sectors = [&](int stride) {
    const Report r = run([&] { load_global<float>(address(in + thread_index() * stride)); }, 32, 0, {in, sizeof in});
    EXPECT_EQ(r.sectors_requested, r.sectors_distinct);
    return r.sectors_distinct;
  };
  EXPECT_EQ(sectors(0), 1);
  EXPECT_EQ(sectors(1), 4);
  EXPECT_EQ(sectors(2), 8);
  EXPECT_EQ(sectors(32), 32);
  const Report twice = run(
      [&] {
        for (int i = 0; i < 2; ++i) load_global<float>(address(in + thread_index()));
      },
      32, 0, {in, sizeof in});
  EXPECT_EQ(twice.sectors_requested, 8);
  EXPECT_EQ(twice.sectors_distinct, 4);
}

}  // namespace
}  // namespace window_matmul::cuda
