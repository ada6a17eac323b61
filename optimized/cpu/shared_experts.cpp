#include "optimized/cpu/shared_experts.h"

#include <algorithm>
#include <cstring>

#include "optimized/cpu/gating_plan.h"
#include "optimized/cpu/thread_pool.h"

namespace moecheck::MOECHECK_OPTIMIZED {
namespace {

using reference::Shape;
using reference::SlotInsertion;
using reference::SlotInsertionOptions;
using reference::WeightScale;

//   routed: s_j / S (* rsf)        shared: (S / rsf) / S (* rsf)        S = sum of the routed scores alone
void finish_sglang(const SlotInsertionOptions& o, float* weights) {
  const auto rsf = static_cast<float>(o.routed_scaling_factor);
  float sum = 0;
  for (std::int64_t k = 0; k < o.topk; ++k) sum += weights[k];
  for (std::int64_t j = 0; j < o.shared; ++j)
    weights[o.topk + j] = fault(Fault::kInsertedUndivided) ? sum : sum / rsf;
  if (fault(Fault::kInsertionSumsShared))
    for (std::int64_t j = 0; j < o.shared; ++j) sum += weights[o.topk + j];
  for (std::int64_t k = 0; k < o.topk + o.shared; ++k) {
    if (o.renormalize) weights[k] /= sum;
    if (o.scale_flag) weights[k] *= rsf;
  }
}

// Whether this rank computes the shared experts of token t: with expert parallelism each token's belong to
// one rank alone.
bool shared_is_mine(const SlotInsertionOptions& o, std::int64_t t) {
  if (o.insertion != SlotInsertion::kVllmRocm || o.ep_size <= 1 || fault(Fault::kInsertedOnEveryRank))
    return true;
  return t % o.ep_size == o.ep_rank;
}

float slot_weight(const SlotInsertionOptions& o, ConstView gate_logits, std::int64_t t, std::int64_t j,
                  VectorSigmoid sigmoid) {
  if (fault(Fault::kGateOfFirstSlot)) j = 0;
  const float n = fault(Fault::kInsertedWeightSplit) ? static_cast<float>(o.shared) : 1.0F;
  switch (o.insertion) {
    case SlotInsertion::kAiterAppend:
      return static_cast<float>(o.append_weight) / n;
    case SlotInsertion::kGated:
      return (fault(Fault::kGateWithoutSigmoid) ? load_float(gate_logits, t * o.shared + j)
                                                : sigmoid(load_float(gate_logits, t * o.shared + j))) /
             n;
    default:
      return 1 / n;
  }
}

// `count` runs of `bytes`, run i from source + i * source_stride to target + i * target_stride.
void copy_runs(const char* source, std::int64_t source_stride, char* target, std::int64_t target_stride,
               std::int64_t bytes, std::int64_t count) {
  for (std::int64_t i = 0; i < count && bytes > 0; ++i)
    std::memcpy(target + i * target_stride, source + i * source_stride, static_cast<std::size_t>(bytes));
}

struct Matrix {
  std::int64_t rows, row_bytes;
};
// [rows] and [rows, 1] scales are matrices of one column.
Matrix matrix_of(ConstView view) {
  const std::int64_t rows = view.shape.rank == 0 ? 1 : view.shape[0];
  return {rows, rows == 0 ? 0 : view.shape.numel() / rows * reference::size_bytes(view.dtype)};
}

// Chunk j of gate, then chunk j of up: rows of each, not of the two stacked.
void stack_chunks(ConstView gate, ConstView up, View slots, std::int64_t n) {
  const Matrix m = matrix_of(gate);
  const std::int64_t chunk = m.rows / n * m.row_bytes;
  for (std::int64_t j = 0; j < n; ++j) {
    char* slot = slots.as<char>() + j * 2 * chunk;
    const std::int64_t from = fault(Fault::kChunkZeroReplicated) ? 0 : j;
    if (fault(Fault::kStackedThenSplit)) {  // chunk j of [gate; up]
      for (std::int64_t half = 0; half < 2; ++half) {
        const std::int64_t piece = 2 * j + half;
        std::memcpy(slot + half * chunk, (piece < n ? gate : up).as<char>() + piece % n * chunk,
                    static_cast<std::size_t>(chunk));
      }
      continue;
    }
    copy_runs(gate.as<char>() + from * chunk, 0, slot, 0, chunk, 1);
    copy_runs(up.as<char>() + from * chunk, 0, slot + chunk, 0, chunk, 1);
  }
}

// Columns of down: a run in every row.
void split_columns(ConstView down, View slots, std::int64_t n) {
  const Matrix m = matrix_of(down);
  const std::int64_t run = m.row_bytes / n;
  for (std::int64_t j = 0; j < n; ++j) {
    if (fault(Fault::kLastSlotUninitialised) && j == n - 1) break;
    char* slot = slots.as<char>() + j * m.rows * run;
    const std::int64_t from = fault(Fault::kChunkZeroReplicated) ? 0 : j;
    if (fault(Fault::kDownSplitByRows))
      copy_runs(down.as<char>() + j * m.rows * run, run, slot, run, run, m.rows);
    else
      copy_runs(down.as<char>() + from * run, m.row_bytes, slot, run, run, m.rows);
  }
}

void replicate(ConstView scale, View slots, std::int64_t n) {
  const std::int64_t bytes = scale.shape.numel() * reference::size_bytes(scale.dtype);
  const std::int64_t copied = fault(Fault::kChannelScaleSplit) ? bytes / n : bytes;
  for (std::int64_t j = 0; j < n; ++j) {
    const std::int64_t from = fault(Fault::kChannelScaleSplit) ? j * copied : 0;
    copy_runs(scale.as<char>() + from, 0, slots.as<char>() + j * bytes, 0, copied, 1);
  }
}

void split_scales(const FatSharedExpert& fat, const SharedSlotViews& slots, std::int64_t n) {
  switch (fat.scale) {
    case WeightScale::kNone:
      return;
    case WeightScale::kTensor:
      for (std::int64_t j = 0; j < n; ++j) {
        const std::int64_t bytes = reference::size_bytes(fat.gate_scale.dtype);
        char* slot = slots.w13_scale.as<char>() + 2 * j * bytes;
        std::memcpy(slot, fat.gate_scale.data, static_cast<std::size_t>(bytes));
        std::memcpy(slot + bytes, (fault(Fault::kOneScaleForGateAndUp) ? fat.gate_scale : fat.up_scale).data,
                    static_cast<std::size_t>(bytes));
      }
      return replicate(fat.down_scale, slots.w2_scale, n);
    case WeightScale::kChannel:
      stack_chunks(fat.gate_scale, fat.up_scale, slots.w13_scale, n);
      // output channels are hidden channels: every chunk has all
      return replicate(fat.down_scale, slots.w2_scale, n);
    case WeightScale::kBlock:
      stack_chunks(fat.gate_scale, fat.up_scale, slots.w13_scale, n);
      return split_columns(fat.down_scale, slots.w2_scale, n);
  }
}

}  // namespace

void insert_shared_slots(const SlotInsertionOptions& o, ConstView topk_ids, ConstView topk_weights,
                         ConstView gate_logits, View out_ids, View out_weights, CpuOptions cpu) {
  const std::int64_t tokens = topk_ids.shape[0], columns = o.columns();
  const VectorSigmoid sigmoid = vector_sigmoid();
  constexpr std::int64_t kRows = 64;
  parallel_for(cpu.threads, (tokens + kRows - 1) / kRows, [&](std::int64_t task, int) {
    for (std::int64_t t = task * kRows; t < std::min(tokens, (task + 1) * kRows); ++t) {
      float* weights = out_weights.as<float>() + t * columns;
      for (std::int64_t k = 0; k < o.topk; ++k) {
        store_id(out_ids, t * columns + k, load_id(topk_ids, t * o.topk + k));
        weights[k] = topk_weights.as<float>()[t * o.topk + k];
      }
      const bool mine = shared_is_mine(o, t);
      for (std::int64_t j = 0; j < columns - o.topk; ++j) {
        const bool real = mine && j < o.shared;
        const std::int64_t id = o.experts + (fault(Fault::kInsertedIdSame) ? 0 : j);
        store_id(out_ids, t * columns + o.topk + j, real ? id : o.sentinel());
        weights[o.topk + j] = slot_weight(o, gate_logits, t, std::min(j, o.shared - 1), sigmoid);
      }
      if (o.insertion == SlotInsertion::kSglang) finish_sglang(o, weights);
    }
  });
}

void split_shared_experts(const FatSharedExpert& fat, const SharedSlotViews& slots) {
  const std::int64_t n = slots.w13.shape[0];
  stack_chunks(fat.gate, fat.up, slots.w13, n);
  split_columns(fat.down, slots.w2, n);
  if (fault(Fault::kSlotsZero))
    std::memset(slots.w13.data, 0,
                static_cast<std::size_t>(slots.w13.shape.numel() * reference::size_bytes(slots.w13.dtype)));
  split_scales(fat, slots, n);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
