#pragma once
// Whether pasted tables of accuracy and throughput can be true: identities that hold whatever was measured.
//
// Accuracy p +- se over n questions:  se = sqrt(p (1-p)/(n-1)), so (p, se) tell n; and p = k/n for some k.
// Throughput, fixed lengths:          total/output = (ISL + OSL)/OSL
// Little's law:                       mean concurrency = mean E2EL * request throughput <= MC
// Closed loop of MC clients:          output tok/s <= MC * OSL/(TTFT + (OSL-1) * TPOT)
// vllm bench's own result:            throughput * duration = count
// Differences:                        (B - A)/A as printed
// Every number stands for the interval that rounds to it; only what no number in it explains is flagged.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::harness {

struct Finding {
  enum class Kind : std::uint8_t { kFits, kContradicts, kNote } kind = Kind::kNote;
  std::size_t line = 0;  // from 1
  std::string text;
};

struct AuditOptions {
  std::optional<std::int64_t> samples;  // the n that is claimed; without it, what the text says
};

struct AuditResult {
  std::vector<std::int64_t> claimed;  // sample sizes that the text states, in order
  std::vector<Finding> findings;      // by line
};

// Markdown tables (lm_eval's, sweeps with or without "A → B (d%)" cells), "p ± se" and "k/n = p" anywhere, and the text
// block that vllm bench serve and sglang.bench_serving print.
AuditResult audit_text(std::string_view text, const AuditOptions& options = {});

// The sample sizes that a text states: "256 samples", "--limit 256", "limit=256", "n=256", "--num-questions 200".
std::vector<std::int64_t> claimed_samples(std::string_view text);

// The three kinds of checks; each appends.
void audit_accuracy(std::string_view text, const std::vector<std::int64_t>& claimed,
                    std::vector<Finding>& findings);
void audit_throughput_tables(std::string_view text, std::vector<Finding>& findings);
void audit_serving_blocks(std::string_view text, std::vector<Finding>& findings);

}  // namespace moecheck::harness
