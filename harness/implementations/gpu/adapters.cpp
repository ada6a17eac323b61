// The operators that have GPU kernels.
#include "harness/implementations/gpu/adapter.h"

namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND {

std::span<const GpuAdapter* const> all_gpu_adapters() {
  static constexpr const GpuAdapter* kAll[] = {
      &kGating,
      &kExperts,
      &kMoeBlock,
      &kRoutedScaling,
      &kSharedExperts,
      &kMoeAlign,
      &kMqaLogits,
      &kIndexerCache,
      &kMlaPrepare,
  };
  return kAll;
}

const GpuAdapter* find_gpu_adapter(std::string_view op) {
  for (const GpuAdapter* a : all_gpu_adapters())
    if (a->op == op) return a;
  return nullptr;
}

}  // namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND
