#pragma once
// Cases and tensors as the C structs of moecheck_plugin.h: what plug-ins get and what the C API takes.
#include <array>
#include <deque>
#include <string>
#include <vector>

#include "harness/case.h"
#include "harness/plugin/moecheck_plugin.h"
#include "harness/tensor_set.h"

namespace moecheck::harness {

// All fields of a case as text, with "policy", "model" and "seed".
std::vector<std::pair<std::string, std::string>> case_fields(const Case& c);

// A case as a C struct. The struct points into this object.
class CaseStruct {
 public:
  explicit CaseStruct(const Case& c);
  CaseStruct(const CaseStruct&) = delete;
  CaseStruct& operator=(const CaseStruct&) = delete;

  const moecheck_case* get() const { return &case_; }

 private:
  std::string op_, line_;
  std::vector<std::pair<std::string, std::string>> texts_;
  std::vector<moecheck_field> fields_;
  moecheck_case case_{};
};

// Tensors as C structs, added one by one. The structs point into this object and at the names and data given.
class TensorStructs {
 public:
  TensorStructs() = default;
  TensorStructs(const TensorStructs&) = delete;
  TensorStructs& operator=(const TensorStructs&) = delete;

  void add(const Tensor& t, void* data, DLDevice device, bool in_place);
  const moecheck_tensor* const* get() const { return pointers_.data(); }
  std::uint32_t size() const { return static_cast<std::uint32_t>(pointers_.size()); }

 private:
  struct One {
    std::string dtype;
    std::array<std::int64_t, reference::kMaxRank> shape{};
    moecheck_tensor tensor{};
  };
  std::deque<One> all_;  // their addresses stay
  std::vector<const moecheck_tensor*> pointers_;
};

DLDataType dl_dtype(DType dtype);

}  // namespace moecheck::harness
