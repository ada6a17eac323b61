// When requests are due.
#include <fmt/format.h>

#include <cmath>

#include "harness/case.h"
#include "harness/load/workload.h"
#include "harness/random.h"

namespace moecheck::harness::load {
namespace {

// Numbers of one stream in order: rejection takes as many as it needs.
class Draws {
 public:
  explicit Draws(const Random& random) : random_(random) {}
  double open_uniform() {  // (0, 1)
    return (static_cast<double>(random_.bits(next_++) >> 12) + 0.5) * 0x1p-52;
  }
  double normal() {  // Box and Muller, one of the pair
    const double radius = std::sqrt(-2 * std::log(open_uniform()));
    return radius * std::cos(2 * M_PI * open_uniform());
  }

 private:
  Random random_;
  std::uint64_t next_ = 0;
};

// Mean `shape`, by Marsaglia and Tsang, "A simple method for generating gamma variables" (2000): exact, not an
// approximation. Below shape 1: G(a) = G(a+1) U^(1/a).
double gamma_variate(Draws& draws, double shape) {
  if (shape < 1) {
    const double boosted = gamma_variate(draws, shape + 1);
    return boosted * std::pow(draws.open_uniform(), 1 / shape);
  }
  const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double x = draws.normal();
    const double root = 1 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root;
    if (std::log(draws.open_uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

double rate_of(const Arrivals& a, std::int64_t index, std::int64_t count) {
  if (a.ramp_up.empty()) return a.request_rate;
  const double progress = count > 1 ? static_cast<double>(index) / static_cast<double>(count - 1) : 0;
  if (a.ramp_up == "linear") return a.ramp_start + (a.ramp_end - a.ramp_start) * progress;
  return a.ramp_start * std::pow(a.ramp_end / a.ramp_start, progress);
}

void check_arrivals(const Arrivals& a) {
  if (!(a.burstiness > 0))
    throw UsageError(
        fmt::format("burstiness {} must be above 0: 1 is Poisson, less is burstier", a.burstiness));
  if (a.ramp_up.empty()) {
    if (!(a.request_rate > 0))
      throw UsageError(fmt::format("request rate {} must be above 0, or inf", a.request_rate));
    return;
  }
  if (a.ramp_up != "linear" && a.ramp_up != "exponential")
    throw UsageError(fmt::format("ramp-up '{}' is not known: linear or exponential", a.ramp_up));
  if (!(a.ramp_start > 0) || !(a.ramp_end > 0))
    throw UsageError(fmt::format("ramp-up from {} to {} requests per second: both must be above 0",
                                 a.ramp_start, a.ramp_end));
}

}  // namespace

std::vector<double> arrival_times(const Arrivals& a, std::int64_t count) {
  check_arrivals(a);
  Draws draws(Random(a.seed, "arrivals"));
  std::vector<double> due;
  due.reserve(static_cast<std::size_t>(count));
  double now = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double rate = rate_of(a, i, count);
    if (std::isinf(rate)) {
    } else if (std::isinf(a.burstiness)) {
      now += 1 / rate;
    } else {
      now += gamma_variate(draws, a.burstiness) / (rate * a.burstiness);
    }
    due.push_back(now);
  }
  if (a.ramp_up.empty() && now > 0) {
    const double scale = static_cast<double>(count) / a.request_rate / now;
    for (double& t : due) t *= scale;
  }
  return due;
}

}  // namespace moecheck::harness::load
