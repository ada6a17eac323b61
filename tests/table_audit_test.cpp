// Pasted tables: what can not be true is flagged, what can be is left alone.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>

#include "harness/statistics/printed.h"
#include "harness/statistics/table_audit.h"

namespace moecheck::harness {
namespace {

using Kind = Finding::Kind;

std::int64_t count_of(const AuditResult& r, Kind kind) {
  return std::count_if(r.findings.begin(), r.findings.end(),
                       [&](const Finding& f) { return f.kind == kind; });
}

std::string texts(const AuditResult& r) {
  std::string all;
  for (const Finding& f : r.findings) all += std::to_string(f.line) + ": " + f.text + "\n";
  return all;
}

constexpr const char* kLmEval =
    "|Tasks|Version|     Filter     |n-shot|  Metric   |   |Value |   |Stderr|\n"
    "|-----|------:|----------------|-----:|-----------|---|-----:|---|-----:|\n"
    "|gsm8k|      3|flexible-extract|     5|exact_match|\u2191  |0.9439|\u00b1  |0.0063|\n"
    "|     |       |strict-match    |     5|exact_match|\u2191  |0.9469|\u00b1  |0.0062|\n";

// The accuracy of a published pull request (vllm#44313), which says that 256 samples were run.
TEST(TableAudit, a_score_that_256_samples_can_not_give) {
  const AuditResult r = audit_text(std::string("Accuracy on gsm8k, 256 samples:\n\n") + kLmEval);
  EXPECT_EQ(r.claimed, std::vector<std::int64_t>{256});
  EXPECT_EQ(count_of(r, Kind::kContradicts), 4) << texts(r);  // both rows, by their error and by the grid
  EXPECT_NE(texts(r).find("implies n = 1309 (1,288 to 1,331 once rounded)"), std::string::npos) << texts(r);
  EXPECT_NE(texts(r).find("1,249 of 1,319 (all of GSM8K)"), std::string::npos) << texts(r);
  EXPECT_EQ(r.findings[0].line, 5u);
  const AuditResult full = audit_text(std::string("1,319 questions\n") + kLmEval);
  EXPECT_EQ(count_of(full, Kind::kContradicts), 0) << texts(full);
  EXPECT_EQ(count_of(full, Kind::kFits), 4) << texts(full);
  EXPECT_EQ(count_of(audit_text(kLmEval), Kind::kContradicts), 0);
  AuditOptions given;
  given.samples = 200;
  EXPECT_GT(count_of(audit_text(kLmEval, given), Kind::kContradicts), 0);
}

TEST(TableAudit, claims_are_found_and_prose_is_not) {
  EXPECT_EQ(claimed_samples("lm_eval --tasks gsm8k --limit 256"), std::vector<std::int64_t>{256});
  EXPECT_EQ(claimed_samples("`limit=200`, n = 1,319"), (std::vector<std::int64_t>{200, 1319}));
  EXPECT_EQ(claimed_samples("we ran 256 samples"), std::vector<std::int64_t>{256});
  EXPECT_EQ(claimed_samples("**1319** questions"), std::vector<std::int64_t>{1319});
  EXPECT_EQ(claimed_samples("a 256-sample run"), std::vector<std::int64_t>{256});
  EXPECT_TRUE(
      claimed_samples("gsm8k 5-shot, 17.5 samples per s, 3 problems, the limit 40 GB, --num-prompts 512")
          .empty());
}

TEST(TableAudit, scores_in_text_and_columns) {
  EXPECT_EQ(count_of(audit_text("--limit 256\nwe get 0.9469 \u00b1 0.0062 now"), Kind::kContradicts), 2);
  EXPECT_EQ(count_of(audit_text("--limit 256\nwe get 94.92% +- 1.38% now"), Kind::kContradicts), 0);
  EXPECT_EQ(count_of(audit_text("latency 21.5 \u00b1 0.4 ms"), Kind::kContradicts), 0);
  EXPECT_TRUE(audit_text("latency 21.5 \u00b1 0.4 ms").findings.empty());
  const AuditResult column =
      audit_text("200 samples\n\n| model | gsm8k |\n|---|---|\n| a | 0.945 |\n| b | 94.7% |\n");
  EXPECT_EQ(count_of(column, Kind::kFits), 1) << texts(column);
  EXPECT_EQ(count_of(column, Kind::kContradicts), 1) << texts(column);
  EXPECT_EQ(count_of(audit_text("0.9 \u00b1 0.0000"), Kind::kContradicts), 1);
  const AuditResult ratios = audit_text("199/200 = **99.5 %**, 1276/1319 = 0.96740 and 1200/1319 = 0.95");
  EXPECT_EQ(count_of(ratios, Kind::kFits), 2) << texts(ratios);
  EXPECT_EQ(count_of(ratios, Kind::kContradicts), 1) << texts(ratios);
}

// A column of errors beside the scores, and one that claims the sample size.
TEST(TableAudit, columns_of_errors_and_of_sample_sizes) {
  const AuditResult r = audit_text(
      "| config | samples | gsm8k strict | stderr |\n|---|---|---|---|\n| before | 256 | 0.9469 | 0.0062 |\n"
      "| after | 256 | 0.4685 | 0.0137 |\n");
  EXPECT_EQ(r.claimed, std::vector<std::int64_t>{256});
  EXPECT_GE(count_of(r, Kind::kContradicts), 2) << texts(r);
  EXPECT_NE(texts(r).find("n = 1309"), std::string::npos) << texts(r);
  const AuditResult fits =
      audit_text("| n | accuracy | \u00b1 |\n|---|---|---|\n| 256 | 94.92% | 1.38% |\n| 256 | 0.9492 | 0.0138 |\n");
  EXPECT_EQ(count_of(fits, Kind::kContradicts), 0) << texts(fits);
  EXPECT_GE(count_of(fits, Kind::kFits), 2) << texts(fits);
}

constexpr const char* kSweepHead =
    "| ISL | OSL | MC | TPOT mean (ms) off \u2192 on (\u0394%) | Output tok/s off \u2192 on (\u0394%) | "
    "Total tok/s off \u2192 on (\u0394%) |\n"
    "|---:|---:|---:|---|---|---|\n";

TEST(TableAudit, a_sweep_that_holds) {
  const AuditResult r = audit_text(std::string(kSweepHead) +
                                   "| 1000 | 100 | 4 | 17.76 \u2192 14.36 (**\u221219.1%**) | 199.4 \u2192 "
                                   "243.6 (**+22.2%**) | 2193.7 \u2192 2679.1 (**+22.1%**) |\n"
                                   "| 5000 | 500 | 64 | 39.79 \u2192 40.15 (+0.9%) | 1363.8 \u2192 1339.1 "
                                   "(\u22121.8%) | 15001.9 \u2192 14730.4 (\u22121.8%) |\n");
  EXPECT_EQ(count_of(r, Kind::kContradicts), 0) << texts(r);
  EXPECT_EQ(count_of(r, Kind::kFits), 4) << texts(r);  // two rows, two arms
}

TEST(TableAudit, a_sweep_that_does_not_hold) {
  const auto flagged = [](const std::string& row) { return texts(audit_text(kSweepHead + row)); };
  // The difference, the ratio of total and output, and more tokens than the clients can take.
  EXPECT_NE(flagged("| 1000 | 100 | 4 | 17.76 \u2192 14.36 (\u22129.1%) | 199.4 \u2192 243.6 | 2193.7 \u2192 "
                    "2679.1 |\n")
                .find("not -9.1%"),
            std::string::npos);
  EXPECT_NE(flagged("| 1000 | 100 | 4 | 17.76 | 199.4 | 1193.7 |\n")
                .find("total/output tok/s is 5.99, (ISL+OSL)/OSL 11.00"),
            std::string::npos);
  EXPECT_NE(flagged("| 1000 | 100 | 4 | 17.76 | 299.4 | 3293.4 |\n").find("at most 227"), std::string::npos);
}

TEST(TableAudit, littles_law) {
  const std::string head =
      "| ISL/OSL | Concurrency | TTFT (ms) | TPOT (ms) | E2EL (ms) | Tok/s | Req/s "
      "|\n|---|---|---|---|---|---|---|\n";
  const AuditResult good = audit_text(head + "| 128/128 | 32 | 2558.1 | 46.4 | 8415.5 | 481.09 | 3.7809 |\n");
  EXPECT_EQ(count_of(good, Kind::kContradicts), 0) << texts(good);
  const AuditResult bad = audit_text(head + "| 128/128 | 16 | 2558.1 | 46.4 | 8415.5 | 481.09 | 3.7809 |\n");
  EXPECT_EQ(count_of(bad, Kind::kContradicts), 2) << texts(bad);
  EXPECT_NE(texts(bad).find("31.82 requests in flight, MC 16"), std::string::npos) << texts(bad);
}

std::string block(const char* requests, const char* rate, const char* mc) {
  return std::string("============ Serving Benchmark Result ============\n") +
         "Successful requests:                     " + requests +
         "\nMaximum request concurrency:             " + mc +
         "\nBenchmark duration (s):                  347.44\nTotal input tokens:                      "
         "3072000\n"
         "Total input text tokens:                 3072000\nTotal generated tokens:                  192000\n"
         "Total generated tokens (retokenized):    191737\nRequest throughput (req/s):              " +
         rate +
         "\nOutput token throughput (tok/s):         552.61\nTotal token throughput (tok/s):          "
         "9394.31\n"
         "Mean E2E Latency (ms):                   3699.66\nMean TTFT (ms):                          "
         "1584.16\n"
         "Mean TPOT (ms):                          33.58\n";
}

TEST(TableAudit, the_block_of_bench_serve) {
  const AuditResult good = audit_text(block("3000", "8.63", "32"));
  EXPECT_EQ(count_of(good, Kind::kContradicts), 0) << texts(good);
  EXPECT_EQ(count_of(good, Kind::kFits), 1);
  EXPECT_NE(texts(audit_text(block("2000", "8.63", "32"))).find("counted 2000"), std::string::npos);
  EXPECT_NE(texts(audit_text(block("3000", "8.63", "16"))).find("31.93 requests in flight, limit 16"),
            std::string::npos);
}

TEST(TableAudit, numbers_as_people_print_them) {
  EXPECT_EQ(printed_at("1,319", 0)->value, 1319);
  EXPECT_EQ(printed_at("0.9469", 0)->digits, 4);
  EXPECT_EQ(printed_at("1,2", 0)->value, 1);
  EXPECT_TRUE(printed_at("94.7 %", 0)->percent);
  EXPECT_EQ(printed_at("\xE2\x88\x92"
                       "19.2%",
                       0)
                ->value,
            -19.2);
  EXPECT_FALSE(printed_at("x", 0).has_value());
  EXPECT_EQ(first_printed("gsm8k scores 12")->value, 12);
  EXPECT_FALSE(first_printed("gsm8k").has_value());
  EXPECT_EQ(first_printed("(+1.5%)")->value, 1.5);
  const auto tables = markdown_tables("> | a | b |\n> |---|:-:|\n> | 1 | **2** |\n\n| no | table |\n");
  ASSERT_EQ(tables.size(), 1u);
  EXPECT_EQ(tables[0].header, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(tables[0].rows[0].cells, (std::vector<std::string>{"1", "2"}));
  EXPECT_EQ(tables[0].rows[0].line, 3u);
}

RC_GTEST_PROP(TableAudit, any_text_is_read, (std::vector<std::string> pieces)) {
  static const std::vector<std::string> kParts{
      "|", "\n",     "---|",   "0.9",   "\u00b1", "/",        "=",
      "%", "1,319",  "ISL",    "OSL",   "MC",     "tok/s",    "total",
      "(", "\u2192", "\u2212", "Value", "Stderr", "--limit ", "Serving Benchmark Result"};
  std::string text;
  for (const std::string& p : pieces) {
    for (const char c : p) text += kParts[static_cast<unsigned char>(c) % kParts.size()];
    text += p;
  }
  (void)audit_text(text);
}

}  // namespace
}  // namespace moecheck::harness
