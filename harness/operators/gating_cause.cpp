// The likely cause of a gating failure: bugs that someone wrote before, as the options they would be right for.
#include <array>

#include "harness/operators/gating.h"

namespace moecheck::harness {

using namespace reference;  // NOLINT: this file speaks of gating only

namespace {

struct Hypothesis {
  const char* cause;
  void (*change)(GatingOptions& o);
};

constexpr std::array kHypotheses = {
    Hypothesis{"routed_scaling_factor is not applied to the weights",
               [](GatingOptions& o) { o.policy.scale_weights = ScaleWeights::kNever; }},
    Hypothesis{"routed_scaling_factor is applied to the weights where the policy does not (twice, if the "
               "output is scaled too)",
               [](GatingOptions& o) { o.policy.scale_weights = ScaleWeights::kAlways; }},
    Hypothesis{"routed_scaling_factor is multiplied in twice",
               [](GatingOptions& o) { o.routed_scaling_factor *= o.routed_scaling_factor; }},
    Hypothesis{"the weights are divided by routed_scaling_factor instead of multiplied",
               [](GatingOptions& o) { o.routed_scaling_factor = 1 / o.routed_scaling_factor; }},
    Hypothesis{"the weights are not renormalized",
               [](GatingOptions& o) { o.renormalize = false, o.policy.renorm = Renorm::kFlag; }},
    Hypothesis{"the weights are renormalized although renormalize=0",
               [](GatingOptions& o) { o.policy.renorm = Renorm::kAlways; }},
    Hypothesis{"the shared slot weighs 1 (vllm#44313, if the output is scaled as well)",
               [](GatingOptions& o) { o.policy.shared_weights = SharedWeight::kUnit; }},
    Hypothesis{"the groups are ignored", [](GatingOptions& o) { o.groups = o.topk_group = 1; }},
    Hypothesis{"one group too few is kept", [](GatingOptions& o) { o.topk_group -= 1; }},
    Hypothesis{"the group score is the maximum instead of the sum of the two largest",
               [](GatingOptions& o) { o.policy.group_score = GroupScore::kMax; }},
    Hypothesis{"the second largest of a group leaves out values equal to the largest",
               [](GatingOptions& o) { o.policy.group_score = GroupScore::kTop2Distinct; }},
    Hypothesis{"masked experts compete with 0 instead of -inf (sglang#3705)",
               [](GatingOptions& o) { o.policy.masked = Masked::kZero; }},
    Hypothesis{"equal experts: the higher id is taken first",
               [](GatingOptions& o) { o.policy.expert_tie = Tie::kHigh; }},
    Hypothesis{"equal groups: the higher index is taken first",
               [](GatingOptions& o) { o.policy.group_tie = Tie::kHigh; }},
    Hypothesis{"e_score_correction_bias is rounded to the logits' dtype (sglang#37133)",
               [](GatingOptions& o) { o.policy.bias_cast = BiasCast::kLogitsDtype; }},
    Hypothesis{"scores are rounded to the logits' dtype before selection",
               [](GatingOptions& o) { o.policy.precision = Precision::kSelect; }},
    Hypothesis{"the score function is softmax", [](GatingOptions& o) { o.scoring = Scoring::kSoftmax; }},
    Hypothesis{"the score function is sigmoid", [](GatingOptions& o) { o.scoring = Scoring::kSigmoid; }},
    Hypothesis{"the bias is added to the logits, so the weights feel it",
               [](GatingOptions& o) { o.policy.bias_on = BiasOn::kLogits; }},
};

bool explains(const GatingOptions& o, const TensorSet& inputs, const TensorSet& outputs) {
  if (reference::refusal(o)) return false;
  Judgement j;
  judge_gating(inputs, *gating_expected(o, inputs), outputs, j);
  return j.failed == 0 && j.undecided == 0;
}

}  // namespace

std::string gating_cause(const Case& c, const TensorSet& inputs, const TensorSet& outputs) {
  const GatingOptions right = gating_options(c);
  for (const Hypothesis& h : kHypotheses) {
    GatingOptions o = right;
    h.change(o);
    if (explains(o, inputs, outputs)) return h.cause;
  }
  if (right.has_bias) {
    // Without the bias: the inputs must lack it too.
    GatingOptions o = right;
    o.has_bias = false;
    o.policy.group_score =
        right.policy.group_score == GroupScore::kAuto ? GroupScore::kTop2Sum : right.policy.group_score;
    if (explains(o, inputs, outputs)) return "e_score_correction_bias is ignored";
  }
  return {};
}

}  // namespace moecheck::harness
