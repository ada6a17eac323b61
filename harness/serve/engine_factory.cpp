#include "harness/serve/engine_factory.h"

#include <fmt/format.h>

#include <filesystem>
#include <thread>

#include "harness/case.h"
#include "harness/glm4_moe/engine.h"
#include "harness/serve/scripted_engine.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

std::unique_ptr<Engine> scripted(const EngineOptions& o) {
  const auto refuse = [](const char* option) {
    throw UsageError(
        fmt::format("{} needs a model: the scripted engine has none; give a folder to --model", option));
  };
  if (!o.moe_impl.empty()) refuse("--moe-impl");
  if (!o.fault.empty()) refuse("--fault");
  if (o.speculate != 0) refuse("--speculate");
  if (!o.dtype.empty()) refuse("--dtype");
  if (!o.moe_policy.empty()) refuse("--moe-policy");
  if (o.fused_shared_experts) refuse("--shared-experts fused");
  const std::size_t colon = o.model.find(':');
  ScriptedOptions options = parse_scripted(
      colon == std::string::npos ? std::string_view() : std::string_view(o.model).substr(colon + 1));
  if (o.max_batch > 0) options.slots = o.max_batch;
  return make_scripted_engine(options);
}

DType require_dtype(const std::string& name) {
  if (name.empty() || name == "f32") return DType::kF32;
  if (name == "bf16") return DType::kBF16;
  throw UsageError(fmt::format("--dtype '{}' is not known: use f32 or bf16", printable(name)));
}

std::unique_ptr<Engine> glm4_moe(const EngineOptions& o) {
  Glm4MoeEngineOptions options;
  options.dtype = require_dtype(o.dtype);
  auto checkpoint = load_glm4_moe(o.model, options.dtype);
  if (!o.moe_impl.empty()) options.moe.implementation = o.moe_impl;
  options.moe.policy = o.moe_policy;
  options.moe.fused = o.fused_shared_experts;
  if (!o.fault.empty()) options.moe.fault = parse_served_fault(o.fault, checkpoint->config);
  options.threads =
      static_cast<int>(o.threads > 0 ? o.threads : std::max(1U, std::thread::hardware_concurrency()));
  options.speculate = static_cast<int>(o.speculate);
  options.prefix_cache = o.prefix_cache;
  if (o.max_batch > 0) options.max_running = o.max_batch;
  if (o.kv_tokens > 0) options.kv_tokens = o.kv_tokens;
  return make_glm4_moe_engine(std::move(checkpoint), options);
}

}  // namespace

std::unique_ptr<Engine> make_engine(const EngineOptions& options) {
  if (options.model == "scripted" || options.model.starts_with("scripted:")) return scripted(options);
  if (!std::filesystem::is_directory(options.model))
    throw UsageError(
        fmt::format("model '{}' is no folder: give that of a GLM-4-MoE checkpoint, as "
                    "datasets/tiny_glm4_moe/canary, or scripted[:ttft=MS,tpot=MS,...]",
                    printable(options.model)));
  return glm4_moe(options);
}

}  // namespace moecheck::harness
