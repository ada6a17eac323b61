#include "harness/glm4_moe/page_pool.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <set>

#include "harness/glm4_moe/sampler.h"

namespace moecheck::harness {
namespace {

TEST(PagePool, HandsOutEachPageOnce) {
  PagePool pool(3);
  std::set<std::int32_t> pages;
  for (int i = 0; i < 3; ++i) pages.insert(*pool.allocate());
  EXPECT_EQ(pages.size(), 3u);
  EXPECT_FALSE(pool.allocate());
  pool.release(*pages.begin());
  EXPECT_EQ(pool.allocate(), *pages.begin());
}

TEST(PagePool, SharesWhatWasPublished) {
  PagePool pool(4);
  const std::vector<std::int32_t> a = {1, 2}, b = {3, 4};
  const auto first = *pool.allocate(), second = *pool.allocate();
  EXPECT_FALSE(pool.share({}, a));
  pool.publish(first, {}, a);
  pool.publish(second, first, b);
  EXPECT_EQ(pool.share({}, a), first);
  EXPECT_EQ(pool.share(first, b), second);
  EXPECT_FALSE(pool.share({}, b));  // the same tokens behind another prefix
  for (int i = 0; i < 2; ++i) pool.release(first), pool.release(second);
  EXPECT_EQ(pool.held(), 0);
  EXPECT_EQ(pool.share({}, a), first);  // nobody held it, it was still there
  EXPECT_EQ(pool.held(), 1);
}

TEST(PagePool, AnOverwrittenPageIsNotFound) {
  PagePool pool(2);
  const std::vector<std::int32_t> a = {1}, b = {2};
  const auto first = *pool.allocate(), second = *pool.allocate();
  pool.publish(first, {}, a);
  pool.publish(second, first, b);
  pool.release(first);
  EXPECT_EQ(pool.allocate(), first);  // taken for something else
  EXPECT_FALSE(pool.share({}, a));
  EXPECT_FALSE(pool.share(first, b));  // its successor must not be found behind the new contents
}

// Against a model: a page that is shared holds exactly the chain of tokens it was asked for.
RC_GTEST_PROP(PagePool, NeverSharesOtherContents, ()) {
  PagePool pool(6);
  std::map<std::int32_t, std::vector<std::int32_t>> contents;  // the whole prefix up to this page
  std::vector<std::vector<std::int32_t>> held;                 // chains of pages
  const int steps = *rc::gen::inRange(1, 60);
  for (int s = 0; s < steps; ++s) {
    if (*rc::gen::inRange(0, 3) == 0 && !held.empty()) {
      for (const std::int32_t page : held.back()) pool.release(page);
      held.pop_back();
      continue;
    }
    std::vector<std::int32_t> chain, prefix;
    const int length = *rc::gen::inRange(1, 4);
    for (int i = 0; i < length; ++i) {
      const std::vector<std::int32_t> tokens = {*rc::gen::inRange(0, 2)};
      const auto previous = chain.empty() ? std::nullopt : std::optional(chain.back());
      prefix.push_back(tokens[0]);
      auto page = pool.share(previous, tokens);
      if (page) {
        RC_ASSERT(contents.at(*page) == prefix);
      } else {
        page = pool.allocate();
        if (!page) break;
        for (const auto& other : held) RC_ASSERT(std::find(other.begin(), other.end(), *page) == other.end());
        contents[*page] = prefix;
        pool.publish(*page, previous, tokens);
      }
      chain.push_back(*page);
    }
    held.push_back(chain);
  }
  for (const auto& chain : held)
    for (const std::int32_t page : chain) pool.release(page);
  RC_ASSERT(pool.held() == 0);
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdOfEquals) {
  const std::vector<float> logits = {1, 3, NAN, 3, -INFINITY};
  EXPECT_EQ(sample(logits, {}, 0), 1);
  EXPECT_EQ(sample(std::vector<float>{NAN, NAN}, {}, 0), 0);
}

TEST(Sampler, DrawsWithTheProbabilitiesOfTheSoftmax) {
  const std::vector<float> logits = {0, 1, 2, -INFINITY};
  std::array<int, 4> counts{};
  const int draws = 20000;
  for (int i = 0; i < draws; ++i) ++counts[static_cast<std::size_t>(sample(logits, {1.0, 1.0, 0, 5}, i))];
  const double total = 1 + std::exp(1) + std::exp(2);
  for (int i = 0; i < 3; ++i)
    EXPECT_NEAR(counts[static_cast<std::size_t>(i)] / static_cast<double>(draws), std::exp(i) / total, 0.015);
  EXPECT_EQ(counts[3], 0);
  EXPECT_EQ(sample(logits, {1.0, 1.0, 0, 5}, 17), sample(logits, {1.0, 1.0, 0, 5}, 17));
}

TEST(Sampler, TemperatureFlattens) {
  const std::vector<float> logits = {0, 1};
  const auto share = [&](double temperature) {
    int ones = 0;
    for (int i = 0; i < 5000; ++i) ones += sample(logits, {temperature, 1.0, 0, 5}, i) == 1;
    return ones / 5000.0;
  };
  for (const double t : {0.5, 1.0, 4.0}) EXPECT_NEAR(share(t), 1 / (1 + std::exp(-1 / t)), 0.03) << t;
}

TEST(Sampler, TopKAndTopPCut) {
  const std::vector<float> logits = {0, 1, 2, 3};
  for (int i = 0; i < 200; ++i) {
    EXPECT_GE(sample(logits, {1.0, 1.0, 2, 1}, i), 2);
    EXPECT_EQ(sample(logits, {1.0, 0.6, 0, 1}, i), 3);  // 0.644 of the mass is its own
  }
}

TEST(Sampler, LogprobsSumToOneAndStayFinite) {
  const std::vector<float> logits = {0, 1, -INFINITY, NAN};
  const TokenLogprob l = token_logprob(logits, 0, 2);
  EXPECT_NEAR(l.logprob, -std::log(1 + std::exp(1)), 1e-12);
  ASSERT_EQ(l.top.size(), 2u);
  EXPECT_EQ(l.top[0].first, 1);
  EXPECT_NEAR(std::exp(l.top[0].second) + std::exp(l.top[1].second), 1, 1e-12);
  EXPECT_EQ(token_logprob(logits, 3, 0).logprob, -9999);
}

}  // namespace
}  // namespace moecheck::harness
