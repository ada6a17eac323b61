#pragma once
// Parts of the contract of moe_block (reference/moe_block.h), one file each.
#include "harness/operators/common.h"

namespace moecheck::harness {

struct BlockExpected final : Expected {
  reference::MoeBlockResult result;
};

std::int64_t fused_shared_slots(const Case& c);
bool has_shared_mlp(const Case& c);
void generate_moe_block(const Case& c, TensorSet& inputs);
std::string moe_block_cause(const Case& c, const TensorSet& inputs, const BlockExpected& expected,
                            const TensorSet& outputs);
std::span<const Relation> moe_block_relations();
std::vector<Preset> moe_block_policies();
std::vector<Case> moe_block_cases(Suite suite);

}  // namespace moecheck::harness
