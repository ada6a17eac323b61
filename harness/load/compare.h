#pragma once
// Two servers under the same loads: what changed, and whether repeats say that it is more than noise.
//
// Of each figure x the change is B/A - 1. With two or more valid runs per arm its 95% interval is Student's on
// log x: paired by repeat where both arms have the same repeats (they ran in turn), else Welch's. One run per arm
// says nothing about noise, however many requests it had: requests of one run share its luck.
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "harness/load/result.h"

namespace moecheck::harness::load {

enum class Meaning : std::uint8_t {
  kUnknown,      // one run per arm, or no figure
  kWithinNoise,  // the interval holds 0
  kBetter,       // for this figure; all of the interval
  kWorse,
};

struct Change {
  double a = 0, b = 0;              // means over valid runs
  std::optional<double> relative;   // b/a - 1 (of the geometric means); nothing where either is 0
  std::optional<double> low, high;  // 95% interval of it
  Meaning meaning = Meaning::kUnknown;
};

struct SweepRow {
  std::string dataset, load_kind;
  std::int64_t input_len = 0, output_len = 0, max_concurrency = 0;
  double request_rate = 0;
  std::int64_t runs_a = 0, runs_b = 0;               // valid ones
  std::int64_t invalid_a = 0, invalid_b = 0;         // left out
  std::int64_t failed_a = 0, failed_b = 0;           // requests, of the valid runs
  Change throughput, ttft, tpot, e2el;               // output tokens/s; mean ms
  std::optional<double> acceptance_a, acceptance_b;  // acceptance length
};

// Rows by (dataset, request rate, ISL, OSL, MC), ascending. Points that only one arm has are rows with one side 0.
std::vector<SweepRow> compare_benches(std::span<const SavedBench> a, std::span<const SavedBench> b);

// Student's two-sided 95% quantile: 12.706 for one degree of freedom. A fractional number is rounded down.
double student_95(double degrees);

}  // namespace moecheck::harness::load
