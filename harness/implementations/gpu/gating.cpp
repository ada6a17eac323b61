// The adapter of gating.
#include "harness/implementations/gpu/adapter.h"
#include "harness/operators/gating.h"
#include "optimized/gpu/gating.h"

namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND {

const GpuAdapter kGating = {
    "gating", [](const Case& c) { return kernels::gpu_gating_unsupported(gating_options(c)); },
    [](const GpuCall& call) {
      const reference::GatingOptions o = gating_options(call.c);
      const View ids = call.out.view("topk_ids");
      kernels::gpu_gating<Backend>(o, call.in.view("router_logits"), call.in.view("e_score_correction_bias"),
                                   call.out.view("topk_weights"), ids, call.stream);
      // As the serving frameworks do, a separate step after the kernel.
      if (const ConstView table = call.in.view("logical_to_physical")) {
        const bool masked = o.policy.padding != reference::Padding::kCompute;
        const std::int64_t rows = masked ? ids.shape[0] - o.padded_tokens : ids.shape[0];
        kernels::gpu_remap_ids<Backend>(table, rows * o.slots(), o.experts, ids, call.stream);
      }
    }};

}  // namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND
