#include "harness/detection/limits.h"

#include <fmt/format.h>

#include <cmath>

#include "harness/fault.h"
#include "harness/json.h"
#include "harness/statistics/accuracy.h"
#include "harness/workers.h"

namespace moecheck::harness::detection {
namespace {

// Two-sided at alpha = 0.10: each bound alone is one-sided at 0.05.
bool shows_power(int caught, int trials) {
  return clopper_pearson(caught, trials, 2 * (1 - kConfidence)).low >= kPower;
}

std::string shape_of(const Case& c, const std::string& output) {
  for (const TensorSpec& spec : operator_of(c).outputs(c))
    if (spec.name == output) return to_string(spec.shape);
  return {};
}

// fp8 where weights or outputs are; else the dtype of the output. Logits decide it in gating, whose weights are fp32.
std::string dtype_of(const Case& c) {
  if (c.schema().find("quant") >= 0 && c.choice("quant") != "none")
    return fmt::format("{} ({})", c.choice("dtype"), c.choice("quant"));
  if (c.schema().find("q_dtype") >= 0 && c.choice("q_dtype") != "same")
    return fmt::format("{} ({})", c.choice("dtype"), c.choice("q_dtype"));
  return std::string(c.choice("dtype"));
}

class CaseStudy {
 public:
  CaseStudy(const Case& c, const Implementation& implementation, int trials) : trials_(trials) {
    result_.case_line = c.str();
    result_.implementation = implementation.name();
    result_.operator_name = c.operator_name();
    result_.output = real_output(c);
    if (result_.output.empty())
      throw UsageError(fmt::format(
          "{} has no output of real numbers: its results are compared exactly, and no gate has a limit",
          c.operator_name()));
    result_.tier = c.choice("data");
    result_.dtype = dtype_of(c);
    result_.shape = shape_of(c, result_.output);
    result_.false_alarms.assign(columns().size(), 0);
    for (int t = 0; t < trials; ++t) {
      Case trial = c;
      trial.seed = c.seed + static_cast<std::uint64_t>(t);
      subjects_.emplace_back(trial, implementation);
    }
  }

  CaseLimits run() {
    const std::uint32_t all = (1u << columns().size()) - 1;
    const std::vector<double>& values = subjects_.front().compared.expected;
    for (const double v : values) result_.rms += v * v / static_cast<double>(values.size());
    result_.rms = std::sqrt(result_.rms);
    for (const Subject& s : subjects_) {
      const std::uint32_t rejected = rejecting(s, s.outputs, all);
      for (std::size_t k = 0; k < columns().size(); ++k) result_.false_alarms[k] += rejected >> k & 1;
    }
    for (const FamilyInfo& f : families()) {
      if (inapplicable(f.family, subjects_.front())) continue;
      FamilyLimits found = limits(f.family);
      // Where not even the largest changes a bit there is no such fault: equal weights can change places.
      if (found.columns[kBits].limit.smallest) result_.families.push_back(std::move(found));
    }
    return result_;
  }

 private:
  FamilyLimits limits(Family family) const {
    const std::vector<double> grid = magnitudes(family, subjects_.front());
    FamilyLimits found{family, grid.empty() ? 0 : grid.back(), {}};
    const std::vector<Limit> limits =
        search_limits(grid, trials_, static_cast<int>(columns().size()),
                      [&](std::size_t m, int trial, std::uint32_t asked) {
                        const Subject& s = subjects_[static_cast<std::size_t>(trial)];
                        return rejecting(s, faulty(family, grid[m], s.c.seed, s), asked);
                      });
    for (std::size_t k = 0; k < limits.size(); ++k) found.columns.push_back({applies(k), limits[k]});
    return found;
  }

  bool applies(std::size_t column) const {
    return column < kFirstForeign || !gates()[column - kFirstForeign].ids_only ||
           !subjects_.front().compared.expected_ids.empty();
  }

  // Which of the columns `asked` reject these outputs.
  std::uint32_t rejecting(const Subject& s, const TensorSet& got, std::uint32_t asked) const {
    std::uint32_t rejected = 0;
    const auto wants = [&](std::size_t column) { return (asked >> column & 1) != 0; };
    if (wants(kBits) && !first_difference(got, s.outputs).empty()) rejected |= 1u << kBits;
    if (wants(kOwn) && s.judged_wrong(got)) rejected |= 1u << kOwn;
    if (asked >> kFirstForeign == 0) return rejected;
    const Compared both = s.beside_reference(got);
    for (std::size_t g = 0; g < gates().size(); ++g) {
      const std::size_t column = kFirstForeign + g;
      if (wants(column) && applies(column) && !gates()[g].passes(both)) rejected |= 1u << column;
    }
    return rejected;
  }

  int trials_;
  std::vector<Subject> subjects_;
  CaseLimits result_;
};

nlohmann::json to_json(const std::optional<double>& v) { return v ? nlohmann::json(*v) : nlohmann::json(); }
std::optional<double> number(const nlohmann::json& j) {
  return j.is_null() ? std::nullopt : std::optional(j.get<double>());
}

// From a worker to its parent: only what the parent cannot know.
std::string packed(const CaseLimits& r) {
  nlohmann::json families = nlohmann::json::array();
  for (const FamilyLimits& f : r.families) {
    nlohmann::json limits = nlohmann::json::array();
    for (const ColumnLimit& c : f.columns)
      limits.push_back({c.asked, to_json(c.limit.smallest), to_json(c.limit.missed)});
    families.push_back({static_cast<int>(f.family), f.largest, limits});
  }
  return nlohmann::json{
      {"rms", r.rms},
      {"false_alarms", r.false_alarms},
      {"families", families},
      {"texts", {r.case_line, r.implementation, r.operator_name, r.tier, r.dtype, r.shape, r.output}}}
      .dump();
}

CaseLimits unpacked(const std::string& text) {
  const auto j = nlohmann::json::parse(text);
  CaseLimits r;
  std::string* const texts[] = {&r.case_line, &r.implementation, &r.operator_name, &r.tier,
                                &r.dtype,     &r.shape,          &r.output};
  for (std::size_t i = 0; i < std::size(texts); ++i) *texts[i] = j["texts"][i].get<std::string>();
  r.rms = j["rms"].get<double>();
  r.false_alarms = j["false_alarms"].get<std::vector<int>>();
  for (const auto& f : j["families"]) {
    FamilyLimits limits{static_cast<Family>(f[0].get<int>()), f[1].get<double>(), {}};
    for (const auto& c : f[2]) limits.columns.push_back({c[0].get<bool>(), {number(c[1]), number(c[2])}});
    r.families.push_back(std::move(limits));
  }
  return r;
}

}  // namespace

int allowed_misses(int trials) {
  int misses = -1;
  while (misses + 1 <= trials && shows_power(trials - misses - 1, trials)) ++misses;
  return misses;
}

std::vector<Limit> search_limits(std::span<const double> grid, int trials, int gates, const Probe& probe) {
  const int allowed = allowed_misses(trials);
  if (allowed < 0)
    throw UsageError(
        fmt::format("{} trials: even if all are caught, that shows only {:.1f}% at 95% confidence; use at "
                    "least 59 for 95%",
                    trials, 100 * clopper_pearson(trials, trials, 2 * (1 - kConfidence)).low));
  std::vector<Limit> limits(static_cast<std::size_t>(gates));
  std::uint32_t open = gates == 32 ? ~0u : (1u << gates) - 1;
  // From the largest on: a gate's limit is known at the first magnitude that it does not catch.
  for (std::size_t m = grid.size(); m-- > 0 && open != 0;) {
    std::vector<int> misses(limits.size(), 0);
    for (int t = 0; t < trials && open != 0; ++t) {
      const std::uint32_t caught = probe(m, t, open);
      for (std::size_t g = 0; g < limits.size(); ++g) {
        if ((open >> g & 1) == 0 || (caught >> g & 1) != 0 || ++misses[g] <= allowed) continue;
        limits[g].missed = grid[m];
        open &= ~(1u << g);
      }
    }
    for (std::size_t g = 0; g < limits.size(); ++g)
      if ((open >> g & 1) != 0) limits[g].smallest = grid[m];
  }
  return limits;
}

std::span<const Column> columns() {
  static const std::vector<Column> all = [] {
    std::vector<Column> c = {
        {"bits", "any bit of the outputs differs from the unfaulted ones",
         "what any comparison could see at best"},
        {"moecheck", "every element within its own proven bound and 6 sigma; bits where that is 0",
         "the operator's own judge"}};
    for (const Gate& g : gates())
      c.push_back({std::string(g.name), std::string(g.formula), std::string(g.source)});
    return c;
  }();
  return all;
}

CaseLimits limits_of(const Case& c, const Implementation& implementation, int trials) {
  return CaseStudy(c, implementation, trials).run();
}

std::vector<CaseLimits> study(const std::vector<StudyItem>& items, const StudyOptions& options) {
  std::vector<CaseLimits> results;
  const auto keep = [&](CaseLimits r) {
    results.push_back(std::move(r));
    if (options.on_result) options.on_result(results.back(), results.size(), items.size());
  };
  WorkerCallbacks callbacks;
  callbacks.work = [&](std::size_t i) {
    return packed(limits_of(items[i].c, *items[i].implementation, options.trials));
  };
  callbacks.done = [&](std::size_t, std::string text) { keep(unpacked(text)); };
  callbacks.lost = [&](std::size_t i, std::string how, bool) {
    CaseLimits r;
    r.case_line = items[i].c.str();
    r.implementation = items[i].implementation->name();
    r.operator_name = items[i].c.operator_name();
    r.lost = std::move(how);
    keep(std::move(r));
  };
  run_in_workers(items.size(), {options.jobs, options.timeout_seconds}, callbacks);
  return results;
}

std::vector<Weakness> weaker_than_others(std::span<const CaseLimits> results) {
  std::vector<Weakness> found;
  for (const CaseLimits& r : results)
    for (const FamilyLimits& f : r.families)
      for (std::size_t k = kFirstForeign; k < f.columns.size(); ++k) {
        const std::optional<double>&own = f.columns[kOwn].limit.smallest,
              &other = f.columns[k].limit.smallest;
        if (f.columns[k].asked && r.false_alarms[k] == 0 && other && (!own || *other < *own))
          found.push_back({&r, &f, k});
      }
  return found;
}

std::vector<std::string> default_lines() {
  std::vector<std::string> lines;
  const auto add = [&](std::string_view base, std::initializer_list<std::string_view> variants) {
    for (const std::string_view v : variants) lines.push_back(fmt::format("{} {}", base, v));
  };
  constexpr std::string_view kIntegers = "data=integers rsf=2";
  const std::string mlp = "tokens=16 topk=4 hidden=256 intermediate=64",
                    wide = "tokens=16 topk=4 hidden=256 intermediate=128";
  for (const char* dtype : {"bf16", "f16"})
    add(fmt::format("experts policy=triton dtype={} {}", dtype, mlp), {"", kIntegers});
  add("experts policy=fused_f32 dtype=f32 " + mlp, {"", kIntegers});
  add("experts policy=vllm_fp8 " + wide, {"", kIntegers});
  add("experts", {std::string_view(mlp), "policy=triton tokens=1 topk=4 hidden=256 intermediate=64",
                  "policy=triton model=glm-4.7 tokens=4 hidden=1024 intermediate=96 ep_size=16 ep_rank=5"});
  for (const char* dtype : {"bf16", "f16"})
    add(fmt::format("moe_block policy=vllm_cuda dtype={} {}", dtype, mlp), {"", kIntegers});
  add("moe_block policy=vllm_cuda dtype=f32 " + mlp, {""});
  add("moe_block policy=vllm_fp8 " + wide, {"", kIntegers});
  add("moe_block policy=vllm_cuda", {"tokens=1 topk=4 hidden=256 intermediate=64"});
  add("moe_block policy=sglang_cuda_fused " + mlp, {""});
  for (const char* dtype : {"bf16", "f16", "f32"})
    add(fmt::format("routed_scaling policy=vllm_runner dtype={} tokens=16 topk=8 hidden=256", dtype),
        {"", kIntegers});
  add("routed_scaling policy=vllm_runner tokens=256 topk=8 hidden=64", {""});
  for (const char* shape :
       {"model=deepseek-v3 tokens=16", "model=glm-4.7 tokens=1", "model=glm-4.7 tokens=64"})
    add(fmt::format("gating policy=vllm_torch {}", shape), {"", "data=integers"});
  add("gating policy=vllm_torch model=deepseek-v3 tokens=16", {"dtype=bf16", "dtype=f16"});
  for (const char* dtype : {"f32", "bf16"})
    add(fmt::format(
            "mqa_logits tokens=4 context=256 contexts=full heads=8 head_dim=128 block_size=64 dtype={}",
            dtype),
        {"", "data=integers"});
  for (const char* dtype : {"bf16", "f16"})
    add(fmt::format("mla_prepare policy=vllm tokens=4 heads=4 dtype={}", dtype), {"", "data=integers"});
  add("mla_prepare tokens=4 heads=4 q_dtype=e4m3fn", {""});
  return lines;
}

}  // namespace moecheck::harness::detection
