#include "harness/streams/moe_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "harness/operator.h"
#include "harness/operators/common.h"
#include "harness/random.h"
#include "harness/runner.h"
#include "optimized/gpu/moe_block.h"

namespace moecheck::harness::streams {
namespace {

using reference::ConstView;
using reference::DType;
using reference::ScalePlace;
using reference::Shape;
using reference::View;

std::size_t bytes_of(const ConstView& v) {
  return static_cast<std::size_t>(v.shape.numel() * reference::size_bytes(v.dtype));
}
std::size_t aligned(std::size_t n) { return (n + 255) / 256 * 256; }

ConstView first_of(const ConstView& m) {
  return m ? ConstView{m.data, m.dtype, Shape(1, m.shape[0], m.shape[1])} : ConstView{};
}

}  // namespace

Case moe_run_case(const Case& c, const Platform& platform) {
  Case of = c;
  of.set("place", platform.cuda ? "reduce" : platform.aiter ? "topk_weights" : "output");
  return of;
}

MoeRun::MoeRun(Case c) : case_(std::move(c)) {
  if (case_.operator_name() != "moe_block")
    throw UsageError(
        fmt::format("the block runs a case of moe_block, not of {}: --case 'moe_block tokens=16 hidden=256'",
                    case_.operator_name()));
  const Operator& op = operator_of(case_);
  if (const auto why = op.refusal(case_)) throw UsageError(*why);
  const auto need = [&](bool ok, const char* what) {
    if (!ok) throw UsageError(fmt::format("{}: a block on two streams has {}", case_.str(), what));
  };
  need(case_.integer("fused") == 0, "shared experts of their own: set fused=0");
  need(case_.integer("n_shared") > 0, "shared experts: set n_shared=1");
  need(case_.integer("shared_gate") == 0, "shared experts without a gate of their own: set shared_gate=0");
  need(case_.integer("ep_size") == 1, "all experts: set ep_size=1");
  need(case_.choice("logits") == "f32", "router logits in f32: set logits=f32");
  inputs_ = TensorSet(op.inputs(case_));
  op.generate(case_, inputs_);
  options_ = moe_block_options(case_);
  const reference::MoeBlockInputs in = moe_block_inputs(inputs_);
  tokens_ = in.hidden_states.shape[0];
  const optimized::MoeBlockLayout layout(options_, in.experts.w13.dtype, tokens_);
  routed_ = layout.routed;
  shared_ = layout.shared;
  if (options_.effective_plan().has(ScalePlace::kReduce))
    routed_.reduce_scale = options_.combine.routed_scaling_factor;

  // Logits of a few units, so that scores differ.
  const std::int64_t experts = options_.gating.experts, hidden = options_.experts.hidden;
  const DType dtype = options_.experts.dtype;
  std::vector<std::byte> w_gate(static_cast<std::size_t>(experts * hidden * reference::size_bytes(dtype)));
  const Random random(case_.seed, "w_gate");
  const double scale = 2 / std::sqrt(static_cast<double>(std::max<std::int64_t>(hidden, 1)));
  const View gate{w_gate.data(), dtype, Shape(experts, hidden)};
  for (std::int64_t i = 0; i < experts * hidden; ++i)
    gate.set(i, scale * random.normal(static_cast<std::uint64_t>(i)));
  gate_.add(gate);
  gate_.add(in.e_score_correction_bias);
  const std::vector<std::byte> zero_ids(static_cast<std::size_t>(tokens_) * 4);
  for (const ConstView& v :
       {first_of(in.shared_w13), first_of(in.shared_w2), first_of(in.shared_w13_scale),
        first_of(in.shared_w2_scale), ConstView{zero_ids.data(), DType::kI32, Shape(tokens_, 1)}})
    of_shared_.add(v);
  for (const ConstView& v : {in.experts.w13, in.experts.w2, in.experts.w13_scale, in.experts.w2_scale})
    of_experts_.add(v);
}

MoeRun::~MoeRun() = default;

void MoeRun::Packed::add(ConstView tensor) {
  tensors.push_back(tensor);
  offsets.push_back(bytes.size());
  if (!tensor) return;
  const auto* const from = static_cast<const std::byte*>(tensor.data);
  bytes.insert(bytes.end(), from, from + bytes_of(tensor));
  bytes.resize(aligned(bytes.size()));
}

ConstView MoeRun::Packed::at(const std::byte* data, std::size_t i) const {
  if (!tensors[i]) return {};
  return {data + offsets[i], tensors[i].dtype, tensors[i].shape};
}

Glm4Moe::Bytes MoeRun::bytes(const StreamKernels& kernels) const {
  const auto signed_of = [](std::size_t n) { return static_cast<std::int64_t>(std::max<std::size_t>(n, 1)); };
  Glm4Moe::Bytes b;
  b.hidden = std::max<std::int64_t>(
      1, tokens_ * options_.experts.hidden * reference::size_bytes(options_.experts.dtype));
  b.logits = std::max<std::int64_t>(1, tokens_ * options_.gating.experts * 4);
  b.topk = std::max<std::int64_t>(1, tokens_ * routed_.topk * 8);
  b.w_gate = signed_of(gate_.bytes.size());
  b.w_shared = signed_of(of_shared_.bytes.size());
  b.w_experts = signed_of(of_experts_.bytes.size());
  const DType weights = of_experts_.tensors[0].dtype;
  b.workspace = signed_of(std::max(kernels.experts_workspace(routed_, weights, tokens_),
                                   kernels.experts_workspace(shared_, weights, tokens_)));
  return b;
}

std::span<const std::byte> MoeRun::initial(const reference::ProgramBuffer& buffer) const {
  if (buffer.name == "w_gate") return gate_.bytes;
  if (buffer.name == "w_shared") return of_shared_.bytes;
  if (buffer.name == "w_experts") return of_experts_.bytes;
  if (buffer.name != "x") return {};
  const Tensor& x = inputs_.at("hidden_states");
  return {x.data(), x.bytes()};
}

void MoeRun::launch(const BoundOperation& op, const StreamKernels& kernels, gpu::Runtime& runtime) {
  const std::string& name = op.operation().name;
  const Shape rows(tokens_, options_.experts.hidden);
  const DType dtype = options_.experts.dtype;
  if (name == "S") return shared_experts(op, kernels);
  if (name == "T") return top_k(op, kernels);
  if (name == "E") return routed_experts(op, kernels);
  if (name == "G")
    return kernels.router_logits({op.reads[0].data, dtype, rows}, gate_.at(op.reads[1].data, 0),
                                 {op.writes[0].data, DType::kF32, Shape(tokens_, options_.gating.experts)},
                                 op.stream);
  if (name == "M")
    return kernels.scale_rows({op.writes[0].data, dtype, rows},
                              static_cast<float>(options_.combine.routed_scaling_factor), op.stream);
  if (name == "A")
    return kernels.add_rows({op.reads[1].data, dtype, rows}, {op.writes[0].data, dtype, rows}, op.stream);
  // P, clone, R, N and the like: a copy, unless it is in place.
  if (op.reads.empty() || op.writes.empty() || op.reads[0].data == op.writes[0].data) return;
  runtime.copy(op.writes[0].data, op.reads[0].data,
               static_cast<std::size_t>(std::min(op.reads[0].bytes, op.writes[0].bytes)), op.stream);
}

void MoeRun::shared_experts(const BoundOperation& op, const StreamKernels& kernels) const {
  const std::byte* const w = op.reads[1].data;
  reference::ExpertsInputs in;
  in.hidden_states = {op.reads[0].data, options_.experts.dtype, Shape(tokens_, options_.experts.hidden)};
  in.weights = {of_shared_.at(w, 0), of_shared_.at(w, 1), of_shared_.at(w, 2), of_shared_.at(w, 3)};
  in.topk_ids = of_shared_.at(w, 4);
  kernels.experts(shared_, in, {op.writes[0].data, options_.experts.dtype, in.hidden_states.shape},
                  op.scratch.empty() ? nullptr : op.scratch[0].data, op.stream);
}

void MoeRun::top_k(const BoundOperation& op, const StreamKernels& kernels) const {
  std::byte* const ids = op.writes[0].data;
  const Shape shape(tokens_, routed_.topk);
  kernels.gating(options_.gating, {op.reads[1].data, DType::kF32, Shape(tokens_, options_.gating.experts)},
                 gate_.at(op.reads[2].data, 1), {ids + tokens_ * routed_.topk * 4, DType::kF32, shape},
                 {ids, DType::kI32, shape}, op.stream);
}

void MoeRun::routed_experts(const BoundOperation& op, const StreamKernels& kernels) const {
  const std::byte *const ids = op.reads[1].data, *const w = op.reads[2].data;
  const Shape shape(tokens_, routed_.topk);
  reference::ExpertsInputs in;
  in.hidden_states = {op.reads[0].data, options_.experts.dtype, Shape(tokens_, options_.experts.hidden)};
  in.weights = {of_experts_.at(w, 0), of_experts_.at(w, 1), of_experts_.at(w, 2), of_experts_.at(w, 3)};
  in.topk_ids = {ids, DType::kI32, shape};
  in.topk_weights = {ids + tokens_ * routed_.topk * 4, DType::kF32, shape};
  kernels.experts(routed_, in, {op.writes[0].data, options_.experts.dtype, in.hidden_states.shape},
                  op.scratch.empty() ? nullptr : op.scratch[0].data, op.stream);
}

std::optional<Record> MoeRun::judge(const reference::StreamProgram& program, const Outcome& outcome) const {
  const auto bytes = [&](std::string_view name) -> const std::vector<std::byte>* {
    for (const auto& [buffer, all] : outcome.bytes)
      if (program.buffers[static_cast<std::size_t>(buffer)].name == name) return &all;
    return nullptr;
  };
  TensorSet inputs = inputs_, outputs(operator_of(case_).outputs(case_));
  const std::vector<std::byte>*out = bytes("out"), *logits = bytes("router_logits");
  if (out == nullptr) out = bytes("y");
  if (out == nullptr || logits == nullptr) return std::nullopt;
  Tensor &to = outputs.at("out"), &l = inputs.at("router_logits");
  std::memcpy(to.data(), out->data(), to.bytes());
  std::memcpy(l.data(), logits->data(), l.bytes());
  return judge_outputs(case_, inputs, outputs, "streams");
}

}  // namespace moecheck::harness::streams
