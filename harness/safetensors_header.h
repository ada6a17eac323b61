#pragma once
// The JSON of a safetensors file, checked: safetensors.cpp reads data only where this says it is.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "harness/safetensors.h"

namespace moecheck::harness {

inline constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;  // the limit of the format's own reader
inline constexpr std::size_t kMaxSafetensorsTensors = 100'000;
inline constexpr std::string_view kSafetensorsMetadata = "__metadata__";

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::uint64_t begin = 0, end = 0;  // bytes of the data part
};

std::string_view safetensors_name(DType dtype);  // "F32", "F8_E4M3", ...

// The entries in the order of the JSON; they tile [0, data_bytes) exactly. Throws UsageError.
std::vector<SafetensorsEntry> parse_safetensors_header(std::string_view json, std::uint64_t data_bytes,
                                                       std::string_view what, Metadata* metadata);

}  // namespace moecheck::harness
