// include/window_matmul/backends.hpp: what runs where, and why not.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "window_matmul/problem.hpp"
#include "window_matmul/status.hpp"

namespace window_matmul {

struct DeviceInfo {  // where the tensors are. Passed in, never asked for below `select`: the choice for any device can be tested anywhere
  enum class Kind : std::uint8_t { cpu, cuda } kind = Kind::cpu;

  bool avx2 = false;  // AVX2, FMA and F16C, usable under this operating system
  bool avx512 = false;  // AVX-512 F, BW, DQ and VL, likewise
  bool avx512bf16 = false;  // AVX-512 BF16 beside these
  bool fast_bf16 = false;  // its products of pairs come at the rate of fp32's: AMD's do, those of Intel at a quarter of it
  bool amx = false;  // AMX tiles with products of bf16, granted to this process, and AVX-512 BF16
  std::size_t l1_bytes = 32 << 10, l2_bytes = 512 << 10;  // data cache and second level, of one core

  int major = 0, minor = 0, multiprocessors = 0;  // of a GPU: its compute capability, and how many blocks run side by side at least
  std::size_t shared_bytes = 0;  // of a block there, with opt-in
  friend bool operator==(const DeviceInfo&, const DeviceInfo&) = default;
};
const DeviceInfo& this_device();  // the CPU, by CPUID and XGETBV, once

// Whether the tensors are where a row takes them; otherwise *why_not says so.
bool is_on(DeviceInfo::Kind taken, const DeviceInfo& device, std::string* why_not);

struct Kernel {  // a row of the table
  const char* name;  // "cpu.avx512"
  int priority;  // the highest that supports the problem is taken
  bool (*supports)(const Problem&, const DeviceInfo&, std::string* why_not);
  Config (*configure)(const Problem&, const DeviceInfo&);  // a GPU's row: nothing; its `run` makes a plan for the device in Args
  Status (*run)(const Problem&, const Config&, const Args&);
  // For rooflines: `steps` rounds of independent multiply-adds in registers, in the type that sums of `dtype` have; returns how many they
  // were. Needs the instruction set that `supports` asks for. Null for the reference and for what is emulated.
  index_t (*spin)(DType, index_t steps);
  // Whether another row is faster at whatever this one takes, on such a device: then it runs where it is named. Null: nowhere.
  bool (*is_slower)(const DeviceInfo&) = nullptr;
};
const std::vector<Kernel>& kernel_table();  // highest priority first

// The row for this problem: the first that supports it, or the one that `forced` names (null or "" for none).
// On failure the message lists every row with its reason and *kernel is null.
Status select(const Problem& problem, const DeviceInfo& device, const char* forced, const Kernel** kernel);

// Each row's name and "" or the reason why it refuses this problem.
struct Verdict {
  std::string name, why_not;
};
std::vector<Verdict> verdicts(const Problem& problem, const DeviceInfo& device);

}  // namespace window_matmul
