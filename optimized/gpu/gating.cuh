#pragma once
// Gating on GPUs: a wave per row. The operator is specified in reference/gating.h.
//
// Two kernels. The plain one serves what models ask for: f32 arithmetic, ties to the lower index, the bias on the choice scores,
// groups that are whole lanes. It lives in registers: no shared memory, no barrier, a reduction and a vote of the wave per selected
// expert. Each lane brings its four best experts in order; when that does not settle the row (select_of_best says when), the wave
// selects again among all. The general one serves every policy; it stages the bias and the groups in shared memory.
// V experts a lane; a specialization is (W, V, kernel, groups). They register themselves (specializations.h).
#include <array>
#include <string>

#include "optimized/gpu/gating.h"
#include "optimized/gpu/gating_weights.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::MOECHECK_OPTIMIZED::gating_kernels {

inline constexpr int kWavesPerBlock = 4;

enum class Groups : std::uint8_t { kNone, kInLanes };

template <int W, int V, Groups kGroups>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kWavesPerBlock* W) gating_plain(const GatingArgs given) {
  using L = Layout<W, V>;
  GatingArgs a = given;  // with what not_plain has made sure of, for the compiler
  a.score_dtype = a.choice_dtype = DType::kF32;
  a.bias_on_logits = false;
  a.non_finite = NonFinite::kUndefined;
  const std::int64_t row =
      static_cast<std::int64_t>(block_x()) * (block_dim_x() / W) + static_cast<unsigned>(wave_in_block<W>());
  if (row >= a.tokens && !GPU_FAULT(kGpuTailRows)) return;  // the whole wave
  if (row >= a.first_padded) return write_padding<W>(a, row);
  if (GPU_FAULT(kGpuTailLanesLeave) && L::expert(0) >= a.experts) return;
  float c[V], b[V];
  load_numbers<W, V>(a.logits_dtype, a.router_logits, row * a.columns, a.experts, a.vectors, -infinity(), c);
  if (a.bias_on_choice) {
    load_numbers<W, V>(a.bias_dtype, a.bias, 0, a.experts, a.vectors, 0.0F, b);
    if (a.bias_as_logits && a.logits_dtype != DType::kF32)
      each_of(b, [&](int, float v) { return round_dtype(a.logits_dtype, v); });
  } else {
    GPU_UNROLL for (int i = 0; i < V; ++i) b[i] = 0;
  }
  GPU_UNROLL for (int i = 0; i < V; ++i) c[i] = larger(c[i], -infinity());  // NaN: -Inf
  Softmax softmax;
  if (a.scoring == Scoring::kSoftmax) softmax = softmax_of<W, V>(c);
  score_all(a.scoring, c, softmax);
  const int experts = GPU_FAULT(kGpuTileBound) ? a.experts + 1 : a.experts;
  std::uint32_t key[V];
  GPU_UNROLL for (int i = 0; i < V; ++i) key[i] = key_of_number(larger(c[i] + b[i], -infinity()));
  if (experts < W * V)
    GPU_UNROLL for (int i = 0; i < V; ++i) key[i] = L::expert(i) < experts ? key[i] : kKeyAbsent;
  Best<V> best(key);
  bool selected = true;  // this lane's group
  std::uint32_t floor = 0;
  if constexpr (kGroups == Groups::kInLanes) {
    selected = group_is_selected<W, V>(a, key, best);
    floor = a.masked_is_zero ? kKeyOfZero : kKeyMasked;
    GPU_UNROLL for (std::uint32_t& k : best.key) k = selected ? k : floor;
  }
  int id;
  bool allowed = true;
  if (!select_of_best<W, V>(a.topk, key, best, floor, id)) {
    if constexpr (kGroups == Groups::kInLanes)
      GPU_UNROLL for (int i = 0; i < V; ++i) key[i] = selected ? key[i] : floor;
    id = select_of_all<W, V>(a.topk, key);
    if constexpr (kGroups == Groups::kInLanes)
      allowed = shfl<W>(static_cast<int>(selected), id < 0 ? 0 : id / V) != 0;
  }
  write_row<W>(a, row, id, allowed, softmax);
}

template <int W, int V>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kWavesPerBlock* W) gating_general(const GatingArgs a) {
  using L = Layout<W, V>;
  GPU_SHARED(float, bias, W* V);
  GPU_SHARED(float, choice, kWavesPerBlock* W* V);
  GPU_SHARED(float, group_score, kWavesPerBlock* W* V);
  GPU_SHARED(std::uint8_t, group_allowed, kWavesPerBlock * W * V);
  const int wave = wave_in_block<W>(), mine = wave * W * V;
  const GroupScratch scratch{choice + mine, group_score + mine, group_allowed + mine};
  if (a.bias != nullptr)
    for (int e = static_cast<int>(thread_in_block()); e < a.experts; e += static_cast<int>(block_dim_x()))
      bias[e] = bias_of(a, e);
  if (!GPU_FAULT(kGpuMissingBlockBarrier)) block_barrier();
  const std::int64_t row =
      static_cast<std::int64_t>(block_x()) * (block_dim_x() / W) + static_cast<unsigned>(wave);
  if (row >= a.tokens && !GPU_FAULT(kGpuTailRows)) return;  // the whole wave; no block barrier follows
  if (row >= a.first_padded) return write_padding<W>(a, row);

  float c[V];
  std::uint32_t nan = 0;
  load_numbers<W, V>(a.logits_dtype, a.router_logits, row * a.columns, a.experts, a.vectors, -infinity(), c);
  each_of(c, [&](int i, float x) {
    const int e = L::expert(i);
    if (e >= a.experts) return x;
    if (a.bias_on_logits) x += bias[e];
    nan |= static_cast<std::uint32_t>(is_nan(x)) << i;
    return finite_by_rule(a.non_finite, x);
  });
  Softmax softmax;
  if (a.scoring == Scoring::kSoftmax) softmax = softmax_of<W, V>(c);
  const bool lowest = a.non_finite == NonFinite::kLowest;
  score_all(a.scoring, c, softmax);
  each_of(c, [&](int i, float s) {
    const int e = L::expert(i);
    s = round_dtype(a.score_dtype, s);
    if (a.bias_on_choice && e < a.experts) s = round_dtype(a.choice_dtype, s + bias[e]);
    return lowest && (nan >> i & 1) ? -infinity() : s;
  });
  if (a.groups > 1) select_groups_in_memory<W, V>(a, c, scratch);
  std::uint32_t key[V];
  GPU_UNROLL for (int i = 0; i < V; ++i) key[i] = order_key(c[i]);
  each_of(key, [&](int i, std::uint32_t k) {
    const int e = L::expert(i);
    if (e >= a.experts) return kKeyTaken;
    if (a.groups > 1 && !scratch.allowed[e / a.group_size]) return a.masked_is_zero ? kKeyOfZero : kKeyMasked;
    return lowest && (nan >> i & 1) ? kKeyOfNaN : k;
  });
  const int id = select_by_rank<W, V>(a, key);
  const bool allowed = a.groups == 1 || id < 0 || scratch.allowed[id / a.group_size];
  write_row<W>(a, row, id, allowed, softmax);
}

// ---- which kernel

using Kernel = void (*)(GatingArgs);

struct Choice {
  int experts;  // at most
  Kernel kernel;
  Specialization* specialization;
};

template <int W>
Specialization* registered(const char* kernel, int v) {
  return &register_specialization("gating", std::string(GPU_BACKEND_NAME) + " wave " + std::to_string(W) +
                                                " " + kernel + " " + std::to_string(v) + " experts a lane");
}
template <int W, int V, Groups kGroups>
Choice plain() {
  return {W * V, gating_plain<W, V, kGroups>,
          registered<W>(kGroups == Groups::kNone ? "plain" : "plain grouped", V)};
}
template <int W, int V>
Choice general() {
  return {W * V, gating_general<W, V>, registered<W>("general", V)};
}

// What one lane of 32 holds, half of it fits one of 64; in ascending order.
template <int W>
const std::array<Choice, 8>& plain_choices() {
  constexpr int k = 64 / W;  // of W 32 twice that of W 64
  static const std::array<Choice, 8> all = {plain < W,
                                            k / 2 ? k / 2 : 1,
                                            Groups::kNone > (),
                                            plain<W, 1 * k, Groups::kNone>(),
                                            plain<W, 2 * k, Groups::kNone>(),
                                            plain < W,
                                            k == 2 ? 5 : 3,
                                            Groups::kNone > (),
                                            plain<W, 4 * k, Groups::kNone>(),
                                            plain<W, 6 * k, Groups::kNone>(),
                                            plain<W, 8 * k, Groups::kNone>(),
                                            plain<W, 16 * k, Groups::kNone>()};
  return all;
}
template <int W>
const std::array<Choice, 3>& grouped_choices() {
  static const std::array<Choice, 3> all = {plain<W, 4, Groups::kInLanes>(), plain<W, 8, Groups::kInLanes>(),
                                            plain<W, 16, Groups::kInLanes>()};
  return all;
}
template <int W>
const std::array<Choice, 4>& general_choices() {
  constexpr int k = 64 / W;
  static const std::array<Choice, 4> all = {general<W, 2 * k>(), general<W, 4 * k>(), general<W, 8 * k>(),
                                            general<W, 16 * k>()};
  return all;
}

// Why the plain kernel does not serve this, or nullptr.
template <int W>
const char* not_plain(const GatingArgs& a) {
  using reference::DType;
  if (a.score_dtype != DType::kF32 || a.choice_dtype != DType::kF32)
    return "scores are rounded to a narrow dtype";
  if (a.bias_on_logits) return "the bias is added to the logits";
  if (a.expert_tie != Tie::kLow && a.expert_tie != Tie::kAny)
    return "ties of experts do not go to the lower id";
  if (a.non_finite == NonFinite::kLowest || a.non_finite == NonFinite::kLogitZero)
    return "NaN logits have a rule of their own";
  if (a.groups == 1) return nullptr;
  // That of lanes with 4, 8 or 16 experts follows: no more than 32 groups.
  if (a.group_size < 4 || (a.group_size & (a.group_size - 1)) != 0)
    return "a group is not a power of two of lanes";
  if (a.group_tie == Tie::kBitReversed || a.group_tie == Tie::kLane64)
    return "ties of groups go neither to the lower nor to the higher one";
  if (a.groups > 32) return "more than 32 groups";
  if (a.experts > 16 * W) return "grouped experts need more than 16 a lane";
  return nullptr;
}

template <std::size_t N>
const Choice& smallest(const std::array<Choice, N>& all, int experts) {
  for (const Choice& c : all)
    if (c.experts >= experts) return c;
  return all.back();
}

template <int W>
void launch_gating(const GatingArgs& a, Stream stream) {
  if (a.tokens == 0) return;
  // All three, so that the registry knows those that no request asks for.
  const auto& plain = plain_choices<W>();
  const auto& grouped = grouped_choices<W>();
  const auto& general = general_choices<W>();
  const char* reason = not_plain<W>(a);
  if (reason != nullptr) note_fallback("gating", reason);
  const Choice& choice = reason != nullptr ? smallest(general, a.experts)
                         : a.groups > 1    ? smallest(grouped, a.experts)
                                           : smallest(plain, a.experts);
  ++choice.specialization->executed;
  // Few rows: a wave a block, so that they spread over the device. The general kernel shares its bias among four.
  const int waves = reason == nullptr && a.tokens <= 512 ? 1 : kWavesPerBlock;
  launch(choice.kernel,
         {.grid = static_cast<unsigned>((a.tokens + waves - 1) / waves),
          .block = static_cast<unsigned>(waves * W),
          .stream = stream,
          .wave = W},
         a);
}

inline constexpr int kRemapThreads = 256;

// T: the dtype of table and ids.
template <class T>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kRemapThreads)
    remap_ids(const std::int32_t* table, std::int64_t count, std::int64_t experts, T* ids) {
  const std::int64_t i = static_cast<std::int64_t>(block_x()) * kRemapThreads + thread_x();
  if (i < count && ids[i] >= 0 && ids[i] < experts) ids[i] = table[ids[i]];
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::gating_kernels

namespace moecheck::MOECHECK_OPTIMIZED {

template <class Backend>
void gpu_gating(const reference::GatingOptions& options, reference::ConstView router_logits,
                reference::ConstView bias, reference::View topk_weights, reference::View topk_ids,
                gpu::Stream stream) {
  const GatingArgs args = gating_args(options, router_logits, bias, topk_weights, topk_ids);
  gpu::with_wave_width([&]<int W>() { gating_kernels::launch_gating<W>(args, stream); });
}

template <class Backend>
void gpu_remap_ids(reference::ConstView table, std::int64_t count, std::int64_t experts, reference::View ids,
                   gpu::Stream stream) {
  if (count == 0) return;
  const gpu::LaunchConfig config{.grid = static_cast<unsigned>((count + gating_kernels::kRemapThreads - 1) /
                                                               gating_kernels::kRemapThreads),
                                 .block = gating_kernels::kRemapThreads,
                                 .stream = stream};
  const auto launch = [&]<class T>(T* p) {
    gpu::launch(gating_kernels::remap_ids<T>, config, table.as<std::int32_t>(), count, experts, p);
  };
  if (ids.dtype == reference::DType::kI64)
    launch(ids.as<std::int64_t>());
  else
    launch(ids.as<std::int32_t>());
}

template void gpu_gating<gpu::ThisBackend>(const reference::GatingOptions&, reference::ConstView,
                                           reference::ConstView, reference::View, reference::View,
                                           gpu::Stream);
template void gpu_remap_ids<gpu::ThisBackend>(reference::ConstView, std::int64_t, std::int64_t,
                                              reference::View, gpu::Stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
