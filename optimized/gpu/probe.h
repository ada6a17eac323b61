#pragma once
// Kernels whose result tells in which order they ran: stand-ins for the operations of stream programs (reference/stream_program.h).
// An operation absorbs the bytes that it reads into a number, and emits bytes made of that number where it writes. Two orders
// of two operations that touch the same bytes, one of them writing, end in other bytes; so does one that came in between.
#include <cstdint>

#include "optimized/fault.h"
#include "optimized/gpu/types.h"

namespace moecheck::gpu {

inline constexpr int kProbeRanges = 8;

struct ProbeRanges {
  unsigned char* data[kProbeRanges] = {};
  std::int64_t bytes[kProbeRanges] = {};
  int count = 0;
};

}  // namespace moecheck::gpu

namespace moecheck::MOECHECK_OPTIMIZED {

using gpu::ProbeRanges;

// *digest = a mix of itself and of every byte of the ranges with its place. Any alignment; digest: 8 bytes.
template <class Backend>
void gpu_probe_absorb(const ProbeRanges& ranges, std::uint64_t* digest, gpu::Stream stream);

// Fills the ranges with bytes that depend on *digest, `salt` and their place.
template <class Backend>
void gpu_probe_emit(const ProbeRanges& ranges, const std::uint64_t* digest, std::uint64_t salt,
                    gpu::Stream stream);

// Keeps the stream busy, about that long on a device. The host executor has no time: nothing happens there.
template <class Backend>
void gpu_probe_spin(int microseconds, gpu::Stream stream);

// Two of these, with mine and other exchanged, show that a device may run two places of a program at the same time: each sets
// *mine to 1 and waits until *other is 1, for `microseconds` at most. *met: 1 if it saw it, else 0. Not for the host executor.
template <class Backend>
void gpu_probe_meet(std::uint32_t* mine, std::uint32_t* other, std::uint32_t* met, int microseconds,
                    gpu::Stream stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
