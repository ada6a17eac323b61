#include "optimized/cpu/thread_pool.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace moecheck::MOECHECK_OPTIMIZED {
namespace {

class ThreadPool {
 public:
  explicit ThreadPool(int helpers) {
    for (int i = 0; i < helpers; ++i) threads_.emplace_back([this, i] { serve(i + 1); });
  }
  ~ThreadPool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& t : threads_) t.join();
  }
  int helpers() const { return static_cast<int>(threads_.size()); }

  void run(int threads, std::int64_t tasks, TaskFunction task, void* context) {
    {
      std::lock_guard lock(mutex_);
      task_ = task, context_ = context, tasks_ = tasks, next_ = 0;
      wanted_ = threads - 1;
      ++generation_;
    }
    wake_.notify_all();
    work(0);
    std::unique_lock lock(mutex_);
    wanted_ = 0;  // whoever has not woken up yet has nothing left to do
    done_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  void work(int worker) {
    for (std::int64_t i; (i = next_.fetch_add(1)) < tasks_;) task_(context_, i, worker);
  }
  void serve(int worker) {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stop_ || generation_ != seen; });
      if (stop_) return;
      seen = generation_;
      if (worker > wanted_) continue;
      ++running_;
      lock.unlock();
      work(worker);
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  std::uint64_t generation_ = 0;
  bool stop_ = false;
  int wanted_ = 0, running_ = 0;
  TaskFunction task_ = nullptr;
  void* context_ = nullptr;
  std::int64_t tasks_ = 0;
  std::atomic<std::int64_t> next_{0};
};

// The process's pool. A forked child has none of its parent's threads: it leaves that pool alone and starts
// its own.
struct PoolOwner {
  std::unique_ptr<ThreadPool> pool;
  std::mutex busy;
  pid_t pid = getpid();
  ~PoolOwner() {
    if (pid != getpid()) static_cast<void>(pool.release());
  }
};
std::atomic<PoolOwner*> inherited{nullptr};

PoolOwner& owner() {
  static PoolOwner first;
  if (first.pid == getpid()) return first;
  PoolOwner* mine = inherited.load();
  if (mine == nullptr || mine->pid != getpid()) {
    auto* fresh = new PoolOwner;  // NOLINT: lives until the child exits
    if (inherited.compare_exchange_strong(mine, fresh)) return *fresh;
    delete fresh;
    mine = inherited.load();
  }
  return *mine;
}

}  // namespace

void run_tasks(int threads, std::int64_t tasks, TaskFunction task, void* context) {
  if (tasks < threads) threads = static_cast<int>(tasks);
  if (threads > 1) {
    PoolOwner& shared = owner();
    if (const std::unique_lock lock(shared.busy, std::try_to_lock); lock) {
      if (!shared.pool || shared.pool->helpers() < threads - 1)
        shared.pool = std::make_unique<ThreadPool>(threads - 1);
      return shared.pool->run(threads, tasks, task, context);
    }
  }
  for (std::int64_t i = 0; i < tasks; ++i) task(context, i, 0);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
