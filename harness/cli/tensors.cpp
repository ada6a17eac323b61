// moecheck run, moecheck judge: the user's own tensors.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>

#include "harness/atomic_file.h"
#include "harness/cli/cli.h"
#include "harness/runner.h"
#include "harness/safetensors.h"
#include "harness/text.h"
#include "harness/verdict_text.h"

namespace moecheck::harness {
namespace {

struct TensorArguments {
  std::string op, line, implementation = "reference", inputs, outputs, records;
};

// The case may be left out where the inputs carry it, as those dumped by `repro` do.
Case case_of(const TensorArguments& a) {
  const Operator& op = require_operator(a.op);
  std::string line = a.line;
  if (line.empty() && !a.inputs.empty()) {
    Metadata metadata;
    (void)read_safetensors(a.inputs, &metadata);
    line = metadata["case"];
  }
  if (line.empty())
    throw UsageError(fmt::format("--case is needed: write the sizes and the policy, such as --case '{}'",
                                 Case(op.schema()).str()));
  Case c = require_case(line, &op);
  require_accepted(c);
  return c;
}

int run(const TensorArguments& a) {
  const Case c = case_of(a);
  const Operator& op = operator_of(c);
  const Implementation& impl = require_implementation(a.implementation);
  if (const auto why = impl.unsupported(c))
    throw UsageError(fmt::format("{} does not support this case: {}", impl.name(), *why));
  const TensorSet inputs = require_inputs(c, a.inputs);
  TensorSet outputs(op.outputs(c));
  op.reset_outputs(c, inputs, outputs, 0);
  std::optional<Record> ended;
  try {
    impl.run(c, inputs, outputs, {});
  } catch (const LostRun& e) {
    ended = lost_record(c, impl, e.what(), e.timeout);
  } catch (const RunFailed& e) {
    ended = skipped_record(c, impl, Verdict::kFail, e.what());
  }
  if (ended) {
    fmt::print("{}", verdict_text(*ended, color_wanted(STDOUT_FILENO)));
    return kExitFailed;
  }
  op.blank_unspecified(c, inputs, outputs);
  write_safetensors(a.outputs, outputs, {{"case", c.str()}, {"implementation", std::string(impl.name())}});
  fmt::print("{}: outputs of {} for {}\n", printable(a.outputs), impl.name(), c.str());
  return kExitFine;
}

int judge(const TensorArguments& a) {
  const Case c = case_of(a);
  const Operator& op = operator_of(c);
  const TensorSet inputs = require_inputs(c, a.inputs);
  TensorSet outputs = read_safetensors(a.outputs);
  require_specs(outputs, op.outputs(c), a.outputs);
  const Record r =
      judge_outputs(c, inputs, outputs, a.implementation == "reference" ? "yours" : a.implementation);
  if (!a.records.empty()) write_file(a.records, to_json(r) + "\n");
  // What repeats this verdict is the judging of these files: nothing here can run the kernel that wrote them.
  std::string text = verdict_text(r, color_wanted(STDOUT_FILENO));
  if (const std::size_t at = text.rfind("moecheck repro "); at != std::string::npos)
    text.erase(text.rfind('\n', at) + 1);
  fmt::print("{}", text);
  if (is_failure(r.result.verdict))
    fmt::print("  moecheck judge {} --case {}{} --outputs {}\n", op.name(), shell_quoted(r.case_line),
               a.inputs.empty() ? "" : " --inputs " + shell_word(a.inputs), shell_word(a.outputs));
  fmt::print(
      "  metrics   largest relative error of a row {:.3g}, cosine {:.9g}, NMSE {:.3g}, calc_diff {:.3g} "
      "(they gate nothing)\n",
      r.result.metrics.max_relative_row, r.result.metrics.cosine, r.result.metrics.nmse,
      r.result.metrics.calc_diff);
  return exit_code({r});
}

CLI::App* add(CLI::App& app, const std::shared_ptr<TensorArguments>& a, const char* verb, const char* what) {
  CLI::App* sub = app.add_subcommand(verb, what);
  sub->add_option("operator", a->op,
                  "Operator; `moecheck list operators` shows tensor names, dtypes and shapes")
      ->required()
      ->type_name("OPERATOR");
  sub->add_option("--case", a->line,
                  "Sizes, dtypes and policy (read from the inputs' metadata when left out)")
      ->type_name("LINE");
  sub->add_option("--inputs", a->inputs, "Input tensors (generated from the case when left out)")
      ->type_name("IN.safetensors");
  return sub;
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  auto a = std::make_shared<TensorArguments>();
  CLI::App* sub = add(app, a, "run", "Run an implementation on your tensors");
  sub->add_option("--impl", a->implementation, "Implementation")->capture_default_str()->type_name("NAME");
  sub->add_option("--outputs", a->outputs, "Where its outputs go")->required()->type_name("OUT.safetensors");
  sub->callback([a, &action] { action = [a] { return run(*a); }; });
}

void add_judge(CLI::App& app, Action& action) {
  auto a = std::make_shared<TensorArguments>();
  CLI::App* sub = add(app, a, "judge", "Judge outputs that your kernel computed");
  sub->add_option("--outputs", a->outputs, "The outputs to judge")
      ->required()
      ->type_name("THEIRS.safetensors");
  sub->add_option("--name", a->implementation, "What to call them in the record")->type_name("NAME");
  sub->add_option("--records", a->records, "Write the record as a JSON line")->type_name("FILE.jsonl");
  sub->callback([a, &action] { action = [a] { return judge(*a); }; });
}

}  // namespace moecheck::harness
