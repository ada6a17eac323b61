// The adapter between cases and the CPU versions. Compiled twice: against the clean build of optimized/, where it defines the
// implementations "cpu" and "cpu-baseline", and against the build with planted faults, where it defines "cpu!NAME".
#include "harness/implementations/cpu.h"

#include <fmt/format.h>

#include <array>

#include "harness/implementations/cpu_adapter.h"
#include "harness/implementations/faults.h"
#include "harness/operators/attention.h"
#include "harness/operators/common.h"
#include "harness/operators/gating.h"
#include "harness/operators/moe_align.h"
#include "optimized/cpu/attention.h"
#include "optimized/cpu/combine.h"
#include "optimized/cpu/experts.h"
#include "optimized/cpu/gating.h"
#include "optimized/cpu/moe_align.h"
#include "optimized/cpu/moe_block.h"
#include "optimized/cpu/shared_experts.h"
#include "optimized/fault.h"

namespace moecheck::harness {
namespace {

namespace cpu = MOECHECK_OPTIMIZED;
using adapters::MOECHECK_OPTIMIZED::CpuAdapter, adapters::MOECHECK_OPTIMIZED::nothing_unsupported;
using reference::ConstView;
using reference::View;

using Inputs = const TensorSet&;
using Outputs = TensorSet&;

// Ids to physical experts (EPLB). Padded rows keep what the gate wrote; shared ids lie past the table.
void remap(const reference::GatingOptions& o, ConstView table, View ids) {
  const std::int64_t tokens = ids.shape[0];
  const bool masked =
      o.policy.padding != reference::Padding::kCompute && !cpu::fault(cpu::Fault::kRemapAfterPadding);
  const std::int64_t rows = masked ? tokens - o.padded_tokens : tokens;
  for (std::int64_t i = 0; i < rows * o.slots(); ++i) {
    const std::int64_t id = load_int(ids.dtype, ids.data, i);
    if (id >= 0 && id < o.experts) ids.set_int(i, table.int_at(id));
  }
}

void run_gating(const Case& c, Inputs in, Outputs out, cpu::CpuOptions options) {
  const reference::GatingOptions o = gating_options(c);
  cpu::gating(o, in.view("router_logits"), in.view("e_score_correction_bias"), out.view("topk_weights"),
              out.view("topk_ids"), options);
  if (const ConstView table = in.view("logical_to_physical")) remap(o, table, out.view("topk_ids"));
}

void run_routed_scaling(const Case& c, Inputs in, Outputs out, cpu::CpuOptions options) {
  cpu::combine(combine_options(c), combine_inputs(in), out.view("out"), options);
}

void run_shared_experts(const Case& c, Inputs in, Outputs out, cpu::CpuOptions options) {
  if (c.choice("form") == "slots") {
    cpu::insert_shared_slots(slot_insertion_options(c), in.view("topk_ids"), in.view("topk_weights"),
                             in.view("gate_logits"), out.view("out_ids"), out.view("out_weights"), options);
    return;
  }
  const cpu::FatSharedExpert fat{in.view("gate"),       in.view("up"),       in.view("down"),
                                 in.view("gate_scale"), in.view("up_scale"), in.view("down_scale"),
                                 weight_scale(c)};
  cpu::split_shared_experts(fat,
                            {out.view("w13"), out.view("w2"), out.view("w13_scale"), out.view("w2_scale")});
}

void run_moe_align(const Case& c, Inputs in, Outputs out, cpu::CpuOptions options) {
  if (is_convention(c, "aiter")) {
    cpu::moe_sorting(sorting_options(c, in), in.view("topk_ids"), in.view("topk_weights"),
                     out.view("sorted_ids"), out.view("sorted_weights"), out.view("sorted_expert_ids"),
                     out.view("num_valid_ids"));
  } else if (is_convention(c, "permute")) {
    const reference::PermuteOptions o = permute_options(c, in);
    cpu::permute(o, in.view("topk_ids"), out.view("expert_first_token_offset"), out.view("row_of_slot"),
                 out.view("slot_of_row"), out.view("m_indices"));
    cpu::permute_rows(o, in.view("hidden_states"), out.view("slot_of_row"), out.view("permuted"), options);
    cpu::unpermute(o, out.view("permuted"), in.view("topk_weights"), out.view("row_of_slot"), out.view("out"),
                   options);
  } else {
    cpu::moe_align_block_size(align_options(c, in), in.view("topk_ids"), out.view("sorted_token_ids"),
                              out.view("expert_ids"), out.view("num_tokens_post_padded"));
  }
}

void run_experts(const Case& c, Inputs in, Outputs out, cpu::CpuOptions options) {
  cpu::experts(experts_options(c), experts_inputs(in), out.view("out"), options);
}

void run_moe_block(const Case& c, Inputs in, Outputs out, cpu::CpuOptions options) {
  cpu::moe_block(moe_block_options(c), moe_block_inputs(in), {out.view("out"), {}, {}}, options);
}

void run_attention(const Case& c, Inputs in, Outputs out, cpu::CpuOptions options) {
  cpu::attention(attention_config(c), attention_weights(in), in.view("hidden_states"), out.view("out"),
                 c.integer("chunk"), options);
}

// Dtype of the experts' weights: the activations', or e4m3 where they are quantized.
DType weight_dtype(const Case& c) { return c.choice("quant") == "none" ? c.dtype("dtype") : DType::kE4M3FN; }

const std::array kAdapters = {
    CpuAdapter{"gating", [](const Case& c) { return cpu::gating_unsupported(gating_options(c)); }, run_gating},
    CpuAdapter{"routed_scaling", nothing_unsupported, run_routed_scaling},
    CpuAdapter{"shared_experts", nothing_unsupported, run_shared_experts},
    CpuAdapter{"moe_align", nothing_unsupported, run_moe_align},
    CpuAdapter{"experts",
            [](const Case& c) { return cpu::experts_unsupported(experts_options(c), weight_dtype(c)); },
            run_experts},
    CpuAdapter{"moe_block",
            [](const Case& c) { return cpu::moe_block_unsupported(moe_block_options(c), weight_dtype(c)); },
            run_moe_block},
    CpuAdapter{"attention", nothing_unsupported, run_attention},
    adapters::MOECHECK_OPTIMIZED::kMqaLogits,
    adapters::MOECHECK_OPTIMIZED::kIndexerCache,
    adapters::MOECHECK_OPTIMIZED::kMlaPrepare,
};

const CpuAdapter* adapter_of(const Case& c) {
  for (const CpuAdapter& a : kAdapters)
    if (a.op == c.operator_name()) return &a;
  return nullptr;
}

class CpuImplementation : public Implementation {
 public:
  CpuImplementation(std::string name, std::string summary)
      : name_(std::move(name)), summary_(std::move(summary)) {}

  std::string_view name() const override { return name_; }
  std::string_view summary() const override { return summary_; }

  std::optional<std::string> unsupported(const Case& c) const override {
    const CpuAdapter* a = adapter_of(c);
    if (a == nullptr) return fmt::format("there is no CPU version of {}", c.operator_name());
    return a->unsupported(c);
  }

  void run(const Case& c, Inputs inputs, Outputs outputs, const RunOptions& options) const override {
    adapter_of(c)->run(c, inputs, outputs, {options.threads});
  }

 private:
  std::string name_, summary_;
};

#ifdef MOECHECK_FAULTS

class FaultyCpu final : public CpuImplementation {
 public:
  explicit FaultyCpu(const cpu::FaultInfo& info)
      : CpuImplementation(fmt::format("cpu!{}", info.name), std::string(info.what)), info_(info) {}

  std::optional<std::string> unsupported(const Case& c) const override {
    if (c.operator_name() != info_.op) return fmt::format("this fault is in {}", info_.op);
    return CpuImplementation::unsupported(c);
  }

  void run(const Case& c, Inputs inputs, Outputs outputs, const RunOptions& options) const override {
    const cpu::ScopedFault chosen(info_.id);
    CpuImplementation::run(c, inputs, outputs, options);
  }

 private:
  cpu::FaultInfo info_;
};

#else

class BaselineCpu final : public CpuImplementation {
 public:
  using CpuImplementation::CpuImplementation;
  void run(const Case& c, Inputs inputs, Outputs outputs, const RunOptions& options) const override {
    cpu::use_baseline_target(true);
    CpuImplementation::run(c, inputs, outputs, options);
    cpu::use_baseline_target(false);
  }
};

#endif

}  // namespace

#ifdef MOECHECK_FAULTS

std::span<const PlantedFault> planted_faults() {
  static const std::vector<PlantedFault> all = [] {
    std::vector<PlantedFault> list;
    for (const cpu::FaultInfo& f : cpu::faults())
      list.push_back({f.name, f.op, f.class_, f.what, f.upstream});
    return list;
  }();
  return all;
}

std::unique_ptr<Implementation> make_faulty_cpu(std::string_view fault) {
  for (const cpu::FaultInfo& f : cpu::faults())
    if (f.name == fault) return std::make_unique<FaultyCpu>(f);
  throw std::logic_error(fmt::format("there is no fault '{}'", fault));
}

#else

const Implementation& cpu_implementation() {
  static const CpuImplementation impl("cpu",
                                      fmt::format("Highway SIMD ({} here) and threads", cpu::cpu_target()));
  return impl;
}

const Implementation& cpu_baseline_implementation() {
  static const BaselineCpu impl("cpu-baseline",
                                "the same sources on the lowest instruction set, without fused multiply-add");
  return impl;
}

#endif

}  // namespace moecheck::harness
