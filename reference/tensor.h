#pragma once
// Plain views of memory: what references and kernels take. They own nothing and check nothing; shapes are validated
// where tensors enter (harness/tensor_set.h).
#include <array>
#include <cstdint>

#include "reference/number_formats.h"

namespace moecheck::reference {

inline constexpr int kMaxRank = 4;

struct Shape {
  int rank = 0;
  std::array<std::int64_t, kMaxRank> dim{};

  Shape() = default;
  template <class... Dims>
  explicit Shape(Dims... dims) : rank(sizeof...(dims)), dim{static_cast<std::int64_t>(dims)...} {}

  std::int64_t operator[](int i) const { return dim[static_cast<std::size_t>(i)]; }
  std::int64_t numel() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= (*this)[i];
    return n;
  }
  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank != b.rank) return false;
    for (int i = 0; i < a.rank; ++i)
      if (a[i] != b[i]) return false;
    return true;
  }
};

// A row-major view. data == nullptr stands for an optional tensor that is absent.
struct ConstView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;

  explicit operator bool() const { return data != nullptr; }
  double at(std::int64_t i) const { return load(dtype, data, i); }
  double at(std::int64_t i, std::int64_t j) const { return at(i * shape[1] + j); }
  double at(std::int64_t i, std::int64_t j, std::int64_t k) const {
    return at((i * shape[1] + j) * shape[2] + k);
  }
  std::int64_t int_at(std::int64_t i) const { return load_int(dtype, data, i); }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

struct View {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;

  explicit operator bool() const { return data != nullptr; }
  operator ConstView() const { return {data, dtype, shape}; }
  double at(std::int64_t i) const { return load(dtype, data, i); }
  void set(std::int64_t i, double value) const { store(dtype, data, i, value); }
  void set_int(std::int64_t i, std::int64_t value) const { store_int(dtype, data, i, value); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace moecheck::reference
