#pragma once
// One row of q or k as a wave handles it: loads, rotation, casts, and where its bytes go. Semantics: reference/mla_prepare.h.
//
// A lane takes N channels at a time, 8 (16 bytes of T) or 1. What does not depend on slots and tables is loaded before they are
// looked at (Ahead), so that a row waits for memory twice: once for its numbers, once for cos and sin.
#include "optimized/gpu/fault.h"
#include "optimized/gpu/gpu.h"
#include "optimized/gpu/mla_prepare_args.h"
#include "optimized/gpu/number_formats.h"

namespace moecheck::MOECHECK_OPTIMIZED::mla_prepare_kernels {

using namespace moecheck::gpu;  // NOLINT: kernels speak gpu.h
using reference::DType;

GPU_DEVICE std::int64_t load_id(const void* p, bool is_64_bit, std::int64_t i) {
  return is_64_bit ? static_cast<const std::int64_t*>(p)[i] : static_cast<const std::int32_t*>(p)[i];
}

GPU_DEVICE float from_16_bits(DType dtype, std::uint32_t bits) {
  const auto b = static_cast<std::uint16_t>(bits);
  return dtype == DType::kBF16 ? from_bf16(b) : from_f16(b);
}
GPU_DEVICE std::uint32_t to_16_bits(DType dtype, float v) {
  return dtype == DType::kBF16 ? to_bf16(v) : to_f16(v);
}
GPU_DEVICE float round_dtype(DType dtype, float v) {
  return dtype == DType::kF32 ? v : from_16_bits(dtype, to_16_bits(dtype, v));
}

// N numbers of 16 bits.
template <int N>
struct Stored {
  static_assert(N == 1 || N == 8);
  std::uint32_t word[(N + 1) / 2] = {};
  GPU_DEVICE float number(DType dtype, int j) const {
    return from_16_bits(dtype, word[j / 2] >> 16 * (j % 2) & 0xFFFF);
  }
};
// From channel c of a row on.
template <int N>
GPU_DEVICE Stored<N> load_stored(const char* row, int c) {
  Stored<N> s;
  if constexpr (N == 8) {
    const Bytes16 b = load16(row + 2 * c);
    GPU_UNROLL for (int i = 0; i < 4; ++i) s.word[i] = b.word[i];
  } else {
    s.word[0] = reinterpret_cast<const std::uint16_t*>(row)[c];
  }
  return s;
}

struct alignas(8) Bytes8 {
  std::uint32_t word[2];
};

GPU_DEVICE void store_stored(char* to, const Stored<8>& s) {
  store16(to, {{s.word[0], s.word[1], s.word[2], s.word[3]}});
}
GPU_DEVICE void store_stored(char* to, const Stored<1>& s) {
  *reinterpret_cast<std::uint16_t*>(to) = static_cast<std::uint16_t>(s.word[0]);
}

// Four numbers of a table, i a multiple of 4.
GPU_DEVICE void load_table4(DType dtype, const void* table, std::int64_t i, float* out) {
  if (dtype == DType::kF32) {
    const Bytes16 b = load16(static_cast<const float*>(table) + i);
    GPU_UNROLL for (int j = 0; j < 4; ++j) out[j] = bits_as<float>(b.word[j]);
  } else {
    const Bytes8 b = *reinterpret_cast<const Bytes8*>(static_cast<const std::uint16_t*>(table) + i);
    GPU_UNROLL for (int j = 0; j < 4; ++j) out[j] =
        from_16_bits(dtype, b.word[j / 2] >> 16 * (j % 2) & 0xFFFF);
  }
}

// What the channels c .. c + N of a row are multiplied by, of the table row that starts at `first`.
template <int N>
GPU_DEVICE void load_table(const MlaPrepareArgs& a, const void* table, std::int64_t first, int c,
                           float (&out)[N]) {
  const int half = a.rope_dim / 2;
  const std::int64_t i = first + (a.full_table ? c : !a.neox ? c / 2 : c < half ? c : c - half);
  if constexpr (N == 1) {
    out[0] = a.table_dtype == DType::kF32
                 ? static_cast<const float*>(table)[i]
                 : from_16_bits(a.table_dtype, static_cast<const std::uint16_t*>(table)[i]);
  } else if (a.neox || a.full_table) {
    load_table4(a.table_dtype, table, i, out);
    load_table4(a.table_dtype, table, i + 4, out + 4);
  } else {
    float pair[4];
    load_table4(a.table_dtype, table, i, pair);
    GPU_UNROLL for (int j = 0; j < 8; ++j) out[j] = pair[j / 2];
  }
}

// The channels that channels c .. c + N are paired with; of neighbours in one Stored these are its own.
template <int N>
GPU_DEVICE Stored<N> load_partners(const MlaPrepareArgs& a, const char* pe, int c, const Stored<N>& own) {
  const int half = a.rope_dim / 2;
  if (a.neox) {
    if (GPU_FAULT(kGpuMlaPartnerLane)) return load_stored<N>(pe, N == 1 ? c ^ 1 : c ^ N);
    return load_stored<N>(pe, c < half ? c + half : c - half);
  }
  if constexpr (N == 1) {
    return load_stored<1>(pe, c ^ 1);
  } else {
    Stored<N> s;
    GPU_UNROLL for (int i = 0; i < 4; ++i) s.word[i] = own.word[i] >> 16 | own.word[i] << 16;
    return s;
  }
}

//   y = x cos -+ partner sin
template <int N>
GPU_DEVICE void rotate(const MlaPrepareArgs& a, std::int64_t position, int c, const Stored<N>& x,
                       const Stored<N>& partner, float (&y)[N]) {
  float cos[N], sin[N];
  load_table<N>(a, a.cos, position * a.table_width, c, cos);
  load_table<N>(a, a.sin, position * a.table_width, c, sin);
  const int half = a.rope_dim / 2;
  GPU_UNROLL for (int j = 0; j < N; ++j) {
    const bool negative = a.neox ? c < half : (c + j) % 2 == 0;
    const float s = negative ? -sin[j] : sin[j];
    const float straight = round_dtype(a.product_dtype, x.number(a.dtype, j) * cos[j]);
    const float crossed = round_dtype(a.product_dtype, partner.number(a.dtype, j) * s);
    y[j] = round_dtype(a.result_dtype, straight + crossed);
  }
}

// How numbers of a row are cast where it lands.
struct Cast {
  DType dtype;
  bool copies;  // what is not rotated: from T to T, unscaled
  bool scales, divides;
  float factor;
};
GPU_DEVICE float load_scale(const float* scale) { return scale != nullptr ? scale[0] : 1.0F; }
GPU_DEVICE Cast cast_to(const MlaPrepareArgs& a, DType dtype, bool scales, float scale) {
  return {dtype, dtype == a.dtype && !scales, scales, a.divides, a.divides ? scale : 1 / scale};
}

// Where the parts of a row go. Tiled: 16-byte runs at a distance of 256.
struct Target {
  char *nope, *pe;
  bool tiled;
};
GPU_DEVICE char* byte_at(char* part, int byte, bool tiled) {
  if (tiled && !GPU_FAULT(kGpuMlaTileRuns)) return part + byte / 16 * 256 + byte % 16;
  return part + byte;
}

GPU_DEVICE std::uint32_t e4m3_code(DType dtype, float v, bool saturates) {
  const Overflow overflow = saturates ? Overflow::kSaturate : Overflow::kNonSaturating;
  return dtype == DType::kE4M3FN ? to_e4m3fn(v, overflow) : to_e4m3fnuz(v, overflow);
}

template <int N>
GPU_DEVICE Stored<N> to_stored(DType dtype, const float (&v)[N]) {
  Stored<N> s;
  GPU_UNROLL for (int j = 0; j < N; ++j) s.word[j / 2] |= to_16_bits(dtype, v[j]) << 16 * (j % 2);
  return s;
}

// Numbers of channels c .. c + N of a part.
template <int N>
GPU_DEVICE void store_cast(const Cast& cast, bool saturates, char* part, bool tiled, int c, float (&v)[N]) {
  if (cast.scales)
    GPU_UNROLL for (int j = 0; j < N; ++j) v[j] = cast.divides ? v[j] / cast.factor : v[j] * cast.factor;
  if (cast.dtype == DType::kBF16 || cast.dtype == DType::kF16)
    return store_stored(byte_at(part, 2 * c, tiled), to_stored<N>(cast.dtype, v));
  char* to = byte_at(part, c, tiled);
  if constexpr (N == 1) {
    *to = static_cast<char>(e4m3_code(cast.dtype, v[0], saturates));
  } else {
    Bytes8 codes{};
    GPU_UNROLL for (int j = 0; j < 8; ++j) codes.word[j / 4] |= e4m3_code(cast.dtype, v[j], saturates)
                                                                << 8 * (j % 4);
    *reinterpret_cast<Bytes8*>(to) = codes;
  }
}

// What a lane loads of a row before it knows where the row goes.
inline constexpr int kRunsAhead = 2;
template <int N>
struct Ahead {
  Stored<N> nope[kRunsAhead], pe, partner;
};
template <int W, int N>
GPU_DEVICE Ahead<N> load_ahead(const MlaPrepareArgs& a, const char* nope, const char* pe) {
  Ahead<N> ahead;
  const int first = lane<W>() * N;
  GPU_UNROLL for (int i = 0; i < kRunsAhead; ++i) {
    const int c = first + i * W * N;
    if (c < a.nope_dim) ahead.nope[i] = load_stored<N>(nope, c);
  }
  if (first < a.rope_dim) {
    ahead.pe = load_stored<N>(pe, first);
    ahead.partner = load_partners<N>(a, pe, first, ahead.pe);
  }
  return ahead;
}

struct Row {
  const char *nope, *pe;
  std::int64_t position;  // < 0: not rotated
  Cast cast;
  Target to;
  char* pe_out;  // the rotated part once more, in T, or nullptr
};

template <int N>
GPU_DEVICE void put_nope(const MlaPrepareArgs& a, const Row& r, int c, const Stored<N>& x) {
  if (r.cast.copies) return store_stored(byte_at(r.to.nope, 2 * c, r.to.tiled), x);
  float v[N];
  GPU_UNROLL for (int j = 0; j < N; ++j) v[j] = x.number(a.dtype, j);
  store_cast<N>(r.cast, a.nope_saturates, r.to.nope, r.to.tiled, c, v);
}

template <int N>
GPU_DEVICE void put_pe(const MlaPrepareArgs& a, const Row& r, int c, const Stored<N>& x,
                       const Stored<N>& partner) {
  float y[N];
  if (r.position >= 0) {
    rotate<N>(a, r.position, c, x, partner, y);
  } else {
    GPU_UNROLL for (int j = 0; j < N; ++j) y[j] = x.number(a.dtype, j);
  }
  const bool late = GPU_FAULT(kGpuMlaPeOutScaled);
  if (r.pe_out != nullptr && !late) store_stored(r.pe_out + 2 * c, to_stored<N>(a.dtype, y));
  store_cast<N>(r.cast, a.rope_saturates, r.to.pe, r.to.tiled, c, y);
  if (r.pe_out != nullptr && late) store_stored(r.pe_out + 2 * c, to_stored<N>(a.dtype, y));
}

template <int W, int N>
GPU_DEVICE void put_row(const MlaPrepareArgs& a, const Row& r, const Ahead<N>& ahead) {
  const int first = lane<W>() * N;
  GPU_UNROLL for (int i = 0; i < kRunsAhead; ++i) {
    const int c = first + i * W * N, tail = GPU_FAULT(kGpuMlaTailChannels) ? (i + 1) * W * N - 1 : c;
    if (tail < a.nope_dim) put_nope<N>(a, r, c, ahead.nope[i]);
  }
  if (first < a.rope_dim) put_pe<N>(a, r, first, ahead.pe, ahead.partner);
  if (GPU_FAULT(kGpuMlaLanesLeave) && first >= a.rope_dim) return;
  for (int c = first + kRunsAhead * W * N; c < a.nope_dim; c += W * N)
    put_nope<N>(a, r, c, load_stored<N>(r.nope, c));
  for (int c = first + W * N; c < a.rope_dim; c += W * N) {
    const Stored<N> x = load_stored<N>(r.pe, c);
    put_pe<N>(a, r, c, x, load_partners<N>(a, r.pe, c, x));
  }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::mla_prepare_kernels
