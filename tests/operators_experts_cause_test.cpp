// Failures explained: the likely cause that the contracts of the expert operators name for well-known mistakes.
#include <gtest/gtest.h>

#include "tests/operators_support.h"

namespace moecheck::harness {
namespace {

void write(TensorSet& outputs, const std::vector<reference::Bounded>& values) {
  write_rounded(outputs.at("out"), values);
}

std::string cause(const char* line, const Spoil& spoil) {
  const Case c = parse_case(line);
  const Operator& op = operator_of(c);
  const TensorSet inputs = generated(c);
  TensorSet outputs = reference_run(c, inputs);
  spoil(c, inputs, outputs);
  return op.likely_cause(c, inputs, *op.reference(c, inputs), outputs);
}

void expect_cause(const char* line, const char* part, const Spoil& spoil) {
  const std::string text = cause(line, spoil);
  EXPECT_NE(text.find(part), std::string::npos) << line << ": '" << text << "' lacks '" << part << "'";
}

// ---- Scales: other coefficients of R and S

Spoil with_plan(reference::ScalePlan plan) {
  return [plan](const Case& c, const TensorSet& inputs, TensorSet& outputs) {
    reference::CombineOptions options = combine_options(c);
    options.plan = plan;
    write(outputs, reference::combine(combine_inputs(inputs), options));
  };
}

TEST(ExpertOperatorsCause, NamesScaleBugs) {
  using reference::ScalePlace;
  using reference::ScalePlan;
  expect_cause("routed_scaling policy=sglang_cuda rsf=2.827", "scale_missing", with_plan({}));
  expect_cause("routed_scaling policy=sglang_cuda rsf=2.827", "scale_twice",
               with_plan(ScalePlan::of(ScalePlace::kReduce).with(ScalePlace::kRunner)));
  expect_cause("routed_scaling policy=vllm_runner rsf=2.827", "scale_missing", with_plan({}));
  ScalePlan fused = ScalePlan::of(ScalePlace::kReduce, true);
  expect_cause("routed_scaling policy=sglang_cuda fused=1 rsf=2.827", "pre_divided_without_output_scale",
               with_plan(ScalePlan{.fused_shared = true}));
  // vllm#44313: an output scale over a slot of weight 1; the weights hold the factor already.
  expect_cause("routed_scaling policy=aiter_fused rsf=2.827", "sglang#35152", with_plan(fused));
  EXPECT_EQ(cause("routed_scaling policy=sglang_cuda", [](auto&&...) {}), "");
}

TEST(ExpertOperatorsCause, NamesScaleBugsOfTheBlock) {
  // The output of R and S with other coefficients.
  const auto mixed = [](double alpha, double beta) {
    return [=](const Case& c, const TensorSet& inputs, TensorSet& outputs) {
      const reference::MoeBlockResult r =
          reference::moe_block(moe_block_inputs(inputs), moe_block_options(c));
      for (std::size_t i = 0; i < r.out.size(); ++i)
        outputs.view("out").set(static_cast<std::int64_t>(i), alpha * r.routed[i] + beta * r.shared[i]);
    };
  };
  for (const char* line :
       {"moe_block policy=vllm_cuda rsf=2.827", "moe_block policy=sglang_cuda_fused rsf=2.827",
        "moe_block policy=sglang_hip_aiter rsf=2.827", "moe_block rsf=2.827"}) {
    expect_cause(line, "vllm#44313", mixed(2.827, 2.827));
    expect_cause(line, "scale_missing", mixed(1, 1));
    expect_cause(line, "scale_twice", mixed(2.827 * 2.827, 1));
    expect_cause(line, "shared_lost", mixed(2.827, 0));
    expect_cause(line, "sglang#28237", mixed(2.827, 1 / 2.827));
    EXPECT_EQ(cause(line, mixed(2.827, 1)), "");
    EXPECT_EQ(cause(line, [](const Case&, const TensorSet&,
                             TensorSet& o) { fill_normal(o.at("out"), Random(3, "noise"), 1); }),
              "");
  }
  expect_cause("moe_block policy=vllm_cuda n_shared=0 rsf=2.827", "scale_missing", mixed(1, 0));
}

// ---- Experts: other options, other inputs

Spoil with_options(void (*change)(reference::ExpertsOptions&)) {
  return [change](const Case& c, const TensorSet& inputs, TensorSet& outputs) {
    reference::ExpertsOptions options = experts_options(c);
    change(options);
    write(outputs, reference::experts(experts_inputs(inputs), options));
  };
}

Spoil with_inputs(void (*change)(TensorSet&)) {
  return [change](const Case& c, const TensorSet& inputs, TensorSet& outputs) {
    TensorSet changed = inputs;
    change(changed);
    outputs = reference_run(c, changed);
  };
}

TEST(ExpertOperatorsCause, NamesMistakesOfExperts) {
  using reference::ExpertsOptions;
  using reference::GateUpLayout;
  using reference::RouterWeight;
  for (const char* line :
       {"experts topk=3", "experts policy=triton topk=3", "experts policy=vllm_fp8 topk=3"}) {
    expect_cause(line, "read as up_gate instead of gate_up",
                 with_options([](ExpertsOptions& o) { o.activation.layout = GateUpLayout::kUpGate; }));
    expect_cause(line, "read as interleaved instead of gate_up",
                 with_options([](ExpertsOptions& o) { o.activation.layout = GateUpLayout::kInterleaved; }));
    expect_cause(line, "weights are not applied",
                 with_options([](ExpertsOptions& o) { o.router_weight = RouterWeight::kNone; }));
    expect_cause(line, "multiplies the input",
                 with_options([](ExpertsOptions& o) { o.router_weight = RouterWeight::kInput; }));
    expect_cause(line, "slot 2 of 3", with_inputs([](TensorSet& in) {
                   for (std::int64_t s = 2; s < in.view("topk_ids").shape.numel(); s += 3)
                     in.view("topk_ids").set_int(s, -1);
                 }));
    expect_cause(line, "applied twice", with_inputs([](TensorSet& in) {
                   const View w = in.view("topk_weights");
                   for (std::int64_t s = 0; s < w.shape.numel(); ++s)
                     w.set(s, ConstView(w).at(s) * ConstView(w).at(s));
                 }));
  }
  expect_cause("experts data=minus_one tokens=9 topk=3", "computed as expert 0",
               with_inputs([](TensorSet& in) {
                 const View ids = in.view("topk_ids");
                 for (std::int64_t s = 0; s < ids.shape.numel(); ++s)
                   ids.set_int(s, std::max<std::int64_t>(0, ConstView(ids).int_at(s)));
               }));
  expect_cause("experts policy=sglang_triton", "not applied in the reduce",
               with_options([](ExpertsOptions& o) { o.reduce_scale = 1; }));
  EXPECT_EQ(cause("experts", [](const Case&, const TensorSet&,
                                TensorSet& o) { fill_normal(o.at("out"), Random(3, "noise"), 1); }),
            "");
}

TEST(ExpertOperatorsCause, NamesMistakesOfSharedSlots) {
  const auto times = [](double routed, double shared) {
    return [=](const Case& c, const TensorSet&, TensorSet& o) {
      const View w = o.view("out_weights");
      for (std::int64_t i = 0; i < w.shape.numel(); ++i)
        w.set(i, ConstView(w).at(i) * (i % w.shape[1] < c.integer("topk") ? routed : shared));
    };
  };
  expect_cause("shared_experts", "the division by rsf is missing", times(1, 2.5));
  expect_cause("shared_experts policy=sglang_flag", "divided by rsf once more", times(1, 0.4));
  expect_cause("shared_experts n_shared=2", "the divisor includes the shared slots", times(1 / 1.8, 1 / 1.8));
  expect_cause("shared_experts n_shared=3", "each chunk has full weight", times(1, 1.0 / 3));
  expect_cause("shared_experts policy=split n_shared=2", "stacked [gate; up] was cut",
               [](const Case&, const TensorSet& in, TensorSet& o) {
                 std::copy_n(in.at("gate").data(), in.at("gate").bytes(), o.at("w13").data());
               });
}

}  // namespace
}  // namespace moecheck::harness
