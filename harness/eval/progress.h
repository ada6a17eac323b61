#pragma once
// How far a run is, in one line: done of all, rate, score so far with its interval, time left.
#include <deque>
#include <string>
#include <utility>

#include "harness/eval/evaluation.h"

namespace moecheck::harness::eval {

// The flips between two arms over the questions that both have answered, in the order's complete prefix: what may be
// watched while the run goes on (harness/statistics/paired.h, log_e_value).
struct Flips {
  std::int64_t pairs = 0, regressions = 0, fixes = 0;  // regressions: A right, B wrong
};
Flips flips(const Evaluation& evaluation);

class Progress {
 public:
  // "512/1,319  38.2/s  strict-match 94.73% [92.41, 96.37]  0:21 left  3 retries  1 failed". `now` in monotonic
  // nanoseconds; call it with growing times. The rate is of the last half minute.
  std::string line(const Evaluation& evaluation, http::Nanoseconds now);

 private:
  std::deque<std::pair<http::Nanoseconds, std::int64_t>> history_;
};

std::string clock_text(double seconds);  // "0:07", "12:40", "1:02:03"
// "94.73% [92.41, 96.37]": k of n with Wilson's 95% interval; "-" for n = 0.
std::string score_text(std::int64_t right, std::int64_t n);
// What the run leaves open: failures by their last error, and the score's bounds should all of them be wrong or right.
// Empty where every question was answered.
std::string open_text(const Run& run);

}  // namespace moecheck::harness::eval
