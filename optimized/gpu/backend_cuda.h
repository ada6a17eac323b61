#pragma once
// gpu.h on CUDA. Waves are warps: W is 32.
#include <cuda_runtime.h>

#include <string>

#include "optimized/gpu/backend_device.h"

#define GPU_BACKEND_CUDA 1
#define GPU_BACKEND_NAME "cuda"

namespace moecheck::gpu::inline MOECHECK_GPU_ON {

using ThisBackend = Cuda;

template <int W>
GPU_DEVICE int lane() {
  static_assert(W == 32, "waves have 32 lanes on CUDA");
  return static_cast<int>(thread_in_block() % 32);
}
template <int W>
GPU_DEVICE int wave_in_block() {
  return static_cast<int>(thread_in_block() / 32);
}

GPU_DEVICE void block_barrier() { __syncthreads(); }
template <int W>
GPU_DEVICE void wave_barrier(LaneMask<W> mask = kAllLanes<W>) {
  __syncwarp(mask);
}

#define GPU_CUDA_SHUFFLE(function, intrinsic)                      \
  template <int W, class T>                                        \
  GPU_DEVICE T function(LaneMask<W> mask, T value, int argument) { \
    return intrinsic(mask, value, argument);                       \
  }                                                                \
  template <int W, class T>                                        \
  GPU_DEVICE T function(T value, int argument) {                   \
    return intrinsic(kAllLanes<W>, value, argument);               \
  }
GPU_CUDA_SHUFFLE(shfl, __shfl_sync)
GPU_CUDA_SHUFFLE(shfl_up, __shfl_up_sync)
GPU_CUDA_SHUFFLE(shfl_down, __shfl_down_sync)
GPU_CUDA_SHUFFLE(shfl_xor, __shfl_xor_sync)
#undef GPU_CUDA_SHUFFLE

template <int W>
GPU_DEVICE LaneMask<W> ballot(LaneMask<W> mask, bool predicate) {
  return __ballot_sync(mask, predicate);
}
template <int W>
GPU_DEVICE LaneMask<W> ballot(bool predicate) {
  return __ballot_sync(kAllLanes<W>, predicate);
}
template <int W>
GPU_DEVICE bool any(LaneMask<W> mask, bool predicate) {
  return __any_sync(mask, predicate);
}
template <int W>
GPU_DEVICE bool any(bool predicate) {
  return __any_sync(kAllLanes<W>, predicate);
}
template <int W>
GPU_DEVICE bool all(LaneMask<W> mask, bool predicate) {
  return __all_sync(mask, predicate);
}
template <int W>
GPU_DEVICE bool all(bool predicate) {
  return __all_sync(kAllLanes<W>, predicate);
}

// redux.sync: sm_80 and later.
template <int W>
GPU_DEVICE std::uint32_t wave_max(std::uint32_t value) {
  return __reduce_max_sync(kAllLanes<W>, value);
}
template <int W>
GPU_DEVICE std::uint32_t wave_min(std::uint32_t value) {
  return __reduce_min_sync(kAllLanes<W>, value);
}

// 8-byte integers have another name in CUDA.
template <class T>
struct AtomicAs {
  using type = T;
};
template <>
struct AtomicAs<unsigned long> {
  using type = unsigned long long;
};
template <>
struct AtomicAs<long> {
  using type = unsigned long long;  // right for add and cas, not offered for max and min
};
template <class T>
GPU_DEVICE T atomic_add(T* p, T value) {
  using A = typename AtomicAs<T>::type;
  return static_cast<T>(atomicAdd(reinterpret_cast<A*>(p), static_cast<A>(value)));
}
template <class T>
GPU_DEVICE T atomic_cas(T* p, T expected, T desired) {
  using A = typename AtomicAs<T>::type;
  return static_cast<T>(
      atomicCAS(reinterpret_cast<A*>(p), static_cast<A>(expected), static_cast<A>(desired)));
}
template <class T>
GPU_DEVICE T atomic_max(T* p, T value) {
  static_assert(sizeof(T) == 4);
  return atomicMax(p, value);
}
template <class T>
GPU_DEVICE T atomic_min(T* p, T value) {
  static_assert(sizeof(T) == 4);
  return atomicMin(p, value);
}

GPU_DEVICE void fence_block() { __threadfence_block(); }
GPU_DEVICE void fence_device() { __threadfence(); }
template <class T>
GPU_DEVICE T load_acquire(const T* p) {
  static_assert(sizeof(T) == 4);
  std::uint32_t bits;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(bits) : "l"(p) : "memory");
  T value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
template <class T>
GPU_DEVICE void store_release(T* p, T value) {
  static_assert(sizeof(T) == 4);
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  asm volatile("st.release.gpu.u32 [%0], %1;" : : "l"(p), "r"(bits) : "memory");
}
GPU_DEVICE void spin_pause() { __nanosleep(64); }

GPU_DEVICE Bytes16 load16(const void* p) {
  const uint4 v = *static_cast<const uint4*>(p);
  return {{v.x, v.y, v.z, v.w}};
}
GPU_DEVICE Bytes16 load16_once(const void* p) {
  const uint4 v = __ldcs(static_cast<const uint4*>(p));
  return {{v.x, v.y, v.z, v.w}};
}
GPU_DEVICE void store16(void* p, Bytes16 v) {
  *static_cast<uint4*>(p) = make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]);
}

template <class T>
GPU_DEVICE T bits_as(std::uint32_t bits) {
  T value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
GPU_DEVICE std::uint32_t float_bits(float v) { return __float_as_uint(v); }
GPU_DEVICE int count_bits(std::uint64_t mask) { return __popcll(mask); }

// Conversions with the bits of reference/number_formats.h for every number; NaN is the callers' matter.
#define GPU_HARDWARE_F16 1
GPU_DEVICE float hardware_from_f16(std::uint16_t bits) {
  float v;
  asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
  return v;
}
GPU_DEVICE std::uint16_t hardware_to_f16(float v) {
  std::uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
  return bits;
}
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
#define GPU_HARDWARE_E4M3FN 1
GPU_DEVICE float hardware_from_e4m3fn(std::uint8_t bits) {
  std::uint32_t pair;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"(static_cast<std::uint16_t>(bits)));
  return hardware_from_f16(static_cast<std::uint16_t>(pair));
}
// satfinite: infinities become the largest number, NaN 0x7F.
GPU_DEVICE std::uint8_t hardware_to_e4m3fn(float v) {
  std::uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0F), "f"(v));
  return static_cast<std::uint8_t>(pair);
}
#endif

inline void check(cudaError_t e, const char* what) {
  if (e != cudaSuccess) throw DeviceError(std::string(what) + ": " + cudaGetErrorString(e));
}

// launcher.template operator()<W>() with the width of this device's waves.
template <class Launcher>
void with_wave_width(Launcher&& launcher) {
  launcher.template operator()<32>();
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchConfig& c, Arguments&&... arguments) {
  if (c.dynamic_shared > (48u << 10))
    check(
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(c.dynamic_shared)),
        "dynamic shared memory of a kernel");
  if (launch_observer != nullptr) launch_observer->launching(c.stream, reinterpret_cast<const void*>(kernel));
  cudaLaunchAttribute cooperative{};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = {c.grid.x, c.grid.y, c.grid.z};
  config.blockDim = {c.block.x, c.block.y, c.block.z};
  config.dynamicSmemBytes = c.dynamic_shared;
  config.stream = static_cast<cudaStream_t>(c.stream);
  config.attrs = &cooperative;
  config.numAttrs = c.all_resident ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "launch of a kernel");
}

}  // namespace moecheck::gpu::inline MOECHECK_GPU_ON
