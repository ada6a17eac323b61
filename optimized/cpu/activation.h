#pragma once
// The gated activation and the block quantizer as operators of their own (reference/activation.h,
// reference/fp8_block.h). The experts use the same code between their two GEMMs.
#include "optimized/cpu/options.h"
#include "reference/activation.h"
#include "reference/fp8_block.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// gate_up [M, 2I] T -> out [M, I], rounded to out's dtype; options.round_silu is honoured, round_product is
// out's dtype.
void silu_and_mul(const reference::ActivationOptions& options, reference::ConstView gate_up,
                  reference::View out, CpuOptions cpu = {});

// x [M, n] f32|bf16|f16 -> codes [M, n] in options.dtype, scales [M, ceil(n / group)] f32 (or e8m0 when the
// format is UE8M0).
void quantize_fp8(const reference::Fp8QuantOptions& options, reference::ConstView x, reference::View codes,
                  reference::View scales, CpuOptions cpu = {});

}  // namespace moecheck::MOECHECK_OPTIMIZED
