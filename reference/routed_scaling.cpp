#include "reference/routed_scaling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

namespace moecheck::reference {
namespace {

constexpr std::array<std::string_view, kScalePlaces> kPlaceNames = {
    "topk_weights", "topk_weights_and_shared", "reduce",         "output", "shared_add_alpha",
    "runner",       "pre_divided_shared",      "residual_stream"};

constexpr std::array kWeightPlaces = {ScalePlace::kTopkWeights, ScalePlace::kTopkWeightsAndShared};
constexpr std::array kOutputPlaces = {ScalePlace::kReduce, ScalePlace::kOutput, ScalePlace::kSharedAddAlpha,
                                      ScalePlace::kRunner};

std::string joined(const std::vector<std::string_view>& names) {
  std::string text;
  for (const std::string_view n : names) {
    if (!text.empty()) text += " and ";
    text += n;
  }
  return text;
}

std::vector<std::string_view> active_multipliers(const ScalePlan& plan) {
  std::vector<std::string_view> names;
  for (const ScalePlace place : kWeightPlaces)
    if (plan.has(place)) names.push_back(name(place));
  for (const ScalePlace place : kOutputPlaces)
    if (plan.has(place)) names.push_back(name(place));
  return names;
}

bool has_output_place(const ScalePlan& plan) {
  return std::any_of(kOutputPlaces.begin(), kOutputPlaces.end(),
                     [&](ScalePlace place) { return plan.has(place); });
}

bool is_half_form(const ScalePlan& plan) {
  return plan.has(ScalePlace::kRunner) && plan.half_runner && !plan.fused_shared;
}

// Multiplication by an fp32 constant: exact for powers of two.
Bounded times(const Bounded& b, double factor) {
  const double f = static_cast<double>(static_cast<float>(factor));
  int exponent = 0;
  if (std::frexp(f, &exponent) == 0.5) return scaled_exact(b, f);
  return b * Bounded::exact(f);
}

// Every partial sum, in any order, is a multiple of the terms' common quantum and at most sum |c|: exact when
// that fits T.
bool sums_exactly(const std::vector<double>& values, double absolute_sum, DType dtype) {
  const double q = quantum(values.data(), static_cast<std::int64_t>(values.size()));
  return absolute_sum == 0 ||
         (q > 0 && absolute_sum * unit_roundoff(dtype) <= q && q >= min_subnormal(dtype));
}

// The slots added in T in an order nobody promised: each of the n - 1 additions rounds a partial sum of at
// most sum |c|.
Bounded sum_in_dtype_any_order(const std::vector<Bounded>& terms, DType dtype) {
  const auto n = static_cast<std::int64_t>(terms.size());
  Bounded total = sum(terms.data(), n);
  if (n < 2) return n == 0 ? total : round_to(dtype, total);
  std::vector<double> values;
  double absolute = 0, squares = 0, inherited = 0, above = 0, below = 0;
  for (const Bounded& term : terms) {
    values.push_back(term.value);
    absolute += std::fabs(term.value) + term.proven;
    squares += term.value * term.value;
    inherited = std::fmax(inherited, term.proven);
    above += std::fmax(0, term.proven + term.value);
    below += std::fmax(0, term.proven - term.value);
  }
  if (inherited == 0 && sums_exactly(values, absolute, dtype)) return total;
  const double u = unit_roundoff(dtype), count = static_cast<double>(n - 1);
  const double rounded = count * (u * absolute * std::pow(1 + u, count) + min_subnormal(dtype) / 2);
  total.proven += rounded;
  // Some order may reach Inf on the way to a finite sum, and stays there.
  if (std::fmax(above, below) + rounded > max_finite(dtype)) {
    total.proven = total.sigma = std::numeric_limits<double>::infinity();
    return total;
  }
  total.sigma =
      std::sqrt(total.sigma * total.sigma + u * u * count * (total.value * total.value + squares) / 3 +
                count * min_subnormal(dtype) * min_subnormal(dtype) / 12);
  return total;
}

// Slots of one row in the order in which the reduce adds them, without those that are nobody's.
void reduction_order(const std::int64_t* ids, std::int64_t n, ReduceOrder order,
                     std::vector<std::int64_t>& slots) {
  slots.clear();
  for (std::int64_t k = 0; k < n; ++k)
    if (ids[k] >= 0) slots.push_back(k);
  if (order == ReduceOrder::kExpert)
    std::stable_sort(slots.begin(), slots.end(),
                     [&](std::int64_t a, std::int64_t b) { return ids[a] < ids[b]; });
}

}  // namespace

std::string_view name(ScalePlace place) { return kPlaceNames[static_cast<std::size_t>(place)]; }

bool parse_scale_place(std::string_view text, ScalePlace& place) {
  const auto found = std::find(kPlaceNames.begin(), kPlaceNames.end(), text);
  if (found == kPlaceNames.end()) return false;
  place = static_cast<ScalePlace>(found - kPlaceNames.begin());
  return true;
}

std::string_view name(Accumulate accumulate) { return accumulate == Accumulate::kF32 ? "f32" : "dtype"; }

std::string_view name(ReduceOrder order) {
  constexpr std::string_view names[] = {"slot", "expert", "any"};
  return names[static_cast<std::size_t>(order)];
}

//   alpha = rsf^(active places among P1..P6)
//   beta  = slot weight * rsf^(active places among P3..P6)      fused: the slot weighs 1, 1/rsf by P7, 1 by P2
//   beta  = 1                                                   not fused; P6 in its fp16 form: 1/rsf
ScaleCoefficients ScalePlan::coefficients(double rsf, double score_sum) const {
  ScaleCoefficients c;
  const double sum = renormalized ? 1 : score_sum;
  c.alpha = sum;
  for (const ScalePlace place : kWeightPlaces)
    if (has(place)) c.alpha *= rsf;
  if (fused_shared) {
    // Pre-divided slots are computed from the raw scores' sum: without renormalization it stays in them.
    if (has(ScalePlace::kPreDividedShared)) c.beta = sum / rsf;
    if (has(ScalePlace::kTopkWeightsAndShared))
      c.beta = has(ScalePlace::kPreDividedShared) ? c.beta * rsf : sum;
  }
  for (const ScalePlace place : kOutputPlaces) {
    if (!has(place)) continue;
    if (place == ScalePlace::kRunner && is_half_form(*this)) {
      c.beta /= rsf;
      continue;
    }
    c.alpha *= rsf;
    if (fused_shared) c.beta *= rsf;
  }
  c.beta *= shared_copies;
  return c;
}

ScaleCoefficients ScalePlan::target(double rsf, double score_sum) const {
  const double stream = has(ScalePlace::kResidualStream) ? rsf : 1;
  return {rsf * (renormalized ? 1 : score_sum) / stream, 1 / stream};
}

std::optional<std::string> ScalePlan::check() const {
  // Any rsf and score sum that no small products imitate will do: both sides are monomials in them.
  constexpr double kRsf = 2.827, kScoreSum = 1.147439;
  const ScaleCoefficients is = coefficients(kRsf, kScoreSum), want = target(kRsf, kScoreSum);
  const auto equal = [](double a, double b) { return std::fabs(a - b) <= 1e-12 * std::fabs(b); };
  if (equal(is.alpha, want.alpha) && equal(is.beta, want.beta)) return std::nullopt;

  const std::vector<std::string_view> active = active_multipliers(*this);
  if (is_half_form(*this) && !has(ScalePlace::kResidualStream))
    return "runner divides the shared output by routed_scaling_factor (its fp16 form), but the residual "
           "stream is not divided: "
           "the block comes out as (1, 1/rsf). Divide the stream (residual_stream) or multiply the routed "
           "output";
  if (has(ScalePlace::kResidualStream) && !is_half_form(*this))
    return "the residual stream is kept divided by routed_scaling_factor, but the block's output is not: "
           "fp16 and bf16 outputs differ "
           "by more than 1/rsf. Divide the shared part, and leave the routed part unscaled";
  if (active.empty())
    return "no place multiplies by routed_scaling_factor: the routed output is rsf times too small. Activate "
           "exactly one of "
           "topk_weights, reduce, output, shared_add_alpha, runner";
  if (active.size() > 1)
    return joined(active) + " both multiply by routed_scaling_factor: the routed output is scaled " +
           std::to_string(active.size()) + " times" +
           (fused_shared && has_output_place(*this) ? ", and so may be the fused shared slot" : "") +
           ". Keep exactly one of them";
  if (shared_copies != 1)
    return "the shared experts are counted " + std::to_string(static_cast<int>(shared_copies)) +
           " times over the expert-parallel ranks. Weigh the slot 1/ep_size, or give each token to one rank";
  if (!renormalized && fused_shared &&
      (has(ScalePlace::kPreDividedShared) || has(ScalePlace::kTopkWeightsAndShared)))
    return "the fused shared slot is computed from the sum of the routed scores, which renormalization would "
           "remove: without it "
           "the shared output is multiplied by that sum. Use weight 1 and topk_weights, or do not fuse";
  if (fused_shared && has_output_place(*this))
    return std::string(active[0]) +
           " multiplies the whole output, the fused shared slot of weight 1 too: the shared experts come "
           "out rsf times too large. Fold the factor into topk_weights, or add pre_divided_shared";
  return "the fused shared slot weighs 1/routed_scaling_factor, but " + std::string(active[0]) +
         " multiplies only the routed weights: the shared experts come out rsf times too small. Use weight 1";
}

std::string ScalePlan::describe() const {
  std::string text;
  for (int i = 0; i < kScalePlaces; ++i) {
    if (!has(static_cast<ScalePlace>(i))) continue;
    if (!text.empty()) text += '+';
    text += kPlaceNames[static_cast<std::size_t>(i)];
  }
  return text.empty() ? "none" : text;
}

Bounded reduce_slots(const Bounded* terms, const std::int64_t* ids, std::int64_t n, DType dtype,
                     const ReducePolicy& policy) {
  thread_local std::vector<std::int64_t> order;
  thread_local std::vector<Bounded> present;
  reduction_order(ids, n, policy.order, order);
  present.clear();
  for (const std::int64_t k : order) present.push_back(terms[k]);
  if (policy.accumulate == Accumulate::kF32 || dtype == DType::kF32)
    return sum(present.data(), static_cast<std::int64_t>(present.size()));
  if (policy.order == ReduceOrder::kAny) return sum_in_dtype_any_order(present, dtype);
  Bounded total = Bounded::exact(0);
  for (const Bounded& term : present) total = round_to(dtype, total + term);
  return total;
}

Bounded scale_and_add(Bounded reduced, const std::optional<Bounded>& shared, const CombineOptions& options) {
  const ScalePlan& plan = options.plan;
  const double rsf = options.routed_scaling_factor;
  const bool alpha = plan.has(ScalePlace::kSharedAddAlpha), runner = plan.has(ScalePlace::kRunner);
  const bool output = plan.has(ScalePlace::kOutput);
  Bounded addend = shared.value_or(Bounded::exact(0));

  if (plan.has(ScalePlace::kReduce))
    reduced = times(round_to(options.dtype, reduced, options.round_sum), rsf);
  if (output || alpha || runner || shared) reduced = round_to(options.dtype, reduced, options.round_reduced);
  if (output) {
    reduced = times(reduced, rsf);
    if (alpha || runner || shared) reduced = round_to(options.dtype, reduced, options.round_scaled);
  }
  if (runner && plan.half_runner && shared) {
    addend = round_to(options.dtype, times(addend, 1 / rsf), options.round_scaled);
  } else if (runner) {
    reduced = times(reduced, rsf);
    if (alpha || shared) reduced = round_to(options.dtype, reduced, options.round_scaled);
  }
  if (alpha) reduced = times(reduced, rsf);
  return shared ? reduced + addend : reduced;
}

std::vector<Bounded> combine(const CombineInputs& inputs, const CombineOptions& options) {
  const Shape& shape = inputs.routed_output.shape;
  const std::int64_t tokens = shape[0], slots = shape[1], hidden = shape[2];
  std::vector<Bounded> out(static_cast<std::size_t>(tokens * hidden)), terms(static_cast<std::size_t>(slots));
  std::vector<std::int64_t> ids(static_cast<std::size_t>(slots));
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t k = 0; k < slots; ++k)
      ids[static_cast<std::size_t>(k)] = inputs.topk_ids.int_at(t * slots + k);
    for (std::int64_t h = 0; h < hidden; ++h) {
      for (std::int64_t k = 0; k < slots; ++k) {
        if (ids[static_cast<std::size_t>(k)] < 0) continue;
        Bounded& term = terms[static_cast<std::size_t>(k)];
        term = Bounded::exact(inputs.routed_output.at(t, k, h));
        if (options.weights_applied) continue;
        term = round_to(options.dtype, term * Bounded::exact(inputs.topk_weights.at(t, k)),
                        options.round_weighted);
      }
      const Bounded reduced = reduce_slots(terms.data(), ids.data(), slots, options.dtype, options.reduce);
      std::optional<Bounded> shared;
      if (inputs.shared_output) shared = Bounded::exact(inputs.shared_output.at(t, h));
      out[static_cast<std::size_t>(t * hidden + h)] = scale_and_add(reduced, shared, options);
    }
  }
  return out;
}

}  // namespace moecheck::reference
