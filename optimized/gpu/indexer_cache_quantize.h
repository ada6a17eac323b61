#pragma once
// The kernels that quantize keys into the cache.
//
// A piece is 16 channels: a lane reads one (32 bytes of bf16), and its codes are what all layouts keep together, one store of 16 bytes.
// The lanes of a group, a power of two of them, find its amax by shuffles. Lanes of a wave hold the pieces of consecutive tokens, so
// that the stores of a preshuffled cache, 16 bytes of a token, make up runs of 64 bytes where the slots are consecutive too.
#include "optimized/gpu/fault.h"
#include "optimized/gpu/indexer_cache_layout.h"
#include "optimized/gpu/indexer_cache_numbers.h"

namespace moecheck::MOECHECK_OPTIMIZED::indexer_cache_kernels {

using reference::DType;

inline constexpr int kWavesPerBlock = 4;

struct QuantizeArgs {
  const void* k = nullptr;             // rows of row_stride elements
  const void* slot_mapping = nullptr;  // [tokens]
  std::uint8_t* cache = nullptr;
  std::int64_t row_stride = 0, slots = 0;  // slots of the cache
  std::uint32_t tokens = 0;
  std::int32_t head_dim = 0, quant_block = 0;
  std::int32_t pieces = 0;  // of a row
  std::int32_t lanes = 0;   // of a group, where that is pieces
  DType k_dtype{}, fp8{};
  bool slots_are_64_bit = false;
  bool wide_stores = false;  // 16 bytes at once
  CachePlaces places;
  Quantizer quantizer;
};

// Stores to the cache: where two tokens have one slot, they race, which the contract allows and ThreadSanitizer need not report.
#if defined(GPU_BACKEND_HOST) && defined(__SANITIZE_THREAD__)
template <class T>
__attribute__((no_sanitize("thread"), noinline)) void put(std::uint8_t* p, T value) {
  *reinterpret_cast<T*>(p) = value;
}
#else
template <class T>
GPU_DEVICE void put(std::uint8_t* p, T value) {
  *reinterpret_cast<T*>(p) = value;
}
GPU_DEVICE void put(std::uint8_t* p, Bytes16 value) { store16(p, value); }
#endif

GPU_DEVICE std::int64_t slot_of(const QuantizeArgs& a, std::int64_t token) {
  return a.slots_are_64_bit ? static_cast<const std::int64_t*>(a.slot_mapping)[token]
                            : static_cast<const std::int32_t*>(a.slot_mapping)[token];
}

// Where a token goes.
struct Destination {
  std::uint8_t* block;
  std::int32_t token;  // in the block
};
GPU_DEVICE Destination destination(const QuantizeArgs& a, std::int64_t slot) {
  const std::int64_t block = a.places.block_of(slot);
  return {a.cache + block * a.places.block_stride,
          static_cast<std::int32_t>(slot - block * a.places.block_size)};
}

template <class Stored>
GPU_DEVICE void load_piece(const void* k, std::int64_t element, float (&v)[kTile]) {
  using Bits = typename Stored::Bits;
  constexpr int kEach = 16 / static_cast<int>(sizeof(Bits)), kPerWord = kEach / 4;
  const Bits* p = static_cast<const Bits*>(k) + element;
  Bytes16 raw[kTile / kEach];
  GPU_UNROLL for (int i = 0; i < kTile / kEach; ++i) raw[i] = load16(p + i * kEach);
  GPU_UNROLL for (int i = 0; i < kTile; ++i) {
    const std::uint32_t word = raw[i / kEach].word[i % kEach / kPerWord];
    if constexpr (kPerWord == 1)
      v[i] = bits_as<float>(word);
    else
      v[i] = Stored::load(static_cast<std::uint16_t>(i % 2 == 0 ? word & 0xFFFF : word >> 16));
  }
}

// The group's numbers of this lane become codes. Rows' pieces: kPieces, or a.pieces with 0. 8 means 128 channels with one scale.
template <int W, class Stored, bool kFnuz, int kPieces>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kWavesPerBlock* W) quantize_pieces(const QuantizeArgs a) {
  const auto pieces = static_cast<std::uint32_t>(kPieces > 0 ? kPieces : a.pieces);
  const int lanes = kPieces > 0 ? kPieces : a.lanes;
  const std::uint32_t i = block_x() * block_dim_x() + thread_x(), token = i / pieces;
  const int piece = static_cast<int>(i - token * pieces);
  // Lanes behind the last token have to come to the shuffles: they look at the last one's keys.
  const bool live = token < a.tokens;
  if (GPU_FAULT(kGpuIndexerTailLanesLeave) && !live) return;
  const std::int64_t row = live ? token : a.tokens - 1;
  const std::int64_t slot = slot_of(a, row);  // and keys, on their way together
  float v[kTile];
  load_piece<Stored>(a.k, row * a.row_stride + piece * kTile, v);
  float amax = 0;
  GPU_UNROLL for (int j = 0; j < kTile; ++j) amax = larger_amax(amax, v[j]);
  for (int step = (GPU_FAULT(kGpuIndexerGroupsMix) ? W : lanes) / 2; step > 0; step /= 2)
    amax = larger(amax, shfl_xor<W>(amax, step));
  if (!live || slot < 0 || slot >= a.slots) return;

  const float scale = scale_of(a.quantizer, amax);
  divide(a.quantizer, scale, v);
  Bytes16 codes;
  GPU_UNROLL for (int w = 0; w < 4; ++w) codes.word[w] =
      two_codes<kFnuz>(a.quantizer, v[4 * w], v[4 * w + 1]) |
      two_codes<kFnuz>(a.quantizer, v[4 * w + 2], v[4 * w + 3]) << 16;
  const Destination to = destination(a, slot);
  const int at = GPU_FAULT(kGpuIndexerPiecePairing) ? piece ^ 1 : piece;
  std::uint8_t* p = to.block + a.places.row(to.token) + a.places.in_row(at * kTile);
  if (a.wide_stores) {
    put(p, codes);
  } else {
    GPU_UNROLL for (int w = 0; w < 4; ++w) put(p + 4 * w, codes.word[w]);
  }
  const bool first = GPU_FAULT(kGpuIndexerScaleOfFirstLane) ? lane<W>() == 0 : piece % lanes == 0;
  if (first) put(to.block + a.places.scale(to.token) + piece / lanes * 4, float_bits(scale));
}

GPU_DEVICE float load_number(DType dtype, const void* p, std::int64_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(p)[i];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(p)[i];
  return dtype == DType::kBF16 ? from_bf16(bits) : from_f16(bits);
}

// Any sizes and addresses: a wave per token, one number at a time.
template <int W>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kWavesPerBlock* W) quantize_any(const QuantizeArgs a) {
  const std::uint32_t token =
      block_x() * (block_dim_x() / W) + static_cast<std::uint32_t>(wave_in_block<W>());
  if (token >= a.tokens) return;  // the whole wave
  const std::int64_t slot = slot_of(a, token);
  if (slot < 0 || slot >= a.slots) return;  // the whole wave
  const Destination to = destination(a, slot);
  const std::int64_t row = token * a.row_stride;
  for (int first = 0, group = 0; first < a.head_dim; first += a.quant_block, ++group) {
    const int end = first + a.quant_block;
    float amax = 0;
    for (int c = first + lane<W>(); c < end; c += W)
      amax = larger_amax(amax, load_number(a.k_dtype, a.k, row + c));
    for (int step = (GPU_FAULT(kGpuIndexerWaveWidth32) ? 32 : W) / 2; step > 0; step /= 2)
      amax = larger(amax, shfl_xor<W>(amax, step));
    const float scale = scale_of(a.quantizer, amax);
    for (int c = first + lane<W>(); c < end; c += W) {
      float v[1] = {load_number(a.k_dtype, a.k, row + c)};
      divide(a.quantizer, scale, v);
      put(to.block + a.places.row(to.token) + a.places.in_row(c),
          a.fp8 == DType::kE4M3FNUZ ? code_of<true>(a.quantizer, v[0]) : code_of<false>(a.quantizer, v[0]));
    }
    if (lane<W>() == 0) put(to.block + a.places.scale(to.token) + 4 * group, float_bits(scale));
  }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::indexer_cache_kernels
