#pragma once
// An operator's contract: what a case of it means, its data, its reference and its judge. One file per operator in
// harness/operators/; everything else (runner, shrinking, records, reports, command line) treats all operators alike.
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/case.h"
#include "harness/tensor_set.h"
#include "harness/verdict.h"

namespace moecheck::harness {

struct Relation;

// What a reference computed for one case: each operator has its own type.
struct Expected {
  virtual ~Expected() = default;
};

enum class Suite : std::uint8_t { kQuick, kModels, kAdversarial, kFull };
std::string_view name(Suite suite);

class Operator {
 public:
  virtual ~Operator() = default;

  virtual const Schema& schema() const = 0;
  std::string_view name() const { return schema().name; }
  virtual std::string_view summary() const = 0;  // one line

  // Why nothing can run this case: impossible sizes, or what the policy's upstream refuses. Names the value and the remedy.
  virtual std::optional<std::string> refusal(const Case& c) const = 0;

  // Names, dtypes and shapes, given the case. Precondition here and below: !refusal(c).
  virtual std::vector<TensorSpec> inputs(const Case& c) const = 0;
  virtual std::vector<TensorSpec> outputs(const Case& c) const = 0;

  // Fills the inputs from the case alone: the same bits on every machine and for any number of threads.
  virtual void generate(const Case& c, TensorSet& inputs) const = 0;

  // Why given inputs cannot be used although their shapes fit: a slot past the cache, a block table that is too short. Names
  // tensor, element, value and remedy. The generated ones are never refused.
  virtual std::optional<std::string> bad_input(const Case&, const TensorSet& /*inputs*/) const { return std::nullopt; }

  // Outputs as a run finds them: poisoned, but for those updated in place, which start as the input of their name.
  void reset_outputs(const Case& c, const TensorSet& inputs, TensorSet& outputs, std::uint8_t poison = 0xFF) const;

  virtual std::unique_ptr<Expected> reference(const Case& c, const TensorSet& inputs) const = 0;

  // Compares. The outputs have the right shapes; their contents may be anything.
  virtual void judge(const Case& c, const TensorSet& inputs, const Expected& expected,
                     const TensorSet& outputs, Judgement& j) const = 0;

  // The likely cause of a failure, where the numbers show one ("the weights are 0.4 times the expected: ..."); else empty.
  virtual std::string likely_cause(const Case&, const TensorSet&, const Expected&, const TensorSet&) const {
    return {};
  }

  // The reference's own result, rounded to the outputs' dtypes. It must pass its own judge: a failure there is ORACLE.
  virtual void reference_outputs(const Case& c, const TensorSet& inputs, const Expected& expected,
                                 TensorSet& outputs) const = 0;

  // Sets what the contract leaves unspecified (weights of padded rows, buffer tails) to zero, before two runs are compared.
  virtual void blank_unspecified(const Case&, const TensorSet&, TensorSet&) const {}

  // Metamorphic relations every implementation must keep (relation.h).
  virtual std::span<const Relation> relations() const = 0;

  virtual std::vector<Case> cases(Suite suite) const = 0;

  // Bytes a run must move, read and written, where the inputs' own size says it wrong: what benchmarks divide by.
  virtual std::optional<double> bytes_moved(const Case&, const TensorSet& /*inputs*/) const { return std::nullopt; }
};

// All operators, in the order of the documentation.
std::span<const Operator* const> operators();
const Operator* find_operator(std::string_view name);
// Parses a case line of any operator; throws UsageError.
Case parse_case(std::string_view line);
const Operator& operator_of(const Case& c);

}  // namespace moecheck::harness
