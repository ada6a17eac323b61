// Gating's kernels on CUDA.
#include "optimized/gpu/gating.cuh"

namespace moecheck::optimized {

void gating_cuda(const reference::GatingOptions& options, reference::ConstView router_logits,
                 reference::ConstView bias, reference::View topk_weights, reference::View topk_ids,
                 void* stream) {
  gating_kernels::launch_gating<32>(gating_args(options, router_logits, bias, topk_weights, topk_ids),
                                    stream);
}

}  // namespace moecheck::optimized
