#pragma once
// Diagnosis by two numbers: which scaling bug an output shows, from the output and two reference vectors.
//
//   (alpha, beta) = argmin || out - alpha R - beta S ||      R = routed sum, weights summing to 1; S = shared
//
// Use an rsf that no product of small numbers imitates (2.827, not 1 or 2), and R, S that are linearly
// independent. Source: section 2.2 of the operator notes.
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::reference {

struct ScaleFit {
  double alpha = 0, beta = 0;
  double residual = 0;  // ||out - alpha R - beta S|| / ||out||: near 0 when scaling alone explains the output
  double condition = 1;  // of [R/|R| S/|S|]: sqrt((1 + |cos|) / (1 - |cos|))
  // R and S cannot be told apart (condition > 1e4, or one of them is zero): beta is then 0
  bool dependent = false;
};
// Vectors of equal length; S may be empty (no shared experts). Elements that are not finite in any vector are
// left out.
ScaleFit fit_scale(std::span<const double> out, std::span<const double> routed,
                   std::span<const double> shared);

struct ScaleDiagnosis {
  std::string_view name;     // "correct", "scale_missing", "scale_twice", ..., "unknown"
  std::string_view meaning;  // one sentence
  std::string_view issue;    // upstream reports, "" if none
  std::string_view remedy;   // what to change, "" if nothing is wrong
  bool correct = false;
  bool ambiguous = false;  // another row of the table fits as well (rsf near 1, or ep_size equal to rsf)
};

struct DiagnosisContext {
  double routed_scaling_factor = 1;
  int ep_size = 1;
  int shared_slots = 1;
  std::optional<double> score_sum;  // mean sum of the unnormalized routed scores, where known
  double resolution = 0.02;         // relative distance at which two coefficients count as equal
};
// Unknown pairs come back named "unknown".
ScaleDiagnosis diagnose_scale(double alpha, double beta, const DiagnosisContext& context);

// All rows of the table, for `moecheck list` and the tests: coefficients at the given context.
struct DiagnosisRow {
  ScaleDiagnosis diagnosis;
  double alpha = 0;
  std::optional<double> beta;  // nothing: any
};
std::vector<DiagnosisRow> diagnosis_rows(const DiagnosisContext& context);

// "alpha=2.50 beta=2.50 for routed_scaling_factor=2.5: ... (vllm#44313). Remedy: ..."
std::string describe(const ScaleFit& fit, const DiagnosisContext& context);

}  // namespace moecheck::reference
