// Judge of mqa_logits: valid columns by their bounds, the others by the fill rule, top-k as a set.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "harness/fault.h"
#include "harness/judge.h"
#include "harness/operators/mqa_logits.h"

namespace moecheck::harness {
namespace {

using reference::LogitsTail;
using reference::MqaLogitsOptions;
using reference::TokenRange;

// As in judge_elements: bounds this large beside the data would let a wrong implementation through.
constexpr double kVacuousRatio = 0.05;
// That as many are 0 has a probability of 2^-64 at most.
constexpr std::int64_t kMany = 64;

class LogitsJudge {
 public:
  LogitsJudge(const Case& c, const TensorSet& inputs, const reference::MqaLogits& want,
              const TensorSet& outputs, Judgement& j)
      : c_(c),
        o_(mqa_logits_options(c)),
        want_(want),
        logits_(outputs.at("logits")),
        before_(o_.tail == LogitsTail::kPrefilled ? inputs.find("logits") : nullptr),
        indices_(outputs.find("topk_indices")),
        j_(j) {}

  void run() {
    for (std::int64_t r = 0; r < o_.rows(); ++r) {
      tokens(r);
      tail(r);
      if (indices_ != nullptr) topk(r);
    }
    trust();
  }

 private:
  void tokens(std::int64_t r) {
    const TokenRange& seen = want_.range[at(r)];
    const auto& open = want_.open[at(r)];
    const ConstView view = logits_.view();
    double d2 = 0, e2 = 0;
    for (std::int64_t n = seen.first; n < seen.last; ++n) {
      const std::size_t k = at(n - seen.first);
      if (!open.empty() && open[k] != 0) {
        ++open_;
        continue;
      }
      const std::int64_t i = r * o_.row_stride + n - seen.base;
      const Bounded& e = want_.logit[at(r)][k];
      judge_number(j_, logits_, i, e);
      ++compared_;
      exact_ = exact_ && e.is_exact();
      unbounded_ = unbounded_ || !std::isfinite(e.proven);
      lowest_ = std::fmin(lowest_, e.value), highest_ = std::fmax(highest_, e.value);
      const double g = view.at(i);
      if (!std::isfinite(g) || !std::isfinite(e.value)) continue;
      d2 += (g - e.value) * (g - e.value), e2 += e.value * e.value;
      g2_ += g * g, eg_ += g * e.value, bound2_ += e.suspect_bound() * e.suspect_bound();
      signed_ += g - e.value, bounds_ += e.proven;
    }
    d2_ += d2, e2_ += e2;
    if (e2 > 0) j_.metrics.max_relative_row = std::max(j_.metrics.max_relative_row, std::sqrt(d2 / e2));
  }

  // The columns that belong to no token, and the padding of a buffer that the caller has filled.
  void tail(std::int64_t r) {
    if (o_.tail == LogitsTail::kUndefined) return;
    const TokenRange& seen = want_.range[at(r)];
    const std::int64_t begin = seen.first - seen.base, end = seen.last - seen.base;
    const std::int64_t columns = before_ != nullptr ? o_.row_stride : o_.width;
    for (std::int64_t col = 0; col < columns; ++col) {
      if (col >= begin && col < end) continue;
      const std::int64_t i = r * o_.row_stride + col;
      ++j_.elements;
      const double got = logits_.view().at(i);
      if (HARNESS_FAULT(kLogitsFillUnchecked) || before_ == nullptr
              ? HARNESS_FAULT(kLogitsFillUnchecked) || got == -INFINITY
              : same(i))
        continue;
      const bool padding = col >= o_.width;
      fail_element(
          j_, logits_, i, padding ? before_->view().at(i) : -INFINITY, got,
          padding ? fmt::format("row {} was written {} elements past its {} columns", r, col - o_.width + 1,
                                o_.width)
          : col < begin
              ? fmt::format("column {} lies before token {}, the first that row {} sees", col, seen.first, r)
              : fmt::format("column {} is past the {} tokens that row {} sees", col, seen.size(), r));
    }
  }

  bool same(std::int64_t i) const {
    const auto size = static_cast<std::size_t>(reference::size_bytes(o_.dtype));
    return std::memcmp(logits_.data() + at(i) * size, before_->data() + at(i) * size, size) == 0;
  }

  void topk(std::int64_t r) {
    const auto* row = indices_->view().as<std::int32_t>() + r * o_.topk;
    std::int64_t near_ties = 0;
    j_.elements += o_.topk;
    // Some select before logits are rounded to their dtype, some after: either way half a step of it more.
    std::vector<Bounded> logits = want_.logit[at(r)];
    for (Bounded& e : logits)
      if (o_.dtype != DType::kF32) e = reference::round_to(o_.dtype, e, reference::Rounding::kAny);
    if (const auto why = reference::topk_fault(logits, want_.open[at(r)], row, o_.topk, &near_ties)) {
      fail_element(j_, *indices_, r * o_.topk,
                   static_cast<double>(reference::topk_of(want_.logit[at(r)], o_.topk)[0]), row[0],
                   fmt::format("row {}: {}", r, *why));
      return;
    }
    j_.undecided += near_ties;
    if (near_ties > 0)
      j_.raise(Verdict::kUndecided, "tokens of the top-k were exchanged within their logits' error bounds");
  }

  // A comparison that could not have failed.
  void trust() {
    if (e2_ > 0 && g2_ > 0) {
      j_.metrics.cosine = std::min(j_.metrics.cosine, eg_ / std::sqrt(e2_ * g2_));
      j_.metrics.nmse = std::max(j_.metrics.nmse, d2_ / e2_);
      j_.metrics.calc_diff = std::max(j_.metrics.calc_diff, 1 - 2 * eg_ / (e2_ + g2_));
      if (bounds_ > 0) j_.metrics.bias = signed_ / bounds_;
    }
    if (open_ > 0) {
      j_.undecided += open_;
      j_.raise(Verdict::kUndecided,
               fmt::format("{} logits of NaN codes are not compared: relu drops a NaN or keeps it", open_));
    }
    if (compared_ == 0) return;
    const bool about_equals = !c_.edits.empty() || data_is(c_, "negative") || data_is(c_, "near_ties");
    if (data_is(c_, "integers") && !exact_)
      j_.raise(Verdict::kMistrusted,
               "the exact tier of logits has bounds other than 0: its data are not exact");
    if (unbounded_) j_.raise(Verdict::kMistrusted, "logits has elements without a finite bound");
    if (about_equals) return;
    // Equal logits are how a zeroed region looks, and top-k over them is arbitrary. Relu alone makes a few equal by chance.
    const bool many = compared_ >= kMany;
    if (many && e2_ == 0)
      j_.raise(Verdict::kMistrusted,
               "every logit of the reference is 0: a kernel that writes zeros would pass (vllm#52109)");
    else if (many && lowest_ == highest_)
      j_.raise(
          Verdict::kMistrusted,
          "all logits of the reference are equal: a kernel that writes one number would pass (vllm#52109)");
    if (bound2_ > kVacuousRatio * kVacuousRatio * e2_ && e2_ > 0)
      j_.raise(Verdict::kMistrusted,
               fmt::format("the bounds of logits are {:.1f}% of the data: too wide to find a wrong element",
                           100 * std::sqrt(bound2_ / e2_)));
  }

  const Case& c_;
  const MqaLogitsOptions o_;
  const reference::MqaLogits& want_;
  const Tensor& logits_;
  const Tensor* before_;
  const Tensor* indices_;
  Judgement& j_;
  std::int64_t compared_ = 0, open_ = 0;
  bool exact_ = true, unbounded_ = false;
  double lowest_ = INFINITY, highest_ = -INFINITY;
  double d2_ = 0, e2_ = 0, g2_ = 0, eg_ = 0, bound2_ = 0, signed_ = 0, bounds_ = 0;
};

}  // namespace

void judge_mqa_logits(const Case& c, const TensorSet& inputs, const MqaLogitsExpected& expected,
                      const TensorSet& outputs, Judgement& j) {
  LogitsJudge(c, inputs, expected.logits, outputs, j).run();
}

}  // namespace moecheck::harness
