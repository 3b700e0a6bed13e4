// tests/sanitized/address_checks.hpp: AddressSanitizer's rule for one access, as code compiled with it follows it.
#pragma once

#include <cstdint>

namespace window_matmul::testing_tools {

using Address = std::uintptr_t;
inline constexpr Address kShadow = 0x7fff8000;  // where it begins on x86-64: a byte for each eight

// A byte of the shadow is 0 where all of its eight may be touched, n where the first n of them may, and negative where none.
[[gnu::no_sanitize("address", "undefined")]] inline bool may_touch(Address first, Address size) {
  const Address last = first + size - 1, before_last = (last >> 3) - (first >> 3);
  const auto* shadow = reinterpret_cast<const std::int8_t*>(kShadow + (first >> 3));
  Address n = 0;
  for (; before_last - n > 8; ++n)
    if (shadow[n] != 0) return false;
  std::uint64_t eight;
  __builtin_memcpy(&eight, shadow + n, sizeof eight);
  if (n < before_last && eight << (64 - 8 * (before_last - n)) != 0) return false;
  return shadow[before_last] == 0 || static_cast<std::int8_t>(last & 7) < shadow[before_last];
}

}  // namespace window_matmul::testing_tools
