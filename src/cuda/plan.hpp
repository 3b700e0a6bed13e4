// src/cuda/plan.hpp: which kernel a problem gets on a device, and what its grids are told. Needs neither nvcc nor a GPU.
#pragma once

#include <string>
#include <vector>

#include "cuda/kernels/attention/launch.hpp"
#include "cuda/kernels/choice.hpp"
#include "window_matmul/problem.hpp"

namespace window_matmul::cuda {

struct Device {  // passed in, never asked for here
  int major = 8, minor = 0;  // compute capability
  int multiprocessors = 108;
  std::size_t shared_bytes_per_block = 99 << 10;  // with opt-in
};

index_t most_blocks(const Device& device);  // of a grid

bool supports(const Problem& problem, const Device& device, std::string* why_not);
Plan configure(const Problem& problem, const Device& device);  // needs supports()

// One launch, or one for each head where their dilations differ. None where there is nothing to write.
std::vector<Launch> launches_of(const Problem& problem, const Args& args);

// The same of fused attention (plan_attention.cpp): a launch for each run of neighbouring heads with one dilation.
bool supports_attention(const Problem& problem, const Device& device, std::string* why_not);
Plan configure_attention(const Problem& problem, const Device& device);
std::vector<AttentionLaunch> attention_launches_of(const Problem& problem, const AttentionArgs& args, void* workspace);
// Bytes of the GPU's memory that they need besides.
std::size_t attention_workspace(const Problem& problem);

// Backward, in the order they run (plan_backward.cpp). The workspace is memory of the device, aligned to 16 bytes, that nothing is known
// of.
std::size_t backward_workspace(const Problem& problem, const AttentionArgs& args);
std::vector<AttentionLaunch> backward_launches_of(const Problem& problem, const AttentionArgs& args, void* workspace);

}  // namespace window_matmul::cuda
