#pragma once
// The fast kernel of mqa_logits: matrix tiles of 16 heads x 16 keys, for head_dim up to 128 and up to 64 heads.
//
// A wave has a row's queries in registers, as bf16, and walks the row's keys 16 at a time: K goes from the cache straight to
// registers, one tile ahead of the products (and the block table two), and no shared memory is used.
//
// fp8 is multiplied as bf16, to which it converts exactly, and summed in f32. The fp8 matrix instructions are twice as fast, but
// Hopper sums their products in registers of about 14 bits (DeepSeek-V3 report, section 3.3.2): an error of 2^-13 of sum |q k|,
// where reference/mqa_logits.h allows for 128 f32 roundings, 2^-17. Of bf16 products it keeps, as others have measured, all bits
// down to 2^-25 of the largest: the 8 instructions of 128 channels err by at most 8 (17 2^-25 + 2^-23), 84 roundings.
//
// The order of the channels is free as long as q and k agree. So a lane's channels are runs of 16 bytes of a row: with P lanes to
// a row (4 on CUDA), step s of the product takes from lane part p the bytes of 16 bytes number p + P (s / P) that are next.
// Both layouts of the cache keep 16 bytes together, and these loads are coalesced in both.
#include "optimized/gpu/mqa_logits_keys.h"
#include "optimized/gpu/tile.h"

namespace moecheck::MOECHECK_OPTIMIZED::mqa_logits_kernels {

inline constexpr int kTileThreads = 128, kTileKeys = 16, kTileChannels = 128;

// What a lane holds of tile operands and results (gpu/tile.h), said as this kernel needs it.
template <int W>
struct Share {
#if defined(GPU_BACKEND_CUDA)
  static constexpr int kRows = 2;     // of an operand: row(0), row(1)
  static constexpr int kOwn = 4;      // channels of each per step
  static constexpr int kHeads = 2;    // rows of a result
  static constexpr int kColumns = 4;  // columns of a result
  static GPU_DEVICE int part() { return lane<W>() % 4; }
  static GPU_DEVICE int row(int r) { return lane<W>() / 4 + 8 * r; }
  static constexpr GPU_DEVICE int index_a(int r, int own) { return own % 2 + 2 * r + own / 2 * 4; }
  static constexpr GPU_DEVICE int index_b(int r, int own) { return own + 4 * r; }
  static GPU_DEVICE int head(int i) { return lane<W>() / 4 + 8 * i; }
  static constexpr GPU_DEVICE int head_of(int value) { return value / 2 % 2; }
  static constexpr GPU_DEVICE int column_of(int value) { return value % 2 + value / 4 * 2; }
#else
  static constexpr int kRows = 1, kOwn = TileB<W, BF16Tile>::kCount, kHeads = TileC<W>::kCount, kColumns = 1;
  static GPU_DEVICE int part() { return TileB<W, BF16Tile>::k(0) / kOwn; }
  static GPU_DEVICE int row(int) { return lane<W>() % 16; }
  static constexpr GPU_DEVICE int index_a(int, int own) { return own; }
  static constexpr GPU_DEVICE int index_b(int, int own) { return own; }
  static GPU_DEVICE int head(int i) { return TileC<W>::row(i); }
  static constexpr GPU_DEVICE int head_of(int value) { return value; }
  static constexpr GPU_DEVICE int column_of(int) { return 0; }
#endif
  static constexpr int kParts = 16 / kOwn, kSteps = kTileChannels / 16, kPieces = kSteps / kParts;
  // First channel of this lane's piece: 16 of them, for kParts steps.
  static GPU_DEVICE int channel(int piece) { return (piece * kParts + part()) * 16; }
};

// Four codes as two pairs of bf16. Their sign and magnitude in bf16's places are the number times 2^-120 (fnuz: 2^-119), also
// where it is subnormal; `scale` is the inverse. NaN codes become numbers.
GPU_DEVICE void decode4(std::uint32_t codes, float scale, std::uint32_t (&pairs)[2]) {
#if defined(GPU_BACKEND_CUDA)
  const std::uint32_t scales = float_bits(scale) >> 16 | float_bits(scale);
  const std::uint32_t spread[2] = {__byte_perm(codes, 0, 0x1404), __byte_perm(codes, 0, 0x3424)};
  GPU_UNROLL for (int i = 0; i < 2; ++i) {
    const std::uint32_t small = (spread[i] & 0x80008000) | (spread[i] >> 4 & 0x07F007F0);
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pairs[i]) : "r"(small), "r"(scales), "r"(0x80008000u));
  }
#else
  GPU_UNROLL for (int i = 0; i < 2; ++i) {
    std::uint32_t half[2];
    GPU_UNROLL for (int j = 0; j < 2; ++j) {
      const std::uint32_t code = codes >> (8 * (2 * i + j));
      const float magnitude = bits_as<float>((code & 0x7F) << 20) * scale;
      half[j] = float_bits(magnitude) >> 16 | (code & 0x80) << 8;
    }
    pairs[i] = half[0] | half[1] << 16;
  }
#endif
}

// 16 bytes of a row.
struct Piece {
  std::uint32_t word[4] = {};
};
template <int kWord>
GPU_DEVICE Piece load_piece(const std::uint8_t* p) {
  Piece piece;
  if constexpr (kWord == 16) {
    const Bytes16 all = load16(p);
    GPU_UNROLL for (int i = 0; i < 4; ++i) piece.word[i] = all.word[i];
  } else {
    GPU_UNROLL for (int i = 0; i < 4; ++i) piece.word[i] = reinterpret_cast<const std::uint32_t*>(p)[i];
  }
  return piece;
}

// The bf16 of one step, from a lane's piece of it, to where operand A or B has them.
template <int W, bool kIsA, class Operand>
GPU_DEVICE void set_step(Operand& out, const Piece& piece, int step, int row, float scale) {
  using S = Share<W>;
  GPU_UNROLL for (int w = 0; w < S::kOwn / 4; ++w) {
    std::uint32_t pairs[2];
    decode4(piece.word[step % S::kParts * (S::kOwn / 4) + w], scale, pairs);
    GPU_UNROLL for (int i = 0; i < 2; ++i) {
      const int own = 4 * w + 2 * i;
      __builtin_memcpy(out.value + (kIsA ? S::index_a(row, own) : S::index_b(row, own)), &pairs[i], 4);
    }
  }
}

// A row's queries and weights; heads and channels that there are not are 0.
template <int W, int kTiles>
struct Queries {
  TileA<W, BF16Tile> tile[kTiles][Share<W>::kSteps];
  float weight[kTiles][Share<W>::kHeads];

  template <int kWord>
  GPU_DEVICE void load(const MqaLogitsArgs& a, std::int64_t row, float scale) {
    using S = Share<W>;
    GPU_UNROLL for (int t = 0; t < kTiles; ++t) {
      GPU_UNROLL for (int r = 0; r < S::kRows; ++r) {
        const int head = t * 16 + S::row(r);
        GPU_UNROLL for (int p = 0; p < S::kPieces; ++p) {
          Piece piece;
          if (head < a.heads && S::channel(p) < a.head_dim)
            piece = load_piece<kWord>(a.q + (row * a.heads + head) * a.head_dim + S::channel(p));
          GPU_UNROLL for (int s = 0; s < S::kParts; ++s)
              set_step<W, true>(tile[t][p * S::kParts + s], piece, s, r, scale);
        }
      }
      GPU_UNROLL for (int i = 0; i < S::kHeads; ++i) {
        const int head = t * 16 + (GPU_FAULT(kGpuLogitsHeadPairing) ? 15 - S::head(i) : S::head(i));
        weight[t][i] = head < a.heads ? a.weights[row * a.heads + head] : 0.0F;
      }
    }
  }
};

// The column of a tile whose sum this lane has in the end, and whether it is the lane that writes it.
template <int W>
GPU_DEVICE int column_of_lane() {
#if defined(GPU_BACKEND_CUDA)
  return lane<W>() % 4 * 2 + lane<W>() / 8 % 2 + lane<W>() / 16 * 8;
#else
  return lane<W>() % 16;
#endif
}
template <int W>
GPU_DEVICE bool lane_writes() {
#if defined(GPU_BACKEND_CUDA)
  return lane<W>() / 4 % 2 == 0;
#else
  return lane<W>() < 16;
#endif
}

// Of the sums of its columns that each lane has, those of column_of_lane over all lanes.
template <int W>
GPU_DEVICE float sum_of_column(const float (&sums)[Share<W>::kColumns]) {
#if defined(GPU_BACKEND_CUDA)
  // Eight lanes have the same four columns: each passes on what it need not keep.
  const bool high = lane<W>() & 16, odd = lane<W>() & 8;
  float even_sum = (high ? sums[2] : sums[0]) + shfl_xor<W>(high ? sums[0] : sums[2], 16);
  float odd_sum = (high ? sums[3] : sums[1]) + shfl_xor<W>(high ? sums[1] : sums[3], 16);
  float sum = (odd ? odd_sum : even_sum) + shfl_xor<W>(odd ? even_sum : odd_sum, 8);
  return sum + shfl_xor<W>(sum, 4);
#else
  float sum = sums[0];
  const int width = GPU_FAULT(kGpuLogitsWaveWidth32) ? 32 : W;
  GPU_UNROLL for (int step = 16; step < width; step *= 2) sum += shfl_xor<W>(sum, step);
  return sum;
#endif
}

// 16 keys on their way: where they lie, then their bytes.
template <int W>
struct KeyTile {
  Key row[Share<W>::kRows];
  const std::uint8_t* scale;

  // Keys i to i + 15 of those the row sees; the last one again behind it.
  GPU_DEVICE void find(const MqaLogitsArgs& a, const std::int32_t* table, Seen seen, int i) {
    const auto token = [&](int column) {
      const int k = i + column;
      return seen.first + (k < seen.count ? k : seen.count - 1);
    };
    GPU_UNROLL for (int r = 0; r < Share<W>::kRows; ++r) row[r] = key_of(a, table, token(Share<W>::row(r)));
    scale = key_of(a, table, token(column_of_lane<W>())).scale;
    if (GPU_FAULT(kGpuLogitsOneBlockPerTile) && a.paged) {
      const std::int32_t first = slot_of(a, table, token(0)).block,
                         own = slot_of(a, table, token(Share<W>::row(0))).block;
      row[0].values += (first - own) * a.block_stride;
    }
  }
};
template <int W>
struct KeyBytes {
  Piece piece[Share<W>::kRows][Share<W>::kPieces];
  float scale = 0;

  template <int kWord>
  GPU_DEVICE void load(const MqaLogitsArgs& a, const KeyTile<W>& keys) {
    using S = Share<W>;
    GPU_UNROLL for (int r = 0; r < S::kRows; ++r) {
      GPU_UNROLL for (int p = 0; p < S::kPieces; ++p) {
        const int channel = S::channel(p);
        if (channel >= a.head_dim) continue;
        piece[r][p] = load_piece<kWord>(keys.row[r].values + channel / 16 * piece_stride(a));
      }
    }
    scale = *reinterpret_cast<const float*>(keys.scale);
  }
};

// sum_h relu(q_h . k) w_h k_scale of 16 keys: that of column_of_lane.
template <int W, int kTiles>
GPU_DEVICE float logits_of_tile(const MqaLogitsArgs& a, const Queries<W, kTiles>& queries,
                                const KeyBytes<W>& keys, float scale) {
  using S = Share<W>;
  TileC<W> dot[kTiles];
  GPU_UNROLL for (int p = 0; p < S::kPieces; ++p) {
    if (p * S::kParts * 16 >= a.head_dim) continue;  // the same for all lanes
    GPU_UNROLL for (int s = 0; s < S::kParts; ++s) {
      TileB<W, BF16Tile> k;
      GPU_UNROLL for (int r = 0; r < S::kRows; ++r) set_step<W, false>(k, keys.piece[r][p], s, r, scale);
      GPU_UNROLL for (int t = 0; t < kTiles; ++t)
          tile_multiply<W>(dot[t], queries.tile[t][p * S::kParts + s], k);
    }
  }
  if (a.dot_in_bf16) {
    GPU_UNROLL for (int t = 0; t < kTiles; ++t) {
      GPU_UNROLL for (float& v : dot[t].value) v = from_bf16(to_bf16(v));
    }
  }
  float sums[S::kColumns] = {};
  GPU_UNROLL for (int t = 0; t < kTiles; ++t) {
    GPU_UNROLL for (int i = 0; i < TileC<W>::kCount; ++i) {
      const float score = larger(dot[t].value[i], 0.0F);
      sums[S::column_of(i)] += score * queries.weight[t][S::head_of(i)];
    }
  }
  return sum_of_column<W>(sums) * keys.scale;
}

// kTiles: of 16 heads. kWord: bytes at which K and q may be read. `blocks` blocks share a row; their waves take its tiles
// in turn.
template <int W, int kTiles, int kWord>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kTileThreads) mqa_logits_tiles(const MqaLogitsArgs a, const int blocks) {
  const std::int64_t row = block_x() / static_cast<unsigned>(blocks);
  const int block = static_cast<int>(block_x() % static_cast<unsigned>(blocks));
  const int waves = blocks * (kTileThreads / W), wave = block * (kTileThreads / W) + wave_in_block<W>();
  const Seen seen = tokens_seen(a, row);
  fill_tail(a, row, seen, wave * W + lane<W>(), waves * W);
  const int tiles = (seen.count + kTileKeys - 1) / kTileKeys;
  if (wave >= tiles) return;  // the whole wave; there is no block barrier
  const std::int32_t* table = table_of(a, row);
  const float scale = a.fnuz ? 0x1p119F : 0x1p120F;

  KeyTile<W> where;
  KeyBytes<W> now;
  where.find(a, table, seen, wave * kTileKeys);
  now.template load<kWord>(a, where);
  if (wave + waves < tiles) where.find(a, table, seen, (wave + waves) * kTileKeys);
  Queries<W, kTiles> queries;
  queries.template load<kWord>(a, row, scale);
  const std::int64_t out = row * a.row_stride + seen.column;
  for (int tile = wave; tile < tiles; tile += waves) {
    KeyBytes<W> next;
    if (tile + waves < tiles) next.template load<kWord>(a, where);
    if (tile + 2 * waves < tiles) where.find(a, table, seen, (tile + 2 * waves) * kTileKeys);
    const float logit = logits_of_tile<W>(a, queries, now, scale);
    const int i = tile * kTileKeys + column_of_lane<W>();
    const int end = GPU_FAULT(kGpuLogitsWholeTiles) ? a.width - seen.column : seen.count;
    if (lane_writes<W>() && i < end) store_logit(a, out + i, logit);
    if (GPU_FAULT(kGpuLogitsStaleScale)) next.scale = now.scale;
    now = next;
  }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::mqa_logits_kernels
