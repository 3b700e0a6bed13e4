// src/device_info.cpp: what this processor can do: the only place of the core that asks the hardware.
#include <unistd.h>

#include "window_matmul/backends.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif

#ifndef WINDOW_MATMUL_EMULATE_AVX512
#define WINDOW_MATMUL_EMULATE_AVX512 0
#endif

namespace window_matmul {
namespace {

#if defined(__x86_64__)
std::uint64_t enabled_state() {  // XCR0: the register state that the operating system saves
  std::uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (std::uint64_t{high} << 32) | low;
}

// Tile registers are large: Linux saves those of a process that has asked for them. Once for all of its threads.
bool is_granted_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool is_amd() {
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(0, &a, &b, &c, &d) != 0 && b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
}

void ask_cpuid(DeviceInfo& info) {
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
  const auto has = [](std::uint32_t word, int bit) { return (word >> bit & 1u) != 0; };
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || !has(c, 27)) return;  // OSXSAVE
  const std::uint64_t state = enabled_state();
  const bool avx = (state & 0x6) == 0x6 && has(c, 28), fma_and_f16c = has(c, 12) && has(c, 29);
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return;
  info.avx2 = avx && fma_and_f16c && has(b, 5);
  const bool avx512 = (state & 0xe6) == 0xe6 && has(b, 16) && has(b, 17) && has(b, 30) && has(b, 31);  // F, DQ, BW, VL
  info.avx512 = info.avx2 && (avx512 || WINDOW_MATMUL_EMULATE_AVX512);
  const bool tiles = (state & 0x60000) == 0x60000 && has(d, 22) && has(d, 24);  // TILECFG and TILEDATA; AMX-BF16 and AMX-TILE
  const bool pairs = a > 0 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && has(a, 5);  // AVX512_BF16
  info.avx512bf16 = info.avx512 && (WINDOW_MATMUL_EMULATE_AVX512 || pairs), info.fast_bf16 = info.avx512bf16 && is_amd();
  info.amx = info.avx512 && (WINDOW_MATMUL_EMULATE_AVX512 || (tiles && pairs && is_granted_tiles()));
}
#else
void ask_cpuid(DeviceInfo&) {}
#endif

std::size_t cache_bytes(int name, std::size_t otherwise) {
  const long bytes = sysconf(name);
  return bytes > 0 ? static_cast<std::size_t>(bytes) : otherwise;
}

}  // namespace

bool is_on(DeviceInfo::Kind taken, const DeviceInfo& device, std::string* why_not) {
  if (device.kind == taken) return true;
  *why_not =
      taken == DeviceInfo::Kind::cpu ? "takes tensors on the CPU; these are on a GPU" : "takes tensors on a GPU; these are on the CPU";
  return false;
}

const DeviceInfo& this_device() {
  static const DeviceInfo info = [] {
    DeviceInfo found;
    ask_cpuid(found);
    found.l1_bytes = cache_bytes(_SC_LEVEL1_DCACHE_SIZE, found.l1_bytes);
    found.l2_bytes = cache_bytes(_SC_LEVEL2_CACHE_SIZE, found.l2_bytes);
    return found;
  }();
  return info;
}

}  // namespace window_matmul
