#pragma once
// gpu.h on HIP: gfx9 (waves of 64) and gfx11 (waves of 32). HIP's shuffles and votes take no mask: the lanes that are there take
// part, so masks only select among the results.
#include <hip/hip_runtime.h>

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "optimized/gpu/backend_device.h"

#define GPU_BACKEND_HIP 1
#define GPU_BACKEND_NAME "hip"

namespace moecheck::gpu::inline MOECHECK_GPU_ON {

using ThisBackend = Hip;

template <int W>
GPU_DEVICE int lane() {
  return static_cast<int>(thread_in_block() % W);
}
template <int W>
GPU_DEVICE int wave_in_block() {
  return static_cast<int>(thread_in_block() / W);
}

GPU_DEVICE void block_barrier() { __syncthreads(); }
// Lanes run in lockstep; memory and the compiler are to be told.
template <int W>
GPU_DEVICE void wave_barrier(LaneMask<W> = kAllLanes<W>) {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}

// HIP 5.2 shuffles 4-byte and 8-byte arithmetic types.
#define GPU_HIP_SHUFFLE(function, intrinsic)                  \
  template <int W, class T>                                   \
  GPU_DEVICE T function(LaneMask<W>, T value, int argument) { \
    return intrinsic(value, argument, W);                     \
  }                                                           \
  template <int W, class T>                                   \
  GPU_DEVICE T function(T value, int argument) {              \
    return intrinsic(value, argument, W);                     \
  }
GPU_HIP_SHUFFLE(shfl, __shfl)
GPU_HIP_SHUFFLE(shfl_up, __shfl_up)
GPU_HIP_SHUFFLE(shfl_down, __shfl_down)
GPU_HIP_SHUFFLE(shfl_xor, __shfl_xor)
#undef GPU_HIP_SHUFFLE

template <int W>
GPU_DEVICE LaneMask<W> ballot(LaneMask<W> mask, bool predicate) {
  return static_cast<LaneMask<W>>(__ballot(predicate)) & mask;
}
template <int W>
GPU_DEVICE LaneMask<W> ballot(bool predicate) {
  return static_cast<LaneMask<W>>(__ballot(predicate));
}
template <int W>
GPU_DEVICE bool any(LaneMask<W> mask, bool predicate) {
  return ballot<W>(mask, predicate) != 0;
}
template <int W>
GPU_DEVICE bool any(bool predicate) {
  return ballot<W>(predicate) != 0;
}
template <int W>
GPU_DEVICE bool all(LaneMask<W> mask, bool predicate) {
  return ballot<W>(mask, !predicate) == 0;
}
template <int W>
GPU_DEVICE bool all(bool predicate) {
  return ballot<W>(!predicate) == 0;
}

// Rows of 16 lanes by DPP (a modifier of the instruction, no LDS traffic), then the rows.
template <int W, class Combine>
GPU_DEVICE std::uint32_t wave_reduce(std::uint32_t v, Combine combine) {
  const auto moved = [](std::uint32_t x, auto control) {
    return static_cast<std::uint32_t>(
        __builtin_amdgcn_mov_dpp(static_cast<int>(x), decltype(control)::value, 0xF, 0xF, true));
  };
  v = combine(v, moved(v, std::integral_constant<int, 0xB1>()));   // quad_perm 1 0 3 2
  v = combine(v, moved(v, std::integral_constant<int, 0x4E>()));   // quad_perm 2 3 0 1
  v = combine(v, moved(v, std::integral_constant<int, 0x141>()));  // row_half_mirror
  v = combine(v, moved(v, std::integral_constant<int, 0x140>()));  // row_mirror
  for (int step = 16; step < W; step *= 2) v = combine(v, shfl_xor<W>(v, step));
  return v;
}
template <int W>
GPU_DEVICE std::uint32_t wave_max(std::uint32_t value) {
  return wave_reduce<W>(value, [](std::uint32_t a, std::uint32_t b) { return a > b ? a : b; });
}
template <int W>
GPU_DEVICE std::uint32_t wave_min(std::uint32_t value) {
  return wave_reduce<W>(value, [](std::uint32_t a, std::uint32_t b) { return a < b ? a : b; });
}

template <class T>
GPU_DEVICE T atomic_add(T* p, T value) {
  return __hip_atomic_fetch_add(p, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
template <class T>
GPU_DEVICE T atomic_max(T* p, T value) {
  return __hip_atomic_fetch_max(p, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
template <class T>
GPU_DEVICE T atomic_min(T* p, T value) {
  return __hip_atomic_fetch_min(p, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
template <class T>
GPU_DEVICE T atomic_cas(T* p, T expected, T desired) {
  __hip_atomic_compare_exchange_strong(p, &expected, desired, __ATOMIC_RELAXED, __ATOMIC_RELAXED,
                                       __HIP_MEMORY_SCOPE_AGENT);
  return expected;
}

GPU_DEVICE void fence_block() { __threadfence_block(); }
GPU_DEVICE void fence_device() { __threadfence(); }
template <class T>
GPU_DEVICE T load_acquire(const T* p) {
  return __hip_atomic_load(const_cast<T*>(p), __ATOMIC_ACQUIRE, __HIP_MEMORY_SCOPE_AGENT);
}
template <class T>
GPU_DEVICE void store_release(T* p, T value) {
  __hip_atomic_store(p, value, __ATOMIC_RELEASE, __HIP_MEMORY_SCOPE_AGENT);
}
GPU_DEVICE void spin_pause() { __builtin_amdgcn_s_sleep(1); }

GPU_DEVICE Bytes16 load16(const void* p) {
  const uint4 v = *static_cast<const uint4*>(p);
  return {{v.x, v.y, v.z, v.w}};
}
GPU_DEVICE Bytes16 load16_once(const void* p) { return load16(p); }
GPU_DEVICE void store16(void* p, Bytes16 v) {
  *static_cast<uint4*>(p) = make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]);
}

template <class T>
GPU_DEVICE T bits_as(std::uint32_t bits) {
  return __builtin_bit_cast(T, bits);
}
GPU_DEVICE std::uint32_t float_bits(float v) { return __builtin_bit_cast(std::uint32_t, v); }
GPU_DEVICE int count_bits(std::uint64_t mask) { return __builtin_popcountll(mask); }

#if defined(__gfx940__) || defined(__gfx941__) || defined(__gfx942__)
#define GPU_HARDWARE_E4M3FNUZ 1
GPU_DEVICE float hardware_from_e4m3fnuz(std::uint8_t bits) { return __builtin_amdgcn_cvt_f32_fp8(bits, 0); }
// The instruction makes NaN of what is too large: cut off first.
GPU_DEVICE std::uint8_t hardware_to_e4m3fnuz(float v) {
  const float cut = __builtin_amdgcn_fmed3f(v, 240.0F, -240.0F);
  return static_cast<std::uint8_t>(__builtin_amdgcn_cvt_pk_fp8_f32(cut, cut, 0, false));
}
#endif

inline void check(hipError_t e, const char* what) {
  if (e != hipSuccess) throw DeviceError(std::string(what) + ": " + hipGetErrorString(e));
}

// Lanes of a wave on the current device. The host pass of a HIP file does not know; kernels for both are in the binary.
inline int device_wave_width() {
  int device = 0, width = 0;
  check(hipGetDevice(&device), "current device");
  check(hipDeviceGetAttribute(&width, hipDeviceAttributeWarpSize, device), "wave width of the device");
  return width;
}

template <class Launcher>
void with_wave_width(Launcher&& launcher) {
  if (device_wave_width() == 32)
    launcher.template operator()<32>();
  else
    launcher.template operator()<64>();
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchConfig& c, Arguments&&... arguments) {
  const dim3 grid(c.grid.x, c.grid.y, c.grid.z), block(c.block.x, c.block.y, c.block.z);
  const auto stream = static_cast<hipStream_t>(c.stream);
  if (launch_observer != nullptr) launch_observer->launching(c.stream, reinterpret_cast<const void*>(kernel));
  if (c.all_resident) {
    std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
    void* pointers[sizeof...(Parameters) + 1] = {};
    std::apply(
        [&](auto&... v) {
          int i = 0;
          ((pointers[i++] = const_cast<void*>(static_cast<const void*>(&v))), ...);
        },
        values);
    check(hipLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers,
                                     static_cast<unsigned>(c.dynamic_shared), stream),
          "launch of a kernel");
    return;
  }
  kernel<<<grid, block, static_cast<unsigned>(c.dynamic_shared), stream>>>(
      static_cast<Parameters>(arguments)...);
  check(hipGetLastError(), "launch of a kernel");
}

}  // namespace moecheck::gpu::inline MOECHECK_GPU_ON
