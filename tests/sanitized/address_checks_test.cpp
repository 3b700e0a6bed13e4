// tests/sanitized/address_checks_test.cpp: the checks of this program find what those of AddressSanitizer's library find.
#include <gtest/gtest.h>
#include <sanitizer/asan_interface.h>

#include <cstddef>
#include <memory>
#include <string>

#include "address_checks.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

// Every access within, across and beside the ends of blocks of every length; those of the library walk the same shadow by other code.
TEST(AddressChecks, SayWhatTheLibrarySays) {
  for (std::size_t length = 1; length <= 80; ++length) {
    const auto block = std::make_unique<std::byte[]>(length);
    for (std::byte* first = block.get() - 16; first < block.get() + length + 16; ++first)
      for (const std::size_t size : {1, 2, 3, 4, 8, 16, 31, 32, 64})
        ASSERT_EQ(may_touch(reinterpret_cast<Address>(first), size), __asan_region_is_poisoned(first, size) == nullptr)
            << size << " bytes from byte " << first - block.get() << " of " << length;
  }
}

struct Two {
  double x[2];
};
struct Vector {
  float x[8];
};
template <class T>
[[gnu::noipa]] void copy(const std::byte* from, std::byte* to) {
  *reinterpret_cast<T*>(to) = *reinterpret_cast<const T*>(from);
}

template <class T>
class AddressChecksOf : public testing::Test {};
using Types = testing::Types<char, short, int, double, Two, Vector>;
TYPED_TEST_SUITE(AddressChecksOf, Types);

TYPED_TEST(AddressChecksOf, AskedByCode) {
  const std::size_t size = sizeof(TypeParam);
  const auto block = std::make_unique<std::byte[]>(3 * size);
  std::byte *first = block.get(), *behind = first + 3 * size;
  copy<TypeParam>(first, behind - size);
  EXPECT_DEATH(copy<TypeParam>(behind, first), "heap-buffer-overflow(.|\n)*READ of size " + std::to_string(size));
  EXPECT_DEATH(copy<TypeParam>(first, behind), "heap-buffer-overflow(.|\n)*WRITE of size " + std::to_string(size));
}

}  // namespace
}  // namespace window_matmul
