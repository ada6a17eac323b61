#include "reference/shared_expert_loading.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <set>

#include "reference/text.h"

namespace moecheck::reference {
namespace {

constexpr std::string_view kLayers = "model.layers.", kRouted = ".mlp.experts.",
                           kShared = ".mlp.shared_experts.";
constexpr std::array<std::string_view, 3> kProjections = {"gate_proj.", "up_proj.", "down_proj."};
constexpr std::array<std::string_view, 3> kShardNames = {"gate", "up", "down"};

// A checkpoint name taken apart: model.layers.{layer}.mlp.[shared_]experts.{rest}.
struct ExpertName {
  std::int64_t layer = 0;
  bool shared = false;
  std::string rest;  // "17.gate_proj.weight", "gate_proj.weight"
  Projection projection = Projection::kGate;
  std::string suffix;  // "weight", "weight_scale_inv"
};

std::optional<ExpertName> parse(std::string_view text) {
  ExpertName parsed;
  if (!text.starts_with(kLayers)) return std::nullopt;
  const char* begin = text.data() + kLayers.size();
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), parsed.layer);
  if (error != std::errc()) return std::nullopt;
  const std::string_view tail(end, static_cast<std::size_t>(text.data() + text.size() - end));
  parsed.shared = tail.starts_with(kShared);
  if (!parsed.shared && !tail.starts_with(kRouted)) return std::nullopt;
  parsed.rest = tail.substr(parsed.shared ? kShared.size() : kRouted.size());
  for (std::size_t p = 0; p < kProjections.size(); ++p) {
    const std::size_t at = parsed.rest.find(kProjections[p]);
    if (at == std::string::npos) continue;
    parsed.projection = static_cast<Projection>(p);
    parsed.suffix = parsed.rest.substr(at + kProjections[p].size());
    return parsed;
  }
  return std::nullopt;
}

bool contains(const std::vector<std::int64_t>& values, std::int64_t v) {
  return std::find(values.begin(), values.end(), v) != values.end();
}

class Loader {
 public:
  Loader(const Checkpoint& checkpoint, const LoadOptions& options)
      : checkpoint_(checkpoint),
        options_(options),
        rules_(expert_mapping(options.experts +
                              (options.fused && options.widen_mapping ? options.shared : 0))) {}

  LoadedExperts load() {
    suffixes_.insert("weight");
    for (const auto& [name, tensor] : checkpoint_) learn_shape(name, tensor);
    allocate();
    for (const auto& [name, tensor] : checkpoint_) {
      const auto parsed = parse(name);
      if (!parsed || (parsed->shared && !options_.fused)) continue;
      const bool mtp = contains(options_.mtp_layers, parsed->layer);
      const bool known = mtp || contains(options_.layers, parsed->layer);
      if (!known || (parsed->shared && mtp && !options_.split_in_mtp)) {
        loaded_.report.unplaced.push_back(name + ": no parameter of this layer takes it");
      } else if (parsed->shared) {
        place_shared(name, *parsed, tensor, mtp);
      } else if (!place(parsed->rest, *parsed, mtp, tensor, name)) {
        loaded_.report.unplaced.push_back(name + ": no rule of the expert mapping matches");
      }
    }
    report_unreached();
    return std::move(loaded_);
  }

 private:
  std::int64_t local_end() const { return options_.local_end < 0 ? options_.experts : options_.local_end; }
  std::int64_t slots() const {
    return local_end() - options_.local_begin + (options_.fused ? options_.shared : 0);
  }
  // Local slot of a global one; -1 when another rank has it.
  std::int64_t local_slot(std::int64_t slot) const {
    if (slot >= options_.experts) return local_end() - options_.local_begin + (slot - options_.experts);
    return slot >= options_.local_begin && slot < local_end() ? slot - options_.local_begin : -1;
  }
  std::string prefix(std::int64_t layer, bool mtp) const {
    return std::string(kLayers) + std::to_string(layer) + (mtp ? ".mtp_block.mlp." : ".mlp.");
  }

  // A routed expert's tensor says what a slot of its parameter looks like.
  void learn_shape(const std::string& name, const WeightTensor& tensor) {
    const auto parsed = parse(name);
    if (!parsed) return;
    suffixes_.insert(parsed->suffix);
    if (parsed->shared) return;
    const bool down = parsed->projection == Projection::kDown;
    shards_.try_emplace((down ? "w2_" : "w13_") + parsed->suffix, tensor);
  }

  void allocate() {
    for (const bool mtp : {false, true})
      for (const std::int64_t layer : mtp ? options_.mtp_layers : options_.layers)
        for (const std::string& suffix : suffixes_)
          for (const bool down : {false, true}) {
            const std::string key = (down ? "w2_" : "w13_") + suffix,
                              param = prefix(layer, mtp) + "experts." + key;
            counts_[param].assign(static_cast<std::size_t>(slots() * (down ? 1 : 2)), 0);
            const auto shard = shards_.find(key);
            if (shard == shards_.end()) continue;
            const Shape& one = shard->second.shape;
            Shape whole = one;
            whole.rank = std::max(one.rank, down ? 0 : 1) + 1;
            whole.dim[0] = slots();
            for (int i = 0; i < one.rank; ++i) whole.dim[static_cast<std::size_t>(i + 1)] = one[i];
            if (!down) whole.dim[1] = 2 * (one.rank == 0 ? 1 : one[0]);
            loaded_.params.emplace(param, WeightTensor(shard->second.dtype, whole));
          }
  }

  void place_shared(const std::string& name, const ExpertName& parsed, const WeightTensor& tensor, bool mtp) {
    const bool is_scale = parsed.suffix != "weight", down = parsed.projection == Projection::kDown;
    std::optional<int> dim = split_dim(parsed.projection, is_scale, options_.scale);
    if (down && dim && !options_.split_down_by_columns) dim = 0;
    if (down && is_scale && options_.scale == WeightScale::kChannel && !options_.replicate_down_channel_scale)
      dim = 0;
    if (dim && (*dim >= tensor.shape.rank || tensor.shape[*dim] % options_.shared != 0)) {
      loaded_.report.misshapen.push_back(name + " " + text(tensor.shape) + ": dimension " +
                                         std::to_string(*dim) + " cannot be cut into " +
                                         std::to_string(options_.shared) + " chunks");
      return;
    }
    bool placed = true;
    for (std::int64_t j = 0; j < options_.shared; ++j) {
      const std::string renamed = std::to_string(options_.experts + j) + "." + parsed.rest;
      placed = place(renamed, parsed, mtp, shared_chunk(name, parsed, tensor, dim, j), name) && placed;
    }
    if (!placed)
      loaded_.report.unplaced.push_back(
          name + ": no rule of the expert mapping takes its chunks; widen it by n_shared");
  }

  WeightTensor shared_chunk(const std::string& name, const ExpertName& parsed, const WeightTensor& tensor,
                            std::optional<int> dim, std::int64_t j) const {
    const bool gate = parsed.projection == Projection::kGate;
    if (options_.split_each_of_gate_and_up || parsed.projection == Projection::kDown || !dim)
      return chunk_of(tensor, dim, options_.shared, j);
    // The stacked [G; U] cut into n: the first half of chunk j is loaded as gate, the second as up.
    std::string other = name;
    other.replace(other.find(gate ? "gate_proj." : "up_proj."), gate ? 10 : 8,
                  gate ? "up_proj." : "gate_proj.");
    const auto partner = checkpoint_.find(other);
    if (partner == checkpoint_.end()) return chunk_of(tensor, dim, options_.shared, j);
    const WeightTensor stacked =
        gate ? stack_gate_up(tensor, partner->second) : stack_gate_up(partner->second, tensor);
    return chunk_of(stacked, 0, 2 * options_.shared, 2 * j + (gate ? 0 : 1));
  }

  // `rest` as in ExpertName, with the (renamed) expert's number. False when no rule matches.
  bool place(const std::string& rest, const ExpertName& parsed, bool mtp, const WeightTensor& piece,
             const std::string& source) {
    const std::string qualified = "experts." + rest;
    const auto rule = std::find_if(rules_.begin(), rules_.end(),
                                   [&](const ExpertMapping& r) { return qualified.starts_with(r.weight); });
    if (rule == rules_.end()) return false;
    const std::int64_t slot = local_slot(rule->slot);
    if (slot < 0) return true;  // another rank's
    const std::string param = prefix(parsed.layer, mtp) + rule->param + qualified.substr(rule->weight.size());
    write(param, slot, rule->shard, piece, source);
    return true;
  }

  void write(const std::string& param, std::int64_t slot, Projection shard, const WeightTensor& piece,
             const std::string& source) {
    const std::string place_name =
        param + "[" + std::to_string(slot) + "] " + std::string(kShardNames[static_cast<std::size_t>(shard)]);
    const auto target = loaded_.params.find(param);
    if (target == loaded_.params.end()) {
      loaded_.report.unplaced.push_back(source + ": there is no parameter " + param);
      return;
    }
    const int parts = shard == Projection::kDown ? 1 : 2, part = shard == Projection::kUp ? 1 : 0;
    const WeightTensor& like = shards_.at(param.substr(param.rfind('.') + 1));
    if (!(piece.shape == like.shape) || piece.dtype != like.dtype)
      loaded_.report.misshapen.push_back(source + ": " + text(piece.shape) + " " +
                                         std::string(name(piece.dtype)) + " for " + place_name + " " +
                                         text(like.shape) + " " + std::string(name(like.dtype)));
    // A careless loader views what has the right number of bytes.
    if (piece.bytes.size() != like.bytes.size()) return;
    std::memcpy(
        target->second.bytes.data() + (slot * parts + part) * static_cast<std::int64_t>(piece.bytes.size()),
        piece.bytes.data(), piece.bytes.size());
    if (counts_[param][static_cast<std::size_t>(slot * parts + part)]++ > 0)
      loaded_.report.repeated.push_back(place_name + ": written again by " + source);
  }

  void report_unreached() {
    for (const auto& [param, counts] : counts_) {
      const bool down = param.find("experts.w2_") != std::string::npos;
      for (std::size_t i = 0; i < counts.size(); ++i) {
        if (counts[i] != 0) continue;
        const std::size_t parts = down ? 1 : 2;
        loaded_.report.unreached.push_back(param + "[" + std::to_string(i / parts) + "] " +
                                           std::string(down ? "down" : kShardNames[i % 2]) +
                                           ": keeps its initial value");
      }
    }
  }

  const Checkpoint& checkpoint_;
  const LoadOptions& options_;
  std::vector<ExpertMapping> rules_;
  std::set<std::string> suffixes_;
  std::map<std::string, WeightTensor> shards_;      // "w13_weight" -> a routed expert's tensor
  std::map<std::string, std::vector<int>> counts_;  // writes per slot and shard
  LoadedExperts loaded_;
};

}  // namespace

std::vector<ExpertMapping> expert_mapping(std::int64_t experts) {
  std::vector<ExpertMapping> rules;
  for (std::int64_t e = 0; e < experts; ++e)
    for (std::size_t p = 0; p < kProjections.size(); ++p)
      rules.push_back({p == 2 ? "experts.w2_" : "experts.w13_",
                       "experts." + std::to_string(e) + "." + std::string(kProjections[p]), e,
                       static_cast<Projection>(p)});
  return rules;
}

std::string LoadReport::text() const {
  std::string all;
  const auto section = [&](const char* heading, const std::vector<std::string>& lines) {
    if (!lines.empty()) all += heading + std::string("\n");
    for (const std::string& line : lines) all += "  " + line + "\n";
  };
  section("slots that nothing reached:", unreached);
  section("slots written more than once:", repeated);
  section("tensors that reached no slot:", unplaced);
  section("shapes that do not fit:", misshapen);
  return all;
}

LoadedExperts load_experts(const Checkpoint& checkpoint, const LoadOptions& options) {
  return Loader(checkpoint, options).load();
}

}  // namespace moecheck::reference
