// Likely causes of wrong outputs of mla_prepare: each known mistake is made in the reference, and the one whose outputs these are
// is named.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "harness/judge.h"
#include "harness/operators/mla_prepare.h"

namespace moecheck::harness {
namespace {

using reference::CacheLayout;
using reference::CacheOrder;

using reference::MlaPrepareInputs;
using reference::MlaPrepareOptions;
using reference::RopeRounding;
using reference::RopeStyle;

// What a mistake is made with: options, views, and tensors that some of the views may point into.
struct Mistaken {
  const Case& c;
  MlaPrepareOptions o;
  MlaPrepareInputs in;
  std::vector<Tensor> own;

  ConstView keep(Tensor t) {
    own.push_back(std::move(t));
    return std::as_const(own.back()).view();
  }
};

struct Mistake {
  std::string_view words;
  // Returns false where it would change nothing.
  bool (*make)(Mistaken& m);
};

bool other_layout(Mistaken& m, CacheOrder order) {
  if (m.o.layout.order == order) return false;
  m.o.layout = mla_cache_layout(order, m.o.layout.dtype, m.c.integer("block_size"), m.o.kv_heads,
                                m.o.nope_dim, m.o.rope.dim);
  return !m.o.layout.check();
}

bool scale_is_not_one(const Mistaken& m) { return m.in.k_scale && m.in.k_scale.at(0) != 1; }

constexpr std::array<Mistake, 19> kMistakes = {{
    {"cos and sin are swapped", [](Mistaken& m) { return std::swap(m.in.cos, m.in.sin), true; }},
    {"pairs of the other rope style are rotated: rope=neox pairs halves, rope=gptj neighbours. DeepSeek's "
     "main rotation is gptj, "
     "the indexer's is often neox",
     [](Mistaken& m) {
       m.o.rope.style = m.o.rope.style == RopeStyle::kNeox ? RopeStyle::kGptj : RopeStyle::kNeox;
       return m.o.rope.dim > 2;
     }},
    {"cos and sin of the full width are indexed as if they had half of it",
     [](Mistaken& m) { return std::exchange(m.o.rope.full_table, false); }},
    {"the first channels of each row are rotated: rope is on the nope part",
     [](Mistaken& m) { return m.o.rotate_from = 0, m.o.nope_dim >= m.o.rope.dim; }},
    {"a token's row is taken for its position: positions is not read",
     [](Mistaken& m) {
       Tensor rows("positions", DType::kI64, m.in.positions.shape);
       for (std::int64_t t = 0; t < m.in.tokens(); ++t) rows.view().set_int(t, t % m.in.cos.shape[0]);
       return m.in.positions = m.keep(std::move(rows)), true;
     }},
    {"prefill rows are rotated again: they arrive rotated",
     [](Mistaken& m) { return m.o.rope_prefill = true, m.in.rows() > m.in.tokens(); }},
    {"q and k are not rotated",
     [](Mistaken& m) {
       Tensor one("cos", DType::kF32, m.in.cos.shape), zero("sin", DType::kF32, m.in.sin.shape);
       for (std::int64_t i = 0; i < one.shape().numel(); ++i) one.view().set(i, 1);
       m.in.cos = m.keep(std::move(one)), m.in.sin = m.keep(std::move(zero));
       return true;
     }},
    {"the rotation is fp32, rounded once where it is stored, and rounding=per_op rounds every operation",
     [](Mistaken& m) {
       return std::exchange(m.o.rope.rounding, RopeRounding::kOnce) == RopeRounding::kPerOp;
     }},
    {"the rotation is fp32 inside, and rounding=per_op rounds every operation",
     [](Mistaken& m) {
       return std::exchange(m.o.rope.rounding, RopeRounding::kStored) == RopeRounding::kPerOp;
     }},
    {"k is multiplied by k_scale, not divided by it",
     [](Mistaken& m) {
       if (!scale_is_not_one(m)) return false;
       Tensor inverse("k_scale", DType::kF32, Shape(1));
       inverse.view().set(0, 1 / m.in.k_scale.at(0));
       return m.in.k_scale = m.keep(std::move(inverse)), true;
     }},
    {"k_scale is not applied on this path (compare sglang#24198)",
     [](Mistaken& m) { return m.o.scale_nope = m.o.scale_rope = false, scale_is_not_one(m); }},
    {"k_scale divides the nope part alone: k_pe enters the cache unscaled",
     [](Mistaken& m) { return m.o.scale_rope = false, scale_is_not_one(m); }},
    {"k_scale divides the rope part alone: k_nope enters the cache unscaled",
     [](Mistaken& m) { return m.o.scale_nope = false, scale_is_not_one(m); }},
    {"the cache is written row-major, and this layout is preshuffled (vllm#52109, vllm#50455)",
     [](Mistaken& m) { return other_layout(m, CacheOrder::kRowMajor); }},
    {"the cache is written preshuffled, and this layout is row-major (vllm#52109, vllm#50455)",
     [](Mistaken& m) { return other_layout(m, CacheOrder::kPreshuffled); }},
    {"nope and rope parts are shuffled as one region, as if blocks had 16 tokens: each part has its own "
     "region in a block",
     [](Mistaken& m) { return std::exchange(m.o.layout.split, 0) != 0; }},
    {"blocks of half the size are assumed (compare TensorRT-LLM#16219: a stale tokens_per_block)",
     [](Mistaken& m) {
       m.o.layout.block_size /= 2;
       return m.o.layout.order == CacheOrder::kPreshuffled && m.o.layout.block_size % CacheLayout::kTile == 0;
     }},
    {"key heads stand before tokens in a block: a row-major cache is [block, token, head, D]",
     [](Mistaken& m) {
       return m.o.heads_first = true, m.o.kv_heads > 1 && m.o.layout.order == CacheOrder::kRowMajor;
     }},
    {"codes of e4m3fn stand in an e4m3fnuz cache: readers see half of each number",
     [](Mistaken& m) { return std::exchange(m.o.layout.dtype, DType::kE4M3FN) == DType::kE4M3FNUZ; }},
}};

// Elements the judge rejects once the mistake is taken for right.
std::int64_t failed_with(const TensorSet& inputs, const Mistaken& m, const MlaExpected& expected,
                         const TensorSet& outputs) {
  MlaExpected wrong;
  wrong.options = m.o;
  wrong.duplicates = expected.duplicates;
  Judgement j;
  if (m.o.layout.dtype == outputs.at("kv_cache").dtype()) {
    judge_mla_fused(inputs, m.in, wrong, outputs, true, j);
    return j.failed;
  }
  // The same bytes, read in the dtype that was written.
  TensorSet read;
  for (const Tensor& t : outputs.tensors()) {
    Tensor& copy =
        read.add(Tensor(t.name(), t.name() == "kv_cache" ? m.o.layout.dtype : t.dtype(), t.shape()));
    std::copy_n(t.data(), t.bytes(), copy.data());
  }
  judge_mla_fused(inputs, m.in, wrong, read, true, j);
  return j.failed;
}

// How many numbers of each part of the keys leave the cache's range, and how many of those came out as NaN.
struct Saturation {
  std::int64_t count[2] = {0, 0}, beyond[2] = {0, 0}, nan[2] = {0, 0};  // nope, rope
};
Saturation saturation(const MlaPrepareInputs& in, const MlaPrepareOptions& o, const TensorSet& outputs) {
  Saturation s;
  const double largest = reference::max_finite(o.layout.dtype);
  const std::int64_t size = reference::size_bytes(o.layout.dtype);
  const ConstView cache = outputs.view("kv_cache");
  std::vector<Bounded> row(at(o.width()));
  for (std::int64_t t = 0; t < in.rows(); ++t) {
    const std::int64_t slot = in.slot_mapping.int_at(t);
    for (std::int64_t g = 0; slot >= 0 && g < o.kv_heads; ++g) {
      key_row(in, o, t, g, row.data());
      for (std::int64_t c = 0; c < o.width(); ++c) {
        const int part = c < o.nope_dim ? 0 : 1;
        ++s.count[part];
        if (!(std::fabs(cached(in, o, c, row[at(c)]).value) > largest)) continue;
        ++s.beyond[part];
        s.nan[part] += std::isnan(cache.at(o.layout.value_at(cache_row(o, slot, g), c) / size));
      }
    }
  }
  return s;
}

std::string saturation_cause(const MlaPrepareInputs& in, const MlaPrepareOptions& o,
                             const TensorSet& outputs) {
  if (reference::size_bytes(o.layout.dtype) != 1) return {};
  const Saturation s = saturation(in, o, outputs);
  if (s.nan[0] + s.nan[1] == 0) return {};
  const auto percent = [&](int part) {
    return s.count[part] == 0
               ? 0.0
               : 100.0 * static_cast<double>(s.beyond[part]) / static_cast<double>(s.count[part]);
  };
  std::string text =
      fmt::format("{} numbers past the largest code became NaN: the cast of the {} part does not saturate. ",
                  s.nan[0] + s.nan[1],
                  s.nan[0] == 0   ? "rope"
                  : s.nan[1] == 0 ? "nope"
                                  : "nope and the rope");
  text += fmt::format("Past it are {:.1f}% of k_pe and {:.1f}% of k_nope", percent(1), percent(0));
  if (percent(1) > 4 * percent(0) + 1) text += ": k_scale looks calibrated on kv_c alone (vllm#42956)";
  return text;
}

bool is_poison(const std::byte* bytes, std::size_t n) {
  return n > 0 && std::all_of(bytes, bytes + n, [](std::byte b) { return b == std::byte{0xFF}; });
}

// Rows [token, head] that hold the poison of before the run.
std::string unwritten_cause(const Case& c, const TensorSet& inputs, const TensorSet& outputs) {
  for (const Tensor& t : outputs.tensors()) {
    if (is_poison(t.data(), t.bytes()))
      return fmt::format(
          "{} was never written: it holds what it held before the run (compare TensorRT-LLM#14480)",
          t.name());
    if (t.name() == "kv_cache" || t.name() == "k_pe_out") continue;
    const std::int64_t heads = t.shape()[1], rows = t.shape()[0] * heads;
    const std::size_t bytes = rows == 0 ? 0 : t.bytes() / at(rows);
    for (std::int64_t r = 0; r < rows; ++r) {
      if (!is_poison(t.data() + at(r) * bytes, bytes)) continue;
      const std::int64_t token = r / heads;
      const bool padded = inputs.view("slot_mapping").int_at(token) < 0;
      if (padded && c.choice("padded") == "skip_row") continue;
      std::string text = fmt::format("{} of token {}, head {} was never written", t.name(), token, r % heads);
      if (padded)
        text += fmt::format(": the token has no slot, and padded={} computes its q all the same",
                            c.choice("padded"));
      if (t.name() != "q_out" && t.shape()[0] < c.integer("tokens"))
        text +=
            ": writers that compare head * tokens + token with num_decode * heads miss such rows, and write "
            "others out of bounds";
      return text;
    }
  }
  return {};
}

std::string fused_cause(const Case& c, const TensorSet& inputs, const MlaExpected& expected,
                        const TensorSet& outputs) {
  constexpr std::int64_t kMostNumbers = 1 << 22;
  if (std::string text = unwritten_cause(c, inputs, outputs); !text.empty()) return text;
  if (const Tensor* rotated = outputs.find("k_pe_out")) {
    const Tensor& raw = inputs.at("k_pe");
    if (raw.bytes() > 0 && std::memcmp(rotated->data(), raw.data(), raw.bytes()) == 0)
      return "k_pe_out is k_pe as it came, not rotated";
  }
  const MlaPrepareInputs in = mla_prepare_inputs(inputs);
  if (std::string text = saturation_cause(in, expected.options, outputs); !text.empty()) return text;
  if (outputs.at("q_out").shape().numel() + outputs.at("kv_cache").shape().numel() > kMostNumbers) return {};
  Judgement right;
  judge_mla_fused(inputs, in, expected, outputs, true, right);
  std::int64_t least = right.failed / 20;  // what a mistake must explain: all but a twentieth
  std::string_view words;
  for (const Mistake& mistake : kMistakes) {
    Mistaken m{c, expected.options, in, {}};
    m.own.reserve(2);
    if (!mistake.make(m)) continue;
    const std::int64_t failed = failed_with(inputs, m, expected, outputs);
    if (failed > least || (failed == least && !words.empty())) continue;
    least = failed, words = mistake.words;
    if (failed == 0) break;
  }
  return std::string(words);
}

}  // namespace

std::string mla_cause(const Case& c, const TensorSet& inputs, const MlaExpected& expected,
                      const TensorSet& outputs) {
  if (form_is(c, "fused")) return fused_cause(c, inputs, expected, outputs);
  if (form_is(c, "cat_skip") && outputs.view("q_all_offset").int_at(0) != 0 && !may_copy(c))
    return "q_cat is copied after all: pass it on as it is; .contiguous() copies where heads have gaps "
           "between them";
  if (form_is(c, "cat_skip") && q_cat_row(c) > mla_width(c) &&
      outputs.view("q_all_strides").int_at(1) == mla_width(c))
    return fmt::format(
        "strides are taken from the shape: heads of q_cat lie {} elements apart, not {} (compare vllm#55109)",
        q_cat_row(c), mla_width(c));
  const Tensor& got = outputs.at(form_is(c, "concat") ? "q_out" : "q_all");
  TensorSet want(operator_of(c).outputs(c));
  mla_reference_outputs(c, inputs, expected, want);
  for (std::int64_t i = 0; i < got.shape().numel(); ++i) {
    const std::uint16_t a = got.view().as<std::uint16_t>()[i],
                        b = want.at(got.name()).view().as<std::uint16_t>()[i];
    if (a != b && !(std::isnan(got.view().at(i)) && std::isnan(want.at(got.name()).view().at(i)))) return {};
  }
  return "only NaNs differ: numbers are loaded and stored where bytes should be copied";
}

}  // namespace moecheck::harness
