#pragma once
// Fused shared experts: the shared MLP of a block as extra slots of its top-k.
//
//   S(x) = D (silu(G x) * (U x)),  G, U [n I, H], D [H, n I]      one fat MLP, n = n_shared_experts
//   S(x) = sum_{j<n} D_j (silu(G_j x) * (U_j x))                  n slots of a routed expert's size
//
// G_j, U_j are rows j*I..(j+1)*I of G and of U (each, not of the stacked [G; U]), D_j columns of D. The
// identity is exact: silu and the product act per row. So each chunk must appear exactly once, with full
// weight (1, or 1/rsf under an output scale).
//
// Source: sections 3.2 to 3.7 and 6.6 of the operator notes (sglang topk.py, vLLM
// aiter_shared_routed_fused_moe_router.py).
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "reference/bounded.h"
#include "reference/tensor.h"

namespace moecheck::reference {

// Slots.

// How shared slots get into topk_ids and topk_weights [M, K].
//   kSglang       ids E+j, weight sum(w)/rsf before renormalization: 1/rsf after it (1 with the scale flag,
//                 which multiplies all weights)
//   kAiterAppend  ids E+j, weight append_weight (1; 1/ep_size where every rank computes the shared experts)
//   kVllmRocm     ids E+j, weight 1. With ep_size > 1 there are n+1 columns: token t has the real ids on rank
//                 t % ep_size alone, and the sentinel id E+n elsewhere and in the last column (masked out)
//   kGated        ids E+j, weight sigmoid(gate logit of the token) (Qwen3-Next)
enum class SlotInsertion : std::uint8_t { kSglang, kAiterAppend, kVllmRocm, kGated };
std::string_view name(SlotInsertion insertion);  // "sglang", "aiter_append", "vllm_rocm", "gated"

struct SlotInsertionOptions {
  SlotInsertion insertion = SlotInsertion::kSglang;
  std::int64_t experts = 256;  // E
  std::int64_t topk = 8;       // K
  std::int64_t shared = 1;     // n
  // kSglang: the incoming weights are raw scores, and are renormalized here with the row.
  bool renormalize = true;
  // kSglang: all weights are multiplied by rsf (routed_scaling_factor fused in top-k).
  bool scale_flag = false;
  double routed_scaling_factor = 1;
  double append_weight = 1;  // kAiterAppend
  std::int64_t ep_rank = 0, ep_size = 1;

  std::int64_t columns() const {
    return topk + shared + (insertion == SlotInsertion::kVllmRocm && ep_size > 1 ? 1 : 0);
  }
  std::int64_t sentinel() const { return experts + shared; }
};

struct Slots {
  std::vector<std::int64_t> ids;  // [M, columns]
  std::vector<Bounded> weights;   // [M, columns]
};
// ids, weights: [M, K] row-major. gate_logits [M, n], kGated only.
// Throws std::invalid_argument when sizes disagree.
Slots insert_shared_slots(std::span<const std::int64_t> ids, std::span<const Bounded> weights,
                          const SlotInsertionOptions& options, std::span<const double> gate_logits = {});

// Weights.

// A tensor that owns its bytes, row-major.
struct WeightTensor {
  DType dtype = DType::kF32;
  Shape shape;
  std::vector<std::uint8_t> bytes;

  WeightTensor() = default;
  WeightTensor(DType type, Shape extents);  // zero bytes
  ConstView view() const { return {bytes.data(), dtype, shape}; }
  View mutable_view() { return {bytes.data(), dtype, shape}; }
  friend bool operator==(const WeightTensor&, const WeightTensor&) = default;
};

enum class Projection : std::uint8_t { kGate, kUp, kDown };  // w1, w3, w2

// What scales accompany a weight.
//   kNone     none (bf16, f16, f32)
//   kTensor   one number, shape [] or [1]: replicated
//   kChannel  one per output channel, [rows] or [rows, 1]: gate and up split with their rows, down replicated
//   kBlock    one per 128x128 block, [ceil(rows/128), ceil(cols/128)]: split like the weight
enum class WeightScale : std::uint8_t { kNone, kTensor, kChannel, kBlock };
inline constexpr std::int64_t kScaleBlock = 128;

// Dimension along which a tensor of a shared expert is cut into chunks; nothing when it is replicated.
std::optional<int> split_dim(Projection projection, bool is_scale, WeightScale scale);

// Chunk j of n of `fat` along `dim` (all of it without a dim). Precondition: the extent is divisible.
WeightTensor chunk_of(const WeightTensor& fat, std::optional<int> dim, std::int64_t n, std::int64_t j);
// [gate; up] along dim 0: one slot of w13.
WeightTensor stack_gate_up(const WeightTensor& gate, const WeightTensor& up);

struct SharedExpertWeights {                      // the fat MLP, as a checkpoint has it
  WeightTensor gate, up, down;                    // [nI, H], [nI, H], [H, nI]
  WeightTensor gate_scale, up_scale, down_scale;  // by WeightScale; empty for kNone
  WeightScale scale = WeightScale::kNone;
};
struct SharedSlot {                  // one slot of the fused parameters
  WeightTensor w13, w2;              // [2I, H], [H, I]
  WeightTensor w13_scale, w2_scale;  // kTensor: w13_scale [2], gate and up have their own
};

// Why the weights cannot be split into n slots of a routed expert with `intermediate` rows, or nothing:
// "shared intermediate size 1410 is not divisible by n_shared_experts=4: ...".
std::optional<std::string> split_refusal(const SharedExpertWeights& weights, std::int64_t n,
                                         std::int64_t intermediate);
// The n slots. Throws std::invalid_argument with split_refusal's text.
std::vector<SharedSlot> split_shared_experts(const SharedExpertWeights& weights, std::int64_t n,
                                             std::int64_t intermediate);

}  // namespace moecheck::reference
