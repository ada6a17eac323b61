// The adapter of experts.
#include "optimized/gpu/experts.h"

#include "harness/implementations/gpu/adapter.h"
#include "harness/operators/common.h"

namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND {

const GpuAdapter kExperts = {
    "experts",
    [](const Case& c) {
      const DType weights = c.choice("quant") == "none" ? c.dtype("dtype") : c.dtype("fp8");
      return kernels::gpu_experts_unsupported(experts_options(c), weights);
    },
    [](const GpuCall& call) {
      const reference::ExpertsOptions o = experts_options(call.c);
      const reference::ExpertsInputs in = experts_inputs(call.in);
      const std::size_t bytes =
          kernels::gpu_experts_workspace(o, in.weights.w13.dtype, in.hidden_states.shape[0]);
      kernels::gpu_experts<Backend>(o, in, call.out.view("out"), call.workspace(bytes), call.stream);
    }};

}  // namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND
