// The adapter of shared_experts.
#include "harness/implementations/gpu/adapter.h"
#include "harness/operators/common.h"
#include "optimized/gpu/shared_slots.h"

namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND {

const GpuAdapter kSharedExperts = {
    "shared_experts", nothing_unsupported, [](const GpuCall& call) {
      const TensorSet& in = call.in;
      TensorSet& out = call.out;
      if (call.c.choice("form") == "slots") {
        kernels::gpu_insert_shared_slots<Backend>(slot_insertion_options(call.c), in.view("topk_ids"),
                                                  in.view("topk_weights"), in.view("gate_logits"), out.view("out_ids"),
                                                  out.view("out_weights"), call.stream);
        return;
      }
      const kernels::GpuFatSharedExpert fat{in.view("gate"),       in.view("up"),       in.view("down"),
                                            in.view("gate_scale"), in.view("up_scale"), in.view("down_scale"),
                                            weight_scale(call.c)};
      kernels::gpu_split_shared_experts<Backend>(
          fat, {out.view("w13"), out.view("w2"), out.view("w13_scale"), out.view("w2_scale")}, call.stream);
    }};

}  // namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND
