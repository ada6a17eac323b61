#include "optimized/cpu/experts.h"

#include <algorithm>
#include <vector>

#include "optimized/cpu/activation_row.h"
#include "optimized/cpu/aligned.h"
#include "optimized/cpu/expert_gemm.h"
#include "optimized/cpu/experts_run.h"
#include "optimized/cpu/machine_faults.h"
#include "optimized/cpu/thread_pool.h"

namespace moecheck::MOECHECK_OPTIMIZED {
namespace {

using reference::ExpertsInputs;
using reference::ExpertsOptions;
using reference::RouterWeight;
using reference::Shape;

constexpr std::int64_t kSlotsAtOnce = 1024;  // of a tile: bounds working memory, costs reading weights again
constexpr std::int64_t kTaskBytes = 256 * 1024;  // weights of one task
constexpr std::int64_t kRowsOfTask = 4;          // a task's rows are a multiple of this

// fp32 rows between the steps, kept from call to call.
struct Workspace {
  AlignedFloats x, x_scales, h, a, a_scales, y;
};

Workspace& workspace() {
  thread_local Workspace mine;
  return mine;
}

// One tile of tokens on its way through the experts.
class Experts {
 public:
  Experts(const ExpertsOptions& options, const ExpertsInputs& in, CpuOptions cpu)
      : o_(options),
        in_(in),
        threads_(std::max(1, cpu.threads)),
        x_stride_(padded_columns(options.hidden)),
        h_stride_(h_stride(options.intermediate)),
        a_stride_(padded_columns(options.intermediate)),
        x_groups_((options.hidden + 127) / 128),
        a_groups_((options.intermediate + 127) / 128) {
    o_.activation.dtype = options.dtype;
  }

  // Calls finish(t, worker) for the tokens first() + t of each tile, once y of all their slots is there.
  template <class Finish>
  void run(std::int64_t tokens, Finish finish) {
    const std::int64_t tile = std::max<std::int64_t>(1, kSlotsAtOnce / std::max<std::int64_t>(1, o_.topk));
    for (first_ = 0; first_ < tokens; first_ += tile) {
      count_ = std::min(tile, tokens - first_);
      group_slots();
      prepare_tokens();
      gemm(in_.weights.w13, in_.weights.w13_scale, 2 * o_.intermediate, true);
      activate();
      gemm(in_.weights.w2, in_.weights.w2_scale, o_.hidden, false);
      parallel_for(threads_, count_, [&](std::int64_t t, int worker) { finish(t, worker); });
    }
  }

  std::int64_t first() const { return first_; }
  std::int64_t stride() const { return x_stride_; }
  float* y(std::int64_t slot) { return work_.y.data() + slot * x_stride_; }
  bool is_local(std::int64_t slot) const { return local_[static_cast<std::size_t>(slot)] >= 0; }
  // Global id of a slot of this tile, -1 where it contributes nothing.
  std::int64_t reduce_id(std::int64_t slot) const { return is_local(slot) ? global_id(slot) : -1; }
  float weight(std::int64_t slot) const {
    const std::int64_t first_slot = fault(Fault::kWeightsOfFirstTile) ? 0 : first_ * o_.topk;
    return in_.topk_weights ? in_.topk_weights.as<float>()[first_slot + slot] : 1.0F;
  }

 private:
  std::int64_t global_id(std::int64_t slot) const {
    const std::int64_t id = load_id(in_.topk_ids, first_ * o_.topk + slot);
    return id == -1 && fault(Fault::kMinusOneIsExpertZero) ? 0 : id;
  }

  std::int64_t local_expert(std::int64_t id) const {
    if (id < 0 || id >= o_.experts) return -1;
    if (in_.expert_map) {
      if (id >= in_.expert_map.shape.numel()) return -1;
      id = load_id(in_.expert_map, id);
      if (fault(Fault::kExpertMapTwice) && id >= 0) id = load_id(in_.expert_map, id);
    }
    return id < o_.local_experts ? id : -1;
  }

  // A counting sort: slots_ holds the tile's slots by expert, ascending within one; offsets_ where each
  // expert's begin.
  void group_slots() {
    const std::int64_t slots = count_ * o_.topk;
    local_.resize(static_cast<std::size_t>(slots));
    offsets_.assign(static_cast<std::size_t>(o_.local_experts) + 1, 0);
    for (std::int64_t s = 0; s < slots; ++s) {
      const std::int64_t e = local_expert(global_id(s));
      local_[static_cast<std::size_t>(s)] = std::max<std::int64_t>(e, -1);
      if (e >= 0) ++offsets_[static_cast<std::size_t>(e) + 1];
    }
    active_.clear();
    for (std::int64_t e = 0; e < o_.local_experts; ++e) {
      if (offsets_[static_cast<std::size_t>(e) + 1] > 0) active_.push_back(e);
      offsets_[static_cast<std::size_t>(e) + 1] += offsets_[static_cast<std::size_t>(e)];
    }
    slots_.resize(static_cast<std::size_t>(slots));
    std::vector<std::int64_t> next(offsets_.begin(), offsets_.end() - 1);
    for (std::int64_t s = 0; s < slots; ++s)
      if (is_local(s))
        slots_[static_cast<std::size_t>(
            next[static_cast<std::size_t>(local_[static_cast<std::size_t>(s)])]++)] = s;
  }

  // Hidden states in fp32, quantized where the experts are w8a8.
  void prepare_tokens() {
    work_.x.resize(count_ * x_stride_);
    work_.x_scales.resize(count_ * x_groups_);
    const std::int64_t slots = count_ * o_.topk;
    work_.h.resize(slots * h_stride_);
    work_.a.resize(slots * a_stride_);
    work_.a_scales.resize(slots * a_groups_);
    work_.y.resize(slots * x_stride_);
    parallel_for(threads_, count_, [&](std::int64_t t, int) {
      float* x = work_.x.data() + t * x_stride_;
      load_(in_.hidden_states, (first_ + t) * o_.hidden, o_.hidden, x);
      std::fill(x + o_.hidden, x + x_stride_, 0.0F);
      if (o_.fp8_activations) quantize_(o_.quant, x, o_.hidden, x, work_.x_scales.data() + t * x_groups_);
    });
  }

  GemmToken token_of(std::int64_t slot, bool first_gemm) {
    const bool quantized = o_.fp8_activations;
    if (first_gemm) {
      const std::int64_t t = slot / o_.topk;
      return {work_.x.data() + t * x_stride_, quantized ? work_.x_scales.data() + t * x_groups_ : nullptr,
              work_.h.data() + slot * h_stride_};
    }
    return {work_.a.data() + slot * a_stride_, quantized ? work_.a_scales.data() + slot * a_groups_ : nullptr,
            work_.y.data() + slot * x_stride_};
  }

  static GemmMatrix matrix_of(ConstView weight, ConstView scale, std::int64_t e) {
    const auto slice = [e](ConstView stack) -> ConstView {
      if (!stack) return {};
      const std::int64_t bytes = stack.shape[1] * stack.shape[2] * reference::size_bytes(stack.dtype);
      return {stack.as<char>() + e * bytes, stack.dtype, Shape(stack.shape[1], stack.shape[2])};
    };
    return {slice(weight), slice(scale)};
  }

  // All active experts' rows, cut into tasks of about equal size: each weight is read by one thread, once.
  void gemm(ConstView weight, ConstView scale, std::int64_t rows, bool first_gemm) {
    const std::int64_t row_bytes =
        std::max<std::int64_t>(1, weight.shape[2] * reference::size_bytes(weight.dtype));
    const std::int64_t step = std::max<std::int64_t>(1, kTaskBytes / row_bytes / kRowsOfTask) * kRowsOfTask;
    const std::int64_t tasks_each = (rows + step - 1) / step;
    tokens_.resize(slots_.size());
    for (const std::int64_t e : active_)
      for (std::int64_t i = offset(e); i < offset(e + 1); ++i)
        tokens_[static_cast<std::size_t>(i)] = token_of(slots_[static_cast<std::size_t>(i)], first_gemm);
    const auto count = static_cast<std::int64_t>(active_.size());
    parallel_for(threads_, count * tasks_each, [&](std::int64_t task, int) {
      const std::int64_t e = active_[static_cast<std::size_t>(task / tasks_each)];
      const std::int64_t begin = task % tasks_each * step;
      gemm_(matrix_of(weight, scale, e), begin, std::min(rows, begin + step), tokens_.data() + offset(e),
            offset(e + 1) - offset(e));
    });
  }

  std::int64_t offset(std::int64_t e) const { return offsets_[static_cast<std::size_t>(e)]; }

  void activate() {
    const bool before = fault(Fault::kWeightBeforeActivation);
    const bool weigh = o_.router_weight == RouterWeight::kInput || before;
    const bool rounds = o_.round_gate_up == reference::Rounding::kRound;
    parallel_for(threads_, offsets_.back(), [&](std::int64_t i, int) {
      const std::int64_t slot = slots_[static_cast<std::size_t>(i)];
      float* a = work_.a.data() + slot * a_stride_;
      activate_({o_.activation, weigh ? weight(slot) : 1.0F, rounds}, work_.h.data() + slot * h_stride_,
                o_.intermediate, a);
      if (o_.fp8_activations)
        quantize_(o_.quant, a, o_.intermediate, a, work_.a_scales.data() + slot * a_groups_);
    });
  }

  ExpertsOptions o_;
  const ExpertsInputs& in_;
  int threads_;
  std::int64_t x_stride_, h_stride_, a_stride_, x_groups_, a_groups_;
  std::int64_t first_ = 0, count_ = 0;
  std::vector<std::int64_t> local_, slots_, offsets_, active_;
  std::vector<GemmToken> tokens_;
  Workspace& work_ = workspace();
  LoadRow load_ = load_row();
  GemmRows gemm_ = gemm_rows();
  Activate activate_ = activate_row();
  QuantizeRow quantize_ = quantize_row();
};
// One thread's reduce of a token's slots.
class Reduce {
 public:
  Reduce(const ExpertsOptions& options, std::int64_t stride, bool backwards)
      : o_(options),
        backwards_(backwards),
        weigh_(weighs(options)),
        ids_(size()),
        order_(size()),
        rows_(size()),
        weights_(size()),
        out_(stride) {}

  float* row(Experts& run, const CombineRules& rules, std::int64_t t, const float* shared) {
    const std::int64_t topk = o_.topk - (fault(Fault::kExpertsDropsLastSlot) && o_.topk > 1);
    for (std::int64_t k = 0; k < topk; ++k)
      ids_[static_cast<std::size_t>(k)] = run.reduce_id(t * o_.topk + k);
    CombineTerms terms;
    terms.count = reduce_order(o_.reduce, ids_.data(), topk, order_.data());
    if (backwards_) std::reverse(order_.begin(), order_.begin() + terms.count);
    for (std::int64_t i = 0; i < terms.count; ++i) {
      const std::int64_t slot = t * o_.topk + order_[static_cast<std::size_t>(i)];
      const float w = run.weight(slot);
      rows_[static_cast<std::size_t>(i)] = run.y(slot);
      weights_[static_cast<std::size_t>(i)] = fault(Fault::kRouterWeightTwice) ? w * w : w;
    }
    terms.rows = rows_.data();
    if (weigh_) terms.weights = weights_.data();
    terms.shared = shared;
    combine_(rules, terms, o_.hidden, out_.data());
    return out_.data();
  }

 private:
  static bool weighs(const ExpertsOptions& o) {
    if (fault(Fault::kRouterWeightMissing) || fault(Fault::kWeightBeforeActivation)) return false;
    return o.router_weight == RouterWeight::kOutput;
  }
  std::size_t size() const { return static_cast<std::size_t>(o_.topk); }

  const ExpertsOptions& o_;
  bool backwards_, weigh_;
  std::vector<std::int64_t> ids_, order_;
  std::vector<const float*> rows_;
  std::vector<float> weights_;
  AlignedFloats out_;
  CombineRow combine_ = combine_row();
};

// The order of the sum when a planted fault makes it depend on what it must not depend on.
bool sums_backwards(const ExpertsInputs& in, CpuOptions cpu) {
  return (fault(Fault::kOrderDependsOnThreads) && cpu.threads > 1) ||
         (fault(Fault::kOrderDependsOnAlignment) && is_unaligned(in.hidden_states)) ||
         (fault(Fault::kOrderDependsOnBatch) && in.hidden_states.shape[0] > 4) ||
         (fault(Fault::kOrderIsRandom) && every_other_call());
}

void add_previous_contents(ConstView out, std::int64_t first, std::int64_t n, float* row) {
  for (std::int64_t i = 0; i < n; ++i) row[i] += load_float(out, first + i);
}

}  // namespace

CombineRules experts_rules(const ExpertsOptions& options) {
  CombineRules rules;
  rules.dtype = options.dtype;
  rules.round_term = options.round_slot == reference::Rounding::kRound;
  rules.set_reduce(options.reduce);
  if (options.reduce_scale != 1 && !fault(Fault::kReduceScaleDropped))
    rules.add_step(false, static_cast<float>(options.reduce_scale));
  return rules;
}

void run_experts(const ExpertsOptions& options, const ExpertsInputs& inputs, const CombineRules& rules,
                 const float* shared, View out, CpuOptions cpu) {
  const std::int64_t hidden = options.hidden;
  Experts run(options, inputs, cpu);
  std::vector<Reduce> reduce;
  for (int i = 0; i < std::max(1, cpu.threads); ++i)
    reduce.emplace_back(options, run.stride(), sums_backwards(inputs, cpu));
  const StoreRow store = store_row();
  run.run(inputs.hidden_states.shape[0], [&](std::int64_t t, int worker) {
    const std::int64_t token = run.first() + t;
    float* row = reduce[static_cast<std::size_t>(worker)].row(
        run, rules, t, shared != nullptr ? shared + token * hidden : nullptr);
    if (fault(Fault::kAddsToPreviousOutput)) add_previous_contents(out, token * hidden, hidden, row);
    store(row, hidden, out, token * hidden);
  });
  if (fault(Fault::kExpertsWritesPastEnd)) write_past_end(out);
  if (fault(Fault::kExpertsModifiesInput)) modify_first_byte(inputs.hidden_states);
  if (fault(Fault::kExpertsLeavesFlushToZero)) leave_flush_to_zero();
}

void experts(const ExpertsOptions& options, const ExpertsInputs& inputs, View out, CpuOptions cpu) {
  run_experts(options, inputs, experts_rules(options), nullptr, out, cpu);
}

void expert_slots(const ExpertsOptions& options, const ExpertsInputs& inputs, View slots, CpuOptions cpu) {
  Experts run(options, inputs, cpu);
  CombineRules rules = experts_rules(options);
  rules.step_count = 0, rules.accumulate_in_dtype = false;
  const bool weigh = options.router_weight == RouterWeight::kOutput;
  const CombineRow combine = combine_row();
  const StoreRow store = store_row();
  run.run(inputs.hidden_states.shape[0], [&](std::int64_t t, int) {
    for (std::int64_t slot = t * options.topk; slot < (t + 1) * options.topk; ++slot) {
      float* in_place = run.y(slot);
      const float* y = in_place;
      const float weight = run.weight(slot);
      const CombineTerms terms{&y, weigh ? &weight : nullptr, run.is_local(slot) ? 1 : 0, nullptr};
      combine(rules, terms, options.hidden, in_place);
      store(in_place, options.hidden, slots, (run.first() * options.topk + slot) * options.hidden);
    }
  });
}

std::optional<std::string> experts_unsupported(const ExpertsOptions& options, DType weights) {
  if (weights == DType::kE5M2) return "e5m2 weights: only the two e4m3 formats are read here";
  if (options.fp8_activations && options.quant.group != 128)
    return "activation groups of " + std::to_string(options.quant.group) + ": only 128, the weights' block";
  return std::nullopt;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
