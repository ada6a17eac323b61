// Loads: lengths, seeds, warm-ups, traces; arrivals: their distribution and their sum; sweeps and limits as typed.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <numeric>
#include <set>

#include "harness/case.h"
#include "harness/load/plan.h"
#include "harness/load/workload.h"

namespace moecheck::harness::load {
namespace {

class File {
 public:
  explicit File(const std::string& content) {
    static int number = 0;
    path_ = (std::filesystem::temp_directory_path() /
             ("load_test_" + std::to_string(::getpid()) + "_" + std::to_string(number++)))
                .string();
    std::ofstream(path_) << content;
  }
  ~File() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

TEST(Workload, RandomLengthsFillTheRangeAndNothingElse) {
  const Vocabulary v = make_vocabulary(1000, 5, {7, 8});
  const auto load = random_load({2000, 10, 20, 0, 0.25, 0.5, 1}, v);
  std::set<std::int64_t> inputs, outputs;
  for (const LoadRequest& r : load) {
    inputs.insert(r.prompt_tokens());
    outputs.insert(r.max_tokens);
    for (const std::int32_t id : r.prompt_ids) ASSERT_TRUE(id >= 5 && id < 1000 && id != 7 && id != 8) << id;
  }
  // floor(10 * 0.75) = 7 .. ceil(10 * 1.25) = 13, and 10 .. 30
  EXPECT_EQ(inputs, (std::set<std::int64_t>{7, 8, 9, 10, 11, 12, 13}));
  EXPECT_EQ(*outputs.begin(), 10);
  EXPECT_EQ(*outputs.rbegin(), 30);
  EXPECT_EQ(outputs.size(), 21u);
  for (const LoadRequest& r : random_load({50, 10, 20, 0, 0, 0, 1}, v)) {
    EXPECT_EQ(r.prompt_tokens(), 10);  // ratio 0 is fixed lengths, where another tool means 0 .. L
    EXPECT_EQ(r.max_tokens, 20);
  }
}

TEST(Workload, SeedsRepeatAndDiffer) {
  const Vocabulary v = make_vocabulary(1000, 0, {});
  const auto ids = [&](std::uint64_t seed, bool warm_up) {
    return random_load({3, 8, 4, 0, 0, 0, seed}, v, warm_up)[2].prompt_ids;
  };
  EXPECT_EQ(ids(1, false), ids(1, false));
  EXPECT_NE(ids(1, false), ids(2, false));
  EXPECT_NE(ids(1, false), ids(1, true)) << "a warm-up prompt fills the prefix cache for a measured one";
}

TEST(Workload, NoTwoPromptsOfASmallVocabularyAreEqual) {
  const auto load = random_load({500, 32, 4, 0, 0, 0, 1}, make_vocabulary(40, 0, {}));
  std::set<std::vector<std::int32_t>> different;
  for (const LoadRequest& r : load) different.insert(r.prompt_ids);
  EXPECT_EQ(different.size(), load.size());
}

TEST(Workload, SharedPrefixesAreSharedAndSuffixesAreNot) {
  const Vocabulary v = make_vocabulary(1000, 0, {});
  const auto load = prefix_load({12, 3, 16, 8, 4, 1}, v);
  std::map<std::vector<std::int32_t>, int> prefixes, suffixes;
  for (const LoadRequest& r : load) {
    ASSERT_EQ(r.prompt_tokens(), 24);
    ++prefixes[{r.prompt_ids.begin(), r.prompt_ids.begin() + 16}];
    ++suffixes[{r.prompt_ids.begin() + 16, r.prompt_ids.end()}];
  }
  EXPECT_EQ(prefixes.size(), 3u);
  EXPECT_EQ(suffixes.size(), 12u);
  const auto warm = prefix_load({1, 3, 16, 8, 4, 1}, v, true)[0].prompt_ids;
  EXPECT_FALSE(prefixes.contains({warm.begin(), warm.begin() + 16}));
  const auto common = random_load({2, 4, 4, 6, 0, 0, 1}, v);
  EXPECT_TRUE(std::equal(common[0].prompt_ids.begin(), common[0].prompt_ids.begin() + 6,
                         common[1].prompt_ids.begin()));
  EXPECT_NE(common[0].prompt_ids, common[1].prompt_ids);
}

TEST(Workload, WhatCanNotBeIsRefused) {
  const Vocabulary v = make_vocabulary(100, 0, {});
  EXPECT_NE(error_of([&] {
              (void)random_load({1, 10, 10, 0, 1.0, 0, 0}, v);
            }).find("range ratio 1"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              (void)random_load({1, 0, 10, 0, 0, 0, 0}, v);
            }).find("0 prompt"),
            std::string::npos);
  EXPECT_NE(error_of([&] { (void)make_vocabulary(3, 2, {}); }).find("--vocab-size"), std::string::npos);
  EXPECT_NE(error_of([&] { (void)parse_sweep("1000:100"); }).find("ISL:OSL:MC"), std::string::npos);
  EXPECT_NE(error_of([&] { (void)parse_sweep("1000:x:4"); }).find("'x'"), std::string::npos);
  EXPECT_NE(error_of([&] { (void)parse_goodput({"ttft=5"}); }).find("ttft:MS"), std::string::npos);
  EXPECT_NE(error_of([&] { (void)parse_percentiles("50,101"); }).find("101"), std::string::npos);
}

TEST(Workload, ATraceKeepsItsTimesLengthsAndSharedBlocks) {
  const File file(
      "{\"timestamp\": 3000, \"input_length\": 700, \"output_length\": 5, \"hash_ids\": [9, 4]}\n\n"
      "{\"timestamp\": 2000, \"input_length\": 600, \"output_length\": 6, \"hash_ids\": [9, 5]}\n"
      "{\"timestamp\": 4000, \"input_length\": 10}\n");
  const Vocabulary v = make_vocabulary(1000, 0, {});
  TraceLoad options;
  options.output_len = 33;
  options.speed = 2;
  const auto load = trace_load(file.path(), options, &v);
  ASSERT_EQ(load.size(), 3u);
  EXPECT_EQ(load[0].max_tokens, 6);  // in order of time
  EXPECT_DOUBLE_EQ(load[0].due, 0);  // from the first on
  EXPECT_DOUBLE_EQ(load[1].due, 0.5);
  EXPECT_DOUBLE_EQ(load[2].due, 1.0);
  EXPECT_EQ(load[2].max_tokens, 33);
  EXPECT_EQ(load[1].prompt_tokens(), 700);
  EXPECT_TRUE(
      std::equal(load[0].prompt_ids.begin(), load[0].prompt_ids.begin() + 512, load[1].prompt_ids.begin()));
  EXPECT_FALSE(std::equal(load[0].prompt_ids.begin() + 512, load[0].prompt_ids.end(),
                          load[1].prompt_ids.begin() + 512));
}

TEST(Workload, ABadTraceLineIsNamed) {
  const Vocabulary v = make_vocabulary(1000, 0, {});
  const File cut("{\"prompt\": \"a\"}\n{\"input_length\": 10\n"), negative("{\"input_length\": -1}\n"),
      empty("\n");
  EXPECT_NE(error_of([&] { (void)trace_load(cut.path(), {}, &v); }).find(cut.path() + ":2"),
            std::string::npos);
  EXPECT_NE(error_of([&] { (void)trace_load(negative.path(), {}, &v); }).find("-1"), std::string::npos);
  EXPECT_NE(error_of([&] { (void)trace_load(empty.path(), {}, &v); }).find("no request"), std::string::npos);
  EXPECT_NE(error_of([&] { (void)trace_load("/no/such", {}, &v); }).find("/no/such"), std::string::npos);
}

TEST(Arrivals, TheLastOffsetIsExactlyCountOverRate) {
  for (const double burstiness : {0.3, 1.0, 4.0, double(INFINITY)}) {
    const auto due = arrival_times({20, burstiness, "", 0, 0, 3}, 500);
    EXPECT_NEAR(due.back(), 25.0, 1e-9) << burstiness;
    EXPECT_TRUE(std::is_sorted(due.begin(), due.end()));
    EXPECT_GT(due.front(), 0) << "the first request waits its gap too";
  }
  EXPECT_EQ(arrival_times({INFINITY, 1, "", 0, 0, 3}, 5), std::vector<double>(5, 0.0));
}

// Gamma(k): the gaps' squared coefficient of variation is 1/k.
TEST(Arrivals, BurstinessIsTheShapeOfTheGaps) {
  for (const double shape : {0.25, 1.0, 5.0}) {
    const auto due = arrival_times({1, shape, "", 0, 0, 11}, 40000);
    std::vector<double> gaps;
    for (std::size_t i = 1; i < due.size(); ++i) gaps.push_back(due[i] - due[i - 1]);
    const double mean = std::accumulate(gaps.begin(), gaps.end(), 0.0) / static_cast<double>(gaps.size());
    double squares = 0, cubes = 0;
    for (const double g : gaps) squares += (g - mean) * (g - mean), cubes += std::pow(g - mean, 3);
    const double variance = squares / static_cast<double>(gaps.size());
    EXPECT_NEAR(variance / (mean * mean), 1 / shape, 0.08 / shape) << shape;
    EXPECT_NEAR(cubes / static_cast<double>(gaps.size()) / std::pow(variance, 1.5), 2 / std::sqrt(shape),
                0.4 / std::sqrt(shape))
        << "skewness";
  }
  const auto due = arrival_times({4, INFINITY, "", 0, 0, 11}, 8);
  for (std::size_t i = 0; i < due.size(); ++i) EXPECT_NEAR(due[i], 0.25 * static_cast<double>(i + 1), 1e-12);
}

TEST(Arrivals, ARampGoesFromItsStartToItsEnd) {
  for (const std::string& kind : {std::string("linear"), std::string("exponential")}) {
    const auto due = arrival_times({INFINITY, INFINITY, kind, 1, 100, 0}, 1000);
    EXPECT_NEAR(due[0], 1.0, 1e-9) << kind;
    EXPECT_NEAR(due[999] - due[998], 0.01, 1e-9) << kind;
    const double middle = 1 / (due[500] - due[499]);
    EXPECT_NEAR(middle, kind == "linear" ? 50.5 : 10, kind == "linear" ? 0.2 : 0.1);
  }
  EXPECT_NE(error_of([] {
              (void)arrival_times({1, 0, "", 0, 0, 0}, 1);
            }).find("burstiness 0"),
            std::string::npos);
  EXPECT_NE(error_of([] {
              (void)arrival_times({-1, 1, "", 0, 0, 0}, 1);
            }).find("rate -1"),
            std::string::npos);
  EXPECT_NE(error_of([] {
              (void)arrival_times({1, 1, "stairs", 1, 2, 0}, 1);
            }).find("stairs"),
            std::string::npos);
}

TEST(Plan, SweepsCrossWhatSlashesList) {
  const auto points = parse_sweep("1000/4000:100:4/16,8:9:0");
  ASSERT_EQ(points.size(), 5u);
  EXPECT_EQ(points[1].input_len, 1000);
  EXPECT_EQ(points[1].max_concurrency, 16);
  EXPECT_EQ(points[4].output_len, 9);
  Plan plan;
  plan.sweep = points;
  plan.repeats = 2;
  const auto order = points_of(plan);
  ASSERT_EQ(order.size(), 10u);
  EXPECT_EQ(order[4].second, 0);  // all points, then all again: drift of the machine falls on all
  EXPECT_EQ(order[5].second, 1);
}

// Or the prefix cache would serve one from the other: no prompt may even begin like another.
TEST(Plan, PointsAndRepeatsDrawOtherPrompts) {
  Plan plan;
  plan.vocab_size = 1000;
  plan.num_prompts = 4;
  const auto begins = [&](SweepPoint at, std::int64_t repeat) {
    const auto ids = make_point(plan, at, repeat, http::Api::kCompletions, {}).requests[0].prompt_ids;
    return std::vector<std::int32_t>(ids.begin(), ids.begin() + 8);
  };
  std::set<std::vector<std::int32_t>> all;
  for (const SweepPoint at :
       {SweepPoint{16, 4, 2}, SweepPoint{16, 4, 4}, SweepPoint{32, 4, 2}, SweepPoint{16, 8, 2}})
    for (const std::int64_t repeat : {0, 1}) all.insert(begins(at, repeat));
  EXPECT_EQ(all.size(), 8u);
  EXPECT_EQ(begins({16, 4, 2}, 1), begins({16, 4, 2}, 1));
  EXPECT_EQ(make_point(plan, {16, 4, 2}, 0, http::Api::kCompletions, {}).warm_up.size(), 2u);
}

TEST(Plan, ChatAndUnknownVocabulariesGetWords) {
  Plan plan;
  plan.num_prompts = 4;
  const Point p = make_point(plan, {16, 4, 2}, 0, http::Api::kCompletions, {});
  EXPECT_TRUE(p.requests[0].prompt_ids.empty());
  EXPECT_EQ(std::count(p.requests[0].prompt.begin(), p.requests[0].prompt.end(), ' '), 15);
  EXPECT_NE(p.requests[0].prompt, p.requests[1].prompt);
  EXPECT_NE(p.load_kind.find("approximate"), std::string::npos);
  EXPECT_EQ(make_point(plan, {16, 4, 2}, 0, http::Api::kCompletions, 500).requests[0].prompt_tokens(), 16);
  EXPECT_TRUE(make_point(plan, {16, 4, 2}, 0, http::Api::kChat, 500).requests[0].prompt_ids.empty());
}

TEST(Plan, GoodputAndPercentilesAsTyped) {
  const Objectives o = parse_goodput({"ttft:600", "tpot:150.5"});
  EXPECT_DOUBLE_EQ(o.ttft.value(), 0.6);
  EXPECT_DOUBLE_EQ(o.tpot.value(), 0.1505);
  EXPECT_FALSE(o.e2el);
  EXPECT_EQ(parse_percentiles("50,99.9"), (std::vector<double>{50, 99.9}));
}

}  // namespace
}  // namespace moecheck::harness::load
