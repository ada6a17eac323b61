#pragma once
// What makes two failures the same one. A broken kernel fails in a thousand cases: one story, told once.
#include <string>
#include <string_view>

#include "harness/record.h"

namespace moecheck::harness {

struct Cause {
  std::string operator_name, implementation;
  Verdict verdict = Verdict::kFail;
  std::string check;      // "elements of topk_ids", or the clause or relation that broke
  std::string diagnosis;  // the likely cause, what was thrown or how the process ended; may be empty

  // Equal for the same cause: numbers in the diagnosis do not count.
  std::string key() const;
  // "gating-0123456789abcdef": the operator and a hash of the key.
  std::string id() const;
};

// Whether the record says that an implementation (or moecheck itself) is wrong. MISTRUSTED does not: that case could not have
// failed, and chance draws such cases.
bool is_finding(const Record& r);
Cause cause_of(const Record& r);

}  // namespace moecheck::harness
