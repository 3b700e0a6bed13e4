// tests/cpp/select_test.cpp: which row of the kernel table runs a problem, on this machine and on invented ones, and why the others do not.
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "trial.hpp"
#include "window_matmul/backends.hpp"

namespace window_matmul {
namespace {

const DeviceInfo kPlain{}, kAvx2{.avx2 = true}, kAvx512{.avx2 = true, .avx512 = true},
    kSlowPairs{.avx2 = true, .avx512 = true, .avx512bf16 = true},
    kPairs{.avx2 = true, .avx512 = true, .avx512bf16 = true, .fast_bf16 = true},
    kAmx{.avx2 = true, .avx512 = true, .avx512bf16 = true, .amx = true};

const Kernel* chosen(const DeviceInfo& device, const char* forced = nullptr, const Problem& problem = {}) {
  const Kernel* kernel = nullptr;
  const Status status = select(problem, device, forced, &kernel);
  EXPECT_EQ(status.ok(), kernel != nullptr) << status.message();
  return kernel;
}

std::string reason(const std::string& row, const DeviceInfo& device) {
  for (const Verdict& v : verdicts(Problem{}, device)) {
    if (v.name == row) return v.why_not;
  }
  return "not in the table";
}

bool is_built(const std::string& row) { return reason(row, kAvx512).find("not built") == std::string::npos; }

TEST(KernelTable, NamesEveryRowOnceBestFirst) {
  std::set<std::string> names;
  int last = 1 << 30;
  for (const Kernel& kernel : kernel_table()) {
    EXPECT_TRUE(names.insert(kernel.name).second) << kernel.name << " twice";
    EXPECT_LT(kernel.priority, last) << kernel.name;
    last = kernel.priority;
  }
  EXPECT_EQ(names, (std::set<std::string>{"cuda.sm80", "cpu.amx", "cpu.avx512bf16", "cpu.avx512", "cpu.avx2", "cpu.scalar", "reference"}));
  EXPECT_STREQ(kernel_table().back().name, "reference");
}

TEST(Select, TakesTheBestThatTheDeviceHas) {
  EXPECT_STREQ(chosen(kPlain)->name, "cpu.scalar");
  EXPECT_STREQ(chosen(kAvx2)->name, is_built("cpu.avx2") ? "cpu.avx2" : "cpu.scalar");
  EXPECT_STREQ(chosen(kAvx512)->name, is_built("cpu.avx512") ? "cpu.avx512" : is_built("cpu.avx2") ? "cpu.avx2" : "cpu.scalar");
}

TEST(Select, TakesEveryOperatorAndDTypeAlike) {
  for (const DeviceInfo& device : {kPlain, kAvx2, kAvx512}) {
    for (const Op op : testing_tools::kOps) {
      for (const DType dtype : testing_tools::kDTypes) {
        EXPECT_EQ(chosen(device, nullptr, {.op = op, .dtype = dtype, .band = {9, 9, 1, 1, 0}, .dim = 4}), chosen(device));
      }
    }
  }
}

// AMX multiplies bf16 alone. Whatever else is asked for is the next row's.
TEST(Select, TakesTilesForFusedAttentionOfBf16) {
  if (!is_built("cpu.amx")) return;
  for (const Op op : {Op::band_out, Op::band_in, Op::softmax, Op::attention, Op::attention_backward}) {
    for (const DType dtype : testing_tools::kDTypes) {
      const Problem problem{.op = op, .dtype = dtype, .band = {9, 9, 1, 1, 0}, .dim = 4, .attention = {.kv_heads = 1, .value_dim = 4}};
      const bool tiles = is_attention(op) && dtype == DType::bf16;
      EXPECT_STREQ(chosen(kAmx, nullptr, problem)->name, tiles ? "cpu.amx" : chosen(kAvx512)->name) << to_string(problem);
    }
  }
  EXPECT_NE(reason("cpu.amx", kAvx512).find("AMX"), std::string::npos);
  EXPECT_NE(reason("cpu.amx", kAmx).find("bf16"), std::string::npos) << "of fp32";
}

// Products of pairs are chosen where they are fast.
TEST(Select, TakesPairsForBf16) {
  if (!is_built("cpu.avx512bf16")) return;
  for (const Op op : {Op::band_out, Op::band_in, Op::softmax, Op::attention, Op::attention_backward}) {
    for (const DType dtype : testing_tools::kDTypes) {
      const Problem problem{.op = op, .dtype = dtype, .band = {9, 9, 1, 1, 0}, .dim = 4, .attention = {.kv_heads = 1, .value_dim = 4}};
      const bool pairs = dtype == DType::bf16;
      EXPECT_STREQ(chosen(kPairs, nullptr, problem)->name, pairs ? "cpu.avx512bf16" : chosen(kAvx512)->name) << to_string(problem);
      EXPECT_EQ(chosen(kSlowPairs, nullptr, problem), chosen(kAvx512, nullptr, problem)) << to_string(problem);
      EXPECT_EQ(chosen(kSlowPairs, pairs ? "cpu.avx512bf16" : nullptr, problem), chosen(kPairs, nullptr, problem)) << to_string(problem);
    }
  }
  EXPECT_NE(reason("cpu.avx512bf16", kAvx512).find("AVX-512 BF16"), std::string::npos);
  EXPECT_NE(reason("cpu.avx512bf16", kPairs).find("bf16 alone"), std::string::npos) << "of fp32";
}

TEST(Select, TakesTheForcedRowAndNoOther) {
  for (const char* row : {"cpu.avx512", "cpu.avx2", "cpu.scalar", "reference"}) {
    if (!is_built(row)) continue;
    EXPECT_STREQ(chosen(kAvx512, row)->name, row);
  }
  EXPECT_EQ(chosen(kAvx512, ""), chosen(kAvx512)) << "an empty name forces nothing";
}

TEST(Select, RefusesAForcedRowThatTheDeviceLacksWithEveryReason) {
  const Kernel* kernel = &kernel_table().front();
  const Problem problem{.op = Op::band_in, .band = {7, 9, 2, 1, 0}, .dim = 5};
  const Status status = select(problem, kPlain, "cpu.avx2", &kernel);
  EXPECT_EQ(status.code(), StatusCode::unsupported);
  EXPECT_EQ(kernel, nullptr);
  EXPECT_NE(status.message().find(to_string(problem)), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("'cpu.avx2'"), std::string::npos) << status.message();
  for (const Verdict& v : verdicts(problem, kPlain)) {
    const std::string line = "\n  " + v.name + ": " + (v.why_not.empty() ? "usable" : v.why_not);
    EXPECT_NE(status.message().find(line), std::string::npos) << line << " in: " << status.message();
  }
}

TEST(Select, RefusesNamesThatAreNotInTheTable) {
  for (const char* name : {"cpu", "cpu.avx", "cpu.avx22", "CPU.AVX2", " reference", "auto"}) {
    const Kernel* kernel = &kernel_table().front();
    const Status status = select({}, kAvx512, name, &kernel);
    EXPECT_EQ(status.code(), StatusCode::invalid_argument) << name;
    EXPECT_EQ(kernel, nullptr);
    EXPECT_NE(status.message().find("'" + std::string(name) + "'"), std::string::npos) << status.message();
    for (const Kernel& row : kernel_table()) EXPECT_NE(status.message().find(row.name), std::string::npos) << status.message();
  }
}

TEST(Verdicts, SayWhy) {
  EXPECT_EQ(reason("reference", kPlain), "");
  EXPECT_EQ(reason("cpu.scalar", kPlain), "");
  const DeviceInfo gpu{.kind = DeviceInfo::Kind::cuda, .major = 9};
  for (const Verdict& v : verdicts(Problem{}, gpu)) EXPECT_NE(v.why_not, "") << v.name << " without a library of CUDA kernels";
  if (is_built("cpu.avx2")) {
    EXPECT_NE(reason("cpu.avx2", kPlain).find("AVX2"), std::string::npos);
    EXPECT_EQ(reason("cpu.avx2", kAvx2), "");
  }
  if (is_built("cpu.avx512")) {
    EXPECT_NE(reason("cpu.avx512", kAvx2).find("AVX-512"), std::string::npos);
    EXPECT_EQ(reason("cpu.avx512", kAvx512), "");
  }
}

TEST(ThisDevice, IsTheSameEachTime) {
  EXPECT_EQ(this_device(), this_device());
  EXPECT_TRUE(this_device().avx2 || !this_device().avx512) << "AVX-512 without AVX2";
  EXPECT_GE(this_device().l2_bytes, this_device().l1_bytes);
  EXPECT_GE(this_device().l1_bytes, 1024u);
}

TEST(Configure, IsAFunctionOfProblemAndDeviceAlone) {
  for (const Kernel& kernel : kernel_table()) {
    for (const index_t dim : {index_t{0}, index_t{1}, index_t{64}, index_t{100'000}, kUnbounded}) {
      const Problem problem{.band = {4096, 4096, 128, 128, 0}, .dim = dim};
      const Config config = kernel.configure(problem, kAvx512);
      EXPECT_EQ(config, kernel.configure(problem, kAvx512)) << kernel.name;
      if (kernel.name != std::string("cuda.sm80")) {  // its plan is tested with its kernels
        EXPECT_TRUE(config.block_rows > 0 && config.block_keys > 0) << kernel.name << " dim " << dim;
      }
    }
  }
}

TEST(Spin, CountsItsMultiplyAdds) {
  for (const Kernel& kernel : kernel_table()) {
    std::string why_not;
    if (kernel.spin == nullptr || !kernel.supports({}, this_device(), &why_not)) continue;
    for (const DType dtype : testing_tools::kDTypes) {
      EXPECT_GT(kernel.spin(dtype, 1), 0) << kernel.name;
      EXPECT_EQ(kernel.spin(dtype, 1000), 1000 * kernel.spin(dtype, 1)) << kernel.name;
    }
  }
  EXPECT_EQ(kernel_table().back().spin, nullptr);
}

// Sets the variable for one test; the process' own value comes back.
class BackendVariable : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* value = std::getenv(kName)) before_ = value;
  }
  void TearDown() override { set(before_ ? before_->c_str() : nullptr); }
  void set(const char* value) {
    if (value != nullptr)
      setenv(kName, value, 1);
    else
      unsetenv(kName);
  }
  static Status run(const char* option) {
    testing_tools::Trial trial(Op::band_out, {.rows = 3, .cols = 3, .window = {1, 1}}, 1);
    return trial.run({.backend = option});
  }

 private:
  static constexpr const char* kName = "WINDOW_MATMUL_BACKEND";
  std::optional<std::string> before_;
};

TEST_F(BackendVariable, ForcesARowUnlessTheCallNamesOne) {
  set("cpu.abacus");
  const Status status = run(nullptr);
  EXPECT_EQ(status.code(), StatusCode::invalid_argument);
  EXPECT_NE(status.message().find("WINDOW_MATMUL_BACKEND"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("'cpu.abacus'"), std::string::npos) << status.message();
  EXPECT_EQ(run("reference").message(), "");
  set("reference");
  EXPECT_EQ(run(nullptr).message(), "");
  EXPECT_FALSE(run("cpu.abacus").ok());
  for (const char* nothing : {"", static_cast<const char*>(nullptr)}) {
    set(nothing);
    EXPECT_EQ(run(nullptr).message(), "");
  }
}

}  // namespace
}  // namespace window_matmul
