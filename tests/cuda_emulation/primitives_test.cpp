// tests/cuda_emulation/primitives_test.cpp: each primitive against its definition, written out from the tables of the PTX manual.
#include <cmath>

#include "elements.hpp"
#include "grid.hpp"

namespace window_matmul::cuda {
namespace {

using namespace testing_tools;

// Small whole numbers: every product and sum is exact, so that results are compared bit for bit.
int number(int i) { return (i * 7 + i / 5) % 17 - 8; }

template <class E>
std::uint32_t two(int low, int high) {
  return pack<E>(static_cast<float>(low), static_cast<float>(high));
}

// mma.m16n8k16: groupID = lane / 4, t = lane % 4.
//   a0,a1: (g, 2t..)  a2,a3: (g+8, 2t..)  a4,a5: (g, 2t+8..)  a6,a7: (g+8, 2t+8..)   b0,b1: (2t.., g)  b2,b3: (2t+8.., g)
//   c0,c1: (g, 2t..)  c2,c3: (g+8, 2t..)
template <class E>
void check_mma() {
  float result[16][8] = {};
  const auto a = [](int row, int k) { return number(row * 16 + k); };
  const auto b = [](int k, int column) { return number(100 + k * 8 + column); };
  const Report report = run(
      [&] {
        const int g = thread_index() / 4, t = thread_index() % 4;
        const Fragment fa = {two<E>(a(g, 2 * t), a(g, 2 * t + 1)), two<E>(a(g + 8, 2 * t), a(g + 8, 2 * t + 1)),
                             two<E>(a(g, 2 * t + 8), a(g, 2 * t + 9)), two<E>(a(g + 8, 2 * t + 8), a(g + 8, 2 * t + 9))};
        float d[4] = {1, 2, 3, 4};
        mma(d, fa, two<E>(b(2 * t, g), b(2 * t + 1, g)), two<E>(b(2 * t + 8, g), b(2 * t + 9, g)), E{});
        result[g][2 * t] = d[0] - 1, result[g][2 * t + 1] = d[1] - 2, result[g + 8][2 * t] = d[2] - 3, result[g + 8][2 * t + 1] = d[3] - 4;
      },
      32, 0);
  ASSERT_TRUE(report.ok()) << all_of(report);
  EXPECT_EQ(report.products, 16 * 8 * 16);
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column) {
      int sum = 0;
      for (int k = 0; k < 16; ++k) sum += a(row, k) * b(k, column);
      EXPECT_EQ(result[row][column], static_cast<float>(sum)) << row << " " << column;
    }
}
TEST(Primitives, MmaOfHalves) {
  check_mma<bf16>();
  check_mma<f16>();
}

// mma.m16n8k8.tf32: a0: (g, t)  a1: (g+8, t)  a2: (g, t+4)  a3: (g+8, t+4)   b0: (t, g)  b1: (t+4, g)
TEST(Primitives, MmaTf32CutsFactors) {
  float result[16][8] = {};
  const auto bits = [](int n) { return std::bit_cast<std::uint32_t>(static_cast<float>(n)) | 0x1fffu; };  // below what is read
  const auto a = [](int row, int k) { return number(row * 8 + k); };
  const auto b = [](int k, int column) { return number(50 + k * 8 + column); };
  const Report report = run(
      [&] {
        const int g = thread_index() / 4, t = thread_index() % 4;
        const Fragment fa = {bits(a(g, t)), bits(a(g + 8, t)), bits(a(g, t + 4)), bits(a(g + 8, t + 4))};
        float d[4] = {};
        mma_tf32(d, fa, bits(b(t, g)), bits(b(t + 4, g)));
        result[g][2 * t] = d[0], result[g][2 * t + 1] = d[1], result[g + 8][2 * t] = d[2], result[g + 8][2 * t + 1] = d[3];
      },
      32, 0);
  ASSERT_TRUE(report.ok()) << all_of(report);
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column) {
      int sum = 0;
      for (int k = 0; k < 8; ++k) sum += a(row, k) * b(k, column);
      EXPECT_EQ(result[row][column], static_cast<float>(sum)) << row << " " << column;
    }
}

// mma.m8n8k4.f64: a: (g, t)  b: (t, g)  c0,c1: (g, 2t..)
TEST(Primitives, MmaOfDoubles) {
  double result[8][8] = {};
  const auto a = [](int row, int k) { return number(row * 4 + k); };
  const auto b = [](int k, int column) { return number(30 + k * 8 + column); };
  run(
      [&] {
        const int g = thread_index() / 4, t = thread_index() % 4;
        double d[2] = {};
        mma_f64(d, a(g, t), b(t, g));
        result[g][2 * t] = d[0], result[g][2 * t + 1] = d[1];
      },
      32, 0);
  for (int row = 0; row < 8; ++row)
    for (int column = 0; column < 8; ++column) {
      int sum = 0;
      for (int k = 0; k < 4; ++k) sum += a(row, k) * b(k, column);
      EXPECT_EQ(result[row][column], sum) << row << " " << column;
    }
}

// ldmatrix.x4: register j of lane l: row l / 4 of matrix j, elements 2 (l % 4) and the next; lane l names row l % 8 of matrix l / 8.
// Transposed: rows 2 (l % 4) and the next, element l / 4. stmatrix undoes the first.
TEST(Primitives, LoadsAndStoresMatrices) {
  const auto element = [](int matrix, int row, int column) { return static_cast<std::uint32_t>(matrix * 64 + row * 8 + column); };
  const auto pair = [](std::uint32_t low, std::uint32_t high) { return low | high << 16; };
  int wrong = 0;
  const Report report = run(
      [&] {
        const int l = thread_index(), m = l / 8, r = l % 8;
        Bytes16 line{};
        for (int i = 0; i < 4; ++i) line.word[i] = pair(element(m, r, 2 * i), element(m, r, 2 * i + 1));
        const auto mine = static_cast<std::uint32_t>(16 * l), other = mine + 512;
        store_shared(mine, line);
        sync_warp();
        Fragment straight, turned;
        load_matrices(straight, mine);
        load_matrices_transposed(turned, mine);
        for (int j = 0; j < 4; ++j) {
          wrong += straight[j] != pair(element(j, l / 4, 2 * (l % 4)), element(j, l / 4, 2 * (l % 4) + 1));
          wrong += turned[j] != pair(element(j, 2 * (l % 4), l / 4), element(j, 2 * (l % 4) + 1, l / 4));
        }
        store_matrices(other, straight);
        const Bytes16 back = load_shared<Bytes16>(other);
        for (int i = 0; i < 4; ++i) wrong += back.word[i] != line.word[i];
      },
      32, 1024);
  EXPECT_TRUE(report.ok()) << all_of(report);
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(report.conflicts(), 1);
}

TEST(Primitives, Shuffles) {
  int wrong = 0;
  const Report report = run(
      [&] {
        const int me = thread_index() % 32;
        wrong += shuffle(static_cast<float>(me), 5) != 5;
        wrong += shuffle_xor(static_cast<double>(me), 3) != (me ^ 3);
        wrong += shuffle(static_cast<std::uint32_t>(me), (me + 1) % 32) != static_cast<std::uint32_t>((me + 1) % 32);
      },
      64, 0);
  EXPECT_TRUE(report.ok()) << all_of(report);
  EXPECT_EQ(wrong, 0);
}

template <int Bytes>
void check_copies() {
  alignas(16) unsigned char in[32 * 16], got[32][16] = {};
  for (std::size_t i = 0; i < sizeof in; ++i) in[i] = static_cast<unsigned char>(i + 1);
  const Report report = run(
      [&] {
        const int me = thread_index(), valid = me % (Bytes / 2 + 1) * 2;
        copy_async<Bytes>(static_cast<std::uint32_t>(Bytes * me), address(in + Bytes * me), valid);
        commit_copies();
        wait_copies<0>();
        for (int i = 0; i < Bytes; i += 2) {
          const auto part = load_shared<std::uint16_t>(static_cast<std::uint32_t>(Bytes * me + i));
          std::memcpy(got[me] + i, &part, 2);
        }
      },
      32, 512, {in, sizeof in});
  ASSERT_TRUE(report.ok()) << all_of(report);
  for (int me = 0; me < 32; ++me)
    for (int i = 0; i < Bytes; ++i) EXPECT_EQ(got[me][i], i < me % (Bytes / 2 + 1) * 2 ? in[Bytes * me + i] : 0) << me << " " << i;
}
TEST(Primitives, CopiesFillWithZeros) {
  check_copies<4>();
  check_copies<8>();
  check_copies<16>();
  alignas(16) float in[8] = {};
  EXPECT_TRUE(
      says(run([&] { copy_async<8>(0, address(in + 1), 8), commit_copies(), wait_copies<0>(); }, 32, 64, {in, sizeof in}), "not aligned"));
}

TEST(Primitives, PackRoundsToNearestEven) {
  for (const double x : {1.0, -2.5, 1.00390625, 1.01171875, 65519.0, 65520.0, 1e-8, 6e-8, 3e38}) {
    const auto single = static_cast<float>(x);
    const double same = static_cast<double>(single);
    EXPECT_EQ(static_cast<double>(widen(bf16{static_cast<std::uint16_t>(pack<bf16>(single, 0))})), rounded(DType::bf16, same)) << x;
    EXPECT_EQ(static_cast<double>(widen(f16{static_cast<std::uint16_t>(pack<f16>(0, single) >> 16)})), rounded(DType::f16, same)) << x;
    EXPECT_EQ(static_cast<double>(unpack<bf16>(pack<bf16>(single, 5), 0)), rounded(DType::bf16, same)) << x;
    EXPECT_EQ(static_cast<double>(unpack<f16>(pack<f16>(5, single), 1)), rounded(DType::f16, same)) << x;
  }
}

}  // namespace
}  // namespace window_matmul::cuda
