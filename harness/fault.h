#pragma once
// Planted faults in the harness itself: who tests the tester. One-line bugs in the real code, as in optimized/fault.h.
//
//   if (r.verdict == Verdict::kFail && !HARNESS_FAULT(kFailsCountAsPasses)) ++failures;
//
// In every build that people use HARNESS_FAULT is constant false. The files that hold one are compiled a second time with
// MOECHECK_HARNESS_FAULTS into the program moecheck_mutant_tests, the unit tests with those files in place of their own
// (tests/CMakeLists.txt). There the environment variable MOECHECK_FAULT=NAME chooses a fault for the process; without it there is
// none. `moecheck mutants` runs that program once per fault. The list: harness/faults.def.
#include <cstdint>

namespace moecheck::harness {

enum class HarnessFault : std::uint16_t {
  kNone,
#define MOECHECK_HARNESS_FAULT(id, name, layer, class_, what, upstream, tests) id,
#include "harness/faults.def"
#undef MOECHECK_HARNESS_FAULT
};

// What a program ends with when MOECHECK_FAULT names no fault it knows: it is older than the list.
inline constexpr int kExitUnknownFault = 97;

#ifdef MOECHECK_HARNESS_FAULTS
bool chosen_fault(HarnessFault f);
#define HARNESS_FAULT(id) (::moecheck::harness::chosen_fault(::moecheck::harness::HarnessFault::id))
#else
#define HARNESS_FAULT(id) (::moecheck::harness::HarnessFault::id == ::moecheck::harness::HarnessFault::kNone)
#endif

}  // namespace moecheck::harness
