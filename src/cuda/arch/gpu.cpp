// src/cuda/arch/gpu.cpp: launching a plan's kernel on a GPU.
#include "cuda/arch/gpu.hpp"
#include "cuda/arch/enqueue.hpp"
#include "cuda/kernels/attention/shape.hpp"
#include "cuda/kernels/elements.hpp"

namespace window_matmul::cuda {

namespace {

void* workspace_of(const Args& args, std::size_t bytes) { return bytes > 0 ? args.memory.take(args.memory.context, bytes) : nullptr; }

int run_backward(const Problem& problem, const Plan& plan, const Args& args, void* stream) {
  int error = 0;
  void* workspace = workspace_of(args, backward_workspace(problem, args.attention));
  for (const AttentionLaunch& launch : backward_launches_of(problem, args.attention, workspace))
    with_element(plan, [&]<class E>() {
      with_head_dim<E>(plan.head_dim, [&]<int Dim>() {
        if (error == 0) error = enqueue_backward<E, Dim>(plan, launch, stream);
      });
    });
  return error;
}

}  // namespace

int run_on_gpu(const Problem& problem, const Plan& plan, const Args& args, void* stream) {
  int error = 0;
  if (problem.op == Op::attention_backward) return run_backward(problem, plan, args, stream);
  if (problem.op == Op::attention) {
    void* workspace = workspace_of(args, attention_workspace(problem));
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
