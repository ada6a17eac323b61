#include "harness/ranks/faults.h"

#include <fmt/format.h>

#include "harness/case.h"

namespace moecheck::harness::ranks {

std::span<const RankFaultInfo> rank_faults() {
  static constexpr RankFaultInfo all[] = {
      {RankFault::kCombineInArrivalOrder, "combine_in_arrival_order",
       "slots are added as the ranks send them, the own rank's first, instead of in slot order", ""},
      {RankFault::kScaledOnEachRank, "scaled_on_each_rank",
       "routed_scaling_factor is multiplied in by the experts' rank and again after combine", "vllm#45037"},
      {RankFault::kSharedOnEveryRank, "shared_on_every_rank",
       "the shared experts' output is added once for every rank", ""},
      {RankFault::kTokensOfOtherBatch, "tokens_of_other_batch",
       "dispatch reads the token indices of the batch that selected last", ""},
      {RankFault::kBufferReusedEarly, "buffer_reused_early",
       "the experts' output is overwritten between combine_a and combine_b", "DeepEP#621"},
      {RankFault::kRankZeroSwapsExperts, "rank_zero_swaps_experts",
       "rank 0 computes its first expert with the weights of its last", ""},
      {RankFault::kMinusOneIsExpertZero, "minus_one_is_expert_zero", "slots with id -1 visit expert 0",
       "sglang#12701"},
      {RankFault::kNextLayerTooEarly, "next_layer_too_early",
       "the stage merged across layers runs the next layer's operations before this one's output",
       "sglang#6711"},
      {RankFault::kDispatchSkippedWithoutTokens, "dispatch_skipped_without_tokens",
       "a rank without tokens leaves out its transfers, which the others wait for", ""},
      {RankFault::kLastRankOtherOrder, "last_rank_other_order",
       "the last rank lets the batches take turns the other way round", "DeepEP#513"},
  };
  return all;
}

std::string_view name(RankFault fault) {
  for (const RankFaultInfo& f : rank_faults())
    if (f.id == fault) return f.name;
  return "none";
}

RankFault require_rank_fault(const std::string& text) {
  std::vector<std::string> names{"none"};
  for (const RankFaultInfo& f : rank_faults()) names.emplace_back(f.name);
  for (const RankFaultInfo& f : rank_faults())
    if (f.name == text) return f.id;
  if (text == "none") return RankFault::kNone;
  throw UsageError(fmt::format("no fault {}: did you mean {}?", text, nearest(text, names)));
}

}  // namespace moecheck::harness::ranks
