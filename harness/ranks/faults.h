#pragma once
// Bugs of expert parallelism and of the overlap, planted at run time, each off until chosen by name: what the comparisons of
// rank_study.h exist for.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace moecheck::harness::ranks {

enum class RankFault : std::uint8_t {
  kNone,
  kCombineInArrivalOrder,
  kScaledOnEachRank,
  kSharedOnEveryRank,
  kTokensOfOtherBatch,
  kBufferReusedEarly,
  kRankZeroSwapsExperts,
  kMinusOneIsExpertZero,
  kNextLayerTooEarly,
  kDispatchSkippedWithoutTokens,
  kLastRankOtherOrder,
};

struct RankFaultInfo {
  RankFault id;
  std::string_view name, what, upstream;  // upstream: the bug it stands for, or ""
};
std::span<const RankFaultInfo> rank_faults();
std::string_view name(RankFault fault);  // "none"
// Throws UsageError with the nearest name.
RankFault require_rank_fault(const std::string& name);

}  // namespace moecheck::harness::ranks
