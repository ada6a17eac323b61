#include "reference/gating.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <utility>

#include "reference/gating_scores.h"

namespace moecheck::reference {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kSqrtThird = 0.57735026918962576;

double load_element(DType dtype, const void* data, std::int64_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
  if (dtype == DType::kBF16) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(static_cast<const std::uint16_t*>(data)[i]) << 16);
  }
  return load(dtype, data, i);
}

// One pass over a hash table of (logit, bias) pairs: the first expert with a pair owns its cell. The
// product's top bits make the hash: narrow dtypes leave the low ones 0. Zeros have one sign here.
void find_alike(GatingRow& row) {
  auto& [x, b, table] = row.work;
  const int log2_cells = static_cast<int>(std::bit_width(x.size())) + 1;
  const std::size_t last = (std::size_t{1} << log2_cells) - 1;
  table.assign(last + 1, 0);
  for (std::size_t e = 0; e < x.size(); ++e) {
    const auto hash = std::bit_cast<std::uint64_t>(x[e]) * 0x9E3779B97F4A7C15u +
                      std::bit_cast<std::uint64_t>(b[e]) * 0xC2B2AE3D27D4EB4Fu;
    std::size_t cell = hash >> (64 - log2_cells);
    while (table[cell] != 0 && (x[table[cell] - 1] != x[e] || b[table[cell] - 1] != b[e]))
      cell = (cell + 1) & last;
    if (table[cell] == 0) table[cell] = static_cast<std::uint32_t>(e + 1);
    row.alike[e] = table[cell] - 1;
  }
}

// value with the interval it may lie in.
Bounded between(double value, double low, double high, double sigma) {
  if (low == high) return Bounded::exact(value);
  return {value, sigma, std::fmax(high - value, value - low)};
}

// The largest and the largest that differs from it. An expert within the bounds of the largest may be equal
// to it or not: it counts in the upper end of the interval and not in the lower.
Bounded distinct_top_two(const Bounded* c, const std::uint32_t* alike, std::size_t n) {
  std::size_t top = 0;
  TopTwo low, high;
  for (std::size_t i = 0; i < n; ++i) {
    if (c[i].value > c[top].value) top = i;
    low.first = std::max(low.first, c[i].value - c[i].proven);
    high.first = std::max(high.first, c[i].value + c[i].proven);
  }
  double second = -kInf, sigma = c[top].sigma;
  for (std::size_t i = 0; i < n; ++i) {
    if (alike[i] == alike[top] || (c[i].is_exact() && c[top].is_exact() && c[i].value == c[top].value))
      continue;
    high.second = std::max(high.second, c[i].value + c[i].proven);
    if (order_by_value(c[top], c[i]) == Order::kBefore)
      low.second = std::max(low.second, c[i].value - c[i].proven);
    if (c[i].value < c[top].value) second = std::max(second, c[i].value);
    sigma = std::max(sigma, c[i].sigma);
  }
  return between(c[top].value + second, low.sum(), high.sum(), 1.5 * sigma);
}

// Fewer experts with a chance than the selection may need, counted so that any choice of groups has enough.
bool too_few_live(const GatingOptions& o, const std::vector<double>& bias) {
  const auto per_group = static_cast<std::ptrdiff_t>(o.experts / o.groups);
  const auto needed =
      o.groups == 1 ? o.topk : std::max<std::int64_t>(2, (o.topk + o.topk_group - 1) / o.topk_group);
  for (auto group = bias.begin(); group != bias.end(); group += per_group) {
    const auto dead = std::count(group, group + per_group, -kInf);
    if (dead > 0 && per_group - dead < needed) return true;
  }
  return false;
}

std::string text(const char* format, auto... args) {
  char buffer[256];
  std::snprintf(buffer, sizeof buffer, format, args...);
  return buffer;
}

using ll = long long;

}  // namespace

std::optional<std::string> refusal(const GatingOptions& o) {
  const bool narrow =
      o.logits_dtype == DType::kF32 || o.logits_dtype == DType::kBF16 || o.logits_dtype == DType::kF16;
  const bool narrow_bias =
      o.bias_dtype == DType::kF32 || o.bias_dtype == DType::kBF16 || o.bias_dtype == DType::kF16;
  const ll experts = o.experts, groups = o.groups, topk = o.topk, topk_group = o.topk_group;
  if (experts < 1) return text("experts=%lld: a gate needs at least one expert", experts);
  if (groups < 1 || experts % groups != 0)
    return text("groups=%lld do not divide experts=%lld: use a divisor, or groups=1", groups, experts);
  if (topk_group < 1 || topk_group > groups)
    return text("topk_group=%lld is not in 1..groups=%lld", topk_group, groups);
  const ll per_group = experts / groups;
  if (topk < 1 || topk > topk_group * per_group)
    return text(
        "topk=%lld exceeds the %lld experts of topk_group=%lld groups: use a smaller topk or more groups",
        topk, topk_group * per_group, topk_group);
  if (groups > 1 && per_group == 1 && Gating(o).group_score() != GroupScore::kMax)
    return text("groups=%lld of one expert have no two largest choice scores: use groups=1", groups);
  if (o.shared < 0) return text("shared=%lld is negative: use 0 for none", static_cast<ll>(o.shared));
  if (o.shared > 0 && o.policy.shared_weights == SharedWeight::kNone)
    return text("shared=%lld: this policy has no fused shared slots: use shared=0 or another policy",
                static_cast<ll>(o.shared));
  if (!std::isfinite(o.routed_scaling_factor) || o.routed_scaling_factor <= 0)
    return text("routed_scaling_factor=%g is not a positive number: use 1 for none", o.routed_scaling_factor);
  if (!std::isfinite(o.shared_weight)) return text("shared_weight=%g is not finite", o.shared_weight);
  if (!narrow) return "router_logits are " + std::string(name(o.logits_dtype)) + ": use f32, bf16 or f16";
  if (o.has_bias && !narrow_bias)
    return "the bias is " + std::string(name(o.bias_dtype)) + ": use f32, bf16 or f16";
  if (o.policy.expert_tie == Tie::kBitReversed && experts > 1024)
    return text("experts=%lld exceed the 32 warps of one block that break ties by lane: use at most 1024",
                experts);
  if (o.padded_tokens < 0) return text("padded_tokens=%lld is negative", static_cast<ll>(o.padded_tokens));
  return std::nullopt;
}

Gating::Gating(const GatingOptions& options) : options_(options), choice_dtype_(DType::kF32) {
  const auto& p = options_.policy;
  if (p.precision == Precision::kSelect || p.precision == Precision::kAll) {
    const bool own =
        !options_.has_bias || p.bias_on == BiasOn::kLogits || p.bias_cast == BiasCast::kLogitsDtype;
    choice_dtype_ = own ? options_.logits_dtype : wider(options_.logits_dtype, options_.bias_dtype);
  }
}

bool Gating::scales_weights() const {
  if (options_.routed_scaling_factor == 1) return false;
  switch (options_.policy.scale_weights) {
    case ScaleWeights::kNever:
      return false;
    case ScaleWeights::kAlways:
      return true;
    case ScaleWeights::kIfRenorm:
      return renormalizes();
    case ScaleWeights::kIfFlag:
      return options_.scale_flag;
    case ScaleWeights::kIfFlagAndRenorm:
      return options_.scale_flag && renormalizes();
  }
  return false;
}

GroupScore Gating::group_score() const {
  const auto g = options_.policy.group_score;
  if (g != GroupScore::kAuto) return g;
  return options_.has_bias && options_.policy.bias_on == BiasOn::kChoice ? GroupScore::kTop2Sum
                                                                         : GroupScore::kMax;
}

void Gating::scores(ConstView router_logits, ConstView bias, std::int64_t token, GatingRow& row) const {
  const auto experts = static_cast<std::size_t>(options_.experts);
  row.undefined = false;
  row.score.resize(experts);
  row.choice.resize(experts);
  row.alike.resize(experts);
  row.group.resize(options_.groups > 1 ? static_cast<std::size_t>(options_.groups) : 0);
  load_row(router_logits, bias, token, row);
  score_row(row);
  choose_row(row);
  find_alike(row);
  if (options_.groups > 1) group_row(row);
}

// Adding 0.0 gives zeros one sign.
void Gating::load_row(ConstView router_logits, ConstView bias, std::int64_t token, GatingRow& row) const {
  const auto& p = options_.policy;
  auto& [x, b, table] = row.work;
  const std::int64_t first = token * options_.logit_columns();
  x.resize(static_cast<std::size_t>(options_.experts));
  b.assign(x.size(), 0);
  for (std::size_t e = 0; e < x.size(); ++e) {
    x[e] = load_element(router_logits.dtype, router_logits.data, first + static_cast<std::int64_t>(e)) + 0.0;
  }
  if (options_.has_bias && bias) {
    for (std::size_t e = 0; e < b.size(); ++e) {
      b[e] = load_element(bias.dtype, bias.data, static_cast<std::int64_t>(e)) + 0.0;
    }
    if (p.bias_cast == BiasCast::kLogitsDtype) {
      for (auto& v : b) v = round_score(options_.logits_dtype, v);
    }
  }
  if (p.bias_on == BiasOn::kLogits) {
    for (std::size_t e = 0; e < b.size(); ++e) x[e] += std::exchange(b[e], 0);
  }
  double not_finite = 0;  // stays 0 unless an Inf or a NaN comes by
  for (std::size_t e = 0; e < x.size(); ++e) not_finite += 0 * x[e] + 0 * b[e];
  if (not_finite != 0) apply_non_finite_rule(row);

  row.gate.resize(p.shared_weights == SharedWeight::kGated ? static_cast<std::size_t>(options_.shared) : 0);
  for (std::size_t i = 0; i < row.gate.size(); ++i) {
    const auto column = first + options_.experts + static_cast<std::int64_t>(i);
    const double v = load_element(router_logits.dtype, router_logits.data, column);
    row.gate[i] = std::isnan(v) ? Bounded{0, kInf, kInf} : sigmoid_score(v, p.score_math);
    if (p.precision != Precision::kF32) row.gate[i] = round_score(options_.logits_dtype, row.gate[i]);
  }
}

// Rewrites NaN logits as what the rule makes of them: 0, or -Inf (which scores 0), or a dead expert (a bias
// of -Inf).
void Gating::apply_non_finite_rule(GatingRow& row) const {
  const NonFinite rule = options_.policy.non_finite;
  auto& [x, b, table] = row.work;
  const auto count = [](const std::vector<double>& values, auto test) {
    return std::count_if(values.begin(), values.end(), test);
  };
  const auto is_nan = [](double v) { return std::isnan(v); };
  const auto broken = [](double v) { return std::isnan(v) || v == kInf; };
  if (rule == NonFinite::kLogitZero) {
    for (auto& v : x) v = std::isfinite(v) ? v : 0;
  }
  const bool any_nan = count(x, is_nan) > 0;
  const bool any_infinite = count(x, [](double v) { return std::isinf(v); }) > 0;
  row.undefined =
      count(b, broken) > 0 ||
      (options_.scoring != Scoring::kSigmoid && count(x, [](double v) { return v == kInf; }) > 0) ||
      (rule == NonFinite::kUndefined && any_nan) ||
      (rule == NonFinite::kFiniteOnly && (any_nan || any_infinite));
  for (std::size_t e = 0; e < x.size(); ++e) {
    if (!std::isnan(x[e])) continue;
    x[e] = -kInf;
    if (rule == NonFinite::kLowest) b[e] = -kInf;
  }
  for (auto& v : b) v = broken(v) ? 0 : v;
  const auto all = static_cast<std::ptrdiff_t>(x.size());
  const bool no_softmax =
      options_.scoring == Scoring::kSoftmax && count(x, [](double v) { return v == -kInf; }) == all;
  if (no_softmax) std::fill(x.begin(), x.end(), 0);
  row.undefined = row.undefined || no_softmax || too_few_live(options_, b);
}

void Gating::score_row(GatingRow& row) const {
  const auto& p = options_.policy;
  ArgumentError arg;
  const bool sums = p.bias_on == BiasOn::kLogits && options_.has_bias;
  if (sums) arg = {arg.proven + 1, arg.sigma + kSqrtThird};
  const double* x = row.work.logit.data();
  const auto n = options_.experts;
  switch (options_.scoring) {
    case Scoring::kSigmoid:
      sigmoid_scores(x, n, p.score_math, arg, row.score.data());
      break;
    case Scoring::kSoftmax:
      softmax_scores(x, n, sums, row.score.data());
      break;
    case Scoring::kSqrtSoftplus:
      sqrt_softplus_scores(x, n, p.score_math, arg, row.score.data());
      break;
  }
  if (p.precision == Precision::kF32 || options_.logits_dtype == DType::kF32) return;
  for (auto& s : row.score) s = round_score(options_.logits_dtype, s);
}

// c = s + b
void Gating::choose_row(GatingRow& row) const {
  const bool biased = options_.has_bias && options_.policy.bias_on == BiasOn::kChoice;
  for (std::size_t e = 0; e < row.choice.size(); ++e) {
    const Bounded& s = row.score[e];
    const double b = row.work.bias[e];
    row.choice[e] = b == -kInf ? Bounded::exact(-kInf)
                    : biased   ? rounded_sum(choice_dtype_, s.value + b, s.sigma, s.proven)
                               : s;
  }
}

// g = top1 + top2, or the maximum. The k-th largest of the implementation's choice scores lies between the
// k-th largest of c - bound and of c + bound, whichever experts they are.
void Gating::group_row(GatingRow& row) const {
  const auto per_group = static_cast<std::size_t>(experts_per_group());
  const GroupScore rule = group_score();
  for (std::size_t j = 0; j < row.group.size(); ++j) {
    const Bounded* c = row.choice.data() + j * per_group;
    if (rule == GroupScore::kTop2Distinct) {
      const Bounded g = distinct_top_two(c, row.alike.data() + j * per_group, per_group);
      row.group[j] = rounded_sum(choice_dtype_, g.value, g.sigma, g.proven);
      continue;
    }
    TopTwo value, low, high;
    double sigma = 0;
    for (std::size_t i = 0; i < per_group; ++i) {
      value.add(c[i].value);
      low.add(c[i].value - c[i].proven);
      high.add(c[i].value + c[i].proven);
      sigma = std::max(sigma, c[i].sigma);
    }
    if (rule == GroupScore::kMax) {
      row.group[j] = between(value.first, low.first, high.first, sigma);
    } else {
      const Bounded g = between(value.sum(), low.sum(), high.sum(), 1.5 * sigma);
      row.group[j] = rounded_sum(choice_dtype_, g.value, g.sigma, g.proven);
    }
  }
}

}  // namespace moecheck::reference
