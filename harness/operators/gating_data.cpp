// Inputs of gating cases.
#include <cmath>
#include <limits>
#include <numeric>

#include "harness/fault.h"
#include "harness/operators/gating.h"
#include "harness/random.h"

namespace moecheck::harness {
namespace {

using reference::GatingOptions;
using reference::Scoring;

constexpr double kInf = std::numeric_limits<double>::infinity();

// A permutation of [0, n): i -> (i * step + offset) mod n with a step that has no factor in common with n.
struct Permuted {
  Permuted(std::int64_t n, const Random& random) : n_(n), offset_(n == 0 ? 0 : random.integer(0, 0, n - 1)) {
    step_ = n <= 2 ? 1 : random.integer(1, 1, n - 1);
    while (n > 1 && std::gcd(step_, n) != 1) step_ = step_ % (n - 1) + 1;
  }
  std::int64_t operator()(std::int64_t i) const { return (i * step_ + offset_) % n_; }

 private:
  std::int64_t n_, step_ = 1, offset_;
};

double logit(std::string_view data, const GatingOptions& o, const Random& r, const Permuted& p,
             std::int64_t t, std::int64_t e) {
  const auto i = static_cast<std::uint64_t>(t * o.logit_columns() + e);
  if (data == "realistic" || data == "large_bias") return 1.25 * r.normal(i);
  if (data == "negative") return -3 + r.normal(i);
  if (data == "wide") return 24 * r.normal(i);
  if (data == "uniform") return r.uniform(i);
  if (data == "hot") return r.normal(i) + (e == 3 % o.experts ? 6 : 0);
  if (data == "ties")
    return HARNESS_FAULT(kGenTiesNever) ? r.normal(i) : 0.5 * static_cast<double>(r.integer(i, -3, 3));
  // Steps of one unit of the last place around 1: scores within each other's error bounds, and equal ones.
  if (data == "near_ties" && !HARNESS_FAULT(kGenNearTiesNever))
    return 1 + static_cast<double>(r.integer(i, 0, 3)) * 2 * reference::unit_roundoff(o.logits_dtype);
  // The exact tier. With a bias, sigmoid saturates at 1 and the bias decides; without, logits are far apart.
  if (o.has_bias && o.scoring == Scoring::kSigmoid)
    return 32 + static_cast<double>(p((e + t) % o.experts) % 8);
  return -0.25 * static_cast<double>(p((e + t) % o.experts));
}

double bias(std::string_view data, const Random& r, const Permuted& p, std::int64_t e) {
  const auto i = static_cast<std::uint64_t>(e);
  if (data == "integers")
    return static_cast<double>(p(e)) / 64;  // distinct, also in bf16 for up to 256 experts
  if (data == "large_bias") return 6.9375 + 0.04 * r.normal(i);  // GLM-5.2: biases between 6.82 and 7.06
  if (data == "negative") return -1 + 0.1 * r.normal(i);
  if (data == "ties") return 0.25 * static_cast<double>(r.integer(i, -1, 1));
  if (data == "near_ties") return 0;
  return 0.1 * r.normal(i);
}

void apply_edit(const Edit& edit, const GatingOptions& o, std::int64_t tokens, reference::View logits,
                reference::View biases) {
  const std::int64_t columns = o.logit_columns();
  if (HARNESS_FAULT(kGenGatingEditsIgnored) || edit.row >= tokens || edit.col >= columns)
    return;  // shrunk away
  const std::int64_t row = edit.row * columns;
  const auto whole_row = [&](double v) {
    for (std::int64_t e = 0; e < columns; ++e) logits.set(row + e, v);
  };
  if (edit.kind == "nan") logits.set(row + edit.col, std::numeric_limits<double>::quiet_NaN());
  if (edit.kind == "inf") logits.set(row + edit.col, kInf);
  if (edit.kind == "neg_inf") logits.set(row + edit.col, -kInf);
  if (edit.kind == "zero") whole_row(0);
  if (edit.kind == "neg_zero") whole_row(-0.0);
  if (edit.kind == "subnormal") whole_row(reference::min_subnormal(o.logits_dtype));
  if (edit.kind == "all_nan") whole_row(std::numeric_limits<double>::quiet_NaN());
  if (edit.kind == "lowest") whole_row(-reference::max_finite(o.logits_dtype));
  const reference::ConstView read = logits;
  if (edit.kind == "copy")
    for (std::int64_t e = 0; e < columns; ++e) logits.set(row + e, read.at(e));
  if (edit.kind == "tie" && edit.col + 1 < o.experts) {
    logits.set(row + edit.col + 1, read.at(row + edit.col));
    if (biases) biases.set(edit.col + 1, reference::ConstView(biases).at(edit.col));
  }
}

}  // namespace

void generate_gating(const Case& c, TensorSet& inputs) {
  const GatingOptions o = gating_options(c);
  const std::int64_t tokens = c.integer("tokens");
  const std::string_view data = c.choice("data");
  const Random r(HARNESS_FAULT(kGenSeedUnused) ? 0 : c.seed, "router_logits"),
      b(c.seed, "e_score_correction_bias"), m(c.seed, "logical_to_physical");
  const Permuted permuted(o.experts, b);
  const reference::View logits = inputs.view("router_logits"),
                        biases = inputs.view("e_score_correction_bias");
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t e = 0; e < o.logit_columns(); ++e)
      logits.set(t * o.logit_columns() + e, logit(data, o, r, permuted, t, e));
  if (biases)
    for (std::int64_t e = 0; e < o.experts; ++e) biases.set(e, bias(data, b, permuted, e));
  if (const reference::View table = inputs.view("logical_to_physical")) {
    const Permuted physical(o.experts, m);
    for (std::int64_t e = 0; e < o.experts; ++e)
      table.set_int(e, HARNESS_FAULT(kGenRemapIsIdentity) ? e : physical(e));
  }
  for (const Edit& edit : c.edits) apply_edit(edit, o, tokens, logits, biases);
}

}  // namespace moecheck::harness
