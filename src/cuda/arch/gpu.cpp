// src/cuda/arch/gpu.cpp: launching a plan's kernel on a GPU.
#include "cuda/arch/gpu.hpp"
#include "cuda/arch/enqueue.hpp"
#include "cuda/kernels/attention/shape.hpp"
#include "cuda/kernels/elements.hpp"

namespace window_matmul::cuda {

int run_on_gpu(const Problem& problem, const Plan& plan, const Args& args, void* stream) {
  int error = 0;
  if (is_attention(problem.op)) {
    const std::size_t bytes = attention_workspace(problem);
    void* workspace = bytes > 0 ? args.memory.take(args.memory.context, bytes) : nullptr;
    for (const AttentionLaunch& launch : attention_launches_of(problem, args.attention, workspace))
      with_element(plan, [&]<class E>() {
        const int head_dim = launch.kernel == AttentionKernel::join ? kJoinHeadDim : plan.head_dim;
        with_head_dim<E>(head_dim, [&]<int Dim>() {
          if (error == 0) error = enqueue_attention<E, Dim>(plan, launch, stream);
        });
      });
    return error;
  }
  for (const Launch& launch : launches_of(problem, args))
    with_element(plan, [&]<class E>() {
      if (error == 0) error = enqueue<E>(plan, launch, stream);
    });
  return error;
}

}  // namespace window_matmul::cuda
