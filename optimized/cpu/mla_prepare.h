#pragma once
// The step before MLA attention (reference/mla_prepare.h is the specification): same inputs, options and outputs, checked for
// slots and positions outside their tensors, for which std::invalid_argument is thrown before anything is written.
// Where rounding or overflow is left open, fp32 is rounded once, and fp8 saturates.
#include <array>
#include <cstddef>
#include <vector>

#include "optimized/cpu/options.h"
#include "reference/mla_prepare.h"

namespace moecheck::MOECHECK_OPTIMIZED {

void mla_prepare(const reference::MlaPrepareInputs& in, const reference::MlaPrepareOptions& options,
                 const reference::MlaPrepareOutputs& out, CpuOptions cpu = {});

void concat_mla_absorb_q(reference::ConstView q_nope, reference::ConstView q_pe, reference::View out,
                         CpuOptions cpu = {});

// What attention reads q through: element (t, h, c) is at data + (t strides[0] + h strides[1] + c strides[2]) elements.
struct QueryView {
  const void* data = nullptr;
  std::array<std::int64_t, 3> strides{};
  std::vector<std::byte> copy;  // holds the data where they had to be copied
};
// The cat-skip: q_cat [T, H, row], of which the first `width` channels of each head are q, used as it is. With copy_strided a
// q_cat whose heads do not lie side by side (row > width) is copied, as .contiguous() does; else its strides are kept.
QueryView cat_skip(reference::ConstView q_cat, std::int64_t width, bool copy_strided);

}  // namespace moecheck::MOECHECK_OPTIMIZED
