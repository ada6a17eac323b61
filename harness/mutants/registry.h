#pragma once
// Mutants: every planted fault there is, whatever code it is in (optimized/faults.def, optimized/gpu/faults.def, harness/faults.def).
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::harness::mutants {

struct Mutant {
  int number =
      0;  // CPU kernels from 1, GPU kernels from 1001, harness from 2001, in the order of the lists. Names are what stays
  std::string name;   // unique
  std::string layer;  // "cpu", "gpu"; of the harness "comparator", "scorer", ...
  std::string op;     // of kernels; empty in the harness
  std::string class_, what;
  std::string upstream;                      // the bug it stands for ("vllm#44313"), or empty
  std::string equivalent;                    // why no check can tell it from the right code; empty: one must
  std::vector<std::string> implementations;  // of kernels: each is tried ("cpu!NAME")
  std::string tests;                         // of the harness: the gtest filter of the tests that are asked
};

// In order of numbers.
const std::vector<Mutant>& all();

struct Selection {
  std::vector<std::string> ids = {};  // names or numbers
  std::vector<std::string> classes = {}, layers = {}, operators = {};
};
// Those that match one word of each list that has any. Throws UsageError with the nearest name.
std::vector<Mutant> select(const Selection& selection);

// An upstream bug of record and the mutants that stand for it, or why none does.
struct UpstreamBug {
  std::string_view reference;  // "vllm#44313"
  std::string_view symptom;
  std::string_view mutants;  // names, by spaces
  std::string_view why_none;
};
const std::vector<UpstreamBug>& upstream_bugs();

// What a change can alter: the operators whose kernels, contract or reference it touches, or all of them. The harness's own faults
// may be altered by anything but documents.
struct Affected {
  bool everything = false, harness = false;
  std::vector<std::string> operators;
  bool has(const Mutant& m) const;
};
Affected affected_by(const std::vector<std::string>& paths);  // paths as `git diff --name-only` gives them

}  // namespace moecheck::harness::mutants
