#include "harness/fault.h"

#ifdef MOECHECK_HARNESS_FAULTS

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace moecheck::harness {
namespace {

struct Entry {
  HarnessFault id;
  const char* name;
};
constexpr Entry kEntries[] = {
#define MOECHECK_HARNESS_FAULT(id, name, layer, class_, what, upstream, tests) {HarnessFault::id, name},
#include "harness/faults.def"
#undef MOECHECK_HARNESS_FAULT
};

// An unknown name ends the program: tests that pass without the fault would make it a survivor.
HarnessFault from_environment() {
  const char* name = std::getenv("MOECHECK_FAULT");
  if (name == nullptr || *name == '\0') return HarnessFault::kNone;
  for (const Entry& e : kEntries)
    if (std::strcmp(e.name, name) == 0) return e.id;
  std::fprintf(stderr, "MOECHECK_FAULT=%s: no such fault\n", name);
  _exit(kExitUnknownFault);
}

const HarnessFault chosen =
    from_environment();  // before main: an unknown name is refused even where no fault is asked for

}  // namespace

bool chosen_fault(HarnessFault f) { return f == chosen; }

}  // namespace moecheck::harness

#endif
