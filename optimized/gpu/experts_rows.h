#pragma once
// Around the GEMMs, row by row: activations quantized or widened before, a token's slots added up after.
#include "optimized/gpu/experts_slots.h"

namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels {

struct PrepareArgs {
  const void* in = nullptr;  // [rows, in_stride]
  void* out = nullptr;       // [rows, out_stride] the codes' numbers as bf16, or f32
  float* scales = nullptr;   // [rows, blocks]
  std::int64_t rows = 0, in_stride = 0, out_stride = 0;
  std::int32_t columns = 0, blocks = 0;
  DType in_dtype{}, out_dtype{};
  QuantArgs quant;
};

inline constexpr int kPrepareWaves = 4;

//   amax = max(|x|, eps)      s = amax / largest | amax * (1 / largest)      q = e4m3(x / s) | e4m3(x * (largest / amax))
struct BlockScale {
  float scale, factor;
  bool divides;
};
GPU_DEVICE BlockScale block_scale_of(const QuantArgs& q, float amax) {
  const float largest = q.fnuz ? 240.0F : 448.0F, inverse = q.fnuz ? 1.0F / 240.0F : 1.0F / 448.0F;
  float s = q.reciprocal ? amax * inverse : amax / largest;
  if (q.power_of_two && s < infinity()) s = bits_as<float>((float_bits(s) + 0x007FFFFF) & 0x7F800000);
  if (q.reciprocal && !q.power_of_two) return {s, largest / amax, false};
  return {s, s, true};
}
// The number that the code of x stands for.
GPU_DEVICE float quantized(const QuantArgs& q, const BlockScale& s, float x) {
  const float v = s.divides ? x / s.factor : x * s.factor;
  if (v != v) return q.nan_saturates ? (q.fnuz ? -240.0F : -448.0F) : v;
  return q.fnuz ? from_e4m3fnuz(to_e4m3fnuz(v)) : from_e4m3fn(to_e4m3fn(v));
}

// A wave per block of 128 of a row.
template <int W>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kPrepareWaves* W) prepare_rows(const PrepareArgs a) {
  constexpr int kEach = static_cast<int>(kScaleBlock) / W;
  const std::int64_t i = static_cast<std::int64_t>(block_x()) * kPrepareWaves + wave_in_block<W>();
  if (i >= a.rows * a.blocks) return;  // the whole wave
  const std::int64_t row = i / a.blocks;
  const int first = static_cast<int>(i % a.blocks * kScaleBlock) + lane<W>();
  float x[kEach];
  GPU_UNROLL for (int j = 0; j < kEach; ++j) {
    const int column = first + j * W;
    x[j] = column < a.columns ? load_as_float(a.in_dtype, a.in, row * a.in_stride + column) : 0.0F;
  }
  if (a.quant.quantized) {
    float amax = a.quant.eps;
    GPU_UNROLL for (int j = 0; j < kEach; ++j) {
      const float m = x[j] < 0 ? -x[j] : x[j];
      if (m > amax) amax = m;  // not NaN
    }
    for (int step = (GPU_FAULT(kGpuExpertsAmaxHalf) ? W / 2 : W) / 2; step > 0; step /= 2) {
      const float m = shfl_xor<W>(amax, step);
      if (m > amax) amax = m;
    }
    const BlockScale scale = block_scale_of(a.quant, amax);
    GPU_UNROLL for (int j = 0; j < kEach; ++j) x[j] = quantized(a.quant, scale, x[j]);
    if (lane<W>() == 0) a.scales[i] = scale.scale;
  }
  GPU_UNROLL for (int j = 0; j < kEach; ++j) if (first + j * W < a.columns)
      store_float(a.out_dtype, a.out, row * a.out_stride + first + j * W, x[j]);
}

inline constexpr int kReduceThreads = 128, kReduceColumns = 4, kReduceAtOnce = 8;

// Four numbers of a row, or those of them that there are.
GPU_DEVICE void load_four(DType dtype, const void* p, std::int64_t first, int n, bool vectors,
                          float (&v)[kReduceColumns]) {
  if (vectors && dtype == DType::kF32) {
    const Bytes16 four = load16(static_cast<const float*>(p) + first);
    GPU_UNROLL for (int j = 0; j < kReduceColumns; ++j) v[j] = bits_as<float>(four.word[j]);
    return;
  }
  if (vectors) {
    struct alignas(8) Four {
      std::uint16_t bits[4];
    };
    const Four four = *reinterpret_cast<const Four*>(static_cast<const std::uint16_t*>(p) + first);
    GPU_UNROLL for (int j = 0; j < kReduceColumns; ++j) v[j] =
        dtype == DType::kBF16 ? from_bf16(four.bits[j]) : from_f16(four.bits[j]);
    return;
  }
  GPU_UNROLL for (int j = 0; j < kReduceColumns; ++j) v[j] =
      j < n ? load_as_float(dtype, p, first + j) : 0.0F;
}

// v after the sum of the slots; shared: the element of the shared output.
GPU_DEVICE float after_sum(const CombineSteps& steps, DType dtype, float v, float shared, float gate) {
  const bool first = GPU_FAULT(kGpuBlockSharedFirst) && steps.shared != nullptr;
  if (first) v += shared * steps.shared_factor;
  for (int i = 0; i < steps.count; ++i) {
    if (steps.steps[i].round_before) v = rounded(dtype, v);
    v *= steps.steps[i].factor;
  }
  if (steps.shared == nullptr || first) return v;
  if (steps.shared_gate != nullptr) {
    shared *= gate;
    if (steps.round_gate) shared = rounded(dtype, shared);
  }
  shared *= steps.shared_factor;
  if (steps.round_shared) shared = rounded(dtype, shared);
  return v + shared;
}

// Grid: tokens times a.column_tiles of kReduceColumns for each thread of a block; at least topk threads.
template <int W>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kReduceThreads) reduce_slots(const ReduceArgs a) {
  GPU_SHARED(std::int64_t, key, kReduceThreads);  // of a slot: its expert or 0; -1: it does not count
  GPU_SHARED(std::int32_t, order, kReduceThreads);  // slots that count, in the order in which they are added
  const int thread = static_cast<int>(thread_x());
  const std::int64_t token = block_x() / static_cast<unsigned>(a.column_tiles), first_slot = token * a.topk;
  const int tile = static_cast<int>(block_x() % static_cast<unsigned>(a.column_tiles));
  const int column = (tile * static_cast<int>(block_dim_x()) + thread) * kReduceColumns;
  const int n = a.hidden - column;
  float shared[kReduceColumns] = {};
  if (a.after.shared != nullptr && n > 0)
    load_four(a.dtype, a.after.shared, token * a.hidden + column, n, a.vectors, shared);
  const float gate = a.after.shared_gate != nullptr ? a.after.shared_gate[token] : 1.0F;
  std::int64_t id = -1;
  if (thread < a.topk) {
    if (local_expert(a.slot_map, first_slot + thread) >= 0)
      id = a.by_expert ? global_expert(a.slot_map, first_slot + thread) : 0;
    key[thread] = id;
  }
  block_barrier();
  int count = 0, rank = 0;
  for (int k = 0; k < a.topk; ++k) {
    const std::int64_t other = key[k];
    count += other >= 0;
    rank += other >= 0 && (other < id || (other == id && k < thread));
  }
  if (id >= 0) order[rank] = thread;
  block_barrier();
  if (n <= 0) return;  // no barrier follows
  float sum[kReduceColumns] = {};
  for (int first = 0; first < count; first += kReduceAtOnce) {
    float y[kReduceAtOnce][kReduceColumns];
    GPU_UNROLL for (int i = 0; i < kReduceAtOnce; ++i) if (first + i < count)
        load_four(a.y_dtype, a.y, (first_slot + order[first + i]) * a.hidden + column, n, a.vectors, y[i]);
    GPU_UNROLL for (int i = 0; i < kReduceAtOnce; ++i) {
      if (first + i >= count) break;
      const bool rounds = a.accumulate_in_dtype && (first + i > 0 || a.first_is_rounded || count == 1);
      GPU_UNROLL for (int j = 0; j < kReduceColumns; ++j) {
        sum[j] += y[i][j];
        if (rounds) sum[j] = rounded(a.dtype, sum[j]);
      }
    }
  }
  const int last = GPU_FAULT(kGpuExpertsTailColumns) ? n / kReduceColumns * kReduceColumns : n;
  GPU_UNROLL for (int j = 0; j < kReduceColumns; ++j) if (j < last)
      store_float(a.out_dtype, a.out, token * a.hidden + column + j,
                  after_sum(a.after, a.dtype, sum[j], shared[j], gate));
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels
