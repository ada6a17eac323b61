#pragma once
// Gating: from router logits to the experts of each token and their weights.
//
//   logits l[M,E], bias b[E] (optional)                            one row, all in double:
//   s_e  = sigmoid(l_e) | softmax(l)_e | sqrt(softplus(l_e))       score
//   c_e  = s_e + b_e                                               choice score: used only to select
//   g_j  = top1 + top2 of c in group j (max of c without a bias)   group score
//   A    = the topk_group groups with the largest g                only when groups > 1
//   ids  = the topk experts of A with the largest c
//   w_k  = s[ids_k]                                                the UNBIASED score
//   w_k /= sum_k w_k                                               when renormalized, with an epsilon
//   w_k *= routed_scaling_factor                                   where the policy scales in the weights
//   slots topk .. topk+shared-1: the fused shared experts          id and weight by policy
//
// Shapes: router_logits [M, E] (E + shared columns when shared weights are gated), bias [E],
// topk_weights [M, topk + shared] f32, topk_ids [M, topk + shared] i32 or i64.
// Upstream projects differ in the policy fields below and agree on the rest; every preset names its source
// (gating_policies.h).
//
// Ties. Two experts whose logit and bias are equal have equal choice scores in any honest implementation, and
// so have two whose scores round to equal numbers with certainty: the policy's tie rule decides. Two experts
// whose scores differ by no more than their error bounds may come in either order: Order::kUndecided.
// Rows. A row with a NaN logit follows the policy's non-finite rule. A -Inf logit is a number: it scores
// exactly 0. So is +Inf for sigmoid (1); softmax and sqrt(softplus) have no answer for it. A -Inf bias is a
// dead expert, below every live one. Where the rule has no answer GatingRow::undefined is set and nothing but
// ids in [0, E) is asked of the row: NaN under kUndefined, +Inf under softmax and sqrt(softplus), a softmax
// of -Inf alone, a NaN or +Inf bias, fewer live experts than slots. A padded row follows the policy's padding
// rule.
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "reference/bounded.h"
#include "reference/tensor.h"

namespace moecheck::reference {

enum class Scoring : std::uint8_t { kSigmoid, kSoftmax, kSqrtSoftplus };

// How the score function is evaluated; it changes the error bound, not the value. Softmax is always exp(x -
// max) over the sum.
//   kExp    1/(1+expf(-x)), expf within 4 ulp, or exp2f(x*log2e) and a fast reciprocal; softplus by log1p
//   kTanh   sigmoid as 0.5*tanh(0.5*x)+0.5: absolute error 2^-23, may be 0 for x below about -17 (flashinfer,
//           vLLM)
//   kLog2   softplus as log(1+exp(x)) or log2(1+exp2(x*log2e))*ln2 with a hardware logarithm: absolute error
//           2^-21 before the root (__logf has 2^-21.4 near 1), 0 below about -16.6 (aiter, vLLM, Triton)
enum class ScoreMath : std::uint8_t { kExp, kTanh, kLog2 };

// What is rounded to the logits' dtype T on the way (nothing, when T is f32).
//   kF32      nothing: fp32 throughout
//   kScore    the score (torch: sigmoid of a bf16 tensor is bf16, adding an fp32 bias promotes)
//   kSelect   the score, the biased score and the group sums, each to the wider of T and the bias' dtype
//   kAll      the same, and each step of the weights too: sum, quotient, product (torch without a cast to
//             float)
// A score rounds once, from fp32. Softmax in torch rounds there too; sqrt(softplus) in torch would round
// twice.
enum class Precision : std::uint8_t { kF32, kScore, kSelect, kAll };

// kLogitsDtype: b is rounded to T before it is added (aiter reinterprets or casts it). kKeep: used in its own
// dtype.
enum class BiasCast : std::uint8_t { kKeep, kLogitsDtype };
// Where the bias enters: the choice score, or the logits before the scores (then weights feel it: sglang
// topk_softmax).
enum class BiasOn : std::uint8_t { kChoice, kLogits };

// Where the unbiased weight comes from: the score, or the choice score less the bias, (s + b) - b, which has
// lost u |c| to cancellation (aiter opt_sort, vLLM topk_softplus_sqrt: with b near 7 a score of 0.01 is off
// by 2e-5 of itself).
enum class WeightFrom : std::uint8_t { kScore, kChoiceLessBias };

// kAuto: top-2 sum with a bias, max without. kTop2Distinct: the second largest among values different from
// the largest, -Inf where there is none (sglang's Triton router).
enum class GroupScore : std::uint8_t { kAuto, kTop2Sum, kMax, kTop2Distinct };

// Which of two equal candidates comes first.
//   kLow kHigh   the lower (higher) index
//   kAny         the implementation promises nothing: any order is right
//   kBitReversed lanes of 32 in the order 0 16 8 24 4 ..., then warps in the same order (sglang kimi gate, M
//                <= 512)
//   kLane64      the lower index modulo 64 (aiter topk_gating)
enum class Tie : std::uint8_t { kLow, kHigh, kAny, kBitReversed, kLane64 };

// What experts outside the selected groups compete with. kZero (DeepSeek-V2 in transformers and sglang;
// DeepSeek-V3 in transformers 4 and in checkpoints' remote code) lets them win when fewer than topk
// candidates are positive; their weight is the unbiased score with a bias, 0 without.
enum class Masked : std::uint8_t { kNegInf, kZero };

// The divisor of renormalization, S = sum of the routed weights: S, S + 1e-20, max(S, 1e-20), S > 0 ? S : 1.
// Under kNone a row whose S may be 0 has no answer: its weights are unbounded (see weights()).
enum class Epsilon : std::uint8_t { kNone, kAdd, kMax, kGuard };

enum class Renorm : std::uint8_t { kFlag, kAlways };  // kAlways: the implementation ignores renormalize=false

// When routed_scaling_factor multiplies the weights; "flag" is sglang's
// apply_routed_scaling_factor_on_output.
enum class ScaleWeights : std::uint8_t { kNever, kAlways, kIfRenorm, kIfFlag, kIfFlagAndRenorm };

// Weight of a fused shared slot, S being the sum of the row's routed scores.
//   kNone            the implementation has no shared slots
//   kPreRenorm       S / rsf, then renormalized (and scaled) with the row: 1/rsf, or 1 with the flag
//   kUnit            1
//   kConstant        GatingOptions::shared_weight
//   kUnitIfRenorm    1 when renormalized, else S / rsf (sglang topk_sigmoid)
//   kGated           sigmoid of the slot's own logit, column E + i of the row (Qwen3-Next)
enum class SharedWeight : std::uint8_t { kNone, kPreRenorm, kUnit, kConstant, kUnitIfRenorm, kGated };
// kEach: slot i is expert E + i. kSame: every slot is expert E (flashinfer path of sglang).
enum class SharedIds : std::uint8_t { kEach, kSame };

// The order of the routed slots. kScore: descending choice score. kId: ascending id. kAny: not promised.
enum class SlotOrder : std::uint8_t { kScore, kId, kAny };

//   kUndefined   a NaN logit: nothing is promised for the row but ids in [0, E)
//   kFiniteOnly  the same for infinite logits too (vLLM's fused grouped top-k drops them from one of its two
//                passes)
//   kScoreZero   NaN scores 0 (aiter moe_fused_gate, vLLM topk_softplus_sqrt)
//   kLowest      NaN is never selected before another candidate; a row with too few of those is undefined
//   kLogitZero   NaN and infinite logits are read as 0 (vLLM topk_softmax)
enum class NonFinite : std::uint8_t { kUndefined, kFiniteOnly, kScoreZero, kLowest, kLogitZero };

//   kCompute     padded rows are rows like others
//   kMinusOne    ids -1, weights unspecified (sglang on CUDA)
//   kZeroExpert  ids 0, weights 0 (sglang on HIP)
enum class Padding : std::uint8_t { kCompute, kMinusOne, kZeroExpert };

struct GatingPolicy {
  ScoreMath score_math = ScoreMath::kExp;
  Precision precision = Precision::kF32;
  BiasCast bias_cast = BiasCast::kKeep;
  BiasOn bias_on = BiasOn::kChoice;
  WeightFrom weight_from = WeightFrom::kScore;
  GroupScore group_score = GroupScore::kAuto;
  Tie group_tie = Tie::kLow;
  Tie expert_tie = Tie::kLow;
  Masked masked = Masked::kNegInf;
  Epsilon epsilon = Epsilon::kNone;
  Renorm renorm = Renorm::kFlag;
  ScaleWeights scale_weights = ScaleWeights::kNever;
  SharedWeight shared_weights = SharedWeight::kNone;
  SharedIds shared_ids = SharedIds::kEach;
  SlotOrder order = SlotOrder::kScore;
  NonFinite non_finite = NonFinite::kUndefined;
  Padding padding = Padding::kCompute;
};

struct GatingOptions {
  std::int64_t experts = 256;  // E
  std::int64_t groups = 1;     // n_group
  std::int64_t topk_group = 1;
  std::int64_t topk = 8;    // routed experts per token
  std::int64_t shared = 0;  // fused shared slots
  Scoring scoring = Scoring::kSigmoid;
  bool renormalize = true;  // norm_topk_prob
  double routed_scaling_factor = 1.0;
  bool scale_flag = false;     // apply_routed_scaling_factor_on_output
  double shared_weight = 1.0;  // SharedWeight::kConstant
  DType logits_dtype = DType::kF32;
  bool has_bias = true;
  DType bias_dtype = DType::kF32;
  std::int64_t padded_tokens = 0;  // rows at the end that are padding
  GatingPolicy policy;

  std::int64_t slots() const { return topk + shared; }
  std::int64_t logit_columns() const {
    return experts + (policy.shared_weights == SharedWeight::kGated ? shared : 0);
  }
};

// Why no implementation could be asked this ("topk=9 exceeds the 8 experts of topk_group=1 groups: ..."), or
// nothing.
std::optional<std::string> refusal(const GatingOptions& options);

// What the reference knows of one token.
struct GatingRow {
  std::vector<Bounded> score;        // s, [E]
  std::vector<Bounded> choice;       // c, [E], after masking by the non-finite rule
  std::vector<Bounded> group;        // g, [groups]; empty when groups == 1
  std::vector<std::uint32_t> alike;  // alike[e]: lowest expert with the same logit and bias
  std::vector<Bounded> gate;         // sigmoid of the shared logits, [shared]; only for SharedWeight::kGated
  bool undefined = false;            // nothing is promised of this row but ids in range

  struct Work {  // working memory of Gating::scores, here to be reused
    std::vector<double> logit, bias;
    std::vector<std::uint32_t> table;
  } work;
};

enum class Order : std::uint8_t { kBefore, kAfter, kUndecided };

class Gating {
 public:
  // Precondition: !refusal(options).
  explicit Gating(const GatingOptions& options);

  const GatingOptions& options() const { return options_; }

  // Row `token` of router_logits [M, logit_columns()]; bias [E] or empty. `row` is reused to spare
  // allocations.
  void scores(ConstView router_logits, ConstView bias, std::int64_t token, GatingRow& row) const;

  // Which of two different experts (groups) an honest implementation ranks first. An expert outside the
  // selected groups is masked: it competes with masked_choice() instead of its choice score. Which groups are
  // selected is the caller's to say.
  Order expert_order(const GatingRow& row, std::int64_t a, std::int64_t b, bool a_masked = false,
                     bool b_masked = false) const;
  Order group_order(const GatingRow& row, std::int64_t a, std::int64_t b) const;
  Bounded masked_choice() const;  // exactly 0 or -Inf

  // The reference's own selection: undecided pairs by value, then by the tie rule (kAny: the lower index).
  // ids [topk] in output order (SlotOrder::kAny: as kScore).
  // masked[k], where asked for: ids[k] won from outside the selected groups (Masked::kZero).
  void select(const GatingRow& row, std::vector<std::int64_t>& ids,
              std::vector<bool>* masked = nullptr) const;

  // Weights of all slots for routed experts `ids` [topk] (whoever chose them): weights [topk + shared].
  // masked[k], where given, says that ids[k] won as a masked candidate (Masked::kZero): without a bias its
  // weight is 0. Where nothing is promised (row.undefined, or a divisor that may be 0 under Epsilon::kNone)
  // the bound is Inf: the weight is_unbounded(), and NaN is right too.
  void weights(const GatingRow& row, const std::vector<std::int64_t>& ids, std::vector<Bounded>& weights,
               const std::vector<bool>* masked = nullptr) const;

  // Id of shared slot i.
  std::int64_t shared_id(std::int64_t i) const {
    return options_.experts + (options_.policy.shared_ids == SharedIds::kEach ? i : 0);
  }
  std::int64_t experts_per_group() const { return options_.experts / options_.groups; }
  bool is_padded(std::int64_t token, std::int64_t tokens) const {
    return token >= tokens - options_.padded_tokens;
  }
  bool renormalizes() const { return options_.renormalize || options_.policy.renorm == Renorm::kAlways; }
  bool scales_weights() const;     // routed_scaling_factor multiplies the routed weights
  GroupScore group_score() const;  // kAuto resolved

 private:
  void load_row(ConstView router_logits, ConstView bias, std::int64_t token, GatingRow& row) const;
  void apply_non_finite_rule(GatingRow& row) const;
  void score_row(GatingRow& row) const;
  void choose_row(GatingRow& row) const;
  void group_row(GatingRow& row) const;
  bool same_group_score(const GatingRow& row, std::int64_t a, std::int64_t b) const;
  Bounded shared_weight(const GatingRow& row, std::int64_t slot, const Bounded& routed_sum) const;

  GatingOptions options_;
  DType choice_dtype_;  // where c and g round to: f32, or the wider of T and the bias' dtype
};

// True for a weight of which nothing is promised.
inline bool is_unbounded(const Bounded& b) { return b.proven == std::numeric_limits<double>::infinity(); }

// Expert-location remap (EPLB, sglang): ids through logical_to_physical [E]; -1 and shared ids (>= E) stay.
// Applied before the padding rule.
void remap_experts(const std::vector<std::int64_t>& logical_to_physical, std::int64_t* ids, std::int64_t n);

}  // namespace moecheck::reference
