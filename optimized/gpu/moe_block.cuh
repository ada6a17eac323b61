#pragma once
// The MoE block of one layer on GPUs. The operator is specified in reference/moe_block.h.
//
//   ids, w   gating, and the fused shared slots that are appended after it       gating.cuh, append_slots
//   S        the shared experts, as one expert that every token visits           experts.cuh
//   g        sigmoid(x . g)                                                      shared_gates
//   out      the routed experts, whose reduce scales them and adds g * S         experts.cuh
#include "optimized/gpu/experts_math.h"
#include "optimized/gpu/moe_block.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::MOECHECK_OPTIMIZED::moe_block_kernels {

using namespace moecheck::gpu;  // NOLINT: kernels speak gpu.h
using reference::DType;
using reference::MoeBlockInputs;
using reference::MoeBlockOptions;
using reference::Rounding;
using reference::ScalePlace;
using reference::SlotInsertion;

// ---- sigmoid(x[t] . g), a wave per token

struct GateArgs {
  const void *x = nullptr, *gate = nullptr;  // [tokens, hidden], [hidden]
  float* out = nullptr;                      // [tokens]
  std::int64_t tokens = 0;
  std::int32_t hidden = 0;
  DType dtype{};
  bool rounds = false;
};

inline constexpr int kGateWaves = 4;

template <int W>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kGateWaves* W) shared_gates(const GateArgs a) {
  using experts_kernels::load_as_float;
  using experts_kernels::rounded;
  const std::int64_t token = static_cast<std::int64_t>(block_x()) * kGateWaves + wave_in_block<W>();
  if (token >= a.tokens) return;  // the whole wave
  float sum = 0;
  for (int k = lane<W>(); k < a.hidden; k += W)
    sum += load_as_float(a.dtype, a.x, token * a.hidden + k) * load_as_float(a.dtype, a.gate, k);
  for (int step = (GPU_FAULT(kGpuBlockGateWidth32) ? 32 : W) / 2; step > 0; step /= 2)
    sum += shfl_xor<W>(sum, step);
  if (a.rounds != GPU_FAULT(kGpuBlockGateLogit)) sum = rounded(a.dtype, sum);
  float s = 1.0F / (1.0F + fast_exp(-sum));
  if (a.rounds) s = rounded(a.dtype, s);
  if (lane<W>() == 0) a.out[token] = s;
}

// ---- fused slots behind the gate's, a thread per slot (reference/shared_experts.h, SlotInsertion)

struct AppendArgs {
  const std::int32_t* gate_ids = nullptr;  // [tokens, topk]
  const float *gate_weights = nullptr, *gates = nullptr;
  std::int32_t* ids = nullptr;  // [tokens, columns]
  float* weights = nullptr;
  std::int64_t tokens = 0;
  std::int32_t topk = 0, shared = 0, columns = 0, experts = 0, ep_rank = 0, ep_size = 1;
  float weight = 1;
  bool by_token = false;  // the slots of token t are computed by rank t % ep_size alone
};

inline constexpr int kAppendThreads = 256;

GPU_KERNEL void GPU_LAUNCH_BOUNDS(kAppendThreads) append_slots(const AppendArgs a) {
  const std::int64_t i = static_cast<std::int64_t>(block_x()) * kAppendThreads + thread_x(),
                     token = i / a.columns;
  if (token >= a.tokens) return;
  const int k = static_cast<int>(i % a.columns), j = k - a.topk;
  const std::int64_t row = token * (GPU_FAULT(kGpuBlockAppendStride) ? a.columns : a.topk);
  if (j < 0) {
    a.ids[i] = a.gate_ids[row + k];
    a.weights[i] = a.gate_weights[row + k];
    return;
  }
  const bool mine = !a.by_token || a.ep_size == 1 || token % a.ep_size == a.ep_rank;
  a.ids[i] = a.experts + (mine && j < a.shared ? j : a.shared);
  a.weights[i] = a.gates != nullptr ? a.gates[token] : a.weight;
}

// ---- what follows the sum of the routed slots

// The places after the reduce in their order; the rounding of what one stores is done where the next reads it. Where a policy
// leaves a rounding open there is none.
inline CombineSteps combine_steps(const reference::CombineOptions& o, bool has_shared) {
  const auto rounds = [](Rounding r) { return r == Rounding::kRound; };
  const bool output = o.plan.has(ScalePlace::kOutput), alpha = o.plan.has(ScalePlace::kSharedAddAlpha),
             runner = o.plan.has(ScalePlace::kRunner);
  const auto rsf = static_cast<float>(o.routed_scaling_factor);
  CombineSteps steps;
  if (o.plan.has(ScalePlace::kReduce)) steps.add(rounds(o.round_sum), rsf);
  bool pending = (output || alpha || runner || has_shared) && rounds(o.round_reduced);
  if (output) {
    steps.add(pending, rsf);
    pending = (alpha || runner || has_shared) && rounds(o.round_scaled);
  }
  if (runner && o.plan.half_runner && has_shared) {
    steps.shared_factor = static_cast<float>(1 / o.routed_scaling_factor);
    steps.round_shared = rounds(o.round_scaled);
  } else if (runner) {
    steps.add(pending, rsf);
    pending = (alpha || has_shared) && rounds(o.round_scaled);
  }
  if (alpha) {
    steps.add(pending, rsf);
    pending = false;
  }
  if (pending) steps.add(true, 1);
  return steps;
}

template <int W>
Specialization* registered(const char* name) {
  return &register_specialization("moe_block",
                                  std::string(GPU_BACKEND_NAME) + " wave " + std::to_string(W) + " " + name);
}

// One call's launches.
template <class Backend, int W>
class Block {
 public:
  Block(const MoeBlockOptions& o, const MoeBlockInputs& in, reference::View out, void* workspace,
        Stream stream)
      : o_(o),
        in_(in),
        out_(out),
        workspace_(workspace),
        stream_(stream),
        l_(o, in.experts.w13.dtype, in.hidden_states.shape[0]) {}

  void operator()() const {
    static Specialization *const gated = registered<W>("shared gates"),
                                 *const appended = registered<W>("appended slots"),
                                 *const with_shared = registered<W>("shared experts"),
                                 *const without = registered<W>("no shared experts");
    if (l_.tokens == 0) return;
    gpu_gating<Backend>(o_.gating, in_.router_logits, in_.e_score_correction_bias,
                        view(l_.gate_weights_at, DType::kF32), view(l_.gate_ids_at, DType::kI32), stream_);
    if (l_.has_gates) ++gated->executed, gates();
    if (l_.appends) ++appended->executed, append();
    ++(l_.has_shared ? with_shared : without)->executed;
    const ExpertsCall routed = routed_call();
    if (!l_.has_shared) return run_gpu_experts<Backend>(routed, nullptr, stream_);
    const ExpertsCall shared = shared_call();
    run_gpu_experts<Backend>(routed, &shared, stream_);
  }

 private:
  template <class T = void>
  T* at(std::size_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(workspace_) + offset);
  }
  reference::View view(std::size_t offset, DType dtype) const {
    return {at(offset), dtype, reference::Shape(l_.tokens, l_.gate_slots)};
  }

  void gates() const {
    GateArgs a;
    a.x = in_.hidden_states.data, a.gate = in_.shared_gate.data, a.out = at<float>(l_.gates_at);
    a.tokens = l_.tokens, a.hidden = static_cast<std::int32_t>(o_.experts.hidden), a.dtype = o_.experts.dtype;
    a.rounds = o_.round_shared_gate == Rounding::kRound;
    launch(shared_gates<W>,
           {.grid = static_cast<unsigned>((a.tokens + kGateWaves - 1) / kGateWaves),
            .block = kGateWaves * W,
            .stream = stream_,
            .wave = W},
           a);
  }

  void append() const {
    AppendArgs a;
    a.gate_ids = at<std::int32_t>(l_.gate_ids_at), a.gate_weights = at<float>(l_.gate_weights_at);
    a.ids = at<std::int32_t>(l_.ids_at), a.weights = at<float>(l_.weights_at);
    if (*o_.insertion == SlotInsertion::kGated) a.gates = at<float>(l_.gates_at);
    a.tokens = l_.tokens, a.topk = static_cast<std::int32_t>(l_.gate_slots);
    a.shared = static_cast<std::int32_t>(o_.shared_experts), a.columns = static_cast<std::int32_t>(l_.slots);
    a.experts = static_cast<std::int32_t>(o_.gating.experts);
    a.ep_rank = static_cast<std::int32_t>(o_.ep_rank), a.ep_size = static_cast<std::int32_t>(o_.ep_size);
    a.by_token = *o_.insertion == SlotInsertion::kVllmRocm;
    if (*o_.insertion == SlotInsertion::kAiterAppend) a.weight = static_cast<float>(o_.append_weight);
    launch(append_slots,
           {.grid = static_cast<unsigned>((l_.tokens * l_.slots + kAppendThreads - 1) / kAppendThreads),
            .block = kAppendThreads,
            .stream = stream_},
           a);
  }

  ExpertsCall call(const reference::ExpertsOptions& options, std::size_t workspace_at) const {
    ExpertsCall c;
    c.options = options;
    c.hidden_states = in_.hidden_states;
    c.workspace = at(workspace_at);
    return c;
  }

  ExpertsCall shared_call() const {
    const auto stack = [](reference::ConstView m) -> reference::ConstView {
      if (!m) return {};
      return {m.data, m.dtype, reference::Shape(1, m.shape[0], m.shape[1])};
    };
    ExpertsCall c = call(l_.shared, l_.shared_experts_at);
    c.weights = {stack(in_.shared_w13), stack(in_.shared_w2), stack(in_.shared_w13_scale),
                 stack(in_.shared_w2_scale)};
    c.slots_out = at(l_.shared_at);
    return c;
  }

  ExpertsCall routed_call() const {
    reference::CombineOptions combine = o_.combine;
    combine.dtype = o_.experts.dtype;
    ExpertsCall c = call(l_.routed, l_.experts_at);
    c.weights = in_.experts;
    c.router_weight = at<float>(l_.weights_at);
    c.slot_map.ids = at(l_.ids_at);
    c.slot_map.experts = l_.routed.experts, c.slot_map.local_experts = l_.routed.local_experts;
    c.slot_map.own = o_.gating.experts / o_.ep_size, c.slot_map.first = o_.ep_rank * c.slot_map.own;
    c.slot_map.routed = o_.gating.experts;
    c.after = combine_steps(combine, l_.has_shared);
    if (l_.has_shared) {
      c.after.shared = at(l_.shared_at);
      if (o_.gated_shared) c.after.shared_gate = at<float>(l_.gates_at);
      c.after.round_gate = o_.round_shared_gate == Rounding::kRound;
    }
    c.out = out_;
    return c;
  }

  const MoeBlockOptions& o_;
  const MoeBlockInputs& in_;
  reference::View out_;
  void* workspace_;
  Stream stream_;
  MoeBlockLayout l_;
};

}  // namespace moecheck::MOECHECK_OPTIMIZED::moe_block_kernels

namespace moecheck::MOECHECK_OPTIMIZED {

template <class Backend>
void gpu_moe_block(const reference::MoeBlockOptions& options, const reference::MoeBlockInputs& inputs,
                   reference::View out, void* workspace, gpu::Stream stream) {
  gpu::with_wave_width(
      [&]<int W>() { moe_block_kernels::Block<Backend, W>(options, inputs, out, workspace, stream)(); });
}

template void gpu_moe_block<gpu::ThisBackend>(const reference::MoeBlockOptions&,
                                              const reference::MoeBlockInputs&, reference::View, void*,
                                              gpu::Stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
