#pragma once
// Records as a campaign writes them, without running one: what the tests of reports and console text look at.
#include <vector>

#include "harness/record.h"

namespace moecheck::harness {

// `per_cell` checks of every operator, implementation, model and policy; deterministic. About 440 * per_cell
// records. Holds every verdict, planted faults and clauses in every state.
std::vector<Record> synthetic_campaign(int per_cell);

// One failure as the console shows it at its longest.
Record synthetic_failure();

}  // namespace moecheck::harness
