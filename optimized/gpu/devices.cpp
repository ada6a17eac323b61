#include "optimized/gpu/devices.h"

#if defined(MOECHECK_CUDA)
#include <cuda_runtime_api.h>
#elif defined(MOECHECK_HIP)
#include <hip/hip_runtime_api.h>
#endif

namespace moecheck::optimized {

#if defined(MOECHECK_CUDA) || defined(MOECHECK_HIP)

namespace {

#if defined(MOECHECK_CUDA)
constexpr const char* kApi = "CUDA";
using Properties = cudaDeviceProp;
int device_count() {
  int n = 0;
  return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}
bool properties_of(int device, Properties& p) { return cudaGetDeviceProperties(&p, device) == cudaSuccess; }
bool versions(int& driver, int& runtime) {
  return cudaDriverGetVersion(&driver) == cudaSuccess && cudaRuntimeGetVersion(&runtime) == cudaSuccess;
}
std::string version_text(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }
#else
constexpr const char* kApi = "HIP";
using Properties = hipDeviceProp_t;
int device_count() {
  int n = 0;
  return hipGetDeviceCount(&n) == hipSuccess ? n : 0;
}
bool properties_of(int device, Properties& p) { return hipGetDeviceProperties(&p, device) == hipSuccess; }
bool versions(int& driver, int& runtime) {
  return hipDriverGetVersion(&driver) == hipSuccess && hipRuntimeGetVersion(&runtime) == hipSuccess;
}
std::string version_text(int v) {
  return std::to_string(v / 10000000) + "." + std::to_string(v / 100000 % 100);
}
#endif

}  // namespace

std::string gpu_devices() {
  std::string names;
  for (int i = 0, n = device_count(); i < n; ++i) {
    Properties p{};
    if (!properties_of(i, p)) continue;
    names += (names.empty() ? "" : "; ") + std::string(p.name);
  }
  int driver = 0, runtime = 0;
  if (!names.empty() && versions(driver, runtime))
    names += std::string(" (") + kApi + " driver " + version_text(driver) + ", runtime " +
             version_text(runtime) + ")";
  return names;
}

#else

std::string gpu_devices() { return {}; }

#endif

}  // namespace moecheck::optimized
