#pragma once
// Threads for the CPU versions: a fixed pool that sleeps between calls. Own code, because OpenMP's and
// oneTBB's synchronization is invisible to ThreadSanitizer, which then reports races that do not exist.
#include <cstdint>
#include <type_traits>

#include "optimized/fault.h"

namespace moecheck::MOECHECK_OPTIMIZED {

using TaskFunction = void (*)(void* context, std::int64_t task, int worker);

// Runs task(context, i, worker) once for each i in [0, tasks), worker in [0, threads); returns when all are
// done. Which worker gets which task varies: results must not depend on it. With one thread, and when another
// call is under way, the caller does it all alone.
void run_tasks(int threads, std::int64_t tasks, TaskFunction task, void* context);

template <class F>
void parallel_for(int threads, std::int64_t tasks, F&& body) {
  using Body = std::remove_reference_t<F>;
  run_tasks(
      threads, tasks,
      [](void* context, std::int64_t task, int worker) { (*static_cast<Body*>(context))(task, worker); },
      &body);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
