#pragma once
// One row of the weighted reduce and of what follows it: shared by combine, experts, unpermute and moe_block.
// Internal.
//
//   v = sum_i w_i row_i      then step by step: v = round?(v) * factor      then v + shared * shared_factor
#include <array>
#include <cstdint>

#include "optimized/cpu/rounding.h"
#include "reference/routed_scaling.h"

namespace moecheck::MOECHECK_OPTIMIZED {

struct CombineRules {
  struct Step {
    bool round_before = false;
    float factor = 1;
  };

  DType dtype = DType::kF32;  // T: what "round" means
  bool round_term = false, accumulate_in_dtype = false;
  bool first_is_rounded = true;  // narrow accumulators that start at 0; else n terms are n - 1 additions
  std::array<Step, 5> steps{};
  int step_count = 0;
  float shared_factor = 1;
  bool round_shared = false;

  void set_reduce(const reference::ReducePolicy& policy) {
    accumulate_in_dtype = policy.accumulate == reference::Accumulate::kDtype;
    first_is_rounded = policy.order != reference::ReduceOrder::kAny;
  }
  void add_step(bool round_before, float factor) {
    steps[static_cast<std::size_t>(step_count++)] = {round_before, factor};
  }
};

// Which steps follow from the places that are active. Where a policy leaves a rounding open (kAny) there is
// none.
CombineRules combine_rules(const reference::CombineOptions& options, bool has_shared);

// Rows are fp32, aligned, and readable up to the next multiple of kRowMultiple columns; so is `out` writable.
// `shared` need not be aligned.
inline constexpr std::int64_t kRowMultiple = 64;
inline std::int64_t padded_columns(std::int64_t n) {
  return (n + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
}

struct CombineTerms {
  const float* const* rows = nullptr;  // in the order in which they are added
  const float* weights = nullptr;      // absent: 1
  std::int64_t count = 0;
  const float* shared = nullptr;  // absent: none
};
using CombineRow = void (*)(const CombineRules& rules, const CombineTerms& terms, std::int64_t columns,
                            float* out);
CombineRow combine_row();

// The slots of a row in the order of the reduce, those with id < 0 left out. order [n]; returns how many.
std::int64_t reduce_order(const reference::ReducePolicy& policy, const std::int64_t* ids, std::int64_t n,
                          std::int64_t* order);

// n stored numbers <-> fp32 (vector code).
using LoadRow = void (*)(ConstView view, std::int64_t first, std::int64_t n, float* out);
using StoreRow = void (*)(const float* in, std::int64_t n, View view, std::int64_t first);
LoadRow load_row();
StoreRow store_row();

}  // namespace moecheck::MOECHECK_OPTIMIZED
