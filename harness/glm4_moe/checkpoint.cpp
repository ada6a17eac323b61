#include "harness/glm4_moe/checkpoint.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "harness/case.h"
#include "harness/fault.h"
#include "harness/json.h"
#include "harness/json_error.h"
#include "harness/safetensors.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using nlohmann::json;
using reference::Glm4MoeConfig;
using reference::Glm4MoeLayerWeights;

json read_json(const std::string& path) {
  std::ifstream in(path);
  if (!in)
    throw UsageError(
        fmt::format("{} cannot be read: a checkpoint is a folder with config.json, model.safetensors "
                    "and tokenizer.json",
                    printable(path)));
  std::stringstream text;
  text << in.rdbuf();
  json parsed;
  try {
    parsed = json::parse(text.str());
  } catch (const json::exception& e) {
    throw UsageError(fmt::format("{}; download it again, or give another folder", json_error_at(path, 0, e)));
  }
  if (!parsed.is_object()) throw UsageError(fmt::format("{} is not a JSON object", printable(path)));
  return parsed;
}

// Typed access with the file and the key in every message.
class Config {
 public:
  Config(const json& object, std::string path) : object_(object), path_(std::move(path)) {}

  std::int64_t integer(const char* key) const { return number<std::int64_t>(key, true, 0); }
  std::int64_t integer(const char* key, std::int64_t fallback) const { return number(key, false, fallback); }
  double real(const char* key, double fallback) const { return number(key, false, fallback); }
  bool flag(const char* key, bool fallback) const {
    const auto it = object_.find(key);
    if (it == object_.end() || it->is_null()) return fallback;
    if (!it->is_boolean()) fail(key, "must be true or false");
    return it->get<bool>();
  }
  std::string text(const char* key, const char* fallback) const {
    const auto it = object_.find(key);
    if (it == object_.end() || it->is_null()) return fallback;
    if (!it->is_string()) fail(key, "must be a string");
    return it->get<std::string>();
  }
  [[noreturn]] void fail(const char* key, const std::string& what) const {
    throw UsageError(fmt::format("{}: \"{}\" {}", printable(path_), key, what));
  }

 private:
  template <class T>
  T number(const char* key, bool required, T fallback) const {
    const auto it = object_.find(key);
    if (it == object_.end() || it->is_null()) {
      if (required) fail(key, "is missing");
      return fallback;
    }
    const bool fits = std::is_integral_v<T> ? it->is_number_integer() : it->is_number();
    if (!fits) fail(key, "must be a number");
    return it->get<T>();
  }
  const json& object_;
  std::string path_;
};

void require_supported(const json& object, const Config& c, const std::string& path) {
  if (c.text("model_type", "") != "glm4_moe")
    c.fail("model_type", "must be \"glm4_moe\": the only architecture that is served here");
  if (c.text("hidden_act", "silu") != "silu") c.fail("hidden_act", "must be \"silu\"");
  const auto scaling = object.find("rope_scaling");
  if (scaling == object.end() || scaling->is_null()) return;
  if (!scaling->is_object() || Config(*scaling, path).text("rope_type", "default") != "default")
    c.fail("rope_scaling", "must be null: scaled rotary embeddings are not implemented");
}

Glm4MoeConfig read_config(const json& object, const std::string& path) {
  const Config c(object, path);
  require_supported(object, c, path);
  // transformers 5 nests the rotary settings.
  static const json kNone = json::object();
  const auto nested = object.find("rope_parameters");
  const json& rope_object = nested != object.end() && nested->is_object() ? *nested : kNone;
  const Config rope(rope_object, path);
  Glm4MoeConfig m;
  m.vocab = c.integer("vocab_size");
  m.hidden = c.integer("hidden_size");
  m.intermediate = c.integer("intermediate_size");
  m.moe_intermediate = c.integer("moe_intermediate_size");
  m.layers = c.integer("num_hidden_layers");
  m.first_dense = HARNESS_FAULT(kConfigFirstDenseIsZero) ? 0 : c.integer("first_k_dense_replace", 1);
  m.mtp_layers = c.integer("num_nextn_predict_layers", 0);
  m.heads = c.integer("num_attention_heads");
  m.kv_heads = c.integer("num_key_value_heads", m.heads);
  m.head_dim = c.integer("head_dim", m.heads > 0 ? m.hidden / m.heads : 0);
  m.experts = c.integer("n_routed_experts");
  m.shared_experts = c.integer("n_shared_experts", 1);
  m.topk = c.integer("num_experts_per_tok");
  m.groups = HARNESS_FAULT(kConfigGroupIgnored) ? 1 : c.integer("n_group", 1);
  m.topk_group = c.integer(HARNESS_FAULT(kConfigTopkGroupIsGroups) ? "n_group" : "topk_group", 1);
  m.max_positions = c.integer("max_position_embeddings");
  m.routed_scaling_factor =
      c.real(HARNESS_FAULT(kConfigScaleNotRead) ? "routed_scale" : "routed_scaling_factor", 1);
  m.rms_norm_eps = c.real("rms_norm_eps", 1e-5);
  m.rope_theta = rope.real("rope_theta", c.real("rope_theta", 10000));
  m.partial_rotary_factor = rope.real("partial_rotary_factor", c.real("partial_rotary_factor", 0.5));
  m.norm_topk_prob = HARNESS_FAULT(kConfigNormTopkIgnored) ||
                     c.flag("norm_topk_prob", !HARNESS_FAULT(kConfigNormTopkDefaultsToFalse));
  m.qk_norm = !HARNESS_FAULT(kConfigQkNormIgnored) && c.flag("use_qk_norm", false);
  m.attention_bias = c.flag("attention_bias", false);
  if (const auto why = reference::refusal(m)) throw UsageError(fmt::format("{}: {}", printable(path), *why));
  if (m.max_positions > 1 << 20 || m.vocab > 1 << 20 || m.layers > 1000 || m.hidden > 1 << 16)
    throw UsageError(fmt::format("{}: sizes are beyond what is served here", printable(path)));
  if (m.mtp_layers > 1)
    throw UsageError(
        fmt::format("{}: num_nextn_predict_layers={}: one is served here", printable(path), m.mtp_layers));
  return m;
}

// The tensors of all files by name, each taken once.
class Source {
 public:
  explicit Source(const std::string& folder) : folder_(folder) {
    const std::filesystem::path root(folder);
    const std::string index = (root / "model.safetensors.index.json").string();
    std::set<std::string> files = {"model.safetensors"};
    if (std::filesystem::exists(index)) {
      files.clear();
      const json listed = read_json(index);
      for (const auto& item : listed.value("weight_map", json::object()))
        files.insert(item.is_string() ? item.get<std::string>() : "");
    }
    for (const std::string& file : files) {
      if (file.empty() || file.find('/') != std::string::npos)
        throw UsageError(fmt::format("{}: \"weight_map\" must name files of the folder", printable(index)));
      TensorSet set = read_safetensors((root / file).string());
      for (Tensor& t : set.tensors()) tensors_.emplace(t.name(), std::move(t));
      if (HARNESS_FAULT(kLoaderFirstShardOnly)) break;
    }
  }

  bool has(const std::string& name) const { return tensors_.contains(name); }
  Tensor take(const std::string& name, const Shape& shape) {
    const auto it = tensors_.find(name);
    if (it == tensors_.end())
      throw UsageError(fmt::format("{}: tensor '{}' is missing", printable(folder_), name));
    Tensor tensor = std::move(it->second);
    tensors_.erase(it);
    if (HARNESS_FAULT(kLoaderShapeByCount) ? tensor.shape().numel() != shape.numel()
                                           : !(tensor.shape() == shape))
      throw UsageError(fmt::format("{}: tensor '{}' has shape {}, config.json asks for {}",
                                   printable(folder_), name, to_string(tensor.shape()), to_string(shape)));
    if (tensor.dtype() != DType::kF32 && tensor.dtype() != DType::kBF16 && tensor.dtype() != DType::kF16)
      throw UsageError(
          fmt::format("{}: tensor '{}' is {}: only F32, BF16 and F16 checkpoints are served here",
                      printable(folder_), name, reference::name(tensor.dtype())));
    return tensor;
  }
  void require_empty() const {
    if (!tensors_.empty() && !HARNESS_FAULT(kLoaderLeftoversIgnored))
      throw UsageError(
          fmt::format("{}: tensor '{}' is not part of a GLM-4-MoE model of this config.json ({} such)",
                      printable(folder_), printable(tensors_.begin()->first), tensors_.size()));
  }

 private:
  std::string folder_;
  std::map<std::string, Tensor> tensors_;
};

class Builder {
 public:
  Builder(Glm4MoeCheckpoint& model, DType dtype)
      : m_(model), c_(model.config), dtype_(dtype), source_(model.folder) {}

  void build() {
    const std::string base = "model.";
    m_.weights.embed = take(base + "embed_tokens.weight", Shape(c_.vocab, c_.hidden));
    for (std::int64_t i = 0; i < c_.layers; ++i)
      m_.weights.layers.push_back(layer(fmt::format("model.layers.{}.", i), c_.is_dense(i)));
    m_.weights.norm = take(base + "norm.weight", Shape(c_.hidden));
    m_.weights.head =
        source_.has("lm_head.weight") ? take("lm_head.weight", Shape(c_.vocab, c_.hidden)) : m_.weights.embed;
    if (c_.mtp_layers == 1) m_.weights.mtp = mtp(fmt::format("model.layers.{}.", c_.layers));
    source_.require_empty();
  }

 private:
  // A tensor of dtype `to` that lives as long as the checkpoint.
  Tensor& make(const std::string& name, const Shape& shape, DType to) {
    m_.storage.push_back(std::make_unique<Tensor>(name, to, shape));
    return *m_.storage.back();
  }
  void copy(const Tensor& from, Tensor& to, std::int64_t at) {
    const std::int64_t n = from.shape().numel();
    m_.parameters += n;
    for (std::int64_t i = 0; i < n; ++i)
      reference::store(to.dtype(), to.data(), at + i, reference::load(from.dtype(), from.data(), i));
  }
  ConstView take(const std::string& name, const Shape& shape) { return take_as(name, shape, dtype_); }
  ConstView take_as(const std::string& name, const Shape& shape, DType to) {
    const Tensor from = source_.take(name, shape);
    Tensor& t = make(name, shape, to);
    copy(from, t, 0);
    return std::as_const(t).view();
  }

  reference::MlpWeights mlp(const std::string& base, std::int64_t inner) {
    Tensor& both = make(base + "gate_up", Shape(2 * inner, c_.hidden), dtype_);
    copy(source_.take(base + "gate_proj.weight", Shape(inner, c_.hidden)), both,
         HARNESS_FAULT(kLoaderUpBeforeGate) ? inner * c_.hidden : 0);
    copy(source_.take(base + "up_proj.weight", Shape(inner, c_.hidden)), both,
         HARNESS_FAULT(kLoaderUpBeforeGate) ? 0 : inner * c_.hidden);
    return {std::as_const(both).view(), take(base + "down_proj.weight", Shape(c_.hidden, inner))};
  }

  reference::MoeWeights moe(const std::string& base) {
    const std::int64_t inner = c_.moe_intermediate, hidden = c_.hidden;
    reference::MoeWeights w;
    w.router = take_as(base + "gate.weight", Shape(c_.experts, hidden), DType::kF32);
    w.bias = take_as(base + "gate.e_score_correction_bias", Shape(c_.experts),
                     HARNESS_FAULT(kLoaderBiasInModelDtype) ? dtype_ : DType::kF32);
    Tensor& w13 = make(base + "w13", Shape(c_.experts, 2 * inner, hidden), dtype_);
    Tensor& w2 = make(base + "w2", Shape(c_.experts, hidden, inner), dtype_);
    for (std::int64_t e = 0; e < c_.experts; ++e) {
      const std::string expert = fmt::format("{}experts.{}.", base, e);
      copy(source_.take(expert + "gate_proj.weight", Shape(inner, hidden)), w13, 2 * e * inner * hidden);
      copy(source_.take(expert + "up_proj.weight", Shape(inner, hidden)), w13,
           (2 * e + (HARNESS_FAULT(kLoaderUpOverGate) ? 0 : 1)) * inner * hidden);
      copy(source_.take(expert + "down_proj.weight", Shape(hidden, inner)), w2, e * inner * hidden);
    }
    w.w13 = std::as_const(w13).view();
    w.w2 = std::as_const(w2).view();
    if (c_.shared_experts > 0) w.shared = mlp(base + "shared_experts.", c_.shared_experts * inner);
    return w;
  }

  Glm4MoeLayerWeights layer(const std::string& base, bool dense) {
    Glm4MoeLayerWeights w;
    w.input_norm = take(base + "input_layernorm.weight", Shape(c_.hidden));
    w.post_norm = take(base + "post_attention_layernorm.weight", Shape(c_.hidden));
    const std::string attention = base + "self_attn.";
    const auto projection = [&](const char* name, std::int64_t rows, ConstView& weight, ConstView& bias,
                                ConstView* norm) {
      weight = take(fmt::format("{}{}_proj.weight", attention, name), Shape(rows, c_.hidden));
      if (c_.attention_bias) bias = take(fmt::format("{}{}_proj.bias", attention, name), Shape(rows));
      if (norm != nullptr && c_.qk_norm)
        *norm = take(fmt::format("{}{}_norm.weight", attention, name), Shape(c_.head_dim));
    };
    projection("q", c_.q_dim(), w.attention.q, w.attention.q_bias, &w.attention.q_norm);
    projection("k", c_.kv_dim(), w.attention.k, w.attention.k_bias, &w.attention.k_norm);
    projection("v", c_.kv_dim(), w.attention.v, w.attention.v_bias, nullptr);
    w.attention.o = take(attention + "o_proj.weight", Shape(c_.hidden, c_.q_dim()));
    if (dense)
      w.dense = mlp(base + "mlp.", c_.intermediate);
    else
      w.moe = moe(base + "mlp.");
    return w;
  }

  reference::MtpWeights mtp(const std::string& base) {
    reference::MtpWeights w;
    const Shape table(c_.vocab, c_.hidden), row(c_.hidden);
    // Some checkpoints share the embedding and the head with the model.
    w.embed = source_.has(base + "embed_tokens.weight") ? take(base + "embed_tokens.weight", table)
                                                        : m_.weights.embed;
    w.embed_norm =
        take(base + (HARNESS_FAULT(kLoaderMtpNormsSwapped) ? "hnorm.weight" : "enorm.weight"), row);
    w.hidden_norm =
        take(base + (HARNESS_FAULT(kLoaderMtpNormsSwapped) ? "enorm.weight" : "hnorm.weight"), row);
    w.eh_proj = take(base + "eh_proj.weight", Shape(c_.hidden, 2 * c_.hidden));
    w.norm = take(base + "shared_head.norm.weight", row);
    w.head = source_.has(base + "shared_head.head.weight") ? take(base + "shared_head.head.weight", table)
                                                           : m_.weights.head;
    w.layer = layer(base, false);
    return w;
  }

  Glm4MoeCheckpoint& m_;
  const Glm4MoeConfig& c_;
  DType dtype_;
  Source source_;
};

std::vector<std::int32_t> end_ids(const json& config, const Glm4MoeConfig& c, const std::string& path) {
  const auto it = config.find("eos_token_id");
  std::vector<std::int32_t> ids;
  const auto add = [&](const json& id) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() >= c.vocab)
      throw UsageError(fmt::format("{}: \"eos_token_id\" must be ids in [0, {})", printable(path), c.vocab));
    ids.push_back(id.get<std::int32_t>());
  };
  if (it == config.end() || it->is_null()) return ids;
  if (it->is_array())
    for (const json& id : *it) add(id);
  else
    add(*it);
  return ids;
}

}  // namespace

std::unique_ptr<Glm4MoeCheckpoint> load_glm4_moe(const std::string& folder, DType dtype) {
  const std::filesystem::path root = std::filesystem::absolute(folder).lexically_normal();
  const std::string path = (std::filesystem::path(folder) / "config.json").string();
  const json config = read_json(path);
  auto model = std::make_unique<Glm4MoeCheckpoint>();
  model->folder = folder;
  model->name = (root.has_filename() ? root : root.parent_path()).filename().string();
  model->config = read_config(config, path);
  model->end_ids = end_ids(config, model->config, path);
  Builder(*model, dtype).build();
  return model;
}

}  // namespace moecheck::harness
