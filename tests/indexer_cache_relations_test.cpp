// Which relation of indexer_cache sees which mistake; and the paged caches that it makes for its readers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "tests/altered_implementation.h"
#include "tests/indexer_cache_test_support.h"

namespace moecheck::harness {
namespace {

using namespace indexer_cache_test;
using reference::CacheLayout;

// ---- Relations: each is broken by an implementation that deserves it

struct Breaker {
  std::string_view relation;
  const char* fields;
  Altered::After after;
};

void flip_codes(const Case& c, const TensorSet& in, TensorSet& out, std::int64_t token) {
  const CacheLayout l = cache_layout(c);
  const std::int64_t s = slot(in, token);
  if (s >= 0) bytes(out)[l.value_at(s, 3)] ^= 0x01;
}

const std::vector<Breaker>& breakers() {
  static const std::vector<Breaker> all = {
      // Right as long as the token that was generated first comes first.
      {"token_order", "tokens=12",
       [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
         static const std::int64_t first = slot(in, 0);
         if (c.integer("tokens") == 12 && slot(in, 0) != first) flip_codes(c, in, out, 2);
       }},
      {"one_after_the_other", "tokens=12",
       [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
         if (c.integer("tokens") < 12) flip_codes(c, in, out, 0);
       }},
      {"skipped_tokens", "tokens=12",
       [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
         for (std::int64_t t = 0; !is_gather(c) && t < c.integer("tokens"); ++t)
           if (slot(in, t) < 0) bytes(out)[0] = 0x77;
       }},
      {"layouts_agree", "tokens=12 layout=row_major",
       [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
         if (c.choice("layout") == "preshuffled") flip_codes(c, in, out, 5);
       }},
      {"layouts_agree", "form=gather tokens=12",
       [](const Case& c, const TensorSet&, TensorSet& out, const RunOptions&) {
         if (c.choice("layout") == "preshuffled") bytes(out, "dst_k")[7] ^= 1;
       }},
      {"round_trip", "tokens=12",
       [](const Case& c, const TensorSet&, TensorSet& out, const RunOptions&) {
         if (is_gather(c)) bytes(out, "dst_scale")[20] ^= 1;
       }},
      // An absolute threshold: codes change where the numbers are large.
      {"power_of_two", "tokens=12",
       [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
         if (is_gather(c)) return;
         double most = 0;
         for (std::int64_t i = 0; i < in.at("k").shape().numel(); ++i)
           most = std::max(most, std::fabs(in.at("k").view().at(i)));
         static double first = most;
         if (most > first * 1.5) flip_codes(c, in, out, 4);
       }},
      {"negation", "tokens=12",
       [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
         if (is_gather(c)) return;
         static const double first = in.at("k").view().at(0);
         if (in.at("k").view().at(0) == -first) flip_codes(c, in, out, 0);
       }},
      {"blocks_renamed", "form=gather tokens=40 block_size=16",
       [](const Case&, const TensorSet& in, TensorSet& out, const RunOptions&) {
         static const std::int64_t first = in.at("block_table").view().int_at(0);
         if (in.at("block_table").view().int_at(0) != first) bytes(out, "dst_k")[1] ^= 1;
       }},
      // Reads a byte of a token that is not its own.
      {"other_bytes", "form=gather tokens=20 block_size=64 requests=1",
       [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
         const CacheLayout l = cache_layout(c);
         const std::int64_t last = slot_of(paged_cache(c), in.view("block_table"), 0, 0) + 63;
         static const std::uint8_t first = in.view("kv_cache").as<std::uint8_t>()[l.value_at(last, 0)];
         if (in.view("kv_cache").as<std::uint8_t>()[l.value_at(last, 0)] != first)
           bytes(out, "dst_k")[1] ^= 1;
       }},
      {"request_alone", "form=gather tokens=60 block_size=16 requests=4",
       [](const Case& c, const TensorSet&, TensorSet& out, const RunOptions&) {
         if (c.integer("requests") == 1 && c.integer("tokens") > 0) bytes(out, "dst_k")[1] ^= 1;
       }},
      {"block_size_changed", "form=gather tokens=60 block_size=64",
       [](const Case& c, const TensorSet&, TensorSet& out, const RunOptions&) {
         if (c.integer("block_size") == 32) bytes(out, "dst_scale")[8] ^= 1;
       }}};
  return all;
}

TEST(IndexerCacheRelations, EachIsBrokenByWhoDeservesIt) {
  std::set<std::string_view> broken;
  for (const Breaker& b : breakers()) {
    const Record r = check_altered(line(b.fields), b.after);
    EXPECT_EQ(r.result.failed, 0) << b.relation << ": the comparison alone saw it";
    const ClauseResult* clause = find_clause(r, b.relation);
    ASSERT_NE(clause, nullptr) << b.relation;
    EXPECT_EQ(clause->verdict, Verdict::kFail) << b.relation << " " << b.fields << ": " << clause->detail;
    broken.insert(b.relation);
  }
  for (const Relation& r : op().relations())
    EXPECT_TRUE(broken.contains(r.name)) << r.name << " was never broken";
}

TEST(IndexerCacheRelations, TheReferenceKeepsThemAndEachIsAsked) {
  std::set<std::string> asked;
  for (const Case& c : op().cases(Suite::kQuick)) {
    const Record r =
        check_altered(c.str(), [](const Case&, const TensorSet&, TensorSet&, const RunOptions&) {});
    EXPECT_FALSE(is_failure(r.result.verdict)) << c.str() << ": " << r.result.reason;
    for (const ClauseResult& clause : r.result.clauses)
      if (clause.verdict == Verdict::kPass) asked.insert(clause.name);
  }
  for (const Relation& r : op().relations()) EXPECT_TRUE(asked.contains(std::string(r.name))) << r.name;
}

// ---- Paged caches for consumers

TEST(PagedCaches, HoldEveryTokenOnceUnlessSharedAndPoisonElsewhere) {
  PagedCache p;
  p.layout.order = reference::CacheOrder::kPreshuffled;
  p.layout.block_size = 16, p.layout.quant_block = 128;
  p.lengths = {40, 33, 0, 16, 1};
  p.columns = p.columns_needed() + 2;
  p.blocks = p.blocks_needed() + 3;
  EXPECT_EQ(p.columns_needed(), 3);
  EXPECT_EQ(p.blocks_needed(), 3 + 3 + 0 + 1 + 1);
  const SlotRow row = [](std::int64_t s, std::span<float> k) {
    for (std::size_t i = 0; i < k.size(); ++i)
      k[i] = static_cast<float>(s * 7 + static_cast<std::int64_t>(i) - 300);
  };
  for (const bool share : {false, true}) {
    p.share_prefix = share;
    Tensor table("block_table", DType::kI32, Shape(5, p.columns)),
        cache("kv_cache", DType::kU8, Shape(p.blocks, p.layout.stride()));
    fill_block_table(p, Random(7, "table"), table.view());
    fill_paged_cache(p, {}, Random(7, "cache"), row, std::as_const(table).view(), cache);
    std::map<std::int64_t, int> owners;
    for (std::int64_t r = 0; r < 5; ++r)
      for (std::int64_t i = 0; i < p.lengths[at(r)]; ++i) {
        const std::int64_t s = slot_of(p, std::as_const(table).view(), r, i);
        ASSERT_TRUE(s >= 0 && s < p.blocks * 16);
        ++owners[s];
        std::vector<float> k(128);
        row(s, k);
        std::vector<std::uint8_t> want(128), got(128);
        float scale = 0, stored = 0;
        reference::quantize_row({}, 128, k.data(), 128, want.data(), &scale);
        reference::get_row(p.layout, cache.view().as<std::uint8_t>(), s, got.data(), &stored);
        ASSERT_EQ(got, want);
        ASSERT_EQ(stored, scale);
      }
    EXPECT_EQ(owners.size() == 90, !share);
    if (share) {
      EXPECT_EQ(owners.size(), 90U - 16) << "request 1 begins with one block of request 0";
    }
  }
}

// A scale per element: some are below the floor, whose scale twice the element does not move.
TEST(IndexerCacheRelations, PowerOfTwoLeavesOutGroupsBelowTheFloor) {
  const Implementation* one[] = {find_implementation("cpu")};
  const Case c = parse_case(
      "indexer_cache tokens=8 block_size=1 head_dim=256 quant_block=1 requests=1 seed=635636");
  const Record r = check_case(c, one, {}).front();
  EXPECT_EQ(r.result.verdict, Verdict::kPass) << r.result.reason;
}

TEST(PagedCaches, RequestLengthsAddUpWithinTheTable) {
  for (int seed = 1; seed <= 300; ++seed)
    for (const char* fields : {"tokens=40", "tokens=0", "tokens=100 requests=9 extra_rows=7",
                               "tokens=64 requests=2 block_size=16 columns=2"}) {
      Case c = a_case(std::string("form=gather ") + fields);
      c.seed = static_cast<std::uint64_t>(seed);
      std::int64_t sum = 0;
      for (const std::int64_t length : request_lengths(c)) {
        ASSERT_GE(length, 0);
        if (c.integer("columns") > 0) {
          ASSERT_LE(length, c.integer("columns") * c.integer("block_size"));
        }
        sum += length;
      }
      ASSERT_EQ(sum, c.integer("tokens") - c.integer("extra_rows")) << c.str();
    }
}

}  // namespace
}  // namespace moecheck::harness
