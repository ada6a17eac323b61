#include "reference/mla_prepare.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace moecheck::reference {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

std::int64_t position_of(const MlaPrepareInputs& in, const MlaPrepareOptions& o, std::int64_t t) {
  const std::int64_t p = in.positions.int_at(t);
  return o.padded == PaddedQuery::kClamp ? std::clamp<std::int64_t>(p, 0, in.cos.shape[0] - 1) : p;
}

void load_parts(ConstView nope, ConstView pe, std::int64_t row, Bounded* out) {
  const std::int64_t n = nope.shape[2], p = pe.shape[2];
  for (std::int64_t c = 0; c < n; ++c) out[c] = Bounded::exact(nope.at(row * n + c));
  for (std::int64_t c = 0; c < p; ++c) out[n + c] = Bounded::exact(pe.at(row * p + c));
}

void rotate(const MlaPrepareInputs& in, const MlaPrepareOptions& o, std::int64_t t, Bounded* row) {
  const std::int64_t width = in.cos.shape[1], p = position_of(in, o, t);
  std::vector<Bounded> cos(at(width)), sin(at(width));
  for (std::int64_t i = 0; i < width; ++i) {
    cos[at(i)] = Bounded::exact(in.cos.at(p, i));
    sin[at(i)] = Bounded::exact(in.sin.at(p, i));
  }
  rope(o.rope, cos.data(), sin.data(), row + (o.rotate_from < 0 ? o.nope_dim : o.rotate_from));
}

bool is_fp8(DType d) { return size_bytes(d) == 1; }

void put(View out, std::int64_t i, double value, CastOverflow overflow) {
  const bool saturates = is_fp8(out.dtype) && overflow != CastOverflow::kNaN;
  store(out.dtype, out.data, i, value, saturates ? Overflow::kSaturate : Overflow::kNonSaturating);
}

double scale_of(ConstView scale) { return scale ? scale.at(0) : 1; }

void put_query(const MlaPrepareInputs& in, const MlaPrepareOptions& o, const MlaPrepareOutputs& out,
               std::int64_t t, std::int64_t h, const Bounded* row) {
  const std::int64_t width = o.width(), first = (t * o.heads + h) * width;
  for (std::int64_t c = 0; c < width; ++c) {
    const Bounded b = in.q_scale ? scaled(o.scaling, row[c], scale_of(in.q_scale)) : row[c];
    put(out.q_out, first + c, b.value, o.overflow(c));
  }
  // A copy keeps the payload of a NaN.
  if (out.q_out.dtype == in.q_nope.dtype && !in.q_scale) {
    const std::int64_t size = size_bytes(in.q_nope.dtype);
    std::memcpy(out.q_out.as<char>() + first * size,
                in.q_nope.as<char>() + (t * o.heads + h) * o.nope_dim * size, at(o.nope_dim * size));
  }
  if (out.decode_q_pe_out && t < out.decode_q_pe_out.shape[0])
    for (std::int64_t c = 0; c < o.rope.dim; ++c)
      out.decode_q_pe_out.set((t * o.heads + h) * o.rope.dim + c, row[o.nope_dim + c].value);
}

void put_key(const MlaPrepareInputs& in, const MlaPrepareOptions& o, const MlaPrepareOutputs& out,
             std::int64_t t, std::int64_t g, const Bounded* row) {
  const std::int64_t where = cache_row(o, in.slot_mapping.int_at(t), g), size = size_bytes(o.layout.dtype);
  const bool copies = o.layout.dtype == in.k_nope.dtype && !in.k_scale;
  for (std::int64_t c = 0; c < o.width(); ++c) {
    const std::int64_t offset = o.layout.value_at(where, c);
    if (copies && c < o.nope_dim)
      std::memcpy(out.kv_cache.as<char>() + offset,
                  in.k_nope.as<char>() + ((t * o.kv_heads + g) * o.nope_dim + c) * size, at(size));
    else
      put({out.kv_cache.data, o.layout.dtype, {}}, offset / size, cached(in, o, c, row[c]).value,
          o.overflow(c));
  }
  if (out.k_pe_out)
    for (std::int64_t c = 0; c < o.rope.dim; ++c)
      out.k_pe_out.set((t * o.kv_heads + g) * o.rope.dim + c, row[o.nope_dim + c].value);
}

}  // namespace

CacheLayout mla_cache_layout(CacheOrder order, DType dtype, std::int64_t block_size, std::int64_t kv_heads,
                             std::int64_t nope_dim, std::int64_t rope_dim) {
  CacheLayout l;
  l.order = order;
  l.dtype = dtype;
  l.block_size = order == CacheOrder::kRowMajor ? block_size * kv_heads : block_size;
  l.head_dim = nope_dim + rope_dim;
  l.split = order == CacheOrder::kRowMajor ? 0 : nope_dim;
  return l;
}

std::int64_t cache_row(const MlaPrepareOptions& o, std::int64_t slot, std::int64_t head) {
  const bool rows = o.layout.order == CacheOrder::kRowMajor;
  if (rows && !o.heads_first) return slot * o.kv_heads + head;
  const std::int64_t size = rows ? o.layout.block_size / o.kv_heads : o.layout.block_size;
  return (slot / size * o.kv_heads + head) * size + slot % size;
}

bool has_query(const MlaPrepareInputs& in, const MlaPrepareOptions& o, std::int64_t t) {
  return o.padded != PaddedQuery::kSkip || in.slot_mapping.int_at(t) >= 0;
}

void query_row(const MlaPrepareInputs& in, const MlaPrepareOptions& o, std::int64_t t, std::int64_t head,
               Bounded* out) {
  load_parts(in.q_nope, in.q_pe, t * o.heads + head, out);
  rotate(in, o, t, out);
}

void key_row(const MlaPrepareInputs& in, const MlaPrepareOptions& o, std::int64_t t, std::int64_t head,
             Bounded* out) {
  load_parts(in.k_nope, in.k_pe, t * o.kv_heads + head, out);
  if (t < in.tokens())
    rotate(in, o, t, out);
  else if (o.rope_prefill && in.tokens() > 0)
    rotate(in, o, in.tokens() - 1, out);
}

Bounded scaled(CacheScaling scaling, const Bounded& x, double scale) {
  const double reciprocal = round_to(DType::kF32, 1 / scale);
  // A power of two divides exactly, however it is done; else of an exact number the one rounding is IEEE's.
  int exponent = 0;
  if (std::frexp(std::fabs(scale), &exponent) == 0.5) return scaled_exact(x, 1 / scale);
  if (scaling == CacheScaling::kAny) return x / Bounded::exact(scale);
  const bool divides = scaling == CacheScaling::kDivide;
  if (x.is_exact())
    return Bounded::exact(round_to(DType::kF32, divides ? x.value / scale : x.value * reciprocal));
  if (!divides) return x * Bounded::exact(reciprocal);
  return rounded({x.value / scale, x.sigma / std::fabs(scale), x.proven / std::fabs(scale)});
}

Bounded cached(const MlaPrepareInputs& in, const MlaPrepareOptions& o, std::int64_t c, const Bounded& k) {
  const bool applies = c < o.nope_dim ? o.scale_nope : o.scale_rope;
  return in.k_scale && applies ? scaled(o.scaling, k, scale_of(in.k_scale)) : k;
}

void mla_prepare(const MlaPrepareInputs& in, const MlaPrepareOptions& o, const MlaPrepareOutputs& out) {
  std::vector<Bounded> row(at(o.width()));
  for (std::int64_t t = 0; t < in.tokens(); ++t)
    for (std::int64_t h = 0; has_query(in, o, t) && h < o.heads; ++h) {
      query_row(in, o, t, h, row.data());
      put_query(in, o, out, t, h, row.data());
    }
  for (std::int64_t t = 0; t < in.rows(); ++t)
    for (std::int64_t g = 0; in.slot_mapping.int_at(t) >= 0 && g < o.kv_heads; ++g) {
      key_row(in, o, t, g, row.data());
      put_key(in, o, out, t, g, row.data());
    }
  for (std::int64_t i = 0; out.q_nope_zeros_out && i < out.q_nope_zeros_out.shape.numel(); ++i)
    out.q_nope_zeros_out.set(i, 0);
}

void concat_mla_absorb_q(ConstView q_nope, ConstView q_pe, View out) {
  const std::int64_t size = size_bytes(out.dtype), n = q_nope.shape[2] * size, p = q_pe.shape[2] * size;
  for (std::int64_t row = 0; row < out.shape[0] * out.shape[1]; ++row) {
    std::memcpy(out.as<char>() + row * (n + p), q_nope.as<char>() + row * n, at(n));
    std::memcpy(out.as<char>() + row * (n + p) + n, q_pe.as<char>() + row * p, at(p));
  }
}

}  // namespace moecheck::reference
