#pragma once
// The optimized decoder behind one interface, so that the clean build and the one with planted faults can be served alike.
// decoder.cpp is compiled against each (harness/CMakeLists.txt).
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "reference/glm4_moe.h"

namespace moecheck::harness {

inline constexpr std::int64_t kPageTokens = 16;  // positions of a KV page

// Rows as optimized/cpu/attention.h has them.
struct DecoderRows {
  std::span<const std::int64_t> positions;
  std::span<const std::int32_t* const> page_tables;
};

struct DecoderOptions {
  reference::DType dtype = reference::DType::kF32;
  std::int64_t pages = 0;
  int threads = 1;
  std::function<void(std::int64_t layer, reference::ConstView hidden_states,
                     reference::ConstView router_logits, reference::View out)>
      moe;
};
// layer, name ("attention.input"), rows, columns, values.
using DecoderTrace = std::function<void(std::int64_t, const char*, std::int64_t, std::int64_t, const float*)>;

// Owns the KV cache. See optimized/cpu/glm4_moe.h for the shapes.
class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual void forward(std::span<const std::int32_t> ids, const DecoderRows& rows, float* hidden) = 0;
  virtual void draft(std::span<const std::int32_t> next_ids, const float* hidden, const DecoderRows& rows,
                     float* out) = 0;
  virtual void logits(const float* hidden, std::int64_t n, bool of_draft, float* out) const = 0;
  virtual void set_trace(DecoderTrace trace) = 0;
};

// The weights must outlive the decoder.
std::unique_ptr<Decoder> make_decoder(const reference::Glm4MoeConfig& config,
                                      const reference::Glm4MoeWeights& weights,
                                      const DecoderOptions& options);
// With one of attention's planted faults; one such decoder at a time.
std::unique_ptr<Decoder> make_faulty_decoder(const reference::Glm4MoeConfig& config,
                                             const reference::Glm4MoeWeights& weights,
                                             const DecoderOptions& options, std::string_view fault);

}  // namespace moecheck::harness
