#include "optimized/cpu/combine.h"

#include <algorithm>
#include <vector>

#include "optimized/cpu/aligned.h"
#include "optimized/cpu/combine_row.h"
#include "optimized/cpu/machine_faults.h"
#include "optimized/cpu/thread_pool.h"

namespace moecheck::MOECHECK_OPTIMIZED {
namespace {

// One thread's rows: a token's slots, its shared output and its result in fp32.
struct CombineScratch {
  AlignedFloats slots, shared, out;
  std::vector<const float*> rows;
  std::vector<float> weights;
  std::vector<std::int64_t> ids, order;

  CombineScratch(std::int64_t topk, std::int64_t stride)
      : slots(topk * stride),
        shared(stride),
        out(stride),
        rows(static_cast<std::size_t>(topk)),
        weights(static_cast<std::size_t>(topk)),
        ids(static_cast<std::size_t>(topk)),
        order(static_cast<std::size_t>(topk)) {}
};

class Combine {
 public:
  Combine(const reference::CombineOptions& options, const reference::CombineInputs& in, View out)
      : options_(options),
        in_(in),
        out_(out),
        topk_(in.routed_output.shape[1]),
        hidden_(in.routed_output.shape[2]),
        stride_(padded_columns(hidden_)),
        rules_(combine_rules(options, static_cast<bool>(in.shared_output))) {}

  CombineScratch scratch() const { return {topk_, stride_}; }

  void row(std::int64_t t, CombineScratch& s) const {
    for (std::int64_t k = 0; k < topk_; ++k) {
      std::int64_t id = load_id(in_.topk_ids, t * topk_ + k);
      if (fault(Fault::kCombineIgnoresMinusOne)) id = std::max<std::int64_t>(id, 0);
      s.ids[static_cast<std::size_t>(k)] = id;
    }
    const std::int64_t all = topk_ - (fault(Fault::kCombineDropsLastSlot) && topk_ > 1);
    CombineTerms terms;
    terms.count = reduce_order(options_.reduce, s.ids.data(), all, s.order.data());
    const bool weigh = !options_.weights_applied && !fault(Fault::kCombineWeightMissing);
    for (std::int64_t i = 0; i < terms.count; ++i) {
      const std::int64_t slot = t * topk_ + s.order[static_cast<std::size_t>(i)];
      load_(in_.routed_output, slot * hidden_, hidden_, s.slots.data() + i * stride_);
      s.rows[static_cast<std::size_t>(i)] = s.slots.data() + i * stride_;
      if (weigh) s.weights[static_cast<std::size_t>(i)] = in_.topk_weights.as<float>()[slot];
    }
    terms.rows = s.rows.data();
    if (weigh) terms.weights = s.weights.data();
    if (in_.shared_output) load_(in_.shared_output, t * hidden_, hidden_, s.shared.data());
    if (in_.shared_output && !fault(Fault::kSharedAddDropped)) terms.shared = s.shared.data();
    combine_(rules_, terms, hidden_, s.out.data());
    const bool short_row = fault(Fault::kLastColumnsUnwritten) && hidden_ % 16 == 8;
    store_(s.out.data(), hidden_ - (short_row ? 8 : 0), out_, t * hidden_);
  }

 private:
  const reference::CombineOptions& options_;
  const reference::CombineInputs& in_;
  View out_;
  std::int64_t topk_, hidden_, stride_;
  CombineRules rules_;
  CombineRow combine_ = combine_row();
  LoadRow load_ = load_row();
  StoreRow store_ = store_row();
};

}  // namespace

void combine(const reference::CombineOptions& options, const reference::CombineInputs& inputs, View out,
             CpuOptions cpu) {
  const Combine kernel(options, inputs, out);
  std::vector<CombineScratch> scratch;
  for (int i = 0; i < std::max(1, cpu.threads); ++i) scratch.push_back(kernel.scratch());
  parallel_for(cpu.threads, out.shape[0],
               [&](std::int64_t t, int worker) { kernel.row(t, scratch[static_cast<std::size_t>(worker)]); });
  if (fault(Fault::kCombineWritesPastEnd)) write_past_end(out);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
