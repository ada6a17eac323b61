#pragma once
// Why requests of a run failed: their messages by kind, the most frequent first.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "harness/load/metrics.h"

namespace moecheck::harness::load {

struct FailureGroup {
  std::string reason;                 // the first message of its kind, one line
  std::int64_t count = 0, first = 0;  // first: index of that request
};
// Messages that differ in numbers alone (chunks so far, an id) are of one kind. At most `limit` groups: with more kinds the
// last one is all the rest.
std::vector<FailureGroup> failure_groups(std::span<const RequestRecord> records, std::size_t limit = 5);

}  // namespace moecheck::harness::load
