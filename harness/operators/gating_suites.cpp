// The cases of gating's suites.
#include <fmt/format.h>

#include <set>

#include "harness/models.h"
#include "harness/operators/gating.h"
#include "harness/operators/operators.h"
#include "harness/random.h"

namespace moecheck::harness {
namespace {

// Collects cases that their operator accepts, each once.
class Cases {
 public:
  // `line` is what follows "gating policy=NAME"; of a field given twice the later counts, a model comes first. Refused
  // combinations are left out: another policy has them.
  bool add(std::string_view policy, std::string_view line) {
    Case c(gating_schema());
    c.set("policy", policy);
    for (const std::string_view word : split_words(line))
      c.set(word.substr(0, word.find('=')), word.substr(word.find('=') + 1));
    if (gating_operator().refusal(c) || !seen_.insert(c.str()).second) return false;
    cases_.push_back(c);
    return true;
  }
  // Tries every line until one is accepted.
  bool add_first(std::string_view policy, std::initializer_list<std::string_view> lines,
                 std::string_view rest) {
    for (const std::string_view line : lines)
      if (add(policy, fmt::format("{} {}", line, rest))) return true;
    return false;
  }
  // A case that its policy refuses: it is skipped with the reason, so that a report says why the pair is not covered.
  void add_refused(std::string_view policy, std::string_view line) {
    cases_.push_back(parse_case(gating_schema(), fmt::format("gating policy={} {}", policy, line)));
  }
  std::size_t size() const { return cases_.size(); }
  std::vector<Case> take() { return std::move(cases_); }

 private:
  std::vector<Case> cases_;
  std::set<std::string> seen_;
};

// Shapes that between them fit every policy: what each accepts differs (powers of two, one group, 256 or 384 experts, no bias).
const std::initializer_list<std::string_view> kShapes = {
    "experts=256 groups=8 topk_group=4",
    "experts=160",
    "experts=64 groups=4 topk_group=2 topk=4",
    "experts=256 bias=none scoring=softmax renormalize=0 rsf=1",
    "experts=384 rsf=2.827",
    "experts=160 groups=8 topk_group=3 topk=6 bias=none scoring=softmax renormalize=0 rsf=16",
    "experts=512 topk=10 bias=none scoring=softmax rsf=1",
    "experts=128 topk=6 scoring=sqrtsoftplus rsf=1.5",
};

template <class Visit>
void each_policy(Visit visit) {
  for (const Preset& p : gating_schema().policies) visit(p.name);
}

const std::initializer_list<std::string_view> kDtypes = {
    "dtype=f32",          "dtype=bf16 bias=bf16", "dtype=bf16",
    "dtype=f16 bias=f16", "dtype=bf16 bias=none", "dtype=f32 bias=none"};

std::vector<Case> quick() {
  Cases cases;
  each_policy([&](const std::string& p) {
    int taken = 0;
    for (const std::string_view shape : kShapes)
      for (const std::string_view dtype : {"", "dtype=bf16", "dtype=bf16 bias=bf16"})
        for (const std::string_view data : {"data=realistic", "data=integers"})
          if (taken < 8 && shape.find("bias") == std::string_view::npos
                  ? true
                  : dtype.find("bias") == std::string_view::npos)
            taken += cases.add(p, fmt::format("{} {} tokens=3 {}", shape, dtype, data));
    cases.add_first(p, kShapes, "tokens=3 shared_slots=1 scale_flag=1 data=realistic");
    cases.add_first(p, kShapes, "tokens=5 padded=2 data=realistic ids=i64");
    cases.add_first(p, kShapes, "tokens=3 data=ties");
  });
  return cases.take();
}

std::vector<Case> models_suite() {
  Cases cases;
  for (const Model& m : models()) {
    each_policy([&](const std::string& p) {
      const std::size_t before = cases.size();
      for (const std::string_view dtype : kDtypes) {
        if ((dtype.find("none") == std::string_view::npos) !=
                (Case(gating_schema()).set("model", m.preset.name).choice("bias") != "none") &&
            dtype.find("bias") != std::string_view::npos)
          continue;
        for (const std::string_view data : {"realistic", "integers", "large_bias"})
          for (const int tokens : {1, 17})
            cases.add(p, fmt::format("model={} {} tokens={} data={}", m.preset.name, dtype, tokens, data));
        cases.add(p, fmt::format("model={} {} tokens=5 shared_slots=1 data=realistic", m.preset.name, dtype));
        cases.add(p, fmt::format("model={} {} tokens=5 shared_slots=1 scale_flag=1 data=realistic",
                                 m.preset.name, dtype));
      }
      if (cases.size() == before) cases.add_refused(p, "model=" + m.preset.name);
    });
  }
  return cases.take();
}

std::vector<Case> adversarial() {
  Cases cases;
  each_policy([&](const std::string& p) {
    for (const std::string_view data :
         {"ties", "near_ties", "negative", "large_bias", "wide", "uniform", "hot"}) {
      cases.add_first(p, kShapes, fmt::format("tokens=7 data={}", data));
      cases.add_first(p,
                      {"experts=256 dtype=bf16 bias=bf16", "experts=160 dtype=bf16",
                       "experts=256 scoring=softmax bias=none dtype=bf16 rsf=1"},
                      fmt::format("tokens=7 data={}", data));
    }
    for (const std::string_view edit : {"nan:1:3", "inf:1:3", "neg_inf:1:3", "zero:1", "neg_zero:1",
                                        "subnormal:1", "tie:1:5", "copy:2", "all_nan:1", "lowest:1"})
      cases.add_first(p, kShapes, fmt::format("tokens=3 edit={}", edit));
    for (const int tokens : {0, 1, 2, 31, 32, 33, 511, 512, 513})
      cases.add_first(p, kShapes, fmt::format("tokens={}", tokens));
    for (const std::string_view shape :
         {"experts=8 topk=8", "experts=8 topk=1", "experts=1 topk=1", "experts=33 topk=5", "experts=63",
          "experts=65", "experts=288", "experts=640", "experts=896 topk=16",
          "experts=16 groups=8 topk_group=8 topk=16", "experts=60 groups=4 topk_group=2 topk=6",
          "experts=64 groups=2 topk_group=1 topk=8", "experts=256 groups=16 topk_group=2"}) {
      cases.add(p, fmt::format("{} tokens=3", shape));
      cases.add(p, fmt::format("{} tokens=3 data=negative", shape));
    }
    cases.add_first(p, kShapes, "tokens=6 padded=6");
    cases.add_first(p, kShapes, "tokens=6 padded=3 remap=1 ids=i64");
    cases.add_first(p, kShapes, "tokens=6 padded=3 remap=1 padding=zero_expert");
    cases.add_first(p, kShapes, "tokens=6 remap=1 shared_slots=2");
    cases.add_first(p, kShapes, "tokens=4 renormalize=0 rsf=2.5");
  });
  return cases.take();
}

// A seeded sweep over everything: most combinations are refused by their policy, so many are drawn.
std::vector<Case> full() {
  Cases cases;
  const Random r(1, "gating full suite");
  std::uint64_t at = 0;
  const auto integer = [&](std::int64_t least, std::int64_t most) { return r.integer(at++, least, most); };
  const auto pick = [&](const std::vector<std::string>& from) {
    return from[static_cast<std::size_t>(integer(0, std::ssize(from) - 1))];
  };
  const Schema& s = gating_schema();
  const auto choice = [&](const char* field) {
    return pick(s.fields[static_cast<std::size_t>(s.find(field))].choices);
  };
  int taken = 0;
  for (int draw = 0; draw < 40000 && taken < 3000; ++draw) {
    // One draw a line: compilers evaluate the arguments of a call in different orders.
    const std::string policy =
        s.policies[static_cast<std::size_t>(integer(0, std::ssize(s.policies) - 1))].name;
    const bool grouped = integer(0, 2) == 0;
    const std::int64_t groups = grouped ? std::int64_t{1} << integer(1, 4) : 1;
    const bool warp = integer(0, 1) == 1;
    const std::int64_t per_group = warp ? 32 : integer(2, 96);
    const std::string experts = groups == 1 ? pick({"64", "128", "160", "256", "288", "384", "512"})
                                            : std::to_string(groups * per_group);
    std::string line = fmt::format("experts={} groups={} seed={}", experts, groups, draw + 1);
    const auto add = [&](std::string_view field, const auto& value) {
      line += fmt::format(" {}={}", field, value);
    };
    add("tokens", integer(1, 9));
    add("topk_group", integer(1, groups));
    add("topk", integer(1, 10));
    add("shared_slots", integer(-2, 2) > 0 ? 1 : 0);
    add("renormalize", integer(0, 3) > 0 ? 1 : 0);
    add("rsf", pick({"1", "2.5", "2.827", "16"}));
    add("scale_flag", integer(0, 1));
    for (const char* field : {"scoring", "dtype", "bias", "ids", "data"}) add(field, choice(field));
    taken += cases.add(policy, line);
  }
  return cases.take();
}

}  // namespace

std::vector<Case> gating_cases(Suite suite) {
  switch (suite) {
    case Suite::kQuick:
      return quick();
    case Suite::kModels:
      return models_suite();
    case Suite::kAdversarial:
      return adversarial();
    case Suite::kFull:
      return full();
  }
  return {};
}

}  // namespace moecheck::harness
