#include "reference/moe_align.h"

#include <algorithm>
#include <map>
#include <stdexcept>

#include "reference/text.h"

namespace moecheck::reference {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
// The buckets of an alignment in order, each with what its blocks say and the slots it holds (ascending).
struct Bucket {
  std::int32_t expert = -1;
  std::vector<std::int32_t> slots;
};

std::vector<Bucket> buckets_of(std::span<const std::int64_t> topk_ids, const AlignOptions& options) {
  const bool sglang = options.convention == AlignConvention::kSglang, mapped = !options.expert_map.empty();
  std::vector<Bucket> buckets(static_cast<std::size_t>(options.experts + (sglang ? 1 : 0)));
  for (std::int64_t e = 0; e < options.experts; ++e)
    buckets[static_cast<std::size_t>(e + (sglang ? 1 : 0))].expert =
        mapped ? options.expert_map[static_cast<std::size_t>(e)] : static_cast<std::int32_t>(e);
  for (std::size_t s = 0; s < topk_ids.size(); ++s) {
    const std::int64_t id = topk_ids[s];
    if (id >= options.experts || (id < 0 && !sglang)) continue;
    const auto bucket = static_cast<std::size_t>(id < 0 ? 0 : id + (sglang ? 1 : 0));
    if (options.ignore_invalid_experts && buckets[bucket].expert < 0) continue;
    buckets[bucket].slots.push_back(static_cast<std::int32_t>(s));
  }
  if (options.ignore_invalid_experts && mapped)  // the blocks follow local ids then
    std::stable_sort(buckets.begin(), buckets.end(),
                     [](const Bucket& a, const Bucket& b) { return a.expert < b.expert; });
  return buckets;
}

// Whether entries [begin, end) hold exactly `slots` in any order, and `pad` elsewhere.
template <class T>
std::optional<std::string> set_fault(const T* entries, std::int64_t count,
                                     const std::vector<std::int32_t>& slots, T pad,
                                     const std::vector<T>& encoded, const std::string& expert) {
  std::map<T, std::int64_t> left;
  for (const std::int32_t s : slots)
    ++left[encoded.empty() ? static_cast<T>(s) : encoded[static_cast<std::size_t>(s)]];
  for (std::int64_t i = 0; i < count; ++i) {
    if (entries[i] == pad) continue;
    const auto found = left.find(entries[i]);
    if (found == left.end())
      return "entry " + text(entries[i]) + " in a block of expert " + expert + " is not one of its slots";
    if (found->second-- == 0)
      return "slot " + text(entries[i]) + " of expert " + expert + " appears more than once";
  }
  for (const auto& [slot, missing] : left)
    if (missing > 0) return "slot " + text(slot) + " of expert " + expert + " is missing";
  return std::nullopt;
}

}  // namespace

std::int64_t AlignOptions::capacity(std::int64_t numel) const {
  if (convention == AlignConvention::kVllm) return numel + experts * (block_size - 1);
  return numel < experts + 1 ? numel * block_size : numel + (experts + 1) * (block_size - 1);
}

Alignment moe_align_block_size(std::span<const std::int64_t> topk_ids, const AlignOptions& options) {
  const auto numel = static_cast<std::int64_t>(topk_ids.size());
  const std::int64_t block = options.block_size, capacity = options.capacity(numel);
  Alignment out;
  out.sorted_token_ids.assign(static_cast<std::size_t>(capacity), static_cast<std::int32_t>(numel));
  out.expert_ids.assign(static_cast<std::size_t>(ceil_div(capacity, block)), options.tail_expert);
  std::int64_t at = 0;
  for (const Bucket& bucket : buckets_of(topk_ids, options)) {
    std::copy(bucket.slots.begin(), bucket.slots.end(), out.sorted_token_ids.begin() + at);
    const std::int64_t blocks = ceil_div(static_cast<std::int64_t>(bucket.slots.size()), block);
    std::fill_n(out.expert_ids.begin() + at / block, blocks, bucket.expert);
    at += blocks * block;
  }
  out.num_tokens_post_padded = static_cast<std::int32_t>(at);
  return out;
}

std::optional<std::string> alignment_fault(const Alignment& got, std::span<const std::int64_t> topk_ids,
                                           const AlignOptions& options) {
  const auto numel = static_cast<std::int64_t>(topk_ids.size());
  const std::int64_t block = options.block_size;
  std::int64_t at = 0;
  for (const Bucket& bucket : buckets_of(topk_ids, options)) {
    const std::int64_t blocks = ceil_div(static_cast<std::int64_t>(bucket.slots.size()), block);
    if (at + blocks * block > static_cast<std::int64_t>(got.sorted_token_ids.size()) ||
        at / block + blocks > static_cast<std::int64_t>(got.expert_ids.size()))
      return "the buffers end before the blocks of expert " + text(bucket.expert);
    for (std::int64_t b = at / block; b < at / block + blocks; ++b)
      if (got.expert_ids[static_cast<std::size_t>(b)] != bucket.expert)
        return "expert_ids[" + text(b) + "] is " + text(got.expert_ids[static_cast<std::size_t>(b)]) +
               ", not " + text(bucket.expert);
    if (auto fault = set_fault<std::int32_t>(got.sorted_token_ids.data() + at, blocks * block, bucket.slots,
                                             static_cast<std::int32_t>(numel), {}, text(bucket.expert)))
      return fault;
    at += blocks * block;
  }
  if (got.num_tokens_post_padded != at)
    return "num_tokens_post_padded is " + text(got.num_tokens_post_padded) + ", not " + text(at);
  return std::nullopt;
}

namespace {

struct SortingPlan {
  std::int64_t tokens = 0, rows = 0;   // all, and those that are sorted
  std::vector<Bucket> buckets;         // by global expert, masked ones empty
  std::vector<std::uint32_t> encoded;  // [M*K]
  std::uint32_t pad = 0;
};

SortingPlan sorting_plan(std::span<const std::int64_t> topk_ids, const SortingOptions& options) {
  SortingPlan plan;
  const std::int64_t topk = options.topk;
  if (topk < 1 || topk >= 256)
    throw std::invalid_argument("topk=" + text(topk) +
                                ": moe_sorting packs k into 8 bits, and K into the padding");
  plan.tokens = static_cast<std::int64_t>(topk_ids.size()) / topk;
  if (plan.tokens >= std::int64_t{1} << kSortedTokenBits)
    throw std::invalid_argument("tokens=" + text(plan.tokens) +
                                ": moe_sorting packs the token into 24 bits; split the batch");
  plan.rows = options.num_local_tokens < 0 ? plan.tokens : std::min(options.num_local_tokens, plan.tokens);
  plan.pad = encode_sorted_id(static_cast<std::uint32_t>(topk), static_cast<std::uint32_t>(plan.tokens));
  plan.buckets.resize(static_cast<std::size_t>(options.experts));
  std::int32_t local = 0;
  for (std::int64_t e = 0; e < options.experts; ++e) {
    const bool mine = options.expert_mask.empty() || options.expert_mask[static_cast<std::size_t>(e)] != 0;
    plan.buckets[static_cast<std::size_t>(e)].expert = mine ? local++ : -1;
  }
  plan.encoded.resize(topk_ids.size());
  for (std::int64_t s = 0; s < plan.tokens * topk; ++s) {
    plan.encoded[static_cast<std::size_t>(s)] =
        encode_sorted_id(static_cast<std::uint32_t>(s % topk), static_cast<std::uint32_t>(s / topk));
    const std::int64_t id = topk_ids[static_cast<std::size_t>(s)];
    if (s / topk >= plan.rows || id < 0 || id >= options.experts) continue;
    Bucket& bucket = plan.buckets[static_cast<std::size_t>(id)];
    if (bucket.expert >= 0) bucket.slots.push_back(static_cast<std::int32_t>(s));
  }
  return plan;
}

}  // namespace

Sorting moe_sorting(std::span<const std::int64_t> topk_ids, std::span<const float> topk_weights,
                    const SortingOptions& options) {
  const SortingPlan plan = sorting_plan(topk_ids, options);
  const std::int64_t block = options.block_size;
  const std::int64_t capacity =
      static_cast<std::int64_t>(topk_ids.size()) + options.experts * block - options.topk;
  Sorting out;
  out.sorted_ids.assign(static_cast<std::size_t>(capacity), plan.pad);
  out.sorted_weights.assign(static_cast<std::size_t>(capacity), 0.0F);
  out.sorted_expert_ids.assign(static_cast<std::size_t>(ceil_div(capacity, block)), -1);
  std::int64_t at = 0;
  for (const Bucket& bucket : plan.buckets) {
    for (std::size_t i = 0; i < bucket.slots.size(); ++i) {
      const auto slot = static_cast<std::size_t>(bucket.slots[i]), place = static_cast<std::size_t>(at) + i;
      out.sorted_ids[place] = plan.encoded[slot];
      out.sorted_weights[place] = topk_weights[slot];
    }
    const std::int64_t blocks = ceil_div(static_cast<std::int64_t>(bucket.slots.size()), block);
    std::fill_n(out.sorted_expert_ids.begin() + at / block, blocks, bucket.expert);
    at += blocks * block;
  }
  out.num_valid_ids[0] = static_cast<std::int32_t>(at);
  out.num_valid_ids[1] = static_cast<std::int32_t>(plan.rows);
  return out;
}

std::optional<std::string> sorting_fault(const Sorting& got, std::span<const std::int64_t> topk_ids,
                                         std::span<const float> topk_weights, const SortingOptions& options) {
  const SortingPlan plan = sorting_plan(topk_ids, options);
  const std::int64_t block = options.block_size;
  std::int64_t at = 0;
  for (const Bucket& bucket : plan.buckets) {
    const std::int64_t blocks = ceil_div(static_cast<std::int64_t>(bucket.slots.size()), block),
                       end = at + blocks * block;
    const std::string expert = text(bucket.expert);
    if (end > static_cast<std::int64_t>(got.sorted_ids.size()) ||
        end > static_cast<std::int64_t>(got.sorted_weights.size()) ||
        end / block > static_cast<std::int64_t>(got.sorted_expert_ids.size()))
      return "the buffers end before the blocks of local expert " + expert;
    for (std::int64_t b = at / block; b < end / block; ++b)
      if (got.sorted_expert_ids[static_cast<std::size_t>(b)] != bucket.expert)
        return "sorted_expert_ids[" + text(b) + "] is " +
               text(got.sorted_expert_ids[static_cast<std::size_t>(b)]) + ", not local " + expert;
    if (auto fault = set_fault<std::uint32_t>(got.sorted_ids.data() + at, end - at, bucket.slots, plan.pad,
                                              plan.encoded, expert))
      return fault;
    for (std::int64_t i = at; i < end; ++i) {
      const std::uint32_t id = got.sorted_ids[static_cast<std::size_t>(i)];
      if (id == plan.pad) continue;
      const std::size_t slot =
          static_cast<std::size_t>(sorted_token(id)) * static_cast<std::size_t>(options.topk) + sorted_k(id);
      if (got.sorted_weights[static_cast<std::size_t>(i)] != topk_weights[slot])
        return "sorted_weights[" + text(i) + "] is not the weight of token " + text(sorted_token(id)) +
               ", slot " + text(sorted_k(id));
    }
    at = end;
  }
  if (got.num_valid_ids[0] != at)
    return "num_valid_ids[0] is " + text(got.num_valid_ids[0]) + ", not " + text(at);
  if (got.num_valid_ids[1] != plan.rows)
    return "num_valid_ids[1] is " + text(got.num_valid_ids[1]) + ", not " + text(plan.rows);
  return std::nullopt;
}

}  // namespace moecheck::reference
