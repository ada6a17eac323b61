#pragma once
// The safetensors format: what tensors are exchanged with other programs in.
//
//   u64 little-endian N | N bytes of JSON | data
//   {"topk_ids": {"dtype": "I32", "shape": [4, 8], "data_offsets": [0, 128]}, ..., "__metadata__": {"case": "gating ..."}}
//
// Offsets count from the first byte after the JSON; the tensors cover the data without hole or overlap, in
// any order. Reading trusts nothing: whatever is wrong with a file is a UsageError that names the file, the
// tensor, the value and the remedy. Dtypes: F64 F32 BF16 F16 F8_E4M3 F8_E4M3FNUZ F8_E5M2 F8_E8M0 I64 I32 U8;
// rank 0 to 4. Source: the format section of the safetensors project's README; checks as strict as its own
// reader or stricter.
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "harness/tensor_set.h"

namespace moecheck::harness {

using Metadata = std::map<std::string, std::string>;

// Tensors come in the order of the JSON. `metadata`, where given, receives the "__metadata__" strings.
TensorSet read_safetensors(const std::string& path, Metadata* metadata = nullptr);
// The same from memory; `what` names the source in messages.
TensorSet parse_safetensors(std::span<const std::byte> bytes, std::string_view what,
                            Metadata* metadata = nullptr);

// Appears whole or not at all. Tensors are listed in the order of the set; their data lie by element size,
// the largest first, so that every tensor is aligned to its elements. Throws UsageError for paths that
// cannot be written and for names that are not valid UTF-8, doubled or "__metadata__".
void write_safetensors(const std::string& path, const TensorSet& tensors, const Metadata& metadata = {});

}  // namespace moecheck::harness
