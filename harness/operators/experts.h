#pragma once
// Parts of the contract of experts (reference/experts.h), one file each.
#include "harness/operators/common.h"

namespace moecheck::harness {

void generate_experts(const Case& c, TensorSet& inputs);
// Fills the experts of w13 and w2 that `ids` routes to on this rank; the others stay zero pages, or become NaN with
// data=nan_in_unrouted. ids are global.
void fill_routed_experts(const Case& c, std::span<const std::int64_t> ids, const MlpShape& shape,
                         TensorSet& inputs);
std::string experts_cause(const Case& c, const TensorSet& inputs, const BoundedOutput& expected,
                          const TensorSet& outputs);
std::span<const Relation> experts_relations();
std::vector<Case> experts_cases(Suite suite);
// What each project's kernels round and quantize: fields of experts and moe_block.
using FieldValues = std::vector<std::pair<std::string, std::string>>;
FieldValues kernel_fields(std::string_view kernel);

// Copies experts order[i] of a weight to place i; -1 leaves `fill` in every byte.
Tensor gather_experts(const Tensor& weight, std::span<const std::int64_t> order, std::uint8_t fill = 0xFF);

}  // namespace moecheck::harness
