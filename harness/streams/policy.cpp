#include "harness/streams/policy.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "harness/case.h"
#include "harness/fault.h"
#include "harness/text.h"

namespace moecheck::harness::streams {
namespace {

constexpr std::int64_t kDeepseekTokens = 1024, kQwenTokens = 1024, kVllmTokens = 256;

DualDecision glm4(const DualPolicy& p, const DualState& s) {
  switch (p.mode) {
    case DualMode::kAlways:
      return {true, "mode always"};
    case DualMode::kNever:
      return {false, "mode never"};
    case DualMode::kCapture:
      return {s.capturing, s.capturing ? "capturing, and mode capture" : "mode capture, and not capturing"};
    case DualMode::kAuto:
      break;
  }
  if (s.capturing && !HARNESS_FAULT(kPolicyCaptureAsksThreshold))
    return {true, "capturing: the threshold is not asked"};
  const bool few = HARNESS_FAULT(kPolicyThresholdStrict) ? s.tokens < p.threshold : s.tokens <= p.threshold;
  return {few,
          fmt::format("{} tokens, {} the threshold of {}", s.tokens, few ? "at most" : "above", p.threshold)};
}

template <class T>
T require(const std::string& given, const char* what, const std::vector<T>& all) {
  std::vector<std::string> known;
  for (const T t : all) {
    known.emplace_back(name(t));
    if (known.back() == given) return t;
  }
  throw UsageError(fmt::format("{} '{}' is not known: did you mean {}? There are {}", what,
                               printable(given, 60), nearest(given, known), fmt::join(known, ", ")));
}

}  // namespace

std::string_view name(DualMode mode) {
  constexpr std::string_view names[] = {"auto", "capture", "always", "never"};
  return names[static_cast<std::size_t>(mode)];
}

std::string_view name(DualRule rule) {
  constexpr std::string_view names[] = {"glm4", "deepseek_before_9405", "deepseek", "qwen2_moe", "vllm"};
  return names[static_cast<std::size_t>(rule)];
}

DualMode require_mode(const std::string& given) {
  return require<DualMode>(given, "mode",
                           {DualMode::kAuto, DualMode::kCapture, DualMode::kAlways, DualMode::kNever});
}

const std::vector<DualRule>& dual_rules() {
  static const std::vector<DualRule> all{DualRule::kGlm4, DualRule::kDeepseekBefore, DualRule::kDeepseek,
                                         DualRule::kQwen2Moe, DualRule::kVllm};
  return all;
}

DualRule require_rule(const std::string& given) { return require<DualRule>(given, "rule", dual_rules()); }

DualDecision decide(const DualPolicy& p, const DualState& s) {
  if (!s.alt_stream) return {false, "there is no second stream"};
  if (s.tokens <= 0 && !HARNESS_FAULT(kPolicyEmptyBatchForks)) return {false, "no tokens"};
  if (s.fused_shared_experts && !HARNESS_FAULT(kPolicyFusedOnTwoStreams))
    return {false, "the shared experts are fused into the routed ones"};
  if (s.all_to_all) return {false, "dispatch goes through all-to-all"};
  switch (p.rule) {
    case DualRule::kGlm4:
      return glm4(p, s);
    case DualRule::kDeepseekBefore: {
      const bool few = s.tokens <= kDeepseekTokens;
      return {few, fmt::format("{} tokens, {} {}", s.tokens, few ? "at most" : "above", kDeepseekTokens)};
    }
    case DualRule::kDeepseek:
      return {s.capturing, s.capturing ? "capturing" : "not capturing"};
    case DualRule::kQwen2Moe:
      if (!s.capturing) return {false, "not capturing"};
      return {s.tokens <= kQwenTokens,
              fmt::format("{} tokens, {} {}", s.tokens, s.tokens <= kQwenTokens ? "at most" : "above",
                          kQwenTokens)};
    case DualRule::kVllm:
      return {s.tokens <= kVllmTokens,
              fmt::format("{} tokens, {} {}", s.tokens, s.tokens <= kVllmTokens ? "at most" : "above",
                          kVllmTokens)};
  }
  return {};
}

DualPolicy glm4_policy(const std::function<const char*(const char*)>& get) {
  DualPolicy p;
  if (const char* const mode = get("SGLANG_GLM4_MOE_DUAL_STREAM")) p.mode = require_mode(mode);
  const char* const threshold = get("SGLANG_GLM4_MOE_DUAL_STREAM_THRESHOLD");
  if (threshold == nullptr) return p;
  const char* const end = threshold + std::strlen(threshold);
  const auto [stop, error] = std::from_chars(threshold, end, p.threshold);
  if (error != std::errc() || stop != end || p.threshold < 0)
    throw UsageError(fmt::format(
        "SGLANG_GLM4_MOE_DUAL_STREAM_THRESHOLD is '{}': give a whole number of tokens, at least 0",
        printable(threshold, 60)));
  return p;
}

Platform require_platform(const std::string& name) {
  if (name == "cuda") return {true, false, false};
  if (name == "hip") return {false, true, false};
  if (name == "hip-aiter") return {false, true, true};
  throw UsageError(
      fmt::format("platform '{}' is not known: use cuda, hip or hip-aiter", printable(name, 60)));
}

bool makes_alt_stream(AltStreamGate gate, const Platform& p) {
  return p.cuda || (gate == AltStreamGate::kCudaAndHip && p.hip && !HARNESS_FAULT(kStreamsHipGateDropped));
}

bool scales_outside(ScaleGate gate, const Platform& p) {
  return gate == ScaleGate::kDualMain ? !p.cuda : !p.cuda && (!p.aiter || HARNESS_FAULT(kStreamsScaleTwice));
}

int times_scaled(ScaleGate gate, const Platform& p) {
  const int inside = p.cuda || p.aiter ? 1 : 0;
  return inside + (scales_outside(gate, p) ? 1 : 0);
}

}  // namespace moecheck::harness::streams
