#pragma once
// Parts of the contract of moe_align (reference/moe_align.h), one file each.
#include <optional>

#include "harness/operators/common.h"

namespace moecheck::harness {

// What is expected is a property (sets per expert), so the ids are kept and judged against.
struct AlignExpected final : Expected {
  std::vector<std::int64_t> ids;
  std::vector<float> weights;           // convention=aiter
  bool k_major = false;                 // convention=permute: slot t + k*M
  reference::Permutation permutation;   // convention=permute
  std::vector<reference::Bounded> out;  // convention=permute
};

bool is_convention(const Case& c, std::string_view convention);
std::vector<std::int64_t> slot_ids(const TensorSet& inputs);
std::vector<float> slot_weights(const TensorSet& inputs);
// The outputs as the reference's structs.
reference::Alignment alignment_of(const TensorSet& outputs);
reference::Sorting sorting_of(const TensorSet& outputs);

std::vector<TensorSpec> align_outputs(const Case& c);
void judge_align(const Case& c, const TensorSet& inputs, const AlignExpected& expected,
                 const TensorSet& outputs, Judgement& j);
void align_reference_outputs(const Case& c, const TensorSet& inputs, const AlignExpected& expected,
                             TensorSet& outputs);
// Sorts the slots within each expert, whose order is not promised, and zeroes what lies behind the last block.
void blank_align(const Case& c, const TensorSet& inputs, TensorSet& outputs);

std::span<const Relation> moe_align_relations();
std::vector<Case> moe_align_cases(Suite suite);

}  // namespace moecheck::harness
