#include "harness/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <thread>

#include "harness/json.h"
#include "harness/operator.h"
#include "harness/stopwatch.h"
#include "harness/workers.h"

namespace moecheck::harness {
namespace {

std::uint64_t read_all(const std::uint64_t* p, std::size_t n) {
  std::uint64_t sum[8] = {};
  for (std::size_t i = 0; i + 8 <= n; i += 8)
    for (std::size_t k = 0; k < 8; ++k) sum[k] += p[i + k];
  return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

// Every input once, but of tensors with one slab per expert only the slabs somebody is routed to.
double bytes_to_read(const TensorSet& inputs) {
  std::set<std::int64_t> routed;
  if (const Tensor* ids = inputs.find("topk_ids"))
    for (std::int64_t i = 0; i < ids->shape().numel(); ++i) routed.insert(ids->view().int_at(i));
  routed.erase(-1);
  double bytes = 0;
  for (const Tensor& t : inputs.tensors()) {
    const bool per_expert = !routed.empty() && t.shape().rank == 3 && t.name().starts_with("w");
    bytes += per_expert ? static_cast<double>(t.bytes()) / static_cast<double>(t.shape()[0]) *
                              static_cast<double>(routed.size())
                        : static_cast<double>(t.bytes());
  }
  return bytes;
}

}  // namespace

double read_bandwidth(int threads) {
  constexpr std::size_t kWords = (std::size_t{1} << 30) / sizeof(std::uint64_t);
  std::vector<std::uint64_t> buffer(kWords, 1);
  const std::size_t part = kWords / static_cast<std::size_t>(threads);
  double best = 0;
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(threads));
  for (int pass = 0; pass < 5; ++pass) {
    const Stopwatch watch;
    {
      std::vector<std::jthread> readers;
      for (std::size_t t = 0; t < static_cast<std::size_t>(threads); ++t)
        readers.emplace_back([&, t] { sums[t] = read_all(buffer.data() + t * part, part); });
    }
    best = std::max(best, static_cast<double>(part * sums.size() * sizeof(std::uint64_t)) / watch.seconds());
  }
  // The sums are used, so that no compiler leaves the reading out.
  return sums[0] == part ? best : 0;
}

double copy_bandwidth(int threads) {
  constexpr std::size_t kBytes = std::size_t{1} << 29;
  const std::vector<char> from(kBytes, 1);
  std::vector<char> to(kBytes, 2);
  const std::size_t part = kBytes / static_cast<std::size_t>(threads);
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    const Stopwatch watch;
    {
      std::vector<std::jthread> copiers;
      for (std::size_t t = 0; t < static_cast<std::size_t>(threads); ++t)
        copiers.emplace_back([&, t] { std::memcpy(to.data() + t * part, from.data() + t * part, part); });
    }
    best = std::max(best, 2.0 * static_cast<double>(part) * threads / watch.seconds());
  }
  // The copy is looked at, so that no compiler leaves it out.
  return to[part - 1] == 1 ? best : 0;
}

namespace {

BenchResult bench_here(const Case& c, const Implementation& implementation, const BenchOptions& options) {
  const Operator& op = operator_of(c);
  BenchResult r;
  r.case_line = c.str();
  r.implementation = implementation.name();
  r.tokens = c.integer("tokens");
  TensorSet inputs(op.inputs(c)), outputs(op.outputs(c));
  op.generate(c, inputs);
  r.bytes = op.bytes_moved(c, inputs).value_or(bytes_to_read(inputs));
  op.reset_outputs(c, inputs, outputs);
  std::vector<double> times =
      implementation.time_runs(c, inputs, outputs, {options.threads}, options.seconds);
  r.copy_bandwidth = implementation.copy_bandwidth();
  r.runs = static_cast<std::int64_t>(times.size());
  std::nth_element(times.begin(), times.begin() + r.runs / 2, times.end());
  r.median_seconds = times[times.size() / 2];
  r.fastest_seconds = *std::min_element(times.begin(), times.end());
  r.bandwidth = r.bytes / r.median_seconds;
  const Stopwatch watch;
  const std::unique_ptr<Expected> expected = op.reference(c, inputs);
  r.reference_seconds = watch.seconds();
  Judgement j;
  op.judge(c, inputs, *expected, outputs, j);
  r.verdict = name(j.verdict);
  r.reason = j.reason;
  return r;
}

constexpr double kBenchTimeout = 600;

BenchResult bench_in_worker(const Case& c, const Implementation& implementation,
                            const BenchOptions& options) {
  BenchResult r;
  r.case_line = c.str();
  r.implementation = implementation.name();
  WorkerCallbacks callbacks;
  callbacks.work = [&](std::size_t) {
    const BenchResult b = bench_here(c, implementation, options);
    return nlohmann::json{
        b.median_seconds, b.fastest_seconds, b.reference_seconds, b.bytes, b.bandwidth, b.tokens,
        b.runs,           b.copy_bandwidth,  b.verdict,           b.reason}
        .dump();
  };
  callbacks.done = [&](std::size_t, std::string text) {
    const auto j = nlohmann::json::parse(text);
    r.median_seconds = j[0], r.fastest_seconds = j[1], r.reference_seconds = j[2], r.bytes = j[3];
    r.bandwidth = j[4], r.tokens = j[5], r.runs = j[6], r.copy_bandwidth = j[7];
    r.verdict = j[8].get<std::string>(), r.reason = j[9].get<std::string>();
  };
  callbacks.lost = [&](std::size_t, std::string how, bool timeout) {
    r.verdict = name(timeout ? Verdict::kTimeout : Verdict::kCrash);
    r.reason = std::move(how);
  };
  run_in_workers(1, {1, kBenchTimeout}, callbacks);
  return r;
}

}  // namespace

BenchResult bench_case(const Case& c, const Implementation& implementation, const BenchOptions& options) {
  return implementation.runs_in_workers_only() ? bench_in_worker(c, implementation, options)
                                               : bench_here(c, implementation, options);
}

std::vector<std::string> bench_lines() {
  std::vector<std::string> lines;
  for (const char* shape : {"model=deepseek-v3 policy=vllm_torch", "model=glm-4.7 policy=vllm_torch",
                            "model=kimi-k2 policy=vllm_torch"})
    for (const int tokens : {1, 64, 4096}) lines.push_back(fmt::format("gating {} tokens={}", shape, tokens));
  // GLM-4.7 cut over four ranks: the memory-bound decode step.
  for (const int tokens : {1, 2, 4, 8, 16})
    lines.push_back(fmt::format("experts model=glm-4.7 intermediate=384 dtype=bf16 tokens={}", tokens));
  for (const int tokens : {1, 16, 64})
    lines.push_back(
        fmt::format("experts model=glm-4.7 intermediate=384 quant=fp8_block division=divide rsf=2 "
                    "data=integers tokens={}",
                    tokens));
  lines.push_back("experts model=glm-4.7 intermediate=384 dtype=bf16 tokens=64");
  for (const int tokens : {64, 4096}) {
    lines.push_back(fmt::format("routed_scaling model=glm-4.7 tokens={}", tokens));
    lines.push_back(fmt::format("moe_align experts=160 topk=8 tokens={}", tokens));
    lines.push_back(fmt::format(
        "mla_prepare nope_dim=512 rope_dim=64 heads=16 blocks=256 max_positions=8192 tokens={}", tokens));
  }
  // The indexer of 8 requests with 32k tokens each.
  for (const char* layout : {"row_major", "preshuffled"})
    lines.push_back(fmt::format(
        "mqa_logits layout={} tokens=8 context=32768 contexts=full heads=64 head_dim=128 block_size=64",
        layout));
  // A long prompt of DeepSeek-V3.2 or GLM-5: keys into the indexer's cache, and out of it. Beside copy bandwidth.
  for (const char* layout : {"row_major", "preshuffled"}) {
    lines.push_back(fmt::format("indexer_cache layout={} scale_fmt=ue8m0 tokens=65536", layout));
    lines.push_back(
        fmt::format("indexer_cache layout={} tokens=65536 value_op=divide scale_op=divide", layout));
    lines.push_back(fmt::format("indexer_cache layout={} form=gather tokens=65536 requests=8", layout));
  }
  return lines;
}

}  // namespace moecheck::harness
