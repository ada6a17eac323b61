#pragma once
// Layers with a MoE block for the comparisons between ranks: small, made from a seed, the same on every rank.
//
// The MoE part is real: gating, routed experts by all-to-all, shared experts, the weighted sum. The attention part is not: a batch
// is decoded with one token a sequence, and attention is a fixed mixing of the token's own row, computed on the host. It is there
// so that the two batches have operations to overlap, and so that an operation on the wrong batch's data shows.
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "harness/ranks/compute.h"

namespace moecheck::harness::ranks {

enum class Split : std::uint8_t { kEven, kUneven, kLast };  // kUneven: at random; kLast: all on the last rank
std::string_view name(Split split);                         // "even", "uneven", "last"

struct LayersOptions {
  int layers = 2;
  std::int64_t hidden = 64, intermediate = 32, experts = 8, topk = 4;
  std::array<std::int64_t, 2> tokens{13, 9};  // of batch A and B, over all ranks
  Split split = Split::kEven;
  double routed_scaling_factor = 2.5;
  std::uint64_t seed = 1;
};

// Operators' options. The routed experts' slots come back in bf16 and unweighted; their sum in slot order, the scale and the shared
// output are the owner's, in fp32.
reference::GatingOptions gating_options(const LayersOptions& options);
reference::ExpertsOptions experts_options(const LayersOptions& options, std::int64_t local_experts);
reference::CombineOptions combine_options(const LayersOptions& options);

// Rank r of n has the experts from first_expert(E, n, r) to first_expert(E, n, r + 1): any number of ranks, with equal shares
// where they divide E.
std::int64_t first_expert(std::int64_t experts, int ranks, int rank);
int owner_of_expert(std::int64_t experts, int ranks, std::int64_t expert);
// Tokens of each rank.
std::vector<std::int64_t> split_tokens(const LayersOptions& options, int batch, int ranks);

class Layers {
 public:
  // Throws UsageError for sizes that do not go together.
  explicit Layers(const LayersOptions& options);
  const LayersOptions& options() const { return options_; }

  struct Layer {
    std::vector<float> gate, bias;                              // [E, H], [E]
    std::vector<std::uint16_t> w13, w2, shared_w13, shared_w2;  // bf16: [E, 2I, H], [E, H, I], [1, ...]
  };
  const Layer& layer(int i) const { return layers_[static_cast<std::size_t>(i)]; }

  // Row of the residual stream that token `token` of the batch starts with.
  std::vector<float> input(int batch, std::int64_t token) const;
  // Slots that are nobody's, as ids from a dispatch with limited capacity or padded rows have them: -1 instead of the id.
  bool dropped(int batch, int layer, std::int64_t token, std::int64_t slot) const;

 private:
  LayersOptions options_;
  std::vector<Layer> layers_;
};

// A rank's weights in its memory: its own experts, the shared one and the gate's bias.
struct RankWeights {
  struct Layer {
    Buffer w13, w2, shared_w13, shared_w2, bias;
  };
  std::int64_t first = 0, count = 0;  // experts
  std::vector<Layer> layers;
};
RankWeights load_weights(const Layers& layers, Compute& compute, int ranks, int rank);

// ---- on the host, row by row
std::vector<float> rms_norm(const std::vector<float>& rows, std::int64_t hidden);
std::vector<float> project(const std::vector<float>& rows, std::int64_t hidden);   // "prepare"
std::vector<float> mix_rows(const std::vector<float>& rows, std::int64_t hidden);  // "core"
std::vector<std::uint16_t> to_bf16(const std::vector<float>& values);
std::vector<float> gate_logits(const std::vector<std::uint16_t>& rows, const std::vector<float>& gate,
                               std::int64_t hidden, std::int64_t experts);

}  // namespace moecheck::harness::ranks
