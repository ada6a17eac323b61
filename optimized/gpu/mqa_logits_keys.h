#pragma once
// What the kernels of mqa_logits share: the tokens that a row sees, where a token's key lies, and its logit's column.
#include "optimized/gpu/fault.h"
#include "optimized/gpu/gpu.h"
#include "optimized/gpu/math.h"
#include "optimized/gpu/mqa_logits_args.h"
#include "optimized/gpu/number_formats.h"

namespace moecheck::MOECHECK_OPTIMIZED::mqa_logits_kernels {

using namespace moecheck::gpu;  // NOLINT: kernels speak gpu.h

// Tokens [first, first + count) of a row; the logit of the i-th is in column `column` + i.
struct Seen {
  std::int32_t first = 0, count = 0, column = 0;
};

GPU_DEVICE Seen tokens_seen(const MqaLogitsArgs& a, std::int64_t row) {
  Seen seen;
  std::int32_t last;
  if (a.paged) {
    const std::int64_t request = row / a.next_n;
    last = a.lengths_2d ? a.lengths[row]
                        : a.lengths[request] - a.next_n + static_cast<std::int32_t>(row % a.next_n) + 1;
  } else {
    seen.first = a.starts[row];
    last = a.lengths[row];
    seen.column = a.compressed ? 0 : seen.first;
  }
  // Never outside the row's columns, so that a length that lies costs a wrong logit and not other rows' memory.
  const std::int32_t most = a.width - seen.column;
  seen.count = last - seen.first;
  if (seen.count > most) seen.count = most;
  if (seen.count < 0) seen.count = 0;
  return seen;
}

// A token's bytes: channel c at values + c / 16 * piece_stride + c % 16, in both layouts.
struct Key {
  const std::uint8_t *values, *scale;
};

GPU_DEVICE std::int32_t piece_stride(const MqaLogitsArgs& a) {
  return GPU_FAULT(kGpuLogitsPieceStride) ? 16 : a.piece_stride;
}

// A token's block of the cache and its place in it.
struct Slot {
  std::int32_t block, token;
};
GPU_DEVICE Slot slot_of(const MqaLogitsArgs& a, const std::int32_t* table, std::int32_t n) {
  const auto u = static_cast<std::uint32_t>(n), size = static_cast<std::uint32_t>(a.block_size);
  const std::uint32_t column = a.block_shift >= 0 ? u >> a.block_shift : u / size;
  return {table[column], static_cast<std::int32_t>(u - column * size)};
}

// Token n; of the ragged form, row n of k. `table`: the request's row of the block table.
GPU_DEVICE Key key_of(const MqaLogitsArgs& a, const std::int32_t* table, std::int32_t n) {
  if (!a.paged) {
    return {a.keys + static_cast<std::int64_t>(n) * a.head_dim,
            a.key_scales + static_cast<std::int64_t>(n) * 4};
  }
  const Slot slot = slot_of(a, table, n);
  const std::uint8_t* block = a.keys + slot.block * a.block_stride;
  const std::int32_t values =
      a.preshuffled ? slot.token / 16 * 16 * a.head_dim + slot.token % 16 * 16 : slot.token * a.head_dim;
  return {block + values, block + a.scales_at + static_cast<std::int64_t>(slot.token) * 4};
}

GPU_DEVICE const std::int32_t* table_of(const MqaLogitsArgs& a, std::int64_t row) {
  return a.paged ? a.block_table + row / a.next_n * a.table_columns : nullptr;
}

GPU_DEVICE void store_logit(const MqaLogitsArgs& a, std::int64_t i, float v) {
  if (a.logits_bf16)
    static_cast<std::uint16_t*>(a.logits)[i] = to_bf16(v);
  else
    static_cast<float*>(a.logits)[i] = v;
}
GPU_DEVICE float load_logit(const MqaLogitsArgs& a, std::int64_t i) {
  return a.logits_bf16 ? from_bf16(static_cast<const std::uint16_t*>(a.logits)[i])
                       : static_cast<const float*>(a.logits)[i];
}

// -Inf where the row sees no token: thread `thread` of `threads` that share the row.
GPU_DEVICE void fill_tail(const MqaLogitsArgs& a, std::int64_t row, Seen seen, int thread, int threads) {
  if (!a.fills) return;
  const bool empty = seen.count == 0 && !GPU_FAULT(kGpuLogitsEmptyRow);
  const std::int32_t end = empty ? 0 : seen.column + seen.count;
  const std::int64_t first = row * a.row_stride;
  if (seen.count > 0)
    for (std::int32_t c = thread; c < seen.column; c += threads) store_logit(a, first + c, -infinity());
  for (std::int32_t c = end + thread; c < a.width; c += threads) store_logit(a, first + c, -infinity());
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::mqa_logits_kernels
