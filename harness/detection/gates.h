#pragma once
// The gates in use elsewhere, as pure functions: what they say of the same outputs that moecheck judges.
//
// Each is written from its published formula, in double precision (the projects compute most of them in fp32, which moves a
// threshold by parts in 10^7). Elements without a finite reference (columns past the tokens a row sees) are left out, as the
// projects' own tests mask them.
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace moecheck::harness::detection {

// One output beside its reference, which is rounded to the output's dtype.
struct Compared {
  std::vector<double> expected, got;  // row-major, of equal length
  std::int64_t columns = 0;           // of a row
  std::vector<std::int64_t> expected_ids,
      got_ids;  // of gating: the experts that the weights belong to; else empty
};

struct Gate {
  std::string_view name;     // "allclose", a word for columns and JSON
  std::string_view formula;  // what must hold to pass
  std::string_view source;   // project and file
  bool (*passes)(const Compared&);
  bool ids_only = false;  // compares weights of experts: asked of gating alone
};

// allclose, match_ratio, calc_diff, nmse, cosine, sorted_weights.
std::span<const Gate> gates();

}  // namespace moecheck::harness::detection
