#include "reference/scale_diagnosis.h"

#include <cmath>
#include <cstdio>
#include <stdexcept>

namespace moecheck::reference {
namespace {

constexpr double kDependent = 1e4;     // condition number beyond which two directions count as one
constexpr double kUnexplained = 0.05;  // relative residual: more than bf16 and fp8 rounding leave

struct Moments {
  double rr = 0, rs = 0, ss = 0, ro = 0, so = 0, oo = 0;
};

// Vectors are scaled to largest element 1 first, so that no square overflows and R, S weigh alike.
double largest(std::span<const double> v) {
  double m = 0;
  for (const double x : v)
    if (std::isfinite(x)) m = std::fmax(m, std::fabs(x));
  return m > 0 ? m : 1;
}

bool near(double value, double expected, double resolution) {
  return std::fabs(value - expected) <= resolution * (expected == 0 ? 1 : std::fabs(expected));
}

double distance(double value, double expected) {
  return std::fabs(value - expected) / (expected == 0 ? 1 : std::fabs(expected));
}

DiagnosisRow row(std::string_view row_name, double alpha, std::optional<double> beta,
                 std::string_view meaning, std::string_view issue, std::string_view remedy) {
  return {{row_name, meaning, issue, remedy, false, false}, alpha, beta};
}

std::vector<DiagnosisRow> rows_of_factor(double r) {
  std::vector<DiagnosisRow> rows;
  rows.push_back(
      row("correct", r, 1, "the routed output is scaled once and the shared output is not", "", ""));
  rows.back().diagnosis.correct = true;
  rows.push_back(row("scale_missing", 1, 1, "no place multiplies by routed_scaling_factor",
                     "sglang#8511, sglang#8333, sglang#8364",
                     "activate exactly one place: topk_weights, reduce, output, shared_add_alpha or runner"));
  rows.push_back(row("scale_twice", r * r, 1, "two places multiply the routed output",
                     "vllm#24119, vllm#45037, sglang#35152, kvcache-ai/sglang#86",
                     "keep one place; a dual-stream branch needs 'not _use_aiter' like the other, an "
                     "overlapped one the fused flag"));
  rows.push_back(row("whole_output_scaled", r, r,
                     "a fused shared slot of weight 1 is multiplied by an output scale", "vllm#44313",
                     "fold the factor into the routed weights (apply_routed_scale_to_output = not aiter), or "
                     "weigh the slot 1/rsf"));
  rows.push_back(row("shared_slot_divided", r, 1 / r,
                     "the factor is folded into the routed weights, and the shared slot weighs 1/rsf",
                     "sglang#28237", "give the shared slot weight 1"));
  rows.push_back(row("pre_divided_without_output_scale", 1, 1 / r,
                     "the shared slot weighs 1/rsf and the output scale that undoes it is missing (legal in "
                     "vLLM's fp16 form, where "
                     "the residual stream is divided by rsf)",
                     "sglang#8511",
                     "multiply in the reduce or the model, or check that the residual stream is divided"));
  rows.push_back(row("weights_and_output_scaled", r * r, r,
                     "all weights are multiplied in the top-k, and the output again", "sglang#35152",
                     "skip the output scale when the factor is fused in top-k"));
  rows.push_back(row("whole_output_scaled_twice", r * r, r * r,
                     "two output scales over a fused shared slot of weight 1", "",
                     "remove both, and fold the factor into the routed weights"));
  rows.push_back(row("shared_lost", r, 0,
                     "the shared experts are missing: slots zero-initialized, not loaded, or dropped",
                     "sglang#38878, sglang#35719, ROCm/ATOM#1098",
                     "widen the expert mapping by n_shared_experts and check that every slot is loaded, in "
                     "draft layers too"));
  rows.push_back(row("routed_lost", 0, 1, "only the shared experts are left", "",
                     "check expert_map and the routed weights"));
  return rows;
}

}  // namespace

ScaleFit fit_scale(std::span<const double> out, std::span<const double> routed,
                   std::span<const double> shared) {
  if (out.size() != routed.size() || (!shared.empty() && shared.size() != out.size()))
    throw std::invalid_argument("fit_scale: out has " + std::to_string(out.size()) + " elements, routed " +
                                std::to_string(routed.size()) + ", shared " + std::to_string(shared.size()));
  const double scale_o = largest(out), scale_r = largest(routed), scale_s = largest(shared);
  const auto at = [&](std::size_t i, double& o, double& r, double& s) {
    o = out[i] / scale_o, r = routed[i] / scale_r, s = shared.empty() ? 0 : shared[i] / scale_s;
    return std::isfinite(o) && std::isfinite(r) && std::isfinite(s);
  };
  Moments m;
  double o = 0, r = 0, s = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (!at(i, o, r, s)) continue;
    m.rr += r * r, m.rs += r * s, m.ss += s * s, m.ro += r * o, m.so += s * o, m.oo += o * o;
  }
  ScaleFit fit;
  const double cosine = m.rr > 0 && m.ss > 0 ? std::fabs(m.rs) / std::sqrt(m.rr * m.ss) : 1;
  fit.condition = std::sqrt((1 + cosine) / std::fmax(1 - cosine, 0x1p-53));
  fit.dependent = fit.condition > kDependent || m.rr == 0 || m.ss == 0;
  double a = 0, b = 0;
  if (!fit.dependent) {
    const double det = m.rr * m.ss - m.rs * m.rs;
    a = (m.ro * m.ss - m.so * m.rs) / det;
    b = (m.so * m.rr - m.ro * m.rs) / det;
  } else if (m.rr > 0) {
    a = m.ro / m.rr;
  } else if (m.ss > 0) {
    b = m.so / m.ss;
  }
  double rest = 0;
  for (std::size_t i = 0; i < out.size(); ++i)
    if (at(i, o, r, s)) rest += (o - a * r - b * s) * (o - a * r - b * s);
  fit.residual = m.oo > 0 ? std::sqrt(rest / m.oo) : 0;
  fit.alpha = a * scale_o / scale_r;
  fit.beta = b * scale_o / scale_s;
  return fit;
}

std::vector<DiagnosisRow> diagnosis_rows(const DiagnosisContext& context) {
  const double r = context.routed_scaling_factor;
  std::vector<DiagnosisRow> rows = rows_of_factor(r);
  if (context.ep_size > 1)
    rows.push_back(
        row("shared_once_per_rank", r, context.ep_size,
            "the shared experts are counted on every expert-parallel rank", "",
            "weigh the slot 1/ep_size, give each token to one rank, or add the shared output on one rank"));
  const double divisor = 1 + context.shared_slots / r;
  if (context.shared_slots > 0)
    rows.push_back(row("shared_in_divisor", r / divisor, 1 / divisor,
                       "renormalization divides by a sum that includes the fused shared slot", "",
                       "divide by the sum of the routed scores alone"));
  if (context.shared_slots > 1)
    rows.push_back(row("shared_weight_over_n", r, 1.0 / context.shared_slots,
                       "each of the n shared chunks weighs 1/n", "",
                       "each chunk has full weight: the chunks' outputs add up to the shared output"));
  if (context.score_sum) {
    const double sum = *context.score_sum;
    rows.push_back(row("fused_without_renorm", r, sum,
                       "the fused shared slot keeps the sum of the routed scores", "",
                       "fuse only with norm_topk_prob, or give the slot weight 1"));
    rows.push_back(
        row("fused_without_renorm", r * sum, sum,
            "weights are not renormalized, and the fused shared slot keeps the sum of the routed scores", "",
            "fuse only with norm_topk_prob, or give the slot weight 1"));
    rows.push_back(row("renorm_missing", r * sum, std::nullopt,
                       "the routed weights do not sum to 1 (right only where norm_topk_prob is false)", "",
                       "divide the weights by their sum"));
  }
  return rows;
}

ScaleDiagnosis diagnose_scale(double alpha, double beta, const DiagnosisContext& context) {
  const std::vector<DiagnosisRow> rows = diagnosis_rows(context);
  const DiagnosisRow* best = nullptr;
  bool ambiguous = false;
  const auto how_far = [&](const DiagnosisRow& candidate) {
    return distance(alpha, candidate.alpha) +
           (candidate.beta ? distance(beta, *candidate.beta) : context.resolution);
  };
  for (const DiagnosisRow& candidate : rows) {
    if (!near(alpha, candidate.alpha, context.resolution)) continue;
    if (candidate.beta && !near(beta, *candidate.beta, context.resolution)) continue;
    if (best != nullptr && candidate.beta && candidate.diagnosis.name != best->diagnosis.name)
      ambiguous = true;
    if (best == nullptr || how_far(candidate) < how_far(*best)) best = &candidate;
  }
  if (best == nullptr)
    return {"unknown", "no known scaling bug gives these coefficients",
            "",        "compare R and S separately",
            false,     false};
  ScaleDiagnosis diagnosis = best->diagnosis;
  diagnosis.ambiguous = ambiguous;
  return diagnosis;
}

std::string describe(const ScaleFit& fit, const DiagnosisContext& context) {
  char numbers[160];
  std::snprintf(numbers, sizeof numbers, "alpha=%.4g beta=%.4g for routed_scaling_factor=%.4g: ", fit.alpha,
                fit.beta, context.routed_scaling_factor);
  std::string text = numbers;
  if (!(fit.residual <= kUnexplained)) {
    std::snprintf(numbers, sizeof numbers, "scaling does not explain the output (residual %.2g of it)",
                  fit.residual);
    return text + numbers;
  }
  if (fit.dependent) {
    std::snprintf(numbers, sizeof numbers,
                  "routed and shared output cannot be told apart (condition %.2g): beta is unknown",
                  fit.condition);
    return text + numbers;
  }
  const ScaleDiagnosis diagnosis = diagnose_scale(fit.alpha, fit.beta, context);
  text += std::string(diagnosis.name) + ", " + std::string(diagnosis.meaning);
  if (!diagnosis.issue.empty()) text += " (" + std::string(diagnosis.issue) + ")";
  if (!diagnosis.remedy.empty()) text += ". Remedy: " + std::string(diagnosis.remedy);
  if (diagnosis.ambiguous)
    text += ". Another cause gives the same numbers: use a routed_scaling_factor such as 2.827";
  return text;
}

}  // namespace moecheck::reference
