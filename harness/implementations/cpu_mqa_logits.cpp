// The adapter of mqa_logits, compiled twice as cpu.cpp is.
#include "harness/implementations/cpu_adapter.h"
#include "harness/operators/mqa_logits.h"
#include "optimized/cpu/mqa_logits.h"

namespace moecheck::harness::adapters::MOECHECK_OPTIMIZED {

const CpuAdapter kMqaLogits = {
    "mqa_logits", nothing_unsupported,
    [](const Case& c, const TensorSet& in, TensorSet& out, moecheck::MOECHECK_OPTIMIZED::CpuOptions options) {
      moecheck::MOECHECK_OPTIMIZED::mqa_logits(mqa_logits_options(c), mqa_logits_inputs(in),
                                               out.view("logits"), out.view("topk_indices"), options);
    }};

}  // namespace moecheck::harness::adapters::MOECHECK_OPTIMIZED
