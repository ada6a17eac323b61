// moecheck diagnose scale: where routed_scaling_factor went, from the output alone.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "harness/cli/cli.h"
#include "harness/operators/common.h"
#include "harness/operators/operators.h"
#include "harness/safetensors.h"
#include "harness/text.h"
#include "reference/scale_diagnosis.h"

namespace moecheck::harness {
namespace {

struct DiagnoseArguments {
  std::string line, implementation, inputs, outputs, tensors;
  double rsf = 0;
  int ep_size = 1;
};

std::vector<double> numbers(const Tensor& t) {
  std::vector<double> v(static_cast<std::size_t>(t.shape().numel()));
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = t.view().at(static_cast<std::int64_t>(i));
  return v;
}

int report(const reference::ScaleFit& fit, const reference::DiagnosisContext& context) {
  const reference::ScaleDiagnosis d = reference::diagnose_scale(fit.alpha, fit.beta, context);
  fmt::print(
      "out = {:.4g} * routed + {:.4g} * shared    (expected {:.4g} and 1; residual {:.2g} of the output)\n",
      fit.alpha, fit.beta, context.routed_scaling_factor, fit.residual);
  fmt::print("{}\n", reference::describe(fit, context));
  return d.correct && fit.residual < 0.1 ? kExitFine : kExitFailed;
}

// A file with tensors out, routed and shared, from anywhere.
int from_tensors(const DiagnoseArguments& a) {
  const TensorSet set = read_safetensors(a.tensors);
  for (const char* needed : {"out", "routed", "shared"}) {
    const Tensor* t = set.find(needed);
    if (t == nullptr)
      throw UsageError(fmt::format(
          "{}: tensor '{}' is missing: give out (what the block returned), routed (the experts' sum with "
          "weights that add up to 1) and shared (the shared experts' output)",
          printable(a.tensors), needed));
    if (t->shape().numel() != set.find("out")->shape().numel())
      throw UsageError(
          fmt::format("{}: tensor '{}' has shape {}, 'out' has {}: they must have as many elements",
                      printable(a.tensors), needed, to_string(t->shape()), to_string(set.at("out").shape())));
  }
  if (a.rsf <= 0) throw UsageError("--rsf is needed with --tensors: the model's routed_scaling_factor");
  reference::DiagnosisContext context;
  context.routed_scaling_factor = a.rsf;
  context.ep_size = a.ep_size;
  const std::vector<double> out = numbers(set.at("out")), routed = numbers(set.at("routed")),
                            shared = numbers(set.at("shared"));
  return report(reference::fit_scale(out, routed, shared), context);
}

int from_case(const DiagnoseArguments& a) {
  const Case c = require_case(a.line, &moe_block_operator());
  require_accepted(c);
  const TensorSet inputs = require_inputs(c, a.inputs);
  TensorSet outputs(moe_block_operator().outputs(c));
  if (!a.outputs.empty()) {
    outputs = read_safetensors(a.outputs);
    require_specs(outputs, moe_block_operator().outputs(c), a.outputs);
  } else {
    const Implementation& impl = require_implementation(a.implementation.empty() ? "cpu" : a.implementation);
    if (const auto why = impl.unsupported(c))
      throw UsageError(fmt::format("{} does not support this case: {}", impl.name(), *why));
    impl.run(c, inputs, outputs, {});
  }
  const reference::MoeBlockOptions options = moe_block_options(c);
  const reference::MoeBlockResult block = reference::moe_block(moe_block_inputs(inputs), options);
  reference::DiagnosisContext context;
  context.routed_scaling_factor = c.real("rsf");
  context.ep_size = static_cast<int>(options.ep_size);
  context.shared_slots = static_cast<int>(options.shared_experts);
  return report(reference::fit_scale(numbers(outputs.at("out")), block.routed, block.shared), context);
}

}  // namespace

void add_diagnose(CLI::App& app, Action& action) {
  CLI::App* diagnose = app.add_subcommand("diagnose", "Name a bug from the outputs");
  diagnose->require_subcommand(1);
  auto a = std::make_shared<DiagnoseArguments>();
  CLI::App* sub =
      diagnose->add_subcommand("scale", "Fit out = alpha*routed + beta*shared and name the scaling bug");
  CLI::Option* line = sub->add_option("--case", a->line, "A moe_block case line")->type_name("LINE");
  sub->add_option("--impl", a->implementation, "Implementation to run on it (cpu)")->type_name("NAME");
  sub->add_option("--inputs", a->inputs, "Your inputs (generated from the case when left out)")
      ->type_name("IN.safetensors");
  sub->add_option("--outputs", a->outputs, "Your outputs, instead of --impl")
      ->type_name("THEIRS.safetensors");
  sub->add_option("--tensors", a->tensors, "Instead of a case: a file with tensors out, routed and shared")
      ->type_name("FILE.safetensors")
      ->excludes(line);
  sub->add_option("--rsf", a->rsf, "routed_scaling_factor, with --tensors");
  sub->add_option("--ep-size", a->ep_size, "Expert-parallel ranks, with --tensors")->capture_default_str();
  sub->callback([a, &action] {
    action = [a] {
      if (!a->tensors.empty()) return from_tensors(*a);
      if (a->line.empty())
        throw UsageError(
            "--case or --tensors is needed: a moe_block case line, or a file with out, routed and shared");
      return from_case(*a);
    };
  });
}

}  // namespace moecheck::harness
