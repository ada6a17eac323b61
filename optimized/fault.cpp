#include "optimized/fault.h"

#include <array>

namespace moecheck::MOECHECK_OPTIMIZED {
namespace {
constexpr FaultInfo kFaults[] = {
#define MOECHECK_FAULT(id, name, op, class_, what, upstream) {Fault::id, name, op, class_, what, upstream},
#include "optimized/faults.def"
};
constexpr FaultInfo kGpuFaults[] = {
#include "optimized/gpu/faults.def"
#undef MOECHECK_FAULT
};
}  // namespace

std::span<const FaultInfo> faults() { return kFaults; }
std::span<const FaultInfo> gpu_faults() { return kGpuFaults; }

#ifdef MOECHECK_FAULTS
namespace {
Fault chosen = Fault::kNone;
}
void set_fault(Fault f) { chosen = f; }
bool fault(Fault f) { return chosen == f; }
#endif

}  // namespace moecheck::MOECHECK_OPTIMIZED
