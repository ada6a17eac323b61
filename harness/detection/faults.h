#pragma once
// Faults of one magnitude each, put into the outputs of a correct implementation. Rows are an output's last dimension; every
// result is rounded to the output's dtype. Position and sign follow from a seed; a larger fault of the same seed is in the same
// place. A fault of magnitude 0 changes nothing.
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/detection/gates.h"
#include "harness/implementation.h"
#include "harness/operator.h"

namespace moecheck::harness::detection {

enum class Family : std::uint8_t {
  kScaledRow,     // a row times 1 + m or 1 - m
  kScaled,        // the whole output times 1 + m or 1 - m
  kShifted,       // a row plus or minus m times its root mean square
  kSharedFactor,  // the shared experts' part times 1 + m or 1 - m
  kZeroed,        // m elements are 0
  kSwapped,       // m pairs of neighbours of a row change places; of gating: weights, but not their ids
  kTile,          // m consecutive elements of a row keep the 0 that was there before
  kReduction,     // m consecutive columns of the last sum (of w2, of q) are left out, in all rows
};
inline constexpr int kFamilies = 8;

struct FamilyInfo {
  Family family = Family::kScaled;
  std::string_view name, doc;
  bool counts = false;  // the magnitude is a number of elements, pairs or columns; else relative
};
std::span<const FamilyInfo> families();
const FamilyInfo& info(Family family);

// A case, its data and reference, and what a correct implementation made of them.
struct Subject {
  Subject(const Case& c, const Implementation& implementation);

  Case c;
  const Operator& op;
  const Implementation& implementation;
  TensorSet inputs, outputs;
  std::unique_ptr<Expected> expected;
  std::string output;                   // the name of the output that faults are put into
  std::vector<std::int64_t> positions;  // its elements with a finite reference
  std::vector<double> shared;           // what the shared experts add to each element; empty: nothing known
  Compared compared;                    // without `got`

  // The outputs as foreign gates see them.
  Compared beside_reference(const TensorSet& got) const;
  // moecheck's own judge finds the outputs wrong.
  bool judged_wrong(const TensorSet& got) const;
};

// The first output of real numbers: what faults are put into. Empty where an operator has none.
std::string real_output(const Case& c);

// Why there is no such fault in this case, or nothing.
std::optional<std::string> inapplicable(Family family, const Subject& s);

// Magnitudes to try, ascending, from far below what any judge sees to gross: powers of two, of counts up to all there are.
std::vector<double> magnitudes(Family family, const Subject& s);

// The subject's outputs with the fault in them.
TensorSet faulty(Family family, double magnitude, std::uint64_t seed, const Subject& s);

}  // namespace moecheck::harness::detection
