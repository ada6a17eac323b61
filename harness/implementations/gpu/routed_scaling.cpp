// The adapter of routed_scaling.
#include "harness/implementations/gpu/adapter.h"
#include "harness/operators/common.h"
#include "optimized/gpu/combine.h"

namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND {

const GpuAdapter kRoutedScaling = {
    "routed_scaling",
    [](const Case& c) {
      return kernels::gpu_combine_unsupported(c.integer("topk") + (c.flag("fused") ? c.integer("n_shared") : 0));
    },
    [](const GpuCall& call) {
      kernels::gpu_combine<Backend>(combine_options(call.c), combine_inputs(call.in), call.out.view("out"),
                                    call.stream);
    }};

}  // namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND
