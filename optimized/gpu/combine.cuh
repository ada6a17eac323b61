#pragma once
// Combine on GPUs: a wave takes one token and W runs of its columns. The operator is specified in reference/routed_scaling.h.
//
// First the wave lists the slots that take part, then every lane adds its run of columns over the list, four slots' loads in
// flight. Dead slots (id -1) are never read: they may hold NaN. unpermute of moe_align is the same kernel, with rows looked up.
// The plain kernel adds in f32; the general one also rounds products or partial sums. Unaligned rows go element by element.
#include <string>

#include "optimized/gpu/combine.h"
#include "optimized/gpu/combine_row.h"
#include "optimized/gpu/moe_align.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::MOECHECK_OPTIMIZED::combine_kernels {

inline constexpr int kMaxWaves = 4;  // of a block

// Columns of a lane: 16 bytes of its rows, or one element.
template <DType kRows, bool kVector>
inline constexpr int kColumns = !kVector ? 1 : kRows == DType::kF32 ? 4 : 8;

template <DType kRows, int V, bool kPlain>
GPU_DEVICE void add_terms(const CombineArgs& a, const CombineTerm* terms, int count, int column, float (&sum)[V]) {
  const bool rounds_first = a.first_is_rounded || count == 1;
  const auto add = [&](float weight, const float(&y)[V], int i) {
    GPU_UNROLL for (int j = 0; j < V; ++j) {
      float v = weight * y[j];
      if constexpr (!kPlain)
        if (a.round_term) v = round_dtype(a.round_dtype, v);
      sum[j] += v;
      if constexpr (!kPlain)
        if (a.accumulate_in_dtype && (i > 0 || rounds_first)) sum[j] = round_dtype(a.round_dtype, sum[j]);
    }
  };
  const auto load = [&](int i, float(&y)[V]) {
    load_run<V>(kRows, a.rows, static_cast<std::int64_t>(terms[i].row) * a.hidden + column, y);
  };
  int i = 0;
  for (; i + 4 <= count; i += 4) {
    float y[4][V];
    GPU_UNROLL for (int u = 0; u < 4; ++u) load(i + u, y[u]);
    GPU_UNROLL for (int u = 0; u < 4; ++u) add(terms[i + u].weight, y[u], i + u);
  }
  if (GPU_FAULT(kGpuCombineTailTerms) && i > 0) return;
  for (; i < count; ++i) {
    float y[V];
    load(i, y);
    add(terms[i].weight, y, i);
  }
}

// What follows the reduce, of one element.
GPU_DEVICE float finish(const CombineArgs& a, float v) {
  for (int s = 0; s < a.step_count; ++s) {
    const bool skipped = GPU_FAULT(kGpuCombineUnrounded) && s + 1 == a.step_count && a.steps[s].factor == 1;
    if (a.steps[s].round_before && !skipped) v = round_dtype(a.round_dtype, v);
    v *= a.steps[s].factor;
  }
  return v;
}
GPU_DEVICE float addend(const CombineArgs& a, float shared) {
  shared *= a.shared_factor;
  return a.round_shared ? round_dtype(a.round_dtype, shared) : shared;
}

template <int W, DType kRows, bool kVector, bool kPlain>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kMaxWaves* W) combine_tokens(const CombineArgs a) {
  constexpr int V = kColumns<kRows, kVector>;
  GPU_DYNAMIC_SHARED(char, scratch);
  const int wave = wave_in_block<W>(), waves = static_cast<int>(block_dim_x()) / W;
  const std::int64_t token = block_x() / static_cast<unsigned>(a.parts);
  const int part = static_cast<int>(block_x() % static_cast<unsigned>(a.parts)) * waves + wave;
  char* const mine = scratch + wave * scratch_bytes(a.topk, a.by_expert);
  const int count = list_terms<W>(a, token, mine);
  const int column = (part * (GPU_FAULT(kGpuCombineWaveWidth32) ? 32 : W) + lane<W>()) * V;
  if (column >= a.hidden) return;  // no wave operation follows
  float v[V] = {};
  add_terms<kRows, V, kPlain>(a, reinterpret_cast<const CombineTerm*>(mine), count, column, v);
  GPU_UNROLL for (int j = 0; j < V; ++j) v[j] = finish(a, v[j]);
  const std::int64_t at = token * a.hidden + column;
  if (a.shared != nullptr) {
    float s[V];
    load_run<V>(a.shared_dtype, a.shared, at, s);
    GPU_UNROLL for (int j = 0; j < V; ++j) v[j] += addend(a, s[j]);
  }
  store_run<V>(a.out_dtype, a.out, at, v);
  if (GPU_FAULT(kGpuCombineTailColumns) && column + V >= a.hidden) store_run<V>(a.out_dtype, a.out, at + V, v);
}

// ---- which kernel

using Kernel = void (*)(CombineArgs);

struct Choice {
  Kernel kernel;
  int columns;
  Specialization* specialization;
};

template <int W, DType kRows, bool kVector, bool kPlain>
const Choice& choice() {
  static const Choice one = {
      combine_tokens<W, kRows, kVector, kPlain>, kColumns<kRows, kVector>,
      &register_specialization("routed_scaling",
                               std::string(GPU_BACKEND_NAME) + " wave " + std::to_string(W) + " " +
                                   (kRows == DType::kF32 ? "f32" : kRows == DType::kBF16 ? "bf16" : "f16") +
                                   (!kVector  ? " element by element"
                                    : kPlain ? " plain"
                                             : " general"))};
  return one;
}
template <int W, DType kRows>
const Choice& choice(bool vectors, bool plain) {
  if (!vectors) return choice<W, kRows, false, false>();
  return plain ? choice<W, kRows, true, true>() : choice<W, kRows, true, false>();
}
template <int W>
const Choice& choice(DType rows, bool vectors, bool plain) {
  if (rows == DType::kF32) return choice<W, DType::kF32>(vectors, plain);
  return rows == DType::kBF16 ? choice<W, DType::kBF16>(vectors, plain) : choice<W, DType::kF16>(vectors, plain);
}

inline bool vectors_fit(const CombineArgs& a) {
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  return aligned(a.rows) && aligned(a.shared) && aligned(a.out) &&
         a.hidden % (a.rows_dtype == DType::kF32 ? 4 : 8) == 0;
}

template <int W>
void launch_combine(CombineArgs a, Stream stream) {
  if (a.tokens == 0 || a.hidden == 0) return;
  const bool vectors = vectors_fit(a), plain = !a.round_term && !a.accumulate_in_dtype;
  if (!vectors)
    note_fallback("routed_scaling", "rows are not multiples of 16 bytes");
  else if (!plain)
    note_fallback("routed_scaling", "products or partial sums are rounded");
  const Choice& c = choice<W>(a.rows_dtype, vectors, plain);
  ++c.specialization->executed;
  const int waves = (a.hidden + W * c.columns - 1) / (W * c.columns), of_block = waves < kMaxWaves ? waves : kMaxWaves;
  a.parts = (waves + of_block - 1) / of_block;
  launch(c.kernel,
         {.grid = static_cast<unsigned>(a.tokens * a.parts),
          .block = static_cast<unsigned>(of_block * W),
          .dynamic_shared = static_cast<std::size_t>(of_block * scratch_bytes(a.topk, a.by_expert)),
          .stream = stream,
          .wave = W},
         a);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::combine_kernels

namespace moecheck::MOECHECK_OPTIMIZED {

template <class Backend>
void gpu_combine(const reference::CombineOptions& options, const reference::CombineInputs& inputs, reference::View out,
                 gpu::Stream stream) {
  const CombineArgs args = combine_args(options, inputs, out);
  gpu::with_wave_width([&]<int W>() { combine_kernels::launch_combine<W>(args, stream); });
}

template <class Backend>
void gpu_unpermute(const reference::PermuteOptions& options, reference::ConstView permuted,
                   reference::ConstView topk_weights, reference::ConstView row_of_slot, reference::View out,
                   gpu::Stream stream) {
  const CombineArgs args = unpermute_args(options, permuted, topk_weights, row_of_slot, out);
  gpu::with_wave_width([&]<int W>() { combine_kernels::launch_combine<W>(args, stream); });
}

template void gpu_combine<gpu::ThisBackend>(const reference::CombineOptions&, const reference::CombineInputs&,
                                            reference::View, gpu::Stream);
template void gpu_unpermute<gpu::ThisBackend>(const reference::PermuteOptions&, reference::ConstView,
                                              reference::ConstView, reference::ConstView, reference::View, gpu::Stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
