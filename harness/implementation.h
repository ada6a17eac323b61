#pragma once
// Anything that can run a case: the built-in CPU versions, GPU kernels, a planted fault, users' shared objects.
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "harness/case.h"
#include "harness/kernel_use.h"
#include "harness/tensor_set.h"

namespace moecheck::harness {

struct RunOptions {
  int threads = 1;
};

// A run that failed and says so: the message stands as it is in the verdict. Other exceptions are shown as thrown.
struct RunFailed : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// The process that an implementation was run in died ("signal 11 (Segmentation fault)") or ran past its time.
struct LostRun : std::runtime_error {
  LostRun(const std::string& how, bool late) : std::runtime_error(how), timeout(late) {}
  bool timeout;
};

class Implementation {
 public:
  virtual ~Implementation() = default;

  virtual std::string_view name() const = 0;     // "cpu", "cpu-scalar", "cpu!drop_last_slot", ...
  virtual std::string_view summary() const = 0;  // one line
  // What --impl takes to get it again: the path of a shared object, whose name is the file's.
  virtual std::string_view argument() const { return name(); }
  // Every call from the process that made it starts a child process: what times it or runs it often does so in a worker.
  virtual bool runs_in_workers_only() const { return false; }

  // Why it cannot run this case, or nothing.
  virtual std::optional<std::string> unsupported(const Case& c) const = 0;

  // Reads `inputs`, writes every element of `outputs` that the contract names; both as the operator's specs say. Outputs that are
  // updated in place hold their input's contents already (Operator::reset_outputs).
  virtual void run(const Case& c, const TensorSet& inputs, TensorSet& outputs,
                   const RunOptions& options) const = 0;

  // Runs again and again for about `seconds`, at least five times, and gives the seconds of each run, without what happens only
  // once (copies to a device). The outputs are those of a run.
  virtual std::vector<double> time_runs(const Case& c, const TensorSet& inputs, TensorSet& outputs,
                                        const RunOptions& options, double seconds) const;
  // Bytes per second, read and written ones together, that a copy moves in the memory it runs in; 0: the host's memory.
  virtual double copy_bandwidth() const { return 0; }

  // Its kernels of the operator, and what they did in this process so far. Empty where there is no choice among kernels.
  virtual KernelUse kernel_use(std::string_view /*op*/) const { return {}; }

  // Why it does not keep a clause of the contract ("atomics: the order of summation varies"), or nothing when it promises it.
  // A clause that is not promised is not asked, and shown as such.
  virtual std::optional<std::string> not_promised(std::string_view /*clause*/) const { return std::nullopt; }
  // The same, where it depends on the operator.
  virtual std::optional<std::string> not_promised_for(const Case&, std::string_view clause) const {
    return not_promised(clause);
  }
};

// Built-in implementations, in the order of the documentation.
std::span<const Implementation* const> implementations();
// Also planted faults, "NAME!FAULT", and paths of shared objects (plugin/plugin.h). nullptr when unknown; UsageError for a
// shared object that cannot be used.
const Implementation* find_implementation(std::string_view name);

}  // namespace moecheck::harness
