#pragma once
// The indexer's paged key cache on GPUs: which kernel serves a request, and the entry points. The operator is specified in
// reference/indexer_cache.h; indexer_cache_quantize.h writes the cache, indexer_cache_gather.h and indexer_cache_gather_wave.h read it.
//
// Specializations of the writer: dtype of k, format of the codes, and whether a row is 128 channels with one scale; one more for any
// sizes and addresses. Of the reader: 128 channels with one scale, by the order of the cache; else bytes of a piece. They register
// themselves (specializations.h).
#include <array>
#include <stdexcept>
#include <string>

#include "optimized/gpu/indexer_cache.h"
#include "optimized/gpu/indexer_cache_gather.h"
#include "optimized/gpu/indexer_cache_gather_wave.h"
#include "optimized/gpu/indexer_cache_quantize.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::MOECHECK_OPTIMIZED::indexer_cache_kernels {

template <class Args>
struct Choice {
  void (*kernel)(Args);
  Specialization* specialization;
};

inline Specialization* registered(const std::string& name) {
  return &register_specialization("indexer_cache", GPU_BACKEND_NAME " " + name);
}

inline bool aligned(const void* p, std::size_t to) { return reinterpret_cast<std::uintptr_t>(p) % to == 0; }

// ---- writing

template <int W, class Stored, bool kFnuz, int kPieces>
Choice<QuantizeArgs> pieces_choice(const char* dtype) {
  return {quantize_pieces<W, Stored, kFnuz, kPieces>,
          registered("wave " + std::to_string(W) + " quantize " + dtype + " to " +
                     (kFnuz ? "e4m3fnuz" : "e4m3fn") + (kPieces > 0 ? " 128 channels" : ""))};
}
// By dtype, format, 128 channels.
template <int W>
const std::array<Choice<QuantizeArgs>, 12>& pieces_choices() {
  static const std::array<Choice<QuantizeArgs>, 12> all = {
      pieces_choice<W, StoredF32, false, 0>("f32"),   pieces_choice<W, StoredF32, false, 8>("f32"),
      pieces_choice<W, StoredF32, true, 0>("f32"),    pieces_choice<W, StoredF32, true, 8>("f32"),
      pieces_choice<W, StoredBF16, false, 0>("bf16"), pieces_choice<W, StoredBF16, false, 8>("bf16"),
      pieces_choice<W, StoredBF16, true, 0>("bf16"),  pieces_choice<W, StoredBF16, true, 8>("bf16"),
      pieces_choice<W, StoredF16, false, 0>("f16"),   pieces_choice<W, StoredF16, false, 8>("f16"),
      pieces_choice<W, StoredF16, true, 0>("f16"),    pieces_choice<W, StoredF16, true, 8>("f16")};
  return all;
}
template <int W>
const Choice<QuantizeArgs>& any_choice() {
  static const Choice<QuantizeArgs> choice = {
      quantize_any<W>, registered("wave " + std::to_string(W) + " quantize any sizes")};
  return choice;
}

// Why a wave's lanes cannot have a piece each, or nullptr.
template <int W>
const char* not_in_pieces(const QuantizeArgs& a) {
  const int lanes = a.quant_block / kTile;
  if (a.quant_block % kTile != 0 || (lanes & (lanes - 1)) != 0 || lanes > W)
    return "a group is not a power of two of pieces, or more than a wave's";
  if (!aligned(a.k, 16) || a.row_stride * reference::size_bytes(a.k_dtype) % 16 != 0)
    return "rows of k do not begin at multiples of 16 bytes";
  if (static_cast<std::uint64_t>(a.tokens) * static_cast<unsigned>(a.pieces) >= std::uint64_t{1} << 31)
    return "k has 2^31 pieces or more";
  return nullptr;
}

template <int W>
void launch_quantize(const QuantizeArgs& a, Stream stream) {
  // Few tokens: a wave a block, so that they spread over the device.
  const auto run = [&](const Choice<QuantizeArgs>& choice, std::uint64_t threads) {
    const unsigned block = static_cast<unsigned>((threads <= 16384 ? 1 : kWavesPerBlock) * W);
    const bool drop = GPU_FAULT(kGpuIndexerTailBlock) && threads > block;
    ++choice.specialization->executed;
    launch(choice.kernel,
           {.grid = static_cast<unsigned>((threads + (drop ? 0 : block - 1)) / block),
            .block = block,
            .stream = stream,
            .wave = W},
           a);
  };
  // Both, so that the registry knows those that no request asks for.
  const auto& in_pieces = pieces_choices<W>();
  const auto& any = any_choice<W>();
  if (const char* reason = not_in_pieces<W>(a)) {
    note_fallback("indexer_cache", reason);
    return run(any, static_cast<std::uint64_t>(a.tokens) * W);
  }
  if (!a.wide_stores) note_fallback("indexer_cache", "blocks do not begin at multiples of 16 bytes");
  const unsigned dtype = a.k_dtype == DType::kF32 ? 0 : a.k_dtype == DType::kBF16 ? 1 : 2;
  const unsigned fnuz = a.fp8 == DType::kE4M3FNUZ, usual = a.head_dim == 128 && a.quant_block == 128;
  run(in_pieces[4 * dtype + 2 * fnuz + usual],
      static_cast<std::uint64_t>(a.tokens) * static_cast<unsigned>(a.pieces));
}

// ---- gathering

template <int kBytes>
Choice<GatherArgs> gather_choice() {
  return {gather_rows<kBytes>, registered("gather by " + std::to_string(kBytes) + " bytes")};
}
// By bytes of a piece: 16, 4, 1.
inline const std::array<Choice<GatherArgs>, 3>& gather_choices() {
  static const std::array<Choice<GatherArgs>, 3> all = {gather_choice<16>(), gather_choice<4>(),
                                                        gather_choice<1>()};
  return all;
}
template <int W, bool kTiles>
Choice<GatherArgs> wave_gather_choice() {
  return {gather_128<W, kTiles>, registered("wave " + std::to_string(W) + " gather 128 channels" +
                                            (kTiles ? " out of tiles of tokens" : ""))};
}
// By whether tokens of a tile lie 16 bytes apart.
template <int W>
const std::array<Choice<GatherArgs>, 2>& wave_gather_choices() {
  static const std::array<Choice<GatherArgs>, 2> all = {wave_gather_choice<W, false>(),
                                                        wave_gather_choice<W, true>()};
  return all;
}

template <int W>
void launch_gather(GatherArgs a, std::int64_t head_dim, Stream stream) {
  const auto all_at = [&](std::size_t bytes) {
    const auto n = static_cast<std::int64_t>(bytes);
    return aligned(a.cache, bytes) && aligned(a.dst_k, bytes) && head_dim % n == 0 &&
           a.places.block_stride % n == 0;
  };
  const bool wide = head_dim % 16 == 0 && (all_at(16) || GPU_FAULT(kGpuIndexerWideAccess));
  const int bytes = wide ? 16 : all_at(4) ? 4 : 1;
  if (!wide) note_fallback("indexer_cache", "rows of the cache do not begin at multiples of 16 bytes");
  a.pieces = static_cast<std::int32_t>(head_dim / bytes);
  const auto run = [&](const Choice<GatherArgs>& choice, std::int64_t rows_of_block, unsigned block,
                       int wave) {
    ++choice.specialization->executed;
    launch(choice.kernel,
           {.grid = static_cast<unsigned>((a.rows + rows_of_block - 1) / rows_of_block),
            .block = block,
            .stream = stream,
            .wave = wave},
           a);
  };
  // All, so that the registry knows those that no request asks for.
  const auto& by_wave = wave_gather_choices<W>();
  const auto& any = gather_choices();
  if (wide && head_dim == 128 && a.scales == 1) {
    // Few rows: a wave a block, so that they spread over the device.
    const int threads = a.rows <= 16384 ? W : kWaveGatherThreads;
    const bool tiles = a.places.token_step == kTile;
    return run(by_wave[tiles ? 1 : 0], threads, static_cast<unsigned>(threads), W);
  }
  // Tiles of as many rows as give each thread a batch; where these are too few to fill a device, a piece.
  const auto tile_rows = [&](int each) {
    const int rows = each * kGatherThreads / a.pieces;
    return rows < 1 ? 1 : rows > kMostRows ? kMostRows : rows;
  };
  a.tile_rows = tile_rows(kBatch);
  if (a.rows / a.tile_rows < 512) a.tile_rows = tile_rows(1);
  run(any[bytes == 16 ? 0 : bytes == 4 ? 1 : 2], a.tile_rows, kGatherThreads, 0);
}

[[noreturn]] inline void refuse(const std::string& why) {
  throw std::invalid_argument("indexer_cache: " + why);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::indexer_cache_kernels

namespace moecheck::MOECHECK_OPTIMIZED {

template <class Backend>
void gpu_indexer_k_quant_and_cache(const reference::IndexerQuant& quant, const reference::CacheLayout& layout,
                                   reference::ConstView k, std::int64_t row_stride,
                                   reference::ConstView slot_mapping, std::int64_t tokens,
                                   reference::View kv_cache, gpu::Stream stream) {
  using namespace indexer_cache_kernels;  // NOLINT
  if (const auto why = gpu_indexer_cache_unsupported(layout)) refuse(*why);
  if (tokens == 0) return;
  if (slot_mapping.shape.numel() < tokens) refuse("slot_mapping is shorter than the tokens");
  if (tokens >= std::int64_t{1} << 31) refuse(std::to_string(tokens) + " tokens are 2^31 or more");
  QuantizeArgs a;
  a.k = k.data;
  a.slot_mapping = slot_mapping.data;
  a.cache = kv_cache.as<std::uint8_t>();
  a.row_stride = row_stride;
  a.slots = kv_cache.shape[0] * layout.block_size;
  a.tokens = static_cast<std::uint32_t>(tokens);
  a.head_dim = static_cast<std::int32_t>(layout.head_dim);
  a.quant_block = static_cast<std::int32_t>(layout.quant_block);
  a.pieces = a.head_dim / kTile;
  a.lanes = a.quant_block / kTile;
  a.k_dtype = k.dtype;
  a.fp8 = quant.fp8;
  a.slots_are_64_bit = slot_mapping.dtype == reference::DType::kI64;
  a.wide_stores = aligned(a.cache, 16) && layout.stride() % 16 == 0;
  a.places = cache_places(layout);
  a.quantizer = quantizer(quant);
  gpu::with_wave_width([&]<int W>() { launch_quantize<W>(a, stream); });
}

template <class Backend>
void gpu_cp_gather_indexer_k_quant_cache(const reference::CacheLayout& layout, reference::ConstView kv_cache,
                                         const reference::PagedTable& table, std::int64_t columns,
                                         reference::View dst_k, reference::View dst_scale,
                                         gpu::Stream stream) {
  using namespace indexer_cache_kernels;  // NOLINT
  if (const auto why = gpu_indexer_cache_unsupported(layout)) refuse(*why);
  GatherArgs a;
  a.cache = kv_cache.as<std::uint8_t>();
  a.block_table = table.block_table.as<std::int32_t>();
  a.cu_seq_lens = table.cu_seq_lens.as<std::int32_t>();
  a.dst_k = dst_k.as<std::uint8_t>();
  a.dst_scale = dst_scale.as<std::uint32_t>();
  a.blocks = kv_cache.shape[0];
  a.table_stride = table.row_stride;
  a.rows = dst_k.shape[0];
  a.requests = static_cast<std::int32_t>(table.cu_seq_lens.shape.numel() - 1);
  a.columns = static_cast<std::int32_t>(columns);
  a.scales = static_cast<std::int32_t>(layout.scales());
  a.places = cache_places(layout);
  if (a.rows > 0) gpu::with_wave_width([&]<int W>() { launch_gather<W>(a, layout.head_dim, stream); });
}

template void gpu_indexer_k_quant_and_cache<gpu::ThisBackend>(const reference::IndexerQuant&,
                                                              const reference::CacheLayout&,
                                                              reference::ConstView, std::int64_t,
                                                              reference::ConstView, std::int64_t,
                                                              reference::View, gpu::Stream);
template void gpu_cp_gather_indexer_k_quant_cache<gpu::ThisBackend>(const reference::CacheLayout&,
                                                                    reference::ConstView,
                                                                    const reference::PagedTable&,
                                                                    std::int64_t, reference::View,
                                                                    reference::View, gpu::Stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
