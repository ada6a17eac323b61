#pragma once
// The MoE blocks of a served model, each run by an implementation that `moecheck check` can judge, on the same kind of case.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "harness/case.h"
#include "harness/glm4_moe/checkpoint.h"
#include "harness/implementation.h"

namespace moecheck::harness {

// A planted fault in a served model: NAME (every layer), NAME@3 or NAME@mtp (one layer).
struct ServedFault {
  std::string name, op;  // op: the operator whose code has the fault
  std::optional<std::int64_t> layer;
  bool in_layer(std::int64_t i) const { return !layer || *layer == i; }
};
// Throws UsageError with the nearest name, or when the model has no such layer.
ServedFault parse_served_fault(const std::string& text, const reference::Glm4MoeConfig& config);

struct ServedMoeOptions {
  std::string implementation = "cpu";
  bool fused = false;  // shared experts as slots of the top-k
  std::string policy;  // of moe_block; default hf_deepseek_v3, fused: sglang_cuda_fused
  std::optional<ServedFault> fault;
  int threads = 1;
};

class ServedMoe {
 public:
  // Throws UsageError where the implementation cannot run these blocks.
  ServedMoe(const Glm4MoeCheckpoint& checkpoint, DType dtype, ServedMoeOptions options);
  ~ServedMoe();

  // hidden_states [T, H] in dtype, router_logits [T, E] f32 -> out [T, H].
  void run(std::int64_t layer, reference::ConstView hidden_states, reference::ConstView router_logits,
           reference::View out);
  // The case that `layer` runs with so many tokens: what `moecheck check` and `judge` take.
  Case case_of(std::int64_t layer, std::int64_t tokens) const;
  // All inputs of such a case but hidden_states and router_logits, which are zero.
  TensorSet inputs_of(std::int64_t layer, std::int64_t tokens) const;

 private:
  struct Layer;
  void load_fused(const reference::MoeWeights& weights, Layer& layer, const Implementation& loader);
  const Glm4MoeCheckpoint& checkpoint_;
  ServedMoeOptions options_;
  Case base_;
  std::vector<std::unique_ptr<Layer>> layers_;  // by layer; dense ones are null
};

}  // namespace moecheck::harness
