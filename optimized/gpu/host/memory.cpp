// Memory of the host executor's runtime: a heap block each, so that a sanitizer sees what leaves it.
#include <cstdlib>
#include <cstring>
#include <new>

#include "optimized/gpu/host/sanitizers.h"
#include "optimized/gpu/host/streams.h"

namespace moecheck::gpu::host {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr unsigned char kPoison = 0xFF;

std::uintptr_t address(const void* p) { return reinterpret_cast<std::uintptr_t>(p); }

}  // namespace

void* Device::allocate(std::size_t bytes) {
  void* p = nullptr;
  if (posix_memalign(&p, kAlignment, bytes == 0 ? 1 : bytes) != 0) throw std::bad_alloc();
  std::memset(p, kPoison, bytes);
  blocks_[address(p)] = bytes;
  return p;
}

void Device::release(void* memory) noexcept {
  if (memory == nullptr) return;
  const auto block = blocks_.find(address(memory));
  if (block == blocks_.end()) return note_misuse("release of memory that is not allocated, or no longer");
  if (kAsan || kTsan || idle()) {
    if (!kAsan) std::memset(memory, kPoison, block->second);
    std::free(memory);
  } else {
    std::memset(memory, kPoison, block->second);
    released_.push_back(memory);
  }
  blocks_.erase(block);
}

void Device::free_released() {
  for (void* p : released_) std::free(p);
  released_.clear();
}

void Device::check_range(const void* p, std::size_t bytes, const std::string& what) const {
  if (bytes == 0) return;
  auto block = blocks_.upper_bound(address(p));
  if (block != blocks_.begin()) {
    --block;
    const std::size_t at = address(p) - block->first;
    if (at < block->second) {
      if (bytes <= block->second - at) return;
      device_error("memory: " + what + ": " + std::to_string(bytes) + " bytes from byte " +
                   std::to_string(at) + " of a block of " + std::to_string(block->second));
    }
  }
  device_error("memory: " + what + ": an address that is not allocated here, or no longer");
}

}  // namespace moecheck::gpu::host
