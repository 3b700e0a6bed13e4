// python/bindings/torch_cpu_memory.cpp: what Python may ask of the memory that is kept for large results.
#include <torch/csrc/stable/library.h>

#include "kept_blocks.hpp"

namespace window_matmul::binding {
namespace {

std::int64_t kept_bytes() { return KeptBlocks::instance().bytes(); }
std::int64_t give_back() { return KeptBlocks::instance().give_back(); }

}  // namespace
}  // namespace window_matmul::binding

STABLE_TORCH_LIBRARY_FRAGMENT(window_matmul, library) {
  library.def("_kept_bytes() -> int");
  library.def("_give_back() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(window_matmul, CompositeExplicitAutograd, library) {
  using namespace window_matmul::binding;
  library.impl("_kept_bytes", TORCH_BOX(&kept_bytes));
  library.impl("_give_back", TORCH_BOX(&give_back));
}
