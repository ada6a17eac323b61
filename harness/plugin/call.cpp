#include "harness/plugin/call.h"

#include <fmt/format.h>

#include <algorithm>

#include "harness/fault.h"

namespace moecheck::harness {
namespace {

std::string value_text(const Field& f, Value v) {
  switch (f.kind) {
    case FieldKind::kInt:
      return fmt::format("{}", v.i);
    case FieldKind::kReal:
      return fmt::format("{}", v.r);  // the shortest text that reads back as the same double
    case FieldKind::kChoice:
      return f.choices[static_cast<std::size_t>(v.i)];
  }
  return {};
}

}  // namespace

std::vector<std::pair<std::string, std::string>> case_fields(const Case& c) {
  std::vector<std::pair<std::string, std::string>> texts = {
      {"policy", c.policy()}, {"model", c.model()}, {"seed", fmt::format("{}", c.seed)}};
  for (std::size_t i = 0; i < c.schema().fields.size(); ++i)
    texts.emplace_back(c.schema().fields[i].name,
                       value_text(c.schema().fields[i], c.value(static_cast<int>(i))));
  return texts;
}

CaseStruct::CaseStruct(const Case& c) : op_(c.operator_name()), line_(c.str()), texts_(case_fields(c)) {
  for (const auto& [key, value] : texts_) fields_.push_back({key.c_str(), value.c_str()});
  case_ = {sizeof(moecheck_case), static_cast<std::uint32_t>(fields_.size()), op_.c_str(), line_.c_str(),
           fields_.data()};
}

DLDataType dl_dtype(DType dtype) {
  const auto type = [](int code, int bits) {
    return DLDataType{static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bits), 1};
  };
  switch (dtype) {
    case DType::kF64:
      return type(MOECHECK_DL_FLOAT, 64);
    case DType::kF32:
      return type(MOECHECK_DL_FLOAT, 32);
    case DType::kBF16:
      return type(MOECHECK_DL_BFLOAT, 16);
    case DType::kF16:
      return type(MOECHECK_DL_FLOAT, 16);
    case DType::kE4M3FN:
      return type(MOECHECK_DL_FLOAT8_E4M3FN, 8);
    case DType::kE4M3FNUZ:
      return type(HARNESS_FAULT(kPluginFnuzAsFn) ? MOECHECK_DL_FLOAT8_E4M3FN : MOECHECK_DL_FLOAT8_E4M3FNUZ,
                  8);
    case DType::kE5M2:
      return type(MOECHECK_DL_FLOAT8_E5M2, 8);
    case DType::kE8M0:
      return type(MOECHECK_DL_FLOAT8_E8M0FNU, 8);
    case DType::kI64:
      return type(MOECHECK_DL_INT, 64);
    case DType::kI32:
      return type(MOECHECK_DL_INT, 32);
    case DType::kU8:
      return type(MOECHECK_DL_UINT, 8);
  }
  return type(MOECHECK_DL_UINT, 8);
}

void TensorStructs::add(const Tensor& t, void* data, DLDevice device, bool in_place) {
  One& one = all_.emplace_back();
  one.dtype = reference::name(t.dtype());
  one.shape = t.shape().dim;
  if (HARNESS_FAULT(kPluginShapeReversed))
    std::reverse(one.shape.begin(), one.shape.begin() + t.shape().rank);
  one.tensor.struct_size = sizeof(moecheck_tensor);
  one.tensor.in_place = in_place && !HARNESS_FAULT(kPluginInPlaceNotTold) ? 1 : 0;
  one.tensor.name = t.name().c_str();
  one.tensor.dtype = one.dtype.c_str();
  one.tensor.tensor = {data, device, t.shape().rank, dl_dtype(t.dtype()), one.shape.data(), nullptr, 0};
  pointers_.push_back(&one.tensor);
}

}  // namespace moecheck::harness
