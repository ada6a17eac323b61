#pragma once
// How a gating preset says no: a chain of demands with one vocabulary of reasons. Internal to
// gating_policies.cpp.
#include <algorithm>
#include <array>
#include <bit>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "reference/gating.h"

namespace moecheck::reference {

using Refusal = std::optional<std::string>;

inline std::string number(std::int64_t v) { return std::to_string(v); }
inline std::string number(double v) {
  std::string s = std::to_string(v);
  while (s.back() == '0') s.pop_back();
  if (s.back() == '.') s.pop_back();
  return s;
}

// What a policy asks of a request, as a chain: the first demand that is not met is the answer. `use`: what
// serves it instead.
class Ask {
 public:
  Ask(std::string_view policy, const GatingOptions& options) : policy_(policy), o_(options) {}
  operator Refusal() const { return answer_; }

  Ask& sigmoid(std::string_view use) { return scoring({Scoring::kSigmoid}, use); }
  Ask& softmax(std::string_view use) { return scoring({Scoring::kSoftmax}, use); }
  Ask& scoring(std::initializer_list<Scoring> known, std::string_view use) {
    constexpr std::array names = {"sigmoid", "softmax", "sqrtsoftplus"};
    const bool ok = std::find(known.begin(), known.end(), o_.scoring) != known.end();
    return need(ok, std::string("scoring=") + names[static_cast<std::size_t>(o_.scoring)],
                "does not compute it", use);
  }
  Ask& bias() { return need(o_.has_bias, "no bias", "adds one always", "a bias of zeros"); }
  Ask& no_bias(std::string_view use) { return need(!o_.has_bias, "a bias", "takes none", use); }
  Ask& f32_bias() {
    return need(!o_.has_bias || o_.bias_dtype == DType::kF32,
                "bias_dtype=" + std::string(name(o_.bias_dtype)), "reads the bias as f32", "bias_dtype=f32");
  }
  Ask& f32_logits() {
    return need(o_.logits_dtype == DType::kF32, "logits_dtype=" + std::string(name(o_.logits_dtype)),
                "reads the logits as f32", "dtype=f32: cast them first, as the callers do");
  }
  Ask& bias_like_logits() {
    return need(!o_.has_bias || o_.bias_dtype == o_.logits_dtype,
                "bias_dtype=" + std::string(name(o_.bias_dtype)) +
                    " beside logits_dtype=" + std::string(name(o_.logits_dtype)),
                "reads both as one dtype", "the same dtype for both");
  }
  Ask& power_of_two(std::string_view use) {
    return need(std::has_single_bit(static_cast<std::uint64_t>(o_.experts)),
                "experts=" + number(o_.experts) + " is not a power of two", "needs one", use);
  }
  Ask& experts_at_most(std::int64_t n, std::string_view use) {
    return at_most("experts", o_.experts, n, use);
  }
  Ask& topk_at_most(std::int64_t n, std::string_view use) { return at_most("topk", o_.topk, n, use); }
  Ask& groups_at_most(std::int64_t n, std::string_view use) { return at_most("groups", o_.groups, n, use); }
  Ask& per_group_at_most(std::int64_t n, std::string_view use) {
    return at_most("experts per group", o_.experts / o_.groups, n, use);
  }
  Ask& shared_at_most(std::int64_t n, std::string_view why, std::string_view use) {
    return need(o_.shared <= n, "shared=" + number(o_.shared), why, use);
  }
  Ask& one_group(std::string_view use) {
    return need(o_.groups == 1, "groups=" + number(o_.groups), "selects among all experts", use);
  }
  // routed_scaling_factor where the policy leaves it out of the weights without a word.
  Ask& keeps_factor(bool kept, std::string_view why, std::string_view use) {
    return need(o_.routed_scaling_factor == 1 || kept,
                "routed_scaling_factor=" + number(o_.routed_scaling_factor), why, use);
  }
  Ask& renormalized(std::string_view why, std::string_view use) {
    return need(o_.renormalize, "renormalize=false", why, use);
  }
  // S / rsf is the shared slot's weight only where S = 1 after the division: with sum s != 1 the output's
  // shared part is off by that sum.
  Ask& shared_renormalized() {
    return need(o_.shared == 0 || o_.renormalize, "renormalize=false with shared=" + number(o_.shared),
                "weighs shared slots by sum / routed_scaling_factor, right only after renormalization",
                "a policy with unit shared weights");
  }
  Ask& need(bool ok, std::string what, std::string_view why, std::string_view use) {
    if (ok || answer_) return *this;
    answer_ = what.append(": policy ").append(policy_).append(" ").append(why).append("; use ").append(use);
    return *this;
  }

 private:
  Ask& at_most(std::string_view what, std::int64_t value, std::int64_t limit, std::string_view use) {
    return need(value <= limit, std::string(what) + "=" + number(value), "takes at most " + number(limit),
                use);
  }

  std::string_view policy_;
  const GatingOptions& o_;
  Refusal answer_;
};

}  // namespace moecheck::reference
