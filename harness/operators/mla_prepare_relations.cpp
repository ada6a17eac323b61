// Relations of mla_prepare.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "harness/operators/mla_prepare.h"

namespace moecheck::harness {
namespace {

using reference::Bounded;
using reference::CacheLayout;
using reference::MlaPrepareInputs;
using reference::MlaPrepareOptions;

void need_fused(const Trial& trial, std::int64_t least_rows = 1) {
  if (!form_is(trial.c, "fused")) throw NotApplicable("it needs form=fused");
  if (mla_rows(trial.c) < least_rows) throw NotApplicable(fmt::format("it needs {} rows of k", least_rows));
}
void need_distinct(const Trial& trial) {
  if (!duplicate_slots(trial.inputs).empty()) throw NotApplicable("tokens share a slot");
}

Case plain(const Case& c) {
  Case changed = c;
  changed.edits.clear();
  return changed;
}

bool is_key_tensor(std::string_view name) {
  return name == "k_nope" || name == "k_pe" || name == "slot_mapping" || name == "k_pe_out";
}
bool is_query_tensor(std::string_view name) {
  return name == "q_nope" || name == "q_pe" || name == "positions" || name == "q_out";
}

// Inputs of the tokens `rows` (indices below tokens) and then of the prefill rows `more`.
TensorSet gathered(const Trial& trial, std::span<const std::int64_t> rows,
                   std::span<const std::int64_t> more) {
  std::vector<std::int64_t> both(rows.begin(), rows.end());
  both.insert(both.end(), more.begin(), more.end());
  TensorSet result;
  for (const Tensor& t : trial.inputs.tensors()) {
    const bool keys = is_key_tensor(t.name());
    if (!keys && !is_query_tensor(t.name())) {
      result.add(t);
      continue;
    }
    const std::span<const std::int64_t> from = keys ? std::span<const std::int64_t>(both) : rows;
    Shape shape = t.shape();
    const std::size_t bytes = shape[0] == 0 ? 0 : t.bytes() / at(shape[0]);
    shape.dim[0] = static_cast<std::int64_t>(from.size());
    Tensor& copy = result.add(Tensor(t.name(), t.dtype(), shape));
    for (std::size_t i = 0; i < from.size(); ++i)
      std::memcpy(copy.data() + i * bytes, t.data() + at(from[i]) * bytes, bytes);
  }
  return result;
}

void require_same_cache(const TensorSet& got, const TensorSet& expected, const MlaPrepareOptions& o,
                        std::string_view what) {
  const Tensor &a = got.at("kv_cache"), &b = expected.at("kv_cache");
  const auto [x, y] = std::mismatch(a.data(), a.data() + a.bytes(), b.data());
  if (x == a.data() + a.bytes()) return;
  throw Broken(fmt::format("{}: kv_cache changed at {}", what, o.layout.describe(x - a.data())));
}

std::vector<std::int64_t> iota(std::int64_t n, std::int64_t first = 0) {
  std::vector<std::int64_t> v(at(n));
  std::iota(v.begin(), v.end(), first);
  return v;
}

void token_order(const Trial& trial) {
  need_fused(trial, 2);
  need_distinct(trial);
  const std::int64_t tokens = trial.c.integer("tokens");
  std::vector<std::int64_t> rows = iota(tokens), more = iota(trial.c.integer("prefill"), tokens);
  std::reverse(rows.begin(), rows.end());
  std::reverse(more.begin(), more.end());
  const TensorSet got = trial.run(plain(trial.c), gathered(trial, rows, more));
  for (std::int64_t t = 0; t < tokens; ++t)
    Trial::require_rows_equal(got, t, t + 1, trial.outputs, rows[at(t)], "q_out");
  require_same_cache(got, trial.outputs, mla_prepare_options(trial.c), "with the tokens in reverse order");
}

// The second part finds the cache as the first one left it.
void batch_split(const Trial& trial) {
  need_fused(trial, 2);
  need_distinct(trial);
  const std::int64_t tokens = trial.c.integer("tokens"), cut = (tokens + 2) / 3,
                     decoded = trial.c.integer("num_decode");
  if (tokens < 2) throw NotApplicable("it needs tokens>=2");
  const std::vector<std::int64_t> first = iota(cut), second = iota(tokens - cut, cut),
                                  more = iota(trial.c.integer("prefill"), tokens);
  Case a = plain(trial.c), b = plain(trial.c);
  a.set("tokens", cut).set("prefill", 0).set("num_decode", std::min(decoded, cut));
  b.set("tokens", tokens - cut).set("num_decode", std::max<std::int64_t>(decoded - cut, 0));
  const TensorSet one = trial.run(a, gathered(trial, first, {}));
  TensorSet rest = gathered(trial, second, more);
  rest.at("kv_cache") = one.at("kv_cache");
  const TensorSet two = trial.run(b, rest);
  Trial::require_rows_equal(one, 0, cut, trial.outputs, 0, "q_out");
  Trial::require_rows_equal(two, 0, tokens - cut, trial.outputs, cut, "q_out");
  require_same_cache(two, trial.outputs, mla_prepare_options(trial.c),
                     fmt::format("with the batch split at {}", cut));
}

// What the cache held decides nothing but what it still holds.
void cache_content(const Trial& trial) {
  need_fused(trial, 0);
  TensorSet inputs = trial.inputs;
  Tensor& before = inputs.at("kv_cache");
  for (std::size_t i = 0; i < before.bytes(); ++i) before.data()[i] = ~before.data()[i];
  const TensorSet got = trial.run(plain(trial.c), inputs);
  const Tensor &old = trial.inputs.at("kv_cache"), &a = trial.outputs.at("kv_cache"), &b = got.at("kv_cache");
  const MlaPrepareOptions o = mla_prepare_options(trial.c);
  std::vector<bool> written(a.bytes(), false);
  const std::int64_t size = reference::size_bytes(o.layout.dtype);
  const ConstView slots = trial.inputs.view("slot_mapping");
  for (std::int64_t t = 0; t < slots.shape[0]; ++t)
    for (std::int64_t g = 0; slots.int_at(t) >= 0 && g < o.kv_heads; ++g)
      for (std::int64_t c = 0; c < o.width(); ++c) {
        const std::int64_t first = o.layout.value_at(cache_row(o, slots.int_at(t), g), c);
        for (std::int64_t i = 0; i < size; ++i) written[at(first + i)] = true;
      }
  for (std::size_t i = 0; i < a.bytes(); ++i) {
    const bool kept = a.data()[i] == old.data()[i] && b.data()[i] == before.data()[i];
    if (written[i] ? a.data()[i] == b.data()[i] : kept) continue;
    throw Broken(fmt::format("with other bytes in the cache before: {} {}",
                             o.layout.describe(static_cast<std::int64_t>(i)),
                             written[i] ? "depends on them" : "has no token and was written"));
  }
}

// Bytes of (slot, head, channel) in two caches of the same slots.
void require_same_slots(const TensorSet& got, const MlaPrepareOptions& a, const TensorSet& expected,
                        const MlaPrepareOptions& b, std::span<const std::int64_t> slots,
                        std::string_view what) {
  const auto size = static_cast<std::size_t>(reference::size_bytes(a.layout.dtype));
  for (const std::int64_t slot : slots)
    for (std::int64_t g = 0; g < a.kv_heads; ++g)
      for (std::int64_t c = 0; c < a.width(); ++c)
        if (std::memcmp(got.at("kv_cache").data() + a.layout.value_at(cache_row(a, slot, g), c),
                        expected.at("kv_cache").data() + b.layout.value_at(cache_row(b, slot, g), c),
                        size) != 0)
          throw Broken(
              fmt::format("{}: slot {}, head {}, channel {} holds another number", what, slot, g, c));
}

std::vector<std::int64_t> used_slots(const Trial& trial) {
  std::vector<std::int64_t> slots;
  const ConstView mapping = trial.inputs.view("slot_mapping");
  for (std::int64_t t = 0; t < mapping.shape[0]; ++t)
    if (mapping.int_at(t) >= 0) slots.push_back(mapping.int_at(t));
  return slots;
}

// The inputs with a cache of the changed case's shape: its bytes are of no interest.
TensorSet with_other_cache(const Trial& trial, const Case& changed) {
  if (const auto why = trial.op.refusal(changed)) throw NotApplicable("the changed case is refused: " + *why);
  TensorSet inputs;
  for (const TensorSpec& spec : trial.op.inputs(changed))
    inputs.add(spec.name == "kv_cache" ? Tensor(spec.name, spec.dtype, spec.shape)
                                       : trial.inputs.at(spec.name));
  return inputs;
}

void rerun_with_layout(const Trial& trial, const Case& changed, std::string_view what) {
  const TensorSet got = trial.run(changed, with_other_cache(trial, changed));
  require_same_slots(got, mla_prepare_options(changed), trial.outputs, mla_prepare_options(trial.c),
                     used_slots(trial), what);
}

void layouts_agree(const Trial& trial) {
  need_fused(trial);
  need_distinct(trial);
  const std::string_view other = trial.c.choice("layout") == "row_major" ? "preshuffled" : "row_major";
  rerun_with_layout(trial, with_field(trial.c, "layout", other), fmt::format("with layout={}", other));
}

void block_size(const Trial& trial) {
  need_fused(trial);
  need_distinct(trial);
  const std::int64_t slots = mla_slots(trial.c), size = trial.c.integer("block_size");
  for (const std::int64_t other : {size * 2, size + 16}) {
    Case changed = plain(trial.c);
    changed.set("block_size", other).set("blocks", ceil_div(slots, other));
    rerun_with_layout(trial, changed, fmt::format("with block_size={}", other));
  }
}

// A row without a slot, full of NaN: nobody else notices.
void padded_row(const Trial& trial) {
  need_fused(trial, 0);
  const std::int64_t tokens = trial.c.integer("tokens");
  if (tokens == 0) throw NotApplicable("it needs tokens>=1");
  std::vector<std::int64_t> rows = iota(tokens);
  rows.insert(rows.begin() + static_cast<std::ptrdiff_t>(tokens / 2), 0);
  TensorSet inputs = gathered(trial, rows, iota(trial.c.integer("prefill"), tokens));
  const std::int64_t added = tokens / 2;
  for (Tensor& t : inputs.tensors()) {
    if (!is_key_tensor(t.name()) && !is_query_tensor(t.name())) continue;
    const std::int64_t n = t.shape().numel() / t.shape()[0];
    for (std::int64_t i = added * n; i < (added + 1) * n; ++i) {
      if (reference::is_float(t.dtype())) t.view().set(i, kNaN);
      if (t.name() == "slot_mapping") t.view().set_int(i, -1);
      if (t.name() == "positions") t.view().set_int(i, 0);
    }
  }
  Case changed = plain(trial.c);
  changed.set("tokens", tokens + 1);
  if (mla_rows(changed) > mla_slots(changed))
    throw NotApplicable("the cache has no more slots than there are rows");
  if (trial.c.integer("num_decode") > 0) throw NotApplicable("num_decode counts the first tokens");
  const TensorSet got = trial.run(changed, inputs);
  Trial::require_rows_equal(got, 0, added, trial.outputs, 0, "q_out");
  Trial::require_rows_equal(got, added + 1, tokens + 1, trial.outputs, added, "q_out");
  require_same_cache(got, trial.outputs, mla_prepare_options(trial.c), "with one more row of slot -1");
}

// Other keys of one token change the bytes of its slot alone.
void slots_never_cross(const Trial& trial) {
  need_fused(trial, 2);
  need_distinct(trial);
  const MlaPrepareOptions o = mla_prepare_options(trial.c);
  const std::int64_t t = mla_rows(trial.c) / 2;
  TensorSet inputs = trial.inputs;
  for (const std::string_view name : {"k_nope", "k_pe"}) {
    const View view = inputs.view(name);
    const std::int64_t n = view.shape[1] * view.shape[2];
    for (std::int64_t i = t * n; i < (t + 1) * n; ++i) view.set(i, -2 * ConstView(view).at(i) - 0.25);
  }
  const TensorSet got = trial.run(plain(trial.c), inputs);
  const Tensor &a = got.at("kv_cache"), &b = trial.outputs.at("kv_cache");
  const std::int64_t mine = trial.inputs.view("slot_mapping").int_at(t);
  for (std::size_t i = 0; i < a.bytes(); ++i) {
    if (a.data()[i] == b.data()[i]) continue;
    const auto offset = static_cast<std::int64_t>(i);
    const CacheLayout::Place place = o.layout.place(offset % o.layout.stride());
    const std::int64_t where = offset / o.layout.stride() * o.layout.block_size + place.token;
    bool belongs = false;
    for (std::int64_t g = 0; mine >= 0 && g < o.kv_heads; ++g)
      belongs = belongs || cache_row(o, mine, g) == where;
    if (!belongs)
      throw Broken(
          fmt::format("other keys of token {} (slot {}) changed {}", t, mine, o.layout.describe(offset)));
  }
}

// Keys and k_scale times 2: the same codes.
void scale_follows_keys(const Trial& trial) {
  need_fused(trial);
  if (!trial.c.flag("apply_scale")) throw NotApplicable("it needs apply_scale=1");
  if (trial.c.dtype("dtype") == DType::kF16 || data_is(trial.c, "bits"))
    throw NotApplicable("twice the data may leave the range");
  TensorSet inputs = trial.inputs;
  for (const std::string_view name : {"k_nope", "k_pe", "k_scale"}) {
    const View view = inputs.view(name);
    for (std::int64_t i = 0; i < view.shape.numel(); ++i) view.set(i, 2 * ConstView(view).at(i));
  }
  const TensorSet got = trial.run(plain(trial.c), inputs);
  require_same_cache(got, trial.outputs, mla_prepare_options(trial.c),
                     "with twice the keys and twice k_scale");
}

// How far apart a rotated and scaled (or fp8) number may be, before its cast, of one step that rounds once and of two that round
// the rotation too: half a step of dtype, which a scale below 1 makes more than a step of the output where both are subnormal, and
// what fp32 loses. 0 where nothing is rounded in between: policies that store, outputs that are dtype's own numbers.
class RotationSlack {
 public:
  RotationSlack(const Case& c, const TensorSet& inputs)
      : in_(mla_prepare_inputs(inputs)), o_(mla_prepare_options(c)), row_(at(o_.width())) {
    using enum reference::RopeRounding;
    const bool stores = o_.rope.rounding == kPerOp || o_.rope.rounding == kStored;
    const auto is_fp8 = [](DType d) { return reference::size_bytes(d) == 1; };
    of_queries_ = !stores && (c.flag("q_scale") || is_fp8(q_out_dtype(c)));
    of_keys_ = !stores && (c.flag("apply_scale") || is_fp8(cache_dtype(c)));
    o_.rope.rounding = kOnce;
  }
  double query(std::int64_t token, std::int64_t head, std::int64_t channel) {
    if (!of_queries_ || channel < o_.nope_dim || !reference::has_query(in_, o_, token)) return 0;
    if (row_is_other(token, head, true)) reference::query_row(in_, o_, token, head, row_.data());
    return reach(channel, [&](const Bounded& x) {
      return in_.q_scale ? reference::scaled(o_.scaling, x, in_.q_scale.at(0)) : x;
    });
  }
  double key(std::int64_t token, std::int64_t head, std::int64_t channel) {
    if (!of_keys_ || channel < o_.nope_dim) return 0;
    if (row_is_other(token, head, false)) reference::key_row(in_, o_, token, head, row_.data());
    return reach(channel, [&](const Bounded& x) { return reference::cached(in_, o_, channel, x); });
  }

 private:
  double reach(std::int64_t channel, const auto& scaled) const {
    const Bounded& once = row_[at(channel)];
    return scaled(once).proven +
           scaled(reference::round_to(o_.rope.dtype, once, reference::Rounding::kAny)).proven;
  }
  // Neighbours are asked one after the other: a row is computed once.
  bool row_is_other(std::int64_t token, std::int64_t head, bool of_query) {
    const std::array<std::int64_t, 3> now = {token, head, of_query ? 1 : 0};
    return std::exchange(held_, now) != now;
  }

  const MlaPrepareInputs in_;
  MlaPrepareOptions o_;
  std::vector<Bounded> row_;
  std::array<std::int64_t, 3> held_ = {-1, -1, -1};
  bool of_queries_ = false, of_keys_ = false;
};

// Rotate, store, and only then concatenate and quantize: what the fused step replaces.
void fused_equals_unfused(const Trial& trial) {
  need_fused(trial);
  need_distinct(trial);
  const Case& c = trial.c;
  if (data_is(c, "bits") || !c.edits.empty())
    throw NotApplicable("multiplying by cos = 1 and sin = 0 keeps numbers, not NaN");
  const std::int64_t rope = c.integer("rope_dim"), nope = c.integer("nope_dim");
  Case rotation = plain(c);
  for (const auto& [field, value] : {std::pair{"cache_dtype", "same"},
                                     {"apply_scale", "0"},
                                     {"q_dtype", "same"},
                                     {"q_scale", "0"},
                                     {"layout", "row_major"},
                                     {"limits", "none"},
                                     {"num_decode", "0"}})
    rotation.set(field, value);
  const TensorSet rotated = trial.run(rotation, with_other_cache(trial, rotation));
  const MlaPrepareOptions r = mla_prepare_options(rotation), o = mla_prepare_options(c);
  TensorSet inputs = trial.inputs;
  const View q_pe = inputs.view("q_pe"), k_pe = inputs.view("k_pe"), cos = inputs.view("cos"),
             sin = inputs.view("sin");
  for (std::int64_t i = 0; i < q_pe.shape.numel(); ++i)
    q_pe.set(i, rotated.view("q_out").at(i / rope * (nope + rope) + nope + i % rope));
  const ConstView slots = inputs.view("slot_mapping");
  for (std::int64_t i = 0; i < k_pe.shape.numel(); ++i) {
    const std::int64_t t = i / rope / o.kv_heads;
    if (slots.int_at(t) < 0) continue;
    const std::int64_t offset =
        r.layout.value_at(cache_row(r, slots.int_at(t), i / rope % o.kv_heads), nope + i % rope);
    k_pe.set(i, rotated.view("kv_cache").at(offset / reference::size_bytes(r.layout.dtype)));
  }
  for (std::int64_t i = 0; i < cos.shape.numel(); ++i) cos.set(i, 1), sin.set(i, 0);
  const TensorSet got = trial.run(plain(c), inputs);
  RotationSlack slack(c, trial.inputs);
  const auto compare = [&](const char* name, std::int64_t i, const auto& slack_of_it) {
    const double x = got.view(name).at(i), y = trial.outputs.view(name).at(i);
    if (x == y || (std::isnan(x) && std::isnan(y))) return;
    const double reach = slack_of_it(), larger = std::max(std::fabs(x), std::fabs(y));
    // Inf is no neighbour: where the bound reaches it, it says so.
    const double step =
        std::isfinite(larger) ? larger - reference::next_down(got.at(name).dtype(), larger) : 0;
    if (reach > 0 && std::fabs(x - y) <= reach + step) return;
    throw Broken(fmt::format("{}: element {} is {} in one step, and {} when the rotation is stored first",
                             name, i, y, x));
  };
  const std::int64_t width = o.width(), size = reference::size_bytes(o.layout.dtype);
  for (std::int64_t i = 0; i < got.view("q_out").shape.numel(); ++i)
    compare("q_out", i, [&] { return slack.query(i / width / o.heads, i / width % o.heads, i % width); });
  std::vector<bool> written(at(got.view("kv_cache").shape.numel()));
  for (std::int64_t t = 0; t < mla_rows(c); ++t)
    for (std::int64_t g = 0; slots.int_at(t) >= 0 && g < o.kv_heads; ++g)
      for (std::int64_t channel = 0; channel < width; ++channel) {
        const std::int64_t i = o.layout.value_at(cache_row(o, slots.int_at(t), g), channel) / size;
        written[at(i)] = true;
        compare("kv_cache", i, [&] { return slack.key(t, g, channel); });
      }
  for (std::int64_t i = 0; i < got.view("kv_cache").shape.numel(); ++i)
    if (!written[at(i)]) compare("kv_cache", i, [] { return 0.0; });
}

void cat_skip_equals_concat(const Trial& trial) {
  if (!form_is(trial.c, "cat_skip")) throw NotApplicable("it needs form=cat_skip");
  const Case concat = plain(trial.c).set("form", "concat").set("q_cat_row", 0).set("limits", "none");
  TensorSet inputs(trial.op.inputs(concat));
  const std::size_t size = at(reference::size_bytes(trial.c.dtype("dtype")));
  const std::size_t nope = at(trial.c.integer("nope_dim")) * size,
                    rope = at(trial.c.integer("rope_dim")) * size;
  const std::size_t row = at(q_cat_row(trial.c)) * size;
  for (std::size_t r = 0; r < at(trial.c.integer("tokens") * trial.c.integer("heads")); ++r) {
    const std::byte* from = trial.inputs.at("q_cat").data() + r * row;
    std::memcpy(inputs.at("q_nope").data() + r * nope, from, nope);
    std::memcpy(inputs.at("q_pe").data() + r * rope, from + nope, rope);
  }
  const TensorSet got = trial.run(concat, inputs);
  const Tensor &a = got.at("q_out"), &b = trial.outputs.at("q_all");
  if (a.bytes() != 0 && std::memcmp(a.data(), b.data(), a.bytes()) != 0)
    throw Broken("q_all is not the concatenation of its own parts");
}

}  // namespace

std::span<const Relation> mla_prepare_relations() {
  static constexpr std::array<Relation, 10> all = {{
      {"token_order", "the order of tokens changes no byte of the cache, and permutes q", token_order},
      {"batch_split", "two parts of a batch, one after the other, leave what the batch leaves", batch_split},
      {"cache_content",
       "bytes outside the written slots are unchanged, and nothing depends on what the cache held",
       cache_content},
      {"layouts_agree", "row-major and preshuffled caches hold the same numbers", layouts_agree},
      {"block_size", "the size of blocks moves numbers and changes none", block_size},
      {"padded_row", "a row of slot -1 changes nothing else", padded_row},
      {"slots_never_cross", "a token's keys reach its own slot alone", slots_never_cross},
      {"scale_follows_keys", "twice the keys and twice k_scale give the same codes", scale_follows_keys},
      {"fused_equals_unfused",
       "rotating first and storing that changes nothing, or by its own rounding where policies round once",
       fused_equals_unfused},
      {"cat_skip_equals_concat", "q_all is the concatenation of its parts, byte for byte",
       cat_skip_equals_concat},
  }};
  return all;
}

}  // namespace moecheck::harness
