#include "harness/ranks/moe_operations.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

namespace moecheck::harness::ranks {
namespace {

using reference::ConstView;
using reference::DType;
using reference::Shape;
using reference::View;

}  // namespace

// What select hands on.
struct BatchOperations::Topk {
  std::vector<std::int32_t> ids;  // [M, K]
  std::vector<float> weights;
};

DispatchPlan plan_dispatch(std::span<const std::int32_t> topk_ids, std::int64_t experts, int ranks) {
  std::vector<std::vector<std::int64_t>> slots(static_cast<std::size_t>(ranks));
  for (std::size_t s = 0; s < topk_ids.size(); ++s)
    if (topk_ids[s] >= 0)
      slots[static_cast<std::size_t>(owner_of_expert(experts, ranks, topk_ids[s]))].push_back(
          static_cast<std::int64_t>(s));
  DispatchPlan plan;
  for (const auto& of_rank : slots) {
    plan.counts.push_back(static_cast<std::int64_t>(of_rank.size()));
    plan.slots.insert(plan.slots.end(), of_rank.begin(), of_rank.end());
  }
  return plan;
}

struct BatchOperations::Slots {
  Buffer rows;  // [M, K, H] bf16; those of -1 were never written
  Topk topk;
};

BatchOperations::BatchOperations(RankContext& context, int batch)
    : context_(context),
      compute_(context.compute),
      options_(context.layers.options()),
      batch_(batch),
      state_(batch == 0 ? "A" : "B") {
  const std::vector<std::int64_t> counts = split_tokens(options_, batch, context.ranks.size());
  const auto rank = static_cast<std::size_t>(context.ranks.rank());
  first_token_ = std::accumulate(counts.begin(), counts.begin() + context.ranks.rank(), std::int64_t{0});
  tokens_ = counts[rank];
  std::vector<float> rows;
  for (std::int64_t t = 0; t < tokens_; ++t) {
    const std::vector<float> row = context.layers.input(batch, first_token_ + t);
    rows.insert(rows.end(), row.begin(), row.end());
  }
  state_.put("residual", std::move(rows));
}

void BatchOperations::run(const streams::StageOp& operation) {
  layer_ = operation.layer;
  state_.begin(transfer(operation.name));
  (this->*find(operation.name))();
}

BatchOperations::Operation BatchOperations::find(std::string_view name) {
  static const std::map<std::string_view, Operation> all{{"prep_attn", &BatchOperations::prep_attn},
                                                         {"prepare", &BatchOperations::prepare},
                                                         {"core", &BatchOperations::core},
                                                         {"prep_mlp", &BatchOperations::prep_mlp},
                                                         {"gate", &BatchOperations::gate},
                                                         {"select", &BatchOperations::select},
                                                         {"shared", &BatchOperations::shared},
                                                         {"dispatch_a", &BatchOperations::dispatch_a},
                                                         {"dispatch_b", &BatchOperations::dispatch_b},
                                                         {"experts", &BatchOperations::experts},
                                                         {"combine_a", &BatchOperations::combine_a},
                                                         {"combine_b", &BatchOperations::combine_b},
                                                         {"output", &BatchOperations::output},
                                                         {"post", &BatchOperations::post}};
  return all.at(name);
}

std::vector<float> BatchOperations::finish() {
  state_.begin("the end");
  state_.require_only({"residual"});
  return state_.take<std::vector<float>>("residual");
}

std::string BatchOperations::transfer(std::string_view what) const {
  return fmt::format("{}{}.{}", batch_ == 0 ? 'A' : 'B', layer_, what);
}

template <class T>
Buffer BatchOperations::upload(const std::vector<T>& values) {
  Buffer b = compute_.allocate(values.size() * sizeof(T));
  compute_.write(b, values.data(), values.size() * sizeof(T));
  return b;
}

template <class T>
std::vector<T> BatchOperations::download(const Buffer& from, std::int64_t count) {
  std::vector<T> values(static_cast<std::size_t>(count));
  compute_.read(values.data(), from, values.size() * sizeof(T));
  return values;
}

// ---- the part before the MoE block, on the host

void BatchOperations::prep_attn() {
  state_.put("normed", rms_norm(state_.at<std::vector<float>>("residual"), options_.hidden));
}

void BatchOperations::prepare() {
  state_.put("qkv", project(state_.take<std::vector<float>>("normed"), options_.hidden));
}

void BatchOperations::core() {
  state_.put("attn", mix_rows(state_.take<std::vector<float>>("qkv"), options_.hidden));
}

void BatchOperations::prep_mlp() {
  auto residual = state_.take<std::vector<float>>("residual");
  const auto attn = state_.take<std::vector<float>>("attn");
  for (std::size_t i = 0; i < residual.size(); ++i) residual[i] += attn[i];
  const std::vector<std::uint16_t> input = to_bf16(rms_norm(residual, options_.hidden));
  state_.put("residual", std::move(residual));
  state_.put("mlp_input_host", input);
  state_.put("mlp_input", upload(input));
}

void BatchOperations::gate() {
  state_.put("router_logits",
             upload(gate_logits(state_.at<std::vector<std::uint16_t>>("mlp_input_host"),
                                context_.layers.layer(layer_).gate, options_.hidden, options_.experts)));
}

// ---- the MoE block

void BatchOperations::select() {
  const auto logits = state_.take<Buffer>("router_logits");
  const std::int64_t slots = tokens_ * options_.topk;
  Topk topk;
  if (tokens_ > 0) {
    const Buffer weights = compute_.allocate(static_cast<std::size_t>(slots) * 4),
                 ids = compute_.allocate(static_cast<std::size_t>(slots) * 4);
    const Shape shape(tokens_, options_.topk);
    compute_.gating(gating_options(options_), {logits.get(), DType::kF32, Shape(tokens_, options_.experts)},
                    {context_.weights.layers[static_cast<std::size_t>(layer_)].bias.get(), DType::kF32,
                     Shape(options_.experts)},
                    {weights.get(), DType::kF32, shape}, {ids.get(), DType::kI32, shape});
    topk = {download<std::int32_t>(ids, slots), download<float>(weights, slots)};
  }
  for (std::int64_t s = 0; s < slots; ++s) {
    const std::int64_t token = first_token_ + s / options_.topk;
    if (context_.layers.dropped(batch_, layer_, token, s % options_.topk))
      topk.ids[static_cast<std::size_t>(s)] = fault(RankFault::kMinusOneIsExpertZero) ? 0 : -1;
  }
  DispatchPlan plan = plan_dispatch(topk.ids, options_.experts, context_.ranks.size());
  context_.last_tokens.clear();
  for (const std::int64_t s : plan.slots) context_.last_tokens.push_back(s / options_.topk);
  state_.put("plan", std::move(plan));
  state_.put("topk", std::move(topk));
}

void BatchOperations::shared() {
  const RankWeights::Layer& w = context_.weights.layers[static_cast<std::size_t>(layer_)];
  const std::int64_t h = options_.hidden, i = options_.intermediate;
  const Buffer out = compute_.allocate(static_cast<std::size_t>(tokens_) * row_bytes());
  if (tokens_ > 0) {
    const Buffer ids = upload(std::vector<std::int32_t>(static_cast<std::size_t>(tokens_), 0));
    reference::ExpertsInputs in;
    in.hidden_states = {state_.at<Buffer>("mlp_input").get(), DType::kBF16, Shape(tokens_, h)};
    in.weights = {{w.shared_w13.get(), DType::kBF16, Shape(1, 2 * i, h)},
                  {w.shared_w2.get(), DType::kBF16, Shape(1, h, i)},
                  {},
                  {}};
    in.topk_ids = {ids.get(), DType::kI32, Shape(tokens_, 1)};
    compute_.experts(experts_options(options_, 1), in, {out.get(), DType::kBF16, Shape(tokens_, h)});
  }
  state_.put("shared_out", out);
}

void BatchOperations::dispatch_a() {
  const auto& plan = state_.at<DispatchPlan>("plan");
  const auto& topk = state_.at<Topk>("topk");
  std::vector<std::int64_t> tokens;
  std::vector<std::int32_t> experts, places;
  for (const std::int64_t s : plan.slots) {
    const std::int32_t id = topk.ids[static_cast<std::size_t>(s)];
    const int owner = owner_of_expert(options_.experts, context_.ranks.size(), id);
    tokens.push_back(s / options_.topk);
    experts.push_back(
        static_cast<std::int32_t>(id - first_expert(options_.experts, context_.ranks.size(), owner)));
    places.push_back(static_cast<std::int32_t>(s));
  }
  if (fault(RankFault::kTokensOfOtherBatch) && !context_.last_tokens.empty())
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = context_.last_tokens[i % context_.last_tokens.size()] % tokens_;
  if (fault(RankFault::kDispatchSkippedWithoutTokens) && tokens_ == 0) return;
  const Buffer rows = compute_.allocate(tokens.size() * row_bytes());
  compute_.gather(rows, state_.at<Buffer>("mlp_input"), row_bytes(), tokens);
  context_.ranks.issue(
      {transfer("dispatch"), plan.counts, {{row_bytes(), rows}, {4, upload(experts)}, {4, upload(places)}}});
}

void BatchOperations::dispatch_b() {
  if (fault(RankFault::kDispatchSkippedWithoutTokens) && tokens_ == 0) {
    const std::vector<std::int64_t> nothing(static_cast<std::size_t>(context_.ranks.size()));
    state_.put("received", Incoming{nothing, std::vector<Column>(3)});
    return;
  }
  state_.put("received", context_.ranks.wait(transfer("dispatch")));
}

void BatchOperations::experts() {
  const auto& received = state_.at<Incoming>("received");
  const RankWeights& all = context_.weights;
  const RankWeights::Layer& w = all.layers[static_cast<std::size_t>(layer_)];
  const std::int64_t rows = received.rows(), h = options_.hidden, i = options_.intermediate;
  const Buffer out = compute_.allocate(static_cast<std::size_t>(rows) * row_bytes());
  if (rows > 0) {
    Buffer ids = received.columns[1].rows;
    if (fault(RankFault::kRankZeroSwapsExperts) && context_.ranks.rank() == 0) {
      auto list = download<std::int32_t>(ids, rows);
      for (std::int32_t& id : list)
        if (id == 0) id = static_cast<std::int32_t>(all.count - 1);
      ids = upload(list);
    }
    reference::ExpertsOptions o = experts_options(options_, all.count);
    if (fault(RankFault::kScaledOnEachRank)) o.reduce_scale = options_.routed_scaling_factor;
    reference::ExpertsInputs in;
    in.hidden_states = {received.columns[0].rows.get(), DType::kBF16, Shape(rows, h)};
    in.weights = {{w.w13.get(), DType::kBF16, Shape(all.count, 2 * i, h)},
                  {w.w2.get(), DType::kBF16, Shape(all.count, h, i)},
                  {},
                  {}};
    in.topk_ids = {ids.get(), DType::kI32, Shape(rows, 1)};
    compute_.experts(o, in, {out.get(), DType::kBF16, Shape(rows, h)});
  }
  state_.put("expert_out", out);
}

void BatchOperations::combine_a() {
  const auto received = state_.take<Incoming>("received");
  const auto out = state_.take<Buffer>("expert_out");
  context_.ranks.issue(
      {transfer("combine"), received.counts, {{row_bytes(), out}, {4, received.columns[2].rows}}});
  if (fault(RankFault::kBufferReusedEarly))
    compute_.fill(out, 0x40, static_cast<std::size_t>(received.rows()) * row_bytes());
}

void BatchOperations::combine_b() {
  const Incoming back = context_.ranks.wait(transfer("combine"));
  auto expected = state_.take<DispatchPlan>("plan").slots;
  const auto list = download<std::int32_t>(back.columns[1].rows, back.rows());
  std::vector<std::int64_t> places(list.begin(), list.end());
  std::vector<std::int64_t> sorted = places;
  std::sort(sorted.begin(), sorted.end());
  std::sort(expected.begin(), expected.end());
  if (sorted != expected)
    throw CommunicatorError(fmt::format("{}: rank {} sent {} slots and got {} back, or other ones",
                                        transfer("combine"), context_.ranks.rank(), expected.size(),
                                        list.size()));
  const std::size_t bytes = static_cast<std::size_t>(tokens_ * options_.topk) * row_bytes();
  const Buffer slots = compute_.allocate(bytes);
  compute_.fill(slots, 0xFF, bytes);  // NaN where no row comes back
  compute_.scatter(slots, back.columns[0].rows, row_bytes(), places);
  state_.put("routed_slots", slots);
}

void BatchOperations::output() {
  Slots slots{state_.take<Buffer>("routed_slots"), state_.take<Topk>("topk")};
  const bool has_shared = state_.has("shared_out");
  const Buffer shared = has_shared ? state_.take<Buffer>("shared_out") : Buffer();
  (void)state_.take<Buffer>("mlp_input");
  MoeRecord record{batch_,
                   layer_,
                   state_.take<std::vector<std::uint16_t>>("mlp_input_host"),
                   slots.topk.ids,
                   slots.topk.weights,
                   has_shared,
                   {}};
  if (fault(RankFault::kCombineInArrivalOrder)) into_arrival_order(slots);
  const std::int64_t h = options_.hidden, k = options_.topk;
  if (tokens_ > 0) {
    const Buffer ids = upload(slots.topk.ids), weights = upload(slots.topk.weights);
    const Buffer out = compute_.allocate(static_cast<std::size_t>(tokens_ * h) * 4);
    compute_.combine(combine_options(options_),
                     {{slots.rows.get(), DType::kBF16, Shape(tokens_, k, h)},
                      {weights.get(), DType::kF32, Shape(tokens_, k)},
                      {ids.get(), DType::kI32, Shape(tokens_, k)},
                      {shared.get(), DType::kBF16, Shape(tokens_, h)}},
                     {out.get(), DType::kF32, Shape(tokens_, h)});
    record.out = download<float>(out, tokens_ * h);
  }
  if (fault(RankFault::kSharedOnEveryRank) && has_shared) {
    const auto more = download<std::uint16_t>(shared, tokens_ * h);
    for (std::size_t i = 0; i < more.size(); ++i)
      record.out[i] +=
          static_cast<float>((context_.ranks.size() - 1) *
                             reference::load(DType::kBF16, more.data(), static_cast<std::int64_t>(i)));
  }
  if (context_.observe) context_.observe(record);
  state_.put("hidden", std::move(record.out));
}

void BatchOperations::post() {
  auto residual = state_.take<std::vector<float>>("residual");
  const auto hidden = state_.take<std::vector<float>>("hidden");
  for (std::size_t i = 0; i < residual.size(); ++i) residual[i] += hidden[i];
  state_.put("residual", std::move(residual));
  state_.require_only({"residual"});
}

// The planted bug: a token's slots ordered by the distance of the rank that sent them.
void BatchOperations::into_arrival_order(Slots& slots) {
  const int ranks = context_.ranks.size();
  const auto distance = [&](std::int64_t slot) {
    const std::int32_t id = slots.topk.ids[static_cast<std::size_t>(slot)];
    return id < 0 ? ranks
                  : (owner_of_expert(options_.experts, ranks, id) - context_.ranks.rank() + ranks) % ranks;
  };
  std::vector<std::int64_t> order(slots.topk.ids.size());
  std::iota(order.begin(), order.end(), 0);
  for (auto it = order.begin(); it != order.end(); it += options_.topk)
    std::stable_sort(it, it + options_.topk,
                     [&](std::int64_t a, std::int64_t b) { return distance(a) < distance(b); });
  Slots sorted{compute_.allocate(order.size() * row_bytes()), slots.topk};
  compute_.gather(sorted.rows, slots.rows, row_bytes(), order);
  for (std::size_t i = 0; i < order.size(); ++i) {
    sorted.topk.ids[i] = slots.topk.ids[static_cast<std::size_t>(order[i])];
    sorted.topk.weights[i] = slots.topk.weights[static_cast<std::size_t>(order[i])];
  }
  slots = std::move(sorted);
}

}  // namespace moecheck::harness::ranks
