#include "optimized/cpu/moe_align.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "optimized/cpu/aligned.h"
#include "optimized/cpu/combine_row.h"
#include "optimized/cpu/machine_faults.h"
#include "optimized/cpu/thread_pool.h"

namespace moecheck::MOECHECK_OPTIMIZED {
namespace {

using reference::AlignConvention;
using reference::AlignOptions;
using reference::PermuteOptions;
using reference::SlotIndex;
using reference::SortingOptions;

std::int64_t blocks_of(std::int64_t n, std::int64_t block) { return (n + block - 1) / block; }

// Slots by bucket: bucket_of(slot) is one of [0, buckets) or -1. slot i of bucket b is slots[offsets[b] + i],
// ascending.
struct Buckets {
  std::vector<std::int64_t> offsets;
  std::vector<std::int32_t> slots;
  std::int64_t count(std::int64_t b) const {
    return offsets[static_cast<std::size_t>(b) + 1] - offsets[static_cast<std::size_t>(b)];
  }
  const std::int32_t* begin(std::int64_t b) const {
    return slots.data() + offsets[static_cast<std::size_t>(b)];
  }
};

template <class BucketOf>
Buckets counting_sort(std::int64_t slots, std::int64_t buckets, BucketOf bucket_of) {
  Buckets out;
  out.offsets.assign(static_cast<std::size_t>(buckets) + 1, 0);
  for (std::int64_t s = 0; s < slots; ++s)
    if (const std::int64_t b = bucket_of(s); b >= 0) ++out.offsets[static_cast<std::size_t>(b) + 1];
  std::partial_sum(out.offsets.begin(), out.offsets.end(), out.offsets.begin());
  out.slots.resize(static_cast<std::size_t>(out.offsets.back()));
  std::vector<std::int64_t> next(out.offsets.begin(), out.offsets.end() - 1);
  for (std::int64_t s = 0; s < slots; ++s)
    if (const std::int64_t b = bucket_of(s); b >= 0)
      out.slots[static_cast<std::size_t>(next[static_cast<std::size_t>(b)]++)] = static_cast<std::int32_t>(s);
  return out;
}

// What one bucket's blocks are labelled with: its expert, through expert_map where there is one; -1 for
// bucket 0 of sglang.
std::int32_t label_of(const AlignOptions& o, std::int64_t bucket) {
  const std::int64_t e = bucket - (o.convention == AlignConvention::kSglang);
  if (e < 0) return -1;
  return o.expert_map.empty() ? static_cast<std::int32_t>(e) : o.expert_map[static_cast<std::size_t>(e)];
}

// Buckets in the order of their blocks: ascending, or by local index where other ranks' slots were left out.
std::vector<std::int64_t> block_order(const AlignOptions& o, std::int64_t buckets) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(buckets));
  std::iota(order.begin(), order.end(), 0);
  if (o.ignore_invalid_experts && !o.expert_map.empty())
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return label_of(o, a) < label_of(o, b); });
  return order;
}

}  // namespace

void moe_align_block_size(const AlignOptions& o, ConstView topk_ids, View sorted_token_ids, View expert_ids,
                          View num_tokens_post_padded) {
  const std::int64_t numel = topk_ids.shape.numel(), block = o.block_size;
  const bool sglang = o.convention == AlignConvention::kSglang;
  const std::int64_t buckets = o.experts + (sglang ? 1 : 0);
  const Buckets sorted = counting_sort(numel, buckets, [&](std::int64_t s) -> std::int64_t {
    std::int64_t id = load_id(topk_ids, s);
    if (fault(Fault::kAlignCountsMinusOne)) id = std::max<std::int64_t>(id, 0);
    if (id >= o.experts || (id < 0 && !sglang)) return -1;
    const std::int64_t bucket = sglang ? std::max<std::int64_t>(id, -1) + 1 : id;
    return o.ignore_invalid_experts && label_of(o, bucket) < 0 ? -1 : bucket;
  });
  std::int32_t* ids = sorted_token_ids.as<std::int32_t>();
  std::int32_t* experts = expert_ids.as<std::int32_t>();
  std::fill_n(ids, sorted_token_ids.shape.numel(), static_cast<std::int32_t>(numel));
  std::fill_n(experts, expert_ids.shape.numel(), o.tail_expert);
  std::int64_t at = 0;
  for (const std::int64_t b : block_order(o, buckets)) {
    const std::int64_t count = sorted.count(b);
    const std::int64_t blocks = blocks_of(count, block);
    const bool full = count > 0 && count == blocks * block;
    std::copy_n(sorted.begin(b), fault(Fault::kAlignDropsLastSlot) && full ? count - 1 : count, ids + at);
    const bool global = fault(Fault::kAlignGlobalExpertIds) && b >= (sglang ? 1 : 0);
    std::fill_n(experts + at / block, blocks,
                global ? static_cast<std::int32_t>(b - sglang) : label_of(o, b));
    at += blocks * block;
  }
  num_tokens_post_padded.as<std::int32_t>()[0] =
      static_cast<std::int32_t>(fault(Fault::kAlignCountsUnpadded) ? sorted.offsets.back() : at);
}

// sorted_expert_ids are local indices: how many experts of the mask come before.
void moe_sorting(const SortingOptions& o, ConstView topk_ids, ConstView topk_weights, View sorted_ids,
                 View sorted_weights, View sorted_expert_ids, View num_valid_ids) {
  const std::int64_t tokens = topk_ids.shape.numel() / o.topk, block = o.block_size;
  const std::int64_t rows = o.num_local_tokens < 0 ? tokens : std::min(tokens, o.num_local_tokens);
  const Buckets sorted = counting_sort(rows * o.topk, o.experts, [&](std::int64_t s) -> std::int64_t {
    const std::int64_t id = load_id(topk_ids, s);
    if (id < 0 || id >= o.experts) return -1;
    return o.expert_mask.empty() || o.expert_mask[static_cast<std::size_t>(id)] != 0 ? id : -1;
  });
  const std::int64_t named = fault(Fault::kSortingPadOfLocal) ? rows : tokens;
  const auto pad =
      reference::encode_sorted_id(static_cast<std::uint32_t>(o.topk), static_cast<std::uint32_t>(named));
  auto* ids = sorted_ids.as<std::uint32_t>();
  std::fill_n(ids, sorted_ids.shape.numel(), pad);
  std::fill_n(sorted_weights.as<float>(), sorted_weights.shape.numel(), 0.0F);
  std::fill_n(sorted_expert_ids.as<std::int32_t>(), sorted_expert_ids.shape.numel(), -1);
  std::int64_t at = 0;
  std::int32_t local = 0;
  for (std::int64_t e = 0; e < o.experts; ++e) {
    const bool masked = !o.expert_mask.empty() && o.expert_mask[static_cast<std::size_t>(e)] == 0;
    const std::int64_t blocks = blocks_of(sorted.count(e), block);
    for (std::int64_t i = 0; i < sorted.count(e); ++i) {
      const std::int32_t slot = sorted.begin(e)[i];
      const auto k = static_cast<std::uint32_t>(slot % o.topk), t = static_cast<std::uint32_t>(slot / o.topk);
      ids[at + i] = reference::encode_sorted_id(fault(Fault::kSortingFieldsSwapped) ? t : k,
                                                fault(Fault::kSortingFieldsSwapped) ? k : t);
      sorted_weights.as<float>()[at + i] = topk_weights.as<float>()[slot];
    }
    std::fill_n(sorted_expert_ids.as<std::int32_t>() + at / block, blocks,
                fault(Fault::kSortingGlobalExpertIds) ? static_cast<std::int32_t>(e) : local);
    at += blocks * block;
    local += masked ? 0 : 1;
  }
  num_valid_ids.as<std::int32_t>()[0] = static_cast<std::int32_t>(at);
  num_valid_ids.as<std::int32_t>()[1] = static_cast<std::int32_t>(rows);
}

std::int64_t permute(const PermuteOptions& o, ConstView topk_ids, View expert_first_token_offset,
                     View row_of_slot, View slot_of_row, View m_indices) {
  const std::int64_t slots = topk_ids.shape.numel(), tokens = slots / o.topk;
  const std::int64_t local = expert_first_token_offset.shape.numel() - 1;
  const bool k_major = o.index == SlotIndex::kKMajor;
  const Buckets sorted = counting_sort(slots, local, [&](std::int64_t s) -> std::int64_t {
    // topk_ids are token-major; slot number s of the k-major order is token s % M, choice s / M.
    const std::int64_t at =
        k_major && !fault(Fault::kPermuteMixesOrders) ? s % tokens * o.topk + s / tokens : s;
    const std::int64_t id = load_id(topk_ids, at);
    if (id < 0 || id >= o.experts) return -1;
    const std::int64_t e = o.expert_map.empty() ? id : o.expert_map[static_cast<std::size_t>(id)];
    return e < local ? e : -1;
  });
  const std::int64_t capacity = slot_of_row.shape.numel();
  if (!fault(Fault::kPermuteMapUninitialised)) std::fill_n(row_of_slot.as<std::int32_t>(), slots, -1);
  std::fill_n(slot_of_row.as<std::int32_t>(), capacity, -1);
  std::fill_n(m_indices.as<std::int32_t>(), m_indices.shape.numel(), o.invalid_expert);
  std::int64_t row = 0;
  for (std::int64_t e = 0; e < local; ++e) {
    expert_first_token_offset.as<std::int64_t>()[e] = row;
    for (std::int64_t i = 0; i < sorted.count(e); ++i, ++row) {
      const std::int32_t slot = sorted.begin(e)[i];
      row_of_slot.as<std::int32_t>()[slot] = static_cast<std::int32_t>(row);
      slot_of_row.as<std::int32_t>()[row] = slot;
      m_indices.as<std::int32_t>()[row] = static_cast<std::int32_t>(e);
    }
    if (!fault(Fault::kPermuteIgnoresAlign)) row = blocks_of(row, o.align) * o.align;
  }
  expert_first_token_offset.as<std::int64_t>()[local] = row;
  return row;
}

void permute_rows(const PermuteOptions& o, ConstView hidden_states, ConstView slot_of_row, View permuted,
                  CpuOptions cpu) {
  const std::int64_t tokens = hidden_states.shape[0], rows = slot_of_row.shape.numel();
  const std::int64_t bytes = hidden_states.shape[1] * reference::size_bytes(hidden_states.dtype);
  parallel_for(cpu.threads, rows, [&](std::int64_t r, int) {
    std::int64_t slot = slot_of_row.as<std::int32_t>()[r];
    if (slot < 0 || tokens == 0) return;
    const std::int64_t token = o.index == SlotIndex::kTokenMajor ? slot / o.topk : slot % tokens;
    std::memcpy(permuted.as<char>() + r * bytes, hidden_states.as<char>() + token * bytes,
                static_cast<std::size_t>(bytes));
  });
}

void unpermute(const PermuteOptions& o, ConstView permuted, ConstView topk_weights, ConstView row_of_slot,
               View out, CpuOptions cpu) {
  const std::int64_t tokens = topk_weights.shape[0], topk = o.topk, hidden = permuted.shape[1];
  const std::int64_t stride = padded_columns(hidden);
  const LoadRow load = load_row();
  const StoreRow store = store_row();
  const CombineRow combine = combine_row();
  std::vector<AlignedFloats> rows, sums;
  for (int i = 0; i < std::max(1, cpu.threads); ++i)
    rows.emplace_back(topk * stride), sums.emplace_back(stride);
  parallel_for(cpu.threads, tokens, [&](std::int64_t t, int worker) {
    std::vector<const float*> terms;
    std::vector<float> weights;
    float* mine = rows[static_cast<std::size_t>(worker)].data();
    for (std::int64_t k = 0; k < topk; ++k) {
      const bool k_major = o.index == SlotIndex::kKMajor;
      const std::int64_t slot = k_major ? t + k * tokens : t * topk + k;
      const std::int32_t row = row_of_slot.as<std::int32_t>()[slot];
      if (row < 0 || row >= permuted.shape[0]) continue;
      float* term = mine + static_cast<std::int64_t>(terms.size()) * stride;
      load(permuted, row * hidden, hidden, term);
      terms.push_back(term);
      const std::int64_t at = fault(Fault::kUnpermuteWeightsKMajor) ? t + k * tokens : t * topk + k;
      weights.push_back(topk_weights.as<float>()[at]);
    }
    float* sum = sums[static_cast<std::size_t>(worker)].data();
    combine(CombineRules(), {terms.data(), weights.data(), static_cast<std::int64_t>(terms.size()), nullptr},
            hidden, sum);
    store(sum, hidden, out, t * hidden);
  });
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
