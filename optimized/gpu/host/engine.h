#pragma once
// The machinery of the host executor. Internal.
//
// Every GPU thread is a fiber. A thread that cannot go on (a barrier, a wave operation) picks the next runnable one and switches
// to it directly; the scheduler's own stack is returned to when a block is done or something is wrong.
// Threads have positions, counted over all blocks that are alive: block 0's threads first. `runnable_` is a bit per position.
#include <array>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "optimized/gpu/host/device.h"
#include "optimized/gpu/host/fiber.h"
#include "optimized/gpu/host/shared_memory.h"

namespace moecheck::gpu::host {

inline constexpr int kMaxWave = 64;
inline constexpr const char* kDynamicShared = "dynamic";

// An object whose address stands for one barrier in TSan's eyes, alive until everybody has left that barrier.
struct SyncPoint {
  std::uint64_t users = 0;
};

struct Block;
struct PendingOp;

enum class State : std::uint8_t { kReady, kAtBarrier, kInWaveOp, kPaused, kFinished };

struct Thread : ThreadIdentity {
  State state = State::kReady;
  std::uint32_t position = 0, in_block = 0;
  Block* owner = nullptr;
  Fiber* fiber = nullptr;
  PendingOp* op = nullptr;
  SyncPoint* sync = nullptr;    // to be acquired when it goes on
  std::uint64_t answer = 0;     // of its last wave operation
  Site site;                    // where it waits
  unsigned loads_in_a_row = 0;  // that may be a spin loop
};

// A wave operation some of whose lanes have arrived.
struct PendingOp {
  WaveOp op = WaveOp::kBarrier;
  Site site;
  std::uint64_t named = 0, arrived = 0;  // lanes
  std::array<std::uint64_t, kMaxWave> value;
  std::array<int, kMaxWave> argument;
  SyncPoint* sync = nullptr;
};

struct Wave {
  std::vector<PendingOp*> pending;  // nearly always one at most
  std::uint32_t first = 0;          // position of lane 0
  int lanes = 0;                    // that exist
};

struct Block {
  Dim3 index;
  std::uint32_t first = 0, count = 0, live = 0;  // positions
  std::vector<Wave> waves;
  SharedMemory shared;
  std::uint32_t at_barrier = 0;
  Site barrier_site;
  bool barriers_differ = false;
  SyncPoint* sync = nullptr;
};

class Engine {
 public:
  explicit Engine(const Options& chosen) : options(chosen) {}
  ~Engine();

  // On the fibers of `pool`; nullptr: those of this OS thread.
  void run(const Launch& launch, void (*body)(void*), void* argument, FiberPool* pool = nullptr);
  // Throws Error for a launch that no device accepts.
  void check_launch(const Launch& launch) const;

  // Device side; called on the fibers.
  std::uint64_t wave_operation(WaveOp op, std::uint64_t mask, std::uint64_t value, int argument, Site site);
  void block_barrier(Site site);
  void* shared_array(std::size_t bytes, std::size_t alignment, const char* name, Site site);
  void* dynamic_shared(Site site);
  void spin_pause(Site site);
  void may_spin(Site site);
  void note_progress() { ++progress_; }
  // Ends the kernel. The text is made by a function, so that nothing of it is left on the stack of the fiber that is dropped.
  template <class Text>
  [[noreturn]] void fail(Kind kind, Text text_of) {
    error_.emplace(kind, text_of());
    leave_for_good();
  }
  void thread_turn();

  Thread& current() { return *current_; }

  Options options;
  Statistics statistics;

 private:
  // Scheduling (scheduler.cpp).
  std::size_t shared_limit() const;
  void prepare(std::size_t blocks_alive);
  void start_block(Block& block, std::uint64_t linear);
  void run_alive();
  std::vector<std::uint64_t> block_order(std::uint64_t blocks);
  void leave();  // the running thread cannot go on
  [[noreturn]] void leave_for_good();
  void resume(Thread& next);  // switches to it from whatever runs
  Thread* pick();
  bool wake_paused();
  void set_ready(Thread& t);
  void clear_ready(const Thread& t);
  void abandon();
  std::uint64_t random();

  // Wave operations and barriers (collectives.cpp).
  PendingOp& join(Wave& wave, WaveOp op, std::uint64_t mask, Site site, int lane);
  void complete(Wave& wave, PendingOp& op);
  void answer_all(Wave& wave, PendingOp& op);
  std::uint64_t shuffled(const Wave& wave, const PendingOp& op, int lane);
  void complete_barrier(Block& block);
  void wait(State state, Site site);
  void acquire();
  SyncPoint* make_sync();
  PendingOp* new_op();
  void free_op(PendingOp* op);
  Thread& lane_of(const Wave& wave, int lane) { return threads_[wave.first + static_cast<unsigned>(lane)]; }

  // What is wrong, in words (diagnosis.cpp).
  std::string stuck() const;
  std::string in_block(const Block& block) const;
  std::string thread_ranges(const Block& block) const;

  Launch launch_;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  std::vector<Thread> threads_;  // alive, by position
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<std::unique_ptr<PendingOp>> ops_;
  std::vector<PendingOp*> free_ops_;
  std::vector<std::uint64_t> runnable_;  // bits
  std::uint64_t live_ = 0, paused_ = 0, runnable_count_ = 0;
  std::uint64_t progress_ = 0, progress_seen_ = 0, idle_rounds_ = 0;
  std::uint64_t random_state_ = 0;
  std::uint64_t rotation_ = 0;
  FiberPool* pool_ = nullptr;
  Fiber* scheduler_ = nullptr;
  Thread* current_ = nullptr;
  std::optional<Error> error_;
  std::exception_ptr thrown_;
};

// The engine whose kernel runs on this OS thread.
extern constinit thread_local Engine* running_engine;

std::string text(Dim3 d);
std::string text(Site site);
std::string_view name(WaveOp op);

}  // namespace moecheck::gpu::host
