#pragma once
// An implementation for tests: the reference's outputs with something done to them.
#include <functional>

#include "harness/implementation.h"
#include "harness/operator.h"
#include "harness/runner.h"

namespace moecheck::harness {

class Altered final : public Implementation {
 public:
  using After =
      std::function<void(const Case&, const TensorSet& inputs, TensorSet& outputs, const RunOptions&)>;
  explicit Altered(After after) : after_(std::move(after)) {}
  std::string_view name() const override { return "altered"; }
  std::string_view summary() const override { return "the reference, altered"; }
  std::optional<std::string> unsupported(const Case&) const override { return std::nullopt; }
  void run(const Case& c, const TensorSet& inputs, TensorSet& outputs,
           const RunOptions& options) const override {
    const Operator& op = operator_of(c);
    op.reference_outputs(c, inputs, *op.reference(c, inputs), outputs);
    after_(c, inputs, outputs, options);
  }

 private:
  After after_;
};

inline Record check_altered(const std::string& line, Altered::After after, const CheckOptions& options = {}) {
  const Altered impl(std::move(after));
  const Implementation* one[] = {&impl};
  return check_case(parse_case(line), one, options).front();
}

inline const ClauseResult* find_clause(const Record& r, std::string_view name) {
  for (const ClauseResult& c : r.result.clauses)
    if (c.name == name) return &c;
  return nullptr;
}

}  // namespace moecheck::harness
