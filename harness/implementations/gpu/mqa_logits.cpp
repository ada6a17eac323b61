// The adapter of mqa_logits.
#include "harness/operators/mqa_logits.h"
#include "harness/implementations/gpu/adapter.h"
#include "optimized/gpu/mqa_logits.h"

namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND {

const GpuAdapter kMqaLogits = {
    "mqa_logits", [](const Case& c) { return kernels::gpu_mqa_logits_unsupported(mqa_logits_options(c)); },
    [](const GpuCall& call) {
      kernels::gpu_mqa_logits<Backend>(mqa_logits_options(call.c), mqa_logits_inputs(call.in),
                                       call.out.view("logits"), call.out.view("topk_indices"), call.stream);
    }};

}  // namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND
