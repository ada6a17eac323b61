#pragma once
// Row kernels between the two GEMMs: the gated activation and the fp8 block quantizer. Internal.
#include <cstdint>

#include "optimized/cpu/combine_row.h"
#include "reference/activation.h"
#include "reference/fp8_block.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// h [2I] -> a [I], in fp32. h is multiplied by `weight` first, and rounded to T when round_input is set. `h`
// is readable up to h_stride(I); `a` is written up to padded_columns(I), zeros behind the last.
struct ActivationRow {
  const reference::ActivationOptions& options;
  float weight = 1;
  bool round_input = false;
};
inline std::int64_t h_stride(std::int64_t intermediate) {
  return padded_columns(2 * intermediate) + kRowMultiple;
}
using Activate = void (*)(const ActivationRow& row, const float* h, std::int64_t intermediate, float* a);
Activate activate_row();

// x [n] -> the numbers that the codes stand for [n] and scales [ceil(n / group)]. May be done in place. Rows
// are padded as above.
using QuantizeRow = void (*)(const reference::Fp8QuantOptions& options, const float* x, std::int64_t n,
                             float* codes, float* scales);
QuantizeRow quantize_row();

}  // namespace moecheck::MOECHECK_OPTIMIZED
