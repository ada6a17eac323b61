#include "optimized/cpu/options.h"

#include <atomic>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optimized/cpu/options.cpp"
#include "optimized/cpu/simd.h"
// After simd.h, which chooses the targets.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE {
std::string_view target() { return hwy::TargetName(HWY_TARGET); }
}  // namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moecheck::MOECHECK_OPTIMIZED {
namespace {
HWY_EXPORT(target);
std::atomic<bool> baseline{false};
}  // namespace

void use_baseline_target(bool on) { baseline = on; }

bool uses_baseline_target() {
  // Function pointers that are taken before Highway has looked at the processor would look at it again at
  // every call.
  static const bool looked = (hwy::GetChosenTarget().Update(hwy::SupportedTargets()), true);
  return baseline.load(std::memory_order_relaxed) || !looked;
}

std::string_view cpu_target() { return MOECHECK_DISPATCH(target)(); }

}  // namespace moecheck::MOECHECK_OPTIMIZED
#endif
