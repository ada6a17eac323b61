// Weights of the chosen experts: the second half of gating.h.
#include <cmath>

#include "reference/gating.h"
#include "reference/gating_scores.h"

namespace moecheck::reference {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kEpsilon = 1e-20;
constexpr Bounded kUnbounded{0, kInf, kInf};

// Relative roundings of one weight, in u: a / b or a * (1 / b) with a hardware reciprocal is within 4 ulp;
// the epsilon is one addition; routed_scaling_factor is itself rounded to fp32 and multiplies once.
constexpr double kDivideUlps = 7, kScaleUlps = 2;

double divisor(Epsilon epsilon, double sum) {
  switch (epsilon) {
    case Epsilon::kNone:
      return sum;
    case Epsilon::kAdd:
      return sum + kEpsilon;
    case Epsilon::kMax:
      return std::fmax(sum, kEpsilon);
    case Epsilon::kGuard:
      return sum > 0 ? sum : 1;
  }
  return sum;
}

// A divisor before its epsilon: its values at the two ends of the quotient, and the least it may be.
struct Sum {
  double value, at_top, at_bottom, least, sigma;
};

// Weights are never negative, whatever their bound: scores are not, and (s + b) - b keeps the order of s and
// 0.
double lowest(const Bounded& w) { return std::fmax(0, w.value - w.proven); }
double highest(const Bounded& w) { return w.value + w.proven; }

// The sum of w and the rest, which moves with w: w's own share of the error cancels as it does in the
// quotient.
Sum sum_with(const Bounded& w, const Bounded& rest) {
  return {w.value + rest.value, highest(w) + lowest(rest), lowest(w) + highest(rest),
          lowest(w) + lowest(rest), rest.sigma};
}

// A sum that was rounded to a narrow dtype on its own.
Sum sum_apart(const Bounded& sum) { return {sum.value, lowest(sum), highest(sum), lowest(sum), sum.sigma}; }

// q = w / D(sum), with `ulps` roundings on top. Rising in w and falling in the sum: the corners are the
// bound.
Bounded quotient(const Bounded& w, const Sum& sum, Epsilon epsilon, double ulps) {
  if (highest(w) == 0 && sum.at_bottom == 0 && epsilon != Epsilon::kNone) return Bounded::exact(0);
  if (sum.least == 0 && epsilon == Epsilon::kNone) return kUnbounded;
  const double d = divisor(epsilon, sum.value), q = w.value / d;
  double top = highest(w) / divisor(epsilon, sum.at_top),
         bottom = lowest(w) / divisor(epsilon, sum.at_bottom);
  if (sum.least == 0 && epsilon == Epsilon::kGuard)
    bottom = 0, top = 1;                                           // the guard bites, or w is all there is
  const double rest = std::fabs(d - w.value), step = ulps * kU32;  // dq/dw = rest / d^2
  const double sigma = (rest * w.sigma + w.value * sum.sigma) / (d * d);
  const double proven = std::fmax(top - q, q - bottom) + step * top + kFlushed32;
  // A sum that may vanish does so by flushing, to every weight at once: no noise that averages out.
  return {q, sum.least == 0 ? proven : sigma + 0.5 * step * q + kFlushed32, proven};
}

Bounded times(const Bounded& b, double factor, double ulps) {
  const double v = b.value * factor, f = std::fabs(factor), step = ulps * kU32 * std::fabs(v);
  if (b.is_exact() && v == 0) return b;
  return {v, b.sigma * f + 0.5 * step + kFlushed32, b.proven * f + step + kFlushed32};
}

Bounded minus(const Bounded& sum, const Bounded& part) {
  return {sum.value - part.value, std::fmax(0, sum.sigma - part.sigma),
          std::fmax(0, sum.proven - part.proven)};
}

}  // namespace

// The score, or (s + b) - b, which has lost up to u |c| and rounds once more.
static Bounded raw_weight(const GatingOptions& o, const GatingRow& row, std::int64_t id) {
  const auto e = static_cast<std::size_t>(id);
  const Bounded& s = row.score[e];
  if (o.policy.weight_from == WeightFrom::kScore || !o.has_bias) return s;
  const double lost = kU32 * (std::fabs(row.choice[e].value) + std::fabs(s.value));
  return {s.value, s.sigma + 0.58 * lost, s.proven + lost};
}

void Gating::weights(const GatingRow& row, const std::vector<std::int64_t>& ids,
                     std::vector<Bounded>& weights, const std::vector<bool>* masked) const {
  const auto& p = options_.policy;
  const auto topk = ids.size();
  weights.resize(topk + static_cast<std::size_t>(options_.shared));
  if (row.undefined) return weights.assign(weights.size(), kUnbounded);

  Bounded sum;  // before its own rounding
  for (std::size_t k = 0; k < topk; ++k) {
    const bool zero = masked && (*masked)[k] && !options_.has_bias;
    weights[k] = zero ? Bounded::exact(0) : raw_weight(options_, row, ids[k]);
    sum.value += weights[k].value;
    sum.sigma += weights[k].sigma;
    sum.proven += weights[k].proven;
  }
  const double additions = static_cast<double>(topk) - 1;
  const DType narrow = p.precision == Precision::kAll ? options_.logits_dtype : DType::kF32;
  const double factor = scales_weights() ? options_.routed_scaling_factor : 1;
  const Bounded rounded = narrow == DType::kF32 ? sum : round_score(narrow, times(sum, 1, additions));
  for (std::size_t k = 0; k < topk; ++k) {
    Bounded& w = weights[k];
    if (renormalizes() && narrow == DType::kF32) {
      w = quotient(w, sum_with(w, minus(sum, w)), p.epsilon,
                   additions + kDivideUlps + (p.epsilon == Epsilon::kAdd));
    } else if (renormalizes()) {
      w = round_score(narrow, quotient(w, sum_apart(rounded), p.epsilon, kDivideUlps));
    }
    if (factor != 1) w = times(w, factor, kScaleUlps);
    if (factor != 1 && narrow != DType::kF32) w = round_score(narrow, w);
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(options_.shared); ++i) {
    weights[topk + i] = shared_weight(row, static_cast<std::int64_t>(i), times(sum, 1, additions));
  }
}

// S / rsf is renormalized and scaled with the row: (S / rsf) / S, and * rsf. The same computed S above and
// below, so its own error cancels; some kernels instead sum the topk finished weights and divide those by
// rsf.
Bounded Gating::shared_weight(const GatingRow& row, std::int64_t slot, const Bounded& routed_sum) const {
  const auto& p = options_.policy;
  const double rsf = options_.routed_scaling_factor;
  switch (p.shared_weights) {
    case SharedWeight::kNone:
      return Bounded::exact(0);
    case SharedWeight::kUnit:
      return Bounded::exact(1);
    case SharedWeight::kConstant:
      return Bounded::exact(static_cast<float>(options_.shared_weight));
    case SharedWeight::kGated:
      return row.gate[static_cast<std::size_t>(slot)];
    case SharedWeight::kUnitIfRenorm:
      if (renormalizes()) return Bounded::exact(1);
      break;
    case SharedWeight::kPreRenorm:
      break;
  }
  const double topk = static_cast<double>(options_.topk);
  const DType narrow = p.precision == Precision::kAll ? options_.logits_dtype : DType::kF32;
  Bounded w = renormalizes()
                  ? quotient(routed_sum, sum_with(routed_sum, {}), p.epsilon, 3 * topk + 2 * kDivideUlps)
                  : routed_sum;
  w = times(w, 1 / rsf, kDivideUlps + 1);
  if (narrow !=
      DType::
          kF32) {  // the steps before the last: roundings of known numbers are no noise, so sigma has all of them
    const double steps = 1.5 * unit_roundoff(narrow) * w.value;
    w.proven += steps;
    w.sigma += steps;
  }
  if (p.shared_weights == SharedWeight::kPreRenorm && scales_weights()) w = times(w, rsf, kScaleUlps);
  return narrow == DType::kF32 ? w : round_score(narrow, w);
}

}  // namespace moecheck::reference
