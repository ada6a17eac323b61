#pragma once
// Where the bytes of a token lie in a block of a paged cache. The layout is a value: operators, kernels' adapters and messages
// ask it, and nobody computes an offset by himself.
//
// A block holds block_size tokens: first their values, then their fp32 scales (if any), then padding up to block_stride.
//
//   row_major     value(t, c) = (t D + c) w                                      D = head_dim, w = bytes of a value
//   preshuffled   tiles of 16 tokens x 16 bytes, as MFMA 16x16 reads them (ROCm/aiter#2879). With b = c w, the byte of the row:
//                 value(t, c) = (t / 16) 16 D w  +  (b / 16) 256  +  (t % 16) 16  +  b % 16
//                 With split = n the channels [0, n) and [n, D) are two such regions, one behind the other (MLA: nope, rope).
//   scale(t, c)   = block_size D w + (t (D / Q) + c / Q) 4                        Q = quant_block; never shuffled
//
//   slot          = block * block_size + t, counted through all blocks of the cache
//
// Sources: aiter csrc/kernels/cache_kernels.cu and op_tests/test_indexer_k_quant_and_cache.py; vLLM
// csrc/libtorch_stable/cache_kernels.cu. All offsets are in bytes and 64 bits wide.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "reference/number_formats.h"

namespace moecheck::reference {

enum class CacheOrder : std::uint8_t { kRowMajor, kPreshuffled };
std::string_view name(CacheOrder order);  // "row_major", "preshuffled"

struct CacheLayout {
  static constexpr std::int64_t kTile = 16;  // tokens, and bytes, of a tile

  CacheOrder order = CacheOrder::kRowMajor;
  DType dtype = DType::kE4M3FN;    // of a value: a float of 1, 2 or 4 bytes
  std::int64_t block_size = 64;    // tokens of a block
  std::int64_t head_dim = 128;     // channels of a token
  std::int64_t quant_block = 0;    // channels that share a scale; 0: there are no scales
  std::int64_t split = 0;          // first channel of the second region; 0: there is one region. Means nothing in row_major
  std::int64_t block_stride = 0;   // bytes from one block to the next; 0: block_bytes(), no padding

  // Why no cache can have this layout, with the value and the remedy; or nothing.
  std::optional<std::string> check() const;

  // Precondition of all below: !check(); 0 <= token < block_size, 0 <= channel < head_dim, slot >= 0.
  std::int64_t value_bytes() const { return block_size * head_dim * size_bytes(dtype); }  // of a block
  std::int64_t scales() const { return quant_block == 0 ? 0 : head_dim / quant_block; }   // of a token
  std::int64_t block_bytes() const { return value_bytes() + block_size * scales() * 4; }
  std::int64_t stride() const { return block_stride == 0 ? block_bytes() : block_stride; }

  // Offsets in a block.
  std::int64_t value_offset(std::int64_t token, std::int64_t channel) const;
  std::int64_t scale_offset(std::int64_t token, std::int64_t channel) const;
  // Offsets in the cache.
  std::int64_t value_at(std::int64_t slot, std::int64_t channel) const;
  std::int64_t scale_at(std::int64_t slot, std::int64_t channel) const;
  // Channels from a multiple of run() on lie side by side: what a kernel may copy at once.
  std::int64_t run() const;

  // What the byte at an offset in a block belongs to: the inverse. Offset < stride().
  struct Place {
    enum class Kind : std::uint8_t { kValue, kScale, kPadding } kind = Kind::kPadding;
    std::int64_t token = 0, channel = 0;  // of a scale: its first channel
    std::int64_t byte = 0;                // of the value or scale
    friend bool operator==(const Place&, const Place&) = default;
  };
  Place place(std::int64_t offset) const;
  // "block 3, token 17, channel 40": for messages, of an offset in the cache.
  std::string describe(std::int64_t cache_offset) const;

  // One word: "preshuffled:e4m3fn:64x128:q128", then ":split512" and ":stride8704" where they are not 0.
  std::string str() const;
  friend bool operator==(const CacheLayout&, const CacheLayout&) = default;
};

// parse_layout(l.str()) == l. Nothing, and the reason in *why, where the text is none or check() refuses it.
std::optional<CacheLayout> parse_cache_layout(std::string_view text, std::string* why = nullptr);

}  // namespace moecheck::reference
