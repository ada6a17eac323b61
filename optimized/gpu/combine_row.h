#pragma once
// Parts of the combine kernels: the list of a token's slots in the order in which they are added, and runs of V numbers.
#include "optimized/gpu/combine_args.h"
#include "optimized/gpu/fault.h"
#include "optimized/gpu/gpu.h"
#include "optimized/gpu/number_formats.h"

namespace moecheck::MOECHECK_OPTIMIZED::combine_kernels {

using namespace moecheck::gpu;  // NOLINT: kernels speak gpu.h
using reference::DType;

// ---- runs of numbers

struct alignas(8) Bytes8 {
  std::uint32_t word[2];
};

GPU_DEVICE float round_dtype(DType dtype, float v) {
  if (dtype == DType::kBF16) return from_bf16(to_bf16(v));
  if (dtype == DType::kF16) return from_f16(to_f16(v));
  return v;
}

GPU_DEVICE float from_half(DType dtype, std::uint32_t bits) {
  const auto half = static_cast<std::uint16_t>(bits);
  return dtype == DType::kBF16 ? from_bf16(half) : from_f16(half);
}
GPU_DEVICE std::uint32_t to_half(DType dtype, float v) {
  return dtype == DType::kBF16 ? to_bf16(v) : to_f16(v);
}

// V numbers from element `first` on: V is 1, or 4 or 8, of which at most 16 bytes move at once.
template <int V>
GPU_DEVICE void load_run(DType dtype, const void* p, std::int64_t first, float (&out)[V]) {
  if constexpr (V == 1) {
    out[0] = dtype == DType::kF32 ? static_cast<const float*>(p)[first]
                                  : from_half(dtype, static_cast<const std::uint16_t*>(p)[first]);
  } else if (dtype == DType::kF32) {
    GPU_UNROLL for (int i = 0; i < V; i += 4) {
      const Bytes16 four = load16(static_cast<const float*>(p) + first + i);
      GPU_UNROLL for (int j = 0; j < 4; ++j) out[i + j] = bits_as<float>(four.word[j]);
    }
  } else if constexpr (V == 8) {
    const Bytes16 eight = load16(static_cast<const std::uint16_t*>(p) + first);
    GPU_UNROLL for (int i = 0; i < V; ++i) out[i] = from_half(dtype, eight.word[i / 2] >> i % 2 * 16);
  } else {
    const Bytes8 four = *reinterpret_cast<const Bytes8*>(static_cast<const std::uint16_t*>(p) + first);
    GPU_UNROLL for (int i = 0; i < V; ++i) out[i] = from_half(dtype, four.word[i / 2] >> i % 2 * 16);
  }
}

template <int V>
GPU_DEVICE void store_run(DType dtype, void* p, std::int64_t first, const float (&v)[V]) {
  if constexpr (V == 1) {
    if (dtype == DType::kF32)
      static_cast<float*>(p)[first] = v[0];
    else
      static_cast<std::uint16_t*>(p)[first] = static_cast<std::uint16_t>(to_half(dtype, v[0]));
  } else if (dtype == DType::kF32) {
    GPU_UNROLL for (int i = 0; i < V; i += 4) {
      Bytes16 four;
      GPU_UNROLL for (int j = 0; j < 4; ++j) four.word[j] = float_bits(v[i + j]);
      store16(static_cast<float*>(p) + first + i, four);
    }
  } else {
    std::uint32_t word[V / 2];
    GPU_UNROLL for (int i = 0; i < V / 2; ++i) word[i] =
        to_half(dtype, v[2 * i]) | to_half(dtype, v[2 * i + 1]) << 16;
    std::uint16_t* const to = static_cast<std::uint16_t*>(p) + first;
    if constexpr (V == 8)
      store16(to, {{word[0], word[1], word[2], word[3]}});
    else
      *reinterpret_cast<Bytes8*>(to) = {{word[0], word[1]}};
  }
}

// ---- the list of a token's slots

struct CombineTerm {
  std::int32_t row;
  float weight;
};
// A wave's shared memory: the list, and where slots are ordered by id the unordered list with its ids too.
GPU_HOST_DEVICE int scratch_bytes(int topk, bool by_expert) {
  const int term = static_cast<int>(sizeof(CombineTerm));
  return (topk * (by_expert ? 2 * term + 4 : term) + 15) / 16 * 16;
}

template <int W>
GPU_DEVICE int lanes_below(LaneMask<W> mask) {
  return count_bits(mask & ((LaneMask<W>{1} << lane<W>()) - 1));
}

// The row of slot (token, k), or -1; its id.
GPU_DEVICE std::int32_t row_of(const CombineArgs& a, std::int64_t token, int k, std::int32_t& id) {
  if (a.row_of_slot != nullptr) {
    const std::int32_t row = a.row_of_slot[a.k_major ? token + k * a.tokens : token * a.topk + k];
    return row < a.row_count ? row : -1;
  }
  const std::int64_t slot = token * a.topk + k;
  const std::int64_t wide = a.ids_are_64_bit ? static_cast<const std::int64_t*>(a.ids)[slot]
                                             : static_cast<const std::int32_t*>(a.ids)[slot];
  id = static_cast<std::int32_t>(wide);
  return wide < 0 ? -1 : static_cast<std::int32_t>(slot);
}

// Writes the list of the token's slots that take part, all lanes together; returns how many, to all lanes.
template <int W>
GPU_DEVICE int list_terms(const CombineArgs& a, std::int64_t token, void* scratch) {
  auto* const terms = static_cast<CombineTerm*>(scratch);
  CombineTerm* const found = a.by_expert ? terms + a.topk : terms;
  auto* const ids = reinterpret_cast<std::int32_t*>(terms + 2 * a.topk);  // by_expert
  if (GPU_FAULT(kGpuCombineNoWaveBarrier) || GPU_FAULT(kGpuCombineStaleSlots))  // so that they meet a row that there is
    for (int k = lane<W>(); k < (a.by_expert ? 2 : 1) * a.topk; k += W) terms[k] = {0, 1.0F};
  int count = 0;
  for (int first = 0; first < a.topk; first += W) {
    const int k = first + lane<W>();
    std::int32_t id = 0;
    const std::int32_t row = k < a.topk ? row_of(a, token, k, id) : -1;
    // Of a dead slot too, whatever it holds: its load need not wait for the id's.
    float weight = k < a.topk && a.weights != nullptr ? a.weights[token * a.topk + k] : 1.0F;
    const LaneMask<W> present = ballot<W>(row >= 0);
    const int at = count + lanes_below<W>(present);
    if (row >= 0) {
      if (GPU_FAULT(kGpuCombineWeightPairing) && a.weights != nullptr) weight = a.weights[token * a.topk + at];
      found[at] = {row, weight};
      if (a.by_expert) ids[at] = id;
    }
    count += count_bits(present);
  }
  if (!GPU_FAULT(kGpuCombineNoWaveBarrier)) wave_barrier<W>();
  if (a.by_expert) {  // stable
    for (int i = lane<W>(); i < count; i += W) {
      int rank = 0;
      for (int j = 0; j < count; ++j) rank += ids[j] < ids[i] || (ids[j] == ids[i] && j < i);
      terms[rank] = found[i];
    }
    wave_barrier<W>();
  }
  return GPU_FAULT(kGpuCombineStaleSlots) ? a.topk : count;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::combine_kernels
