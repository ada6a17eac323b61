// Launches, blocks, and who runs next.
#include <algorithm>
#include <bit>
#include <numeric>

#include "optimized/gpu/host/engine.h"
#include "optimized/gpu/host/sanitizers.h"

namespace moecheck::gpu::host {

constinit thread_local ThreadIdentity* running = nullptr;
constinit thread_local Engine* running_engine = nullptr;

namespace {

// Rounds in which every thread only spins, before it is called a livelock: loops that give up after a few hundred tries are let be.
constexpr std::uint64_t kIdleRounds = 2000;
// Loads in a row that look like a spin loop.
constexpr unsigned kLoadsBeforePause = 32;

// Every fiber loops here: one turn is one GPU thread of one block, whichever engine's.
void entry() {
  for (;;) running_engine->thread_turn();
}

// The fibers of this OS thread, for all of its executors: a fiber is dear to make, under TSan above all.
FiberPool& ordinary_pool() {
  thread_local FiberPool pool;
  return pool;
}

Dim3 unfold(std::uint64_t linear, Dim3 extent) {
  return {static_cast<unsigned>(linear % extent.x), static_cast<unsigned>(linear / extent.x % extent.y),
          static_cast<unsigned>(linear / extent.x / extent.y)};
}

}  // namespace

std::size_t Engine::shared_limit() const {
  if (options.shared_limit != 0) return options.shared_limit;
  return std::size_t{options.wave == 32 ? 227u : 64u} << 10;
}

void Engine::check_launch(const Launch& launch) const {
  const std::uint64_t threads = launch.block.count(), blocks = launch.grid.count();
  const auto refuse = [](const std::string& what) { throw Error(Kind::kLaunch, "launch: " + what); };
  if (options.wave != 32 && options.wave != 64)
    refuse("waves of " + std::to_string(options.wave) + " lanes: use 32 or 64");
  if (launch.wave != 0 && launch.wave != options.wave)
    refuse("a kernel for waves of " + std::to_string(launch.wave) + " lanes on a device whose waves have " +
           std::to_string(options.wave));
  if (threads == 0 || blocks == 0)
    refuse("grid " + text(launch.grid) + " block " + text(launch.block) +
           ": every dimension must be at least 1");
  if (threads > options.max_block_threads)
    refuse("block " + text(launch.block) + " has " + std::to_string(threads) + " threads: at most " +
           std::to_string(options.max_block_threads));
  if (launch.block.z > 64) refuse("block " + text(launch.block) + ": at most 64 in z");
  if (launch.grid.y > 65535 || launch.grid.z > 65535 || launch.grid.x > 0x7FFFFFFF)
    refuse("grid " + text(launch.grid) + ": at most 2147483647 x 65535 x 65535");
  if (launch.dynamic_shared > shared_limit())
    refuse(std::to_string(launch.dynamic_shared) + " bytes of dynamic shared memory: at most " +
           std::to_string(shared_limit()));
  if (launch.all_resident && threads * blocks > options.max_resident_threads)
    refuse(std::to_string(blocks) + " blocks of " + std::to_string(threads) +
           " threads all resident: at most " + std::to_string(options.max_resident_threads) + " threads");
}

// splitmix64
std::uint64_t Engine::random() {
  std::uint64_t z = random_state_ += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

std::vector<std::uint64_t> Engine::block_order(std::uint64_t blocks) {
  std::vector<std::uint64_t> order(blocks);
  std::iota(order.begin(), order.end(), 0);
  if (options.order == Order::kReverse) std::reverse(order.begin(), order.end());
  if (options.order == Order::kSeeded)
    for (std::uint64_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  return order;
}

// Everything that fibers use is allocated here: under TSan nothing may grow while they run.
void Engine::prepare(std::size_t blocks_alive) {
  const auto per_block = static_cast<std::uint32_t>(launch_.block.count());
  const std::size_t count = blocks_alive * per_block;
  while (pool_->fibers.size() < count) pool_->fibers.push_back(std::make_unique<Fiber>(entry));
  threads_.assign(count, Thread());
  runnable_.assign((count + 63) / 64, 0);
  while (blocks_.size() < blocks_alive) blocks_.push_back(std::make_unique<Block>());
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    Block& b = *blocks_[i];
    b.shared.clear();
    b.first = static_cast<std::uint32_t>(i) * per_block;
    b.count = i < blocks_alive ? per_block : 0;
    b.waves.clear();
    if (b.count > 0 && launch_.dynamic_shared > 0)
      b.shared.array(launch_.dynamic_shared, 16, kDynamicShared, {});
    for (std::uint32_t first = 0; first < b.count; first += static_cast<std::uint32_t>(options.wave)) {
      Wave w;
      w.first = b.first + first;
      w.lanes = static_cast<int>(
          std::min<std::uint32_t>(b.count - first, static_cast<std::uint32_t>(options.wave)));
      w.pending.reserve(kMaxWave);
      b.waves.push_back(std::move(w));
    }
  }
  live_ = paused_ = runnable_count_ = idle_rounds_ = 0;
  rotation_ = 0;
}

void Engine::start_block(Block& b, std::uint64_t linear) {
  b.index = unfold(linear, launch_.grid);
  b.live = b.count;
  b.at_barrier = 0;
  b.shared.renew();
  // TSan takes what one fiber does for ordered: thread i of every block must not be the same fiber.
  if (kTsan) ++rotation_;
  for (std::uint32_t i = 0; i < b.count; ++i) {
    Thread& t = threads_[b.first + i];
    t = Thread();
    t.thread = unfold(i, launch_.block);
    t.block = b.index;
    t.block_dim = launch_.block;
    t.grid_dim = launch_.grid;
    t.wave_width = options.wave;
    t.lane = static_cast<int>(i % static_cast<std::uint32_t>(options.wave));
    t.wave_in_block = static_cast<int>(i / static_cast<std::uint32_t>(options.wave));
    t.position = b.first + i;
    t.in_block = i;
    t.owner = &b;
    t.fiber = pool_->fibers[b.first + (i + rotation_) % b.count].get();
    set_ready(t);
  }
  live_ += b.count;
  ++statistics.blocks;
  statistics.threads += b.count;
}

Engine::~Engine() {
  const TsanIgnore ignore;
  threads_ = {};
  blocks_.clear();
  ops_.clear();
}

void Engine::run(const Launch& launch, void (*body)(void*), void* argument, FiberPool* pool) {
  if (running_engine != nullptr) throw Error(Kind::kLaunch, "launch: from inside a kernel");
  check_launch(launch);
  const TsanIgnore ignore;  // the scheduler's own memory; fibers are not meant
  launch_ = launch;
  pool_ = pool != nullptr ? pool : &ordinary_pool();
  body_ = body;
  argument_ = argument;
  random_state_ = options.seed;
  error_.reset();
  thrown_ = nullptr;
  Fiber scheduler{Fiber::ThisThread()};
  scheduler_ = &scheduler;
  current_ = nullptr;
  const std::uint64_t blocks = launch.grid.count();
  prepare(launch.all_resident ? blocks : 1);
  ++statistics.launches;
  tsan_release(&pool_->start_sync);
  running_engine = this;
  const std::vector<std::uint64_t> order = block_order(blocks);
  for (std::uint64_t i = 0; i < blocks && !error_ && !thrown_; ++i) {
    start_block(*blocks_[launch.all_resident ? i : 0], order[i]);
    if (!launch.all_resident || i + 1 == blocks) run_alive();
  }
  if (error_ || thrown_) abandon();
  running_engine = nullptr;
  running = nullptr;
  scheduler_ = nullptr;
  tsan_acquire(&pool_->end_sync);
  if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
  if (error_) throw *error_;
}

void Engine::run_alive() {
  while (live_ > 0 && !error_ && !thrown_) {
    if (Thread* next = pick())
      resume(*next);
    else if (!error_)
      error_ = Error(Kind::kDeadlock, stuck());
  }
  if (error_ || thrown_) return;
  for (const auto& b : blocks_) {
    statistics.shared_bytes = std::max(statistics.shared_bytes, b->shared.bytes());
    if (b->count == 0) continue;
    if (const std::string damage = b->shared.damage(); !damage.empty())
      error_ = Error(Kind::kShared, damage + in_block(*b));
  }
}

// After an error: what waits will never go on. Its frames are dropped, not unwound; kernels own nothing.
void Engine::abandon() {
  for (Thread& t : threads_)
    if (t.fiber != nullptr && t.state != State::kFinished) {
      t.fiber->release_for(&pool_->end_sync, *scheduler_);
      t.fiber->restart();
    }
  for (const auto& b : blocks_)
    for (Wave& w : b->waves) w.pending.clear();
  free_ops_.clear();
  for (const auto& op : ops_) free_ops_.push_back(op.get());
}

void Engine::set_ready(Thread& t) {
  t.state = State::kReady;
  runnable_[t.position / 64] |= std::uint64_t{1} << t.position % 64;
  ++runnable_count_;
}

void Engine::clear_ready(const Thread& t) {
  runnable_[t.position / 64] &= ~(std::uint64_t{1} << t.position % 64);
  --runnable_count_;
}

Thread* Engine::pick() {
  if (runnable_count_ == 0 && !wake_paused()) return nullptr;
  const std::size_t words = runnable_.size();
  if (options.order == Order::kReverse) {
    std::size_t w = words - 1;
    while (runnable_[w] == 0) --w;
    return &threads_[w * 64 + 63 - static_cast<std::size_t>(std::countl_zero(runnable_[w]))];
  }
  std::size_t w = 0;
  if (options.order == Order::kSeeded) {  // the first from a random position on
    const std::size_t start = random() % threads_.size();
    w = start / 64;
    const std::uint64_t behind = runnable_[w] & ~std::uint64_t{0} << start % 64;
    if (behind != 0) return &threads_[w * 64 + static_cast<std::size_t>(std::countr_zero(behind))];
    w = (w + 1) % words;
  }
  while (runnable_[w] == 0) w = w + 1 == words ? 0 : w + 1;
  return &threads_[w * 64 + static_cast<std::size_t>(std::countr_zero(runnable_[w]))];
}

// Everybody who can run has paused: another round, unless rounds have stopped to change anything.
bool Engine::wake_paused() {
  if (paused_ == 0) return false;
  idle_rounds_ = progress_ == progress_seen_ ? idle_rounds_ + 1 : 0;
  progress_seen_ = progress_;
  if (idle_rounds_ > kIdleRounds) {
    error_ = Error(Kind::kLivelock, stuck());
    return false;
  }
  for (Thread& t : threads_)
    if (t.state == State::kPaused) set_ready(t);
  paused_ = 0;
  return true;
}

void Engine::resume(Thread& next) {
  Fiber& from = current_ != nullptr ? *current_->fiber : *scheduler_;
  current_ = &next;
  running = &next;
  ++statistics.switches;
  if (&from != next.fiber) Fiber::switch_to(from, *next.fiber);
}

// The running thread has been taken from the runnable ones. Returns when it was chosen again.
void Engine::leave() {
  Thread& me = *current_;
  Thread* next = error_ || thrown_ ? nullptr : pick();
  if (next == &me) return;
  if (next != nullptr) return resume(*next);
  current_ = nullptr;
  running = nullptr;
  Fiber::switch_to(*me.fiber, *scheduler_);
}

void Engine::wait(State state, Site site) {
  Thread& me = *current_;
  me.state = state;
  me.site = site;
  me.loads_in_a_row = 0;
  clear_ready(me);
  leave();
}

void Engine::spin_pause(Site site) {
  ++paused_;
  wait(State::kPaused, site);
}

void Engine::may_spin(Site site) {
  if (++current_->loads_in_a_row >= kLoadsBeforePause) spin_pause(site);
}

void Engine::leave_for_good() {
  leave();
  std::abort();  // not reached: after an error nobody is switched to
}

// One GPU thread. Nothing of the engine is touched after leave(): the fiber may go on for another one.
void Engine::thread_turn() {
  tsan_acquire(&pool_->start_sync);
  try {
    body_(argument_);
  } catch (...) {
    thrown_ = std::current_exception();
  }
  if (thrown_) leave();
  Thread& me = *current_;
  tsan_release(&pool_->end_sync);
  me.state = State::kFinished;
  clear_ready(me);
  --live_;
  --me.owner->live;
  ++progress_;
  leave();
}

}  // namespace moecheck::gpu::host
