#pragma once
// The host executor: runs a GPU kernel on one CPU thread, a fiber per GPU thread, so that its barriers, wave operations and
// shared memory can be checked where there is no GPU. Kernels reach it through optimized/gpu/gpu.h and know nothing of it.
//
//   Executor executor({.wave = 64, .order = Order::kReverse});
//   UseExecutor here(executor);                                  // gpu::launch() of this OS thread goes to it
//   gpu::launch(kernel<64>, {.grid = 8, .block = 256}, args);
//
// What it checks, and how it says so: Error, whose text names the block, the threads and the source lines.
//   deadlock      a barrier or wave operation is not reached by every thread it names (early return, a lane that left)
//   divergence    threads of one block wait at different barriers
//   livelock      every thread that still runs spins (gpu::spin_pause, gpu::load_acquire) and nobody makes progress
//   lane          a shuffle reads a lane that its mask does not name; an operation whose mask lacks the caller
//   launch        block size, grid, wave width or shared memory out of the device's limits
//   shared        a write behind the end of a shared array, a request for dynamic shared memory that was not launched with
//   alignment     a 16-byte access of an address that is not a multiple of 16
// What sanitizers add. ASan: shared arrays have red zones. TSan: a GPU thread is a TSan fiber, and only barriers, wave barriers
// and the start and end of a kernel order memory: a missing one is a data race whatever the schedule. Shuffles, ballots and
// (relaxed) atomics order nothing.
// What it cannot show: time, occupancy, bank conflicts, the memory order of real hardware between blocks.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "optimized/gpu/types.h"

namespace moecheck::gpu::host {

// Which runnable thread goes next, and which block. kForward: the lowest, kReverse: the highest, so that the first (last) wave
// runs as far ahead as its barriers let it. kSeeded: any.
enum class Order : std::uint8_t { kForward, kReverse, kSeeded };

struct Options {
  int wave = 32;  // lanes of a wave: 32 or 64
  Order order = Order::kForward;
  std::uint64_t seed = 0;  // of kSeeded
  std::size_t shared_limit =
      0;  // bytes of shared memory a block may have; 0: 227 KiB at wave 32 (sm_90), 64 KiB at 64 (CDNA)
  unsigned max_block_threads = 1024;
  std::uint64_t max_resident_threads = 16384;  // of a launch with all blocks resident
};

struct Launch {
  Dim3 grid = 1, block = 1;
  std::size_t dynamic_shared = 0;  // bytes
  bool all_resident = false;  // all blocks run at once, and may wait for each other; else one after the other
  int wave = 0;               // the width the kernel was compiled for; 0: any
};

struct Statistics {
  std::uint64_t launches = 0, blocks = 0, threads = 0;
  std::uint64_t switches = 0;         // from one fiber to another
  std::uint64_t barriers = 0;         // of blocks, completed
  std::uint64_t wave_operations = 0;  // shuffles, votes, reductions, tiles and wave barriers, completed
  std::uint64_t atomics = 0;
  std::size_t shared_bytes = 0;  // the most a block had
};

enum class Kind : std::uint8_t {
  kDeadlock,
  kDivergence,
  kLivelock,
  kLane,
  kLaunch,
  kShared,
  kAlignment,
  kDevice  // of the host API: an argument no device accepts
};

class Error : public std::runtime_error {
 public:
  Error(Kind kind, const std::string& what) : std::runtime_error(what), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

class Engine;

// One OS thread at a time may run it. Usable after an Error.
class Executor {
 public:
  explicit Executor(Options options = {});
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // Calls body(argument) once per GPU thread. Throws Error, or what a body threw.
  void run(const Launch& launch, void (*body)(void*), void* argument);

  const Options& options() const;
  // Takes effect at the next launch.
  void set_options(const Options& options);
  const Statistics& statistics() const;
  void reset_statistics();

  // The executor gpu::launch() uses on this OS thread: the one chosen by UseExecutor, else a default one.
  static Executor& current();

 private:
  friend class UseExecutor;
  friend class Device;  // streams.h
  std::unique_ptr<Engine> engine_;
};

// Chooses the executor of this OS thread for its lifetime.
class UseExecutor {
 public:
  explicit UseExecutor(Executor& executor);
  ~UseExecutor();
  UseExecutor(const UseExecutor&) = delete;
  UseExecutor& operator=(const UseExecutor&) = delete;

 private:
  Executor* before_;
};

// "forward", "reverse", "seed7".
std::string text(Order order, std::uint64_t seed);

}  // namespace moecheck::gpu::host
