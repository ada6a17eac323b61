#pragma once
// Parts of the contract of mqa_logits (reference/mqa_logits.h), one file each; conversions also for implementations.
#include "harness/operators/common.h"
#include "reference/mqa_logits.h"

namespace moecheck::harness {

reference::MqaLogitsOptions mqa_logits_options(const Case& c);
reference::MqaLogitsInputs mqa_logits_inputs(const TensorSet& inputs);
bool is_paged(const Case& c);

// Blocks of the cache and columns of the block table; tokens of k. From the case alone.
std::int64_t mqa_blocks(const Case& c);
std::int64_t mqa_table_columns(const Case& c);
std::int64_t mqa_ragged_tokens(const Case& c);

struct MqaLogitsExpected final : Expected {
  reference::MqaLogits logits;
};

void generate_mqa_logits(const Case& c, TensorSet& inputs);
void judge_mqa_logits(const Case& c, const TensorSet& inputs, const MqaLogitsExpected& expected,
                      const TensorSet& outputs, Judgement& j);
std::string mqa_logits_cause(const Case& c, const TensorSet& inputs, const MqaLogitsExpected& expected,
                             const TensorSet& outputs);
std::span<const Relation> mqa_logits_relations();
std::vector<Case> mqa_logits_cases(Suite suite);

}  // namespace moecheck::harness
