#pragma once
// Working memory of the kernels, aligned for whole vectors. It grows, and is never initialised: kernels write
// before they read.
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#include "optimized/fault.h"

namespace moecheck::MOECHECK_OPTIMIZED {

template <class T>
class Aligned {
 public:
  static constexpr std::size_t kAlignment = 128;

  Aligned() = default;
  explicit Aligned(std::int64_t n) { resize(n); }
  Aligned(Aligned&& other) noexcept { *this = std::move(other); }
  Aligned& operator=(Aligned&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(capacity_, other.capacity_);
    return *this;
  }
  ~Aligned() { std::free(data_); }

  // Contents are lost when it grows.
  void resize(std::int64_t n) {
    if (n <= capacity_) return;
    std::free(data_);
    capacity_ = n;
    const std::size_t bytes =
        (static_cast<std::size_t>(n) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    data_ = static_cast<T*>(std::aligned_alloc(kAlignment, bytes));
    if (data_ == nullptr) throw std::bad_alloc();
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](std::int64_t i) { return data_[i]; }
  const T& operator[](std::int64_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  std::int64_t capacity_ = 0;
};
using AlignedFloats = Aligned<float>;
using AlignedInts = Aligned<std::int32_t>;

}  // namespace moecheck::MOECHECK_OPTIMIZED
