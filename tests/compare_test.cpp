// Two runs over the same questions: the verdict, and when there is none.
#include <gtest/gtest.h>

#include <functional>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/random.h"
#include "harness/tasks/compare.h"
#include "harness/tasks/python_text.h"
#include "harness/tasks/sha256.h"

namespace moecheck::harness {
namespace {

enum class Answer { kRight, kWrong };

Sample answered(std::int64_t id, Answer answer, const std::string& text = "so ") {
  Sample s;
  s.doc_id = id;
  s.target = "#### 18";
  s.doc_hash = sha256_hex("doc" + std::to_string(id));
  s.prompt_hash = sha256_hex("prompt" + std::to_string(id));
  s.target_hash = sha256_hex(s.target);
  s.completion = text + (answer == Answer::kRight ? "\n#### 18" : "\n#### 19");
  s.finish_reason = "stop";
  grade(require_task("gsm8k"), s);
  return s;
}

void regrade(Sample& s) { grade(require_task("gsm8k"), s); }

// n answers, of which the first `wrong` are wrong.
harness::Run run_of_answers(std::int64_t n, std::int64_t wrong, const std::string& path) {
  harness::Run run;
  run.task = "gsm8k";
  run.path = path;
  run.task_hash = "same";
  run.filters = {"strict-match", "flexible-extract"};
  for (std::int64_t i = 0; i < n; ++i)
    run.samples.push_back(answered(i, i < wrong ? Answer::kWrong : Answer::kRight));
  return run;
}

void flip(harness::Run& run, std::int64_t from, std::int64_t count, Answer to) {
  for (std::int64_t i = from; i < from + count; ++i)
    run.samples[static_cast<std::size_t>(i)] = answered(i, to, "then ");
}

Comparison compare(const harness::Run& a, const harness::Run& b, const CompareOptions& o = {}) {
  return compare_runs(a, b, nullptr, o);
}

TEST(Compare, verdicts_follow_the_pairs) {
  const harness::Run a = run_of_answers(1319, 70, "a");
  harness::Run b = run_of_answers(1319, 70, "b");
  flip(b, 100, 4, Answer::kWrong);
  const Comparison few = compare(a, b);
  EXPECT_EQ(few.verdict, ComparisonVerdict::kNoRegression);
  EXPECT_TRUE(few.invalid.empty());
  EXPECT_EQ(few.pairs, 1319);
  EXPECT_EQ(few.filters[0].counts.regressions, 4);
  EXPECT_EQ(few.filters[0].a.right, 1249);
  EXPECT_EQ(few.filters[0].b.right, 1245);

  flip(b, 100, 22, Answer::kWrong);
  flip(b, 0, 18, Answer::kRight);
  const Comparison noisy = compare(a, b);  // the same two scores
  EXPECT_EQ(noisy.filters[0].b.right, 1245);
  EXPECT_EQ(noisy.verdict, ComparisonVerdict::kInconclusive);
  EXPECT_NE(noisy.reason.find("questions would tell"), std::string::npos) << noisy.reason;
  CompareOptions wide;
  wide.margin = 0.02;
  EXPECT_EQ(compare(a, b, wide).verdict, ComparisonVerdict::kNoRegression);

  flip(b, 100, 700, Answer::kWrong);
  const Comparison broken = compare(a, b);
  EXPECT_EQ(broken.verdict, ComparisonVerdict::kRegression);
  // 18 fixes stand before them, so the e-value needs some regressions more.
  EXPECT_GT(broken.filters[0].stopped_after, 100);
  EXPECT_LT(broken.filters[0].stopped_after, 160);
}

TEST(Compare, flips_show_where_the_texts_part) {
  harness::Run a = run_of_answers(40, 2, "a"), b = run_of_answers(40, 2, "b");
  b.samples[7] = answered(7, Answer::kWrong, "so \xC3\xA9 ");
  a.samples[7] = answered(7, Answer::kRight, "so \xC3\xA9\xC3\xA9 ");
  b.samples[1] = answered(1, Answer::kRight);
  const Comparison c = compare(a, b);
  ASSERT_EQ(c.flips.size(), 2u);
  EXPECT_EQ(c.flips[0].doc_id, 7);
  EXPECT_TRUE(c.flips[0].regression);
  EXPECT_EQ(c.flips[0].divergence, 4);  // characters, not bytes
  EXPECT_EQ(c.flips[0].a_extracted, "18");
  EXPECT_EQ(c.flips[0].b_extracted, "19");
  EXPECT_EQ(c.flips[1].doc_id, 1);
  EXPECT_FALSE(c.flips[1].regression);
  EXPECT_EQ(c.texts.compared, 40);
  EXPECT_EQ(c.texts.identical, 38);
}

TEST(Compare, first_divergence_counts_characters) {
  EXPECT_EQ(first_divergence("abc", "abc"), -1);
  EXPECT_EQ(first_divergence("", ""), -1);
  EXPECT_EQ(first_divergence("abc", "abd"), 2);
  EXPECT_EQ(first_divergence("abc", "ab"), 2);
  EXPECT_EQ(first_divergence("\xE2\x98\x95x", "\xE2\x98\x95y"), 1);
  EXPECT_EQ(first_divergence("\xE2\x98\x95", "\xE2\x98\x96"), 0);  // not in the middle of a character
  EXPECT_EQ(first_divergence("\xFF\xFE", "\xFF\xFD"), 1);
}

TEST(Compare, other_questions_are_no_comparison) {
  const harness::Run a = run_of_answers(100, 5, "a");
  const auto why = [&](const std::function<void(harness::Run&)>& change) {
    harness::Run b = run_of_answers(100, 5, "b");
    change(b);
    const Comparison c = compare(a, b);
    EXPECT_EQ(c.verdict, ComparisonVerdict::kInvalidRun);
    EXPECT_EQ(c.reason, c.invalid.empty() ? "" : c.invalid[0]);
    return c.reason;
  };
  EXPECT_NE(why([](auto& b) { b.samples.resize(50); }).find("50 questions are in A only"), std::string::npos);
  EXPECT_NE(why([](auto& b) { b.samples[3].doc_hash = "x"; }).find("document 3"), std::string::npos);
  EXPECT_NE(why([](auto& b) { b.samples[3].prompt_hash = "x"; }).find("prompts differ"), std::string::npos);
  // Another name alone is none (see below); with other questions it is the likelier reason, and told first.
  EXPECT_NE(why([](auto& b) {
              b.task = "gsm8k_cot";
              b.samples[3].prompt_hash = "x";
            }).find("gsm8k_cot"),
            std::string::npos);
  EXPECT_NE(why([](auto& b) { b.path = "a"; }).find("same file"), std::string::npos);
  harness::Run c = a;
  c.generation_json = R"({"temperature": 0.0, "until": ["x"]})";
  harness::Run d = run_of_answers(100, 5, "d");
  d.generation_json = R"({"until": ["x"], "temperature": 0})";
  EXPECT_TRUE(compare(c, d).invalid.empty());  // the same settings in other words
  d.generation_json = R"({"until": ["x"], "temperature": 0.7})";
  EXPECT_EQ(compare(c, d).verdict, ComparisonVerdict::kInvalidRun);
  d.generation_json.clear();
  EXPECT_TRUE(compare(c, d).invalid.empty());  // not known is not different
}

bool told(const Comparison& c, std::string_view words) {
  for (const std::string& note : c.notes)
    if (note.find(words) != note.npos) return true;
  return false;
}

// Questions and prompts are compared by their hashes. A task of one's own may have any name.
TEST(Compare, the_same_questions_under_two_names_are_compared) {
  const harness::Run a = run_of_answers(400, 5, "a");
  harness::Run b = run_of_answers(400, 5, "b");
  EXPECT_FALSE(told(compare(a, b), "is called"));
  b.task = "my_gsm8k";
  const Comparison c = compare(a, b);
  EXPECT_TRUE(c.invalid.empty()) << c.invalid[0];
  EXPECT_EQ(c.verdict, ComparisonVerdict::kNoRegression);
  EXPECT_TRUE(told(c, "the task is called gsm8k in A and my_gsm8k in B"));
}

// One server sends what it generated after a stop string, the other cuts it: the same text.
TEST(Compare, texts_end_at_the_stop_string) {
  const harness::Run a = run_of_answers(40, 2, "a");
  harness::Run b = run_of_answers(40, 2, "b");
  for (std::size_t i = 10; i < 30; ++i) b.samples[i].completion += "\n\nQuestion: and now?";
  b.samples[35].completion = "other" + b.samples[35].completion;
  harness::Run cut = b;
  for (Sample& s : cut.samples) s.completion = s.completion.substr(0, s.completion.find("Question:"));
  Comparison c = compare(cut, b);
  EXPECT_EQ(c.texts.identical, 40);
  EXPECT_EQ(c.texts.a_past_stop, 0);
  EXPECT_EQ(c.texts.b_past_stop, 20);
  EXPECT_TRUE(told(c, "0 texts of A and 20 of B go on behind a stop string"));
  EXPECT_EQ(nlohmann::json::parse(comparison_json(c))["texts"]["b_past_stop"], 20);
  EXPECT_EQ(nlohmann::json::parse(comparison_json(c))["texts_compared_up_to"][0], "Question:");
  CompareOptions whole;
  whole.whole_texts = true;
  c = compare(cut, b, whole);
  EXPECT_EQ(c.texts.identical, 20);
  EXPECT_FALSE(told(c, "stop string"));
  EXPECT_EQ(compare(a, b).texts.identical, 40 - 20 - 1) << "a blank line before the stop is text";
  // The stop strings are those of the run, where its settings are known.
  cut.generation_json = b.generation_json = R"({"until": ["\n\n", "Question:"]})";
  harness::Run d = a;
  d.path = "d";
  d.generation_json = b.generation_json;
  EXPECT_EQ(compare(d, b).texts.identical, 39);
}

TEST(Compare, a_copy_is_no_second_run) {
  harness::Run a = run_of_answers(50, 2, "a");
  for (std::size_t i = 0; i < a.samples.size(); ++i)
    a.samples[i].latency_s = 0.1 + 0.001 * static_cast<double>(i);
  harness::Run b = a;
  b.path = "b";
  EXPECT_NE(compare(a, b).reason.find("latency"), std::string::npos);
  for (Sample& s : b.samples) s.latency_s += 0.01;
  EXPECT_TRUE(compare(a, b).invalid.empty());
}

void fail(harness::Run& run, std::size_t from, std::size_t count) {
  for (std::size_t i = from; i < from + count; ++i) {
    run.samples[i].failed = true;
    run.samples[i].completion.clear();
    regrade(run.samples[i]);
  }
}

TEST(Compare, failures_are_told_apart_from_wrong_answers) {
  const harness::Run a = run_of_answers(1000, 50, "a");
  harness::Run b = run_of_answers(1000, 50, "b");
  fail(b, 500, 3);
  const Comparison few = compare(a, b);
  EXPECT_TRUE(few.invalid.empty()) << few.invalid[0];
  EXPECT_EQ(few.pairs, 997);
  EXPECT_EQ(few.filters[0].counts.regressions, 0);
  fail(b, 500, 8);  // within 1%, but A has none: p = 0.008
  EXPECT_NE(compare(a, b).reason.find("failures differ"), std::string::npos) << compare(a, b).reason;
  fail(b, 500, 30);
  EXPECT_NE(compare(a, b).reason.find("30 of 1000 requests of B failed"), std::string::npos);
}

TEST(Compare, truncation_makes_a_run_invalid_but_hides_no_regression) {
  harness::Run a = run_of_answers(1000, 50, "a"), b = run_of_answers(1000, 50, "b");
  for (std::size_t i = 0; i < 30; ++i) b.samples[i].finish_reason = "length", regrade(b.samples[i]);
  const Comparison changed = compare(a, b);  // wrong before, cut now: equal accuracy
  EXPECT_EQ(changed.verdict, ComparisonVerdict::kInvalidRun);
  EXPECT_NE(changed.reason.find("from 0 to 30"), std::string::npos) << changed.reason;
  for (std::size_t i = 100; i < 400; ++i) {
    b.samples[i].completion = "and then and then";
    b.samples[i].finish_reason = "length";
    regrade(b.samples[i]);
  }
  const Comparison broken = compare(a, b);
  EXPECT_EQ(broken.verdict, ComparisonVerdict::kRegression);
  EXPECT_TRUE(broken.invalid.empty());
  EXPECT_FALSE(broken.notes.empty());
  EXPECT_EQ(broken.b.filters[0].outcomes[static_cast<std::size_t>(Outcome::kTruncated)], 330);
}

TEST(Compare, noise_is_what_a_repeat_does) {
  const harness::Run a = run_of_answers(1000, 100, "a");
  harness::Run again = run_of_answers(1000, 100, "again"), b = run_of_answers(1000, 100, "b");
  flip(again, 200, 10, Answer::kWrong);
  flip(again, 0, 10, Answer::kRight);
  flip(b, 300, 12, Answer::kWrong);
  flip(b, 20, 12, Answer::kRight);
  Comparison c = compare_runs(a, b, &again, {});
  ASSERT_TRUE(c.noise.has_value());
  EXPECT_EQ(c.noise->counts.discordant(), 20);
  EXPECT_NEAR(c.noise->sd, std::sqrt(0.02 / 1000), 1e-12);
  EXPECT_GT(c.noise->excess_p, 0.2);
  flip(b, 400, 40, Answer::kWrong);
  flip(b, 40, 40, Answer::kRight);
  c = compare_runs(a, b, &again, {});
  EXPECT_LT(c.noise->excess_p, 1e-6);
  bool told = false;
  for (const std::string& note : c.notes) told = told || note.find("more than noise") != note.npos;
  EXPECT_TRUE(told);
  harness::Run other = run_of_answers(500, 50, "other");
  EXPECT_THROW((void)compare_runs(a, b, &other, {}), UsageError);
  harness::Run same = a;
  EXPECT_THROW((void)compare_runs(a, b, &same, {}), UsageError);
}

TEST(Compare, the_filter_that_decides_can_be_chosen) {
  harness::Run a = run_of_answers(400, 10, "a"), b = run_of_answers(400, 10, "b");
  for (std::size_t i = 50; i < 120; ++i)
    b.samples[i].completion = "so 18", regrade(b.samples[i]);  // format lost
  EXPECT_EQ(compare(a, b).verdict, ComparisonVerdict::kRegression);
  CompareOptions flexible;
  flexible.filter = "flexible-extract";
  const Comparison c = compare(a, b, flexible);
  EXPECT_EQ(c.verdict, ComparisonVerdict::kNoRegression);
  bool told = false;
  for (const std::string& note : c.notes)
    told = told || note.find("strict-match alone shows B worse") != note.npos;
  EXPECT_TRUE(told);
  flexible.filter = "none";
  EXPECT_THROW((void)compare(a, b, flexible), UsageError);
}

TEST(Compare, json_says_the_same) {
  harness::Run a = run_of_answers(300, 10, "a"), b = run_of_answers(300, 10, "b");
  flip(b, 100, 30, Answer::kWrong);
  const Comparison c = compare(a, b);
  const auto j = nlohmann::json::parse(comparison_json(c));
  EXPECT_EQ(j["schema"], "moecheck.compare/1");
  EXPECT_EQ(j["verdict"], "REGRESSION");
  EXPECT_EQ(j["pairs"], 300);
  EXPECT_EQ(j["filters"][0]["counts"]["regressions"], 30);
  EXPECT_NEAR(j["filters"][0]["difference"].get<double>(), -0.1, 1e-12);
  EXPECT_EQ(j["flips"].size(), 30u);
  EXPECT_EQ(j["flips"][0]["direction"], "right_to_wrong");
  EXPECT_EQ(j["b"]["outcomes"]["strict-match"]["wrong"], 40);
  EXPECT_TRUE(j["noise"].is_null());
}

}  // namespace
}  // namespace moecheck::harness
