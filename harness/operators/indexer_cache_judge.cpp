// Judge of indexer_cache. Scales first: a wrong one is one error, and says what the codes below it would only repeat. Then codes,
// then every byte outside the written slots.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "harness/fault.h"
#include "harness/judge.h"
#include "harness/operators/indexer_cache.h"

namespace moecheck::harness {
namespace {

using reference::CacheLayout;
using reference::GroupScale;
using reference::IndexerQuant;

float float_at(const std::uint8_t* bytes) {
  float v = 0;
  std::memcpy(&v, bytes, sizeof(v));
  return v;
}

std::string scale_text(float v) {
  return fmt::format("{:.8g} (0x{:08X})", v, std::bit_cast<std::uint32_t>(v));
}

std::string code_text(DType fp8, std::uint8_t code) {
  const double v = reference::decode(fp8, code);
  return std::isnan(v) ? fmt::format("0x{:02X} (NaN)", code) : fmt::format("0x{:02X} ({:g})", code, v);
}

// Notes are made for the first error alone: it stays the worst.
template <class Note>
void fail(Judgement& j, const Tensor& t, std::int64_t i, double expected, double got, Note note) {
  if (j.failed == 0)
    fail_element(j, t, i, expected, got, note());
  else
    ++j.failed;
}

class QuantizeJudge {
 public:
  QuantizeJudge(const Case& c, const TensorSet& inputs, const TensorSet& outputs, Judgement& j)
      : layout_(cache_layout(c)),
        quant_(indexer_quant(c)),
        k_(inputs.view("k")),
        before_(inputs.view("kv_cache").as<std::uint8_t>()),
        tensor_(outputs.at("kv_cache")),
        got_(tensor_.view().as<std::uint8_t>()),
        j_(j),
        row_(at(layout_.head_dim)) {}

  void run(const std::vector<WrittenSlot>& slots) {
    for (const WrittenSlot& s : slots) {
      if (s.undefined)
        ++undefined_;
      else
        judge_row(s);
    }
    judge_unwritten(slots);
    if (undefined_ > 0)
      note_open(fmt::format(
          "{} of {} slots: what several tokens write to one slot, or padding to slot 0, is undefined",
          undefined_, slots.size()));
    if (non_finite_ > 0)
      note_open(fmt::format("{} groups of k hold NaN or Inf: nothing is promised for them", non_finite_));
    if (near_ties_ > 0)
      note_open(
          fmt::format("{} codes or scales are right by another rounding that the policy allows", near_ties_));
    j_.undecided += undefined_ + non_finite_ + near_ties_;
  }

 private:
  void note_open(std::string why) { j_.raise(Verdict::kUndecided, std::move(why)); }

  std::string where(const WrittenSlot& s, std::int64_t channel) const {
    return fmt::format("token {} (slot {}: {})", s.token, s.slot,
                       layout_.describe(layout_.value_at(s.slot, channel)));
  }

  void judge_row(const WrittenSlot& s) {
    for (std::int64_t c = 0; c < layout_.head_dim; ++c)
      row_[at(c)] = static_cast<float>(k_.at(s.token * k_.shape[1] + c));
    for (std::int64_t first = 0; first < layout_.head_dim; first += layout_.quant_block)
      judge_group(s, first);
  }

  void judge_group(const WrittenSlot& s, std::int64_t first) {
    const GroupScale want = group_scale(quant_, row_.data() + first, layout_.quant_block);
    if (!want.finite && quant_.non_finite == reference::NonFiniteKeys::kOpen) {
      ++non_finite_;
      return;
    }
    const std::int64_t at_scale = layout_.scale_at(s.slot, first);
    const float scale = float_at(got_ + at_scale);
    ++j_.elements;
    if (!want.holds(scale) && !HARNESS_FAULT(kCacheAnyScale)) {
      fail(j_, tensor_, at_scale, want.scale[0], scale, [&] {
        return fmt::format("scale of token {} (slot {}: {}) is {} instead of {}", s.token, s.slot,
                           layout_.describe(at_scale), scale_text(scale), scale_text(want.scale[0]));
      });
      return;
    }
    if (std::bit_cast<std::uint32_t>(scale) != std::bit_cast<std::uint32_t>(want.scale[0])) ++near_ties_;
    for (std::int64_t c = first; c < first + layout_.quant_block; ++c) judge_code(s, c, scale);
  }

  void judge_code(const WrittenSlot& s, std::int64_t c, float scale) {
    const std::int64_t i = layout_.value_at(s.slot, c);
    const std::uint8_t got = got_[i], want = indexer_code(quant_, quant_.value_op, row_[at(c)], scale);
    ++j_.elements;
    if (got == want) return;
    if (may_be_code(quant_, row_[at(c)], scale, got)) {
      ++near_ties_;
      return;
    }
    fail(j_, tensor_, i, reference::decode(quant_.fp8, want), reference::decode(quant_.fp8, got), [&] {
      return fmt::format("{} has code {} instead of {} (k = {:g}, scale {:g})", where(s, c),
                         code_text(quant_.fp8, got), code_text(quant_.fp8, want), row_[at(c)], scale);
    });
  }

  // Slots are sorted: those of a block follow each other.
  void judge_unwritten(const std::vector<WrittenSlot>& slots) {
    const std::int64_t stride = layout_.stride(), blocks = tensor_.shape()[0];
    std::vector<std::uint8_t> bytes(at(stride));
    std::size_t next = 0;
    for (std::int64_t b = 0; b < blocks; ++b) {
      const std::uint8_t *got = got_ + b * stride, *before = before_ + b * stride;
      j_.elements += stride;
      const std::size_t first = next;
      while (next < slots.size() && slots[next].slot / layout_.block_size == b) ++next;
      if (first != next) {
        std::memcpy(bytes.data(), got, bytes.size());
        for (std::size_t i = first; i < next; ++i)
          copy_row(before, slots[i].slot % layout_.block_size, bytes.data());
        j_.elements -= static_cast<std::int64_t>(next - first) * (layout_.head_dim + 4 * layout_.scales());
        got = bytes.data();
      }
      if (HARNESS_FAULT(kCacheNeighboursUnchecked) || std::memcmp(got, before, bytes.size()) == 0) continue;
      for (std::int64_t i = 0; i < stride; ++i)
        if (got[i] != before[i])
          fail(j_, tensor_, b * stride + i, before[i], got[i], [&] {
            return fmt::format("{} belongs to no written slot and changed from 0x{:02X} to 0x{:02X}",
                               layout_.describe(b * stride + i), before[i], got[i]);
          });
    }
  }

  void copy_row(const std::uint8_t* from, std::int64_t token, std::uint8_t* to) const {
    const std::int64_t run = layout_.run();
    for (std::int64_t c = 0; c < layout_.head_dim; c += run)
      std::memcpy(to + layout_.value_offset(token, c), from + layout_.value_offset(token, c), at(run));
    const std::int64_t scale = layout_.scale_offset(token, 0);
    std::memcpy(to + scale, from + scale, at(4 * layout_.scales()));
  }

  const CacheLayout layout_;
  const IndexerQuant quant_;
  const ConstView k_;
  const std::uint8_t* before_;
  const Tensor& tensor_;
  const std::uint8_t* got_;
  Judgement& j_;
  std::vector<float> row_;
  std::int64_t undefined_ = 0, non_finite_ = 0, near_ties_ = 0;
};

void judge_gather(const Case& c, const TensorSet& inputs, const IndexerCacheExpected& e,
                  const TensorSet& outputs, Judgement& j) {
  const CacheLayout layout = cache_layout(c);
  const reference::PagedTable table = paged_table(c, inputs);
  const Tensor &k = outputs.at("dst_k"), &scale = outputs.at("dst_scale");
  const auto *got_k = k.view().as<std::uint8_t>(), *got_scale = scale.view().as<std::uint8_t>();
  const std::int64_t dim = layout.head_dim, scales = layout.scales(), rows = c.integer("tokens");
  const std::int64_t live = rows - c.integer("extra_rows"), per_scale = scale.dtype() == DType::kF32 ? 1 : 4;
  const std::vector<std::int64_t> slots = gathered_slots(table, layout.block_size, rows);
  for (std::int64_t t = 0; t < rows; ++t) {
    if (t >= live && c.choice("past_rows") == "undefined") {
      ++j.undecided;
      j.raise(Verdict::kUndecided,
              fmt::format("rows from {} on are past cu_seq_lens[R], and past_rows=undefined", live));
      continue;
    }
    const auto source = [&](std::int64_t channel) {
      if (slots[at(t)] < 0) return std::string("which is past cu_seq_lens[R] and keeps what it held");
      return fmt::format("from slot {} ({})", slots[at(t)],
                         layout.describe(layout.value_at(slots[at(t)], channel)));
    };
    for (std::int64_t s = t * scales; s < (t + 1) * scales; ++s) {
      ++j.elements;
      const float got = float_at(got_scale + 4 * s), want = float_at(e.dst_scale.data() + 4 * s);
      if (std::memcmp(&got, &want, 4) != 0)
        fail(j, scale, s * per_scale, want, got, [&] {
          return fmt::format("scale of row {} is {} instead of {}, {}", t, scale_text(got), scale_text(want),
                             source((s - t * scales) * layout.quant_block));
        });
    }
    j.elements += dim;
    if (std::memcmp(got_k + t * dim, e.dst_k.data() + t * dim, at(dim)) == 0) continue;
    for (std::int64_t i = t * dim; i < (t + 1) * dim; ++i)
      if (const std::uint8_t got = got_k[i], want = e.dst_k[at(i)]; got != want)
        fail(j, k, i, reference::decode(layout.dtype, want), reference::decode(layout.dtype, got), [&] {
          return fmt::format("row {}, channel {} is {} instead of {}, {}", t, i - t * dim,
                             code_text(layout.dtype, got), code_text(layout.dtype, want),
                             source(i - t * dim));
        });
  }
}

}  // namespace

std::vector<WrittenSlot> written_slots(const Case& c, const TensorSet& inputs) {
  const ConstView mapping = inputs.view("slot_mapping");
  std::vector<WrittenSlot> all;
  for (std::int64_t t = 0; t < std::min(tokens_written(c), mapping.shape.numel()); ++t)
    if (const std::int64_t slot = mapping.int_at(t); slot >= 0) all.push_back({slot, t, false});
  std::stable_sort(all.begin(), all.end(),
                   [](const WrittenSlot& a, const WrittenSlot& b) { return a.slot < b.slot; });
  std::vector<WrittenSlot> once;
  for (const WrittenSlot& s : all) {
    if (once.empty() || once.back().slot != s.slot)
      once.push_back(s);
    else
      once.back() = {s.slot, s.token, true};
    once.back().undefined = once.back().undefined || (s.slot == 0 && c.choice("skip") == "dummy_slot0");
  }
  return once;
}

std::vector<std::int64_t> gathered_slots(const reference::PagedTable& table, std::int64_t block_size,
                                         std::int64_t rows) {
  std::vector<std::int64_t> slots(at(rows), -1);
  for (std::int64_t r = 0; r + 1 < table.cu_seq_lens.shape.numel(); ++r) {
    const std::int64_t first = table.cu_seq_lens.int_at(r);
    for (std::int64_t t = first; t < std::min(table.cu_seq_lens.int_at(r + 1), rows); ++t)
      slots[at(t)] = table.block_table.int_at(r * table.row_stride + (t - first) / block_size) * block_size +
                     (t - first) % block_size;
  }
  return slots;
}

void judge_indexer_cache(const Case& c, const TensorSet& inputs, const IndexerCacheExpected& expected,
                         const TensorSet& outputs, Judgement& j) {
  if (is_gather(c))
    judge_gather(c, inputs, expected, outputs, j);
  else
    QuantizeJudge(c, inputs, outputs, j).run(written_slots(c, inputs));
}

void blank_indexer_cache(const Case& c, const TensorSet& inputs, TensorSet& outputs) {
  const CacheLayout layout = cache_layout(c);
  if (is_gather(c)) {
    const auto extra = at(c.integer("extra_rows"));
    if (extra == 0 || c.choice("past_rows") != "undefined") return;
    for (const char* name : {"dst_k", "dst_scale"}) {
      Tensor& t = outputs.at(name);
      const std::size_t bytes = t.bytes() / at(c.integer("tokens")) * extra;
      std::memset(t.data() + t.bytes() - bytes, 0, bytes);
    }
    return;
  }
  const IndexerQuant quant = indexer_quant(c);
  const ConstView k = inputs.view("k");
  auto* cache = outputs.view("kv_cache").as<std::uint8_t>();
  std::vector<float> group(at(layout.quant_block));
  for (const WrittenSlot& s : written_slots(c, inputs))
    for (std::int64_t first = 0; first < layout.head_dim; first += layout.quant_block) {
      for (std::int64_t i = 0; i < layout.quant_block; ++i)
        group[at(i)] = static_cast<float>(k.at(s.token * k.shape[1] + first + i));
      const bool open = quant.non_finite == reference::NonFiniteKeys::kOpen &&
                        std::any_of(group.begin(), group.end(), [](float v) { return !std::isfinite(v); });
      if (!s.undefined && !open) continue;
      for (std::int64_t i = first; i < first + layout.quant_block; ++i) cache[layout.value_at(s.slot, i)] = 0;
      std::memset(cache + layout.scale_at(s.slot, first), 0, 4);
    }
}

}  // namespace moecheck::harness
