// moecheck serve: the OpenAI API over a model, or over the scripted engine.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "harness/cli/cli.h"
#include "harness/serve/engine_factory.h"
#include "harness/serve/server.h"
#include "harness/text.h"
#include "moecheck_version.h"

namespace moecheck::harness {
namespace {

struct ServeArguments {
  EngineOptions engine;
  ServerOptions server;
  std::vector<std::string> names;
  double max_body_mib = 8;
  bool quiet = false;
};

// The name that clients use: the folder's, as a checkpoint has no other.
std::string model_name(const std::string& model) {
  if (model.starts_with("scripted")) return "scripted";
  const std::filesystem::path path = std::filesystem::path(model).lexically_normal();
  const std::string name = (path.has_filename() ? path : path.parent_path()).filename().string();
  return name.empty() || name == "." ? "model" : name;
}

int run_server(ServeArguments a) {
  a.server.model_names = a.names.empty() ? std::vector{model_name(a.engine.model)} : a.names;
  a.server.version = MOECHECK_VERSION;
  a.server.http.max_body_bytes = static_cast<std::size_t>(a.max_body_mib * 1048576);
  if (a.server.api_key.empty())
    if (const char* key = std::getenv("MOECHECK_API_KEY")) a.server.api_key = key;
  const std::unique_ptr<Engine> engine = make_engine(a.engine);
  Server server(*engine, a.server);
  if (!a.quiet) {
    const std::string& host = a.server.http.host;
    const bool v6 = host.find(':') != std::string::npos;
    fmt::print("moecheck: serving {} on http://{}:{}, {} tokens of context; interrupt to stop\n",
               printable(a.server.model_names.front()), v6 ? "[" + host + "]" : host, server.port(),
               grouped(engine->max_model_len()));
    std::fflush(stdout);  // who started this waits for the port
  }
  server.run(true);
  return kExitFine;
}

void add_limits(CLI::App& sub, ServeArguments& a) {
  HttpOptions& h = a.server.http;
  const auto positive = CLI::Range(1.0, 1e9);
  sub.add_option("--max-queue", a.server.max_queue, "Sequences running and waiting; more get 429")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  sub.add_option("--max-connections", h.max_connections, "Open connections; more get 503")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  sub.add_option("--max-body", a.max_body_mib, "MiB of one request's body; more gets 413")
      ->check(CLI::Range(0.001, 1024.0))
      ->capture_default_str();
  sub.add_option("--read-timeout", h.read_seconds, "Seconds for a request to arrive")
      ->check(positive)
      ->capture_default_str();
  sub.add_option("--idle-timeout", h.idle_seconds, "Seconds a connection may rest between requests")
      ->check(positive)
      ->capture_default_str();
  sub.add_option("--request-timeout", h.request_seconds, "Seconds for an answer")
      ->check(positive)
      ->capture_default_str();
  sub.add_option("--drain-timeout", h.drain_seconds, "Seconds that running requests get at shutdown")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str();
}

}  // namespace

void add_serve(CLI::App& app, Action& action) {
  auto a = std::make_shared<ServeArguments>();
  a->server.http.port = 8000;
  CLI::App* sub = app.add_subcommand("serve", "Serve a model over the OpenAI API");
  sub->add_option(
         "--model", a->engine.model,
         "A checkpoint's folder, or scripted[:ttft=MS,tpot=MS,slots=N,draft=N,answers=FILE,accuracy=P]")
      ->required();
  sub->add_option("--served-model-name", a->names, "Names that clients may use; default: the folder's");
  sub->add_option("--host", a->server.http.host, "Address to listen on; 0.0.0.0 for all")
      ->capture_default_str();
  sub->add_option("--port", a->server.http.port, "Port; 0 for any free one, which is printed")
      ->capture_default_str();
  sub->add_option("--api-key", a->server.api_key,
                  "Ask clients for it; also MOECHECK_API_KEY, which ps does not show");
  sub->add_option("--dtype", a->engine.dtype, "Of weights and activations: f32 (default) or bf16");
  sub->add_option("--moe-impl", a->engine.moe_impl,
                  "Implementation of the MoE blocks: one of `moecheck list implementations`; default cpu");
  sub->add_option("--moe-policy", a->engine.moe_policy, "Policy of the MoE blocks: `moecheck list policies`");
  sub->add_option_function<std::string>(
         "--shared-experts",
         [a](const std::string& form) { a->engine.fused_shared_experts = form == "fused"; },
         "separate (default), or fused: as slots of the top-k")
      ->check(CLI::IsMember({"separate", "fused"}));
  sub->add_option("--fault", a->engine.fault,
                  "Plant a fault in the model: NAME of `moecheck list faults`, NAME@LAYER or NAME@mtp")
      ->type_name("NAME[@LAYER]");
  sub->add_flag_callback(
      "--no-prefix-cache", [a] { a->engine.prefix_cache = false; },
      "Compute every prompt from its first token");
  sub->add_option("--speculate", a->engine.speculate, "Draft N tokens per step with the MTP layer")
      ->check(CLI::Range(0, 8))
      ->capture_default_str();
  sub->add_option("--threads", a->engine.threads, "Threads of the engine; 0: one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  sub->add_option("--max-batch", a->engine.max_batch, "Sequences that run together; 0: the engine's own")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  sub->add_option("--kv-tokens", a->engine.kv_tokens, "Tokens that the KV cache holds; 0: the engine's own")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  sub->add_option(
      "--chaos", a->server.chaos,
      "Faults for clients to meet, as reset=0.05,503=0.1:1s,truncate=0.1,split=0.5; any wrong word lists "
      "all");
  sub->add_option("--chaos-seed", a->server.chaos_seed, "Seed of the faults")->capture_default_str();
  sub->add_flag("--quiet", a->quiet, "Print nothing");
  add_limits(*sub, *a);
  sub->callback([a, &action] { action = [a] { return run_server(*a); }; });
}

}  // namespace moecheck::harness
