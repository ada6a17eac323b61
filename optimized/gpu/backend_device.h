#pragma once
// What CUDA and HIP say alike: qualifiers and positions. Included by their backends, behind the runtime's own header.
#include "optimized/gpu/types.h"

#define GPU_KERNEL __global__
#define GPU_DEVICE __device__ __forceinline__
#define GPU_HOST_DEVICE __host__ __device__ __forceinline__
#define GPU_LAUNCH_BOUNDS(threads) __launch_bounds__(threads)
#define GPU_UNROLL _Pragma("unroll")
#define GPU_SHARED(T, name, count) __shared__ T name[count]
#define GPU_DYNAMIC_SHARED(T, name)                                         \
  extern __shared__ ::moecheck::gpu::Bytes16 moecheck_gpu_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(moecheck_gpu_dynamic_shared)

namespace moecheck::gpu::inline MOECHECK_GPU_ON {

GPU_DEVICE unsigned thread_x() { return threadIdx.x; }
GPU_DEVICE unsigned thread_y() { return threadIdx.y; }
GPU_DEVICE unsigned thread_z() { return threadIdx.z; }
GPU_DEVICE unsigned block_x() { return blockIdx.x; }
GPU_DEVICE unsigned block_y() { return blockIdx.y; }
GPU_DEVICE unsigned block_z() { return blockIdx.z; }
GPU_DEVICE unsigned block_dim_x() { return blockDim.x; }
GPU_DEVICE unsigned block_dim_y() { return blockDim.y; }
GPU_DEVICE unsigned block_dim_z() { return blockDim.z; }
GPU_DEVICE unsigned grid_dim_x() { return gridDim.x; }
GPU_DEVICE unsigned grid_dim_y() { return gridDim.y; }
GPU_DEVICE unsigned grid_dim_z() { return gridDim.z; }
GPU_DEVICE unsigned thread_in_block() {
  return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

}  // namespace moecheck::gpu::inline MOECHECK_GPU_ON
