#pragma once
// fp32 numbers rounded to the dtypes that tensors have, one at a time. Vectors: vector_math-inl.h.
#include <bit>
#include <cstdint>

#include "optimized/fault.h"
#include "reference/tensor.h"

namespace moecheck::MOECHECK_OPTIMIZED {

using reference::ConstView;
using reference::DType;
using reference::View;

// Nearest even; adding just under half of what is dropped carries into the exponent where it must.
inline float round_bf16(float v) {
  const auto bits = std::bit_cast<std::uint32_t>(v);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return v;
  return std::bit_cast<float>((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000);
}

// Below 2^-14 the step is 2^-24, the step of fp32 numbers in [0.5, 1): adding and subtracting 0.5 rounds to
// it.
inline float round_f16(float v) {
  const auto bits = std::bit_cast<std::uint32_t>(v), sign = bits & 0x80000000, magnitude = bits ^ sign;
  if (magnitude >= 0x7F800000) return v;
  if (magnitude >= 0x477FF000) return std::bit_cast<float>(sign | 0x7F800000);
  if (magnitude < 0x38800000)
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F - 0.5F) |
                                sign);
  return std::bit_cast<float>((bits + 0xFFF + (bits >> 13 & 1)) & 0xFFFFE000);
}

inline float round_dtype(DType dtype, float v) {
  if (dtype == DType::kBF16) return round_bf16(v);
  return dtype == DType::kF16 ? round_f16(v) : v;
}

// A number of any stored float dtype; exact.
inline float load_float(ConstView view, std::int64_t i) {
  if (view.dtype == DType::kF32) return view.as<float>()[i];
  if (view.dtype == DType::kBF16)
    return std::bit_cast<float>(static_cast<std::uint32_t>(view.as<std::uint16_t>()[i]) << 16);
  return static_cast<float>(view.at(i));
}

// topk_ids, in either width.
inline std::int64_t load_id(ConstView view, std::int64_t i) {
  return view.dtype == DType::kI64 ? view.as<std::int64_t>()[i] : view.as<std::int32_t>()[i];
}
inline void store_id(View view, std::int64_t i, std::int64_t id) {
  if (view.dtype == DType::kI64)
    view.as<std::int64_t>()[i] = id;
  else
    view.as<std::int32_t>()[i] = static_cast<std::int32_t>(id);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
