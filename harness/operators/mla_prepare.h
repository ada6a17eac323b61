#pragma once
// Parts of the contract of mla_prepare (reference/mla_prepare.h), one file each. Conversions also for implementations.
#include <array>
#include <optional>

#include "harness/operators/common.h"
#include "reference/mla_prepare.h"

namespace moecheck::harness {

inline bool form_is(const Case& c, std::string_view form) { return c.choice("form") == form; }
inline std::int64_t mla_width(const Case& c) { return c.integer("nope_dim") + c.integer("rope_dim"); }
inline std::int64_t mla_rows(const Case& c) { return c.integer("tokens") + c.integer("prefill"); }
inline std::int64_t mla_slots(const Case& c) { return c.integer("blocks") * c.integer("block_size"); }
// Elements from one head of q_cat to the next.
inline std::int64_t q_cat_row(const Case& c) {
  return c.integer("q_cat_row") == 0 ? mla_width(c) : c.integer("q_cat_row");
}
// A strided q_cat that the contract lets an implementation copy.
inline bool may_copy(const Case& c) { return c.choice("strided") == "copy" && q_cat_row(c) > mla_width(c); }
DType cache_dtype(const Case& c);
DType q_out_dtype(const Case& c);

// form=fused.
reference::MlaPrepareOptions mla_prepare_options(const Case& c);
reference::MlaPrepareInputs mla_prepare_inputs(const TensorSet& inputs);
reference::MlaPrepareOutputs mla_prepare_outputs(TensorSet& outputs);

// Why the upstream of `limits` cannot take this case, or nothing.
std::optional<std::string> mla_limits(const Case& c);
void generate_mla(const Case& c, TensorSet& inputs);
std::optional<std::string> bad_mla_input(const Case& c, const TensorSet& inputs);

// Slots that several tokens write: what ends up there is undefined. Sorted.
std::vector<std::int64_t> duplicate_slots(const TensorSet& inputs);

// What the judge compares with: rows of numbers are computed when they are needed, not kept.
struct MlaExpected final : Expected {
  reference::MlaPrepareOptions options;
  std::vector<std::int64_t> duplicates;
};
void judge_mla(const Case& c, const TensorSet& inputs, const MlaExpected& expected, const TensorSet& outputs,
               Judgement& j);
// form=fused, against any options and inputs: what the likely cause is found with.
void judge_mla_fused(const TensorSet& tensors, const reference::MlaPrepareInputs& in,
                     const MlaExpected& expected, const TensorSet& outputs, bool may_be_zero, Judgement& j);
void mla_reference_outputs(const Case& c, const TensorSet& inputs, const MlaExpected& expected,
                           TensorSet& outputs);
void blank_mla(const Case& c, const TensorSet& inputs, TensorSet& outputs);
std::string mla_cause(const Case& c, const TensorSet& inputs, const MlaExpected& expected,
                      const TensorSet& outputs);

std::span<const Relation> mla_prepare_relations();
std::vector<Case> mla_prepare_cases(Suite suite);

}  // namespace moecheck::harness
