// The pull request report: changes judged by repeats, every number from the files, text of files never markup.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "harness/case.h"
#include "harness/load/compare.h"
#include "harness/report/page.h"
#include "harness/report/pr.h"
#include "harness/report/pr_plots.h"

namespace moecheck::harness {
namespace {

using load::Meaning;
using load::SavedBench;

SavedBench bench(std::int64_t repeat, double throughput, double ttft, std::int64_t at_once = 16) {
  SavedBench b;
  b.path = "x.json";
  b.model = "GLM";
  b.dataset = "random";
  b.load_kind = "random token ids";
  b.input_len = 1000;
  b.output_len = 100;
  b.max_concurrency = at_once;
  b.repeat = repeat;
  b.completed = b.num_prompts = 40;
  b.duration = 10;
  b.output_throughput = throughput;
  b.statistics = {{"ttft", "mean", ttft}, {"tpot", "mean", 5.0}, {"e2el", "mean", 500.0}};
  b.ttfts = {0.001 * ttft, 0.0011 * ttft, 0.0013 * ttft};
  b.itls = {0.005, 0.006, 0.004};
  b.e2els = {0.5, 0.6, 0.55};
  b.command = "moecheck bench serve --sweep 1000:100:16";
  b.ours = true;
  b.env.version = "1.2.3";
  b.env.cpu = "CPU of the client";
  return b;
}

// `wrong`: documents that are answered wrongly.
Run run(const std::string& model, std::int64_t n, const std::vector<std::int64_t>& wrong) {
  const Task& task = require_task("gsm8k");
  Run r;
  r.task = task.name;
  r.version = task.version;
  r.model = model;
  r.base_url = "http://127.0.0.1:1/v1/completions";
  r.task_hash = std::string(64, 'a');
  r.data_name = "the data";
  r.documents = n;
  r.path = "/runs/" + model;
  for (const Filter& f : task.filters) r.filters.push_back(f.name);
  for (std::int64_t i = 0; i < n; ++i) {
    Sample s;
    s.doc_id = i;
    s.target = "x\n#### 18";
    s.doc_hash = s.prompt_hash = s.target_hash = std::to_string(i);
    s.prompt = "Question";
    const bool bad = std::find(wrong.begin(), wrong.end(), i) != wrong.end();
    s.completion = bad ? " so it is\n#### 17" : " so it is\n#### 18";
    s.finish_reason = "stop";
    grade(task, s);
    r.samples.push_back(std::move(s));
  }
  return r;
}

PrInput input_of(const std::vector<std::int64_t>& wrong_a, const std::vector<std::int64_t>& wrong_b) {
  PrInput in;
  in.a.label = "main";
  in.b.label = "this PR";
  in.a.accuracy = run("base", 400, wrong_a);
  in.b.accuracy = run("fast", 400, wrong_b);
  in.compare.margin = 0.02;
  for (const std::int64_t i : {0, 1, 2}) {
    in.a.benches.push_back(bench(i, 200 + static_cast<double>(i), 50));
    in.b.benches.push_back(bench(i, 220 + static_cast<double>(i), 50 + 5 * static_cast<double>(i - 1)));
  }
  in.command = "moecheck report pr --a x";
  return in;
}

std::vector<std::int64_t> first(std::int64_t n) {
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < n; ++i) out.push_back(i);
  return out;
}

bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

// ---- The sweep

TEST(CompareBenches, RepeatsDecideWhatIsNoise) {
  const auto row = [](std::vector<SavedBench> a, std::vector<SavedBench> b) {
    return load::compare_benches(a, b).at(0);
  };
  const auto better = row({bench(0, 200, 50), bench(1, 202, 51), bench(2, 201, 50)},
                          {bench(0, 220, 50), bench(1, 222, 51), bench(2, 221, 50)});
  EXPECT_EQ(better.throughput.meaning, Meaning::kBetter);
  EXPECT_NEAR(better.throughput.relative.value(), 0.0995, 0.001);
  EXPECT_EQ(better.ttft.meaning, Meaning::kWithinNoise);
  const auto noisy = row({bench(0, 200, 50), bench(1, 240, 50)}, {bench(0, 230, 50), bench(1, 220, 50)});
  EXPECT_EQ(noisy.throughput.meaning, Meaning::kWithinNoise);
  const auto slower = row({bench(0, 200, 50), bench(1, 201, 50), bench(2, 200, 50)},
                          {bench(0, 190, 55), bench(1, 190, 55), bench(2, 191, 55)});
  EXPECT_EQ(slower.throughput.meaning, Meaning::kWorse);
  EXPECT_EQ(slower.ttft.meaning, Meaning::kWorse) << "more milliseconds are worse";
  const auto once = row({bench(0, 200, 50)}, {bench(0, 300, 50)});
  EXPECT_EQ(once.throughput.meaning, Meaning::kUnknown) << "one run each says nothing about noise";
  EXPECT_NEAR(once.throughput.relative.value(), 0.5, 1e-9);
  EXPECT_FALSE(once.throughput.low);
}

// By hand: log ratios 0.1, 0.2, 0.3: mean 0.2, sd 0.1, t(2) = 4.303, half width 4.303 * 0.1 / sqrt(3) = 0.24843.
TEST(CompareBenches, PairedAndWelchIntervalsByHand) {
  std::vector<SavedBench> a, b;
  for (const std::int64_t i : {0, 1, 2}) {
    a.push_back(bench(i, 100 * std::exp(static_cast<double>(i)), 50));
    b.push_back(bench(i, 100 * std::exp(static_cast<double>(i) + 0.1 * static_cast<double>(i + 1)), 50));
  }
  const auto c = load::compare_benches(a, b).at(0).throughput;
  EXPECT_NEAR(c.relative.value(), std::expm1(0.2), 1e-9);
  EXPECT_NEAR(c.low.value(), std::expm1(0.2 - 0.24843), 2e-4);
  EXPECT_NEAR(c.high.value(), std::expm1(0.2 + 0.24843), 2e-4);
  // Other repeats: not paired. Variances 1 and 1.21 of 3 each, df 3.97 -> 3, t = 3.182.
  for (auto& x : b) x.repeat += 10;
  const auto w = load::compare_benches(a, b).at(0).throughput;
  EXPECT_NEAR(std::log1p(w.high.value()) - 0.2, 3.182 * std::sqrt(1.0 / 3 + 1.21 / 3), 2e-3);
  EXPECT_NEAR(load::student_95(1), 12.706, 1e-9);
  EXPECT_NEAR(load::student_95(31), 2.0395, 2e-4);
  EXPECT_NEAR(load::student_95(1e6), 1.95996, 1e-4);
}

TEST(CompareBenches, InvalidRunsAreLeftOutAndSaid) {
  auto in = input_of({}, {});
  in.b.benches[0].output_throughput = 9999;
  in.b.benches[0].invalid = {"the client was busy 99% of the time"};
  const PrReport r = make_pr_report(in);
  EXPECT_EQ(r.sweep.at(0).runs_b, 2);
  EXPECT_EQ(r.sweep.at(0).invalid_b, 1);
  EXPECT_NEAR(r.sweep.at(0).throughput.b, 221.5, 1e-9);
  EXPECT_TRUE(has(pr_markdown(r),
                  "this PR, ISL 1000 OSL 100 MC 16: a run is left out: the client was busy 99% of the time"));
}

TEST(CompareBenches, PointsStayApart) {
  const std::vector<SavedBench> a = {bench(0, 200, 50, 4), bench(0, 300, 50, 16)}, b = {bench(0, 210, 50, 4)};
  const auto rows = load::compare_benches(a, b);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].max_concurrency, 4);
  EXPECT_EQ(rows[1].runs_b, 0);
  EXPECT_FALSE(rows[1].throughput.relative);
}

// ---- The Markdown

TEST(PrMarkdown, SaysVerdictNumbersCommandsAndPlace) {
  const PrReport r = make_pr_report(input_of({1, 2}, {2, 3}));
  EXPECT_EQ(r.accuracy->verdict, ComparisonVerdict::kNoRegression);
  EXPECT_FALSE(r.failed());
  const std::string md = pr_markdown(r);
  for (const std::string_view part :
       {"### Accuracy: NO REGRESSION", "| strict-match | 99.50% (", "gsm8k, 5-shot, 400 questions",
        "`aaaaaaaaaaaaaaaa`", "Margin: 2 points", "| 1, 1 (McNemar p = 1.000) |",
        "### Performance: 1 load faster", "| 1000 / 100 | 16 | 3 + 3 | 201.0 → 221.0<br>**+",
        "moecheck bench serve --sweep 1000:100:16\n", "moecheck report pr --a x\n", "CPU of the client",
        "the data", "random token ids"})
    EXPECT_TRUE(has(md, part)) << part << "\n" << md;
}

TEST(PrMarkdown, ARegressionFails) {
  const PrReport r = make_pr_report(input_of({}, first(40)));
  EXPECT_EQ(r.accuracy->verdict, ComparisonVerdict::kRegression);
  EXPECT_TRUE(r.failed());
  EXPECT_TRUE(has(pr_markdown(r), "### Accuracy: REGRESSION"));
  EXPECT_TRUE(has(pr_html(r), "<span class=bad>REGRESSION</span>"));
}

TEST(PrMarkdown, NothingOfAFileIsMarkup) {
  auto in = input_of({1}, {2});
  in.a.label = "a|b <script> `x` [l](u)";
  in.a.benches[0].command = "x ``` y\n# z";
  in.b.accuracy->model = "m|<b>\n|";
  const std::string md = pr_markdown(make_pr_report(in));
  EXPECT_TRUE(has(md, "a\\|b \\<script\\> \\`x\\` \\[l\\](u)"));
  EXPECT_FALSE(has(md, "<script>"));
  EXPECT_TRUE(has(md, "````\nx ``` y\\n# z\n````\n")) << "the fence is longer than what it holds";
}

TEST(PrReport, HalvesAndNothingAreUsageErrors) {
  PrInput none;
  EXPECT_THROW((void)make_pr_report(none), UsageError);
  PrInput half = input_of({}, {});
  half.b.accuracy.reset();
  EXPECT_THROW((void)make_pr_report(half), UsageError);
  PrInput other = input_of({}, {});
  other.a.benches.clear();
  EXPECT_THROW((void)make_pr_report(other), UsageError);
  PrInput only = input_of({}, {});
  only.a.accuracy.reset();
  only.b.accuracy.reset();
  const PrReport r = make_pr_report(only);
  EXPECT_FALSE(has(pr_markdown(r), "Accuracy:"));
  EXPECT_TRUE(has(pr_html(r), "<h1>1 load faster</h1>"));
}

// ---- The page

TEST(PrHtml, LoadsNothingRunsNothingAndShowsEveryPlot) {
  const std::string page = pr_html(make_pr_report(input_of({1, 2}, {2, 3})));
  for (const std::string_view word : {"<script", "<link", "<img", "@import", "url(", "onload", "javascript:"})
    EXPECT_FALSE(has(page, word)) << word;
  for (const std::string_view part :
       {"<b>Accuracy</b>", "<b>Difference</b>", "<b>Questions</b>", "<b>Output tok/s</b>", "<b>TTFT</b>",
        "<b>ITL</b>", "<b>E2EL</b>", "right to wrong", "default-src 'none'", "NO REGRESSION"})
    EXPECT_TRUE(has(page, part)) << part;
  EXPECT_FALSE(has(page, "nan")) << "no coordinate is undefined";
  EXPECT_FALSE(has(page, "inf"));
}

TEST(PrHtml, NoByteOfAFileBecomesMarkup) {
  std::string hostile = "</style></code><script>alert(1)</script>\" onload='x' <!-- &lt; \xed\xa0\x80";
  for (int c = 0; c < 256; ++c) hostile += static_cast<char>(c);
  const auto with = [](const std::string& text) {
    auto in = input_of({1, 2}, {2, 3});
    in.title = in.command = in.a.label = in.b.label = text;
    for (PrArm* arm : {&in.a, &in.b}) {
      arm->accuracy->model = arm->accuracy->data_name = text;
      for (Sample& s : arm->accuracy->samples) {
        s.completion = text + s.completion;
        grade(require_task("gsm8k"), s);
      }
      for (SavedBench& b : arm->benches) {
        b.command = b.model = b.load_kind = b.env.cpu = text;
        b.warnings = {text};
      }
    }
    return pr_html(make_pr_report(in));
  };
  const std::string page = with(hostile), plain = with("x");
  EXPECT_EQ(std::count(page.begin(), page.end(), '<'), std::count(plain.begin(), plain.end(), '<'));
  EXPECT_EQ(std::count(page.begin(), page.end(), '>'), std::count(plain.begin(), plain.end(), '>'));
  EXPECT_FALSE(has(page, "<script"));
  for (const char c : page) ASSERT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= 0x20);
}

TEST(PrPlots, PartsOfABarFillItAndNoneIsLost) {
  std::string out;
  report::put_shares(
      out, "t", "n",
      {{"many", "same", 100000}, {"one", "worse", 1}, {"none", "fixed", 0}, {"few", "none", 10}});
  EXPECT_TRUE(has(out, "one: 1"));
  EXPECT_FALSE(has(out, "none: 0</title>")) << "a part of nothing is not drawn";
  out.clear();
  report::put_cdf(out, "t", "n", {}, {0.5});
  EXPECT_EQ(out, "") << "one value is no distribution";
  report::put_lines(out, "t", "n", "x", {}, {});
  EXPECT_EQ(out, "");
  report::put_cdf(out, "t", "n", {0.5, 0.5}, {});
  EXPECT_FALSE(has(out, "nan"));
}

}  // namespace
}  // namespace moecheck::harness
