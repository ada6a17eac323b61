#pragma once
// Indexer logits on GPUs. The operator is specified in reference/mqa_logits.h.
//
// Three kernels: tiles of the matrix units for the shapes that models have, a general one for every other, and top-k. The grid is
// rows x parts of a row; its size follows from shapes, since the host does not know the lengths: what a short row leaves over
// ends at once. Specializations register themselves (specializations.h).
#include <algorithm>
#include <array>
#include <bit>
#include <string>

#include "optimized/gpu/mqa_logits.h"
#include "optimized/gpu/mqa_logits_dots.h"
#include "optimized/gpu/mqa_logits_tiles.h"
#include "optimized/gpu/mqa_logits_topk.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::MOECHECK_OPTIMIZED::mqa_logits_kernels {

// Blocks that fill an H100 twice over, so that rows of different length even out.
inline constexpr std::int64_t kManyBlocks = 528;
// Of a wave: fewer do not repay loading the queries.
inline constexpr std::int64_t kTilesOfWave = 2;

template <int W>
Specialization* registered(const std::string& kernel) {
  return &register_specialization(
      "mqa_logits", std::string(GPU_BACKEND_NAME) + " wave " + std::to_string(W) + " " + kernel);
}

inline std::int64_t quotient_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Blocks of a row, each with `keys` keys or a multiple.
inline int blocks_of_row(const MqaLogitsArgs& a, std::int64_t keys) {
  return static_cast<int>(std::clamp<std::int64_t>(quotient_up(kManyBlocks, a.rows), 1,
                                                   std::max<std::int64_t>(1, quotient_up(a.width, keys))));
}

struct TileChoice {
  int heads, word;  // heads at most
  void (*kernel)(MqaLogitsArgs, int);
  Specialization* specialization;
};
template <int W, int kTiles, int kWord>
TileChoice tile_choice() {
  return {16 * kTiles, kWord, mqa_logits_tiles<W, kTiles, kWord>,
          registered<W>("tiles of up to " + std::to_string(16 * kTiles) + " heads, loads of " +
                        std::to_string(kWord) + " bytes")};
}
template <int W>
const std::array<TileChoice, 6>& tile_choices() {
  static const std::array<TileChoice, 6> all = {tile_choice<W, 1, 16>(), tile_choice<W, 2, 16>(),
                                                tile_choice<W, 4, 16>(), tile_choice<W, 1, 4>(),
                                                tile_choice<W, 2, 4>(),  tile_choice<W, 4, 4>()};
  return all;
}

// Why the tile kernel does not serve this, or nullptr.
inline const char* not_tiles(const MqaLogitsArgs& a) {
  if (a.head_dim % 16 != 0 || a.head_dim > kTileChannels) return "head_dim is not a multiple of 16 up to 128";
  if (a.heads > 64) return "more than 64 heads";
  if (mqa_word_bytes(a) < 4) return "q or K is not aligned to 4 bytes";
  return nullptr;
}

template <int W>
void launch_tiles(const MqaLogitsArgs& a, Stream stream) {
  const auto& all = tile_choices<W>();
  const int word = mqa_word_bytes(a);
  const auto choice = std::find_if(all.begin(), all.end(),
                                   [&](const TileChoice& t) { return t.heads >= a.heads && t.word == word; });
  ++choice->specialization->executed;
  const int blocks = blocks_of_row(a, kTilesOfWave * kTileKeys * (kTileThreads / W));
  launch(choice->kernel,
         {.grid = static_cast<unsigned>(a.rows * blocks), .block = kTileThreads, .stream = stream, .wave = W},
         a, blocks);
}

template <int W>
void launch_dots(const MqaLogitsArgs& a, Stream stream) {
  static Specialization* const specializations[] = {registered<W>("dots of e4m3fn"),
                                                    registered<W>("dots of e4m3fnuz")};
  ++specializations[a.fnuz ? 1 : 0]->executed;
  const int blocks = blocks_of_row(a, kDotThreads);
  launch(a.fnuz ? mqa_logits_dots<true> : mqa_logits_dots<false>,
         {.grid = static_cast<unsigned>(a.rows * blocks),
          .block = kDotThreads,
          .dynamic_shared = sizeof(float) * kDotHeads * static_cast<std::size_t>(a.head_dim),
          .stream = stream},
         a, blocks, mqa_word_bytes(a) >= 4);
}

template <int W>
void launch_topk(const MqaLogitsArgs& a, Stream stream) {
  static Specialization* const specialization = registered<W>("top-k");
  ++specialization->executed;
  const auto threads = std::clamp(std::bit_ceil(static_cast<unsigned>(a.width) / kLogitsInFlight), 64U,
                                  unsigned{kTopkThreads});
  launch(mqa_logits_topk<W>,
         {.grid = static_cast<unsigned>(a.rows), .block = threads, .stream = stream, .wave = W}, a);
}

template <int W>
void launch_mqa_logits(const MqaLogitsArgs& a, Stream stream) {
  if (a.rows == 0) return;
  if (const char* reason = not_tiles(a)) {
    note_fallback("mqa_logits", reason);
    launch_dots<W>(a, stream);
  } else {
    launch_tiles<W>(a, stream);
  }
  if (a.topk > 0) launch_topk<W>(a, stream);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::mqa_logits_kernels

namespace moecheck::MOECHECK_OPTIMIZED {

template <class Backend>
void gpu_mqa_logits(const reference::MqaLogitsOptions& options, const reference::MqaLogitsInputs& in,
                    reference::View logits, reference::View topk_indices, gpu::Stream stream) {
  const MqaLogitsArgs args = mqa_logits_args(options, in, logits, topk_indices);
  gpu::with_wave_width([&]<int W>() { mqa_logits_kernels::launch_mqa_logits<W>(args, stream); });
}

template void gpu_mqa_logits<gpu::ThisBackend>(const reference::MqaLogitsOptions&,
                                               const reference::MqaLogitsInputs&, reference::View,
                                               reference::View, gpu::Stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
