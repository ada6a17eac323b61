#include "optimized/gpu/host/shared_memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "optimized/gpu/host/engine.h"
#include "optimized/gpu/host/sanitizers.h"

namespace moecheck::gpu::host {
namespace {

// ASan has red zones of its own, and sees reads too.
constexpr std::size_t kGuard = kAsan ? 0 : 64;
constexpr unsigned char kGuardByte = 0xFD, kPoison = 0xFF;

// Equal literals of two files, or of one that sanitizers keep apart, need not have one address.
bool same_text(const char* a, const char* b) {
  return a == b || (a != nullptr && b != nullptr && std::strcmp(a, b) == 0);
}

}  // namespace

void SharedMemory::allocate(Array& a) {
  const TsanIgnore ignore;
  const std::size_t align = std::max<std::size_t>(a.alignment, 16);
  void* p = nullptr;
  if (posix_memalign(&p, std::max(align, kGuard), kGuard + a.bytes + kGuard) != 0) throw std::bad_alloc();
  a.memory = static_cast<unsigned char*>(p);
  std::memset(a.memory, kGuardByte, kGuard);
  std::memset(a.memory + kGuard, kPoison, a.bytes);
  std::memset(a.memory + kGuard + a.bytes, kGuardByte, kGuard);
}

void SharedMemory::release(Array& a) {
  const TsanIgnore ignore;
  std::free(a.memory);
}

void SharedMemory::clear() {
  for (Array& a : arrays_) release(a);
  arrays_.clear();
  bytes_ = 0;
}

void SharedMemory::renew() {
  for (Array& a : arrays_) {
    if constexpr (kTsan) {  // new memory has no history
      release(a);
      allocate(a);
    } else {
      std::memset(a.memory + kGuard, kPoison, a.bytes);
    }
  }
}

void* SharedMemory::find(const char* name, Site site) const {
  for (const Array& a : arrays_)
    if (a.site.line == site.line && same_text(a.name, name) && same_text(a.site.file, site.file))
      return a.memory + kGuard;
  return nullptr;
}

void* SharedMemory::array(std::size_t bytes, std::size_t alignment, const char* name, Site site) {
  if (void* known = find(name, site)) return known;
  const TsanIgnore ignore;
  arrays_.push_back({name, site, bytes, alignment, nullptr});
  allocate(arrays_.back());
  bytes_ = (bytes_ + alignment - 1) / alignment * alignment + bytes;
  return arrays_.back().memory + kGuard;
}

std::string SharedMemory::damage() const {
  for (const Array& a : arrays_) {
    const auto intact = [](const unsigned char* guard) {
      return std::all_of(guard, guard + kGuard, [](unsigned char b) { return b == kGuardByte; });
    };
    const bool before = intact(a.memory), behind = intact(a.memory + kGuard + a.bytes);
    if (before && behind) continue;
    return "shared array `" + std::string(a.name) + "` of " + std::to_string(a.bytes) + " bytes (" +
           text(a.site) + ") was written " + (before ? "past its end" : "before its beginning");
  }
  return {};
}

std::string SharedMemory::layout() const {
  std::string all;
  for (const Array& a : arrays_)
    all += (all.empty() ? "" : ", ") + std::string(a.name) + " " + std::to_string(a.bytes) + " bytes" +
           (a.site.file != nullptr ? " (" + text(a.site) + ")" : "");
  return all;
}

}  // namespace moecheck::gpu::host
