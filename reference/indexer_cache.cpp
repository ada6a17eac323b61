#include "reference/indexer_cache.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

namespace moecheck::reference {
namespace {

std::uint32_t bits_of(float v) { return std::bit_cast<std::uint32_t>(v); }

void add_scale(GroupScale& g, float s) {
  if (!g.holds(s)) g.scale[static_cast<std::size_t>(g.count++)] = s;
}

// 2^ceil(log2(s)) for s > 0 and finite; s itself where it is Inf. Where log2f may round to the integer below, that one too.
void add_power(GroupScale& g, const IndexerQuant& q, float s) {
  if (!std::isfinite(s)) return add_scale(g, s);
  int exponent = 0;
  const float mantissa = std::frexp(s, &exponent);  // s = mantissa 2^exponent, mantissa in [1/2, 1)
  const int k = mantissa == 0.5F ? exponent - 1 : exponent;
  add_scale(g, std::ldexp(1.0F, k));
  if (q.exponent == ExponentOp::kBits || mantissa == 0.5F) return;
  // log2f(2^(k - 1) (1 + e)) = k - 1 + 1.44 e, of which fp32 holds what its step at k - 1 lets through; approximations are good to
  // 2^-22 (PTX lg2.approx), library functions to an ulp.
  const double e = 2.0 * mantissa - 1, at = std::fabs(static_cast<double>(k - 1));
  const double step = at == 0 ? 0 : std::ldexp(1.0, std::ilogb(at) - 23);
  if (1.4427 * e <= 1.5 * step + 0x1p-22) add_scale(g, std::ldexp(1.0F, k - 1));
}

float quotient(DivisionOp op, float k, float scale) {
  return op == DivisionOp::kReciprocal ? k * (1.0F / scale) : k / scale;
}

std::uint8_t encode_code(const IndexerQuant& q, double v) {
  if (std::isnan(v) && q.non_finite == NonFiniteKeys::kClamped) v = -max_finite(q.fp8);
  if (std::isnan(v)) return q.fp8 == DType::kE4M3FN ? 0x7F : 0x80;
  return static_cast<std::uint8_t>(encode(q.fp8, v, Overflow::kSaturate));
}

}  // namespace

bool GroupScale::holds(float s) const {
  return std::any_of(scale.begin(), scale.begin() + count,
                     [s](float other) { return bits_of(other) == bits_of(s); });
}

GroupScale group_scale(const IndexerQuant& q, const float* k, std::int64_t n) {
  GroupScale g;
  float amax = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    g.finite = g.finite && std::isfinite(k[i]);
    if (const float a = std::fabs(k[i]); a > amax) amax = a;
  }
  const float a = std::max(amax, static_cast<float>(q.amax_floor)), f = static_cast<float>(q.divisor);
  const float divided = a / f, multiplied = a * (1.0F / f);
  for (const float s : {q.scale_op == DivisionOp::kReciprocal ? multiplied : divided,
                        q.scale_op == DivisionOp::kDivide ? divided : multiplied}) {
    if (q.ue8m0)
      add_power(g, q, s);
    else
      add_scale(g, s);
  }
  return g;
}

std::uint8_t indexer_code(const IndexerQuant& q, DivisionOp op, float k, float scale) {
  return encode_code(q, quotient(op, k, scale));
}

bool may_be_code(const IndexerQuant& q, float k, float scale, std::uint8_t code) {
  const float exact = quotient(q.value_op, k, scale);
  if (std::isnan(exact) && q.non_finite != NonFiniteKeys::kClamped) return std::isnan(decode(q.fp8, code));
  if (q.value_op != DivisionOp::kAny || q.ue8m0 || !std::isfinite(exact))
    return code == encode_code(q, exact);
  const double v = static_cast<double>(k) / scale;
  return code == encode_code(q, v * (1 - 0x1p-22)) || code == encode_code(q, v * (1 + 0x1p-22));
}

void quantize_row(const IndexerQuant& q, std::int64_t group, const float* k, std::int64_t n,
                  std::uint8_t* codes, float* scales) {
  for (std::int64_t first = 0; first < n; first += group) {
    const float scale = group_scale(q, k + first, group).scale[0];
    scales[first / group] = scale;
    for (std::int64_t c = first; c < first + group; ++c) codes[c] = indexer_code(q, q.value_op, k[c], scale);
  }
}

void put_row(const CacheLayout& layout, std::uint8_t* cache, std::int64_t slot, const std::uint8_t* codes,
             const float* scales) {
  for (std::int64_t c = 0; c < layout.head_dim; ++c) cache[layout.value_at(slot, c)] = codes[c];
  for (std::int64_t g = 0; g < layout.scales(); ++g)
    std::memcpy(cache + layout.scale_at(slot, g * layout.quant_block), scales + g, sizeof(float));
}

void get_row(const CacheLayout& layout, const std::uint8_t* cache, std::int64_t slot, std::uint8_t* codes,
             float* scales) {
  for (std::int64_t c = 0; c < layout.head_dim; ++c) codes[c] = cache[layout.value_at(slot, c)];
  for (std::int64_t g = 0; g < layout.scales(); ++g)
    std::memcpy(scales + g, cache + layout.scale_at(slot, g * layout.quant_block), sizeof(float));
}

void indexer_k_quant_and_cache(const IndexerQuant& q, const CacheLayout& layout, ConstView k,
                               std::int64_t row_stride, ConstView slot_mapping, std::int64_t tokens,
                               std::uint8_t* kv_cache) {
  const std::int64_t n = layout.head_dim;
  std::vector<float> row(static_cast<std::size_t>(n)), scales(static_cast<std::size_t>(layout.scales()));
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(n));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t slot = slot_mapping.int_at(t);
    if (slot < 0) continue;
    for (std::int64_t c = 0; c < n; ++c)
      row[static_cast<std::size_t>(c)] = static_cast<float>(k.at(t * row_stride + c));
    quantize_row(q, layout.quant_block, row.data(), n, codes.data(), scales.data());
    put_row(layout, kv_cache, slot, codes.data(), scales.data());
  }
}

std::int64_t gathered_slot(const PagedTable& table, std::int64_t block_size, std::int64_t t) {
  const std::int64_t requests = table.cu_seq_lens.shape.numel() - 1;
  for (std::int64_t r = 0; r < requests; ++r) {
    if (t >= table.cu_seq_lens.int_at(r + 1)) continue;
    const std::int64_t p = t - table.cu_seq_lens.int_at(r);
    return table.block_table.int_at(r * table.row_stride + p / block_size) * block_size + p % block_size;
  }
  return -1;
}

void cp_gather_indexer_k_quant_cache(const CacheLayout& layout, const std::uint8_t* kv_cache,
                                     const PagedTable& table, std::int64_t rows, std::uint8_t* dst_k,
                                     std::uint8_t* dst_scale) {
  std::vector<float> scales(static_cast<std::size_t>(layout.scales()));
  for (std::int64_t t = 0; t < rows; ++t) {
    const std::int64_t slot = gathered_slot(table, layout.block_size, t);
    if (slot < 0) continue;
    get_row(layout, kv_cache, slot, dst_k + t * layout.head_dim, scales.data());
    std::memcpy(dst_scale + t * layout.scales() * 4, scales.data(), scales.size() * sizeof(float));
  }
}

}  // namespace moecheck::reference
