// Gating's kernels on HIP, for both wave widths: the device says at run time which it has.
#include "optimized/gpu/gating.cuh"

namespace moecheck::optimized {

void gating_hip(const reference::GatingOptions& options, reference::ConstView router_logits,
                reference::ConstView bias, reference::View topk_weights, reference::View topk_ids,
                void* stream) {
  const GatingArgs args = gating_args(options, router_logits, bias, topk_weights, topk_ids);
  if (gpu::device_wave_width() == 32)
    gating_kernels::launch_gating<32>(args, stream);
  else
    gating_kernels::launch_gating<64>(args, stream);
}

}  // namespace moecheck::optimized
