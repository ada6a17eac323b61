#include "optimized/cpu/activation.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "optimized/cpu/activation_row.h"
#include "optimized/cpu/aligned.h"
#include "optimized/cpu/thread_pool.h"

namespace moecheck::MOECHECK_OPTIMIZED {
namespace {

struct RowScratch {
  AlignedFloats in, out;
  RowScratch(std::int64_t a, std::int64_t b) : in(a), out(b) {}
};

std::vector<RowScratch> row_scratch(CpuOptions cpu, std::int64_t in, std::int64_t out) {
  std::vector<RowScratch> all;
  for (int i = 0; i < std::max(1, cpu.threads); ++i) all.emplace_back(in, out);
  return all;
}

// The code of a number that the format represents.
std::uint8_t code_of(DType dtype, float v) {
  const bool fnuz = dtype == DType::kE4M3FNUZ, e5m2 = dtype == DType::kE5M2;
  const auto bits = std::bit_cast<std::uint32_t>(v);
  const std::uint32_t sign = bits >> 24 & 0x80;
  if (std::isnan(v)) return fnuz ? 0x80 : static_cast<std::uint8_t>(sign | (e5m2 ? 0x7E : 0x7F));
  const int mantissa = e5m2 ? 2 : 3, bias = e5m2 ? 15 : fnuz ? 8 : 7;
  const float magnitude = std::fabs(v), min_normal = std::ldexp(1.0F, 1 - bias);
  if (fnuz && magnitude == 0) return 0;
  if (magnitude < min_normal)
    return static_cast<std::uint8_t>(sign |
                                     static_cast<std::uint32_t>(std::ldexp(magnitude, bias - 1 + mantissa)));
  const std::uint32_t fields = (bits & 0x7FFFFFFF) >> (23 - mantissa);
  return static_cast<std::uint8_t>(sign | (fields - (static_cast<std::uint32_t>(127 - bias) << mantissa)));
}

}  // namespace

void silu_and_mul(const reference::ActivationOptions& options, ConstView gate_up, View out, CpuOptions cpu) {
  const std::int64_t intermediate = gate_up.shape[1] / 2;
  reference::ActivationOptions unrounded = options;
  unrounded.round_product = reference::Rounding::kNone;
  unrounded.dtype = gate_up.dtype;
  const Activate activate = activate_row();
  const LoadRow load = load_row();
  const StoreRow store = store_row();
  auto scratch = row_scratch(cpu, h_stride(intermediate), padded_columns(intermediate));
  parallel_for(cpu.threads, gate_up.shape[0], [&](std::int64_t t, int worker) {
    RowScratch& s = scratch[static_cast<std::size_t>(worker)];
    load(gate_up, t * 2 * intermediate, 2 * intermediate, s.in.data());
    activate({unrounded}, s.in.data(), intermediate, s.out.data());
    store(s.out.data(), intermediate, out, t * intermediate);
  });
}

void quantize_fp8(const reference::Fp8QuantOptions& options, ConstView x, View codes, View scales,
                  CpuOptions cpu) {
  const std::int64_t n = x.shape[1], groups = (n + options.group - 1) / options.group;
  const QuantizeRow quantize = quantize_row();
  const LoadRow load = load_row();
  auto scratch = row_scratch(cpu, padded_columns(n) + kRowMultiple, groups);
  parallel_for(cpu.threads, x.shape[0], [&](std::int64_t t, int worker) {
    RowScratch& s = scratch[static_cast<std::size_t>(worker)];
    load(x, t * n, n, s.in.data());
    quantize(options, s.in.data(), n, s.in.data(), s.out.data());
    for (std::int64_t i = 0; i < n; ++i)
      codes.as<std::uint8_t>()[t * n + i] = code_of(options.dtype, s.in[i]);
    for (std::int64_t g = 0; g < groups; ++g) {
      if (scales.dtype == DType::kE8M0)
        scales.as<std::uint8_t>()[t * groups + g] =
            static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(s.out[g]) >> 23);
      else
        scales.as<float>()[t * groups + g] = s.out[g];
    }
  });
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
