#pragma once
// When an MoE block uses its second stream, and what else its two branches disagreed on upstream: rules as pure functions.
//
// sglang#13778 (closed, superseded by #13786): SGLANG_GLM4_MOE_DUAL_STREAM = auto | capture | always | never, default auto;
// SGLANG_GLM4_MOE_DUAL_STREAM_THRESHOLD, default 1024. For n rows, n > 0:
//
//   mode      capturing   not capturing, n <= threshold   not capturing, n > threshold
//   auto      dual        dual                            single
//   capture   dual        single                          single
//   always    dual        dual                            dual
//   never     single      single                          single
//
// Unconfirmed, for the code was never merged: `<=` and not `<` at n = threshold; that an unknown mode is refused; and that its
// preconditions are those of main: a second stream, n > 0, no fused shared experts, no all-to-all dispatch (DeepEP).
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::harness::streams {

enum class DualMode : std::uint8_t { kAuto, kCapture, kAlways, kNever };
std::string_view name(DualMode mode);
DualMode require_mode(const std::string& name);  // throws UsageError

// Whose rule it is.
//   kGlm4              the table above
//   kDeepseekBefore    before sglang#9405: n <= 1024 whether captured or not (its gate runs before the fork)
//   kDeepseek          since sglang#9405, and GLM-4 on main (#13786): while capturing, any n > 0
//   kQwen2Moe          while capturing, n <= 1024; the shared experts read a clone
//   kVllm              n <= 256 (unconfirmed: read in excerpts only)
enum class DualRule : std::uint8_t { kGlm4, kDeepseekBefore, kDeepseek, kQwen2Moe, kVllm };
std::string_view name(DualRule rule);
const std::vector<DualRule>& dual_rules();
DualRule require_rule(const std::string& name);

inline constexpr std::int64_t kDefaultThreshold = 1024;

struct DualPolicy {
  DualRule rule = DualRule::kGlm4;
  DualMode mode = DualMode::kAuto;             // of kGlm4
  std::int64_t threshold = kDefaultThreshold;  // of kGlm4
};

struct DualState {
  bool capturing = false;
  std::int64_t tokens = 1;
  bool alt_stream = true, fused_shared_experts = false, all_to_all = false;
};

struct DualDecision {
  bool dual = false;
  std::string why;  // one sentence
};
DualDecision decide(const DualPolicy& policy, const DualState& state);

// From the environment: `get` is getenv. Throws UsageError for a mode or threshold that is none.
DualPolicy glm4_policy(const std::function<const char*(const char*)>& get);

// ---- Gates of platforms

struct Platform {
  bool cuda = true, hip = false, aiter = false;  // aiter: HIP with SGLANG_USE_AITER
};

Platform require_platform(const std::string& name);  // "cuda", "hip", "hip-aiter"; throws UsageError

// Where the second stream is made. kCuda: GLM-4 on main. kCudaAndHip: the HIP opt-in. A merge that falls back from the second to
// the first drops a platform: nothing fails, the overlap is gone.
enum class AltStreamGate : std::uint8_t { kCuda, kCudaAndHip };
bool makes_alt_stream(AltStreamGate gate, const Platform& platform);

// Whether a branch multiplies the routed output by routed_scaling_factor, outside of the experts. On CUDA and with aiter the factor
// is in the experts or in top-k already. kDualMain: `not _is_cuda`, which scales twice with aiter (live in DeepSeek, latent
// in GLM-4). kDualFixed, kSingle: `not _is_cuda and not _use_aiter`. KTEP, which main's dual branch names too, is left out:
// what its experts scale is unconfirmed.
enum class ScaleGate : std::uint8_t { kSingle, kDualMain, kDualFixed };
bool scales_outside(ScaleGate gate, const Platform& platform);
int times_scaled(ScaleGate gate, const Platform& platform);  // 1 is right

}  // namespace moecheck::harness::streams
