// tests/cuda_emulation/row_test.cpp: the CUDA row of the kernel table, from the public operators down to the kernels: with a runner that
// emulates a GPU, on the memory of this one.
#include <gtest/gtest.h>

#include <algorithm>

#include "attention_trial.hpp"
#include "cuda/arch/emulated.hpp"
#include "cuda/cuda.hpp"
#include "trial.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

constexpr auto kCuda = DeviceInfo::Kind::cuda;
const DeviceInfo kAmpere{.kind = kCuda, .major = 8, .minor = 0, .multiprocessors = 108, .shared_bytes = 163 << 10};

struct Seen {  // of the last run
  Problem problem;
  cuda::Plan plan;
  void* stream = nullptr;
  int runs = 0;
};
Seen seen;

Status run_in_emulation(const Problem& problem, const cuda::Plan& plan, const Args& args) {
  seen = {problem, plan, args.stream, seen.runs + 1};
  const cuda::emulation::Report report = cuda::emulation::run_emulated(problem, plan, args, {});
  return report.ok() ? Status() : Status{StatusCode::device_failed, report.errors.front()};
}
Status run_badly(const Problem&, const cuda::Plan&, const Args&) { return {StatusCode::device_failed, "CUDA: it burns"}; }

class Row : public testing::Test {
 protected:
  void SetUp() override {
    seen = {};
    cuda::set_runner(&runner);
  }
  void TearDown() override { cuda::set_runner(nullptr); }
  cuda::Runner runner{run_in_emulation, "sm_80,sm_90"};
};

std::string reason(const DeviceInfo& device, const Problem& problem = {}, const std::string& row = "cuda.sm80") {
  for (const Verdict& v : verdicts(problem, device))
    if (v.name == row) return v.why_not;
  return "not in the table";
}

DeviceInfo gpu(int major, int minor) {
  return {.kind = kCuda, .major = major, .minor = minor, .multiprocessors = 80, .shared_bytes = 99 << 10};
}

// Those that have a kernel, all five at last, are right; the others say that they have none.
TEST_F(Row, OperatorsAgainstTheirDefinitions) {
  Random random(21);
  int right = 0;
  for (const Op op : kOps) {
    std::string why_not;
    const bool there = cuda::supports({.op = op, .band = {4, 4, 1, 1, 0}, .dim = 4}, {}, &why_not);
    right += there;
    for (const DType dtype : kDTypes)
      for (int n = 0; n < 8; ++n) {
        const index_t rows = random.up_to(150), cols = random.up_to(150), left = random.up_to(40), right_side = random.up_to(40);
        Case c = any_case(random, rows, cols, left, right_side);
        c.dtype = dtype;
        Trial trial(op, within(c, 200'000), random.bits());
        const RunOptions options{.device = &kAmpere};
        if (there)
          ASSERT_TRUE(trial.check(options));
        else
          ASSERT_EQ(trial.run(options).code(), StatusCode::unsupported);
      }
  }
  EXPECT_GE(right, 3);
  EXPECT_GT(seen.runs, 0);
}

TEST_F(Row, IsGivenTheStreamThePlanAndThePrecision) {
  int stream = 0;
  const Case c{.rows = 40, .cols = 50, .window = {3, 4}, .dim = 8};
  for (const Precision precision : {Precision::high, Precision::highest}) {
    Trial trial(Op::band_out, c, 1);
    ASSERT_TRUE(trial.check({.device = &kAmpere, .stream = &stream, .precision = precision}));
    EXPECT_EQ(seen.stream, &stream);
    EXPECT_EQ(seen.problem.precision, precision);
    EXPECT_EQ(seen.plan, cuda::configure(seen.problem, {8, 0, 108, 163 << 10}));
  }
  Case halves = c;
  halves.dtype = DType::bf16;
  Trial trial(Op::band_in, halves, 1);
  ASSERT_TRUE(trial.check({.device = &kAmpere, .precision = Precision::high}));
  EXPECT_EQ(seen.problem.precision, Precision::highest) << "only products of fp32 have another";
}

TEST_F(Row, NothingToDoIsNotRun) {
  Trial trial(Op::band_out, {.rows = 0, .cols = 5, .window = {1, 1}, .dim = 4}, 1);
  EXPECT_EQ(trial.run({.device = &kAmpere}).message(), "");
  EXPECT_EQ(seen.runs, 0);
}

TEST_F(Row, AnErrorOfTheGpuComesBack) {
  runner.run = run_badly;
  Trial trial(Op::band_out, {.rows = 5, .cols = 5, .window = {1, 1}, .dim = 4}, 1);
  const Status status = trial.run({.device = &kAmpere});
  EXPECT_EQ(status.code(), StatusCode::device_failed);
  EXPECT_EQ(status.message(), "CUDA: it burns");
}

TEST_F(Row, TakesWhatItWasCompiledFor) {
  for (const auto& [major, minor] : {std::pair{8, 0}, {8, 6}, {8, 9}, {9, 0}}) EXPECT_EQ(reason(gpu(major, minor)), "");
  for (const auto& [major, minor] : {std::pair{10, 0}, {12, 0}}) {
    const std::string why_not = reason(gpu(major, minor));
    EXPECT_NE(why_not.find("sm_80, sm_90"), std::string::npos) << why_not;
    EXPECT_NE(why_not.find(std::to_string(major) + ".0"), std::string::npos) << why_not;
  }
  EXPECT_NE(reason(gpu(7, 5)).find("8.0"), std::string::npos) << reason(gpu(7, 5));
  runner.compiled_for = "sm_80,sm_90,compute_80";
  for (const auto& [major, minor] : {std::pair{8, 6}, {10, 0}, {12, 0}}) EXPECT_EQ(reason(gpu(major, minor)), "");
}

TEST(RunsOn, FollowsTheRulesOfBinariesAndPtx) {
  EXPECT_TRUE(cuda::runs_on("sm_86", 8, 6) && cuda::runs_on("sm_86", 8, 9) && !cuda::runs_on("sm_86", 8, 0) &&
              !cuda::runs_on("sm_86", 9, 0));
  EXPECT_TRUE(cuda::runs_on("sm_90a", 9, 0) && !cuda::runs_on("sm_100a", 10, 3) && cuda::runs_on("sm_100f", 10, 3));
  EXPECT_TRUE(cuda::runs_on("sm_80,sm_120", 12, 0) && cuda::runs_on("sm_80,sm_120", 12, 1) && !cuda::runs_on("sm_80,sm_120", 10, 0));
  EXPECT_TRUE(cuda::runs_on("sm_90,compute_90", 12, 0) && !cuda::runs_on("sm_90,compute_90", 8, 9));
  EXPECT_FALSE(cuda::runs_on("", 8, 0));
}

TEST_F(Row, EachDeviceHasItsRows) {
  const DeviceInfo cpu{.avx2 = true, .avx512 = true, .avx512bf16 = true, .amx = true};
  for (const Kernel& kernel : kernel_table()) {
    const bool on_gpu = std::string(kernel.name).starts_with("cuda.");
    const std::string there = reason(on_gpu ? kAmpere : cpu, {}, kernel.name), elsewhere = reason(on_gpu ? cpu : kAmpere, {}, kernel.name);
    const bool takes_others = there.starts_with("takes ");  // fused attention, or bf16, alone
    EXPECT_TRUE(there.empty() || there.starts_with("not built") || takes_others) << kernel.name << ": " << there;
    EXPECT_NE(elsewhere, "") << kernel.name;
  }
  EXPECT_NE(reason(cpu).find("these are on the CPU"), std::string::npos) << reason(cpu);
  EXPECT_NE(reason(kAmpere, {}, "cpu.scalar").find("these are on a GPU"), std::string::npos);
}

TEST_F(Row, ARowOfTheOtherDeviceCannotBeForced) {
  for (const char* row : {"cpu.scalar", "reference"}) {
    Trial trial(Op::band_in, {.rows = 5, .cols = 5, .window = {1, 1}, .dim = 4}, 1);
    const Status status = trial.run({.backend = row, .device = &kAmpere});
    EXPECT_EQ(status.code(), StatusCode::unsupported);
    for (const Kernel& kernel : kernel_table()) EXPECT_NE(status.message().find(kernel.name), std::string::npos) << status.message();
  }
  Trial trial(Op::band_in, {.rows = 5, .cols = 5, .window = {1, 1}, .dim = 4}, 1);
  EXPECT_EQ(trial.run({.backend = "cuda.sm80"}).code(), StatusCode::unsupported);
  EXPECT_EQ(trial.run({.backend = "cuda.sm80", .device = &kAmpere}).message(), "");
  EXPECT_EQ(seen.runs, 1);
}

TEST_F(Row, RefusesHeadsOfFusedAttentionThatAreTooLong) {
  Problem problem{.op = Op::attention, .band = {8, 8, 2, 2, 0}, .dim = 4};
  problem.attention.kv_heads = 1, problem.attention.value_dim = 4;
  EXPECT_EQ(reason(kAmpere, problem), "");
  problem.attention.value_dim = 129;
  EXPECT_NE(reason(kAmpere, problem).find("up to 128 in float32: these are 4 and 129"), std::string::npos) << reason(kAmpere, problem);
  const Kernel* kernel = nullptr;
  EXPECT_EQ(select(problem, kAmpere, nullptr, &kernel).code(), StatusCode::unsupported);
  EXPECT_EQ(kernel, nullptr);
  problem.dtype = DType::bf16;
  EXPECT_EQ(reason(kAmpere, problem), "");
  problem.dtype = DType::f64, problem.attention.value_dim = 128;
  EXPECT_EQ(reason(kAmpere, problem), "");
  EXPECT_NE(reason(gpu(8, 6), problem).find("160 KiB of shared memory"), std::string::npos) << reason(gpu(8, 6), problem);
}

// Numbers that differ from sequence to sequence are where the tensors are.
TEST_F(Row, NumbersOfSequencesAreOnTheDevice) {
  AttentionTrial trial({.batch = 2, .queries = 5, .keys = 5, .dim = 4, .value_dim = 4, .window = {2, 2}, .key_lengths = {3, 5}}, 1);
  const Status host = trial.run(Op::attention, {.device = &kAmpere});
  EXPECT_EQ(host.code(), StatusCode::invalid_argument);
  EXPECT_NE(host.message().find("need to be there too"), std::string::npos) << host.message();
  trial.on_gpu = true;
  EXPECT_EQ(trial.run(Op::attention, {.device = &kAmpere}).message(), "");
  const Status device = trial.run(Op::attention, {});
  EXPECT_EQ(device.code(), StatusCode::invalid_argument);
  EXPECT_NE(device.message().find("need tensors there"), std::string::npos) << device.message();
}

TEST(RowWithoutRunner, SaysWhy) {
  const std::string why_not = reason(kAmpere);
  EXPECT_TRUE(why_not.starts_with("not built (") || why_not.find("not loaded") != std::string::npos) << why_not;
  Trial trial(Op::band_out, {.rows = 5, .cols = 5, .window = {1, 1}, .dim = 4}, 1);
  const Status status = trial.run({.device = &kAmpere});
  EXPECT_EQ(status.code(), StatusCode::unsupported);
  EXPECT_NE(status.message().find("cuda.sm80: " + why_not), std::string::npos) << status.message();
}

}  // namespace
}  // namespace window_matmul
