#pragma once
// How this folder uses Highway. A source with vector code looks like this:
//
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "optimized/cpu/x.cpp"
//   #include "optimized/cpu/simd.h"
//   #include "hwy/foreach_target.h"
//   #include "hwy/highway.h"
//   #include "optimized/cpu/vector_math-inl.h"
//   HWY_BEFORE_NAMESPACE();
//   namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE { ... }
//   HWY_AFTER_NAMESPACE();
//   #if HWY_ONCE
//   HWY_EXPORT(f);   ... MOECHECK_DISPATCH(f)(arguments)
//   #endif
//
// Planted faults are compiled for the lowest target alone: they need no speed, and their build is half of the
// compile time.
#include "optimized/cpu/options.h"

#ifdef MOECHECK_FAULTS
#define HWY_COMPILE_ONLY_STATIC
#endif

#define MOECHECK_DISPATCH(function) \
  (uses_baseline_target() ? &HWY_STATIC_DISPATCH(function) : &HWY_DYNAMIC_DISPATCH(function))

// Loops over accumulators must vanish, or they live in memory: gcc does that on its own at -O3 alone.
#if defined(__GNUC__) && !defined(__clang__)
#define MOECHECK_UNROLL _Pragma("GCC unroll 8")
#else
#define MOECHECK_UNROLL
#endif
