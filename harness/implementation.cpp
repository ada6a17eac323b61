#include "harness/implementation.h"

#include <chrono>

namespace moecheck::harness {

std::vector<double> Implementation::time_runs(const Case& c, const TensorSet& inputs, TensorSet& outputs,
                                              const RunOptions& options, double seconds) const {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  run(c, inputs, outputs, options);  // warm: pages touched, threads started
  std::vector<double> times;
  for (const auto start = Clock::now(); times.size() < 5 || since(start) < seconds;) {
    const auto one = Clock::now();
    run(c, inputs, outputs, options);
    times.push_back(since(one));
  }
  return times;
}

}  // namespace moecheck::harness
