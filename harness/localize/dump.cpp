#include "harness/localize/dump.h"

#include <fmt/format.h>

#include <cstring>
#include <numeric>

#include "harness/glm4_moe/decoder.h"

namespace moecheck::harness {

TensorSet dump_forward(const Glm4MoeCheckpoint& checkpoint, DType dtype, const ServedMoeOptions& moe,
                       std::span<const std::int32_t> ids) {
  const reference::Glm4MoeConfig& c = checkpoint.config;
  const auto tokens = static_cast<std::int64_t>(ids.size());
  if (tokens < 1 || tokens > c.max_positions)
    throw UsageError(fmt::format("{} tokens: a prompt has 1 to {}", tokens, c.max_positions));
  TensorSet dump;
  const auto add = [&](std::string name, DType type, std::int64_t rows, std::int64_t columns,
                       const float* values) {
    Tensor& t = dump.add(Tensor(std::move(name), type, Shape(rows, columns)));
    for (std::int64_t i = 0; i < rows * columns; ++i) t.view().set(i, static_cast<double>(values[i]));
  };
  Tensor& first = dump.add(Tensor("ids", DType::kI32, Shape(tokens)));
  std::memcpy(first.data(), ids.data(), first.bytes());

  ServedMoe blocks(checkpoint, dtype, moe);
  DecoderOptions options;
  options.dtype = dtype;
  options.threads = moe.threads;
  options.pages = (tokens + kPageTokens - 1) / kPageTokens;
  options.moe = [&](std::int64_t layer, reference::ConstView x, reference::ConstView logits,
                    reference::View out) { blocks.run(layer, x, logits, out); };
  const bool faulty = moe.fault && moe.fault->op == "attention";
  const auto decoder = faulty ? make_faulty_decoder(c, checkpoint.weights, options, moe.fault->name)
                              : make_decoder(c, checkpoint.weights, options);
  decoder->set_trace([&](std::int64_t layer, const char* name, std::int64_t rows, std::int64_t columns,
                         const float* values) {
    const bool logits = std::string_view(name) == "router.output";
    add(layer < 0 ? std::string(name) : fmt::format("layers.{}.{}", layer, name),
        logits ? DType::kF32 : dtype, rows, columns, values);
  });
  std::vector<std::int64_t> positions(ids.size());
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<std::int32_t> pages(static_cast<std::size_t>(options.pages));
  std::iota(pages.begin(), pages.end(), 0);
  const std::vector<const std::int32_t*> tables(ids.size(), pages.data());
  std::vector<float> hidden(static_cast<std::size_t>(tokens * c.hidden)),
      logits(static_cast<std::size_t>(tokens * c.vocab));
  decoder->forward(ids, {positions, tables}, hidden.data());
  decoder->logits(hidden.data(), tokens, false, logits.data());
  add("logits", DType::kF32, tokens, c.vocab, logits.data());
  return dump;
}

}  // namespace moecheck::harness
