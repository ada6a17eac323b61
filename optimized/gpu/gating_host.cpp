// Gating's kernels on the host executor.
#include "optimized/gpu/gating.cuh"

namespace moecheck::MOECHECK_OPTIMIZED {

std::optional<std::string> gpu_gating_unsupported(const reference::GatingOptions& o) {
  if (o.experts > 1024) return "experts=" + std::to_string(o.experts) + ": the GPU kernels take up to 1024";
  if (o.topk > 32) return "topk=" + std::to_string(o.topk) + ": the GPU kernels take up to 32";
  return std::nullopt;
}

void gating_host(const reference::GatingOptions& options, reference::ConstView router_logits,
                 reference::ConstView bias, reference::View topk_weights, reference::View topk_ids) {
  const GatingArgs args = gating_args(options, router_logits, bias, topk_weights, topk_ids);
  if (gpu::host::Executor::current().options().wave == 32)
    gating_kernels::launch_gating<32>(args, nullptr);
  else
    gating_kernels::launch_gating<64>(args, nullptr);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
