#pragma once
// Planted faults of GPU kernels (optimized/fault.h): only the host executor runs them. On devices GPU_FAULT is false.
#if defined(MOECHECK_FAULTS) && !defined(__CUDACC__) && !defined(__HIP__)
#include "optimized/fault.h"
#define GPU_FAULT(id) (::moecheck::MOECHECK_OPTIMIZED::fault(::moecheck::MOECHECK_OPTIMIZED::Fault::id))
#else
#include "optimized/fault.h"
#define GPU_FAULT(id) false
#endif
