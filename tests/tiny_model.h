#pragma once
// A GLM-4-MoE checkpoint of a few thousand random weights, written to a folder of its own that goes with it.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

#include "harness/glm4_moe/checkpoint.h"
#include "harness/json.h"
#include "harness/random.h"
#include "harness/safetensors.h"

namespace moecheck::harness {

struct TinyModel {
  std::string folder;
  nlohmann::json config;
  TensorSet tensors;

  explicit TinyModel(const std::string& name, int shared = 2, bool mtp = true) {
    folder = (std::filesystem::temp_directory_path() / ("moecheck_tiny_" + name + "_" + std::to_string(getpid()))).string();
    std::filesystem::create_directories(folder);
    config = {{"model_type", "glm4_moe"}, {"vocab_size", 768}, {"hidden_size", 40}, {"intermediate_size", 48},
              {"moe_intermediate_size", 12}, {"num_hidden_layers", 3}, {"first_k_dense_replace", 1},
              {"num_attention_heads", 4}, {"num_key_value_heads", 2}, {"head_dim", 12}, {"attention_bias", true},
              {"use_qk_norm", true}, {"partial_rotary_factor", 0.5}, {"rope_theta", 10000.0},
              {"max_position_embeddings", 160}, {"n_routed_experts", 8}, {"n_shared_experts", shared},
              {"num_experts_per_tok", 2}, {"n_group", 4}, {"topk_group", 2}, {"norm_topk_prob", true},
              {"routed_scaling_factor", 2.5}, {"hidden_act", "silu"}, {"rms_norm_eps", 1e-5},
              {"num_nextn_predict_layers", mtp ? 1 : 0}, {"eos_token_id", 0}};
    fill(shared, mtp);
    write();
  }
  ~TinyModel() { std::filesystem::remove_all(folder); }
  TinyModel(const TinyModel&) = delete;
  TinyModel& operator=(const TinyModel&) = delete;

  void write() {
    std::ofstream(folder + "/config.json") << config.dump(1);
    write_safetensors(folder + "/model.safetensors", tensors);
    std::filesystem::copy_file(std::string(MOECHECK_SOURCE_DIR) + "/datasets/tiny_glm4_moe/canary/tokenizer.json",
                               folder + "/tokenizer.json", std::filesystem::copy_options::overwrite_existing);
  }

 private:
  void add(const std::string& name, Shape shape, DType dtype = DType::kBF16) {
    Tensor& t = tensors.add(Tensor(name, dtype, shape));
    const Random random(7, name);
    const bool norm = name.find("norm") != std::string::npos;
    const double scale = shape.rank == 2 ? 1.5 / std::sqrt(static_cast<double>(shape[1])) : 0.2;
    for (std::int64_t i = 0; i < shape.numel(); ++i)
      t.view().set(i, (norm ? 1.0 : 0.0) + scale * random.normal(static_cast<std::uint64_t>(i)));
  }
  void mlp(const std::string& base, std::int64_t inner) {
    add(base + "gate_proj.weight", Shape(inner, 40));
    add(base + "up_proj.weight", Shape(inner, 40));
    add(base + "down_proj.weight", Shape(40, inner));
  }
  void layer(const std::string& base, bool dense, int shared) {
    add(base + "input_layernorm.weight", Shape(40));
    add(base + "post_attention_layernorm.weight", Shape(40));
    for (const auto& [n, rows] : {std::pair{"q", 48}, {"k", 24}, {"v", 24}}) {
      add(base + "self_attn." + n + "_proj.weight", Shape(rows, 40));
      add(base + "self_attn." + n + "_proj.bias", Shape(rows));
    }
    add(base + "self_attn.o_proj.weight", Shape(40, 48));
    for (const char* n : {"q", "k"}) add(base + "self_attn." + n + "_norm.weight", Shape(12));
    if (dense) return mlp(base + "mlp.", 48);
    add(base + "mlp.gate.weight", Shape(8, 40));
    add(base + "mlp.gate.e_score_correction_bias", Shape(8), DType::kF32);
    for (int e = 0; e < 8; ++e) mlp(base + "mlp.experts." + std::to_string(e) + ".", 12);
    if (shared > 0) mlp(base + "mlp.shared_experts.", 12 * shared);
  }
  void fill(int shared, bool mtp) {
    add("model.embed_tokens.weight", Shape(768, 40));
    for (int i = 0; i < 3; ++i) layer("model.layers." + std::to_string(i) + ".", i == 0, shared);
    add("model.norm.weight", Shape(40));
    add("lm_head.weight", Shape(768, 40));
    if (!mtp) return;
    const std::string base = "model.layers.3.";
    layer(base, false, shared);
    for (const char* n : {"enorm", "hnorm", "shared_head.norm"}) add(base + n + ".weight", Shape(40));
    add(base + "eh_proj.weight", Shape(40, 80));
    add(base + "embed_tokens.weight", Shape(768, 40));
    add(base + "shared_head.head.weight", Shape(768, 40));
  }
};

}  // namespace moecheck::harness
