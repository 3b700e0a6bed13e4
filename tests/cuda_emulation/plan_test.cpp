// tests/cuda_emulation/plan_test.cpp: the choice of kernels for GPUs that are not here.
#include "cuda/plan.hpp"

#include <gtest/gtest.h>

namespace window_matmul::cuda {
namespace {

Problem problem(Op op, DType dtype, index_t dim) {
  Problem p;
  p.op = op, p.dtype = dtype, p.dim = dim, p.band = {512, 512, 64, 64, 0};
  return p;
}

constexpr Device kDevices[] = {{8, 0, 108, 163 << 10}, {8, 6, 84, 99 << 10},    {8, 9, 128, 99 << 10},
                               {9, 0, 132, 227 << 10}, {10, 0, 148, 227 << 10}, {12, 0, 170, 99 << 10}};

TEST(Plan, FitsEveryDevice) {
  for (const Device& device : kDevices)
    for (const Op op : {Op::band_out, Op::band_in, Op::band_in_transposed})
      for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16})
        for (const index_t dim : {0, 64, 65, 1000}) {
          std::string why_not;
          const Problem p = problem(op, dtype, dim);
          ASSERT_TRUE(supports(p, device, &why_not)) << why_not;
          const Plan plan = configure(p, device);
          EXPECT_LE(plan.shared_bytes, device.shared_bytes_per_block);
          EXPECT_EQ(plan, configure(p, device));
          EXPECT_EQ(plan.panels, op != Op::band_out && dim > 64 && dtype != DType::f64 ? 2 : 1);
        }
}

TEST(Plan, RefusesWithAReason) {
  std::string why_not;
  EXPECT_FALSE(supports(problem(Op::band_out, DType::f32, 64), {.major = 7, .minor = 5}, &why_not));
  EXPECT_NE(why_not.find("8.0"), std::string::npos);
  EXPECT_TRUE(supports(problem(Op::attention, DType::f32, 64), {}, &why_not)) << why_not;
  EXPECT_FALSE(supports(problem(Op::attention, DType::f32, 200), {}, &why_not));
  EXPECT_NE(why_not.find("up to 128"), std::string::npos) << why_not;
  Problem extreme = problem(Op::attention, DType::f32, 64);
  extreme.attention.scale = 0x1p50;
  EXPECT_FALSE(supports(extreme, {}, &why_not));
  EXPECT_NE(why_not.find("scale"), std::string::npos) << why_not;
}

// Gradients of every head dim: halves to 256, others to 128.
TEST(Plan, GradientsOfFusedAttentionFitEveryDevice) {
  for (const Device& device : kDevices)
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16})
      for (const index_t dim : {1, 64, 65, 128, 256}) {
        Problem p = problem(Op::attention_backward, dtype, dim);
        p.heads = 4, p.attention.kv_heads = 2, p.attention.value_dim = 8;
        std::string why_not;
        ASSERT_EQ(supports(p, device, &why_not), dim <= (size_of(dtype) == 2 ? 256 : 128)) << why_not;
        if (why_not.empty()) {
          EXPECT_LE(configure(p, device).shared_bytes, device.shared_bytes_per_block);
        }
      }
  Problem p = problem(Op::attention_backward, DType::bf16, 64);
  p.heads = 4, p.attention.kv_heads = 2, p.dilation = {1, 1, 3, 3};
  std::string why_not;
  EXPECT_TRUE(supports(p, {}, &why_not)) << why_not;
  p.dilation = {1, 1, 3, 2};
  EXPECT_FALSE(supports(p, {}, &why_not));
  EXPECT_NE(why_not.find("differ in dilation"), std::string::npos) << why_not;
}

TEST(Plan, SplitsFactorsOfFp32ProductsOnly) {
  for (const Op op : {Op::band_out, Op::band_in, Op::band_in_transposed, Op::softmax, Op::softmax_backward})
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
      Problem p = problem(op, dtype, 64);
      EXPECT_EQ(configure(p, {}).precision, Precision::highest);
      p.precision = Precision::high;
      const bool splits = dtype == DType::f32 && op != Op::softmax && op != Op::softmax_backward;
      EXPECT_EQ(configure(p, {}).precision, splits ? Precision::high : Precision::highest);
    }
}

// At w = 128 a row is held by 8 threads in halves, by 16 in fp32 and by 32 in fp64; backward by 16 in halves.
TEST(Plan, ThreadsOfASoftmaxRow) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16})
    for (const Op op : {Op::softmax, Op::softmax_backward}) {
      Problem p = problem(op, dtype, 0);
      p.band.left = p.band.right = 128;
      const int fewest = op == Op::softmax_backward && size_of(dtype) == 2 ? 16 : 4 * static_cast<int>(size_of(dtype));
      EXPECT_EQ(configure(p, {}).lanes, fewest);
      p.band.left = 100'000;
      EXPECT_EQ(configure(p, {}).lanes, 256);
      EXPECT_GT(configure(p, {}).shared_bytes, 0u);
    }
}

// Aligned vectors of a line lie `phase` elements before where they are asked for, whatever the stride.
TEST(Plan, PhasesReachAlignment) {
  for (const std::uintptr_t element : {2u, 4u, 8u})
    for (index_t stride = -20; stride <= 20; ++stride)
      for (std::uintptr_t address = 4096; address < 4096 + 64; address += element) {
        const std::uintptr_t alignment = row_alignment(stride, element);
        const index_t phase = phase_of(address, stride, element);
        EXPECT_LE(phase, kMaxPhase);
        EXPECT_GE(alignment, element);
        for (std::uintptr_t line = 0; line < 3; ++line) {
          const std::uintptr_t first =
              address - static_cast<std::uintptr_t>(phase) * element + line * static_cast<std::uintptr_t>(stride) * element;
          EXPECT_EQ(first % alignment, 0u);
        }
      }
}

}  // namespace
}  // namespace window_matmul::cuda
