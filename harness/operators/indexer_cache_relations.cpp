// Relations of indexer_cache.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <numeric>

#include "harness/operators/indexer_cache.h"
#include "harness/operators/operators.h"

namespace moecheck::harness {
namespace {

using reference::CacheLayout;

struct Row {
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
  friend bool operator==(const Row& a, const Row& b) {
    return a.codes == b.codes &&
           std::equal(a.scales.begin(), a.scales.end(), b.scales.begin(), b.scales.end(),
                      [](float x, float y) {
                        return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
                      });
  }
};

Row row_of(const CacheLayout& layout, const TensorSet& set, std::int64_t slot) {
  Row r{std::vector<std::uint8_t>(at(layout.head_dim)), std::vector<float>(at(layout.scales()))};
  reference::get_row(layout, set.at("kv_cache").view().as<std::uint8_t>(), slot, r.codes.data(),
                     r.scales.data());
  return r;
}

void need_form(const Trial& trial, bool gather) {
  if (is_gather(trial.c) != gather)
    throw NotApplicable(gather ? "it needs form=gather" : "it needs form=quantize");
}

// Runs a changed case whose policy may refuse it.
TensorSet run_unless_refused(const Trial& trial, const Case& changed, const TensorSet& inputs) {
  if (const auto why = trial.op.refusal(changed)) throw NotApplicable("the changed case is refused: " + *why);
  return trial.run(changed, inputs);
}

// The other layout, or one with other blocks.
Case other_layout(const Case& c) {
  return with_field(c, "layout", c.choice("layout") == "preshuffled" ? "row_major" : "preshuffled");
}

void require_same_cache(const Trial& trial, const TensorSet& got, std::string_view what) {
  std::int64_t i = 0;
  if (first_difference(got, trial.outputs, &i).empty()) return;
  throw Broken(fmt::format("{}: {} (cache byte {}) became 0x{:02X} instead of 0x{:02X}", what,
                           cache_layout(trial.c).describe(i), i,
                           got.at("kv_cache").view().as<std::uint8_t>()[i],
                           trial.outputs.at("kv_cache").view().as<std::uint8_t>()[i]));
}

// k and slot_mapping with the rows named; the cache is what `cache` holds.
TensorSet tokens_of(const Trial& trial, std::span<const std::int64_t> rows, const Tensor& cache) {
  TensorSet inputs;
  for (const char* name : {"k", "slot_mapping"}) {
    const Tensor& from = trial.inputs.at(name);
    Shape shape = from.shape();
    shape.dim[0] = static_cast<std::int64_t>(rows.size());
    Tensor& to = inputs.add(Tensor(name, from.dtype(), shape));
    const std::size_t bytes = from.shape()[0] == 0 ? 0 : from.bytes() / at(from.shape()[0]);
    for (std::size_t i = 0; i < rows.size(); ++i)
      std::memcpy(to.data() + i * bytes, from.data() + at(rows[i]) * bytes, bytes);
  }
  Tensor& copy = inputs.add(Tensor("kv_cache", cache.dtype(), cache.shape()));
  std::copy_n(cache.data(), cache.bytes(), copy.data());
  return inputs;
}

// The case of those rows, in a pool of the same size.
Case case_of(const Trial& trial, std::size_t rows) {
  Case c = with_tokens(trial.c, static_cast<std::int64_t>(rows));
  c.set("slot_count", -1);
  c.set("blocks", trial.inputs.at("kv_cache").shape()[0]);
  // Given slots are given: what `slots` would draw for fewer tokens does not matter.
  c.set("slots", "sequential");
  return c;
}

std::vector<std::int64_t> first_rows(const Trial& trial, std::int64_t least) {
  const std::int64_t n = tokens_written(trial.c);
  if (n < least) throw NotApplicable(fmt::format("it needs {} tokens or more", least));
  std::vector<std::int64_t> rows(at(n));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

void token_order(const Trial& trial) {
  need_form(trial, false);
  std::vector<std::int64_t> rows = first_rows(trial, 2);
  std::reverse(rows.begin(), rows.end());
  std::rotate(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(rows.size() / 3), rows.end());
  TensorSet got = trial.run(case_of(trial, rows.size()), tokens_of(trial, rows, trial.inputs.at("kv_cache")));
  trial.op.blank_unspecified(trial.c, trial.inputs, got);
  require_same_cache(trial, got, "with the tokens in another order");
}

void one_after_the_other(const Trial& trial) {
  need_form(trial, false);
  const std::vector<std::int64_t> rows = first_rows(trial, 2);
  const std::span<const std::int64_t> all(rows);
  const std::size_t cut = (rows.size() + 2) / 3;
  const TensorSet first =
      trial.run(case_of(trial, cut), tokens_of(trial, all.first(cut), trial.inputs.at("kv_cache")));
  TensorSet both =
      trial.run(case_of(trial, rows.size() - cut), tokens_of(trial, all.subspan(cut), first.at("kv_cache")));
  trial.op.blank_unspecified(trial.c, trial.inputs, both);
  require_same_cache(trial, both, fmt::format("with tokens from {} on in a second call", cut));
}

void skipped_tokens(const Trial& trial) {
  need_form(trial, false);
  if (trial.c.choice("skip") != "negative") throw NotApplicable("it needs skip=negative");
  std::vector<std::int64_t> rows = first_rows(trial, 1);
  const std::size_t n = rows.size();
  rows.insert(rows.begin() + static_cast<std::ptrdiff_t>(n / 2), 2, 0);
  rows.push_back(0);
  TensorSet inputs = tokens_of(trial, rows, trial.inputs.at("kv_cache"));
  for (const std::size_t t : {n / 2, n / 2 + 1, n + 2})
    inputs.view("slot_mapping").set_int(static_cast<std::int64_t>(t), -1);
  TensorSet got = trial.run(case_of(trial, rows.size()), inputs);
  trial.op.blank_unspecified(trial.c, trial.inputs, got);
  require_same_cache(trial, got, "with three tokens of slot -1 among them");
}

void layouts_agree(const Trial& trial) {
  const Case changed = other_layout(trial.c);
  if (const auto why = trial.op.refusal(changed)) throw NotApplicable("the other layout is refused: " + *why);
  const CacheLayout here = cache_layout(trial.c), there = cache_layout(changed);
  if (!is_gather(trial.c)) {
    const TensorSet got = trial.run(changed, trial.inputs);
    for (const WrittenSlot& s : written_slots(trial.c, trial.inputs)) {
      if (s.undefined) continue;
      if (!(row_of(there, got, s.slot) == row_of(here, trial.outputs, s.slot)))
        throw Broken(fmt::format("token {} (slot {}) is stored differently with layout={}", s.token, s.slot,
                                 changed.choice("layout")));
    }
    return;
  }
  // The same rows laid out the other way.
  TensorSet inputs = trial.inputs;
  auto* to = inputs.view("kv_cache").as<std::uint8_t>();
  for (std::int64_t s = 0; s < inputs.at("kv_cache").shape()[0] * here.block_size; ++s) {
    const Row row = row_of(here, trial.inputs, s);
    reference::put_row(there, to, s, row.codes.data(), row.scales.data());
  }
  const TensorSet got = trial.run(changed, inputs);
  for (const char* name : {"dst_k", "dst_scale"})
    Trial::require_rows_equal(got, 0, trial.c.integer("tokens"), trial.outputs, 0, name);
}

// gather(write(k)) gives the codes and scales that lie in the cache, row by row.
void round_trip(const Trial& trial) {
  need_form(trial, false);
  const CacheLayout layout = cache_layout(trial.c);
  const std::int64_t blocks = trial.inputs.at("kv_cache").shape()[0], b = layout.block_size;
  Case c = with_field(trial.c, "form", "gather");
  c.set("tokens", blocks * b)
      .set("blocks", blocks)
      .set("columns", blocks)
      .set("requests", 1)
      .set("extra_rows", 0)
      .set("k_stride", 0)
      .set("slot_count", -1);
  TensorSet inputs;
  for (const TensorSpec& spec : trial.op.refusal(c) ? std::vector<TensorSpec>() : trial.op.inputs(c))
    inputs.add(Tensor(spec.name, spec.dtype, spec.shape));
  if (inputs.tensors().empty()) throw NotApplicable("the gather is refused: " + *trial.op.refusal(c));
  const Tensor& cache = trial.outputs.at("kv_cache");
  std::copy_n(cache.data(), cache.bytes(), inputs.at("kv_cache").data());
  for (std::int64_t i = 0; i < blocks; ++i) inputs.view("block_table").set_int(i, blocks - 1 - i);
  inputs.view("cu_seq_lens").set_int(1, blocks * b);
  const TensorSet got = trial.run(c, inputs);
  for (std::int64_t t = 0; t < blocks * b; ++t) {
    const std::int64_t slot = (blocks - 1 - t / b) * b + t % b;
    const Row row = row_of(layout, trial.outputs, slot);
    const std::size_t codes = row.codes.size(), scales = row.scales.size() * sizeof(float);
    if (std::memcmp(got.at("dst_k").data() + at(t) * codes, row.codes.data(), codes) != 0 ||
        std::memcmp(got.at("dst_scale").data() + at(t) * scales, row.scales.data(), scales) != 0)
      throw Broken(fmt::format("slot {} comes out of the gather differently", slot));
  }
}

// Twice k gives twice the scales and the same codes, where neither floor nor range interferes.
// Whether a group of the token's k lies below the floor of amax, whose scale then does not follow k.
bool is_floored(const Case& c, const Tensor& k, std::int64_t token) {
  const std::int64_t dim = c.integer("head_dim"), block = c.integer("quant_block"), stride = k.shape()[1];
  for (std::int64_t from = 0; from < dim; from += block) {
    double amax = 0;
    for (std::int64_t i = from; i < std::min(dim, from + block); ++i)
      amax = std::fmax(amax, std::fabs(k.view().at(token * stride + i)));
    if (amax < c.real("amax_floor")) return true;
  }
  return false;
}

void power_of_two(const Trial& trial) {
  need_form(trial, false);
  if (!data_is(trial.c, "realistic") && !data_is(trial.c, "integers"))
    throw NotApplicable("it needs data=realistic or integers");
  if (!trial.c.edits.empty()) throw NotApplicable("edited k may have no double");
  TensorSet inputs = trial.inputs;
  Tensor& k = inputs.at("k");
  const std::int64_t stride = k.shape()[1], dim = trial.c.integer("head_dim");
  for (std::int64_t i = 0; i < k.shape().numel(); ++i)
    if (i % stride < dim) k.view().set(i, 2 * std::as_const(k).view().at(i));
  const TensorSet got = trial.run(trial.c, inputs);
  const CacheLayout layout = cache_layout(trial.c);
  for (const WrittenSlot& s : written_slots(trial.c, trial.inputs)) {
    Row once = row_of(layout, trial.outputs, s.slot);
    for (float& scale : once.scales) scale *= 2;
    if (!s.undefined && !is_floored(trial.c, trial.inputs.at("k"), s.token) &&
        !(once == row_of(layout, got, s.slot)))
      throw Broken(fmt::format("token {} (slot {}): twice k does not give twice the scale and the same codes",
                               s.token, s.slot));
  }
}

void negation(const Trial& trial) {
  need_form(trial, false);
  if (data_is(trial.c, "non_finite") || !trial.c.edits.empty()) throw NotApplicable("it needs finite k");
  TensorSet inputs = trial.inputs;
  Tensor& k = inputs.at("k");
  const auto size = static_cast<std::size_t>(reference::size_bytes(k.dtype()));
  for (std::size_t i = size - 1; i < k.bytes(); i += size) k.data()[i] ^= std::byte{0x80};
  const TensorSet got = trial.run(trial.c, inputs);
  const CacheLayout layout = cache_layout(trial.c);
  const bool fnuz = layout.dtype == DType::kE4M3FNUZ;
  for (const WrittenSlot& s : written_slots(trial.c, trial.inputs)) {
    Row plus = row_of(layout, trial.outputs, s.slot);
    for (std::uint8_t& code : plus.codes)
      if (!fnuz || code != 0) code ^= 0x80;
    if (!s.undefined && !(plus == row_of(layout, got, s.slot)))
      throw Broken(fmt::format("token {} (slot {}): -k does not give the same scales and the opposite codes",
                               s.token, s.slot));
  }
}

// Blocks of the pool change places, and the table's names with them.
void blocks_renamed(const Trial& trial) {
  need_form(trial, true);
  TensorSet inputs = trial.inputs;
  Tensor& cache = inputs.at("kv_cache");
  const std::int64_t blocks = cache.shape()[0], stride = cache.shape()[1];
  const auto renamed = [&](std::int64_t id) { return (id + 1) % blocks; };
  for (std::int64_t b = 0; b < blocks; ++b)
    std::copy_n(trial.inputs.at("kv_cache").data() + b * stride, stride, cache.data() + renamed(b) * stride);
  const View table = inputs.view("block_table");
  for (std::int64_t i = 0; i < table.shape.numel(); ++i)
    if (const std::int64_t id = ConstView(table).int_at(i); id >= 0 && id < blocks)
      table.set_int(i, renamed(id));
  const TensorSet got = trial.run(trial.c, inputs);
  for (const char* name : {"dst_k", "dst_scale"})
    Trial::require_rows_equal(got, 0, trial.c.integer("tokens"), trial.outputs, 0, name);
}

// Bytes that no request's token owns may be anything.
void other_bytes(const Trial& trial) {
  need_form(trial, true);
  const CacheLayout layout = cache_layout(trial.c);
  TensorSet inputs = trial.inputs;
  Tensor& cache = inputs.at("kv_cache");
  fill_bytes(cache, Random(trial.c.seed + 1, "other bytes"));
  for (const std::int64_t slot :
       gathered_slots(paged_table(trial.c, trial.inputs), layout.block_size, trial.c.integer("tokens"))) {
    if (slot < 0) continue;
    const Row row = row_of(layout, trial.inputs, slot);
    reference::put_row(layout, cache.view().as<std::uint8_t>(), slot, row.codes.data(), row.scales.data());
  }
  const TensorSet got = trial.run(trial.c, inputs);
  for (const char* name : {"dst_k", "dst_scale"})
    Trial::require_rows_equal(got, 0, trial.c.integer("tokens"), trial.outputs, 0, name);
}

// Every request alone gives its rows.
void request_alone(const Trial& trial) {
  need_form(trial, true);
  const ConstView cu = trial.inputs.view("cu_seq_lens"), table = trial.inputs.view("block_table");
  const std::int64_t requests = cu.shape.numel() - 1;
  for (std::int64_t r = 0; r < requests; r += std::max<std::int64_t>(1, requests / 3)) {
    const std::int64_t rows = cu.int_at(r + 1) - cu.int_at(r);
    Case c = with_tokens(trial.c, rows);
    c.set("requests", 1).set("extra_rows", 0).set("blocks", trial.inputs.at("kv_cache").shape()[0]);
    c.set("columns", table.shape[1] - trial.c.integer("table_pad"));
    TensorSet inputs;
    inputs.add(trial.inputs.at("kv_cache"));
    Tensor& row = inputs.add(Tensor("block_table", DType::kI32, Shape(1, table.shape[1])));
    std::copy_n(table.as<std::int32_t>() + r * table.shape[1], table.shape[1], row.view().as<std::int32_t>());
    inputs.add(Tensor("cu_seq_lens", DType::kI32, Shape(2))).view().set_int(1, rows);
    const TensorSet got = run_unless_refused(trial, c, inputs);
    for (const char* name : {"dst_k", "dst_scale"})
      Trial::require_rows_equal(got, 0, rows, trial.outputs, cu.int_at(r), name);
  }
}

// The same tokens in blocks of another size.
void block_size_changed(const Trial& trial) {
  need_form(trial, true);
  const CacheLayout here = cache_layout(trial.c);
  const std::int64_t b = here.block_size, smaller = b % 32 == 0                     ? b / 2
                                                    : b > 1 && b % 2 == 0 && b < 16 ? b / 2
                                                                                    : 0;
  if (smaller == 0) throw NotApplicable(fmt::format("block_size={} has no half that every layout takes", b));
  const TensorSet& from = trial.inputs;
  const ConstView table = from.view("block_table");
  const std::int64_t pad = trial.c.integer("table_pad"), columns = table.shape[1] - pad;
  Case c = with_field(trial.c, "block_size", fmt::format("{}", smaller));
  c.set("blocks", 2 * from.at("kv_cache").shape()[0]).set("columns", 2 * columns);
  if (const auto why = trial.op.refusal(c)) throw NotApplicable("smaller blocks are refused: " + *why);
  TensorSet inputs(trial.op.inputs(c));
  for (const Tensor& t : from.tensors())
    if (t.name() != "kv_cache" && t.name() != "block_table")
      std::copy_n(t.data(), t.bytes(), inputs.at(t.name()).data());
  for (std::int64_t r = 0; r < table.shape[0]; ++r)
    for (std::int64_t i = 0; i < 2 * columns; ++i) {
      const std::int64_t id = table.int_at(r * table.shape[1] + i / 2);
      const bool block = id >= 0 && id < from.at("kv_cache").shape()[0];
      inputs.view("block_table").set_int(r * (2 * columns + pad) + i, block ? 2 * id + i % 2 : -1);
    }
  const CacheLayout there = cache_layout(c);
  for (std::int64_t s = 0; s < from.at("kv_cache").shape()[0] * b; ++s) {
    const Row row = row_of(here, from, s);
    reference::put_row(there, inputs.view("kv_cache").as<std::uint8_t>(), s, row.codes.data(),
                       row.scales.data());
  }
  const TensorSet got = trial.run(c, inputs);
  for (const char* name : {"dst_k", "dst_scale"})
    Trial::require_rows_equal(got, 0, trial.c.integer("tokens"), trial.outputs, 0, name);
}

}  // namespace

std::span<const Relation> indexer_cache_relations() {
  static const std::array<Relation, 11> all = {
      Relation{"token_order", "the order of tokens changes no byte of the cache", token_order},
      Relation{"one_after_the_other", "tokens written in two calls leave the cache that one call leaves",
               one_after_the_other},
      Relation{"skipped_tokens", "tokens of negative slots leave no trace", skipped_tokens},
      Relation{"layouts_agree", "row-major and preshuffled caches hold the same rows", layouts_agree},
      Relation{"round_trip", "gathering what was written gives the direct quantization, byte for byte",
               round_trip},
      Relation{"power_of_two", "twice k gives twice the scales and the same codes", power_of_two},
      Relation{"negation", "-k gives the same scales and the opposite codes", negation},
      Relation{"blocks_renamed", "which block of the pool holds a token does not matter", blocks_renamed},
      Relation{"other_bytes", "bytes of other tokens, scales and padding do not reach dst", other_bytes},
      Relation{"request_alone", "a request alone gives the rows it gives among others", request_alone},
      Relation{"block_size_changed", "blocks of half the size give the same rows", block_size_changed},
  };
  return all;
}

}  // namespace moecheck::harness
