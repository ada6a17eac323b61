// Contract of mqa_logits: queries and an fp8 key cache in, the indexer's logits and their top-k out (reference/mqa_logits.h).
#include "harness/operators/mqa_logits.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harness/operators/operators.h"

namespace moecheck::harness {
namespace {

using reference::CacheLayout;
using reference::CacheOrder;
using reference::LogitsForm;
using reference::LogitsTail;
using reference::MqaLogitsOptions;

std::vector<Field> make_fields() {
  return {
      choice_field(
          "form", {"paged", "ragged"},
          "paged: K in the blocks of a cache; ragged: K contiguous, each row with its own start and end"),
      int_field("tokens", 3, 0, 1 << 16, "query rows: requests * next_n"),
      int_field("next_n", 1, 1, 1 << 14, "rows of a request (speculative tokens, or a chunk of a prompt)"),
      int_field("context", 40, 0, 1 << 20, "tokens of the longest request"),
      choice_field("contexts", {"mixed", "full", "edges", "short"},
                   "lengths of the requests: 1 to context; all context; around multiples of block_size; 0, 1 "
                   "or less than next_n"),
      choice_field("lengths", {"1d", "2d"},
                   "1d: row j of next_n sees context_lens - next_n + j + 1 tokens; 2d: context_lens has a "
                   "length per row"),
      int_field("heads", 4, 1, 256, "of the indexer"),
      int_field("head_dim", 32, 1, 1024, "width of a head"),
      choice_field("layout", {"row_major", "preshuffled"}, "of the cache (reference/cache_layout.h)"),
      int_field("block_size", 16, 1, 4096, "tokens of a block"),
      int_field("block_pad", 0, 0, 1 << 20, "bytes behind each block"),
      dtype_field("fp8", {DType::kE4M3FN, DType::kE4M3FNUZ}, "of q and K"),
      dtype_field("dtype", {DType::kF32, DType::kBF16}, "of logits"),
      dtype_field("dot", {DType::kF32, DType::kBF16},
                  "in which q.k is stored, before scale, relu and weight"),
      int_field("width", 0, 0, 1 << 21, "columns of logits (max_model_len); 0: as many as tokens may be"),
      int_field("row_pad", 0, 0, 1 << 16, "elements between a row's last column and the next row"),
      choice_field("fill", {"minus_inf", "prefilled", "undefined"},
                   "columns past a row's tokens: the kernel writes -Inf; the caller has, and they keep it; "
                   "nobody cares"),
      flag_field("compressed", false, "ragged: column 0 is the row's first token, not the first of K"),
      int_field("topk", 0, 0, 1 << 14, "entries of topk_indices; 0: logits alone"),
      int_field("pool", 0, 0, 1 << 28,
                "tokens that the cache, or K, has room for; 0: what the requests need and a little more"),
      choice_field("limits", {"none", "deep_gemm", "aiter_gluon", "vllm_torch"},
                   "whose limits decide which cases are refused"),
      fixed(data_field({"realistic", "integers", "near_ties", "negative", "large", "subnormal_codes",
                        "wide_scales", "poison", "shared_prefix", "far_blocks"})),
  };
}

Schema make_schema() {
  Schema s;
  s.name = "mqa_logits";
  s.fields = make_fields();
  using Values = std::vector<std::pair<std::string, std::string>>;
  const auto with = [](Values values, const Values& more) {
    values.insert(values.end(), more.begin(), more.end());
    return values;
  };
  const Values deep_gemm = {
      {"limits", "deep_gemm"}, {"heads", "32"}, {"head_dim", "128"}, {"block_size", "64"}};
  const Values aiter = {{"heads", "32"}, {"head_dim", "128"}, {"fill", "prefilled"}, {"width", "256"}};
  const Values ragged = {{"form", "ragged"}, {"heads", "32"}, {"head_dim", "128"}};
  s.policies = {
      {"any", "no upstream's limits", {}},
      {"deep_gemm_1d", "DeepGEMM before lengths had two dimensions, clean_logits=True",
       with(deep_gemm, {{"fill", "minus_inf"}})},
      {"deep_gemm_2d", "DeepGEMM: a length per row, and nothing said of the columns behind",
       with(deep_gemm, {{"lengths", "2d"}, {"fill", "undefined"}})},
      {"deep_gemm_ragged", "fp8_mqa_logits, clean_logits=True",
       with(ragged, {{"limits", "deep_gemm"}, {"block_size", "64"}})},
      {"deep_gemm_compressed", "fp8_mqa_logits with max_seqlen_k: column 0 is the row's first token",
       with(ragged,
            {{"limits", "deep_gemm"}, {"block_size", "64"}, {"compressed", "1"}, {"fill", "undefined"}})},
      {"aiter", "row-major blocks of one token, logits filled with -Inf by the caller",
       with(aiter, {{"block_size", "1"}})},
      {"aiter_preshuffle", "gluon kernel of gfx942 and gfx950 on the preshuffled cache",
       with(aiter, {{"limits", "aiter_gluon"}, {"block_size", "64"}, {"layout", "preshuffled"}})},
      {"aiter_fnuz", "the same on gfx942's own fp8",
       with(aiter, {{"limits", "aiter_gluon"},
                    {"block_size", "64"},
                    {"layout", "preshuffled"},
                    {"fp8", "e4m3fnuz"}})},
      {"sglang_cuda", "DeepGEMM without clean_logits; lengths go to top-k",
       with(deep_gemm, {{"lengths", "2d"}, {"fill", "undefined"}, {"topk", "16"}})},
      {"sglang_hip", "aiter's preshuffled reader with pages of 64, then top-k",
       with(aiter,
            {{"limits", "aiter_gluon"}, {"block_size", "64"}, {"layout", "preshuffled"}, {"topk", "16"}})},
      {"vllm_torch",
       "fp8_paged_mqa_logits_torch: right on blocks of one token alone",
       {{"limits", "vllm_torch"}, {"heads", "32"}, {"head_dim", "128"}, {"block_size", "1"}}},
      {"vllm_torch_ragged", "fp8_mqa_logits_torch: q.k is rounded to bf16", with(ragged, {{"dot", "bf16"}})},
  };
  s.edits = {{"zero", "q of ROW is 0", 1},
             {"nan", "q of ROW holds a NaN: nothing is promised for the row", 1}};
  return s;
}

const Schema& schema_of() {
  static const Schema schema = make_schema();
  return schema;
}

std::int64_t requests_of(const Case& c) { return c.integer("tokens") / c.integer("next_n"); }

std::int64_t width_of(const Case& c) {
  if (c.integer("width") > 0) return c.integer("width");
  return is_paged(c) || c.flag("compressed") ? c.integer("context") : mqa_ragged_tokens(c);
}

// What an upstream gets wrong without a word.
std::optional<std::string> upstream_refusal(const Case& c) {
  const std::string_view limits = c.choice("limits");
  const std::int64_t heads = c.integer("heads"), dim = c.integer("head_dim"), block = c.integer("block_size");
  const auto say = [&](std::string_view field, std::int64_t value, std::string_view what) {
    return fmt::format("{}={} with limits={}: {}", field, value, limits, what);
  };
  const bool preshuffled = c.choice("layout") == "preshuffled";
  if (limits == "deep_gemm") {
    if (preshuffled)
      return "layout=preshuffled with limits=deep_gemm: it reads row-major blocks; use layout=row_major";
    if (is_paged(c) && block != 64 && block != 32)
      return say("block_size", block, "blocks are 64 tokens, or 32 on SM100");
    if (heads % 8 != 0 || heads > 64)
      return say("heads", heads, "32 or 64, and on SM100 a multiple of 8 up to 64");
    if (dim != 32 && dim != 64 && dim != 128) return say("head_dim", dim, "use 32, 64 or 128");
    if (is_paged(c) && c.choice("lengths") == "2d" && c.choice("fill") != "undefined")
      return fmt::format(
          "fill={} with limits=deep_gemm and lengths=2d: clean_logits is rejected there; use fill=undefined",
          c.choice("fill"));
  }
  if (limits == "aiter_gluon") {
    if (!preshuffled)
      return "layout=row_major with limits=aiter_gluon: use layout=preshuffled, or policy=aiter";
    if (dim != 128)
      return say("head_dim", dim,
                 "the reader steps 16*128 bytes from one group of 16 tokens to the next whatever head_dim "
                 "is, and reads other "
                 "tokens' bytes in silence; use head_dim=128");
    if (c.choice("fill") != "prefilled")
      return fmt::format(
          "fill={} with limits=aiter_gluon: the kernel writes -Inf to some columns alone; use fill=prefilled",
          c.choice("fill"));
    if (c.choice("lengths") == "2d")
      return "lengths=2d with limits=aiter_gluon: it takes one length per request; use lengths=1d";
    if (width_of(c) % block != 0)
      return say("width", width_of(c),
                 fmt::format("unless it is a multiple of block_size={} the stores of a row's last block run "
                             "into the next row",
                             block));
  }
  if (limits == "vllm_torch" && block != 1)
    return say("block_size", block,
               "it takes a token's scale from behind its values, where blocks of more tokens have other "
               "tokens' values; use "
               "block_size=1");
  return std::nullopt;
}

std::optional<std::string> data_refusal(const Case& c) {
  if (data_is(c, "far_blocks")) {
    if (!is_paged(c)) return "data=far_blocks needs form=paged";
    if (c.integer("pool") != 0)
      return fmt::format("data=far_blocks makes its own pool: pool={} must be 0", c.integer("pool"));
    if (mqa_logits_options(c).layout.stride() < 1024)
      return fmt::format("data=far_blocks needs blocks of at least 1024 bytes: use block_size={}",
                         2 * 1024 / c.integer("head_dim") + 16);
  }
  if (data_is(c, "shared_prefix") && !is_paged(c)) return "data=shared_prefix needs form=paged";
  if (data_is(c, "integers") && c.integer("heads") * c.integer("head_dim") > 1 << 14)
    return fmt::format("data=integers keeps sums exact up to heads * head_dim = 16384: heads={} head_dim={}",
                       c.integer("heads"), c.integer("head_dim"));
  return std::nullopt;
}

class MqaLogitsOperator final : public Operator {
 public:
  const Schema& schema() const override { return schema_of(); }
  std::string_view summary() const override {
    return "indexer logits sum_h w_h relu(q_h . k) over a paged or contiguous fp8 cache, and top-k over them";
  }

  std::optional<std::string> refusal(const Case& c) const override {
    const std::int64_t tokens = c.integer("tokens"), next_n = c.integer("next_n"),
                       context = c.integer("context");
    if (tokens % next_n != 0)
      return fmt::format("tokens={} is not a multiple of next_n={}: every request has as many rows", tokens,
                         next_n);
    if (const auto why = mqa_logits_options(c).layout.check()) return *why;
    if (!is_paged(c) && c.choice("layout") == "preshuffled")
      return "form=ragged has no blocks: use layout=row_major";
    if (is_paged(c) && c.flag("compressed"))
      return "compressed=1 needs form=ragged: rows of form=paged start at token 0";
    if (width_of(c) < (is_paged(c) || c.flag("compressed") ? context : mqa_ragged_tokens(c)))
      return fmt::format("width={} is less than the {} tokens there may be: use a larger width, or 0",
                         c.integer("width"),
                         is_paged(c) || c.flag("compressed") ? context : mqa_ragged_tokens(c));
    const std::int64_t room =
        is_paged(c) ? ceil_div(context, c.integer("block_size")) * c.integer("block_size") : context;
    if (c.integer("pool") != 0 && c.integer("pool") < requests_of(c) * room)
      return fmt::format("pool={} is too small for {} requests of {} tokens: use {}, or 0", c.integer("pool"),
                         requests_of(c), context, requests_of(c) * room);
    const double work = static_cast<double>(tokens) * static_cast<double>(width_of(c) + c.integer("row_pad"));
    if (work > 0x1p28) return fmt::format("tokens={}: more than 2^28 logits; use a smaller context", tokens);
    if (auto why = upstream_refusal(c)) return why;
    if (auto why = data_refusal(c)) return why;
    return edits_refusal(c, tokens, 1);
  }

  std::vector<TensorSpec> inputs(const Case& c) const override {
    const std::int64_t rows = c.integer("tokens"), heads = c.integer("heads"), dim = c.integer("head_dim"),
                       requests = requests_of(c);
    const MqaLogitsOptions o = mqa_logits_options(c);
    const DType fp8 = c.dtype("fp8");
    std::vector<TensorSpec> specs = {
        {"q", fp8, Shape(rows, heads, dim), "[tokens, heads, head_dim], as codes"},
        {"weights", DType::kF32, Shape(rows, heads), "with q's scale, heads^-0.5 and head_dim^-0.5 in them"}};
    if (is_paged(c)) {
      specs.push_back({"kv_cache", DType::kU8, Shape(mqa_blocks(c), o.layout.stride()),
                       "form=paged: values, scales, padding", true});
      specs.push_back(
          {"block_table", DType::kI32, Shape(requests, mqa_table_columns(c)), "form=paged", true});
      specs.push_back({"context_lens", DType::kI32,
                       o.lengths_2d ? Shape(requests, o.next_n) : Shape(requests),
                       "form=paged: [requests], or [requests, next_n] with lengths=2d", true});
    } else {
      specs.push_back({"k", fp8, Shape(mqa_ragged_tokens(c), dim), "form=ragged", true});
      specs.push_back({"k_scale", DType::kF32, Shape(mqa_ragged_tokens(c)), "form=ragged", true});
      specs.push_back({"cu_seqlen_ks", DType::kI32, Shape(rows), "form=ragged: first token of a row", true});
      specs.push_back({"cu_seqlen_ke", DType::kI32, Shape(rows), "form=ragged: behind its last token", true});
    }
    if (o.tail == LogitsTail::kPrefilled)
      specs.push_back({"logits", o.dtype, Shape(rows, o.row_stride),
                       "fill=prefilled: -Inf, and anything in the padding", true});
    return specs;
  }

  std::vector<TensorSpec> outputs(const Case& c) const override {
    const MqaLogitsOptions o = mqa_logits_options(c);
    TensorSpec logits{"logits", o.dtype, Shape(o.rows(), o.row_stride), "[tokens, width + row_pad]"};
    logits.in_place = o.tail == LogitsTail::kPrefilled;
    std::vector<TensorSpec> specs = {logits};
    if (o.topk > 0)
      specs.push_back({"topk_indices", DType::kI32, Shape(o.rows(), o.topk),
                       "tokens from the row's first on, any order, then -1"});
    return specs;
  }

  void generate(const Case& c, TensorSet& inputs) const override { generate_mqa_logits(c, inputs); }

  std::optional<std::string> bad_input(const Case& c, const TensorSet& inputs) const override {
    return reference::mqa_logits_fault(mqa_logits_options(c), mqa_logits_inputs(inputs));
  }

  std::unique_ptr<Expected> reference(const Case& c, const TensorSet& inputs) const override {
    auto expected = std::make_unique<MqaLogitsExpected>();
    expected->logits = reference::mqa_logits(mqa_logits_options(c), mqa_logits_inputs(inputs));
    return expected;
  }

  void judge(const Case& c, const TensorSet& inputs, const Expected& expected, const TensorSet& outputs,
             Judgement& j) const override {
    judge_mqa_logits(c, inputs, static_cast<const MqaLogitsExpected&>(expected), outputs, j);
  }

  std::string likely_cause(const Case& c, const TensorSet& inputs, const Expected& expected,
                           const TensorSet& outputs) const override {
    return mqa_logits_cause(c, inputs, static_cast<const MqaLogitsExpected&>(expected), outputs);
  }

  void reference_outputs(const Case& c, const TensorSet& inputs, const Expected& expected,
                         TensorSet& outputs) const override {
    const MqaLogitsOptions o = mqa_logits_options(c);
    if (const Tensor* before = inputs.find("logits"))
      std::copy_n(before->data(), before->bytes(), outputs.at("logits").data());
    const reference::MqaLogits& want = static_cast<const MqaLogitsExpected&>(expected).logits;
    const View logits = outputs.view("logits"), indices = outputs.view("topk_indices");
    for (std::int64_t r = 0; r < o.rows(); ++r) {
      const reference::TokenRange& seen = want.range[at(r)];
      for (std::int64_t col = 0; col < o.width; ++col) {
        const std::int64_t n = col + seen.base;
        const bool inside = n >= seen.first && n < seen.last;
        if (inside || o.tail == LogitsTail::kMinusInf)
          logits.set(r * o.row_stride + col,
                     inside ? want.logit[at(r)][at(n - seen.first)].value : -INFINITY);
      }
      const std::vector<std::int32_t> best = reference::topk_of(want.logit[at(r)], o.topk);
      for (std::int64_t k = 0; k < o.topk; ++k) indices.set_int(r * o.topk + k, best[at(k)]);
    }
  }

  // Undefined columns, padding that nobody promised anything of, and the order of a row's top-k.
  void blank_unspecified(const Case& c, const TensorSet& inputs, TensorSet& outputs) const override {
    const MqaLogitsOptions o = mqa_logits_options(c);
    const View logits = outputs.view("logits"), indices = outputs.view("topk_indices");
    for (std::int64_t r = 0; r < o.rows(); ++r) {
      const reference::TokenRange seen = reference::tokens_seen(o, mqa_logits_inputs(inputs), r);
      for (std::int64_t col = 0; col < o.row_stride && o.tail != LogitsTail::kPrefilled; ++col) {
        const std::int64_t n = col + seen.base;
        const bool inside = n >= seen.first && n < seen.last;
        if (!inside && (col >= o.width || o.tail == LogitsTail::kUndefined))
          logits.set(r * o.row_stride + col, 0);
      }
      // As unsigned numbers, so that -1 stays behind.
      if (indices)
        std::sort(indices.as<std::uint32_t>() + r * o.topk, indices.as<std::uint32_t>() + (r + 1) * o.topk);
    }
  }

  std::optional<double> bytes_moved(const Case& c, const TensorSet& inputs) const override {
    const MqaLogitsOptions o = mqa_logits_options(c);
    const reference::MqaLogitsInputs in = mqa_logits_inputs(inputs);
    double tokens = 0, written = 0;
    std::int64_t first = INT64_MAX, last = 0;
    for (std::int64_t r = 0; r < o.rows(); ++r) {
      const reference::TokenRange seen = reference::tokens_seen(o, in, r);
      written += static_cast<double>(o.tail == LogitsTail::kMinusInf ? o.width : seen.size());
      first = std::min(first, seen.first), last = std::max(last, seen.last);
      // K is read once per request, and once by all rows together in the ragged form.
      if (is_paged(c) ? r % o.next_n == o.next_n - 1 : r == o.rows() - 1) {
        tokens += static_cast<double>(std::max<std::int64_t>(0, last - first));
        first = INT64_MAX, last = 0;
      }
    }
    return tokens * static_cast<double>(c.integer("head_dim") + 4) +
           written * reference::size_bytes(o.dtype) +
           static_cast<double>(inputs.at("q").bytes() + inputs.at("weights").bytes());
  }

  std::span<const Relation> relations() const override { return mqa_logits_relations(); }
  std::vector<Case> cases(Suite suite) const override { return mqa_logits_cases(suite); }
};

}  // namespace

bool is_paged(const Case& c) { return c.choice("form") == "paged"; }

std::int64_t mqa_table_columns(const Case& c) {
  return ceil_div(c.integer("context"), c.integer("block_size")) +
         1;  // one more than needed: strides are not lengths
}

std::int64_t mqa_blocks(const Case& c) {
  const std::int64_t block = c.integer("block_size");
  if (c.integer("pool") > 0) return ceil_div(c.integer("pool"), block);
  const std::int64_t needed = requests_of(c) * ceil_div(c.integer("context"), block) + 2;
  // Blocks from byte 2^31 on: their ids start where a signed 32-bit offset ends.
  return data_is(c, "far_blocks")
             ? needed + ceil_div(std::int64_t{1} << 31, mqa_logits_options(c).layout.stride())
             : needed;
}

std::int64_t mqa_ragged_tokens(const Case& c) {
  return c.integer("pool") > 0 ? c.integer("pool") : requests_of(c) * c.integer("context") + 3;
}

MqaLogitsOptions mqa_logits_options(const Case& c) {
  MqaLogitsOptions o;
  o.form = is_paged(c) ? LogitsForm::kPaged : LogitsForm::kRagged;
  o.layout.order = c.choice("layout") == "preshuffled" ? CacheOrder::kPreshuffled : CacheOrder::kRowMajor;
  o.layout.dtype = c.dtype("fp8");
  o.layout.block_size = is_paged(c) ? c.integer("block_size") : 4;  // ragged: means nothing
  o.layout.head_dim = c.integer("head_dim");
  o.layout.quant_block = o.layout.head_dim;
  if (c.integer("block_pad") > 0) o.layout.block_stride = o.layout.block_bytes() + c.integer("block_pad");
  o.heads = c.integer("heads");
  o.requests = requests_of(c);
  o.next_n = c.integer("next_n");
  o.lengths_2d = c.choice("lengths") == "2d";
  o.compressed = c.flag("compressed");
  o.width = width_of(c);
  o.row_stride = o.width + c.integer("row_pad");
  o.tail = c.choice_as<LogitsTail>("fill");
  o.dtype = c.dtype("dtype");
  o.dot_in_bf16 = c.dtype("dot") == DType::kBF16;
  o.topk = c.integer("topk");
  return o;
}

reference::MqaLogitsInputs mqa_logits_inputs(const TensorSet& in) {
  return {in.view("q"),           in.view("weights"),      in.view("kv_cache"),
          in.view("block_table"), in.view("context_lens"), in.view("k"),
          in.view("k_scale"),     in.view("cu_seqlen_ks"), in.view("cu_seqlen_ke")};
}

const Operator& mqa_logits_operator() {
  static const MqaLogitsOperator op;
  return op;
}

}  // namespace moecheck::harness
