#pragma once
// Records as text for people: what the command line prints, and JUnit repeats.
//
//   FAIL  cpu-simd  routed_scaling model=glm-4.7 tokens=64 seed=7
//     smallest  routed_scaling experts=2 topk=1 tokens=1
//     worst     output[3, 17]
//       got       0.782227
//       expected  0.312893, accepted [0.3125, 0.314453]
//       error     0.469 = 479x the bound 0.00098
//     counts    37 of 1,024 elements beyond the bound (3.6%), 2 suspect, 1 undecided
//     cause     ...
//     broken    token_permutation: token 3: ...
//     moecheck repro 'routed_scaling experts=2 topk=1 tokens=1' --impl cpu-simd
#include <span>
#include <string>

#include "harness/record.h"

namespace moecheck::harness {

// Ends with a newline. Several lines for what needs reading, one for the rest. Whatever bytes a record
// holds, the text is valid UTF-8 without control characters; escape sequences appear only with `color`.
std::string verdict_text(const Record& record, bool color = false);

// The line that repeats a record's check: its smallest case where one is known.
std::string repro_command(const Record& record);

// Operator x implementation with counts per verdict, skip reasons, and what the absence of failures says.
std::string summary_text(std::span<const Record> records, bool color = false);

}  // namespace moecheck::harness
