#pragma once
// Implementations for tests of contracts: the reference itself, and the reference with something done to its outputs.
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/implementation.h"
#include "harness/judge.h"
#include "harness/operator.h"
#include "harness/operators/common.h"
#include "harness/operators/operators.h"

namespace moecheck::harness {

using Spoil = std::function<void(const Case&, const TensorSet& inputs, TensorSet& outputs)>;

inline TensorSet reference_run(const Case& c, const TensorSet& inputs) {
  const Operator& op = operator_of(c);
  TensorSet outputs(op.outputs(c));
  op.reference_outputs(c, inputs, *op.reference(c, inputs), outputs);
  return outputs;
}

class Honest : public Implementation {
 public:
  std::string_view name() const override { return "honest"; }
  std::string_view summary() const override { return "the reference, rounded"; }
  std::optional<std::string> unsupported(const Case&) const override { return std::nullopt; }
  void run(const Case& c, const TensorSet& inputs, TensorSet& outputs, const RunOptions&) const override {
    const Operator& op = operator_of(c);
    op.reference_outputs(c, inputs, *op.reference(c, inputs), outputs);
  }
};

class Spoiled final : public Honest {
 public:
  explicit Spoiled(Spoil spoil) : spoil_(std::move(spoil)) {}
  void run(const Case& c, const TensorSet& inputs, TensorSet& outputs,
           const RunOptions& options) const override {
    Honest::run(c, inputs, outputs, options);
    spoil_(c, inputs, outputs);
  }

 private:
  Spoil spoil_;
};

inline TensorSet generated(const Case& c) {
  TensorSet inputs(operator_of(c).inputs(c));
  operator_of(c).generate(c, inputs);
  return inputs;
}

inline Judgement judged(const Case& c, const TensorSet& inputs, const TensorSet& outputs) {
  const Operator& op = operator_of(c);
  Judgement j;
  op.judge(c, inputs, *op.reference(c, inputs), outputs, j);
  return j;
}

// Judges the reference's outputs after `spoil`.
inline Judgement judged_spoiled(const Case& c, const Spoil& spoil) {
  const TensorSet inputs = generated(c);
  TensorSet outputs = reference_run(c, inputs);
  spoil(c, inputs, outputs);
  return judged(c, inputs, outputs);
}

// "" where the relation holds, "n/a: WHY" where it does not apply, else what broke.
inline std::string relation_fault(const Case& c, const Relation& relation,
                                  const Implementation& implementation) {
  const Operator& op = operator_of(c);
  const TensorSet inputs = generated(c);
  TensorSet outputs(op.outputs(c));
  implementation.run(c, inputs, outputs, {});
  op.blank_unspecified(c, inputs, outputs);
  try {
    relation.check(Trial(op, implementation, c, inputs, outputs, {}));
  } catch (const NotApplicable& e) {
    return std::string("n/a: ") + e.what();
  } catch (const Broken& e) {
    return e.what();
  }
  return {};
}

inline const Relation& relation_named(const Operator& op, std::string_view name) {
  for (const Relation& r : op.relations())
    if (r.name == name) return r;
  throw std::logic_error("no relation " + std::string(name));
}

// An implementation that breaks a relation: the reference on `line`, spoiled.
struct Culprit {
  const char* line;  // a case line
  const char* relation;
  void (*spoil)(const Case&, const TensorSet&, TensorSet&);
};

// Every relation of the operators is kept by the reference and broken by a culprit.
inline void expect_each_relation_broken(std::span<const Culprit> culprits,
                                        std::span<const Operator* const> operators) {
  std::set<std::string> broken;
  for (const Culprit& culprit : culprits) {
    const Case c = parse_case(culprit.line);
    const Relation& relation = relation_named(operator_of(c), culprit.relation);
    EXPECT_EQ(relation_fault(c, relation, Honest()), "") << culprit.line << " " << culprit.relation;
    std::string fault;
    // Where the data decide whether the mistake shows, one of a few seeds does.
    for (std::uint64_t seed = 1; fault.empty() && seed <= 4; ++seed) {
      Case seeded = c;
      seeded.seed = seed;
      fault = relation_fault(seeded, relation, Spoiled(culprit.spoil));
    }
    EXPECT_FALSE(fault.empty()) << culprit.line << " " << culprit.relation;
    EXPECT_FALSE(fault.starts_with("n/a")) << culprit.line << " " << culprit.relation << ": " << fault;
    broken.insert(std::string(c.operator_name()) + "/" + culprit.relation);
  }
  for (const Operator* op : operators)
    for (const Relation& r : op->relations())
      EXPECT_TRUE(broken.contains(std::string(op->name()) + "/" + std::string(r.name)))
          << op->name() << " " << r.name;
}

// The operators that work on tokens and experts.
inline std::vector<const Operator*> expert_operators() {
  return {&routed_scaling_operator(), &shared_experts_operator(), &moe_align_operator(), &experts_operator(),
          &moe_block_operator()};
}

}  // namespace moecheck::harness
