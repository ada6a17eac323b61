#pragma once
// Vector code of mla_prepare, a row at a time. Internal.
#include <cstdint>

#include "optimized/cpu/rounding.h"
#include "reference/mla_prepare.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// out = x * cos + partner * sin, n floats; sin carries the sign. Products and sum are rounded to these dtypes; f32: not at all.
// All pointers are aligned, and readable and writable up to a multiple of kMlaPadding floats.
inline constexpr std::int64_t kMlaPadding = 64;
using RopeFloats = void (*)(const float* x, const float* partner, const float* cos, const float* sin,
                            std::int64_t n, DType products, DType result, float* out);
RopeFloats rope_floats();

struct CastPlan {
  enum class Scale : std::uint8_t { kNone, kMultiply, kDivide } scale = Scale::kNone;
  float factor = 1;
  DType dtype = DType::kBF16;
  bool saturate = true;  // fp8; else NaN past the largest
};
// n floats -> elements of plan.dtype at out; reads up to a multiple of kMlaPadding floats, writes n elements.
using CastFloats = void (*)(const float* in, std::int64_t n, const CastPlan& plan, void* out);
CastFloats cast_floats();

// n stored numbers from `first` on.
using LoadMlaFloats = void (*)(ConstView view, std::int64_t first, std::int64_t n, float* out);
LoadMlaFloats load_mla_floats();

}  // namespace moecheck::MOECHECK_OPTIMIZED
