#include "harness/judging.h"

#include <fmt/format.h>

#include "harness/json.h"
#include "harness/operator.h"
#include "harness/stopwatch.h"
#include "harness/workers.h"

namespace moecheck::harness {
namespace {

constexpr std::int64_t kCasesPerChunk = 2000;
constexpr std::size_t kListedFailures = 100;

// The tensors of `specs`: those given, where they fit. Shapes may depend on the seed.
void fit(TensorSet& tensors, const std::vector<TensorSpec>& specs) {
  const bool same = std::equal(specs.begin(), specs.end(), tensors.tensors().begin(), tensors.tensors().end(),
                               [](const TensorSpec& s, const Tensor& t) {
                                 return s.name == t.name() && s.dtype == t.dtype() && s.shape == t.shape();
                               });
  if (!same) tensors = TensorSet(specs);
}

// Seeds [begin, end) of one case.
nlohmann::json judge_chunk(Case c, const Implementation& implementation, std::uint64_t begin,
                           std::uint64_t end) {
  const Operator& op = operator_of(c);
  const Stopwatch watch;
  std::int64_t failed = 0, undecided = 0;
  std::vector<std::string> failures;
  TensorSet inputs, outputs;
  for (c.seed = begin; c.seed < end; ++c.seed) {
    fit(inputs, op.inputs(c));
    fit(outputs, op.outputs(c));
    op.generate(c, inputs);
    op.reset_outputs(c, inputs, outputs);
    implementation.run(c, inputs, outputs, {});
    Judgement j;
    op.judge(c, inputs, *op.reference(c, inputs), outputs, j);
    undecided += j.undecided;
    if (!is_failure(j.verdict)) continue;
    ++failed;
    if (failures.size() < kListedFailures) failures.push_back(c.str());
  }
  return {{"failed", failed}, {"undecided", undecided}, {"failures", failures}, {"seconds", watch.seconds()}};
}

}  // namespace

JudgingResult judge_many(const std::vector<Case>& cases, const Implementation& implementation,
                         const JudgingOptions& options) {
  std::int64_t rows_of_all = 0;
  for (const Case& c : cases) {
    if (const auto why = operator_of(c).refusal(c))
      throw UsageError(fmt::format("case '{}' is refused: {}", c.str(), *why));
    if (const auto why = implementation.unsupported(c))
      throw UsageError(fmt::format("{} does not support '{}': {}", implementation.name(), c.str(), *why));
    rows_of_all += std::max<std::int64_t>(1, c.integer("tokens"));
  }
  struct Chunk {
    std::size_t which;
    std::uint64_t begin, end;
  };
  const std::int64_t wanted = options.cases > 0 ? options.cases : options.rows,
                     each = options.cases > 0 ? static_cast<std::int64_t>(cases.size()) : rows_of_all;
  const auto repeats = static_cast<std::uint64_t>((wanted + each - 1) / std::max<std::int64_t>(1, each));
  std::vector<Chunk> chunks;
  for (std::uint64_t at = 0; at < repeats; at += kCasesPerChunk)
    for (std::size_t i = 0; i < cases.size(); ++i)
      chunks.push_back({i, options.first_seed + at,
                        options.first_seed + std::min<std::uint64_t>(repeats, at + kCasesPerChunk)});
  JudgingResult result;
  result.cases = static_cast<std::int64_t>(repeats * cases.size());
  result.rows = static_cast<std::int64_t>(repeats) * rows_of_all;
  WorkerCallbacks callbacks;
  callbacks.work = [&](std::size_t i) {
    return judge_chunk(cases[chunks[i].which], implementation, chunks[i].begin, chunks[i].end).dump();
  };
  callbacks.done = [&](std::size_t, std::string text) {
    const auto j = nlohmann::json::parse(text);
    result.failed += j["failed"].get<std::int64_t>();
    result.undecided += j["undecided"].get<std::int64_t>();
    result.core_seconds += j["seconds"].get<double>();
    for (const auto& line : j["failures"])
      if (result.failures.size() < kListedFailures) result.failures.push_back(line);
  };
  callbacks.lost = [&](std::size_t i, std::string how, bool) {
    ++result.failed;
    result.failures.push_back(fmt::format("{} (seeds {} to {}: {})", cases[chunks[i].which].str(),
                                          chunks[i].begin, chunks[i].end - 1, how));
  };
  const Stopwatch watch;
  run_in_workers(chunks.size(), {options.jobs, 3600}, callbacks);
  result.seconds = watch.seconds();
  return result;
}

std::vector<Case> judging_cases(const Operator& op, const Implementation& implementation) {
  std::vector<Case> cases = op.cases(Suite::kQuick);
  std::erase_if(cases, [&](const Case& c) { return implementation.unsupported(c).has_value(); });
  return cases;
}

std::vector<Case> judging_cases() {
  const Operator& op = *find_operator("gating");
  std::vector<Case> cases;
  for (const Preset& p : op.schema().policies) {
    for (const char* dtype : {"f32", "bf16", "f16"}) {
      // The first shape that the policy accepts: 256 experts where it can.
      for (const char* shape :
           {"experts=256 groups=8 topk_group=4", "experts=256",
            "experts=256 scoring=softmax bias=none renormalize=0 rsf=1",
            "experts=256 scoring=softmax bias=none rsf=1", "experts=256 scoring=sqrtsoftplus"}) {
        Case c(op.schema());
        c.set("policy", p.name).set("dtype", dtype).set("tokens", 4);
        for (const std::string_view word : split_words(shape))
          c.set(word.substr(0, word.find('=')), word.substr(word.find('=') + 1));
        if (op.refusal(c) && c.choice("bias") != "none")
          c.set("bias", dtype);  // some take the logits' dtype only
        if (op.refusal(c)) continue;
        cases.push_back(c);
        break;
      }
    }
  }
  return cases;
}

}  // namespace moecheck::harness
