// src/cuda/emulation/fiber.hpp: threads that take turns: each has a stack, and runs until it hands over.
#pragma once

#include <vector>

namespace window_matmul::cuda::emulation {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Prepares body(context) to run at the next resume(); whatever ran before on this stack is forgotten. The body must not return: it
  // ends by a last suspend().
  void start(void (*body)(void*), void* context);
  void resume();               // from the scheduler: runs the fiber, and those that it hands over to, until one suspends
  void suspend();              // from the fiber itself: back to the scheduler
  void hand_over(Fiber& next);  // from the fiber itself: `next` runs in its place

 private:
  struct Machine;
  static std::vector<Machine*>& spare();
  Machine* machine_;
};

}  // namespace window_matmul::cuda::emulation
