// Contract of mla_prepare: rope, concatenation and cache write before MLA attention (reference/mla_prepare.h).
#include "harness/operators/mla_prepare.h"

#include <fmt/format.h>

#include "harness/operators/operators.h"

namespace moecheck::harness {
namespace {

using reference::CacheLayout;
using reference::CacheOrder;
using reference::MlaPrepareOptions;

std::vector<Field> fields() {
  return {
      choice_field("form", {"fused", "concat", "cat_skip"},
                   "fused: rope, concatenation and cache write; concat: concat_mla_absorb_q, bytes; "
                   "cat_skip: q_cat is q_all"),
      int_field("tokens", 4, 0, 1 << 20, "rows of q"),
      int_field("prefill", 0, 0, 1 << 20, "fused: rows of k behind those of q; they arrive rotated"),
      int_field("heads", 4, 1, 1024, "query heads"),
      int_field("kv_heads", 1, 1, 64, "key heads"),
      int_field("nope_dim", 64, 1, 1 << 14, "width of the part that is not rotated (kv_lora_rank)"),
      int_field("rope_dim", 32, 2, 1 << 12, "width of the part that is rotated"),
      dtype_field("dtype", {DType::kBF16, DType::kF16}, "T: q and k"),
      choice_field("rope", {"gptj", "neox"}, "pairs that are rotated: neighbours, or halves"),
      choice_field("table", {"half", "full"},
                   "width of cos and sin: rope_dim/2, or rope_dim, indexed by the output's channel"),
      choice_field("table_dtype", {"same", "f32"}, "of cos and sin: T, or f32"),
      choice_field("rounding", {"per_op", "stored", "once", "any"},
                   "of the rotation: to T after each product and sum; its result to T; only where it is "
                   "stored; or any of these",
                   "any"),
      choice_field("cache_dtype", {"same", "e4m3fn", "e4m3fnuz"}, "of kv_cache: T, or fp8"),
      flag_field("apply_scale", true, "k_scale divides what enters the cache"),
      choice_field("scaling", {"reciprocal", "divide", "any"}, "x * fl32(1/scale), x / scale, or either",
                   "any"),
      choice_field("nope_overflow", {"saturate", "nan", "any"},
                   "numbers past the largest fp8 number, in the nope part", "any"),
      choice_field("rope_overflow", {"saturate", "nan", "any"}, "the same in the rope part", "any"),
      choice_field("q_dtype", {"same", "e4m3fn", "e4m3fnuz"}, "of q_out: T, or fp8 by a bare cast"),
      flag_field("q_scale", false, "q_scale divides what enters q_out"),
      choice_field("layout", {"row_major", "preshuffled"},
                   "of kv_cache: reference/cache_layout.h, split at nope_dim"),
      int_field("block_size", 16, 1, 1 << 14, "tokens of a cache block"),
      int_field("blocks", 4, 1, 1 << 20, "blocks of the cache"),
      int_field("max_positions", 64, 1, 1 << 20, "rows of cos and sin"),
      dtype_field("ids", {DType::kI64, DType::kI32}, "of slot_mapping and positions"),
      choice_field(
          "padded", {"compute_q", "skip_row", "clamp_q"},
          "rows of slot < 0: q is computed; nothing is; q is computed with positions clamped to the tables"),
      int_field("num_decode", 0, 0, 1 << 20,
                "tokens of decode_q_pe_out and q_nope_zeros_out; 0: there are none"),
      flag_field("k_pe_out", false, "the rotated keys are an output too"),
      int_field("q_cat_row", 0, 0, 1 << 15,
                "cat_skip: elements from head to head of q_cat; 0: they lie side by side"),
      choice_field("strided", {"alias", "copy"},
                   "cat_skip: a q_cat with gaps keeps its memory and strides, or may be copied"),
      choice_field("limits", {"none", "aiter_triton", "aiter_hip", "sglang", "vllm"},
                   "refuse what this upstream rejects, ignores or gets wrong in silence"),
      fixed(data_field({"realistic", "integers", "bits", "zero_rows", "large_positions", "padding",
                        "duplicate_slots", "saturating"})),
  };
}

using Values = std::vector<std::pair<std::string, std::string>>;

Values with(Values values, const Values& more) {
  values.insert(values.end(), more.begin(), more.end());
  return values;
}

Schema make_schema() {
  Schema s;
  s.name = "mla_prepare";
  s.fields = fields();
  const Values triton = {{"scaling", "reciprocal"}, {"k_pe_out", "1"}, {"limits", "aiter_triton"}};
  const Values hip = {{"rounding", "once"}, {"nope_overflow", "saturate"}, {"limits", "aiter_hip"}};
  const Values concat = {{"form", "concat"}, {"nope_dim", "512"}, {"rope_dim", "64"}};
  s.policies = {
      {"any", "fused, with roundings, scaling and overflow unknown", {}},
      {"aiter_triton",
       "fused_qk_rope_cat_and_cache_mla; whether AMD's compiler keeps excess precision is not known", triton},
      {"aiter_triton_bf16", "the same, rounding after every operation as Triton defines it",
       with(triton, {{"rounding", "per_op"}})},
      {"aiter_triton_upcast", "the same with upcast_operand: fp32",
       with(triton, {{"rounding", "once"}, {"table_dtype", "f32"}})},
      {"aiter_hip", "fused_qk_rope_concat_and_cache_mla: rows of slot < 0 return early",
       with(hip, {{"padded", "skip_row"}})},
      {"aiter_hip_all_q", "the same with compute_all_q_rope", with(hip, {{"padded", "clamp_q"}})},
      {"sglang",
       "rotation, then set_mla_kv_buffer: a bare cast, NaN past the largest fp8 number",
       {{"rounding", "stored"},
        {"apply_scale", "0"},
        {"nope_overflow", "nan"},
        {"rope_overflow", "nan"},
        {"limits", "sglang"}}},
      {"vllm",
       "rotary_embedding, then concat_and_cache_mla: division, saturation",
       {{"rounding", "per_op"},
        {"scaling", "divide"},
        {"nope_overflow", "saturate"},
        {"rope_overflow", "saturate"},
        {"limits", "vllm"}}},
      {"torch_cat", "torch.cat along the last dimension", {{"form", "concat"}}},
      {"sglang_concat", "sgl-kernel concat_mla_absorb_q", with(concat, {{"limits", "sglang"}})},
      {"vllm_concat", "concat_mla_q", with(concat, {{"limits", "vllm"}})},
      {"sglang_cat_skip",
       "decode on HIP: q_cat is taken for q_all without a copy",
       {{"form", "cat_skip"}, {"nope_dim", "512"}, {"rope_dim", "64"}, {"limits", "sglang"}}},
  };
  s.edits = {{"zero", "q and k of ROW are 0", 1},
             {"nan", "channel COL of ROW is NaN, in the first head of q and of k", 2},
             {"skip", "the slot of ROW is -1", 1}};
  return s;
}

const Schema& schema_of() {
  static const Schema schema = make_schema();
  return schema;
}

using Refusal = std::optional<std::string>;

Refusal data_refusal(const Case& c) {
  const bool fp8 = c.choice("cache_dtype") != "same";
  if (data_is(c, "bits") && form_is(c, "fused") &&
      (fp8 || c.flag("apply_scale") || c.choice("q_dtype") != "same"))
    return std::string("data=bits is about copies: use cache_dtype=same apply_scale=0 q_dtype=same");
  if (data_is(c, "saturating") && (!fp8 || !c.flag("apply_scale")))
    return std::string("data=saturating is about k_scale: use cache_dtype=e4m3fn apply_scale=1");
  if (!form_is(c, "fused") && !data_is(c, "bits") && !data_is(c, "realistic"))
    return fmt::format("data={} is about the rotation or the cache: use data=bits with form={}",
                       c.choice("data"), c.choice("form"));
  return std::nullopt;
}

Refusal fused_refusal(const Case& c) {
  const std::int64_t rows = mla_rows(c), slots = mla_slots(c);
  if (c.integer("rope_dim") % 2 != 0)
    return fmt::format("rope_dim={} is odd: pairs are rotated", c.integer("rope_dim"));
  if (c.integer("heads") % c.integer("kv_heads") != 0)
    return fmt::format("heads={} is not a multiple of kv_heads={}", c.integer("heads"),
                       c.integer("kv_heads"));
  if (auto why = mla_prepare_options(c).layout.check()) return why;
  if (rows > slots)
    return fmt::format(
        "tokens={} and prefill={} need {} slots, blocks={} of block_size={} have {}: use blocks={}",
        c.integer("tokens"), c.integer("prefill"), rows, c.integer("blocks"), c.integer("block_size"), slots,
        ceil_div(rows, c.integer("block_size")));
  if (c.integer("num_decode") > c.integer("tokens"))
    return fmt::format("num_decode={} exceeds tokens={}", c.integer("num_decode"), c.integer("tokens"));
  if (c.choice("rounding") == "per_op" && c.choice("table_dtype") == "f32")
    return std::string(
        "rounding=per_op with table_dtype=f32: products with an fp32 operand are fp32; use rounding=stored "
        "or once");
  if (c.flag("q_scale") && c.choice("cache_dtype") == "same")
    return std::string(
        "q_scale=1 with cache_dtype=same: the HIP kernel ignores q_scale unless the cache is fp8; use "
        "cache_dtype=e4m3fn");
  return mla_limits(c);
}

class MlaPrepare final : public Operator {
 public:
  const Schema& schema() const override { return schema_of(); }
  std::string_view summary() const override {
    return "rope, concatenation and cache write before MLA attention, and the cat-skip";
  }

  std::optional<std::string> refusal(const Case& c) const override {
    const double elements =
        static_cast<double>(mla_width(c)) *
        (static_cast<double>(c.integer("tokens")) * static_cast<double>(c.integer("heads")) +
         static_cast<double>(mla_slots(c)) * static_cast<double>(c.integer("kv_heads")));
    if (elements > 0x1p31)
      return fmt::format(
          "q and the cache hold {:.3g} numbers, more than 2^31: use fewer tokens, heads or blocks", elements);
    if (auto why = edits_refusal(c, form_is(c, "fused") ? mla_rows(c) : 0, mla_width(c))) return why;
    if (auto why = data_refusal(c)) return why;
    if (c.integer("q_cat_row") != 0 && (c.integer("q_cat_row") < mla_width(c) || !form_is(c, "cat_skip")))
      return fmt::format("q_cat_row={} needs form=cat_skip and at least nope_dim + rope_dim = {}",
                         c.integer("q_cat_row"), mla_width(c));
    if (form_is(c, "fused")) return fused_refusal(c);
    return mla_limits(c);
  }

  std::vector<TensorSpec> inputs(const Case& c) const override;
  std::vector<TensorSpec> outputs(const Case& c) const override;
  void generate(const Case& c, TensorSet& inputs) const override { generate_mla(c, inputs); }
  std::optional<std::string> bad_input(const Case& c, const TensorSet& inputs) const override {
    return bad_mla_input(c, inputs);
  }

  std::unique_ptr<Expected> reference(const Case& c, const TensorSet& inputs) const override {
    auto expected = std::make_unique<MlaExpected>();
    if (!form_is(c, "fused")) return expected;
    expected->options = mla_prepare_options(c);
    expected->duplicates = duplicate_slots(inputs);
    return expected;
  }
  void judge(const Case& c, const TensorSet& inputs, const Expected& expected, const TensorSet& outputs,
             Judgement& j) const override {
    judge_mla(c, inputs, static_cast<const MlaExpected&>(expected), outputs, j);
  }
  std::string likely_cause(const Case& c, const TensorSet& inputs, const Expected& expected,
                           const TensorSet& outputs) const override {
    return mla_cause(c, inputs, static_cast<const MlaExpected&>(expected), outputs);
  }
  void reference_outputs(const Case& c, const TensorSet& inputs, const Expected& expected,
                         TensorSet& outputs) const override {
    mla_reference_outputs(c, inputs, static_cast<const MlaExpected&>(expected), outputs);
  }
  void blank_unspecified(const Case& c, const TensorSet& inputs, TensorSet& outputs) const override {
    blank_mla(c, inputs, outputs);
  }
  std::span<const Relation> relations() const override { return mla_prepare_relations(); }
  std::vector<Case> cases(Suite suite) const override { return mla_prepare_cases(suite); }

  // q and k are read and written once; of the cache only the slots.
  std::optional<double> bytes_moved(const Case& c, const TensorSet& inputs) const override {
    double bytes = 0;
    for (const Tensor& t : inputs.tensors())
      if (t.name() != "kv_cache" && t.name() != "cos" && t.name() != "sin")
        bytes += static_cast<double>(t.bytes());
    if (form_is(c, "cat_skip")) return 0;
    for (const TensorSpec& s : outputs(c))
      if (!s.in_place) bytes += static_cast<double>(s.shape.numel() * reference::size_bytes(s.dtype));
    if (!form_is(c, "fused")) return bytes;
    return bytes + static_cast<double>(mla_rows(c) * c.integer("kv_heads") * mla_width(c) *
                                       reference::size_bytes(cache_dtype(c)));
  }
};

Shape cache_shape(const Case& c) {
  const std::int64_t blocks = c.integer("blocks"), size = c.integer("block_size"),
                     heads = c.integer("kv_heads");
  return c.choice("layout") == "row_major" ? Shape(blocks, size, heads, mla_width(c))
                                           : Shape(blocks, heads, size, mla_width(c));
}

std::vector<TensorSpec> MlaPrepare::inputs(const Case& c) const {
  const std::int64_t tokens = c.integer("tokens"), heads = c.integer("heads"), rows = mla_rows(c),
                     kv_heads = c.integer("kv_heads"), nope = c.integer("nope_dim"),
                     rope = c.integer("rope_dim");
  const DType dtype = c.dtype("dtype"), ids = c.dtype("ids");
  if (form_is(c, "cat_skip"))
    return {{"q_cat", dtype, Shape(tokens, heads, q_cat_row(c)),
             "[tokens, heads, q_cat_row]: q in the first channels", true}};
  std::vector<TensorSpec> specs = {
      {"q_nope", dtype, Shape(tokens, heads, nope), "[tokens, heads, nope_dim]", true},
      {"q_pe", dtype, Shape(tokens, heads, rope), "[tokens, heads, rope_dim]", true}};
  if (form_is(c, "concat")) return specs;
  const DType table = c.choice("table_dtype") == "f32" ? DType::kF32 : dtype;
  const Shape table_shape(c.integer("max_positions"), c.choice("table") == "full" ? rope : rope / 2);
  for (TensorSpec& s : std::vector<TensorSpec>{
           {"k_nope", dtype, Shape(rows, kv_heads, nope), "[tokens + prefill, kv_heads, nope_dim]", true},
           {"k_pe", dtype, Shape(rows, kv_heads, rope), "[tokens + prefill, kv_heads, rope_dim]", true},
           {"positions", ids, Shape(tokens), "rows of cos and sin", true},
           {"cos", table, table_shape, "[max_positions, rope_dim/2 or rope_dim]", true},
           {"sin", table, table_shape, "[max_positions, rope_dim/2 or rope_dim]", true},
           {"slot_mapping", ids, Shape(rows), "[tokens + prefill], block * block_size + offset; < 0: no slot",
            true},
           {"kv_cache", cache_dtype(c), cache_shape(c),
            "memory of [blocks, block_size, kv_heads, D], preshuffled [blocks, kv_heads, block_size, D]",
            true}})
    specs.push_back(std::move(s));
  if (c.flag("apply_scale")) specs.push_back({"k_scale", DType::kF32, Shape(1), "divides k", true});
  if (c.flag("q_scale")) specs.push_back({"q_scale", DType::kF32, Shape(1), "divides q", true});
  return specs;
}

std::vector<TensorSpec> MlaPrepare::outputs(const Case& c) const {
  const std::int64_t tokens = c.integer("tokens"), heads = c.integer("heads"), width = mla_width(c),
                     n = c.integer("num_decode"), rope = c.integer("rope_dim");
  const DType dtype = c.dtype("dtype");
  if (form_is(c, "cat_skip"))
    return {{"q_all", dtype, Shape(tokens, heads, width), "q as attention reads it", true},
            {"q_all_offset", DType::kI64, Shape(1),
             "bytes from q_cat's memory to q_all's: 0 is the same memory", true},
            {"q_all_strides", DType::kI64, Shape(3), "of q_all, in elements", true}};
  std::vector<TensorSpec> specs = {
      {"q_out", q_out_dtype(c), Shape(tokens, heads, width), "[tokens, heads, nope_dim + rope_dim]"}};
  if (form_is(c, "concat")) return specs;
  specs.push_back({"kv_cache", cache_dtype(c), cache_shape(c), "as the input", true, true});
  if (c.flag("k_pe_out"))
    specs.push_back(
        {"k_pe_out", dtype, Shape(mla_rows(c), c.integer("kv_heads"), rope), "rotated keys, unscaled", true});
  if (n > 0) {
    specs.push_back({"decode_q_pe_out", dtype, Shape(n, heads, rope),
                     "rotated queries of the first num_decode tokens", true});
    specs.push_back({"q_nope_zeros_out", dtype, Shape(n, heads, c.integer("nope_dim")), "zeros", true});
  }
  return specs;
}

DType or_same(const Case& c, std::string_view field) {
  DType dtype{};
  return reference::parse_dtype(c.choice(field), dtype) ? dtype : c.dtype("dtype");
}

}  // namespace

DType cache_dtype(const Case& c) { return or_same(c, "cache_dtype"); }
DType q_out_dtype(const Case& c) { return form_is(c, "fused") ? or_same(c, "q_dtype") : c.dtype("dtype"); }

MlaPrepareOptions mla_prepare_options(const Case& c) {
  MlaPrepareOptions o;
  o.heads = c.integer("heads"), o.kv_heads = c.integer("kv_heads"), o.nope_dim = c.integer("nope_dim");
  o.rope.style = c.choice("rope") == "neox" ? reference::RopeStyle::kNeox : reference::RopeStyle::kGptj;
  o.rope.dim = c.integer("rope_dim");
  o.rope.full_table = c.choice("table") == "full";
  o.rope.rounding = c.choice_as<reference::RopeRounding>("rounding");
  o.rope.dtype = c.dtype("dtype");
  o.scaling = c.choice_as<reference::CacheScaling>("scaling");
  o.nope_overflow = c.choice_as<reference::CastOverflow>("nope_overflow");
  o.rope_overflow = c.choice_as<reference::CastOverflow>("rope_overflow");
  o.padded = c.choice_as<reference::PaddedQuery>("padded");
  o.layout = mla_cache_layout(c.choice_as<CacheOrder>("layout"), cache_dtype(c), c.integer("block_size"),
                              o.kv_heads, o.nope_dim, o.rope.dim);
  return o;
}

reference::MlaPrepareInputs mla_prepare_inputs(const TensorSet& in) {
  return {in.view("q_nope"),    in.view("q_pe"),   in.view("k_nope"), in.view("k_pe"),
          in.view("positions"), in.view("cos"),    in.view("sin"),    in.view("slot_mapping"),
          in.view("k_scale"),   in.view("q_scale")};
}

reference::MlaPrepareOutputs mla_prepare_outputs(TensorSet& out) {
  return {out.view("q_out"), out.view("kv_cache"), out.view("k_pe_out"), out.view("decode_q_pe_out"),
          out.view("q_nope_zeros_out")};
}

const Operator& mla_prepare_operator() {
  static const MlaPrepare op;
  return op;
}

}  // namespace moecheck::harness
