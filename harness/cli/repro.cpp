// moecheck repro: one case again, with everything there is to see.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>

#include "harness/cli/cli.h"
#include "harness/runner.h"
#include "harness/safetensors.h"
#include "harness/text.h"
#include "harness/verdict_text.h"
#include "harness/workers.h"

namespace moecheck::harness {
namespace {

constexpr std::int64_t kPrintedElements = 64;

void print_tensor(const Tensor& t) {
  fmt::print("  {} {} {}\n", t.name(), reference::name(t.dtype()), to_string(t.shape()));
  const std::int64_t n = t.shape().numel();
  if (n == 0 || n > kPrintedElements) return;
  const std::int64_t columns = t.shape().rank == 0 ? 1 : t.shape()[t.shape().rank - 1];
  for (std::int64_t i = 0; i < n; ++i) {
    if (i % columns == 0) fmt::print("    ");
    fmt::print("{:>13.7g}{}", t.view().at(i), i % columns == columns - 1 ? "\n" : "");
  }
}

void print_tensors(const char* title, const TensorSet& set) {
  fmt::print("{}\n", title);
  for (const Tensor& t : set.tensors()) print_tensor(t);
}

// In a process of its own: a kernel that crashes must not take the dump with it.
int run_one(const Case& c, const Implementation& impl, const TensorSet& inputs, const std::string& dump) {
  const Operator& op = operator_of(c);
  std::string crash;
  TensorSet outputs(op.outputs(c));
  WorkerCallbacks callbacks;
  callbacks.work = [&](std::size_t) {
    op.reset_outputs(c, inputs, outputs);
    impl.run(c, inputs, outputs, {});
    std::string bytes;
    for (const Tensor& t : outputs.tensors())
      bytes.append(reinterpret_cast<const char*>(t.data()), t.bytes());
    return bytes;
  };
  callbacks.done = [&](std::size_t, std::string bytes) {
    std::size_t at = 0;
    for (Tensor& t : outputs.tensors()) {
      std::copy_n(bytes.data() + at, t.bytes(), reinterpret_cast<char*>(t.data()));
      at += t.bytes();
    }
  };
  callbacks.lost = [&](std::size_t, std::string how, bool) { crash = how; };
  run_in_workers(1, {1, 600}, callbacks);
  if (crash.empty()) {
    print_tensors(fmt::format("outputs of {}", impl.name()).c_str(), outputs);
    if (!dump.empty())
      write_safetensors(fmt::format("{}/outputs.{}.safetensors", dump, impl.name()), outputs,
                        {{"case", c.str()}});
  }
  const Implementation* one[] = {&impl};
  CampaignOptions options;
  options.timeout_seconds = 600;
  int code = kExitFine;
  for (const Record& r : run_campaign({c}, one, options)) {
    fmt::print("\n{}", verdict_text(r, color_wanted(STDOUT_FILENO)));
    for (const ClauseResult& clause : r.result.clauses)
      fmt::print("  {:<24} {}{}\n", clause.name, name(clause.verdict),
                 clause.detail.empty() ? "" : "  " + printable(clause.detail));
    code = exit_code({r});
  }
  return code;
}

int repro(const std::string& line, const std::vector<std::string>& names, const std::string& dump) {
  const Case c = require_case(line);
  require_accepted(c);
  const Operator& op = operator_of(c);
  std::vector<const Implementation*> chosen;
  for (const std::string& n : names) chosen.push_back(&require_implementation(n));
  if (chosen.empty())
    for (const Implementation* impl : implementations())
      if (impl->name() != "reference" && !impl->unsupported(c)) chosen.push_back(impl);
  for (const Implementation* impl : chosen)
    if (const auto why = impl->unsupported(c))
      throw UsageError(fmt::format("{} does not support this case: {}", impl->name(), *why));
  if (!dump.empty()) {
    std::error_code error;
    std::filesystem::create_directories(dump, error);
    if (error)
      throw UsageError(
          fmt::format("--dump {}: the folder cannot be made: {}", printable(dump), error.message()));
  }

  fmt::print("{}\n", c.str());
  const TensorSet inputs = require_inputs(c, "");
  print_tensors("inputs", inputs);
  const std::unique_ptr<Expected> expected = op.reference(c, inputs);
  TensorSet right(op.outputs(c));
  op.reference_outputs(c, inputs, *expected, right);
  print_tensors("expected", right);
  if (!dump.empty()) {
    write_safetensors(dump + "/inputs.safetensors", inputs, {{"case", c.str()}});
    write_safetensors(dump + "/expected.safetensors", right, {{"case", c.str()}});
  }
  int code = chosen.empty() ? kExitNothingRan : kExitFine;
  for (const Implementation* impl : chosen) code = std::max(code, run_one(c, *impl, inputs, dump));
  if (!dump.empty()) fmt::print("\ntensors: {}/*.safetensors\n", printable(dump));
  return code;
}

}  // namespace

void add_repro(CLI::App& app, Action& action) {
  struct Arguments {
    std::string line, dump;
    std::vector<std::string> implementations;
  };
  auto a = std::make_shared<Arguments>();
  CLI::App* sub = app.add_subcommand("repro", "Run one case again, verbosely; dump its tensors");
  sub->add_option("case", a->line, "The case line, quoted")->required()->type_name("LINE");
  sub->add_option("--impl", a->implementations, "Implementation, repeatable (all that support the case)")
      ->type_name("NAME")
      ->take_all();
  sub->add_option("--dump", a->dump, "Folder for inputs, expected and outputs as safetensors")
      ->type_name("DIR");
  sub->callback([a, &action] { action = [a] { return repro(a->line, a->implementations, a->dump); }; });
}

}  // namespace moecheck::harness
