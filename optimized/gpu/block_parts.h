#pragma once
// The small operations between an MoE block's operators, for blocks that put each operator on a stream of its choice: the gate's
// matrix product, routed_scaling_factor outside of the experts, and the add of the shared experts' output.
#include "optimized/fault.h"
#include "optimized/gpu/types.h"
#include "reference/tensor.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// logits [M, E] f32 = x [M, H] times gate [E, H] transposed, both f32|bf16|f16 of one dtype; sums in f32, one wave per logit.
template <class Backend>
void gpu_router_logits(reference::ConstView x, reference::ConstView gate, reference::View logits,
                       gpu::Stream stream);

// x [M, H] f32|bf16|f16 = round(x times factor), in place.
template <class Backend>
void gpu_scale_rows(reference::View x, float factor, gpu::Stream stream);

// y [M, H] = round(y + x), both of one dtype, in place.
template <class Backend>
void gpu_add_rows(reference::ConstView x, reference::View y, gpu::Stream stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
