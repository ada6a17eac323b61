#pragma once
// What the contracts of the expert operators share: kinds of data, routing, fields, conversions of a case to option structs.
// Relations on token rows are in row_relations of common_relations.cpp, declared at the end.
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/operator.h"
#include "harness/random.h"
#include "harness/relation.h"
#include "reference/experts.h"
#include "reference/moe_align.h"
#include "reference/moe_block.h"
#include "reference/routed_scaling.h"
#include "reference/shared_experts.h"

namespace moecheck::harness {

inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

constexpr std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
bool is_power_of_two(double v);

// ---- Results

// One float output `out`, with a bound per element.
struct BoundedOutput : Expected {
  std::vector<reference::Bounded> out;
};
// Stores the values, rounded to the tensor's dtype.
void write_rounded(Tensor& out, std::span<const reference::Bounded> values);

// ---- Fields and cases

Field rounding_field(std::string name, std::string_view value, std::string doc);
Field data_field(std::vector<std::string> kinds);
inline bool data_is(const Case& c, std::string_view kind) { return c.choice("data") == kind; }
// A case of `schema` with the fields written in `line` ("policy=triton tokens=4").
Case make_case(const Schema& schema, std::string_view line);
// Appends the case unless `op` refuses it: suites are products of fields, and some corners are impossible.
void add_case(std::vector<Case>& cases, const Operator& op, Case c);
// A product of fields: one case per combination of the alternatives in `axes` ("quant=none", "tokens=4 seed=2", ...).
void add_product(std::vector<Case>& cases, const Operator& op,
                 const std::vector<std::vector<std::string>>& axes);
// `count` cases that draw one alternative of each axis; refused ones are drawn again.
void add_random(std::vector<Case>& cases, const Operator& op, int count,
                const std::vector<std::vector<std::string>>& axes);
// How an operator's suites are filled; cases_of gives the one asked for, each case once.
struct SuiteFillers {
  using Fill = void (*)(std::vector<Case>& cases, const Operator& op);
  Fill quick, models, adversarial, full;
};
std::vector<Case> cases_of(const Operator& op, Suite suite, const SuiteFillers& fillers);
// The cases, each once.
std::vector<Case> each_once(std::vector<Case> cases);
// "policy=NAME" of every policy of the schema.
std::vector<std::string> policy_axis(const Schema& schema);
// "model=NAME" of every model.
std::vector<std::string> model_axis();
// The same case with other row counts; edits name rows and are dropped.
Case with_tokens(const Case& c, std::int64_t tokens);
// A field changed, edits dropped.
Case with_field(const Case& c, std::string_view field, std::string_view value);

// Why the edits do not fit `rows` rows and `columns` columns, or nothing.
std::optional<std::string> edits_refusal(const Case& c, std::int64_t rows, std::int64_t columns);
// Why rsf cannot be used with exact data (data=integers), or nothing.
std::optional<std::string> exact_factor_refusal(const Case& c);
// Why experts cannot be dealt to ep_size ranks, or nothing.
std::optional<std::string> ep_refusal(const Case& c);
// Why the routing fields (topk, experts) do not go together, or nothing.
std::optional<std::string> routing_refusal(const Case& c);

// ---- Data. Every element depends on (seed, stream, position) alone.

// N(0, scale) in the tensor's dtype, for elements [first, first + count), drawn at `position`, position + 1, ... 4096 levels:
// enough for any comparison, and fast enough for the weights of real models.
void fill_normal(Tensor& tensor, const Random& random, double scale, std::int64_t first, std::int64_t count,
                 std::int64_t position = 0);
inline void fill_normal(Tensor& tensor, const Random& random, double scale) {
  fill_normal(tensor, random, scale, 0, tensor.shape().numel());
}
// The row whose data row `t` repeats: itself, or the even row before it with data=duplicate_tokens.
std::int64_t source_row(const Case& c, std::int64_t t);
// The first row of the padding at the end (data=padding), or `tokens`.
std::int64_t padding_begin(const Case& c);

// topk_ids [M, topk (+ extra)] without duplicates. Kinds of data: hot_expert (one expert in every row), empty_experts (a few
// experts take all), minus_one and nan_in_unrouted (a quarter of the slots, and row 1), padding (last rows), edits minus_one.
// Under expert parallelism each row has a slot on this rank. The `extra` slots at the end are experts E, E+1, ...: fused shared.
void fill_topk_ids(const Case& c, reference::View ids, std::int64_t extra = 0);
// Routed weights of one row, summing to 1; powers of two with data=integers. `fold` multiplies them.
void fill_topk_weights(const Case& c, reference::View weights, double fold, std::int64_t extra = 0,
                       double extra_weight = 1);
// NaN in the weights of slots with id -1 (data=nan_in_unrouted): nobody may read them.
void poison_unrouted_weights(const Case& c, reference::ConstView ids, reference::View weights);
// Activations: normal, with a few outlier channels, and what `data` says.
void fill_hidden_states(const Case& c, Tensor& hidden_states);

// Weights of one gated MLP (expert) in exact or realistic data; see mlp_data.
struct MlpShape {
  std::int64_t hidden = 0, intermediate = 0;
  reference::GateUpLayout layout = reference::GateUpLayout::kGateUp;
  std::int64_t slots = 1;  // how many such outputs a token adds up: bounds the integers
};
// Fills expert `e` of w13 [.., 2I, H] and w2 [.., H, I] (and the scales, where present) as expert `identity` of the stream.
void fill_mlp(const Case& c, std::string_view stream, const MlpShape& shape, std::int64_t e,
              std::int64_t identity, Tensor& w13, Tensor& w2, Tensor* w13_scale, Tensor* w2_scale);
// Zeros in all of expert `e`; absent tensors are nullptr.
void clear_mlp(std::int64_t e, std::span<Tensor* const> weights);
// NaN in all of expert `e`.
void fill_mlp_with_nan(const MlpShape& shape, std::int64_t e, Tensor& w13, Tensor& w2);

// ---- Options from cases, inputs from tensors (also for implementations).

reference::CombineOptions combine_options(const Case& c);  // routed_scaling
reference::CombineInputs combine_inputs(const TensorSet& inputs);
reference::ExpertsOptions experts_options(const Case& c);  // experts; the shared part of moe_block too
reference::ExpertsInputs experts_inputs(const TensorSet& inputs);
reference::MoeBlockOptions moe_block_options(const Case& c);
reference::MoeBlockInputs moe_block_inputs(const TensorSet& inputs);
reference::SlotInsertionOptions slot_insertion_options(const Case& c);  // shared_experts form=slots
reference::WeightScale weight_scale(const Case& c);                     // shared_experts form=weights
reference::AlignOptions align_options(const Case& c,
                                      const TensorSet& inputs);  // the spans point into `inputs`
reference::SortingOptions sorting_options(const Case& c, const TensorSet& inputs);
reference::PermuteOptions permute_options(const Case& c, const TensorSet& inputs);

// What a fit of out = alpha R + beta S says of a wrong output (reference/scale_diagnosis.h); empty where scaling does not explain
// it, or is right. `shared` is empty where there are no shared experts.
std::string scale_cause(std::span<const double> out, std::span<const double> routed,
                        std::span<const double> shared, const Case& c, const reference::ScalePlan& plan);
// The plan of scale places that field `place` (and fused, renormalize, half) names.
reference::ScalePlan scale_plan(const Case& c);
// Fields that experts and moe_block share: sizes of the MLPs, quantization, activation, roundings, reduce.
std::vector<Field> expert_fields();
std::optional<std::string> expert_fields_refusal(const Case& c);
std::vector<TensorSpec> mlp_specs(const Case& c, std::string_view prefix, std::optional<std::int64_t> experts,
                                  std::int64_t intermediate);

// ---- Relations on rows of tokens

// Inputs and outputs whose first dimension is the token, in every operator here.
bool is_token_major(std::string_view tensor);
// The inputs with rows gathered: row i of the result is row rows[i]; other tensors are copied.
TensorSet gather_rows(const TensorSet& inputs, std::span<const std::int64_t> rows);
// Names the first element that the reference's judge rejects, or nothing.
std::optional<std::string> judged_wrong(const Operator& op, const Case& c, const TensorSet& inputs,
                                        const TensorSet& outputs);
// Runs the trial's implementation on a changed case and judges it. Throws Broken with `what`.
void require_judged(const Trial& trial, const Case& changed, const TensorSet& inputs, std::string_view what);

extern const Relation kTokenPermutation, kBatchSplit, kDuplicateToken, kPaddingIndependence;

}  // namespace moecheck::harness
