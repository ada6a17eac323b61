// moecheck streams: the order of work on streams. check, show, policy, explain.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <memory>

#include "harness/atomic_file.h"
#include "harness/cli/cli.h"
#include "harness/streams/blocks.h"
#include "harness/streams/program_json.h"
#include "harness/streams/text.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using streams::Block;
using streams::BlockOptions;
using streams::BlockVariant;

struct StreamArguments {
  std::vector<std::string> files;
  std::string file, edge, block, svg, json, rule = "glm4", mode;
  std::int64_t threshold = -1;
  BlockOptions options;
  std::string platform = "cuda";
};

int check(const StreamArguments& a) {
  bool failed = false;
  for (const std::string& file : a.files) {
    const reference::StreamProgram p = streams::read_program(file);
    const reference::CheckedStreams c = reference::check_streams(p);
    fmt::print("{}", streams::check_text(p, c));
    failed = failed || streams::failed(c.report);
  }
  return failed ? kExitFailed : kExitFine;
}

// The environment, then what the command line says.
streams::DualPolicy policy_of(const StreamArguments& a) {
  streams::DualPolicy policy = streams::glm4_policy([](const char* name) { return std::getenv(name); });
  policy.rule = streams::require_rule(a.rule);
  if (!a.mode.empty()) policy.mode = streams::require_mode(a.mode);
  if (a.threshold >= 0) policy.threshold = a.threshold;
  return policy;
}

int policy(const StreamArguments& a) {
  const streams::DualDecision d = streams::decide(policy_of(a), a.options.state);
  fmt::print("{}: {}\n", d.dual ? "dual" : "single", d.why);
  return kExitFine;
}

int show_list() {
  for (const Block& b : streams::blocks()) {
    fmt::print("{}: {}\n", b.name, b.summary);
    for (const BlockVariant& v : b.variants) fmt::print("  {:<20} {:<28} {}\n", v.name, v.verdict, v.what);
  }
  return kExitFine;
}

int show(const StreamArguments& a) {
  if (a.block.empty()) return show_list();
  BlockOptions options = a.options;
  options.policy = policy_of(a);
  options.platform = streams::require_platform(a.platform);
  const Block& block = streams::require_block(a.block);
  const reference::StreamProgram p = streams::make_block(block, options);
  if (!a.json.empty()) {
    if (a.json == "-") {
      fmt::print("{}", streams::program_json(p));
      return kExitFine;
    }
    write_file(a.json, streams::program_json(p));
  }
  const reference::CheckedStreams c = reference::check_streams(p);
  if (!a.svg.empty()) write_file(a.svg, streams::timeline_svg(p, c));
  if (block.name == std::string("glm4_moe") && (options.variant.empty() || options.variant == "sound")) {
    const streams::DualDecision d = streams::decide(options.policy, options.state);
    fmt::print("policy    {}: {}\n", d.dual ? "dual" : "single", d.why);
  }
  fmt::print("{}\n{}", streams::timeline_text(p, c), streams::check_text(p, c));
  return streams::failed(c.report) ? kExitFailed : kExitFine;
}

int explain(const StreamArguments& a) {
  fmt::print("{}", streams::explain_text(streams::read_program(a.file), a.edge));
  return kExitFine;
}

void add_policy_options(CLI::App& sub, StreamArguments& a) {
  sub.add_option("--rule", a.rule, "glm4, deepseek_before_9405, deepseek, qwen2_moe or vllm")
      ->capture_default_str();
  sub.add_option("--mode,--policy", a.mode,
                 "auto, capture, always or never; else SGLANG_GLM4_MOE_DUAL_STREAM")
      ->type_name("MODE");
  sub.add_option("--threshold", a.threshold, "Tokens; else SGLANG_GLM4_MOE_DUAL_STREAM_THRESHOLD, else 1024")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 53));
  sub.add_option("--tokens", a.options.state.tokens, "Rows of the batch")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 53))
      ->capture_default_str();
  sub.add_flag("--capturing", a.options.state.capturing, "While a graph is captured");
}

}  // namespace

void add_streams(CLI::App& app, Action& action) {
  CLI::App* verb =
      app.add_subcommand("streams", "Check the order of work on streams: races, waits, overlap, captures");
  verb->require_subcommand(1);
  auto a = std::make_shared<StreamArguments>();

  CLI::App* sub = verb->add_subcommand("check", "Check stream programs (schema: reports/stream_program.md)");
  sub->add_option("FILE", a->files, "JSON, moecheck.stream_program/1; - is standard input")->required();
  sub->callback([a, &action] { action = [a] { return check(*a); }; });

  sub = verb->add_subcommand(
      "show", "A block as a program, checked, with its lanes; without BLOCK: all blocks and variants");
  sub->add_option("BLOCK", a->block, "Name of a block");
  sub->add_option("--variant", a->options.variant, "Of the block; the first one is sound");
  sub->add_option("--platform", a->platform, "cuda, hip or hip-aiter")
      ->check(CLI::IsMember({"cuda", "hip", "hip-aiter"}))
      ->capture_default_str();
  sub->add_option("--svg", a->svg, "Write the lanes as SVG")->type_name("FILE");
  sub->add_option("--json", a->json, "Write the program; - is standard output")->type_name("FILE|-");
  add_policy_options(*sub, *a);
  sub->callback([a, &action] { action = [a] { return show(*a); }; });

  sub = verb->add_subcommand("policy", "Does a block use its second stream?");
  add_policy_options(*sub, *a);
  sub->add_flag("!--no-alt-stream", a->options.state.alt_stream, "There is no second stream");
  sub->add_flag("--fused-shared-experts", a->options.state.fused_shared_experts,
                "Shared experts are fused into the routed ones");
  sub->add_flag("--all-to-all", a->options.state.all_to_all, "Dispatch goes through all-to-all (DeepEP)");
  sub->callback([a, &action] { action = [a] { return policy(*a); }; });

  sub = verb->add_subcommand(
      "explain", "Is this edge there, who makes it, what breaks without it, does it cost overlap?");
  sub->add_option("FILE", a->file, "A stream program; - is standard input")->required();
  sub->add_option("--edge", a->edge, "Two operations: A->B")->required()->type_name("A->B");
  sub->callback([a, &action] { action = [a] { return explain(*a); }; });
  add_streams_run(*verb, action);
  add_streams_import(*verb, action);
  add_streams_ranks(*verb, action);
}

}  // namespace moecheck::harness
