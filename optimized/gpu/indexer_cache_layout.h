#pragma once
// reference::CacheLayout as kernels of one-byte values have it: strides that were asked of the layout on the host. Internal.
//
// Both orders are one formula: a tile is 16 tokens and 16 bytes of their rows, and the layout says how far it is to the next tile of
// tokens, the next token of a tile and the next tile of bytes.
//
//   value(t, b) = t / 16 * token_tile_step + t % 16 * token_step + b / 16 * byte_tile_step + b % 16
//   scale(t, g) = first_scale + t * scale_step + 4 g
#include <bit>
#include <cstdint>

#include "optimized/fault.h"
#include "optimized/gpu/gpu.h"
#include "reference/cache_layout.h"

namespace moecheck::MOECHECK_OPTIMIZED::indexer_cache_kernels {

using namespace moecheck::gpu;  // NOLINT: kernels speak gpu.h

inline constexpr int kTile = 16;
static_assert(kTile == reference::CacheLayout::kTile);

struct CachePlaces {
  std::int64_t block_stride = 0;                     // bytes
  std::int32_t block_size = 0, block_shift = -1;     // tokens; its logarithm, where it is a power of two
  std::int32_t token_tile_step = 0, token_step = 0;  // bytes; 0 where there is one
  std::int32_t byte_tile_step = 0;
  std::int32_t first_scale = 0, scale_step = 0;

  // Of a token's row: offset in its block; then of a byte in the row.
  GPU_DEVICE std::int32_t row(std::int32_t token) const {
    return token / kTile * token_tile_step + token % kTile * token_step;
  }
  GPU_DEVICE std::int32_t in_row(std::int32_t byte) const {
    return byte / kTile * byte_tile_step + byte % kTile;
  }
  GPU_DEVICE std::int32_t scale(std::int32_t token) const { return first_scale + token * scale_step; }

  // The block that holds a token, counted through all of them.
  template <class Integer>
  GPU_DEVICE Integer block_of(Integer token) const {
    return block_shift >= 0 ? token >> block_shift : token / static_cast<Integer>(block_size);
  }
};

inline CachePlaces cache_places(const reference::CacheLayout& l) {
  const auto narrow = [](std::int64_t offset) { return static_cast<std::int32_t>(offset); };
  CachePlaces p;
  p.block_stride = l.stride();
  p.block_size = narrow(l.block_size);
  if ((l.block_size & (l.block_size - 1)) == 0)
    p.block_shift = std::countr_zero(static_cast<std::uint64_t>(l.block_size));
  if (l.block_size > kTile) p.token_tile_step = narrow(l.value_offset(kTile, 0));
  if (l.block_size > 1) p.token_step = narrow(l.value_offset(1, 0));
  if (l.head_dim > kTile) p.byte_tile_step = narrow(l.value_offset(0, kTile));
  p.first_scale = narrow(l.scale_offset(0, 0));
  if (l.block_size > 1) p.scale_step = narrow(l.scale_offset(1, 0) - l.scale_offset(0, 0));
  return p;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::indexer_cache_kernels
