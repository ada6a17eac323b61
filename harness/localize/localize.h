#pragma once
// Which operator of a forward pass is wrong: each is judged by its contract from its own inputs, so an error upstream of it does
// not count against it.
#include <string>
#include <vector>

#include "harness/glm4_moe/checkpoint.h"
#include "harness/glm4_moe/served_moe.h"
#include "harness/record.h"

namespace moecheck::harness {

// FAIL and its like, but not MISTRUSTED: bounds of bf16 may be wide without anybody being wrong.
bool leaves_bound(Verdict v);

struct JudgedOperator {
  std::int64_t layer = -1;    // -1: behind the last layer
  std::string name;           // input_norm, attention, post_norm, mlp, router, moe_block, norm, head
  Record record;              // case_line is empty where the operator is none of `moecheck list operators`
  TensorSet inputs, outputs;  // of a failing one with a case line: what `moecheck judge` takes

  std::string where() const;  // "layer 1 moe_block", "head"
};

struct Localization {
  std::vector<JudgedOperator> operators;  // in the order of the forward pass
  std::vector<std::string> missing;       // operators whose tensors the dump lacks
  const JudgedOperator* first_failure() const;
};

// Judges a dump (dump.h). `moe` says by which policy the MoE blocks are judged; its implementation and fault are ignored. Throws
// UsageError for tensors that do not fit the checkpoint.
Localization localize(const Glm4MoeCheckpoint& checkpoint, const TensorSet& dump, const ServedMoeOptions& moe,
                      const std::string& engine);

// The largest |a - b| of each tensor that both dumps have, in the order of `a`.
struct TensorDifference {
  std::string name;
  double largest = 0;
};
std::vector<TensorDifference> differences(const TensorSet& a, const TensorSet& b);

// One line: "layer 1 moe_block: alpha=2.5 beta=2.5 ...", or that everything is within its bounds.
std::string summary(const Localization& l);

}  // namespace moecheck::harness
