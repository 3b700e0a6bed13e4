// tests/cpp/driver_test.cpp: what people read where there is no driver, or one that is too old.
#include "cuda/driver.hpp"

#include <gtest/gtest.h>

namespace window_matmul::cuda {
namespace {

TEST(Driver, NoneIsNotTooOld) {
  EXPECT_EQ(why_driver_is_refused(0, 13000), "there is no NVIDIA driver; the CUDA kernels need one for CUDA 13.0 or newer");
  EXPECT_EQ(driver_text(0), "none");
}

TEST(Driver, OneThatIsTooOldIsNamedWithWhatIsNeeded) {
  EXPECT_EQ(why_driver_is_refused(12040, 13020),
            "the NVIDIA driver is too old: for CUDA 12.4; the CUDA kernels need one for CUDA 13.0 or newer");
  EXPECT_EQ(driver_text(12040), "for CUDA 12.4");
}

}  // namespace
}  // namespace window_matmul::cuda
