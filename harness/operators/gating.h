#pragma once
// The gating operator's parts: gating.cpp (schema, specs), gating_data.cpp, gating_judge.cpp, gating_relations.cpp and
// gating_suites.cpp.
#include <span>
#include <string>
#include <vector>

#include "harness/operator.h"
#include "harness/relation.h"
#include "reference/gating.h"

namespace moecheck::harness {

const Schema& gating_schema();
reference::GatingOptions gating_options(const Case& c);

void generate_gating(const Case& c, TensorSet& inputs);

// What the judge needs besides the inputs: weights follow from the ids an implementation chose, so they are computed there.
struct GatingExpected : Expected {
  explicit GatingExpected(const reference::GatingOptions& options) : gating(options) {}
  reference::Gating gating;
  std::vector<reference::GatingRow> rows;             // of tokens that are not masked padding
  std::vector<std::vector<std::int64_t>> selections;  // the reference's ids, [topk] each
  std::vector<std::vector<bool>> masked;              // which of them won from outside the selected groups
};
std::unique_ptr<GatingExpected> gating_expected(const reference::GatingOptions& options,
                                                const TensorSet& inputs);

void judge_gating(const TensorSet& inputs, const GatingExpected& expected, const TensorSet& outputs,
                  Judgement& j);
std::string gating_cause(const Case& c, const TensorSet& inputs, const TensorSet& outputs);

std::span<const Relation> gating_relations();
std::vector<Case> gating_cases(Suite suite);

// Choice names of the policy's enums, in enum order: shared with moe_block.
std::vector<Field> gating_policy_fields();
reference::GatingPolicy gating_policy(const Case& c);
std::vector<std::pair<std::string, std::string>> gating_policy_values(const reference::GatingPolicy& policy);

}  // namespace moecheck::harness
