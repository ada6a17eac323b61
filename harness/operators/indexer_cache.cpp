// Contract of indexer_cache: the indexer's keys quantized into a paged cache, and gathered out of it
// (reference/indexer_cache.h).
#include "harness/operators/indexer_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "harness/operators/operators.h"

namespace moecheck::harness {
namespace {

using reference::CacheLayout;
using reference::DivisionOp;

std::vector<Field> fields() {
  return {
      choice_field("form", {"quantize", "gather"},
                   "indexer_k_quant_and_cache, or cp_gather_indexer_k_quant_cache"),
      int_field("tokens", 20, 0, 1 << 22, "rows of k; gather: rows of dst (N)"),
      choice_field("layout", {"row_major", "preshuffled"},
                   "of the values in a block (reference/cache_layout.h)"),
      int_field("block_size", 64, 1, 1 << 12, "tokens of a block (B)"),
      int_field("head_dim", 128, 1, 1 << 14, "channels of a token (D)"),
      int_field("quant_block", 128, 1, 1 << 14, "channels that share a scale (Q)"),
      int_field("pad", 0, 0, 1 << 20, "bytes between a block's scales and the next block"),
      int_field("blocks", 0, 0, 1 << 22, "of the cache; 0: what the tokens need, and two more"),
      dtype_field("dtype", {DType::kBF16, DType::kF16, DType::kF32}, "of k"),
      int_field("k_stride", 0, 0, 1 << 15, "quantize: elements from a row of k to the next; 0: head_dim"),
      int_field("slot_count", -1, -1, 1 << 22, "quantize: length of slot_mapping; -1: tokens"),
      choice_field("count", {"k_rows", "min"},
                   "quantize: tokens are k's rows, or the shorter of k and slot_mapping"),
      choice_field(
          "slots", {"paged", "random", "sequential", "negative", "duplicates", "dummy", "edges"},
          "quantize: blocks filled in order but scattered; one by one anywhere; 0, 1, 2, ...; a third "
          "negative; every "
          "fifth as the one before; the last quarter padding in slot 0; at the ends of blocks and cache"),
      dtype_field("ids", {DType::kI64, DType::kI32}, "of slot_mapping"),
      choice_field("skip", {"negative", "none", "dummy_slot0"},
                   "a negative slot is skipped; is no slot; nor, and slot 0 is where padding goes: its bytes "
                   "mean nothing"),
      dtype_field("fp8", {DType::kE4M3FN, DType::kE4M3FNUZ}, "of the codes"),
      choice_field("divisor", {"448", "240", "224"}, "F: scale = amax / F"),
      real_field("amax_floor", 1e-4, 1e-30, 1, "amax is at least this"),
      choice_field("scale_fmt", {"plain", "ue8m0"}, "ue8m0: the power of two above, still stored as fp32"),
      choice_field("scale_op", {"divide", "reciprocal", "any"}, "amax / F, or amax * fp32(1 / F)", "any"),
      choice_field("value_op", {"divide", "reciprocal", "any"}, "k / scale, or k * fp32(1 / scale)", "any"),
      choice_field("exponent", {"bits", "log2"},
                   "ue8m0: found in the bits, or by log2f (differs with dtype=f32 alone)", "log2"),
      choice_field(
          "non_finite", {"open", "code", "clamped"},
          "NaN and Inf: nothing is promised for their group; NaN codes; NaN becomes the lowest code"),
      int_field("requests", 3, 1, 4096, "gather: sequences (R)"),
      int_field("extra_rows", 0, 0, 1 << 16, "gather: rows of dst from cu_seq_lens[R] on"),
      choice_field("past_rows", {"unchanged", "undefined"}, "gather: what those rows hold afterwards",
                   "undefined"),
      int_field("columns", 0, 0, 1 << 22,
                "gather: columns of block_table; 0: what the requests need, and one more"),
      int_field("table_pad", 0, 0, 1 << 12, "gather: columns behind them that a narrowed view leaves out"),
      flag_field("shared", false, "gather: requests share the blocks of a common prefix"),
      choice_field("dst_scale", {"elements", "bytes"}, "gather: dst_scale is f32 [N, D/Q] or u8 [N, 4 D/Q]"),
      fixed(data_field({"realistic", "integers", "zero_rows", "boundaries", "ties", "small_codes",
                        "signed_zero", "floor", "large", "non_finite"})),
  };
}

std::vector<Preset> policies() {
  using Values = std::vector<std::pair<std::string, std::string>>;
  const Values vllm = {{"scale_op", "divide"}, {"value_op", "divide"}, {"past_rows", "unchanged"}};
  const Values aiter = {{"scale_op", "divide"}, {"value_op", "reciprocal"}, {"count", "min"}};
  const Values sglang = {
      {"exponent", "bits"}, {"skip", "dummy_slot0"}, {"slots", "dummy"}, {"past_rows", "unchanged"}};
  const auto with = [](Values values, const Values& more) {
    values.insert(values.end(), more.begin(), more.end());
    return values;
  };
  const Values fnuz224 = {{"fp8", "e4m3fnuz"}, {"divisor", "224"}},
               fnuz240 = {{"fp8", "e4m3fnuz"}, {"divisor", "240"}};
  return {
      {"any", "roundings of either kind are right; layouts and index rules as written", {}},
      {"vllm_cuda", "vLLM csrc/cache_kernels.cu",
       with(vllm, {{"non_finite", "code"}, {"dst_scale", "bytes"}})},
      {"vllm_rocm", "the same on gfx942: fnuz and 224", with(with(vllm, fnuz224), {{"dst_scale", "bytes"}})},
      {"vllm_rocm_triton", "vLLM rocm_aiter_mla_sparse.py: preshuffled from block_size 16 on",
       with(with(vllm, fnuz224), {{"layout", "preshuffled"}})},
      {"aiter", "aiter cache_kernels.cu: multiplies by the reciprocal", aiter},
      {"aiter_gfx942", "the same on gfx942: fnuz and 240", with(aiter, fnuz240)},
      {"sglang_cuda", "sglang fused_store_indexer_cache: always plain scales",
       with(sglang, {{"scale_op", "divide"}, {"value_op", "reciprocal"}})},
      {"sglang_act_quant", "sglang act_quant and set_index_k_scale_buffer",
       with(sglang, {{"scale_op", "reciprocal"}, {"value_op", "divide"}, {"scale_fmt", "ue8m0"}})},
      {"deep_gemm", "DeepGEMM's test helper", {{"scale_op", "divide"}, {"value_op", "reciprocal"}}},
  };
}

const Schema& schema_of() {
  static const Schema schema = [] {
    Schema s;
    s.name = "indexer_cache";
    s.fields = fields();
    s.policies = policies();
    s.edits = {{"zero", "quantize: row ROW of k is 0", 1},
               {"nan", "quantize: element COL of row ROW is NaN", 2},
               {"skip", "quantize: slot_mapping[ROW] is -1", 1}};
    return s;
  }();
  return schema;
}

class IndexerCache final : public Operator {
 public:
  const Schema& schema() const override { return schema_of(); }
  std::string_view summary() const override {
    return "indexer keys quantized into a paged cache, and gathered out of it";
  }

  std::optional<std::string> refusal(const Case& c) const override { return indexer_cache_refusal(c); }

  std::vector<TensorSpec> inputs(const Case& c) const override {
    const std::int64_t tokens = c.integer("tokens");
    const TensorSpec cache = {"kv_cache", DType::kU8, cache_shape(c), "[blocks, block stride]: its bytes",
                              false,      false};
    if (!is_gather(c)) {
      const std::int64_t stride = c.integer("k_stride") == 0 ? c.integer("head_dim") : c.integer("k_stride");
      const std::int64_t slots = c.integer("slot_count") < 0 ? tokens : c.integer("slot_count");
      return {
          {"k", c.dtype("dtype"), Shape(tokens, stride), "quantize: [tokens, head_dim or k_stride]", true},
          {"slot_mapping", c.dtype("ids"), Shape(slots), "quantize: block * block_size + token", true},
          cache};
    }
    const std::int64_t requests = c.integer("requests");
    std::vector<TensorSpec> specs = {
        cache,
        {"block_table", DType::kI32, Shape(requests, paged_cache(c).columns + c.integer("table_pad")),
         "gather: [R, row stride]", true},
        {"cu_seq_lens", DType::kI32, Shape(requests + 1), "gather: from 0, ascending", true}};
    if (c.integer("extra_rows") > 0)
      for (TensorSpec out : outputs(c)) {
        out.doc = "gather with extra_rows: what it holds before", out.optional = true, out.in_place = false;
        specs.push_back(out);
      }
    return specs;
  }

  std::vector<TensorSpec> outputs(const Case& c) const override {
    if (!is_gather(c))
      return {{"kv_cache", DType::kU8, cache_shape(c),
               "quantize: updated in place, outside the slots not at all", true, true}};
    const std::int64_t tokens = c.integer("tokens"), scales = cache_layout(c).scales();
    const bool bytes = c.choice("dst_scale") == "bytes", in_place = c.integer("extra_rows") > 0;
    return {{"dst_k", c.dtype("fp8"), Shape(tokens, c.integer("head_dim")), "gather: codes", true, in_place},
            {"dst_scale", bytes ? DType::kU8 : DType::kF32, Shape(tokens, bytes ? 4 * scales : scales),
             "gather: scales", true, in_place}};
  }

  void generate(const Case& c, TensorSet& inputs) const override { generate_indexer_cache(c, inputs); }
  std::optional<std::string> bad_input(const Case& c, const TensorSet& inputs) const override {
    return bad_indexer_input(c, inputs);
  }

  std::unique_ptr<Expected> reference(const Case& c, const TensorSet& inputs) const override {
    auto e = std::make_unique<IndexerCacheExpected>();
    const CacheLayout layout = cache_layout(c);
    const auto bytes_of = [](const Tensor& t) {
      const auto* p = reinterpret_cast<const std::uint8_t*>(t.data());
      return std::vector<std::uint8_t>(p, p + t.bytes());
    };
    if (!is_gather(c)) {
      e->cache = bytes_of(inputs.at("kv_cache"));
      const ConstView k = inputs.view("k");
      reference::indexer_k_quant_and_cache(indexer_quant(c), layout, k, k.shape[1],
                                           inputs.view("slot_mapping"), tokens_written(c), e->cache.data());
      return e;
    }
    e->dst_k.assign(at(c.integer("tokens") * layout.head_dim), 0xFF);
    e->dst_scale.assign(at(c.integer("tokens") * layout.scales() * 4), 0xFF);
    if (const Tensor* before = inputs.find("dst_k")) e->dst_k = bytes_of(*before);
    if (const Tensor* before = inputs.find("dst_scale")) e->dst_scale = bytes_of(*before);
    reference::cp_gather_indexer_k_quant_cache(layout, inputs.view("kv_cache").as<std::uint8_t>(),
                                               paged_table(c, inputs), c.integer("tokens"), e->dst_k.data(),
                                               e->dst_scale.data());
    return e;
  }

  void judge(const Case& c, const TensorSet& inputs, const Expected& expected, const TensorSet& outputs,
             Judgement& j) const override {
    judge_indexer_cache(c, inputs, static_cast<const IndexerCacheExpected&>(expected), outputs, j);
  }
  std::string likely_cause(const Case& c, const TensorSet& inputs, const Expected& expected,
                           const TensorSet& outputs) const override {
    return indexer_cache_cause(c, inputs, static_cast<const IndexerCacheExpected&>(expected), outputs);
  }
  void reference_outputs(const Case& c, const TensorSet&, const Expected& expected,
                         TensorSet& outputs) const override {
    const auto& e = static_cast<const IndexerCacheExpected&>(expected);
    const auto put = [&](std::string_view name, const std::vector<std::uint8_t>& bytes) {
      if (!bytes.empty()) std::memcpy(outputs.at(name).data(), bytes.data(), bytes.size());
    };
    if (!is_gather(c)) return put("kv_cache", e.cache);
    put("dst_k", e.dst_k);
    put("dst_scale", e.dst_scale);
  }
  void blank_unspecified(const Case& c, const TensorSet& inputs, TensorSet& outputs) const override {
    blank_indexer_cache(c, inputs, outputs);
  }

  std::span<const Relation> relations() const override { return indexer_cache_relations(); }
  std::vector<Case> cases(Suite suite) const override { return indexer_cache_cases(suite); }

  std::optional<double> bytes_moved(const Case& c, const TensorSet&) const override {
    const CacheLayout layout = cache_layout(c);
    const std::int64_t row = layout.head_dim + 4 * layout.scales();
    if (is_gather(c)) return static_cast<double>((c.integer("tokens") - c.integer("extra_rows")) * 2 * row);
    const std::int64_t read =
        layout.head_dim * reference::size_bytes(c.dtype("dtype")) + reference::size_bytes(c.dtype("ids"));
    return static_cast<double>(tokens_written(c) * (read + row));
  }

 private:
  static Shape cache_shape(const Case& c) { return Shape(pool_blocks(c), cache_layout(c).stride()); }
};

}  // namespace

bool is_gather(const Case& c) { return c.choice("form") == "gather"; }

CacheLayout cache_layout(const Case& c) {
  CacheLayout l;
  l.order = c.choice_as<reference::CacheOrder>("layout");
  l.dtype = c.dtype("fp8");
  l.block_size = c.integer("block_size");
  l.head_dim = c.integer("head_dim");
  l.quant_block = c.integer("quant_block");
  if (c.integer("pad") > 0 && !l.check()) l.block_stride = l.block_bytes() + c.integer("pad");
  return l;
}

reference::IndexerQuant indexer_quant(const Case& c) {
  reference::IndexerQuant q;
  q.fp8 = c.dtype("fp8");
  q.divisor = c.choice("divisor") == "448" ? 448 : c.choice("divisor") == "240" ? 240 : 224;
  q.amax_floor = c.real("amax_floor");
  q.ue8m0 = c.choice("scale_fmt") == "ue8m0";
  q.scale_op = c.choice_as<DivisionOp>("scale_op");
  q.value_op = c.choice_as<DivisionOp>("value_op");
  q.exponent = c.choice_as<reference::ExponentOp>("exponent");
  q.non_finite = c.choice_as<reference::NonFiniteKeys>("non_finite");
  return q;
}

std::int64_t tokens_written(const Case& c) {
  const std::int64_t tokens = c.integer("tokens"), slots = c.integer("slot_count");
  return slots < 0 ? tokens : std::min(tokens, slots);
}

PagedCache paged_cache(const Case& c) {
  PagedCache p;
  p.layout = cache_layout(c);
  p.lengths = request_lengths(c);
  p.share_prefix = c.flag("shared");
  p.blocks = c.integer("blocks") > 0 ? c.integer("blocks") : p.blocks_needed() + 2;
  p.columns = c.integer("columns") > 0 ? c.integer("columns") : p.columns_needed() + 1;
  return p;
}

std::int64_t pool_blocks(const Case& c) {
  if (is_gather(c)) return paged_cache(c).blocks;
  if (c.integer("blocks") > 0) return c.integer("blocks");
  return ceil_div(std::max(tokens_written(c), std::int64_t{1}), c.integer("block_size")) + 2;
}

reference::PagedTable paged_table(const Case&, const TensorSet& inputs) {
  const ConstView table = inputs.view("block_table");
  return {table, table.shape[1], inputs.view("cu_seq_lens")};
}

const Operator& indexer_cache_operator() {
  static const IndexerCache op;
  return op;
}

}  // namespace moecheck::harness
