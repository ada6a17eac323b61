#include "harness/judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "harness/fault.h"

namespace moecheck::harness {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// Bounds this large beside the data would let a wrong implementation through (5%: see the mutation floor in docs).
constexpr double kVacuousRatio = 0.05;

struct Limits {
  double low, high;
};

Limits accepted(DType dtype, double v, double bound) {
  return {reference::round_to(dtype, v - bound),
          reference::round_to(dtype, v + (HARNESS_FAULT(kJudgeBoundDoubled) ? 2 : 1) * bound)};
}

bool within(double got, const Limits& l) { return got >= l.low && got <= l.high; }

// The error at which rounding and bound together stop, where `ratio` is 1: the bound and half a step of the dtype, or as far as
// the accepted results reach.
double reported_bound(DType dtype, const Bounded& e, const Limits& limits) {
  const reference::Neighbours n = reference::neighbours(dtype, e.value);
  const double half_step = std::isfinite(n.upper - n.lower) ? (n.upper - n.lower) / 2 : 0;
  return std::max({e.proven + half_step, limits.high - e.value, e.value - limits.low});
}

double ratio_of(double error, double bound) { return error == 0 ? 0 : bound == 0 ? kInf : error / bound; }

struct Sums {
  double d2 = 0, e2 = 0, g2 = 0, eg = 0, bound2 = 0, signed_error = 0, bounds = 0;
};

}  // namespace

std::vector<std::int64_t> coordinates(const Shape& shape, std::int64_t element) {
  std::vector<std::int64_t> index(static_cast<std::size_t>(shape.rank));
  for (int i = shape.rank - 1; i >= 0; --i) {
    index[static_cast<std::size_t>(i)] = element % shape[i];
    element /= shape[i];
  }
  return index;
}

void judge_number(Judgement& j, const Tensor& tensor, std::int64_t i, const Bounded& e) {
  const DType dtype = tensor.dtype();
  const double got =
      HARNESS_FAULT(kJudgeSignIgnored) ? std::copysign(tensor.view().at(i), e.value) : tensor.view().at(i);
  ++j.elements;
  Verdict v = Verdict::kPass;
  const bool finite = std::isfinite(e.value);
  const Limits limits = finite ? accepted(dtype, e.value, e.proven) : Limits{e.value, e.value};
  double error = std::fabs(got - e.value);
  if (std::isnan(e.value) || std::isinf(e.value)) {
    const bool same =
        std::isnan(e.value) ? std::isnan(got) : got == e.value || HARNESS_FAULT(kJudgeInfinityIsAny);
    error = same ? 0 : kInf;
    v = same ? Verdict::kPass : Verdict::kFail;
  } else if (HARNESS_FAULT(kJudgeNanPasses) && std::isnan(got)) {
    v = Verdict::kPass;
  } else if (std::isnan(got) || !within(got, limits)) {
    v = Verdict::kFail;
  } else if (const double bound = e.suspect_bound(); bound < e.proven &&
                                                     !HARNESS_FAULT(kJudgeSuspectPasses) &&
                                                     !within(got, accepted(dtype, e.value, bound))) {
    v = Verdict::kSuspect;
  }
  const double bound = finite ? reported_bound(dtype, e, limits) : 0;
  const double ratio = std::isnan(got) && v == Verdict::kFail ? kInf : ratio_of(error, bound);
  j.headroom = std::max(j.headroom, ratio);
  if (v == Verdict::kFail) ++j.failed;
  if (v == Verdict::kSuspect) ++j.suspect;
  // A wrong element outranks every right one, whatever their ratios.
  const bool wrong = v != Verdict::kPass, first_wrong = wrong && j.failed + j.suspect == 1;
  const bool comparable = wrong || j.failed + j.suspect == 0;
  if (!j.worst || first_wrong ||
      (comparable && (HARNESS_FAULT(kJudgeWorstByError) ? error > j.worst->error : ratio > j.worst->ratio))) {
    j.worst = Element{tensor.name(), coordinates(tensor.shape(), i),
                      e.value,       limits.low,
                      limits.high,   got,
                      error,         bound,
                      ratio,         {}};
  }
  if (v == Verdict::kFail) j.raise(v, tensor.name() + " is wrong beyond its proven bound");
  if (v == Verdict::kSuspect) j.raise(v, tensor.name() + " is beyond 6 sigma of an honest implementation");
}

void judge_elements(Judgement& j, const Tensor& got, std::span<const Bounded> expected,
                    const ElementRules& rules) {
  const Shape& shape = got.shape();
  const std::int64_t rows = shape.rank == 0 ? 1 : shape[0];
  const std::int64_t columns = rows == 0 ? 0 : shape.numel() / rows;
  const ConstView view = got.view();
  Sums all;
  bool exact = true, unbounded = false;
  for (std::int64_t r = 0; r < (HARNESS_FAULT(kJudgeFirstRowOnly) ? std::min<std::int64_t>(rows, 1) : rows);
       ++r) {
    if (!rules.skip_rows.empty() && rules.skip_rows[static_cast<std::size_t>(r)]) continue;
    Sums row;
    for (std::int64_t c = 0; c < columns - (HARNESS_FAULT(kJudgeLastColumnIgnored) ? 1 : 0); ++c) {
      const std::int64_t i = r * columns + c;
      const Bounded& e = expected[static_cast<std::size_t>(i)];
      const double g = view.at(i);
      judge_number(j, got, i, e);
      exact = exact && e.is_exact();
      unbounded =
          unbounded || !(std::isfinite(e.proven) || std::isnan(e.value));  // a NaN is compared as such
      if (!std::isfinite(g) || !std::isfinite(e.value)) continue;
      const double d = g - e.value;
      const double bound = e.suspect_bound();
      row.d2 += d * d;
      row.e2 += e.value * e.value;
      row.g2 += g * g;
      row.eg += g * e.value;
      row.bound2 += bound * bound;
      row.signed_error += d;
      row.bounds += e.proven;
    }
    if (row.e2 > 0)
      j.metrics.max_relative_row = std::max(j.metrics.max_relative_row, std::sqrt(row.d2 / row.e2));
    all.d2 += row.d2, all.e2 += row.e2, all.g2 += row.g2, all.eg += row.eg, all.bound2 += row.bound2;
    all.signed_error += row.signed_error, all.bounds += row.bounds;
  }
  if (all.e2 > 0 && all.g2 > 0) {
    j.metrics.cosine = std::min(j.metrics.cosine, all.eg / std::sqrt(all.e2 * all.g2));
    j.metrics.nmse = std::max(j.metrics.nmse, all.d2 / all.e2);
    j.metrics.calc_diff = std::max(j.metrics.calc_diff, 1 - 2 * all.eg / (all.e2 + all.g2));
    if (all.bounds > 0) j.metrics.bias = all.signed_error / all.bounds;
  }
  if (rows * columns == 0) return;
  if (rules.must_be_exact && !exact && !HARNESS_FAULT(kJudgeInexactTierTrusted))
    j.raise(Verdict::kMistrusted,
            fmt::format("the exact tier of {} has bounds other than 0: its data are not exact", got.name()));
  if (unbounded)
    j.raise(Verdict::kMistrusted, fmt::format("{} has elements without a finite bound", got.name()));
  if (!rules.may_be_zero && !HARNESS_FAULT(kJudgeZeroReferenceTrusted) && all.e2 == 0 && j.elements > 0)
    j.raise(Verdict::kMistrusted,
            fmt::format("the reference of {} is all zero: an implementation that writes zeros would pass",
                        got.name()));
  else if (!HARNESS_FAULT(kJudgeWideBoundsTrusted) && all.bound2 > kVacuousRatio * kVacuousRatio * all.e2)
    j.raise(Verdict::kMistrusted,
            fmt::format("the bounds of {} are {:.1f}% of the data: too wide to find a wrong element",
                        got.name(), 100 * std::sqrt(all.bound2 / all.e2)));
}

void fail_element(Judgement& j, const Tensor& got, std::int64_t i, double expected, double value,
                  std::string note) {
  ++j.failed;
  j.headroom = kInf;
  Element e{got.name(), coordinates(got.shape(), i), expected, expected, expected,
            value,      std::fabs(value - expected), 0,        kInf,     note};
  // The first such element stays the worst: it is where a reader should look.
  if (!j.worst || j.worst->note.empty()) j.worst = std::move(e);
  j.raise(Verdict::kFail, fmt::format("{}: {}", got.name(), note));
}

void judge_bytes(Judgement& j, const Tensor& got, const Tensor& expected) {
  const auto size = static_cast<std::size_t>(reference::size_bytes(got.dtype()));
  const std::int64_t n = got.shape().numel();
  j.elements += n;
  if (got.bytes() == 0 || std::memcmp(got.data(), expected.data(), got.bytes()) == 0) return;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::size_t at = static_cast<std::size_t>(i) * size;
    if (std::memcmp(got.data() + at, expected.data() + at, HARNESS_FAULT(kJudgeFirstByteOnly) ? 1 : size) ==
        0)
      continue;
    fail_element(j, got, i, expected.view().at(i), got.view().at(i), "bytes differ");
  }
}

void judge_integers(Judgement& j, const Tensor& got, std::span<const std::int64_t> expected,
                    std::string_view what) {
  for (std::int64_t i = 0; i < got.shape().numel(); ++i) {
    ++j.elements;
    const std::int64_t value = got.view().int_at(i), want = expected[static_cast<std::size_t>(i)];
    if (value != want)
      fail_element(j, got, i, static_cast<double>(want), static_cast<double>(value),
                   fmt::format("{} {} instead of {}", what, value, want));
  }
}

}  // namespace moecheck::harness
