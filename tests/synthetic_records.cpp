#include "tests/synthetic_records.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string_view>

namespace moecheck::harness {
namespace {

struct OperatorKind {
  std::string_view name, output;
  std::vector<std::string_view> policies;
  double typical;  // headroom of an honest implementation
};

const std::vector<OperatorKind>& kinds() {
  static const std::vector<OperatorKind> all = {
      {"gating",
       "topk_weights",
       {"hf_deepseek_v3", "sglang_fused", "sglang_torch", "vllm_cuda", "vllm_torch", "aiter_hip"},
       0.08},
      {"routed_scaling", "output", {"vllm", "sglang", "aiter"}, 0.3},
      {"shared_experts", "output", {"fused_slot", "separate"}, 0.15},
      {"experts", "output", {"bf16", "fp8_block"}, 0.02},
      {"moe_block", "output", {"vllm", "sglang"}, 0.05},
      {"moe_align", "sorted_token_ids", {""}, 0}};
  return all;
}

constexpr std::string_view kModels[] = {
    "glm-4.7", "glm-4.5-air", "deepseek-v2", "deepseek-v3", "kimi-k2", "qwen3-next", ""};
constexpr std::string_view kImplementations[] = {"cpu", "cpu-scalar", "gpu-host", "cpu!scale_shared_slot"};
constexpr std::string_view kClauses[] = {"guards",
                                         "inputs_unchanged",
                                         "float_environment_kept",
                                         "determinism",
                                         "thread_count",
                                         "address",
                                         "token_permutation",
                                         "batch_split",
                                         "padding_rows",
                                         "expert_permutation",
                                         "power_of_two_scaling"};

class Campaign {
 public:
  std::vector<Record> make(int per_cell) {
    for (const OperatorKind& kind : kinds())
      for (const std::string_view model : kModels)
        for (const std::string_view policy : kind.policies)
          for (const std::string_view implementation : kImplementations) {
            if (implementation.find('!') != std::string_view::npos && kind.name != "routed_scaling") continue;
            for (int i = 0; i < per_cell; ++i) add(kind, model, policy, implementation, i);
          }
    return std::move(records_);
  }

 private:
  double uniform() { return std::uniform_real_distribution<double>()(random_); }

  void add(const OperatorKind& kind, std::string_view model, std::string_view policy,
           std::string_view implementation, int i) {
    Record& r = records_.emplace_back();
    const std::int64_t tokens = std::int64_t{1} << (random_() % 10);
    const std::string sizes = model.empty()
                                  ? fmt::format("experts={} topk={}", 8 << (random_() % 4), 1 + random_() % 4)
                                  : fmt::format("model={}", model);
    r.case_line = fmt::format("{} {}{} tokens={} dtype=bf16 data={} seed={}", kind.name, sizes,
                              policy.empty() ? "" : fmt::format(" policy={}", policy), tokens,
                              i % 3 == 0 ? "integers" : "realistic", 100 + i);
    r.operator_name = kind.name;
    r.implementation = implementation;
    r.model = model;
    r.policy = policy;
    r.tier = i % 3 == 0 ? "integers" : "realistic";
    r.suite = "models";
    r.env = {"0.1.0",
             "4f1c2d9a77be",
             "GNU 12.2.0",
             "Release",
             "AMD EPYC 9554 64-Core Processor",
             "Debian GNU/Linux 12 (bookworm)",
             "",
             2};
    r.seconds = 0.002 + 0.02 * uniform();
    r.run_seconds = r.seconds / 5;
    Judgement& j = r.result;
    j.elements = tokens * 128;
    j.headroom =
        r.tier == "integers"
            ? 0
            : std::min(0.97, kind.typical * std::exp(0.9 * std::normal_distribution<double>()(random_)));
    clauses(r);
    verdict(kind, r);
  }

  void clauses(Record& r) {
    for (const std::string_view name : kClauses) {
      ClauseResult c{std::string(name), Verdict::kPass, {}};
      if (name == "determinism" && r.implementation == "gpu-host" && r.operator_name == "experts")
        c = {c.name, Verdict::kSkip, "not promised: atomics: the order of summation varies"};
      else if (name == "expert_permutation" && r.policy.find("sglang") != std::string::npos)
        c = {c.name, Verdict::kSkip, "groups of experts: permuting across groups changes the selection"};
      else if (name == "batch_split" && r.case_line.find("tokens=1 ") != std::string::npos)
        c = {c.name, Verdict::kSkip, "one token cannot be split"};
      r.result.clauses.push_back(std::move(c));
    }
  }

  void worst(Record& r, std::string_view output, double expected, double got, double bound) {
    Element e{std::string(output),
              {static_cast<std::int64_t>(random_() % 64), static_cast<std::int64_t>(random_() % 2048)},
              expected,
              0,
              0,
              got,
              0,
              bound,
              0,
              {}};
    e.low = std::floor((expected - bound) * 512) / 512;
    e.high = std::ceil((expected + bound) * 512) / 512;
    e.error = std::abs(got - expected);
    e.ratio = e.error / bound;
    r.result.headroom = e.ratio;
    r.result.worst = std::move(e);
  }

  void fail(Record& r, std::string reason, std::string cause, std::int64_t failed) {
    r.result.verdict = Verdict::kFail;
    r.result.reason = std::move(reason);
    r.result.cause = std::move(cause);
    r.result.failed = std::min(failed, r.result.elements);
    r.shrunk = fmt::format("{} tokens=1 experts=2 topk=1 seed=3", r.operator_name);
  }

  void skip(Record& r, std::string reason) {
    r.result = {};
    r.result.verdict = Verdict::kSkip;
    r.result.reason = std::move(reason);
  }

  void verdict(const OperatorKind& kind, Record& r) {
    Judgement& j = r.result;
    if (r.policy == "sglang_fused" && r.model == "glm-4.7") {
      skip(r, "experts=160 is not a power of two: policy sglang_fused needs one; use vllm_cuda");
    } else if (r.implementation == "gpu-host" && kind.name == "experts" && r.policy == "fp8_block" &&
               r.model == "qwen3-next") {
      skip(r, "intermediate=512: the fp8 kernel needs a multiple of 1024");
    } else if (r.implementation == "cpu!scale_shared_slot" && r.model != "glm-4.5-air" &&
               r.model != "qwen3-next") {
      fail(r, fmt::format("{} is wrong beyond its proven bound", kind.output),
           "the shared slot is 2.5 times the expected: routed_scaling_factor is applied to it",
           j.elements / 9);
      worst(r, kind.output, 0.3128931, 0.7822266, 0.00098);
    } else if (r.implementation == "gpu-host" && kind.name == "gating" && r.model == "kimi-k2" &&
               uniform() < 0.6) {
      fail(r, "token 3: expert id 7 instead of 3, and their scores differ by more than their bounds",
           "exact ties go to the higher id: the policy takes the lower", 2);
      j.worst = Element{"topk_ids", {3, 5}, 3, 3, 3, 7, 4, 0, HUGE_VAL, "id 7 instead of 3"};
      j.headroom = HUGE_VAL;
      j.clauses[6] = {"token_permutation", Verdict::kFail,
                      "token 3: id 7 became 3 when row 3 moved to row 0"};
    } else if (r.implementation == "gpu-host" && kind.name == "moe_block" && r.model == "deepseek-v3" &&
               uniform() < 0.2) {
      j.verdict = Verdict::kSuspect;
      j.suspect = 1;
      j.reason = "1 element is within its proven bound but beyond 6 sigma";
      worst(r, kind.output, -0.04112, -0.0421, 0.0011);
    } else if (kind.name == "gating" && r.tier == "realistic" && uniform() < 0.03) {
      j.verdict = Verdict::kUndecided;
      j.undecided = 1 + static_cast<std::int64_t>(random_() % 4);
      j.reason = "rows whose k-th and next score are closer than their bounds";
    } else if (uniform() < 0.0015) {
      rare(r);
    }
  }

  void rare(Record& r) {
    constexpr Verdict kRare[] = {Verdict::kCrash, Verdict::kTimeout, Verdict::kMistrusted, Verdict::kOracle,
                                 Verdict::kWaived};
    constexpr std::string_view kReasons[] = {"signal 11 (Segmentation fault) in the worker",
                                             "not finished after 60 s", "the reference is zero everywhere",
                                             "the reversed reference differs by 3 bounds at output[0, 17]",
                                             "#123: known in gfx942 builds"};
    const std::size_t i = next_rare_++ % std::size(kRare);
    r.result = {};
    r.result.verdict = kRare[i];
    r.result.reason = kReasons[i];
  }

  std::mt19937_64 random_{7};
  std::vector<Record> records_;
  std::size_t next_rare_ = 0;
};

}  // namespace

std::vector<Record> synthetic_campaign(int per_cell) { return Campaign().make(per_cell); }

Record synthetic_failure() {
  Record r;
  r.case_line = "routed_scaling model=glm-4.7 policy=vllm tokens=64 dtype=bf16 seed=7";
  r.operator_name = "routed_scaling";
  r.implementation = "cpu!scale_shared_slot";
  r.shrunk = "routed_scaling experts=2 topk=1 tokens=1";
  Judgement& j = r.result;
  j.verdict = Verdict::kFail;
  j.reason = "output is wrong beyond its proven bound";
  j.cause = "the shared slot is 2.5 times the expected: routed_scaling_factor is applied to it";
  j.elements = 9216;
  j.failed = 1024;
  j.suspect = 2;
  j.undecided = 1;
  j.headroom = 479.1;
  j.worst =
      Element{"output", {3, 17}, 0.3128931, 0.3125, 0.314453125, 0.7822266, 0.4693335, 0.00098, 478.9, ""};
  j.clauses = {
      {"guards", Verdict::kPass, ""},
      {"determinism", Verdict::kSkip, "not promised: atomics"},
      {"token_permutation", Verdict::kFail, "token 3: output[3, 17] changed when row 3 moved to row 0"}};
  return r;
}

}  // namespace moecheck::harness
