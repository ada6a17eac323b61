// The adapter of moe_block.
#include "optimized/gpu/moe_block.h"

#include "harness/implementations/gpu/adapter.h"
#include "harness/operators/common.h"

namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND {

const GpuAdapter kMoeBlock = {
    "moe_block",
    [](const Case& c) {
      const DType weights = c.choice("quant") == "none" ? c.dtype("dtype") : c.dtype("fp8");
      return kernels::gpu_moe_block_unsupported(moe_block_options(c), weights);
    },
    [](const GpuCall& call) {
      const reference::MoeBlockOptions o = moe_block_options(call.c);
      const reference::MoeBlockInputs in = moe_block_inputs(call.in);
      const std::size_t bytes =
          kernels::gpu_moe_block_workspace(o, in.experts.w13.dtype, in.hidden_states.shape[0]);
      kernels::gpu_moe_block<Backend>(o, in, call.out.view("out"), call.workspace(bytes), call.stream);
    }};

}  // namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND
