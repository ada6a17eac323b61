#include "harness/statistics/verdict.h"

#include <algorithm>

#include "harness/fault.h"
#include "harness/statistics/planning.h"

namespace moecheck::harness {

std::string_view name(ComparisonVerdict verdict) {
  static constexpr std::string_view kNames[] = {"INVALID RUN", "REGRESSION", "WORSE BUT WITHIN MARGIN",
                                                "NO REGRESSION", "INCONCLUSIVE"};
  return kNames[static_cast<std::size_t>(verdict)];
}

PairedVerdict judge_pairs(const VerdictInput& in) {
  PairedVerdict v;
  const PairedCounts& c = in.counts;
  if (c.n() == 0) return v;
  v.worse_p = mcnemar_worse(c);
  v.two_sided_p = mcnemar_two_sided(c);
  v.noninferiority_p = noninferiority_p(c, in.margin);
  v.proven_margin = proven_margin(c, in.alpha);
  v.interval = tango_interval(c, in.alpha);
  v.log_e_value = log_e_value(c.regressions, c.fixes);
  const bool worse = v.worse_p < in.alpha, within = v.noninferiority_p < in.alpha;
  v.verdict = worse && !within                                      ? ComparisonVerdict::kRegression
              : worse && within                                     ? ComparisonVerdict::kWorseWithinMargin
              : within || HARNESS_FAULT(kVerdictInconclusiveIsFine) ? ComparisonVerdict::kNoRegression
                                                                    : ComparisonVerdict::kInconclusive;
  if (!within) {
    const double psi = std::max(c.discordance(), 1.5 / static_cast<double>(c.n()));
    v.questions_needed = questions_for_margin(psi, in.margin, in.alpha);
  }
  return v;
}

}  // namespace moecheck::harness
