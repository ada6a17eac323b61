#pragma once
// What a run of `check` found, counted: for reports and other programs that need no single record.
#include <span>
#include <string>

#include "harness/record.h"

namespace moecheck::harness {

// Schema moecheck.counts/1: command, environment, per operator and implementation how many checks had which verdict, different
// cases, the largest error / bound and the cases that failed; per implementation the kernels that ran and that never did.
std::string counts_json(std::span<const Record> records, const std::string& command);

}  // namespace moecheck::harness
