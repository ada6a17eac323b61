#pragma once
// From what the command line says to an engine.
#include <cstdint>
#include <memory>
#include <string>

#include "harness/serve/engine.h"

namespace moecheck::harness {

struct EngineOptions {
  std::string model;     // a checkpoint's folder, or "scripted" with what parse_scripted reads after a colon
  std::string dtype;     // f32 (default) or bf16: weights, activations, MoE blocks
  std::string moe_impl;  // implementation of the MoE blocks; empty: cpu
  std::string moe_policy;             // policy of moe_block; empty: by fused_shared_experts
  bool fused_shared_experts = false;  // as slots of the top-k
  std::string fault;                  // a planted fault: NAME, NAME@LAYER or NAME@mtp; empty: none
  bool prefix_cache = true;
  std::int64_t speculate = 0;  // draft tokens per step; 0: no speculation
  std::int64_t threads = 0;    // 0: as many as there are cores
  std::int64_t max_batch = 0;  // sequences that run together; 0: the engine's own
  std::int64_t kv_tokens = 0;  // tokens the KV cache holds; 0: the engine's own
};

// Throws UsageError: no such model, a fault or an implementation that is not known.
std::unique_ptr<Engine> make_engine(const EngineOptions& options);

}  // namespace moecheck::harness
