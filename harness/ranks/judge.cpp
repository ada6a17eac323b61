#include <fmt/format.h>

#include <cmath>

#include "harness/ranks/rank_study.h"
#include "reference/routed_scaling.h"

namespace moecheck::harness::ranks {
namespace {

using reference::Bounded;
using reference::ConstView;
using reference::DType;
using reference::Shape;

// out = shared + rsf * sum_k w_k y_k of one block, from its input, ids and weights.
std::vector<Bounded> reference_block(const Layers& layers, const MoeRecord& r) {
  const LayersOptions& o = layers.options();
  const Layers::Layer& layer = layers.layer(r.layer);
  const std::int64_t h = o.hidden, i = o.intermediate, k = o.topk;
  const std::int64_t tokens = static_cast<std::int64_t>(r.topk_ids.size()) / k;
  const ConstView rows{r.mlp_input.data(), DType::kBF16, Shape(tokens, h)};
  const auto slots_of = [&](const auto& w13, const auto& w2, std::int64_t experts, std::int64_t topk,
                            std::vector<std::int64_t> ids) {
    reference::ExpertsOptions options = experts_options(o, experts);
    options.topk = topk;
    reference::Routing routing;
    routing.topk = topk;
    routing.ids = routing.experts = std::move(ids);
    return reference::expert_slots(rows,
                                   {{w13.data(), DType::kBF16, Shape(experts, 2 * i, h)},
                                    {w2.data(), DType::kBF16, Shape(experts, h, i)},
                                    {},
                                    {}},
                                   routing, options);
  };
  const std::vector<std::int64_t> ids(r.topk_ids.begin(), r.topk_ids.end());
  const std::vector<Bounded> slots = slots_of(layer.w13, layer.w2, o.experts, k, ids);
  std::vector<Bounded> shared;
  if (r.shared)
    shared = slots_of(layer.shared_w13, layer.shared_w2, 1, 1,
                      std::vector<std::int64_t>(static_cast<std::size_t>(tokens), 0));
  const reference::CombineOptions combine = combine_options(o);
  std::vector<Bounded> out, terms(static_cast<std::size_t>(k));
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t c = 0; c < h; ++c) {
      for (std::int64_t s = 0; s < k; ++s)
        terms[static_cast<std::size_t>(s)] =
            slots[static_cast<std::size_t>((t * k + s) * h + c)] *
            Bounded::exact(r.topk_weights[static_cast<std::size_t>(t * k + s)]);
      const Bounded reduced =
          reference::reduce_slots(terms.data(), ids.data() + t * k, k, combine.dtype, combine.reduce);
      std::optional<Bounded> addend;
      if (r.shared) addend = shared[static_cast<std::size_t>(t * h + c)];
      out.push_back(reference::scale_and_add(reduced, addend, combine));
    }
  return out;
}

}  // namespace

Judged judge(const Layers& layers, const std::vector<MoeRecord>& records) {
  const std::int64_t h = layers.options().hidden;
  Judged judged;
  for (const MoeRecord& r : records) {
    const std::vector<Bounded> expected = reference_block(layers, r);
    judged.elements += static_cast<std::int64_t>(expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const Bounded& e = expected[i];
      const double error = std::fabs(double{r.out[i]} - e.value);
      double ratio = error == 0 ? 0 : error / e.proven;
      if (!(ratio >= 0)) ratio = HUGE_VAL;  // NaN
      if (ratio <= judged.worst) continue;
      judged.worst = ratio;
      judged.where = fmt::format("batch {}, layer {}, row {}, column {}", r.batch == 0 ? 'A' : 'B', r.layer,
                                 static_cast<std::int64_t>(i) / h, static_cast<std::int64_t>(i) % h);
    }
  }
  return judged;
}

}  // namespace moecheck::harness::ranks
