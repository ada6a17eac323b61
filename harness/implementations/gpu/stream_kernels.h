#pragma once
// The kernels of stream programs on the backend of this compilation; see adapter.h.
#include "harness/implementations/gpu/adapter.h"
#include "harness/streams/device.h"

namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND {

const streams::StreamKernels& stream_kernels();

}  // namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND
