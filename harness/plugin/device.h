#pragma once
// Device memory and a stream for plug-ins that ask for them, through the driver's own library, opened when first needed: moecheck
// itself is built without a GPU toolkit.
#include <cstddef>
#include <cstdint>

#include "harness/plugin/moecheck_plugin.h"

namespace moecheck::harness {

// Device 0 of its kind, in this process. Every function throws RunFailed when the driver refuses, and ProcessBroken
// (workers.h) after a kernel's error, which leaves no further call possible in this process.
class Device {
 public:
  virtual ~Device() = default;
  virtual void* allocate(std::size_t bytes) = 0;  // aligned to 256 bytes at least
  virtual void release(void* memory) noexcept = 0;
  virtual void copy_in(void* device, const void* host, std::size_t bytes) = 0;
  virtual void copy_out(void* host, const void* device, std::size_t bytes) = 0;
  virtual void settle() = 0;  // everything put on the device before has ended
  virtual void wait() = 0;    // for the stream
  virtual void* stream() = 0;
};

// MOECHECK_CUDA or MOECHECK_ROCM; made once per process. Throws RunFailed without a driver or a device.
Device& device_of(std::int32_t type);

}  // namespace moecheck::harness
