#pragma once
// Metamorphic relations: what must hold between two runs of one implementation, whatever the right answer is.
#include <optional>
#include <string>
#include <string_view>

#include "harness/implementation.h"
#include "harness/operator.h"

namespace moecheck::harness {

// One implementation on one case, ready to be run again on changed inputs.
struct Trial {
  const Operator& op;
  const Implementation& implementation;
  const Case& c;
  const TensorSet& inputs;
  const TensorSet& outputs;  // of the first run on `inputs`
  const RunOptions options;

  // Runs on poisoned outputs. `changed` may differ from c in sizes; `changed_inputs` must fit it.
  TensorSet run(const Case& changed, const TensorSet& changed_inputs) const {
    return run(changed, changed_inputs, options, 0);
  }
  TensorSet run(const Case& changed, const TensorSet& changed_inputs, RunOptions with,
                std::size_t misalign) const;

  // Rows [from, to) of output `name` of `got` must have the bytes of rows starting at `at` of `expected`. Throws Broken.
  static void require_rows_equal(const TensorSet& got, std::int64_t from, std::int64_t to,
                                 const TensorSet& expected, std::int64_t at, std::string_view name);
};

// A relation found broken; the message says where ("token 3: id 7 became 9 when the batch was split at 2").
struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// The relation does not apply to this case or implementation after all; the message says why.
struct NotApplicable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Relation {
  std::string_view name;              // "token_permutation"
  std::string_view sentence;          // "permuting tokens permutes rows and changes nothing else"
  void (*check)(const Trial& trial);  // throws Broken or NotApplicable
};

// Clauses every operator's contract has; the runner checks them itself.
struct Clause {
  std::string_view name, sentence;
};
std::span<const Clause> common_clauses();

}  // namespace moecheck::harness
