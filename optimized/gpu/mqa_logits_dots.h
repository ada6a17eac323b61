#pragma once
// The general kernel of mqa_logits: a thread per key, sums in f32 in ascending channel, heads in ascending order. Any number of
// heads, head_dim and alignment. Queries are decoded once per block, eight heads at a time, and shared.
#include "optimized/gpu/mqa_logits_keys.h"

namespace moecheck::MOECHECK_OPTIMIZED::mqa_logits_kernels {

inline constexpr int kDotThreads = 128, kDotHeads = 8;

GPU_DEVICE float load_f32(const std::uint8_t* p, bool aligned) {
  if (aligned) return *reinterpret_cast<const float*>(p);
  return bits_as<float>(p[0] | static_cast<std::uint32_t>(p[1]) << 8 |
                        static_cast<std::uint32_t>(p[2]) << 16 | static_cast<std::uint32_t>(p[3]) << 24);
}

template <bool kFnuz>
GPU_DEVICE float decoded(std::uint8_t code) {
  return kFnuz ? from_e4m3fnuz(code) : from_e4m3fn(code);
}

// sums[h] += q[h, c] * k[c]: q [channel][head] in shared memory.
GPU_DEVICE void add_channel(const float* q, float k, float (&sums)[kDotHeads]) {
  GPU_UNROLL for (int h = 0; h < kDotHeads; ++h) sums[h] += q[h] * k;
}

template <bool kFnuz>
GPU_DEVICE void add_key(const MqaLogitsArgs& a, bool words, const float* q, const std::uint8_t* key,
                        float (&sums)[kDotHeads]) {
  if (words) {
    for (int c = 0; c < a.head_dim; c += 4) {
      std::uint32_t four = *reinterpret_cast<const std::uint32_t*>(key + c / 16 * piece_stride(a) + c % 16);
      GPU_UNROLL for (int i = 0; i < 4; ++i) {
        add_channel(q + (c + i) * kDotHeads, decoded<kFnuz>(static_cast<std::uint8_t>(four)), sums);
        four >>= 8;
      }
    }
    return;
  }
  for (int c = 0; c < a.head_dim; ++c)
    add_channel(q + c * kDotHeads, decoded<kFnuz>(key[c / 16 * piece_stride(a) + c % 16]), sums);
}

// block: one of `blocks` of a row, with every blocks-th part of kDotThreads of its keys.
template <bool kFnuz>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kDotThreads)
    mqa_logits_dots(const MqaLogitsArgs a, const int blocks, const bool words) {
  GPU_DYNAMIC_SHARED(float, q);  // [head_dim][kDotHeads]
  const std::int64_t row = block_x() / static_cast<unsigned>(blocks);
  const int block = static_cast<int>(block_x() % static_cast<unsigned>(blocks)),
            thread = static_cast<int>(thread_in_block());
  const Seen seen = tokens_seen(a, row);
  fill_tail(a, row, seen, block * kDotThreads + thread, blocks * kDotThreads);
  const std::int32_t* table = table_of(a, row);
  const std::uint8_t* codes = a.q + row * a.heads * a.head_dim;
  const float* weights = a.weights + row * a.heads;
  for (int begin = block * kDotThreads; begin < seen.count; begin += blocks * kDotThreads) {
    // Threads behind the last key take it again: what lies behind it may be nobody's memory.
    const int mine = begin + thread, i = mine < seen.count ? mine : seen.count - 1;
    const Key key = key_of(a, table, seen.first + i);
    float total = 0;
    for (int head = 0; head < a.heads; head += kDotHeads) {
      block_barrier();  // the last heads have been read
      for (int j = thread; j < kDotHeads * a.head_dim; j += kDotThreads) {
        const int h = head + j / a.head_dim, c = j % a.head_dim;
        const bool there = h < a.heads || GPU_FAULT(kGpuLogitsHeadsTail);
        q[c * kDotHeads + h - head] =
            there ? decoded<kFnuz>(codes[static_cast<std::int64_t>(h % a.heads) * a.head_dim + c]) : 0.0F;
      }
      if (!GPU_FAULT(kGpuLogitsStaleQuery)) block_barrier();
      float sums[kDotHeads] = {};
      add_key<kFnuz>(a, words, q, key.values, sums);
      GPU_UNROLL for (int h = 0; h < kDotHeads; ++h) {
        if (head + h >= a.heads && !GPU_FAULT(kGpuLogitsHeadsTail)) continue;
        const float dot = a.dot_in_bf16 ? from_bf16(to_bf16(sums[h])) : sums[h];
        total += larger(dot, 0.0F) * weights[(head + h) % a.heads];
      }
    }
    total *= load_f32(key.scale, words);
    if (mine < seen.count) store_logit(a, row * a.row_stride + seen.column + mine, total);
  }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::mqa_logits_kernels
