#pragma once
// Faults of the harness: unit tests judge them, in a run of moecheck_tests per part of the fault's filter.
#include <map>
#include <string>
#include <vector>

#include "harness/mutants/run.h"

namespace moecheck::harness::mutants {

// Runs the tests of m.tests with the fault chosen; the first that fails is the killer.
Result ask_tests(const Mutant& m, const Options& options);

// Filters that say nothing, with the reason: a part of one matches no test, its tests fail without a fault, or the program holds
// no faults.
std::map<std::string, std::string> unusable_filters(const std::vector<Mutant>& mutants,
                                                    const Options& options);

}  // namespace moecheck::harness::mutants
