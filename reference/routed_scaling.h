#pragma once
// Routed scaling and the weighted reduce: from the experts' slots to the output of the block.
//
//   out = rsf * R + S      R = sum_k w_k f_k(x), sum_k w_k = 1;  S = shared;  rsf = routed_scaling_factor
//
// The factor can be multiplied in at eight places. Exactly one of the first six must be active on a path; two
// give rsf^2, none gives 1, and a fused shared slot must undo what an output scale does to it.
//
//   #   name                     what is multiplied                                  who
//   P1  topk_weights             weights of the routed slots                         aiter, flashinfer, vLLM
//   P2  topk_weights_and_shared  all weights, after the shared slot was set to 1/rsf sglang, fused in top-k
//   P3  reduce                   the sum, in the reduce kernel                       sglang moe_sum_reduce
//   P4  output                   the experts' output, in model code                  sglang without CUDA, aiter
//   P5  shared_add_alpha         shared.add_(routed, alpha=rsf)                      sglang DeepEP, overlap, CPU
//   P6  runner                   fused *= rsf, or, in fp16, shared *= 1/rsf          vLLM
//   P7  pre_divided_shared       the fused shared slot weighs 1/rsf; P3..P6 undo it  sglang
//   P8  residual_stream          all but the block is kept divided by rsf            vLLM DeepSeek fp16
//
// Source: sections 2.1 to 2.6 and 4.6 of the operator notes (sglang topk.py, deepseek_v2.py, fused_moe.py;
// vLLM moe_runner.py).
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "reference/bounded.h"
#include "reference/tensor.h"

namespace moecheck::reference {

enum class ScalePlace : std::uint8_t {
  kTopkWeights,           // P1
  kTopkWeightsAndShared,  // P2
  kReduce,                // P3
  kOutput,                // P4
  kSharedAddAlpha,        // P5
  kRunner,                // P6
  kPreDividedShared,      // P7
  kResidualStream,        // P8
};
inline constexpr int kScalePlaces = 8;

// The names of the table above, as case lines write them.
std::string_view name(ScalePlace place);
bool parse_scale_place(std::string_view name, ScalePlace& place);

// out = alpha * R + beta * S.
struct ScaleCoefficients {
  double alpha = 1, beta = 1;
};

// Where one path through an implementation multiplies.
struct ScalePlan {
  std::uint8_t places = 0;    // bit i: ScalePlace i is active
  bool fused_shared = false;  // the shared experts are slots of the top-k, not a module of their own
  bool half_runner = false;   // P6 in its fp16 form: the shared output is divided, the routed output stays
  bool renormalized = true;   // the routed weights sum to 1
  double shared_copies = 1;   // how often S is counted over all expert-parallel ranks

  static ScalePlan of(ScalePlace place, bool fused_shared = false) {
    ScalePlan plan;
    plan.fused_shared = fused_shared;
    return plan.with(place);
  }
  bool has(ScalePlace place) const { return (places >> static_cast<int>(place) & 1) != 0; }
  ScalePlan with(ScalePlace place) const {
    ScalePlan plan = *this;
    plan.places = static_cast<std::uint8_t>(places | 1U << static_cast<int>(place));
    return plan;
  }

  // What the plan computes. score_sum, the sum of the raw routed scores, matters only when not renormalized.
  ScaleCoefficients coefficients(double rsf, double score_sum = 1) const;
  // What it should: (rsf * score_sum, 1); both divided by rsf where the residual stream is.
  ScaleCoefficients target(double rsf, double score_sum = 1) const;
  // Nothing when the plan is right for every rsf; else what is wrong with it and what to change, in words.
  std::optional<std::string> check() const;
  // "reduce+pre_divided_shared", "none".
  std::string describe() const;
};

// Width of the accumulator that adds the slots: fp32, or the slots' own dtype (rounded after every addition:
// vLLM moe_sum for topk 2..4, NaiveBatched, bf16 atomics).
enum class Accumulate : std::uint8_t { kF32, kDtype };
// kSlot: k ascending. kExpert: expert id ascending. kAny: not promised (atomics, torch.sum).
// With an fp32 accumulator the order changes the bound of no element: the analysis holds for every order.
enum class ReduceOrder : std::uint8_t { kSlot, kExpert, kAny };

std::string_view name(Accumulate accumulate);  // "f32", "dtype"
std::string_view name(ReduceOrder order);      // "slot", "expert", "any"

struct ReducePolicy {
  Accumulate accumulate = Accumulate::kF32;
  ReduceOrder order = ReduceOrder::kAny;
};

// One element of the reduce: sum of terms [n], term i coming from expert ids[i]; terms with id -1 are
// skipped, whatever they hold.
Bounded reduce_slots(const Bounded* terms, const std::int64_t* ids, std::int64_t n, DType dtype,
                     const ReducePolicy& policy);

struct CombineOptions {
  DType dtype = DType::kBF16;  // T: slots and shared output
  ReducePolicy reduce;
  ScalePlan plan = ScalePlan::of(ScalePlace::kReduce);
  // P1, P2 and P7 act in topk_weights, before this operator: only P3 to P6 act here.
  double routed_scaling_factor = 1;
  bool weights_applied = false;  // routed_output holds w * y already
  // To T, in this order; the last rounding, to the output's dtype, is the judge's.
  //   weighted  w * y, per slot (vLLM TopKWeightAndReduceContiguous: kRound)
  //   sum       before P3 multiplies it (sglang's torch.compile path: kRound)
  //   reduced   what the reduce kernel stores, where P4, P5, P6 or the shared add follow
  //   scaled    what P4 or P6 stores, where the shared add follows
  Rounding round_weighted = Rounding::kNone;
  Rounding round_sum = Rounding::kNone;
  Rounding round_reduced = Rounding::kRound;
  Rounding round_scaled = Rounding::kRound;
};

// The part of combine() after the reduce, for one element: `shared` absent when there is no shared output.
Bounded scale_and_add(Bounded reduced, const std::optional<Bounded>& shared, const CombineOptions& options);

// routed_output [M, K, H] T (K slots of the row's experts), topk_weights [M, K] f32 (absent when
// weights_applied), topk_ids [M, K] i32 or i64: a slot with id -1 contributes exactly nothing, also when its
// row is NaN; shared_output [M, H] T or absent. Returns [M * H], before the last rounding.
struct CombineInputs {
  ConstView routed_output, topk_weights, topk_ids, shared_output;
};
std::vector<Bounded> combine(const CombineInputs& inputs, const CombineOptions& options);

}  // namespace moecheck::reference
