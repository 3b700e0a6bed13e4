// tests/sanitized/address_checks.cpp: AddressSanitizer's checks of single accesses, in the place of its library's.
//
// Kernels are compiled with checks that are calls: others take minutes to compile. The library's own check of a vector is a general one,
// for ranges of any length, and sanitized tests spent half of their time in it. A program's definition comes before that of a shared
// library.
#include "address_checks.hpp"

using window_matmul::testing_tools::Address;
using window_matmul::testing_tools::may_touch;

#define WINDOW_MATMUL_CHECK(access, bytes)                                  \
  void __asan_##access##bytes(Address first);                               \
  void __asan_##access##bytes(Address first) {                              \
    if (!may_touch(first, bytes)) __asan_report_##access##_n(first, bytes); \
  }
#define WINDOW_MATMUL_CHECKS(access)                                      \
  void __asan_report_##access##_n(Address first, Address size);           \
  void __asan_##access##N(Address first, Address size);                   \
  void __asan_##access##N(Address first, Address size) {                  \
    if (!may_touch(first, size)) __asan_report_##access##_n(first, size); \
  }                                                                       \
  WINDOW_MATMUL_CHECK(access, 1)                                          \
  WINDOW_MATMUL_CHECK(access, 2)                                          \
  WINDOW_MATMUL_CHECK(access, 4)                                          \
  WINDOW_MATMUL_CHECK(access, 8)                                          \
  WINDOW_MATMUL_CHECK(access, 16)

extern "C" {
WINDOW_MATMUL_CHECKS(load)
WINDOW_MATMUL_CHECKS(store)
}
