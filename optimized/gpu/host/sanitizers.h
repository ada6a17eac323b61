#pragma once
// The sanitizers' fiber interfaces, as functions that do nothing elsewhere. Internal to the executor.
//
// ThreadSanitizer must not see the executor itself, or its queues would order the GPU threads it runs: the executor is compiled
// without -fsanitize=thread and with MOECHECK_EXECUTOR_TSAN=1.
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define MOECHECK_EXECUTOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MOECHECK_EXECUTOR_ASAN 1
#endif
#endif

#ifdef MOECHECK_EXECUTOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef MOECHECK_EXECUTOR_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace moecheck::gpu::host {

#ifdef MOECHECK_EXECUTOR_ASAN
inline constexpr bool kAsan = true;
inline void asan_leave(void** fake_stack, const void* bottom, std::size_t size) {
  __sanitizer_start_switch_fiber(fake_stack, bottom, size);
}
inline void asan_enter(void* fake_stack, const void** bottom_of_previous, std::size_t* size_of_previous) {
  __sanitizer_finish_switch_fiber(fake_stack, bottom_of_previous, size_of_previous);
}
inline void asan_forget_stack(void* bottom, std::size_t size) { __asan_unpoison_memory_region(bottom, size); }
#else
inline constexpr bool kAsan = false;
inline void asan_leave(void**, const void*, std::size_t) {}
inline void asan_enter(void*, const void**, std::size_t*) {}
inline void asan_forget_stack(void*, std::size_t) {}
#endif

#ifdef MOECHECK_EXECUTOR_TSAN
inline constexpr bool kTsan = true;
inline void* tsan_this_fiber() { return __tsan_get_current_fiber(); }
inline void* tsan_make_fiber() { return __tsan_create_fiber(0); }
inline void tsan_free_fiber(void* fiber) { __tsan_destroy_fiber(fiber); }
inline void tsan_switch(void* fiber) { __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync); }
inline void tsan_release(void* sync) { __tsan_release(sync); }
inline void tsan_acquire(void* sync) { __tsan_acquire(sync); }
// Memory that is allocated or freed while this lives starts with a clean history: no access before is remembered.
class TsanIgnore {
 public:
  TsanIgnore() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~TsanIgnore() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
  TsanIgnore(const TsanIgnore&) = delete;
  TsanIgnore& operator=(const TsanIgnore&) = delete;
};
#else
inline constexpr bool kTsan = false;
inline void* tsan_this_fiber() { return nullptr; }
inline void* tsan_make_fiber() { return nullptr; }
inline void tsan_free_fiber(void*) {}
inline void tsan_switch(void*) {}
inline void tsan_release(void*) {}
inline void tsan_acquire(void*) {}
struct TsanIgnore {
  TsanIgnore() {}  // not trivial, so that an object of it is no unused variable
};
#endif

}  // namespace moecheck::gpu::host
