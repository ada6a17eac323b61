#pragma once
// One row of K to fp8 codes and scales, in vector code. Internal.
#include <cstdint>

#include "optimized/cpu/options.h"
#include "reference/indexer_cache.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// Codes [rows, n] and scales [rows, n / group] of `rows` rows of n elements, which begin at elements first, first + stride, ... of k.
// A few rows at once, as the way from a row's amax to its first code is long and rows do not wait for each other.
struct KeyRows {
  reference::ConstView k;
  std::int64_t first = 0, stride = 0, rows = 0, n = 0;
};
using QuantizeRows = void (*)(const reference::IndexerQuant& quant, std::int64_t group, const KeyRows& in,
                              std::uint8_t* codes, float* scales);
QuantizeRows quantize_rows();

}  // namespace moecheck::MOECHECK_OPTIMIZED
