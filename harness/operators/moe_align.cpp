// Contract of moe_align: from a token's experts to an expert's rows, in four conventions (reference/moe_align.h).
#include "harness/operators/moe_align.h"

#include <fmt/format.h>

#include "harness/operators/operators.h"

namespace moecheck::harness {
namespace {

using reference::AlignConvention;
using reference::SlotIndex;

Schema make_schema() {
  Schema s;
  s.name = "moe_align";
  s.fields = {
      choice_field(
          "convention", {"vllm", "sglang", "aiter", "permute"},
          "vllm, sglang: moe_align_block_size; aiter: moe_sorting; permute: permute, gather and unpermute"),
      int_field("tokens", 4, 0, 1 << 22, "rows of topk_ids (M)"),
      int_field("topk", 2, 1, 300, "slots of a token (K)"),
      int_field("experts", 8, 1, 4096, "experts (E)"),
      int_field("block_size", 16, 1, 1024,
                "rows of a block (B); permute: what each expert's rows are aligned to"),
      int_field("ep_size", 1, 1, 256, "expert-parallel ranks: expert_map is given from 2 on"),
      int_field("ep_rank", 0, 0, 255, "this rank"),
      flag_field("ignore_invalid", false,
                 "vllm: slots of other ranks take no block (ignore_invalid_experts)"),
      choice_field("tail_expert", {"-1", "0"},
                   "vllm, sglang: expert_ids behind the last block; permute: m_indices of padding rows"),
      int_field("local_tokens", -1, -1, 1 << 22, "aiter: rows from here on are not sorted; -1: all are"),
      choice_field("slot_index", {"token_major", "k_major"}, "permute: slot t*K + k, or t + k*M"),
      int_field("hidden", 32, 1, 1 << 14, "permute: width of the rows that are gathered"),
      dtype_field("dtype", {DType::kBF16, DType::kF16, DType::kF32}, "permute: of the rows"),
      dtype_field("ids", {DType::kI32, DType::kI64}, "of topk_ids"),
      fixed(data_field(
          {"realistic", "hot_expert", "empty_experts", "minus_one", "one_expert", "out_of_range"})),
  };
  s.policies = {
      {"vllm", "vLLM moe_align_block_size", {}},
      {"vllm_old", "the same, older: expert_ids end in 0", {{"tail_expert", "0"}}},
      {"sglang", "E + 1 buckets, the first for id -1", {{"convention", "sglang"}}},
      {"aiter",
       "moe_sorting: slot and token packed into 32 bits",
       {{"convention", "aiter"}, {"block_size", "32"}}},
      {"permute", "vLLM moe_permute for grouped GEMMs", {{"convention", "permute"}, {"block_size", "1"}}},
      {"permute_deepgemm",
       "each expert's rows start at a multiple of 128",
       {{"convention", "permute"}, {"block_size", "128"}}},
      {"permute_k_major",
       "slots numbered t + k*M (older vLLM)",
       {{"convention", "permute"}, {"block_size", "1"}, {"slot_index", "k_major"}}},
  };
  s.edits = {{"minus_one", "id COL of ROW is -1", 2}};
  return s;
}

const Schema& schema_of() {
  static const Schema schema = make_schema();
  return schema;
}

bool needs_weights(const Case& c) { return is_convention(c, "aiter") || is_convention(c, "permute"); }

class MoeAlign final : public Operator {
 public:
  const Schema& schema() const override { return schema_of(); }
  std::string_view summary() const override {
    return "alignment of slots to GEMM blocks, sorting and permutation";
  }

  std::optional<std::string> refusal(const Case& c) const override {
    if (auto why = routing_refusal(c)) return why;
    if (auto why = ep_refusal(c)) return why;
    if (auto why = edits_refusal(c, c.integer("tokens"), c.integer("topk"))) return why;
    const std::string_view convention = c.choice("convention");
    if (convention == "sglang" && c.integer("ep_size") > 1)
      return "convention=sglang takes local ids (-1 elsewhere) and no expert_map: use ep_size=1 with "
             "data=minus_one";
    if (c.flag("ignore_invalid") && (convention != "vllm" || c.integer("ep_size") == 1))
      return fmt::format("ignore_invalid=1 needs convention=vllm and ep_size>1: convention={} ep_size={}",
                         convention, c.integer("ep_size"));
    if (convention == "aiter" && c.integer("topk") >= 256)
      return fmt::format("topk={} does not fit the 8 bits that moe_sorting packs it into: use topk<256",
                         c.integer("topk"));
    if (c.integer("local_tokens") >= 0 &&
        (convention != "aiter" || c.integer("local_tokens") > c.integer("tokens")))
      return fmt::format("local_tokens={} needs convention=aiter and at most tokens={}",
                         c.integer("local_tokens"), c.integer("tokens"));
    if (c.integer("tokens") * c.integer("topk") > std::int64_t{1} << 27)
      return fmt::format("tokens={} topk={}: more than 2^27 slots; use fewer tokens", c.integer("tokens"),
                         c.integer("topk"));
    return std::nullopt;
  }

  std::vector<TensorSpec> inputs(const Case& c) const override {
    const Shape shape(c.integer("tokens"), c.integer("topk"));
    std::vector<TensorSpec> specs = {{"topk_ids", c.dtype("ids"), shape, "[tokens, topk]"}};
    if (needs_weights(c)) specs.push_back({"topk_weights", DType::kF32, shape, "aiter, permute", true});
    if (c.integer("ep_size") > 1)
      specs.push_back(
          {"expert_map", DType::kI32, Shape(c.integer("experts")), "local index or -1; aiter: 1 or 0", true});
    if (is_convention(c, "permute"))
      specs.push_back({"hidden_states", c.dtype("dtype"), Shape(c.integer("tokens"), c.integer("hidden")),
                       "permute", true});
    return specs;
  }

  std::vector<TensorSpec> outputs(const Case& c) const override { return align_outputs(c); }

  void generate(const Case& c, TensorSet& inputs) const override {
    const std::int64_t experts = c.integer("experts");
    const View ids = inputs.view("topk_ids");
    fill_topk_ids(c, ids);
    const Random random(c.seed, "odd ids");
    for (std::int64_t s = 0; s < ids.shape.numel(); ++s) {
      if (data_is(c, "one_expert")) ids.set_int(s, random.integer(0, 0, experts - 1));
      if (data_is(c, "out_of_range") && random.integer(static_cast<std::uint64_t>(s), 0, 2) == 0)
        ids.set_int(s, experts + random.integer(static_cast<std::uint64_t>(s), 0, 3));
    }
    if (const View weights = inputs.view("topk_weights")) fill_topk_weights(c, weights, 1);
    if (const View map = inputs.view("expert_map")) {
      const std::int64_t local = experts / c.integer("ep_size"), first = local * c.integer("ep_rank");
      for (std::int64_t e = 0; e < experts; ++e) {
        const bool mine = e >= first && e < first + local;
        map.set_int(e, is_convention(c, "aiter") ? mine : mine ? e - first : -1);
      }
    }
    if (Tensor* x = inputs.find("hidden_states")) fill_normal(*x, Random(c.seed, "hidden_states"), 1);
  }

  std::unique_ptr<Expected> reference(const Case& c, const TensorSet& inputs) const override {
    auto expected = std::make_unique<AlignExpected>();
    expected->ids = slot_ids(inputs);
    if (needs_weights(c)) expected->weights = slot_weights(inputs);
    if (!is_convention(c, "permute")) return expected;
    const reference::PermuteOptions options = permute_options(c, inputs);
    expected->k_major = options.index == SlotIndex::kKMajor;
    expected->permutation = reference::permute(expected->ids, options);
    const ConstView x = inputs.view("hidden_states");
    Tensor permuted("permuted", x.dtype, Shape(expected->permutation.rows(), x.shape[1]));
    reference::permute_rows(x, expected->permutation, options, permuted.view());
    expected->out = reference::unpermute(std::as_const(permuted).view(), inputs.view("topk_weights"),
                                         expected->permutation, options);
    return expected;
  }

  void judge(const Case& c, const TensorSet& inputs, const Expected& expected, const TensorSet& outputs,
             Judgement& j) const override {
    judge_align(c, inputs, static_cast<const AlignExpected&>(expected), outputs, j);
  }

  void reference_outputs(const Case& c, const TensorSet& inputs, const Expected& expected,
                         TensorSet& outputs) const override {
    align_reference_outputs(c, inputs, static_cast<const AlignExpected&>(expected), outputs);
  }

  void blank_unspecified(const Case& c, const TensorSet& inputs, TensorSet& outputs) const override {
    blank_align(c, inputs, outputs);
  }

  std::span<const Relation> relations() const override { return moe_align_relations(); }
  std::vector<Case> cases(Suite suite) const override { return moe_align_cases(suite); }
};

std::span<const std::int32_t> map_of(const TensorSet& inputs) {
  const ConstView map = inputs.view("expert_map");
  if (!map) return {};
  return {map.as<std::int32_t>(), static_cast<std::size_t>(map.shape.numel())};
}

}  // namespace

bool is_convention(const Case& c, std::string_view convention) {
  return c.choice("convention") == convention;
}

reference::AlignOptions align_options(const Case& c, const TensorSet& inputs) {
  reference::AlignOptions o;
  o.convention = is_convention(c, "sglang") ? AlignConvention::kSglang : AlignConvention::kVllm;
  o.experts = c.integer("experts");
  o.block_size = c.integer("block_size");
  o.tail_expert = c.choice("tail_expert") == "0" ? 0 : -1;
  o.expert_map = map_of(inputs);
  o.ignore_invalid_experts = c.flag("ignore_invalid");
  return o;
}

reference::SortingOptions sorting_options(const Case& c, const TensorSet& inputs) {
  reference::SortingOptions o;
  o.experts = c.integer("experts");
  o.topk = c.integer("topk");
  o.block_size = c.integer("block_size");
  o.expert_mask = map_of(inputs);
  o.num_local_tokens = c.integer("local_tokens");
  return o;
}

reference::PermuteOptions permute_options(const Case& c, const TensorSet& inputs) {
  reference::PermuteOptions o;
  o.topk = c.integer("topk");
  o.experts = c.integer("experts");
  o.expert_map = map_of(inputs);
  o.index = c.choice_as<SlotIndex>("slot_index");
  o.align = c.integer("block_size");
  o.invalid_expert = c.choice("tail_expert") == "0" ? 0 : -1;
  return o;
}

const Operator& moe_align_operator() {
  static const MoeAlign op;
  return op;
}

}  // namespace moecheck::harness
