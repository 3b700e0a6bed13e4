// tests/cuda_emulation/primitives_test.cpp: each primitive of the emulation against its definition, and what only the emulation does.
#include "cuda/conformance/definitions.hpp"
#include "cuda/conformance/runner.hpp"
#include "grid.hpp"

namespace window_matmul::cuda {
namespace {

using namespace testing_tools;

const conformance::Runner* find(const std::string& name) {
  static const std::vector<conformance::Runner> all = conformance::emulated_runners();
  for (const conformance::Runner& runner : all)
    if (runner.name == name) return &runner;
  return nullptr;
}

TEST(Primitives, AreWhatTheirDefinitionsSay) {
  conformance::Random random(7);
  EXPECT_EQ(conformance::definitions().size(), conformance::emulated_runners().size());
  for (const conformance::Definition& definition : conformance::definitions()) {
    const conformance::Runner* runner = find(definition.name);
    ASSERT_NE(runner, nullptr) << definition.name;
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      std::vector<std::byte> in(runner->grid.in_bytes), out(runner->grid.out_bytes), expected(out.size());
      definition.fill(random, in.data(), in.size());
      definition.define(in.data(), expected.data());
      EXPECT_EQ(runner->run(in.data(), out.data(), seed), "") << definition.name;
      const conformance::Difference found = compare(definition, out, expected);
      EXPECT_GT(found.words, 0u) << definition.name;
      EXPECT_EQ(found.different, 0u) << definition.name << ", seed " << seed << ", first number " << found.first;
    }
  }
}

TEST(Primitives, ComparingSeesOneBitAndOneUnitTooMuch) {
  for (const conformance::Definition& definition : conformance::definitions()) {
    std::vector<std::byte> a(16, std::byte{0x3c}), b = a;
    const auto turned = static_cast<unsigned char>(definition.ulps + 1);
    b[8] = static_cast<std::byte>(0x3c + turned);
    const conformance::Difference found = compare(definition, a, b);
    EXPECT_EQ(found.different, 1u) << definition.name;
    EXPECT_EQ(found.first, 8 / definition.word) << definition.name;
    EXPECT_EQ(compare(definition, a, a).different, 0u) << definition.name;
  }
}

TEST(Primitives, MatrixInstructionsAreCounted) {
  const Report report = run(
      [&] {
        const Fragment a = {};
        float d[4] = {};
        mma(d, a, 0, 0, bf16{});
        mma_tf32(d, a, 0, 0);
        double e[2] = {};
        mma_f64(e, 0, 0);
      },
      32, 0);
  EXPECT_TRUE(report.ok()) << all_of(report);
  EXPECT_EQ(report.products, 16 * 8 * 16 + 16 * 8 * 8 + 8 * 8 * 4);
}

TEST(Primitives, MatricesSideBySideHaveNoConflicts) {
  const Report report = run(
      [&] {
        const auto mine = static_cast<std::uint32_t>(16 * thread_index());
        store_shared(mine, Bytes16{});
        sync_warp();
        Fragment r;
        load_matrices(r, mine), load_matrices_transposed(r, mine);
        store_matrices(mine + 512, r);
      },
      32, 1024);
  EXPECT_TRUE(report.ok()) << all_of(report);
  EXPECT_EQ(report.conflicts(), 1);
}

TEST(Primitives, CopiesMustBeAligned) {
  alignas(16) float in[8] = {};
  EXPECT_TRUE(
      says(run([&] { copy_async<8>(0, address(in + 1), 8), commit_copies(), wait_copies<0>(); }, 32, 64, {in, sizeof in}), "not aligned"));
}

}  // namespace
}  // namespace window_matmul::cuda
