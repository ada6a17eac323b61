// Files of tensors.
#include "harness/safetensors.h"

#include "harness/case.h"
#include "target.h"

using namespace moecheck;

MOECHECK_FUZZ_TARGET(safetensors) {
  try {
    harness::Metadata metadata;
    const harness::TensorSet set = harness::parse_safetensors(std::as_bytes(bytes), "input", &metadata);
    if (set.bytes() > bytes.size()) fuzz::broken("tensors with more bytes than the file has");
  } catch (const harness::UsageError&) {
  }
}
