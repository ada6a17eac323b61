#pragma once
// Random cases of an operator, from its schema: a case of its suites and a few changes to it.
//
// A change sets up to three fields, the policy or an edit. Sizes are drawn where kernels break: 0 and 1, the ends of the range,
// multiples of tiles and one beside them, primes, what another field holds. A change that the operator refuses, or that makes the
// case too large, is drawn again a few times and then left out: every case that comes out can run.
#include <vector>

#include "harness/case.h"
#include "harness/fuzz/choices.h"
#include "harness/operator.h"

namespace moecheck::harness {

// What a case may cost. A check runs an implementation about twenty times, and the host executor is slow.
struct CaseBudget {
  double bytes = 1 << 18;  // of inputs and outputs
  double work = 1 << 20;   // see work_of
};

// Bytes of inputs and outputs. Precondition: the operator does not refuse the case.
double bytes_of(const Case& c);
// Multiplications of the reference, roughly.
double work_of(const Case& c);

class CaseSource {
 public:
  // Throws UsageError where not even one case of the operator's suites fits the budget.
  explicit CaseSource(const Operator& op, CaseBudget budget = {});

  const Operator& op() const { return *op_; }
  Case draw(Choices& choices) const;
  // `parent` with a few changes and another seed.
  Case changed(const Case& parent, Choices& choices) const;
  // Not refused, and within the budget.
  bool fits(const Case& c) const;

 private:
  Case one_change(const Case& c, Choices& choices) const;

  const Operator* op_;
  CaseBudget budget_;
  std::vector<Case> starts_;
  std::vector<bool> set_by_policies_;  // of each field
  std::vector<int>
      fields_;  // indices to draw from; those that only policies set stand in it once, the others several times
};

}  // namespace moecheck::harness
