#pragma once
// One source for GPU kernels: what CUDA, HIP and the host executor (gpu/host/executor.h) all have.
//
//   template <int W>                                             // lanes of a wave: 32 or 64
//   GPU_KERNEL void sum_rows(const float* in, float* out, int columns) {
//     float sum = 0;
//     for (int c = gpu::lane<W>(); c < columns; c += W) sum += in[gpu::block_x() * columns + c];
//     for (int step = W / 2; step > 0; step /= 2) sum += gpu::shfl_xor<W>(sum, step);
//     if (gpu::lane<W>() == 0) out[gpu::block_x()] = sum;
//   }
//   gpu::launch(sum_rows<32>, {.grid = rows, .block = 32}, in, out, columns);
//
// Rules of this one source
//   All lanes of a wave (or of the mask) come to a wave operation, at the same line. So do all threads of a block to a barrier:
//   no thread returns before one. Shuffles and votes order no memory: wave_barrier does, within a wave.
//   The backend is this translation unit's, gpu::ThisBackend: an operator's kernels are in OP.cuh, which ends with the instantiation
//   of its entry points for it, and CMake compiles that file as C++, CUDA or HIP. Device code calls no function of the standard
//   library; constexpr data it uses is inline constexpr.
//
// Kernels         GPU_KERNEL, GPU_DEVICE, GPU_LAUNCH_BOUNDS(threads), GPU_UNROLL
// Position        thread_x/y/z block_x/y/z block_dim_x/y/z grid_dim_x/y/z thread_in_block() lane<W>() wave_in_block<W>()
// Shared memory   GPU_SHARED(T, name, count): a static array; GPU_DYNAMIC_SHARED(T, name): what the launch gave, 16-byte aligned
// Barriers        block_barrier() wave_barrier<W>() wave_barrier<W>(mask)
// Shuffles        shfl<W> shfl_up<W> shfl_down<W> shfl_xor<W> (value, lane or distance), also (mask, value, ...); T of 4 or 8
//                 bytes. Past the edge up, down and xor give the lane's own value. A lane that is not named must not be read.
// Votes           ballot<W> any<W> all<W> (predicate), also (mask, predicate)
// Reductions      wave_max<W> wave_min<W> (std::uint32_t): of all lanes, for all lanes
// Atomics         atomic_add atomic_max atomic_min atomic_cas: relaxed, device-wide. load_acquire store_release: for flags.
// Fences          fence_block() fence_device()
// Spin loops      spin_pause() in their body
// Memory          load16 store16: 16 bytes at once; the address must be a multiple of 16. load16_once: of what nobody reads again
//                 soon, so that caches let it go first
// Numbers         gpu/number_formats.h, bit for bit as reference/number_formats.h
// Tiles           gpu/tile.h: bf16 and fp8 matrix products of a wave
// Launch          launch(kernel, LaunchConfig, arguments...)  with_wave_width([&]<int W> { ... launch(kernel<W>, ...) })
//                 LaunchConfig::stream is one of gpu/runtime.h; arguments are copied at the call
#include <cstddef>
#include <cstdint>

#include "optimized/gpu/types.h"

#if defined(__CUDACC__)
#include "optimized/gpu/backend_cuda.h"
#elif defined(__HIP__)
#include "optimized/gpu/backend_hip.h"
#else
#include "optimized/gpu/backend_host.h"
#endif
