#pragma once
// The numbers of probe.h, alike on all devices and on the host.
#include <cstdint>

#include "optimized/gpu/types.h"

#if defined(__CUDACC__) || defined(__HIP__)
#define MOECHECK_PROBE __host__ __device__ __forceinline__
#else
#define MOECHECK_PROBE inline
#endif

namespace moecheck::gpu::inline MOECHECK_GPU_ON {

// SplitMix64's finalizer: every bit of the result depends on every bit of x.
MOECHECK_PROBE std::uint64_t probe_mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

// What byte `b` of range `i` adds: a sum of these is the same in any order of adding.
MOECHECK_PROBE std::uint64_t probe_term(unsigned char value, int i, std::int64_t b) {
  return probe_mix(static_cast<std::uint64_t>(b) << 16 | static_cast<std::uint64_t>(i) << 8 | value);
}

MOECHECK_PROBE unsigned char probe_byte(std::uint64_t digest, int i, std::int64_t b) {
  return static_cast<unsigned char>(
      probe_mix(digest ^ (static_cast<std::uint64_t>(b) << 8 | static_cast<unsigned>(i))) >> 56);
}

}  // namespace moecheck::gpu::inline MOECHECK_GPU_ON
