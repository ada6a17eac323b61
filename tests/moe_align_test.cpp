// Alignment, sorting and permutation: integers, so every property is an equality.
#include "reference/moe_align.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tests/moe_test_support.h"

namespace moecheck::reference {
namespace {

struct AlignSpec {
  std::int64_t tokens, topk, experts, block;
  std::vector<std::int64_t> ids;
};
AlignSpec align_spec(Rng& rng, double missing) {
  AlignSpec s{*rc::gen::inRange(0, 20),
              *rc::gen::inRange(1, 5),
              *rc::gen::inRange(5, 40),
              *rc::gen::element(1, 4, 16),
              {}};
  s.ids = random_ids(rng, s.tokens, s.topk, s.experts, missing);
  return s;
}

RC_GTEST_PROP(AlignProperties, EveryValidSlotStandsOnceInABlockOfItsExpert, (std::uint64_t seed)) {
  Rng rng(seed);
  const AlignSpec s = align_spec(rng, 0.2);
  AlignOptions o;
  o.experts = s.experts, o.block_size = s.block;
  o.convention = *rc::gen::element(AlignConvention::kVllm, AlignConvention::kSglang);
  const Alignment a = moe_align_block_size(s.ids, o);
  const auto numel = static_cast<std::int32_t>(s.ids.size());
  RC_ASSERT(static_cast<std::int64_t>(a.sorted_token_ids.size()) == o.capacity(numel));
  RC_ASSERT(a.num_tokens_post_padded % s.block == 0);
  RC_ASSERT(a.num_tokens_post_padded <= static_cast<std::int64_t>(a.sorted_token_ids.size()));
  std::vector<int> seen(s.ids.size(), 0);
  std::int32_t previous = -1;
  for (std::int64_t i = 0; i < a.num_tokens_post_padded; ++i) {
    const std::int32_t slot = a.sorted_token_ids[static_cast<std::size_t>(i)];
    const std::int32_t expert = a.expert_ids[static_cast<std::size_t>(i / s.block)];
    RC_ASSERT(expert >= previous);
    previous = expert;
    if (slot == numel) continue;
    RC_ASSERT(s.ids[static_cast<std::size_t>(slot)] == expert);
    ++seen[static_cast<std::size_t>(slot)];
  }
  for (std::size_t i = 0; i < seen.size(); ++i)
    RC_ASSERT(seen[i] == (s.ids[i] >= 0 || o.convention == AlignConvention::kSglang ? 1 : 0));
  RC_ASSERT(!alignment_fault(a, s.ids, o));
}

RC_GTEST_PROP(AlignProperties, AnyOrderWithinAnExpertIsAcceptedAndEveryChangeIsNot, (std::uint64_t seed)) {
  Rng rng(seed);
  AlignSpec s = align_spec(rng, 0);
  if (s.ids.empty()) s.tokens = 1, s.ids = random_ids(rng, 1, s.topk, s.experts);
  AlignOptions o;
  o.experts = s.experts, o.block_size = s.block;
  const Alignment a = moe_align_block_size(s.ids, o);
  Alignment shuffled = a;
  for (std::int64_t b = 0; b < a.num_tokens_post_padded / s.block; ++b)
    std::shuffle(shuffled.sorted_token_ids.begin() + b * s.block,
                 shuffled.sorted_token_ids.begin() + (b + 1) * s.block, rng);
  RC_ASSERT(!alignment_fault(shuffled, s.ids, o));

  const std::int64_t at = integer(rng, 0, a.num_tokens_post_padded - 1);
  Alignment wrong = a;
  wrong.sorted_token_ids[static_cast<std::size_t>(at)] += 1;
  RC_ASSERT(alignment_fault(wrong, s.ids, o).has_value());
  wrong = a;
  wrong.expert_ids[static_cast<std::size_t>(at / s.block)] += 1;
  RC_ASSERT(alignment_fault(wrong, s.ids, o).has_value());
  wrong = a;
  wrong.num_tokens_post_padded += static_cast<std::int32_t>(s.block);
  RC_ASSERT(alignment_fault(wrong, s.ids, o).has_value());
}

TEST(Align, AHandCheckedExample) {
  const std::vector<std::int64_t> ids = {2, 0, 2, 1, 2, -1};
  AlignOptions o;
  o.experts = 4, o.block_size = 2;
  const Alignment a = moe_align_block_size(ids, o);
  EXPECT_EQ(a.num_tokens_post_padded, 8);
  const std::vector<std::int32_t> begin(a.sorted_token_ids.begin(), a.sorted_token_ids.begin() + 8);
  EXPECT_EQ(begin, (std::vector<std::int32_t>{1, 6, 3, 6, 0, 2, 4, 6}));
  EXPECT_EQ(a.expert_ids, (std::vector<std::int32_t>{0, 1, 2, 2, -1}));
  o.convention = AlignConvention::kSglang;
  const Alignment s = moe_align_block_size(ids, o);
  EXPECT_EQ(s.expert_ids[0], -1);
  EXPECT_EQ(s.sorted_token_ids[0], 5);
  EXPECT_EQ(s.num_tokens_post_padded, 10);
}

TEST(Align, ExpertMapLeavesForeignBlocksInPlaceUnlessTheyAreIgnored) {
  const std::vector<std::int64_t> ids = {0, 1, 2, 3};
  const std::vector<std::int32_t> map = {-1, 1, -1, 0};
  AlignOptions o;
  o.experts = 4, o.block_size = 2, o.expert_map = map;
  const Alignment a = moe_align_block_size(ids, o);
  EXPECT_EQ(a.num_tokens_post_padded, 8);
  EXPECT_EQ((std::vector<std::int32_t>(a.expert_ids.begin(), a.expert_ids.begin() + 4)),
            (std::vector<std::int32_t>{-1, 1, -1, 0}));
  o.ignore_invalid_experts = true;
  const Alignment b = moe_align_block_size(ids, o);
  EXPECT_EQ(b.num_tokens_post_padded, 4);
  EXPECT_EQ(b.expert_ids[0], 0);
  EXPECT_EQ(b.sorted_token_ids[0], 3);
  EXPECT_EQ(b.sorted_token_ids[2], 1);
}

TEST(Align, SglangsSmallBatchesHaveASmallBuffer) {
  AlignOptions o;
  o.convention = AlignConvention::kSglang, o.experts = 256, o.block_size = 64;
  EXPECT_EQ(o.capacity(8), 8 * 64);
  EXPECT_EQ(o.capacity(257), 257 + 257 * 63);
}

RC_GTEST_PROP(SortingProperties, EncodedIdsDecodeToTheirSlotWeightAndLocalExpert, (std::uint64_t seed)) {
  Rng rng(seed);
  const AlignSpec s = align_spec(rng, 0);
  std::vector<float> weights;
  for (std::size_t i = 0; i < s.ids.size(); ++i) weights.push_back(static_cast<float>(uniform(rng, 0, 1)));
  std::vector<std::int32_t> mask, local;
  std::int32_t next = 0;
  for (std::int64_t e = 0; e < s.experts; ++e) {
    mask.push_back(uniform(rng, 0, 1) < 0.6 ? 1 : 0);
    local.push_back(mask.back() != 0 ? next++ : -1);
  }
  SortingOptions o;
  o.experts = s.experts, o.topk = s.topk, o.block_size = s.block, o.expert_mask = mask;
  o.num_local_tokens = s.tokens == 0 ? 0 : integer(rng, 0, s.tokens);
  const Sorting sorted = moe_sorting(s.ids, weights, o);
  RC_ASSERT(!sorting_fault(sorted, s.ids, weights, o));
  std::int64_t found = 0, expected = 0;
  const std::uint32_t pad =
      encode_sorted_id(static_cast<std::uint32_t>(s.topk), static_cast<std::uint32_t>(s.tokens));
  for (std::int64_t i = 0; i < sorted.num_valid_ids[0]; ++i) {
    const std::uint32_t id = sorted.sorted_ids[static_cast<std::size_t>(i)];
    if (id == pad) continue;
    const std::size_t slot = sorted_token(id) * static_cast<std::size_t>(s.topk) + sorted_k(id);
    RC_ASSERT(sorted.sorted_weights[static_cast<std::size_t>(i)] == weights[slot]);
    RC_ASSERT(sorted.sorted_expert_ids[static_cast<std::size_t>(i / s.block)] ==
              local[static_cast<std::size_t>(s.ids[slot])]);
    RC_ASSERT(sorted_token(id) < o.num_local_tokens);
    ++found;
  }
  for (std::int64_t i = 0; i < o.num_local_tokens * s.topk; ++i)
    expected += mask[static_cast<std::size_t>(s.ids[static_cast<std::size_t>(i)])];
  RC_ASSERT(found == expected);
  RC_ASSERT(sorted.num_valid_ids[1] == o.num_local_tokens);
}

TEST(Sorting, MistakesAreNamed) {
  const std::vector<std::int64_t> ids = {3, 1, 1, 0};
  const std::vector<float> weights = {0.5F, 0.25F, 0.75F, 1};
  const std::vector<std::int32_t> mask = {0, 1, 0, 1};
  SortingOptions o;
  o.experts = 4, o.topk = 2, o.block_size = 2, o.expert_mask = mask;
  const Sorting right = moe_sorting(ids, weights, o);
  EXPECT_EQ(right.sorted_ids[0], encode_sorted_id(1, 0));
  EXPECT_EQ(right.sorted_ids[1], encode_sorted_id(0, 1));
  EXPECT_EQ(right.sorted_ids[2], encode_sorted_id(0, 0));
  EXPECT_EQ(right.sorted_ids[3], encode_sorted_id(2, 2)) << "padding is (K << 24) | M";
  EXPECT_EQ(right.sorted_expert_ids[0], 0) << "local index";
  EXPECT_EQ(right.sorted_expert_ids[1], 1);
  Sorting wrong = right;
  wrong.sorted_expert_ids[1] = 3;
  EXPECT_NE(sorting_fault(wrong, ids, weights, o)->find("not local 1"), std::string::npos)
      << "global instead of local id";
  wrong = right;
  wrong.sorted_weights[0] = 0.5F;
  EXPECT_NE(sorting_fault(wrong, ids, weights, o)->find("sorted_weights[0]"), std::string::npos);
  wrong = right;
  wrong.sorted_ids[0] = encode_sorted_id(0, 1);
  EXPECT_NE(sorting_fault(wrong, ids, weights, o)->find("more than once"), std::string::npos);
  wrong = right;
  wrong.sorted_ids[0] = encode_sorted_id(2, 2);
  EXPECT_NE(sorting_fault(wrong, ids, weights, o)->find("missing"), std::string::npos);
  wrong = right;
  wrong.num_valid_ids[1] = 3;
  EXPECT_TRUE(sorting_fault(wrong, ids, weights, o));
  o.topk = 256;
  EXPECT_THROW(moe_sorting({}, {}, o), std::invalid_argument);
}

RC_GTEST_PROP(PermuteProperties, UnpermuteUndoesPermuteInBothIndexSpaces, (std::uint64_t seed)) {
  Rng rng(seed);
  const std::int64_t tokens = *rc::gen::inRange(1, 8), hidden = 8;
  PermuteOptions o;
  o.topk = *rc::gen::inRange(1, 4), o.experts = 6;
  o.index = *rc::gen::element(SlotIndex::kTokenMajor, SlotIndex::kKMajor);
  o.align = *rc::gen::element(1, 4, 128);
  const std::vector<std::int32_t> map = {1, -1, 0, 2, -1, 3};
  if (*rc::gen::arbitrary<bool>()) o.expert_map = map;
  const std::vector<std::int64_t> ids = random_ids(rng, tokens, o.topk, 6, 0.1);
  const WeightTensor x = integer_tensor(DType::kBF16, Shape(tokens, hidden), rng, 20);
  std::vector<double> weights;
  for (std::size_t i = 0; i < ids.size(); ++i)
    weights.push_back(std::ldexp(1, static_cast<int>(integer(rng, -4, 0))));
  const WeightTensor w = float_tensor(Shape(tokens, o.topk), weights);

  const Permutation p = permute(ids, o);
  WeightTensor permuted(DType::kBF16, Shape(p.rows(), hidden));
  for (std::int64_t i = 0; i < p.rows() * hidden; ++i) permuted.mutable_view().set(i, std::nan(""));
  permute_rows(x.view(), p, o, permuted.mutable_view());
  RC_ASSERT(p.expert_first_token_offset.back() == p.rows());
  for (std::int64_t e = 0; e < o.local_experts(); ++e)
    RC_ASSERT(p.expert_first_token_offset[static_cast<std::size_t>(e)] % o.align == 0);
  const std::vector<Bounded> out = unpermute(permuted.view(), w.view(), p, o);
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t h = 0; h < hidden; ++h) {
      double sum = 0;  // of the token's own weights: each of its rows is a copy of x[t]
      for (std::int64_t k = 0; k < o.topk; ++k) {
        const std::int64_t id = ids[static_cast<std::size_t>(t * o.topk + k)];
        const bool local = id >= 0 && (o.expert_map.empty() || map[static_cast<std::size_t>(id)] >= 0);
        if (local) sum += weights[static_cast<std::size_t>(t * o.topk + k)] * x.view().at(t, h);
      }
      const Bounded& b = out[static_cast<std::size_t>(t * hidden + h)];
      RC_ASSERT(b.is_exact() && b.value == sum);
    }
}

TEST(Permute, MixingTheIndexSpacesIsSeen) {
  Rng rng(12);
  PermuteOptions token_major, k_major;
  token_major.topk = k_major.topk = 2;
  token_major.experts = k_major.experts = 4;
  k_major.index = SlotIndex::kKMajor;
  const std::vector<std::int64_t> ids = {0, 1, 2, 3, 1, 2};
  const WeightTensor x = integer_tensor(DType::kF32, Shape(3, 4), rng, 50),
                     w = float_tensor(Shape(3, 2), {1, 2, 4, 8, 16, 32});
  const Permutation p = permute(ids, k_major);
  WeightTensor rows(DType::kF32, Shape(p.rows(), 4));
  permute_rows(x.view(), p, k_major, rows.mutable_view());
  const std::vector<Bounded> right = unpermute(rows.view(), w.view(), p, k_major);
  const std::vector<Bounded> mixed = unpermute(rows.view(), w.view(), p, token_major);
  EXPECT_EQ(right[0].value, 3 * x.view().at(0));
  bool differ = false;
  for (std::size_t i = 0; i < right.size(); ++i) differ = differ || right[i].value != mixed[i].value;
  EXPECT_TRUE(differ);
}

TEST(Permute, PaddingRowsAreNobodys) {
  PermuteOptions o;
  o.topk = 1, o.experts = 3, o.align = 2, o.invalid_expert = 0;
  const std::vector<std::int64_t> ids = {2, 0, 2, -1};
  const Permutation p = permute(ids, o);
  EXPECT_EQ(p.expert_first_token_offset, (std::vector<std::int64_t>{0, 2, 2, 4}));
  EXPECT_EQ(p.slot_of_row, (std::vector<std::int32_t>{1, -1, 0, 2}));
  EXPECT_EQ(p.row_of_slot, (std::vector<std::int32_t>{2, 0, 3, -1}));
  EXPECT_EQ(p.m_indices, (std::vector<std::int32_t>{0, 0, 2, 2}));
}

}  // namespace
}  // namespace moecheck::reference
