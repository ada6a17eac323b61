#pragma once
// The engine that serves a GLM-4-MoE checkpoint on the CPU: continuous batching, paged KV cache, prefix cache, speculative
// decoding with the MTP layer.
//
// A request's tokens are the same whatever else runs beside it, with or without prefix cache and speculation.
#include <memory>
#include <string>

#include "harness/glm4_moe/checkpoint.h"
#include "harness/glm4_moe/served_moe.h"
#include "harness/serve/engine.h"

namespace moecheck::harness {

struct Glm4MoeEngineOptions {
  DType dtype = DType::kF32;  // of weights, activations and the MoE block: f32 or bf16
  ServedMoeOptions moe;       // moe.fault may also be one of attention's
  int threads = 1;
  int speculate = 0;  // draft tokens per step from the MTP layer; 0: none
  bool prefix_cache = true;
  std::int64_t kv_tokens = 1 << 16;  // rounded up to pages; at least the model's max_position_embeddings
  std::int64_t rows_per_step = 512;  // of all requests together: longer prompts are computed in chunks
  std::int64_t max_running = 256;    // requests at once; the others wait
};

// Throws UsageError for options that the model cannot have (speculate without an MTP layer).
std::unique_ptr<Engine> make_glm4_moe_engine(std::unique_ptr<Glm4MoeCheckpoint> checkpoint,
                                             const Glm4MoeEngineOptions& options);

}  // namespace moecheck::harness
