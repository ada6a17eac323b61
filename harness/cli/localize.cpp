// moecheck localize: the first operator of a served model whose output leaves its bound.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <thread>

#include "harness/cli/cli.h"
#include "harness/glm4_moe/bpe_tokenizer.h"
#include "harness/localize/dump.h"
#include "harness/localize/localize.h"
#include "harness/safetensors.h"
#include "harness/text.h"
#include "harness/verdict_text.h"

namespace moecheck::harness {
namespace {

struct LocalizeArguments {
  std::string model, dump, against, dtype = "f32", fault, prompt, output, save;
  ServedMoeOptions moe;
};

// What the evaluator would send, shortened: long enough that every expert is met.
constexpr const char* kPrompt =
    "Question: Olivia has 12 boxes of pencils with 31 pencils in each. She gives 19 pencils to Simon. How "
    "many pencils does "
    "Olivia have left?\nAnswer:";

std::string engine_name(const LocalizeArguments& a) {
  return a.fault.empty() ? a.moe.implementation : a.moe.implementation + "!" + a.fault;
}

TensorSet make_dump(const Glm4MoeCheckpoint& model, DType dtype, const LocalizeArguments& a) {
  const auto tokenizer =
      load_bpe_tokenizer((std::filesystem::path(model.folder) / "tokenizer.json").string(), model.end_ids);
  const std::vector<TokenId> ids = tokenizer->encode(a.prompt.empty() ? kPrompt : a.prompt);
  if (ids.empty()) throw UsageError("--prompt is empty");
  return dump_forward(model, dtype, a.moe, ids);
}

void write_failure(const JudgedOperator& op, const std::string& folder) {
  std::filesystem::create_directories(folder);
  const std::string base =
      (std::filesystem::path(folder) / fmt::format("layer{}.{}", op.layer, op.name)).string();
  write_safetensors(base + ".inputs.safetensors", op.inputs, {{"case", op.record.case_line}});
  write_safetensors(base + ".outputs.safetensors", op.outputs);
  fmt::print("  moecheck judge {} --case {} --inputs {} --outputs {}\n", op.record.operator_name,
             shell_quoted(op.record.case_line), shell_word(base + ".inputs.safetensors"),
             shell_word(base + ".outputs.safetensors"));
}

void print_failure(const JudgedOperator& op, const std::string& folder) {
  Record shown = op.record;
  if (shown.case_line.empty()) shown.case_line = op.where();
  std::string text = verdict_text(shown, color_wanted(STDOUT_FILENO));
  // The outputs are a file's: repro would run something else.
  if (const std::size_t at = text.rfind("moecheck repro "); at != std::string::npos)
    text.erase(text.rfind('\n', at) + 1);
  fmt::print("{}", text);
  if (op.record.case_line.empty()) return;
  if (folder.empty())
    fmt::print("  --output DIR writes its tensors and the line that judges them again\n");
  else
    write_failure(op, folder);
}

int print(const Localization& l, const LocalizeArguments& a) {
  std::size_t failing = 0;
  for (const JudgedOperator& op : l.operators) {
    const Judgement& j = op.record.result;
    fmt::print("{:<10} {:<22} largest error {:>6} of its bound, {}\n", name(j.verdict), op.where(),
               ratio_text(j.headroom), count(j.elements, "element"));
    failing += leaves_bound(j.verdict);
  }
  if (!l.missing.empty())
    fmt::print("not in the dump: {}\n", printable(fmt::format("{}", fmt::join(l.missing, ", "))));
  if (const JudgedOperator* first = l.first_failure()) print_failure(*first, a.output);
  if (failing > 1)
    fmt::print("{} leave their bounds; each was judged from its own inputs\n",
               count(static_cast<std::int64_t>(failing), "operator"));
  fmt::print("{}\n", summary(l));
  if (l.operators.empty()) return kExitNothingRan;
  return failing > 0 ? kExitFailed : kExitFine;
}

int run(LocalizeArguments a) {
  if (a.dtype != "f32" && a.dtype != "bf16")
    throw UsageError(fmt::format("--dtype '{}' is not known: use f32 or bf16", printable(a.dtype)));
  const DType dtype = a.dtype == "f32" ? DType::kF32 : DType::kBF16;
  const auto model = load_glm4_moe(a.model, dtype);
  if (!a.fault.empty()) a.moe.fault = parse_served_fault(a.fault, model->config);
  a.moe.threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  if (!a.dump.empty() && !a.fault.empty())
    throw UsageError("--fault with --dump: a dump is what somebody else's engine did; leave one of them out");
  // Where another engine rounds to bf16 inside its MoE block is not known.
  if (!a.dump.empty() && dtype == DType::kBF16 && a.moe.policy.empty()) a.moe.policy = "any";
  const TensorSet dump = a.dump.empty() ? make_dump(*model, dtype, a) : read_safetensors(a.dump);
  if (!a.save.empty()) write_safetensors(a.save, dump, {{"moecheck.dump", "1"}});
  const Localization l = localize(*model, dump, a.moe, a.dump.empty() ? engine_name(a) : a.dump);
  const int code = print(l, a);
  if (a.against.empty()) return code;
  const TensorSet other = read_safetensors(a.against);
  const Localization theirs = localize(*model, other, a.moe, a.against);
  fmt::print("\nagainst {}\n", printable(a.against));
  for (const TensorDifference& d : differences(dump, other))
    fmt::print("  {:<28} largest difference {:.3g}\n", printable(d.name), d.largest);
  fmt::print("{}: {}\n", printable(a.against), summary(theirs));
  return std::max(code, theirs.first_failure() != nullptr ? kExitFailed : kExitFine);
}

}  // namespace

void add_localize(CLI::App& app, Action& action) {
  auto a = std::make_shared<LocalizeArguments>();
  CLI::App* sub = app.add_subcommand("localize", "Name the layer and operator of a model that is wrong");
  sub->add_option("--model", a->model, "A GLM-4-MoE checkpoint's folder")->required()->type_name("DIR");
  sub->add_option(
         "--dump", a->dump,
         "What an engine's operators read and wrote: scripts/dump_hf.py writes one; default: run the "
         "optimized decoder")
      ->type_name("FILE.safetensors");
  sub->add_option("--against", a->against, "A second engine's dump of the same tokens")
      ->type_name("FILE.safetensors");
  sub->add_option("--moe-impl", a->moe.implementation, "Implementation of the MoE blocks")
      ->capture_default_str();
  sub->add_option("--moe-policy", a->moe.policy, "By whose policy the MoE blocks run and are judged");
  sub->add_flag_callback(
      "--fused", [a] { a->moe.fused = true; }, "Shared experts as slots of the top-k");
  sub->add_option("--fault", a->fault, "Plant a fault: NAME of `moecheck list faults`, or NAME@LAYER")
      ->type_name("NAME[@LAYER]");
  sub->add_option("--dtype", a->dtype, "Of weights and activations: f32 or bf16")->capture_default_str();
  sub->add_option("--prompt", a->prompt, "Text to run; default: a word problem")->type_name("TEXT");
  sub->add_option("--output", a->output, "Write the failing operator's tensors here")->type_name("DIR");
  sub->add_option("--save-dump", a->save, "Write the dump")->type_name("FILE.safetensors");
  sub->callback([a, &action] { action = [a] { return run(*a); }; });
}

}  // namespace moecheck::harness
