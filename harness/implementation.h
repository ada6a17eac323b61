#pragma once
// Anything that can run a case: the built-in CPU versions, a planted fault, later GPU kernels and users' shared objects.
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/case.h"
#include "harness/tensor_set.h"

namespace moecheck::harness {

struct RunOptions {
  int threads = 1;
};

class Implementation {
 public:
  virtual ~Implementation() = default;

  virtual std::string_view name() const = 0;     // "cpu", "cpu-scalar", "cpu!drop_last_slot", ...
  virtual std::string_view summary() const = 0;  // one line

  // Why it cannot run this case, or nothing.
  virtual std::optional<std::string> unsupported(const Case& c) const = 0;

  // Reads `inputs`, writes every element of `outputs` that the contract names; both as the operator's specs say. Outputs that are
  // updated in place hold their input's contents already (Operator::reset_outputs).
  virtual void run(const Case& c, const TensorSet& inputs, TensorSet& outputs,
                   const RunOptions& options) const = 0;

  // Why it does not keep a clause of the contract ("atomics: the order of summation varies"), or nothing when it promises it.
  // A clause that is not promised is not asked, and shown as such.
  virtual std::optional<std::string> not_promised(std::string_view /*clause*/) const { return std::nullopt; }
};

// Built-in implementations, in the order of the documentation.
std::span<const Implementation* const> implementations();
// Also planted faults, "NAME!FAULT". nullptr when unknown.
const Implementation* find_implementation(std::string_view name);

}  // namespace moecheck::harness
