// The operators that have GPU kernels.
#include "harness/implementations/gpu/adapter.h"

namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND {

const GpuAdapter* find_gpu_adapter(std::string_view op) {
  for (const GpuAdapter* a : {
           &kGating,
       })
    if (a->op == op) return a;
  return nullptr;
}

}  // namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND
