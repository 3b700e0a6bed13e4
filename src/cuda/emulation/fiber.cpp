// src/cuda/emulation/fiber.cpp: switching stacks: twenty instructions on x86-64, ucontext elsewhere.
#include "cuda/emulation/fiber.hpp"

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace window_matmul::cuda::emulation {
namespace {

constexpr std::size_t kStackBytes = 128 << 10;  // kernels compiled without optimisation keep all their registers there

}  // namespace

#if defined(__x86_64__)
// ucontext saves the signal mask with a system call at each switch, and a kernel's run is millions of them. What a call must preserve is
// pushed, the stacks are exchanged, and the other fiber's registers popped.
extern "C" void window_matmul_switch_stack(void** save, void* load);
__asm__(
    ".text\n"
    ".globl window_matmul_switch_stack\n"
    ".hidden window_matmul_switch_stack\n"
    ".type window_matmul_switch_stack, @function\n"
    "window_matmul_switch_stack:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size window_matmul_switch_stack, .-window_matmul_switch_stack\n");

struct Fiber::Machine {
  std::unique_ptr<std::byte[]> stack = std::make_unique_for_overwrite<std::byte[]>(kStackBytes);
  void* here = nullptr;  // the fiber's stack while it is suspended
  void (*body)(void*) = nullptr;
  void* context = nullptr;
  std::size_t number = machines++;
  static inline std::size_t machines = 0;
  static inline void* scheduler = nullptr;  // its stack while a fiber runs
  static inline Machine* starting = nullptr;

  static void enter() {
    Machine* self = starting;
    self->body(self->context);
    __builtin_trap();  // the body returned
  }
};

void Fiber::start(void (*body)(void*), void* context) {
  machine_->body = body, machine_->context = context;
  // Stacks lie whole pages apart: were they used from the same place on, those of a warp would contend for the same few sets of the cache.
  const std::size_t unused = machine_->number % 32 * 128;
  const auto end = reinterpret_cast<std::uintptr_t>(machine_->stack.get() + kStackBytes - unused) & ~std::uintptr_t{15};
  void* frame[8] = {nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, reinterpret_cast<void*>(&Machine::enter), nullptr};
  machine_->here = reinterpret_cast<void*>(end - sizeof frame);  // `enter` finds the stack as after a call: 8 bytes off a multiple of 16
  std::memcpy(machine_->here, frame, sizeof frame);
}
void Fiber::resume() {
  Machine::starting = machine_;
  window_matmul_switch_stack(&Machine::scheduler, machine_->here);
}
void Fiber::suspend() { window_matmul_switch_stack(&machine_->here, Machine::scheduler); }
void Fiber::hand_over(Fiber& next) {
  Machine::starting = next.machine_;
  window_matmul_switch_stack(&machine_->here, next.machine_->here);
}
#else
struct Fiber::Machine {
  std::unique_ptr<std::byte[]> stack = std::make_unique_for_overwrite<std::byte[]>(kStackBytes);
  ucontext_t here{};
  void (*body)(void*) = nullptr;
  void* context = nullptr;
  static inline ucontext_t scheduler{};
  static inline Machine* starting = nullptr;

  static void enter() {
    Machine* self = starting;
    self->body(self->context);
    __builtin_trap();
  }
};

void Fiber::start(void (*body)(void*), void* context) {
  machine_->body = body, machine_->context = context;
  getcontext(&machine_->here);
  machine_->here.uc_stack.ss_sp = machine_->stack.get(), machine_->here.uc_stack.ss_size = kStackBytes;
  makecontext(&machine_->here, &Machine::enter, 0);
}
void Fiber::resume() {
  Machine::starting = machine_;
  swapcontext(&Machine::scheduler, &machine_->here);
}
void Fiber::suspend() { swapcontext(&machine_->here, &Machine::scheduler); }
void Fiber::hand_over(Fiber& next) {
  Machine::starting = next.machine_;
  swapcontext(&machine_->here, &next.machine_->here);
}
#endif

// Stacks are kept for the next fibers, until the end: fresh pages cost more than a small kernel.
std::vector<Fiber::Machine*>& Fiber::spare() {
  static std::vector<Machine*> machines;
  return machines;
}
Fiber::Fiber() {
  if (spare().empty()) spare().push_back(new Machine);
  machine_ = spare().back();
  spare().pop_back();
}
Fiber::~Fiber() { spare().push_back(machine_); }

}  // namespace window_matmul::cuda::emulation
