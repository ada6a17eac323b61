#pragma once
// Named tensors in guarded memory: the inputs and outputs of one run.
//
// Every tensor's bytes lie between two guard bands of a known pattern, so a write outside is seen afterwards. Outputs are
// filled with a poison before each run. Memory of large inputs is zero pages until written.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "reference/tensor.h"

namespace moecheck::harness {

using reference::ConstView;
using reference::DType;
using reference::Shape;
using reference::View;

struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::string doc;        // what it is, for `moecheck list operators`
  bool optional = false;  // absent when the case says so: not listed by inputs(case) then
  bool in_place = false;  // an output that is updated: it starts as a copy of the input of the same name
};

std::string to_string(const Shape& shape);  // "[4, 256]"

class Tensor {
 public:
  static constexpr std::size_t kGuard = 256;      // bytes on each side
  static constexpr std::size_t kAlignment = 256;  // of the first byte, before `misalign`

  // `misalign` bytes are added to the address (a multiple of the element size).
  Tensor(std::string name, DType dtype, Shape shape, std::size_t misalign = 0);
  // Over memory that another owns and that need not be readable here (a device's): no guards, and a copy is another such view.
  static Tensor elsewhere(const Tensor& like, std::byte* data);
  Tensor(const Tensor& other);
  Tensor& operator=(const Tensor& other);
  Tensor(Tensor&&) noexcept = default;
  Tensor& operator=(Tensor&&) noexcept = default;

  const std::string& name() const { return name_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::size_t bytes() const { return bytes_; }
  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  View view() { return {data_, dtype_, shape_}; }
  ConstView view() const { return {data_, dtype_, shape_}; }

  void fill(std::uint8_t byte);
  // Offset of the first guard byte that was overwritten, relative to data(): negative before it, >= bytes() behind it.
  bool guards_intact(std::ptrdiff_t* where = nullptr) const;

 private:
  Tensor() = default;
  struct Free {
    void operator()(std::byte* p) const noexcept;
  };
  std::string name_;
  DType dtype_ = DType::kF32;
  Shape shape_;
  std::size_t bytes_ = 0, misalign_ = 0;
  std::unique_ptr<std::byte, Free> block_;
  std::byte* data_ = nullptr;
};

class TensorSet {
 public:
  TensorSet() = default;
  // Tensors of these specs, zero-filled.
  explicit TensorSet(const std::vector<TensorSpec>& specs, std::size_t misalign = 0);

  Tensor& add(Tensor tensor);
  Tensor* find(std::string_view name);
  const Tensor* find(std::string_view name) const;
  // The tensor of that name; throws std::logic_error when the operator's own specs lack it.
  Tensor& at(std::string_view name);
  const Tensor& at(std::string_view name) const;
  // A view of an optional tensor: empty when absent.
  ConstView view(std::string_view name) const;
  View view(std::string_view name);

  std::vector<Tensor>& tensors() { return tensors_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  std::size_t bytes() const;
  void fill(std::uint8_t byte);

 private:
  std::vector<Tensor> tensors_;
};

// Name of the first tensor whose guards were hit or, with `other`, whose bytes differ; empty when there is none.
std::string first_broken_guard(const TensorSet& set, std::ptrdiff_t* where = nullptr);
std::string first_difference(const TensorSet& a, const TensorSet& b, std::int64_t* element = nullptr);
std::uint64_t checksum(const TensorSet& set);

// Throws UsageError unless `given` has exactly the tensors of `specs`, with their dtypes and shapes. `what` names the source in
// the message ("inputs.safetensors").
void require_specs(const TensorSet& given, const std::vector<TensorSpec>& specs, std::string_view what);

}  // namespace moecheck::harness
