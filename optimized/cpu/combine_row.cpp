#include "optimized/cpu/combine_row.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optimized/cpu/combine_row.cpp"
#include "optimized/cpu/simd.h"
// After simd.h, which chooses the targets.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "optimized/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE {

HWY_INLINE VF term_of(const CombineRules& rules, const CombineTerms& terms, std::int64_t k,
                      std::int64_t column) {
  const DF d;
  VF v = hn::Load(d, terms.rows[k] + column);
  if (terms.weights != nullptr) v = hn::Mul(v, hn::Set(d, terms.weights[k]));
  return rules.round_term ? round_dtype(rules.dtype, v) : v;
}

HWY_INLINE VF finish(const CombineRules& rules, const CombineTerms& terms, std::int64_t column, VF v) {
  const DF d;
  for (int i = 0; i < rules.step_count; ++i) {
    const CombineRules::Step& step = rules.steps[static_cast<std::size_t>(i)];
    if (step.round_before) v = round_dtype(rules.dtype, v);
    v = hn::Mul(v, hn::Set(d, step.factor));
  }
  if (terms.shared == nullptr) return v;
  VF shared = hn::Mul(hn::LoadU(d, terms.shared + column), hn::Set(d, rules.shared_factor));
  if (rules.round_shared) shared = round_dtype(rules.dtype, shared);
  return hn::Add(v, shared);
}

void combine_columns(const CombineRules& rules, const CombineTerms& terms, std::int64_t columns, float* out) {
  const DF d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const bool narrow = rules.accumulate_in_dtype || fault(Fault::kReduceInBf16);
  const DType dtype = fault(Fault::kReduceInBf16) ? DType::kBF16 : rules.dtype;
  const bool rounds_first = rules.first_is_rounded || terms.count == 1;
  for (std::int64_t i = 0; i < columns; i += lanes) {
    VF sum = hn::Zero(d);
    for (std::int64_t k = 0; k < terms.count; ++k) {
      sum = hn::Add(sum, term_of(rules, terms, k, i));
      if (narrow && (k > 0 || rounds_first)) sum = round_dtype(dtype, sum);
    }
    hn::Store(finish(rules, terms, i, sum), d, out + i);
  }
}

void load_floats_of(ConstView view, std::int64_t first, std::int64_t n, float* out) {
  load_floats(view, first, n, out);
}
void store_floats_to(const float* in, std::int64_t n, View view, std::int64_t first) {
  store_floats(in, n, view, first);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moecheck::MOECHECK_OPTIMIZED {
namespace {
HWY_EXPORT(combine_columns);
HWY_EXPORT(load_floats_of);
HWY_EXPORT(store_floats_to);

bool rounds(reference::Rounding rounding) { return rounding == reference::Rounding::kRound; }
}  // namespace

CombineRow combine_row() { return MOECHECK_DISPATCH(combine_columns); }
LoadRow load_row() { return MOECHECK_DISPATCH(load_floats_of); }
StoreRow store_row() { return MOECHECK_DISPATCH(store_floats_to); }

// `pending` is the rounding of what the last step stores; it is done where a next step reads it.
CombineRules combine_rules(const reference::CombineOptions& options, bool has_shared) {
  using reference::ScalePlace;
  const auto has = [&](ScalePlace place) {
    return options.plan.has(place) && !fault(Fault::kOutputScaleDropped);
  };
  const bool output = has(ScalePlace::kOutput), alpha = has(ScalePlace::kSharedAddAlpha),
             runner = has(ScalePlace::kRunner);
  float rsf = static_cast<float>(options.routed_scaling_factor);
  if (fault(Fault::kOutputScaleTwice)) rsf *= rsf;
  if (fault(Fault::kOutputScaleInverse)) rsf = 1 / rsf;
  if (fault(Fault::kOutputScaleInDtype)) rsf = round_dtype(options.dtype, rsf);
  CombineRules rules;
  rules.dtype = options.dtype;
  rules.round_term = rounds(options.round_weighted);
  rules.set_reduce(options.reduce);
  if (has(ScalePlace::kReduce)) rules.add_step(rounds(options.round_sum), rsf);
  bool pending = (output || alpha || runner || has_shared) && rounds(options.round_reduced);
  if (output) {
    rules.add_step(pending, rsf);
    pending = (alpha || runner || has_shared) && rounds(options.round_scaled);
  }
  if (runner && options.plan.half_runner && has_shared) {
    rules.shared_factor = static_cast<float>(1 / options.routed_scaling_factor);
    rules.round_shared = rounds(options.round_scaled);
  } else if (runner) {
    rules.add_step(pending, rsf);
    pending = (alpha || has_shared) && rounds(options.round_scaled);
  }
  if (alpha) {
    if (!fault(Fault::kAlphaOnShared)) rules.add_step(pending, rsf);
    if (fault(Fault::kAlphaOnShared)) rules.shared_factor *= rsf;
    pending = false;
  }
  if (pending) rules.add_step(true, 1);
  if (fault(Fault::kOutputScaleOnShared) && (output || runner)) rules.shared_factor *= rsf;
  return rules;
}

std::int64_t reduce_order(const reference::ReducePolicy& policy, const std::int64_t* ids, std::int64_t n,
                          std::int64_t* order) {
  std::int64_t count = 0;
  for (std::int64_t k = 0; k < n; ++k)
    if (ids[k] >= 0) order[count++] = k;
  if (policy.order == reference::ReduceOrder::kExpert)
    std::stable_sort(order, order + count, [&](std::int64_t a, std::int64_t b) { return ids[a] < ids[b]; });
  return count;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
#endif
