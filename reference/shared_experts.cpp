#include "reference/shared_experts.h"

#include <cstring>
#include <stdexcept>

#include "reference/text.h"

namespace moecheck::reference {
namespace {

// Raw scores and the shared slot's S/rsf, all divided by S, all multiplied by rsf when that is fused in top-k.
//   routed: s_j / S (* rsf)      shared: (S / rsf) / S (* rsf)      S = sum of the routed scores alone
void sglang_row(const SlotInsertionOptions& options, Bounded* row) {
  const Bounded rsf = Bounded::exact(static_cast<double>(static_cast<float>(options.routed_scaling_factor)));
  const Bounded total = sum(row, options.topk);
  for (std::int64_t j = 0; j < options.shared; ++j) row[options.topk + j] = total / rsf;
  for (std::int64_t k = 0; k < options.topk + options.shared; ++k) {
    if (options.renormalize) row[k] = row[k] / total;
    if (options.scale_flag) row[k] = row[k] * rsf;
  }
}

std::optional<std::string> scale_refusal(const char* what, const WeightTensor& weight,
                                         const WeightTensor& scale, WeightScale kind) {
  const std::int64_t rows = weight.shape[0], cols = weight.shape[1], found = scale.shape.numel();
  switch (kind) {
    case WeightScale::kNone:
      return std::nullopt;
    case WeightScale::kTensor:
      if (found == 1) return std::nullopt;
      return std::string(what) + " scale has shape " + text(scale.shape) +
             ": a per-tensor scale is one number";
    case WeightScale::kChannel:
      if (found == rows && scale.shape.rank >= 1 && scale.shape[0] == rows) return std::nullopt;
      return std::string(what) + " scale has shape " + text(scale.shape) +
             ": a per-channel scale has one number for each of the " + text(rows) + " output channels";
    case WeightScale::kBlock:
      break;
  }
  const Shape want((rows + kScaleBlock - 1) / kScaleBlock, (cols + kScaleBlock - 1) / kScaleBlock);
  if (scale.shape == want) return std::nullopt;
  return std::string(what) + " scale has shape " + text(scale.shape) + ", not " + text(want) +
         ", one per 128x128 block";
}

WeightTensor stack_scales(const WeightTensor& gate, const WeightTensor& up, WeightScale kind) {
  if (kind == WeightScale::kNone) return {};
  if (kind != WeightScale::kTensor) return stack_gate_up(gate, up);
  WeightTensor both(gate.dtype, Shape(2));
  both.mutable_view().set(0, gate.view().at(0));
  both.mutable_view().set(1, up.view().at(0));
  return both;
}

}  // namespace

std::string_view name(SlotInsertion insertion) {
  constexpr std::string_view names[] = {"sglang", "aiter_append", "vllm_rocm", "gated"};
  return names[static_cast<std::size_t>(insertion)];
}

Slots insert_shared_slots(std::span<const std::int64_t> ids, std::span<const Bounded> weights,
                          const SlotInsertionOptions& options, std::span<const double> gate_logits) {
  const std::int64_t topk = options.topk, shared = options.shared, columns = options.columns();
  const std::int64_t tokens = topk == 0 ? 0 : static_cast<std::int64_t>(ids.size()) / topk;
  if (topk < 1 || static_cast<std::int64_t>(ids.size()) != tokens * topk || weights.size() != ids.size())
    throw std::invalid_argument("topk_ids and topk_weights must be [M, " + text(topk) + "]: they have " +
                                text(ids.size()) + " and " + text(weights.size()) + " elements");
  if (options.insertion == SlotInsertion::kGated &&
      static_cast<std::int64_t>(gate_logits.size()) != tokens * shared)
    throw std::invalid_argument("gated shared slots need gate_logits [M, " + text(shared) + "]: they have " +
                                text(gate_logits.size()) + " elements");
  Slots slots;
  slots.ids.resize(static_cast<std::size_t>(tokens * columns));
  slots.weights.resize(slots.ids.size());
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::int64_t* id = slots.ids.data() + t * columns;
    Bounded* weight = slots.weights.data() + t * columns;
    for (std::int64_t k = 0; k < topk; ++k) id[k] = ids[t * topk + k], weight[k] = weights[t * topk + k];
    const bool mine = options.insertion != SlotInsertion::kVllmRocm || options.ep_size <= 1 ||
                      t % options.ep_size == options.ep_rank;
    for (std::int64_t j = topk; j < columns; ++j) {
      id[j] = mine && j < topk + shared ? options.experts + (j - topk) : options.sentinel();
      weight[j] = Bounded::exact(1);
      if (options.insertion == SlotInsertion::kAiterAppend) weight[j] = Bounded::exact(options.append_weight);
      if (options.insertion == SlotInsertion::kGated)
        weight[j] = sigmoid(Bounded::exact(gate_logits[t * shared + j - topk]));
    }
    if (options.insertion == SlotInsertion::kSglang) sglang_row(options, weight);
  }
  return slots;
}

WeightTensor::WeightTensor(DType type, Shape extents)
    : dtype(type), shape(extents), bytes(static_cast<std::size_t>(extents.numel() * size_bytes(type))) {}

std::optional<int> split_dim(Projection projection, bool is_scale, WeightScale scale) {
  const bool down = projection == Projection::kDown;
  if (!is_scale || scale == WeightScale::kBlock) return down ? 1 : 0;
  // Output channels of down are hidden channels: every chunk has all of them.
  if (scale == WeightScale::kChannel && !down) return 0;
  return std::nullopt;
}

WeightTensor chunk_of(const WeightTensor& fat, std::optional<int> dim, std::int64_t n, std::int64_t j) {
  if (!dim) return fat;
  Shape shape = fat.shape;
  const auto d = static_cast<std::size_t>(*dim);
  shape.dim[d] /= n;
  WeightTensor chunk(fat.dtype, shape);
  // Rows of `inner` bytes, `extent` of them per outer index in the chunk and n * extent in the whole.
  std::int64_t inner = size_bytes(fat.dtype), outer = 1;
  for (int i = *dim + 1; i < shape.rank; ++i) inner *= shape[i];
  for (int i = 0; i < *dim; ++i) outer *= shape[i];
  const std::int64_t run = shape[*dim] * inner;
  for (std::int64_t o = 0; o < outer && run > 0; ++o)
    std::memcpy(chunk.bytes.data() + o * run, fat.bytes.data() + (o * n + j) * run,
                static_cast<std::size_t>(run));
  return chunk;
}

WeightTensor stack_gate_up(const WeightTensor& gate, const WeightTensor& up) {
  WeightTensor both;
  both.dtype = gate.dtype;
  both.shape = gate.shape;
  both.shape.dim[0] += up.shape[0];
  both.bytes = gate.bytes;
  both.bytes.insert(both.bytes.end(), up.bytes.begin(), up.bytes.end());
  return both;
}

std::optional<std::string> split_refusal(const SharedExpertWeights& weights, std::int64_t n,
                                         std::int64_t intermediate) {
  const WeightTensor &gate = weights.gate, &up = weights.up, &down = weights.down;
  if (n < 1) return "n_shared_experts=" + text(n) + ": there is nothing to fuse";
  for (const WeightTensor* w : {&gate, &up, &down})
    if (w->shape.rank != 2)
      return "a shared expert's weight has shape " + text(w->shape) + ": two dimensions are needed";
  if (!(gate.shape == up.shape) || gate.shape[0] != down.shape[1] || gate.shape[1] != down.shape[0])
    return "shared gate " + text(gate.shape) + ", up " + text(up.shape) + " and down " + text(down.shape) +
           " do not make one MLP: gate and up are [n*I, H], down is [H, n*I]";
  const std::int64_t fat = gate.shape[0];
  if (fat % n != 0)
    return "shared intermediate size " + text(fat) + " is not divisible by n_shared_experts=" + text(n) +
           ": the shared experts cannot be cut into slots; do not fuse them";
  if (fat / n != intermediate)
    return "a shared chunk has " + text(fat / n) +
           " rows, a routed expert moe_intermediate_size=" + text(intermediate) +
           ": a slot of w13 holds only the latter; do not fuse them";
  if (weights.scale == WeightScale::kBlock && n > 1 && intermediate % kScaleBlock != 0)
    return "moe_intermediate_size=" + text(intermediate) +
           " is not a multiple of 128: a block of scales would straddle two chunks; "
           "requantize the chunks or do not fuse them";
  if (auto why = scale_refusal("gate", gate, weights.gate_scale, weights.scale)) return why;
  if (auto why = scale_refusal("up", up, weights.up_scale, weights.scale)) return why;
  if (auto why = scale_refusal("down", down, weights.down_scale, weights.scale)) return why;
  // Stacked gate and up share a block of w13's scales when I is not a multiple of 128.
  if (weights.scale == WeightScale::kBlock && intermediate % kScaleBlock != 0)
    return "moe_intermediate_size=" + text(intermediate) +
           " is not a multiple of 128: gate and up would share a block of w13's scales";
  return std::nullopt;
}

std::vector<SharedSlot> split_shared_experts(const SharedExpertWeights& weights, std::int64_t n,
                                             std::int64_t intermediate) {
  if (const auto why = split_refusal(weights, n, intermediate)) throw std::invalid_argument(*why);
  std::vector<SharedSlot> slots(static_cast<std::size_t>(n));
  const auto chunk = [&](const WeightTensor& fat, Projection projection, bool is_scale, std::int64_t j) {
    return chunk_of(fat, split_dim(projection, is_scale, weights.scale), n, j);
  };
  for (std::int64_t j = 0; j < n; ++j) {
    SharedSlot& slot = slots[static_cast<std::size_t>(j)];
    slot.w13 = stack_gate_up(chunk(weights.gate, Projection::kGate, false, j),
                             chunk(weights.up, Projection::kUp, false, j));
    slot.w2 = chunk(weights.down, Projection::kDown, false, j);
    if (weights.scale == WeightScale::kNone) continue;
    slot.w13_scale = stack_scales(chunk(weights.gate_scale, Projection::kGate, true, j),
                                  chunk(weights.up_scale, Projection::kUp, true, j), weights.scale);
    slot.w2_scale = chunk(weights.down_scale, Projection::kDown, true, j);
  }
  return slots;
}

}  // namespace moecheck::reference
