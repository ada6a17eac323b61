#include "reference/expert_gemm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace moecheck::reference {
namespace {

constexpr std::int64_t kBlock = 128;

// What each code stands for, for the formats of one and two bytes but bf16, which needs no table.
std::vector<float> table_of(DType dtype) {
  std::vector<float> values(std::size_t{1} << (8 * size_bytes(dtype)));
  for (std::size_t bits = 0; bits < values.size(); ++bits)
    values[bits] = static_cast<float>(decode(dtype, bits));
  return values;
}

const std::vector<float>& table(DType dtype) {
  static const std::vector<float> fn = table_of(DType::kE4M3FN), fnuz = table_of(DType::kE4M3FNUZ),
                                  e5m2 = table_of(DType::kE5M2), f16 = table_of(DType::kF16);
  return dtype == DType::kE4M3FN ? fn : dtype == DType::kE4M3FNUZ ? fnuz : dtype == DType::kE5M2 ? e5m2 : f16;
}

// Multiplication by an exact factor: exact when it is a power of two.
Bounded times(const Bounded& b, const Bounded& factor) {
  int exponent = 0;
  if (factor.is_exact() && std::frexp(factor.value, &exponent) == 0.5) return scaled_exact(b, factor.value);
  return b * factor;
}

Bounded scaled_dot(const GemmRow& row, const float* w, std::int64_t k, ConstView scale, std::int64_t e,
                   std::int64_t n, std::vector<Bounded>& blocks) {
  blocks.clear();
  for (std::int64_t begin = 0; begin < k; begin += kBlock) {
    Bounded block = dot(row.left, begin, w + begin, std::min(kBlock, k - begin));
    if (!row.scales.empty()) block = times(block, row.scales[static_cast<std::size_t>(begin / kBlock)]);
    blocks.push_back(times(block, Bounded::exact(block_scale(scale, e, n, begin))));
  }
  return sum(blocks.data(), static_cast<std::int64_t>(blocks.size()));
}

}  // namespace

void prepare_row(const Bounded* x, std::int64_t k, const Fp8QuantOptions* quant, GemmRow& row) {
  row.scales.clear();
  if (quant == nullptr) return row.left.assign(x, k);
  QuantizedRow quantized;
  quantize_fp8(x, k, *quant, quantized);
  row.left.assign(quantized.codes.data(), k);
  row.scales = std::move(quantized.scales);
}

void gemm_rows(ConstView w, ConstView scale, std::int64_t e, std::span<const GemmRow* const> activations,
               std::span<Bounded* const> out) {
  const std::int64_t rows = w.shape[1], k = w.shape[2];
  std::vector<float> weights(static_cast<std::size_t>(k));
  std::vector<Bounded> blocks;
  for (std::int64_t n = 0; n < rows; ++n) {
    decode_row(w, (e * rows + n) * k, k, weights.data());
    for (std::size_t j = 0; j < activations.size(); ++j)
      out[j][n] = scale ? scaled_dot(*activations[j], weights.data(), k, scale, e, n, blocks)
                        : dot(activations[j]->left, weights.data());
  }
}

void decode_row(ConstView w, std::int64_t begin, std::int64_t n, float* out) {
  const auto* bytes = w.as<unsigned char>() + begin * size_bytes(w.dtype);
  switch (w.dtype) {
    case DType::kE4M3FN:
    case DType::kE4M3FNUZ:
    case DType::kE5M2: {
      const float* values = table(w.dtype).data();
      for (std::int64_t i = 0; i < n; ++i) out[i] = values[bytes[i]];
      return;
    }
    case DType::kF16: {
      const float* values = table(w.dtype).data();
      for (std::int64_t i = 0; i < n; ++i) out[i] = values[bytes[2 * i] | bytes[2 * i + 1] << 8];
      return;
    }
    case DType::kF32:
      std::memcpy(out, bytes, static_cast<std::size_t>(n) * sizeof(float));
      return;
    case DType::kBF16:
      for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(load(DType::kBF16, bytes, i));
      return;
    default:
      throw std::invalid_argument("weights cannot be " + std::string(name(w.dtype)) +
                                  ": use f32, bf16, f16 or fp8");
  }
}

}  // namespace moecheck::reference
