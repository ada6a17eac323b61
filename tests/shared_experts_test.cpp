// Shared experts as slots of the top-k: the splitting theorem with its wrong variants, and slot insertion.
#include "reference/shared_experts.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cfloat>

#include "tests/moe_test_support.h"

namespace moecheck::reference {
namespace {

// A number in double with what its double arithmetic may have lost: terms * eps * sum of magnitudes.
struct Sum {
  double value = 0, magnitude = 0;
  std::int64_t terms = 0;
  void add(double v) { value += v, magnitude += std::fabs(v), ++terms; }
  double reach() const { return 4 * static_cast<double>(terms + 64) * DBL_EPSILON * magnitude; }
};

double silu_of(double x) { return x / (1 + std::exp(-x)); }

// sum_i down[h, i] silu(gate_i . x) (up_i . x) for one hidden element; rows of gate and up by accessor.
template <class Gate, class Up, class Down>
void add_mlp(const std::vector<double>& x, std::int64_t rows, Gate gate, Up up, Down down, Sum& out,
             double weight = 1) {
  for (std::int64_t i = 0; i < rows; ++i) {
    double g = 0, u = 0;
    for (std::size_t k = 0; k < x.size(); ++k) {
      g += gate(i, static_cast<std::int64_t>(k)) * x[k];
      u += up(i, static_cast<std::int64_t>(k)) * x[k];
    }
    out.add(weight * down(i) * silu_of(g) * u);
  }
}

struct Mlp {
  std::int64_t n, intermediate, hidden;
  SharedExpertWeights weights;
  std::vector<double> x;

  Sum fat(std::int64_t h) const {
    Sum out;
    add_mlp(
        x, n * intermediate, [&](auto i, auto k) { return weights.gate.view().at(i, k); },
        [&](auto i, auto k) { return weights.up.view().at(i, k); },
        [&](auto i) { return weights.down.view().at(h, i); }, out);
    return out;
  }
  void add_slot(const SharedSlot& slot, std::int64_t h, Sum& out, double weight = 1) const {
    add_mlp(
        x, intermediate, [&](auto i, auto k) { return slot.w13.view().at(i, k); },
        [&](auto i, auto k) { return slot.w13.view().at(intermediate + i, k); },
        [&](auto i) { return slot.w2.view().at(h, i); }, out, weight);
  }
  bool equal_to(const std::vector<SharedSlot>& slots, double weight = 1) const {
    for (std::int64_t h = 0; h < hidden; ++h) {
      const Sum whole = fat(h);
      Sum parts;
      for (const SharedSlot& slot : slots) add_slot(slot, h, parts, weight);
      if (!(std::fabs(whole.value - parts.value) <= whole.reach() + parts.reach())) return false;
    }
    return true;
  }
};

Mlp random_mlp(std::int64_t n, std::int64_t intermediate, std::int64_t hidden, Rng& rng) {
  Mlp mlp{n, intermediate, hidden, {}, {}};
  mlp.weights.gate = normal_tensor(DType::kBF16, Shape(n * intermediate, hidden), rng);
  mlp.weights.up = normal_tensor(DType::kBF16, Shape(n * intermediate, hidden), rng);
  mlp.weights.down = normal_tensor(DType::kBF16, Shape(hidden, n * intermediate), rng);
  for (std::int64_t k = 0; k < hidden; ++k) mlp.x.push_back(normal(rng));
  return mlp;
}

RC_GTEST_PROP(SplittingTheorem, TheSlotsTogetherAreTheFatMlpInAnyOrder, (std::uint64_t seed)) {
  Rng rng(seed);
  const Mlp mlp = random_mlp(*rc::gen::inRange(1, 5), *rc::gen::inRange(1, 6), *rc::gen::inRange(1, 9), rng);
  std::vector<SharedSlot> slots = split_shared_experts(mlp.weights, mlp.n, mlp.intermediate);
  RC_ASSERT(mlp.equal_to(slots));
  std::shuffle(slots.begin(), slots.end(), rng);
  RC_ASSERT(mlp.equal_to(slots));
}

TEST(SplittingTheorem, ItsWrongVariantsAreWrong) {
  Rng rng(17);
  for (const std::int64_t n : {2, 3, 4}) {
    const Mlp mlp = random_mlp(n, 4, 4 * n, rng);  // H divisible by n: rows of down can be cut as well
    const std::vector<SharedSlot> right = split_shared_experts(mlp.weights, n, 4);
    ASSERT_TRUE(mlp.equal_to(right));
    EXPECT_FALSE(mlp.equal_to(right, 1.0 / static_cast<double>(n))) << "weight 1/n per slot";
    EXPECT_FALSE(mlp.equal_to(std::vector<SharedSlot>(static_cast<std::size_t>(n), right[0])))
        << "chunk 0 replicated";
    EXPECT_FALSE(mlp.equal_to({right.begin(), right.end() - 1})) << "a slot that stayed zero";

    std::vector<SharedSlot> wrong = right;
    const WeightTensor stacked = stack_gate_up(mlp.weights.gate, mlp.weights.up);
    for (std::int64_t j = 0; j < n; ++j) wrong[static_cast<std::size_t>(j)].w13 = chunk_of(stacked, 0, n, j);
    EXPECT_FALSE(mlp.equal_to(wrong)) << "the stacked [G; U] cut along dim 0";

    wrong = right;
    for (std::int64_t j = 0; j < n; ++j) {
      wrong[static_cast<std::size_t>(j)].w2 = chunk_of(mlp.weights.down, 0, n, j);
      wrong[static_cast<std::size_t>(j)].w2.shape = Shape(mlp.hidden, mlp.intermediate);  // a careless view
    }
    EXPECT_FALSE(mlp.equal_to(wrong)) << "down cut by rows";

    wrong = right;
    std::swap(wrong[0].w2, wrong[1].w2);
    EXPECT_FALSE(mlp.equal_to(wrong)) << "down of another chunk";
  }
}

TEST(SplitWeights, StackedSlotsAreSlicesOfTheCheckpoint) {
  Rng rng(2);
  const Mlp mlp = random_mlp(3, 5, 7, rng);
  const std::vector<SharedSlot> slots = split_shared_experts(mlp.weights, 3, 5);
  for (std::int64_t j = 0; j < 3; ++j)
    for (std::int64_t i = 0; i < 5; ++i)
      for (std::int64_t k = 0; k < 7; ++k) {
        const SharedSlot& slot = slots[static_cast<std::size_t>(j)];
        EXPECT_EQ(slot.w13.view().at(i, k), mlp.weights.gate.view().at(5 * j + i, k));
        EXPECT_EQ(slot.w13.view().at(5 + i, k), mlp.weights.up.view().at(5 * j + i, k));
        EXPECT_EQ(slot.w2.view().at(k, i), mlp.weights.down.view().at(k, 5 * j + i));
      }
}

// Scales: the dequantized weight of a slot is the slice of the dequantized fat weight.

double scale_of(ConstView scale, WeightScale kind, std::int64_t row, std::int64_t col) {
  switch (kind) {
    case WeightScale::kNone:
      return 1;
    case WeightScale::kTensor:
      return scale.at(0);
    case WeightScale::kChannel:
      return scale.at(row);
    case WeightScale::kBlock:
      return scale.at(row / kScaleBlock, col / kScaleBlock);
  }
  return 0;
}

TEST(SplitScales, DequantizedSlotsAreSlicesOfTheDequantizedWeights) {
  Rng rng(23);
  for (const WeightScale kind : {WeightScale::kTensor, WeightScale::kChannel, WeightScale::kBlock})
    for (const bool column : {false, true})
      for (const std::int64_t n : {1, 2, 3}) {
        const std::int64_t inter = kind == WeightScale::kBlock ? 128 : 6,
                           hidden = kind == WeightScale::kBlock ? 136 : 5;
        const SharedExpertWeights w = scaled_weights(kind, n * inter, hidden, column, rng);
        const std::vector<SharedSlot> slots = split_shared_experts(w, n, inter);
        for (std::int64_t j = 0; j < n; ++j)
          for (std::int64_t i = 0; i < inter; ++i)
            for (std::int64_t k = 0; k < hidden; ++k) {
              const SharedSlot& slot = slots[static_cast<std::size_t>(j)];
              const auto w13 = [&](std::int64_t row) {
                const bool up = row >= inter;
                const double s = kind == WeightScale::kTensor ? slot.w13_scale.view().at(up ? 1 : 0)
                                                              : scale_of(slot.w13_scale.view(), kind, row, k);
                return slot.w13.view().at(row, k) * s;
              };
              const std::int64_t fat_row = j * inter + i;
              EXPECT_EQ(w13(i),
                        w.gate.view().at(fat_row, k) * scale_of(w.gate_scale.view(), kind, fat_row, k));
              EXPECT_EQ(w13(inter + i),
                        w.up.view().at(fat_row, k) * scale_of(w.up_scale.view(), kind, fat_row, k));
              EXPECT_EQ(slot.w2.view().at(k, i) * scale_of(slot.w2_scale.view(), kind, k, i),
                        w.down.view().at(k, fat_row) * scale_of(w.down_scale.view(), kind, k, fat_row));
            }
      }
}

TEST(SplitScales, TheDownScaleOfAChannelIsReplicated) {
  EXPECT_EQ(split_dim(Projection::kGate, false, WeightScale::kChannel), 0);
  EXPECT_EQ(split_dim(Projection::kUp, true, WeightScale::kChannel), 0);
  EXPECT_EQ(split_dim(Projection::kDown, false, WeightScale::kChannel), 1);
  EXPECT_EQ(split_dim(Projection::kDown, true, WeightScale::kChannel), std::nullopt);
  EXPECT_EQ(split_dim(Projection::kDown, true, WeightScale::kBlock), 1);
  EXPECT_EQ(split_dim(Projection::kGate, true, WeightScale::kTensor), std::nullopt);
}

TEST(SplitRefusals, SayTheValueAndWhatToDo) {
  Rng rng(1);
  const auto text = [](const SharedExpertWeights& w, std::int64_t n, std::int64_t inter) {
    return split_refusal(w, n, inter).value_or("accepted");
  };
  const Mlp mlp = random_mlp(1, 10, 4, rng);
  EXPECT_NE(text(mlp.weights, 3, 4).find("10 is not divisible by n_shared_experts=3"), std::string::npos);
  EXPECT_NE(text(mlp.weights, 2, 4).find("moe_intermediate_size=4"), std::string::npos);
  EXPECT_NE(text(mlp.weights, 0, 4).find("nothing to fuse"), std::string::npos);
  EXPECT_EQ(text(mlp.weights, 2, 5), "accepted");
  const SharedExpertWeights block = scaled_weights(WeightScale::kBlock, 2 * 96, 32, false, rng);
  EXPECT_NE(text(block, 2, 96).find("straddle two chunks"), std::string::npos);
  SharedExpertWeights channel = scaled_weights(WeightScale::kChannel, 8, 4, false, rng);
  channel.down_scale = WeightTensor(DType::kF32, Shape(8));
  EXPECT_NE(text(channel, 2, 4).find("down scale has shape [8]"), std::string::npos);
  EXPECT_THROW(split_shared_experts(channel, 2, 4), std::invalid_argument);
  SharedExpertWeights bad = mlp.weights;
  bad.up = WeightTensor(DType::kBF16, Shape(4, 10));
  EXPECT_NE(text(bad, 1, 10).find("do not make one MLP"), std::string::npos);
}

std::vector<Bounded> exact(const std::vector<double>& values) {
  std::vector<Bounded> out;
  for (const double v : values) out.push_back(Bounded::exact(v));
  return out;
}
std::int64_t millionths(double v) { return std::llround(v * 1e6); }

TEST(SlotInsertion, SglangGivesTheWorkedNumbers) {
  const std::vector<std::int64_t> ids = {1, 2};
  const std::vector<double> scores = {1 / (1 + std::exp(-0.1)), 1 / (1 + std::exp(-0.5))};
  SlotInsertionOptions o;
  o.experts = 4, o.topk = 2, o.routed_scaling_factor = 2.5;
  const auto weights = [&] {
    std::vector<std::int64_t> w;
    for (const Bounded& b : insert_shared_slots(ids, exact(scores), o).weights)
      w.push_back(millionths(b.value));
    return w;
  };
  EXPECT_EQ(weights(), (std::vector<std::int64_t>{457523, 542477, 400000}));
  o.scale_flag = true;
  EXPECT_EQ(weights(), (std::vector<std::int64_t>{1143807, 1356193, 1000000}));
  o.scale_flag = false, o.renormalize = false;
  EXPECT_EQ(weights(), (std::vector<std::int64_t>{524979, 622459, 458975}));
  EXPECT_EQ(insert_shared_slots(ids, exact(scores), o).ids, (std::vector<std::int64_t>{1, 2, 4}));
}

RC_GTEST_PROP(SlotInsertionProperties, SglangsSlotMakesTheFusedBlockEqualTheUnfusedOneWhenRenormalized,
              (std::uint64_t seed)) {
  Rng rng(seed);
  const std::int64_t topk = *rc::gen::inRange(1, 9), n = *rc::gen::inRange(1, 5);
  const std::vector<double> scores = random_weights(rng, 1, topk, uniform(rng, 0.3, 4));
  std::vector<double> f;
  for (std::int64_t k = 0; k < topk + n; ++k) f.push_back(normal(rng));
  SlotInsertionOptions o;
  o.experts = 16, o.topk = topk, o.shared = n, o.routed_scaling_factor = 2.5;
  o.scale_flag = *rc::gen::arbitrary<bool>();
  o.renormalize = *rc::gen::arbitrary<bool>();
  const Slots slots = insert_shared_slots(random_ids(rng, 1, topk, 16), exact(scores), o);
  double fused = 0, routed = 0, shared = 0, total = 0, bound = 0;
  for (const double s : scores) total += s;
  for (std::int64_t k = 0; k < topk + n; ++k) {
    const auto i = static_cast<std::size_t>(k);
    const double output_scale = o.scale_flag ? 1 : 2.5;
    fused += output_scale * slots.weights[i].value * f[i];
    bound += output_scale * (slots.weights[i].proven + 8 * DBL_EPSILON) * std::fabs(f[i]);
    (k < topk ? routed : shared) += (k < topk ? scores[i] / total : 1) * f[i];
  }
  // Without renormalization both parts keep the scores' sum: the shared output is off by (sum - 1) S.
  const double sum = o.renormalize ? 1 : total;
  RC_ASSERT(std::fabs(fused - sum * (2.5 * routed + shared)) <= bound);
  if (!o.renormalize && std::fabs(total - 1) > 0.01 && std::fabs(shared) > 0.01)
    RC_ASSERT(std::fabs(fused - (2.5 * total * routed + shared)) > bound);
}

TEST(SlotInsertion, ThePartsOfAllRanksMakeOneSharedExpert) {
  constexpr std::int64_t kTokens = 11, kTopk = 2, kShared = 2;
  Rng rng(9);
  const std::vector<std::int64_t> ids = random_ids(rng, kTokens, kTopk, 8);
  const std::vector<Bounded> weights = exact(random_weights(rng, kTokens, kTopk));
  for (const SlotInsertion insertion : {SlotInsertion::kAiterAppend, SlotInsertion::kVllmRocm})
    for (const std::int64_t ranks : {1, 2, 4}) {
      std::vector<double> total(kTokens * kShared, 0);
      for (std::int64_t rank = 0; rank < ranks; ++rank) {
        SlotInsertionOptions o;
        o.insertion = insertion, o.experts = 8, o.topk = kTopk, o.shared = kShared;
        o.append_weight = 1.0 / static_cast<double>(ranks), o.ep_rank = rank, o.ep_size = ranks;
        const Slots slots = insert_shared_slots(ids, weights, o);
        const bool sentinel = insertion == SlotInsertion::kVllmRocm && ranks > 1;
        ASSERT_EQ(o.columns(), kTopk + kShared + (sentinel ? 1 : 0));
        for (std::int64_t t = 0; t < kTokens; ++t)
          for (std::int64_t c = 0; c < o.columns(); ++c) {
            const auto s = static_cast<std::size_t>(t * o.columns() + c);
            const std::int64_t id = slots.ids[s];
            if (c < kTopk) {
              EXPECT_EQ(id, ids[static_cast<std::size_t>(t * kTopk + c)]);
            } else if (id != o.sentinel()) {
              EXPECT_EQ(id, 8 + c - kTopk);
              total[static_cast<std::size_t>(t * kShared + id - 8)] += slots.weights[s].value;
            } else {
              EXPECT_TRUE(sentinel);
            }
          }
      }
      for (const double w : total) EXPECT_EQ(w, 1) << name(insertion) << " over " << ranks << " ranks";
    }
}

TEST(SlotInsertion, AGatedSlotWeighsTheSigmoidOfItsLogit) {
  SlotInsertionOptions o;
  o.insertion = SlotInsertion::kGated, o.experts = 4, o.topk = 1;
  const std::vector<std::int64_t> ids = {3, 0};
  const std::vector<double> logits = {0, 2};
  const Slots slots = insert_shared_slots(ids, exact({1, 1}), o, logits);
  EXPECT_EQ(slots.weights[1].value, 0.5);
  EXPECT_DOUBLE_EQ(slots.weights[3].value, 1 / (1 + std::exp(-2)));
  EXPECT_EQ(slots.weights[2].value, 1) << "outside the renormalized weights";
  EXPECT_THROW(insert_shared_slots(ids, exact({1, 1}), o), std::invalid_argument);
  EXPECT_THROW(insert_shared_slots(ids, exact({1}), o, logits), std::invalid_argument);
}

}  // namespace
}  // namespace moecheck::reference
