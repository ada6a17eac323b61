#pragma once
// What host and device code of every backend share.
#include <cstddef>
#include <cstdint>
#include <stdexcept>

// One program may hold kernels of two backends. What differs between them lies in an inline namespace of the backend, and the kernels
// in MOECHECK_OPTIMIZED (optimized/fault.h), so that the linker does not take one for the other.
#if defined(__CUDACC__)
#define MOECHECK_GPU_ON on_cuda
#elif defined(__HIP__)
#define MOECHECK_GPU_ON on_hip
#else
#define MOECHECK_GPU_ON on_host
#endif

namespace moecheck::gpu {

// What kernels are compiled for. Operators are templates on it: gpu_gating<gpu::Host>(...). Each file that instantiates kernels is
// compiled for one of them, its ThisBackend.
struct Host {};  // the host executor, gpu/host/executor.h
struct Cuda {};
struct Hip {};

// cudaStream_t, hipStream_t, or a stream of the host executor (gpu/runtime.h). nullptr: the host executor runs at once, a device
// on its default stream.
using Stream = void*;

// What a device or its driver refused.
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr std::uint64_t count() const { return std::uint64_t{x} * y * z; }
};

// How a kernel is launched.
struct LaunchConfig {
  Dim3 grid = 1, block = 1;
  std::size_t dynamic_shared = 0;  // bytes
  Stream stream = nullptr;
  bool all_resident = false;  // a cooperative launch: blocks may wait for each other
  int wave = 0;               // the wave width the kernel was compiled for, checked by the host executor
};

// Told of each launch of this OS thread on a stream, before it is made, while it is chosen.
class LaunchObserver {
 public:
  virtual ~LaunchObserver() = default;
  virtual void launching(Stream stream, const void* kernel) = 0;  // the kernel's function on the host
};
inline thread_local LaunchObserver* launch_observer = nullptr;

// 16 bytes, as one load or store moves them.
struct alignas(16) Bytes16 {
  std::uint32_t word[4];
};

// One bit per lane.
template <int W>
struct LaneMaskOf {
  using type = std::uint32_t;
};
template <>
struct LaneMaskOf<64> {
  using type = std::uint64_t;
};
template <int W>
using LaneMask = typename LaneMaskOf<W>::type;

template <int W>
constexpr LaneMask<W> kAllLanes = static_cast<LaneMask<W>>(~LaneMask<W>{0});

}  // namespace moecheck::gpu
