#pragma once
// A GLM-4-MoE checkpoint folder: config.json, model.safetensors, tokenizer.json, as Hugging Face has them.
#include <memory>
#include <string>
#include <vector>

#include "harness/tensor_set.h"
#include "reference/glm4_moe.h"

namespace moecheck::harness {

struct Glm4MoeCheckpoint {
  std::string folder, name;  // name: the folder's own, what /v1/models shows
  reference::Glm4MoeConfig config;
  std::vector<std::int32_t> end_ids;  // eos_token_id of config.json
  reference::Glm4MoeWeights weights;  // views into `storage`
  std::vector<std::unique_ptr<Tensor>> storage;
  std::int64_t parameters = 0;
};

// Weights are converted to `dtype` (f32 or bf16); e_score_correction_bias stays f32. Experts are stacked: w13 [E, 2I, H], gate
// first. Throws UsageError that names the file, the tensor or key, and what was expected: an unknown architecture, a missing or
// unexpected tensor, a wrong shape. One file, or several with model.safetensors.index.json's weight_map.
std::unique_ptr<Glm4MoeCheckpoint> load_glm4_moe(const std::string& folder, DType dtype);

}  // namespace moecheck::harness
