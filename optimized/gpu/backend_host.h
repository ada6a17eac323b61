#pragma once
// gpu.h on the host executor. Every operation knows the line it is called from: `site` is not for callers to give.
#include <cstring>
#include <tuple>
#include <type_traits>

#include "optimized/gpu/host/device.h"

#define GPU_BACKEND_HOST 1
#define GPU_BACKEND_NAME "host"
#define GPU_KERNEL
#define GPU_DEVICE inline
#define GPU_HOST_DEVICE inline
#define GPU_LAUNCH_BOUNDS(threads)
#define GPU_UNROLL
#define GPU_SHARED(T, name, count)     \
  T(&name)                             \
  [count] = *static_cast<T(*)[count]>( \
      ::moecheck::gpu::host::shared_array(sizeof(T) * (count), alignof(T), #name, {__FILE__, __LINE__}))
#define GPU_DYNAMIC_SHARED(T, name) \
  T* const name = static_cast<T*>(::moecheck::gpu::host::dynamic_shared({__FILE__, __LINE__}))

#define GPU_SITE host::Site site = {__builtin_FILE(), __builtin_LINE()}

namespace moecheck::gpu::inline MOECHECK_GPU_ON {

using ThisBackend = Host;

inline unsigned thread_x() { return host::running->thread.x; }
inline unsigned thread_y() { return host::running->thread.y; }
inline unsigned thread_z() { return host::running->thread.z; }
inline unsigned block_x() { return host::running->block.x; }
inline unsigned block_y() { return host::running->block.y; }
inline unsigned block_z() { return host::running->block.z; }
inline unsigned block_dim_x() { return host::running->block_dim.x; }
inline unsigned block_dim_y() { return host::running->block_dim.y; }
inline unsigned block_dim_z() { return host::running->block_dim.z; }
inline unsigned grid_dim_x() { return host::running->grid_dim.x; }
inline unsigned grid_dim_y() { return host::running->grid_dim.y; }
inline unsigned grid_dim_z() { return host::running->grid_dim.z; }
inline unsigned thread_in_block() {
  return thread_x() + block_dim_x() * (thread_y() + block_dim_y() * thread_z());
}
template <int W>
int lane() {
  return static_cast<int>(thread_in_block() % W);
}
template <int W>
int wave_in_block() {
  return static_cast<int>(thread_in_block() / W);
}

inline void block_barrier(GPU_SITE) { host::block_barrier(site); }
template <int W>
void wave_barrier(GPU_SITE) {
  host::wave_operation(host::WaveOp::kBarrier, kAllLanes<W>, 0, 0, site);
}
template <int W>
void wave_barrier(LaneMask<W> mask, GPU_SITE) {
  host::wave_operation(host::WaveOp::kBarrier, mask, 0, 0, site);
}

#define GPU_HOST_SHUFFLE(function, op)                                                                       \
  template <int W, class T>                                                                                  \
  T function(T value, int argument, GPU_SITE) {                                                              \
    return host::from_bits<T>(host::wave_operation(op, kAllLanes<W>, host::to_bits(value), argument, site)); \
  }                                                                                                          \
  template <int W, class T>                                                                                  \
  T function(LaneMask<W> mask, T value, int argument, GPU_SITE) {                                            \
    return host::from_bits<T>(host::wave_operation(op, mask, host::to_bits(value), argument, site));         \
  }
GPU_HOST_SHUFFLE(shfl, host::WaveOp::kShfl)
GPU_HOST_SHUFFLE(shfl_up, host::WaveOp::kShflUp)
GPU_HOST_SHUFFLE(shfl_down, host::WaveOp::kShflDown)
GPU_HOST_SHUFFLE(shfl_xor, host::WaveOp::kShflXor)
#undef GPU_HOST_SHUFFLE

template <int W>
LaneMask<W> ballot(LaneMask<W> mask, bool predicate, GPU_SITE) {
  return static_cast<LaneMask<W>>(host::wave_operation(host::WaveOp::kBallot, mask, predicate, 0, site));
}
template <int W>
LaneMask<W> ballot(bool predicate, GPU_SITE) {
  return ballot<W>(kAllLanes<W>, predicate, site);
}
template <int W>
bool any(LaneMask<W> mask, bool predicate, GPU_SITE) {
  return ballot<W>(mask, predicate, site) != 0;
}
template <int W>
bool any(bool predicate, GPU_SITE) {
  return ballot<W>(kAllLanes<W>, predicate, site) != 0;
}
template <int W>
bool all(LaneMask<W> mask, bool predicate, GPU_SITE) {
  return ballot<W>(mask, !predicate, site) == 0;
}
template <int W>
bool all(bool predicate, GPU_SITE) {
  return ballot<W>(kAllLanes<W>, !predicate, site) == 0;
}

template <int W>
std::uint32_t wave_max(std::uint32_t value, GPU_SITE) {
  return static_cast<std::uint32_t>(
      host::wave_operation(host::WaveOp::kReduceMax, kAllLanes<W>, value, 0, site));
}
template <int W>
std::uint32_t wave_min(std::uint32_t value, GPU_SITE) {
  return static_cast<std::uint32_t>(
      host::wave_operation(host::WaveOp::kReduceMin, kAllLanes<W>, value, 0, site));
}

// Relaxed: they order nothing, and TSan knows. Each gives the value before.
template <class T>
T atomic_cas(T* p, T expected, T desired) {
  __atomic_compare_exchange(p, &expected, &desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  host::note_atomic();
  return expected;
}
template <class T, class Combine>
T atomic_update(T* p, Combine combine) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  auto* bits = reinterpret_cast<Bits*>(p);
  Bits before = __atomic_load_n(bits, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(bits, &before, std::bit_cast<Bits>(combine(std::bit_cast<T>(before))),
                                      false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  host::note_atomic();
  return std::bit_cast<T>(before);
}
template <class T>
T atomic_add(T* p, T value) {
  return atomic_update(p, [&](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomic_max(T* p, T value) {
  return atomic_update(p, [&](T old) { return old < value ? value : old; });
}
template <class T>
T atomic_min(T* p, T value) {
  return atomic_update(p, [&](T old) { return value < old ? value : old; });
}

template <class T>
T load_acquire(const T* p, GPU_SITE) {
  host::may_spin(site);
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
template <class T>
void store_release(T* p, T value) {
  __atomic_store_n(p, value, __ATOMIC_RELEASE);
  host::note_progress();
}
inline void fence_block() { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
inline void fence_device() { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
inline void spin_pause(GPU_SITE) { host::spin_pause(site); }

inline Bytes16 load16(const void* p, GPU_SITE) {
  if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) host::misaligned(p, 16, site);
  return *static_cast<const Bytes16*>(p);
}
inline Bytes16 load16_once(const void* p, GPU_SITE) { return load16(p, site); }
inline void store16(void* p, Bytes16 value, GPU_SITE) {
  if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) host::misaligned(p, 16, site);
  *static_cast<Bytes16*>(p) = value;
}

template <class T>
T bits_as(std::uint32_t bits) {
  return std::bit_cast<T>(bits);
}
inline std::uint32_t float_bits(float v) { return std::bit_cast<std::uint32_t>(v); }
inline int count_bits(std::uint64_t mask) { return std::popcount(mask); }

template <class Launcher>
void with_wave_width(Launcher&& launcher) {
  if (host::Executor::current().options().wave == 32)
    launcher.template operator()<32>();
  else
    launcher.template operator()<64>();
}

// Without a stream: runs the kernel now, on the executor of this OS thread. On a stream of a host::HostRuntime: puts it there, with
// copies of its arguments. Throws host::Error.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchConfig& c, Arguments&&... arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
  };
  const host::Launch shape{c.grid, c.block, c.dynamic_shared, c.all_resident, c.wave};
  constexpr auto body = [](void* p) {
    auto* k = static_cast<Call*>(p);
    std::apply(k->kernel, k->arguments);
  };
  if (c.stream != nullptr) {
    if (launch_observer != nullptr)
      launch_observer->launching(c.stream, reinterpret_cast<const void*>(kernel));
    auto* call = new Call{kernel, {std::forward<Arguments>(arguments)...}};
    host::enqueue(c.stream, shape, reinterpret_cast<const void*>(kernel), body, call,
                  [](void* p) { delete static_cast<Call*>(p); });
  } else {
    Call call{kernel, {std::forward<Arguments>(arguments)...}};
    host::Executor::current().run(shape, body, &call);
  }
}

}  // namespace moecheck::gpu::inline MOECHECK_GPU_ON
