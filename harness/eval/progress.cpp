#include "harness/eval/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harness/statistics/accuracy.h"
#include "harness/text.h"

namespace moecheck::harness::eval {
namespace {

constexpr http::Nanoseconds kWindow = 30 * http::kSecond;

double percent(std::int64_t k, std::int64_t n) {
  return 100.0 * static_cast<double>(k) / static_cast<double>(n);
}

}  // namespace

std::string clock_text(double seconds) {
  const auto s = static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

std::string score_text(std::int64_t right, std::int64_t n) {
  if (n == 0) return "-";
  const Interval i = wilson(right, n);
  return fmt::format("{:.2f}% [{:.2f}, {:.2f}]", percent(right, n), 100 * i.low, 100 * i.high);
}

Flips flips(const Evaluation& evaluation) {
  Flips f;
  if (evaluation.arms().size() != 2) return f;
  const Arm &a = evaluation.arms()[0], &b = evaluation.arms()[1];
  const std::size_t n = evaluation.complete_prefix();
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t q = evaluation.order()[i];
    if (a.states[q] != State::kAnswered || b.states[q] != State::kAnswered) continue;
    ++f.pairs;
    const bool a_right = a.samples[q].scores[0].right, b_right = b.samples[q].scores[0].right;
    f.regressions += a_right && !b_right;
    f.fixes += b_right && !a_right;
  }
  return f;
}

std::string Progress::line(const Evaluation& evaluation, http::Nanoseconds now) {
  std::int64_t done = 0, settled = 0, failed = 0, retries = 0;
  for (const Arm& arm : evaluation.arms()) {
    done += arm.answered + arm.failed;
    settled += arm.answered + arm.failed - arm.resumed;
    failed += arm.failed;
    retries += arm.retries;
  }
  const auto all = static_cast<std::int64_t>(evaluation.questions() * evaluation.arms().size());
  history_.emplace_back(now, settled);
  while (history_.size() > 2 && now - history_[1].first > kWindow) history_.pop_front();
  const double span = static_cast<double>(now - history_.front().first) * 1e-9;
  const double rate = span > 0 ? static_cast<double>(settled - history_.front().second) / span : 0;
  std::string text = fmt::format("{}/{}", grouped(done), grouped(all));
  if (rate > 0) text += fmt::format("  {:.1f}/s", rate);
  for (std::size_t i = 0; i < evaluation.arms().size(); ++i) {
    const Arm& arm = evaluation.arms()[i];
    const std::string label =
        evaluation.arms().size() > 1 ? std::string(1, static_cast<char>('A' + i)) : evaluation.filter();
    text += fmt::format("  {} {}", label, score_text(arm.right, arm.answered));
  }
  if (evaluation.arms().size() == 2) {
    const Flips f = flips(evaluation);
    text += fmt::format("  {} worse, {} better", f.regressions, f.fixes);
  }
  if (rate > 0 && done < all)
    text += fmt::format("  {} left", clock_text(static_cast<double>(all - done) / rate));
  if (retries > 0) text += fmt::format("  {}", retries == 1 ? "1 retry" : grouped(retries) + " retries");
  if (failed > 0) text += fmt::format("  {} failed", grouped(failed));
  return text;
}

std::string open_text(const Run& run) {
  const Summary sum = summarize(run);
  if (sum.failed == 0) return {};
  std::string text = fmt::format("{} without an answer, in no score above:\n", count(sum.failed, "question"));
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> errors;  // how many, and one document
  for (const Sample& s : run.samples)
    if (s.failed) {
      auto& [n, doc] = errors.emplace(s.error, std::pair{0, s.doc_id}).first->second;
      ++n;
    }
  std::size_t shown = 0;
  for (const auto& [error, what] : errors) {
    if (++shown > 5) {
      text += fmt::format("  and {} more kinds of error\n", errors.size() - 5);
      break;
    }
    text += fmt::format("  {} x {} (document {})\n", what.first, printable(error, 200), what.second);
  }
  for (const FilterSummary& f : sum.filters)
    text += fmt::format("  {}: between {:.2f}% (were they all wrong) and {:.2f}% (all right) of {}\n",
                        f.filter, percent(f.accuracy.right, sum.asked),
                        percent(f.accuracy.right + sum.failed, sum.asked), grouped(sum.asked));
  return text;
}

}  // namespace moecheck::harness::eval
