// The kernels of probe.h: one block each, since what they show is order, not speed.
#include "optimized/gpu/fault.h"
#include "optimized/gpu/gpu.h"
#include "optimized/gpu/probe.h"
#include "optimized/gpu/probe_hash.h"

namespace moecheck::MOECHECK_OPTIMIZED::probe_kernels {

using namespace moecheck::gpu;  // NOLINT: kernels speak gpu.h

inline constexpr int kThreads = 128;

GPU_KERNEL void GPU_LAUNCH_BOUNDS(kThreads) absorb(const ProbeRanges r, std::uint64_t* digest) {
  GPU_SHARED(std::uint64_t, sums, kThreads);
  const int t = static_cast<int>(thread_x());
  std::uint64_t sum = 0;
  for (int i = 0; i < r.count; ++i)
    for (std::int64_t b = t; b < r.bytes[i]; b += kThreads) sum += probe_term(r.data[i][b], i, b);
  sums[t] = sum;
  block_barrier();
  if (t != 0) return;
  for (int i = 1; i < kThreads; ++i) sum += sums[i];
  *digest = probe_mix(*digest ^ sum);
}

GPU_KERNEL void GPU_LAUNCH_BOUNDS(kThreads)
    emit(const ProbeRanges r, const std::uint64_t* digest, std::uint64_t salt) {
  const std::uint64_t d = probe_mix(*digest + salt);
  for (int i = 0; i < r.count; ++i)
    for (std::int64_t b = thread_x(); b < r.bytes[i]; b += kThreads) r.data[i][b] = probe_byte(d, i, b);
}

#if defined(__CUDACC__) || defined(__HIP__)
// Nanoseconds, of one clock for the whole device.
GPU_DEVICE std::uint64_t now() {
#if defined(__CUDA_ARCH__)
  std::uint64_t t;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
  return t;
#elif defined(__HIP_DEVICE_COMPILE__)
  return wall_clock64() * 10;  // 100 MHz
#else
  return 0;
#endif
}
#else
inline std::uint64_t now() { return ~std::uint64_t{0}; }
#endif

GPU_KERNEL void spin(std::uint64_t nanoseconds) {
  const std::uint64_t begin = now();
  while (now() - begin < nanoseconds) spin_pause();
}

GPU_KERNEL void meet(std::uint32_t* mine, std::uint32_t* other, std::uint32_t* met,
                     std::uint64_t nanoseconds) {
  const std::uint64_t begin = now();
  store_release(mine, 1u);
  bool seen = load_acquire(other) != 0;
  while (!seen && now() - begin < nanoseconds) {
    spin_pause();
    seen = load_acquire(other) != 0;
  }
  *met = seen ? 1 : 0;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::probe_kernels

namespace moecheck::MOECHECK_OPTIMIZED {

template <class Backend>
void gpu_probe_absorb(const ProbeRanges& ranges, std::uint64_t* digest, gpu::Stream stream) {
  gpu::launch(probe_kernels::absorb, {.grid = 1, .block = probe_kernels::kThreads, .stream = stream}, ranges,
              digest);
}
template <class Backend>
void gpu_probe_emit(const ProbeRanges& ranges, const std::uint64_t* digest, std::uint64_t salt,
                    gpu::Stream stream) {
  gpu::launch(probe_kernels::emit, {.grid = 1, .block = probe_kernels::kThreads, .stream = stream}, ranges,
              digest, salt);
}
template <class Backend>
void gpu_probe_spin(int microseconds, gpu::Stream stream) {
  if (std::is_same_v<Backend, gpu::Host> || microseconds <= 0) return;
  gpu::launch(probe_kernels::spin, {.grid = 1, .block = 1, .stream = stream},
              static_cast<std::uint64_t>(microseconds) * 1000);
}
template <class Backend>
void gpu_probe_meet(std::uint32_t* mine, std::uint32_t* other, std::uint32_t* met, int microseconds,
                    gpu::Stream stream) {
  gpu::launch(probe_kernels::meet, {.grid = 1, .block = 1, .stream = stream}, mine, other, met,
              static_cast<std::uint64_t>(microseconds) * 1000);
}

template void gpu_probe_absorb<gpu::ThisBackend>(const ProbeRanges&, std::uint64_t*, gpu::Stream);
template void gpu_probe_emit<gpu::ThisBackend>(const ProbeRanges&, const std::uint64_t*, std::uint64_t,
                                               gpu::Stream);
template void gpu_probe_spin<gpu::ThisBackend>(int, gpu::Stream);
template void gpu_probe_meet<gpu::ThisBackend>(std::uint32_t*, std::uint32_t*, std::uint32_t*, int,
                                               gpu::Stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
