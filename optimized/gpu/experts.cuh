#pragma once
// Fused experts on GPUs. The operator is specified in reference/experts.h.
//
//   x        quantized per 128 where the experts are w8a8                          prepare_rows
//   h, a     first GEMM and activation: a [slots, I], rounded as the options say   few_slots | many_slots | dot_experts
//            quantized per 128                                                     prepare_rows
//   y        second GEMM and router weight: [slots, H]                             few_slots | many_slots | dot_experts
//   out      sum of a token's slots                                                reduce_slots
//
// More than 128 slots are grouped by expert first. A row's bits do not depend on the number of rows.
#include <string>
#include <vector>

#include "optimized/gpu/experts.h"
#include "optimized/gpu/experts_dot.h"
#include "optimized/gpu/experts_few.h"
#include "optimized/gpu/experts_group.h"
#include "optimized/gpu/experts_rows.h"
#include "optimized/gpu/experts_tile.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels {

using reference::ExpertsOptions;
using reference::Rounding;

using GemmKernel = void (*)(GemmArgs);
using PairKernel = void (*)(GemmPair);

struct GemmChoice {
  bool down, matrix;
  DType weight, x;  // of dot products; of matrix tiles weight is kE4M3FN or kBF16
  PairKernel few;  // of matrix tiles
  GemmKernel many;
  Specialization *of_few, *of_many;
};

template <int W>
Specialization* registered(bool down, const std::string& what) {
  return &register_specialization("experts", std::string(GPU_BACKEND_NAME) + " wave " + std::to_string(W) +
                                                 (down ? " down " : " gate_up ") + what);
}
template <int W, bool kDown, class Weight, class X>
void add_dots(std::vector<GemmChoice>& all, DType weight, DType x) {
  const GemmKernel kernel = dot_experts<W, kDown, Weight, X>;
  Specialization* of = registered<W>(kDown, "dot products of " + std::string(reference::name(weight)) +
                                                " and " + std::string(reference::name(x)));
  all.push_back({kDown, false, weight, x, nullptr, kernel, of, of});
}
template <int W, bool kDown, bool kFp8>
void add_matrix(std::vector<GemmChoice>& all) {
  const std::string name = kFp8 ? "e4m3" : "bf16";
  all.push_back({kDown, true, kFp8 ? DType::kE4M3FN : DType::kBF16, DType::kBF16, few_slots<W, kDown, kFp8>,
                 many_slots<W, kDown, kFp8>, registered<W>(kDown, "few slots of " + name),
                 registered<W>(kDown, "many slots of " + name)});
}
template <int W, bool kDown>
void add_kernels(std::vector<GemmChoice>& all) {
  add_matrix<W, kDown, false>(all);
  add_matrix<W, kDown, true>(all);
  add_dots<W, kDown, StoredF16, StoredF16>(all, DType::kF16, DType::kF16);
  add_dots<W, kDown, StoredF32, StoredF32>(all, DType::kF32, DType::kF32);
  add_dots<W, kDown, StoredE4M3<false>, StoredF32>(all, DType::kE4M3FN, DType::kF32);
  add_dots<W, kDown, StoredE4M3<true>, StoredF32>(all, DType::kE4M3FNUZ, DType::kF32);
  if constexpr (kDown) {  // a that no dtype rounds
    add_dots<W, kDown, StoredBF16, StoredF32>(all, DType::kBF16, DType::kF32);
    add_dots<W, kDown, StoredF16, StoredF32>(all, DType::kF16, DType::kF32);
  }
}
template <int W>
const GemmChoice& gemm_choice(bool down, DType weight, DType x) {
  static const std::vector<GemmChoice> all = [] {
    std::vector<GemmChoice> list;
    add_kernels<W, false>(list);
    add_kernels<W, true>(list);
    return list;
  }();
  const bool matrix = x == DType::kBF16;
  const DType stored = matrix && is_fp8(weight) ? DType::kE4M3FN : weight;
  for (const GemmChoice& c : all)
    if (c.down == down && c.matrix == matrix && c.weight == stored && c.x == x) return c;
  return all.front();  // not reached: gpu_experts_unsupported() has the rest
}

inline bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }
// Whether rows of n numbers are whole runs of 16 bytes.
inline bool in_vectors(const void* p, DType dtype, std::int64_t n) {
  return aligned(p) && n * reference::size_bytes(dtype) % 16 == 0;
}

inline ActivationArgs activation_args(const ExpertsOptions& o) {
  ActivationArgs a;
  a.layout = o.activation.layout;
  a.activation = o.activation.activation;
  a.limit = static_cast<float>(o.activation.limit);
  a.clamp = a.limit > 0 ? o.activation.clamp : Clamp::kNone;
  a.alpha = a.activation == Activation::kSwigluOai ? static_cast<float>(o.activation.alpha) : 1.0F;
  a.dtype = o.dtype;
  a.round_input = o.round_gate_up == Rounding::kRound;
  a.round_silu = o.activation.round_silu == Rounding::kRound;
  a.round_product = o.activation.round_product == Rounding::kRound;
  return a;
}
inline QuantArgs quant_args(const ExpertsOptions& o) {
  QuantArgs q;
  q.quantized = o.fp8_activations;
  q.fnuz = o.quant.dtype == DType::kE4M3FNUZ;
  q.reciprocal = o.quant.division == reference::QuantDivision::kReciprocal;
  q.power_of_two = o.quant.scale_format == reference::ScaleFormat::kUE8M0;
  q.nan_saturates = o.quant.nan_saturates;
  q.eps = static_cast<float>(o.quant.eps);
  return q;
}

// One call's launches.
template <int W>
class Run {
 public:
  Run(const ExpertsCall& call, Stream stream)
      : c_(call),
        o_(call.options),
        stream_(stream),
        l_(call.options, call.weights.w13.dtype, call.hidden_states.shape[0]) {}

  void operator()(const Run* beside = nullptr) const {
    if (l_.tokens == 0) return;
    if (beside != nullptr && !shares_launches(*beside)) (*beside)(), beside = nullptr;
    prepare_x();
    if (beside != nullptr) beside->prepare_x();
    if (!l_.few) group();
    gemm(false, gate_up(), beside != nullptr ? beside->gate_up() : GemmArgs());
    prepare_a();
    if (beside != nullptr) beside->prepare_a();
    gemm(true, down(), beside != nullptr ? beside->down() : GemmArgs());
    if (c_.slots_out == nullptr) reduce();
  }

 private:
  void* at(std::size_t offset) const { return static_cast<char*>(c_.workspace) + offset; }
  LaunchConfig config(std::int64_t blocks, int threads) const {
    return {.grid = static_cast<unsigned>(blocks),
            .block = static_cast<unsigned>(threads),
            .stream = stream_,
            .wave = W};
  }

  const GemmChoice& choice(bool is_down) const {
    return gemm_choice<W>(is_down, (is_down ? c_.weights.w2 : c_.weights.w13).dtype,
                          is_down ? l_.a_dtype : l_.x_dtype);
  }
  bool shares_launches(const Run& other) const {
    return l_.few && other.l_.few && choice(false).few != nullptr && choice(true).few != nullptr &&
           &choice(false) == &other.choice(false) && &choice(true) == &other.choice(true);
  }

  void prepare_x() const {
    if (l_.prepares_x)
      prepare(c_.hidden_states.data, o_.dtype, l_.tokens, o_.hidden, o_.hidden, o_.hidden, at(l_.x_at),
              l_.x_dtype, at(l_.x_scale_at));
  }
  void prepare_a() const {
    if (l_.quantized)
      prepare(at(l_.h_at), DType::kF32, l_.slots, o_.intermediate, l_.a_stride, l_.a_stride, at(l_.a_at),
              l_.a_dtype, at(l_.a_scale_at));
  }
  void prepare(const void* in, DType in_dtype, std::int64_t rows, std::int64_t columns,
               std::int64_t in_stride, std::int64_t out_stride, void* out, DType out_dtype,
               void* scales) const {
    PrepareArgs a;
    a.in = in, a.out = out, a.scales = static_cast<float*>(scales);
    a.rows = rows, a.in_stride = in_stride, a.out_stride = out_stride;
    a.columns = static_cast<std::int32_t>(columns), a.blocks = static_cast<std::int32_t>(blocks_of(columns));
    a.in_dtype = in_dtype, a.out_dtype = out_dtype;
    a.quant = quant_args(o_);
    launch(prepare_rows<W>, config((rows * a.blocks + kPrepareWaves - 1) / kPrepareWaves, kPrepareWaves * W),
           a);
  }

  void group() const {
    GroupArgs a;
    a.slot_map = c_.slot_map;
    a.slots = l_.slots;
    a.sorted = static_cast<std::int32_t*>(at(l_.sorted_at));
    a.runs = static_cast<std::int32_t*>(at(l_.runs_at));
    a.run_count = static_cast<std::int32_t*>(at(l_.run_count_at));
    a.run_slots = static_cast<std::int32_t>(l_.run_slots);
    LaunchConfig one = config(1, kGroupThreads);
    one.dynamic_shared = static_cast<std::size_t>(o_.local_experts) * sizeof(std::int32_t);
    launch(group_slots<W>, one, a);
  }

  GemmArgs gemm_args(reference::ConstView weight, reference::ConstView scale, std::int64_t depth) const {
    GemmArgs a;
    a.slot_map = c_.slot_map;
    a.weight = weight.data, a.weight_dtype = weight.dtype;
    a.weight_scale = scale.as<float>();
    a.slots = l_.slots, a.topk = static_cast<std::int32_t>(o_.topk);
    a.depth = static_cast<std::int32_t>(depth), a.rows = static_cast<std::int32_t>(weight.shape[1]);
    if (l_.few) return a;
    a.sorted = static_cast<const std::int32_t*>(at(l_.sorted_at));
    a.runs = static_cast<const std::int32_t*>(at(l_.runs_at));
    a.run_count = static_cast<const std::int32_t*>(at(l_.run_count_at));
    return a;
  }

  GemmArgs gate_up() const {
    GemmArgs a = gemm_args(c_.weights.w13, c_.weights.w13_scale, o_.hidden);
    a.x = l_.prepares_x ? at(l_.x_at) : c_.hidden_states.data;
    if (l_.quantized) a.x_scale = static_cast<const float*>(at(l_.x_scale_at));
    a.x_dtype = l_.x_dtype, a.x_stride = o_.hidden, a.x_is_per_token = true;
    if (o_.router_weight == reference::RouterWeight::kInput) a.router_weight = c_.router_weight;
    a.out = at(l_.quantized ? l_.h_at : l_.a_at);
    a.out_dtype = l_.quantized ? DType::kF32 : l_.a_dtype, a.out_stride = l_.a_stride;
    a.columns = static_cast<std::int32_t>(o_.intermediate);
    a.activation = activation_args(o_);
    return a;
  }
  GemmArgs down() const {
    GemmArgs a = gemm_args(c_.weights.w2, c_.weights.w2_scale, o_.intermediate);
    a.x = at(l_.a_at);
    if (l_.quantized) a.x_scale = static_cast<const float*>(at(l_.a_scale_at));
    a.x_dtype = l_.a_dtype, a.x_stride = l_.a_stride;
    if (o_.router_weight == reference::RouterWeight::kOutput) a.router_weight = c_.router_weight;
    a.out = c_.slots_out != nullptr ? c_.slots_out : at(l_.y_at);
    a.out_dtype = l_.y_dtype, a.out_stride = o_.hidden;
    a.round_out = o_.round_slot == Rounding::kRound, a.round_dtype = o_.dtype;
    a.columns = static_cast<std::int32_t>(o_.hidden);
    return a;
  }

  // Blocks of a, whose columns are cut into tiles here.
  std::int64_t tile_columns(const GemmChoice& choice, GemmArgs& a) const {
    a.vectors = in_vectors(a.weight, a.weight_dtype, a.depth) && in_vectors(a.x, a.x_dtype, a.x_stride) &&
                a.depth * reference::size_bytes(a.x_dtype) % 16 == 0;
    if (!a.vectors) note_fallback("experts", "rows are not whole runs of 16 bytes");
    int each = 0;  // columns of a block
    if (!choice.matrix) {
      note_fallback("experts", "no matrix tiles of f16 and f32 numbers");
      each = kDotWaves * (choice.down ? kRowsOfLane * (W / kLanesDown) : kRowsOfLane / 2);
    } else {
      each = (l_.few ? kFewWaves / segments_of(a.depth) : kTileWaves) *
             (choice.down ? kStripColumns<true> : kStripColumns<false>);
    }
    a.column_tiles = (a.columns + each - 1) / each;
    return (l_.few ? a.slots : l_.max_runs) * a.column_tiles;
  }
  // beside: without slots where there is nothing beside.
  void gemm(bool is_down, GemmArgs a, GemmArgs beside) const {
    const GemmChoice& of = choice(is_down);
    ++(l_.few ? of.of_few : of.of_many)->executed;
    const std::int64_t blocks = tile_columns(of, a);
    if (!l_.few || of.few == nullptr) {
      launch(of.many, config(blocks, (of.matrix ? kTileWaves : kDotWaves) * W), a);
      return;
    }
    const std::int64_t first = beside.slots > 0 ? tile_columns(of, beside) : 0;
    launch(of.few, config(first + blocks, kFewWaves * W),
           GemmPair{.gemm = {beside, a}, .first_blocks = static_cast<unsigned>(first)});
  }

  void reduce() const {
    ReduceArgs a;
    a.slot_map = c_.slot_map;
    a.y = at(l_.y_at), a.y_dtype = l_.y_dtype;
    a.out = c_.out.data, a.out_dtype = c_.out.dtype, a.dtype = o_.dtype;
    a.tokens = l_.tokens, a.topk = static_cast<std::int32_t>(o_.topk),
    a.hidden = static_cast<std::int32_t>(o_.hidden);
    a.by_expert = o_.reduce.order == reference::ReduceOrder::kExpert;
    a.accumulate_in_dtype = o_.reduce.accumulate == reference::Accumulate::kDtype;
    a.first_is_rounded = o_.reduce.order != reference::ReduceOrder::kAny;
    a.after = c_.after;
    a.vectors = o_.hidden % kReduceColumns == 0 && (a.after.shared == nullptr || aligned(a.after.shared));
    const auto tiles = [&](int threads) {
      const int each = threads * kReduceColumns;
      return (a.hidden + each - 1) / each;
    };
    int threads = kReduceThreads;  // fewer where there would be few blocks
    while (threads / 2 >= W && threads / 2 >= a.topk && l_.tokens * tiles(threads) < 128) threads /= 2;
    a.column_tiles = tiles(threads);
    launch(reduce_slots<W>, config(l_.tokens * a.column_tiles, threads), a);
  }

  const ExpertsCall& c_;
  const reference::ExpertsOptions& o_;
  Stream stream_;
  ExpertsLayout l_;
};

}  // namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels

namespace moecheck::MOECHECK_OPTIMIZED {

template <class Backend>
void run_gpu_experts(const ExpertsCall& call, const ExpertsCall* beside, gpu::Stream stream) {
  gpu::with_wave_width([&]<int W>() {
    const experts_kernels::Run<W> run(call, stream);
    if (beside == nullptr) return run();
    const experts_kernels::Run<W> other(*beside, stream);
    run(&other);
  });
}

template <class Backend>
void gpu_experts(const reference::ExpertsOptions& options, const reference::ExpertsInputs& inputs,
                 reference::View out, void* workspace, gpu::Stream stream) {
  ExpertsCall call;
  call.options = options;
  call.hidden_states = inputs.hidden_states;
  call.weights = inputs.weights;
  call.router_weight = inputs.topk_weights.as<float>();
  SlotMap& m = call.slot_map;
  m.ids = inputs.topk_ids.data, m.ids_are_64_bit = inputs.topk_ids.dtype == reference::DType::kI64;
  m.map = inputs.expert_map.data, m.map_is_64_bit = inputs.expert_map.dtype == reference::DType::kI64;
  m.map_size = inputs.expert_map ? inputs.expert_map.shape.numel() : 0;
  m.experts = m.own = m.routed = options.experts;
  m.local_experts = options.local_experts;
  if (options.reduce_scale != 1) call.after.add(false, static_cast<float>(options.reduce_scale));
  call.out = out;
  call.workspace = workspace;
  run_gpu_experts<Backend>(call, nullptr, stream);
}

template void run_gpu_experts<gpu::ThisBackend>(const ExpertsCall&, const ExpertsCall*, gpu::Stream);
template void gpu_experts<gpu::ThisBackend>(const reference::ExpertsOptions&, const reference::ExpertsInputs&,
                                            reference::View, void*, gpu::Stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
