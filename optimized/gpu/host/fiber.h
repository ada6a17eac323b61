#pragma once
// A fiber: a stack with a guard page below it, and the point where it was left. Internal to the executor.
#include <cstddef>
#include <memory>
#include <vector>

namespace moecheck::gpu::host {

class Fiber {
 public:
  // Runs entry() when first switched to; entry must not return.
  explicit Fiber(void (*entry)());
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The OS thread itself, as the place from which fibers are entered.
  struct ThisThread {};
  explicit Fiber(ThisThread);

  // Leaves `from`, which must be the running one, for `to`. Returns when somebody switches back.
  static void switch_to(Fiber& from, Fiber& to);
  // Drops what ran on the stack, without unwinding it; the next switch starts entry() anew.
  void restart();

  // TSan: everything the fiber did happens before what acquires `sync` next. From the scheduler, of a fiber that will not go on.
  void release_for(void* sync, const Fiber& running_now);

 private:
  static void begin(void* transfer);
  void arrived(void* from_context, Fiber* from);

  void (*entry_)() = nullptr;
  void* context_ = nullptr;  // where it was left
  char* memory_ = nullptr;   // the mapping: guard page, then the stack
  void* bottom_ = nullptr;   // lowest address of the stack
  std::size_t size_ = 0;
  void* fake_stack_ = nullptr;  // ASan
  void* tsan_ = nullptr;
  int restarts_ = 0;
};

// Fibers for the threads of kernels that run one after the other, with the addresses by which TSan orders a kernel's threads
// after what is before the kernel and before what is after it. TSan takes all that one fiber does for ordered: kernels that
// nothing orders need pools of their own.
struct FiberPool {
  std::vector<std::unique_ptr<Fiber>> fibers;
  char start_sync = 0, end_sync = 0;
};

}  // namespace moecheck::gpu::host
