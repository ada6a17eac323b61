#pragma once
// The shared memory of one block: arrays of their exact sizes, each with guards around it, filled with 0xFF bytes at the start of
// every block. Internal to the executor.
#include <cstddef>
#include <string>
#include <vector>

#include "optimized/gpu/host/device.h"

namespace moecheck::gpu::host {

class SharedMemory {
 public:
  SharedMemory() = default;
  ~SharedMemory() { clear(); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // Forgets all arrays: a new kernel.
  void clear();
  // Poisons all arrays: a new block of the same kernel.
  void renew();

  // The array of that place, made at the first call.
  void* array(std::size_t bytes, std::size_t alignment, const char* name, Site site);
  void* find(const char* name, Site site) const;
  // Bytes that a device would lay out for all arrays.
  std::size_t bytes() const { return bytes_; }
  // The first array with a damaged guard: "shared array `tile` of 64 bytes (kernel.cuh:12) was written past its end"; or "".
  std::string damage() const;
  // "tile 64 bytes (kernel.cuh:12), dynamic 1024 bytes"
  std::string layout() const;

 private:
  struct Array {
    const char* name;
    Site site;
    std::size_t bytes, alignment;
    unsigned char* memory;  // guard, elements, guard
  };
  static void allocate(Array& a);
  static void release(Array& a);

  std::vector<Array> arrays_;
  std::size_t bytes_ = 0;
};

}  // namespace moecheck::gpu::host
