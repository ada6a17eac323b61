#pragma once
// The comparators. Nobody types a tolerance: bounds come from the reference, element by element.
//
//   accepted(got)  iff  round(v - B) <= got <= round(v + B)        round: to the output's dtype; v, B: Bounded
//
// An honest implementation computes some x in [v - B, v + B] and rounds it; rounding is monotone, so exactly these results
// are right. Near a midpoint that makes both neighbours right, elsewhere only one. With B the proven bound a result outside
// FAILs; with B = 6 sigma it is SUSPECT. B = 0 (the exact tier) asks for the bits of the rounded value.
#include <span>
#include <string>

#include "harness/tensor_set.h"
#include "harness/verdict.h"
#include "reference/bounded.h"

namespace moecheck::harness {

using reference::Bounded;

struct ElementRules {
  // Rows (first dimension) that are not compared: empty means none. Undecided rows are compared elsewhere or not at all.
  std::span<const std::uint8_t> skip_rows;
  bool may_be_zero = false;    // the case is about zeros: an all-zero reference is no reason to mistrust it
  bool must_be_exact = false;  // the exact tier: a bound other than 0 is itself a reason to mistrust
};

// Compares a float output with the reference's numbers, one per element in row-major order. A comparison that could not have
// failed (reference all zero, bounds as large as the data) is MISTRUSTED.
void judge_elements(Judgement& j, const Tensor& got, std::span<const Bounded> expected,
                    const ElementRules& rules = {});

// Compares an output byte for byte.
void judge_bytes(Judgement& j, const Tensor& got, const Tensor& expected);

// Compares integers; `what` names one in messages ("expert id").
void judge_integers(Judgement& j, const Tensor& got, std::span<const std::int64_t> expected,
                    std::string_view what);

// Records a wrong element that is no number against a bound (a wrong id, a duplicate): counts it as failed, keeps the first as
// the worst.
void fail_element(Judgement& j, const Tensor& got, std::int64_t i, double expected, double value,
                  std::string note);

// Compares element `i` of an output with one number: elementwise judges are loops around this.
void judge_number(Judgement& j, const Tensor& got, std::int64_t i, const Bounded& expected);

// Row-major coordinates of an element.
std::vector<std::int64_t> coordinates(const Shape& shape, std::int64_t element);

}  // namespace moecheck::harness
