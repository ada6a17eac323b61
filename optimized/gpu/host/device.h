#pragma once
// The device side of the host executor: what gpu.h's functions call when a kernel runs on the CPU. Kernels do not include this.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "optimized/gpu/host/executor.h"

namespace moecheck::gpu::host {

// Where in a kernel's source a call stands.
struct Site {
  const char* file = nullptr;
  int line = 0;
};

// What a GPU thread knows of itself.
struct ThreadIdentity {
  Dim3 thread, block, block_dim, grid_dim;
  int lane = 0, wave_in_block = 0, wave_width = 32;
};

// The GPU thread that runs on this OS thread; nullptr outside a kernel.
extern constinit thread_local ThreadIdentity* running;

enum class WaveOp : std::uint8_t {
  kShfl,
  kShflUp,
  kShflDown,
  kShflXor,
  kBallot,
  kReduceMax,
  kReduceMin,
  kBarrier,
  kTileBF16,
  kTileFP8,
};

// One lane's part of a wave operation: returns when all lanes of the mask have come to the same operation at the same line. The
// answer is the lane's own. `argument`: the source lane or distance of a shuffle.
std::uint64_t wave_operation(WaveOp op, std::uint64_t mask, std::uint64_t value, int argument, Site site);

void block_barrier(Site site);

// A shared array of the block; the same memory for every thread that comes by the same place. Filled with 0xFF bytes: NaN in
// every float format, -1 as an integer.
void* shared_array(std::size_t bytes, std::size_t alignment, const char* name, Site site);
void* dynamic_shared(Site site);  // 16-byte aligned

// A spinning thread says so: others get to run.
void spin_pause(Site site);
// Called at every load that may be part of a spin loop; pauses now and then.
void may_spin(Site site);
// Something was done that a spinning thread may wait for.
void note_progress();
void note_atomic();

[[noreturn]] void misaligned(const void* address, std::size_t bytes, Site site);

// gpu::launch() on a stream of a HostRuntime (runtime.h): body(arguments) is called for every GPU thread when the stream comes to it,
// and destroy(arguments) when nothing needs them any more, or at once when the launch is refused.
void enqueue(Stream stream, const Launch& launch, const void* kernel, void (*body)(void*), void* arguments,
             void (*destroy)(void*));

// What a lane brings to a tile product: its fragments. See gpu/tile.h.
struct TileOperands {
  const std::uint16_t *a16 = nullptr, *b16 = nullptr;
  const std::uint8_t *a8 = nullptr, *b8 = nullptr;
  bool fnuz = false;
  float* c = nullptr;
};

template <class T>
std::uint64_t to_bits(T value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  std::uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class T>
T from_bits(std::uint64_t bits) {
  T value;
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace moecheck::gpu::host
