#pragma once
// reference/mqa_logits.h with SIMD across tokens and threads across chunks of tokens. Every logit is summed in the order of d and
// h by one lane, whatever the layout, the block size, the batch and the number of threads: the bits are always the same.
#include "optimized/cpu/options.h"
#include "reference/mqa_logits.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// logits [rows, row_stride], f32 or bf16; topk_indices i32 [rows, topk] or absent. Columns that are undefined are not written,
// prefilled ones neither. Throws std::invalid_argument on lengths, block ids and tables that do not fit, before anything is
// written.
void mqa_logits(const reference::MqaLogitsOptions& o, const reference::MqaLogitsInputs& in,
                reference::View logits, reference::View topk_indices, CpuOptions options);

}  // namespace moecheck::MOECHECK_OPTIMIZED
