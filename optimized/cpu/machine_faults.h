#pragma once
// What planted faults do to memory and to the processor's state. The clean code calls nothing of this.
#include <atomic>
#include <cstdint>

#ifdef __SSE__
#include <xmmintrin.h>
#endif

#include "optimized/cpu/rounding.h"

namespace moecheck::MOECHECK_OPTIMIZED {

inline void modify_first_byte(ConstView input) {
  if (input.shape.numel() > 0) *static_cast<std::uint8_t*>(const_cast<void*>(input.data)) ^= 1;
}

inline void write_past_end(View output) {
  const auto bytes = output.shape.numel() * reference::size_bytes(output.dtype);
  output.as<std::uint8_t>()[bytes] ^= 0x55;
}

inline void leave_flush_to_zero() {
#ifdef __SSE__
  _mm_setcsr(_mm_getcsr() | 0x8040);  // FTZ and DAZ
#endif
}

// True at every second call: what an uninitialised or racing variable looks like from outside.
inline bool every_other_call() {
  static std::atomic<std::uint32_t> calls{0};
  return (++calls & 1) != 0;
}

inline bool is_unaligned(ConstView view) { return (reinterpret_cast<std::uintptr_t>(view.data) & 63) != 0; }

}  // namespace moecheck::MOECHECK_OPTIMIZED
