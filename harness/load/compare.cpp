#include "harness/load/compare.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <numeric>
#include <tuple>

#include "harness/load/metrics.h"

namespace moecheck::harness::load {
namespace {

double variance_of(const std::vector<double>& v) {  // of a sample: ddof 1
  const double m = mean_of(v);
  double sum = 0;
  for (const double x : v) sum += (x - m) * (x - m);
  return sum / static_cast<double>(v.size() - 1);
}

struct Figure {
  std::int64_t repeat;
  double value;
};

bool same_repeats(const std::vector<Figure>& a, const std::vector<Figure>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i].repeat != b[i].repeat || (i > 0 && a[i].repeat == a[i - 1].repeat)) return false;
  return true;
}

std::vector<double> logs(const std::vector<Figure>& v) {
  std::vector<double> out;
  for (const Figure& f : v) out.push_back(std::log(f.value));
  return out;
}

// Half the width of the interval of the log ratio.
double half_width(const std::vector<Figure>& a, const std::vector<Figure>& b) {
  const std::vector<double> la = logs(a), lb = logs(b);
  if (same_repeats(a, b)) {
    std::vector<double> d;
    for (std::size_t i = 0; i < la.size(); ++i) d.push_back(lb[i] - la[i]);
    const auto n = static_cast<double>(d.size());
    return student_95(n - 1) * std::sqrt(variance_of(d) / n);
  }
  const double na = static_cast<double>(la.size()), nb = static_cast<double>(lb.size());
  const double va = variance_of(la) / na, vb = variance_of(lb) / nb;
  if (va + vb == 0) return 0;
  return student_95((va + vb) * (va + vb) / (va * va / (na - 1) + vb * vb / (nb - 1))) * std::sqrt(va + vb);
}

Change change_of(std::vector<Figure> a, std::vector<Figure> b, bool more_is_better) {
  const auto by_repeat = [](const Figure& x, const Figure& y) { return x.repeat < y.repeat; };
  std::stable_sort(a.begin(), a.end(), by_repeat);
  std::stable_sort(b.begin(), b.end(), by_repeat);
  Change c;
  const auto values = [](const std::vector<Figure>& v) {
    std::vector<double> out;
    for (const Figure& f : v) out.push_back(f.value);
    return out;
  };
  c.a = mean_of(values(a));
  c.b = mean_of(values(b));
  const auto positive = [](const Figure& f) { return f.value > 0; };
  if (a.empty() || b.empty() || !std::all_of(a.begin(), a.end(), positive) ||
      !std::all_of(b.begin(), b.end(), positive))
    return c;
  const double center = mean_of(logs(b)) - mean_of(logs(a));
  c.relative = std::expm1(center);
  if (a.size() < 2 || b.size() < 2) return c;
  const double half = half_width(a, b);
  c.low = std::expm1(center - half);
  c.high = std::expm1(center + half);
  if (*c.low <= 0 && *c.high >= 0)
    c.meaning = Meaning::kWithinNoise;
  else
    c.meaning = (*c.low > 0) == more_is_better ? Meaning::kBetter : Meaning::kWorse;
  return c;
}

// One point of one arm.
struct Side {
  std::vector<const SavedBench*> valid;
  std::int64_t invalid = 0;

  std::int64_t failed() const {
    return std::accumulate(valid.begin(), valid.end(), std::int64_t{0},
                           [](std::int64_t n, const SavedBench* b) { return n + b->failed; });
  }
  std::vector<Figure> throughput() const {
    std::vector<Figure> out;
    for (const SavedBench* b : valid) out.push_back({b->repeat, b->output_throughput});
    return out;
  }
  std::vector<Figure> mean(const char* metric) const {
    std::vector<Figure> out;
    for (const SavedBench* b : valid)
      if (const auto v = b->statistic(metric, "mean")) out.push_back({b->repeat, *v});
    return out;
  }
  std::optional<double> acceptance() const {
    std::vector<double> all;
    for (const SavedBench* b : valid)
      if (b->acceptance_length) all.push_back(*b->acceptance_length);
    return all.empty() ? std::optional<double>() : mean_of(all);
  }
};

using Key = std::tuple<std::string, double, std::int64_t, std::int64_t, std::int64_t>;

}  // namespace

double student_95(double degrees) {
  constexpr double kTable[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
                               2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
                               2.080,  2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};
  const auto n = static_cast<std::size_t>(std::max(1.0, degrees));
  if (n <= std::size(kTable)) return kTable[n - 1];
  return 1.959964 + 2.3723 / static_cast<double>(n) +
         2.82 / static_cast<double>(n * n);  // Cornish and Fisher
}

std::vector<SweepRow> compare_benches(std::span<const SavedBench> a, std::span<const SavedBench> b) {
  std::map<Key, std::pair<Side, Side>> points;
  std::map<Key, std::string> kinds;
  const auto put = [&](std::span<const SavedBench> all, Side std::pair<Side, Side>::*side) {
    for (const SavedBench& x : all) {
      const Key key{x.dataset, x.request_rate, x.input_len, x.output_len, x.max_concurrency};
      Side& s = points[key].*side;
      if (x.invalid.empty() && x.completed > 0)
        s.valid.push_back(&x);
      else
        ++s.invalid;
      kinds[key] = x.load_kind;
    }
  };
  put(a, &std::pair<Side, Side>::first);
  put(b, &std::pair<Side, Side>::second);
  std::vector<SweepRow> out;
  for (const auto& [key, sides] : points) {
    const auto& [left, right] = sides;
    SweepRow r;
    std::tie(r.dataset, r.request_rate, r.input_len, r.output_len, r.max_concurrency) = key;
    r.load_kind = kinds[key];
    r.runs_a = std::ssize(left.valid);
    r.runs_b = std::ssize(right.valid);
    r.invalid_a = left.invalid;
    r.invalid_b = right.invalid;
    r.failed_a = left.failed();
    r.failed_b = right.failed();
    r.throughput = change_of(left.throughput(), right.throughput(), true);
    r.ttft = change_of(left.mean("ttft"), right.mean("ttft"), false);
    r.tpot = change_of(left.mean("tpot"), right.mean("tpot"), false);
    r.e2el = change_of(left.mean("e2el"), right.mean("e2el"), false);
    r.acceptance_a = left.acceptance();
    r.acceptance_b = right.acceptance();
    out.push_back(std::move(r));
  }
  return out;
}

}  // namespace moecheck::harness::load
