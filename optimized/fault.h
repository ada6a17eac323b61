#pragma once
// Planted faults: one-line bugs in the real code, each off until chosen by name, to show which check catches it.
//
//   const bool low_first = !fault(Fault::kTieHigh);
//
// The optimized sources are compiled twice (optimized/CMakeLists.txt). In the clean build fault() is constant false and costs
// nothing. With MOECHECK_FAULTS the code lives in namespace optimized_faulty, and the harness runs it as implementation
// "cpu!NAME".
#include <cstdint>
#include <span>
#include <string_view>

#ifdef MOECHECK_FAULTS
#define MOECHECK_OPTIMIZED optimized_faulty
#elif defined(__CUDACC__) || defined(__HIP__) || defined(MOECHECK_GPU_DEVICE)
#define MOECHECK_OPTIMIZED optimized_device  // GPU kernels for a device, beside those for the host executor
#else
#define MOECHECK_OPTIMIZED optimized
#endif

namespace moecheck::MOECHECK_OPTIMIZED {

// One entry: enumerator, name, operator, class, what it does, the upstream bug it stands for ("" where there is none).
enum class Fault : std::uint16_t {
  kNone,
#define MOECHECK_FAULT(id, name, op, class_, what, upstream) id,
#include "optimized/faults.def"
#include "optimized/gpu/faults.def"
#undef MOECHECK_FAULT
};

struct FaultInfo {
  Fault id;
  std::string_view name, op, class_, what, upstream;
};

std::span<const FaultInfo> faults();
// Those in GPU kernels: implementation "gpu-host!NAME".
std::span<const FaultInfo> gpu_faults();

#ifdef MOECHECK_FAULTS
// Chooses the fault of this process; kNone for none. Not while a kernel runs.
void set_fault(Fault f);
bool fault(Fault f);

// Chooses a fault for as long as it lives, also where the kernel throws.
class ScopedFault {
 public:
  explicit ScopedFault(Fault f) { set_fault(f); }
  ~ScopedFault() { set_fault(Fault::kNone); }
  ScopedFault(const ScopedFault&) = delete;
  ScopedFault& operator=(const ScopedFault&) = delete;
};
#else
constexpr bool fault(Fault) { return false; }
#endif

}  // namespace moecheck::MOECHECK_OPTIMIZED
