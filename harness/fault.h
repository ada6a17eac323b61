#pragma once
// Planted faults in the harness itself: who tests the tester. One-line bugs in the real code, as in optimized/fault.h.
//
//   if (r.verdict == Verdict::kFail && !HARNESS_FAULT(kFailsCountAsPasses)) ++failures;
//
// In builds that people use HARNESS_FAULT is constant false. The CMake option MOECHECK_HARNESS_FAULTS (presets mutants and asan)
// builds the faults in: there the environment variable MOECHECK_FAULT=NAME chooses one for the process and those it starts;
// without it there is none. `moecheck mutants` runs the unit tests of such a build once per fault. The list: harness/faults.def.
#include <cstdint>

namespace moecheck::harness {

enum class HarnessFault : std::uint16_t {
  kNone,
#define MOECHECK_HARNESS_FAULT(id, name, layer, class_, what, upstream, tests) id,
#include "harness/faults.def"
#undef MOECHECK_HARNESS_FAULT
};

// What a program with faults ends with when MOECHECK_FAULT names none that it knows.
inline constexpr int kExitUnknownFault = 97;

#ifdef MOECHECK_HARNESS_FAULTS
bool chosen_fault(HarnessFault f);
#define HARNESS_FAULT(id) (::moecheck::harness::chosen_fault(::moecheck::harness::HarnessFault::id))
#else
#define HARNESS_FAULT(id) (::moecheck::harness::HarnessFault::id == ::moecheck::harness::HarnessFault::kNone)
#endif

}  // namespace moecheck::harness
