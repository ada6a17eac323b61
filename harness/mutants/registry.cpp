#include "harness/mutants/registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "harness/case.h"
#include "harness/implementations/faults.h"
#include "harness/operator.h"
#include "harness/text.h"

namespace moecheck::harness::mutants {
namespace {

struct HarnessEntry {
  std::string_view name, layer, class_, what, upstream, tests;
};
const std::vector<HarnessEntry>& harness_faults() {
  static const std::vector<HarnessEntry> list = {
#define MOECHECK_HARNESS_FAULT(id, name, layer, class_, what, upstream, tests) \
  {name, layer, class_, what, upstream, tests},
#include "harness/faults.def"
#undef MOECHECK_HARNESS_FAULT
  };
  return list;
}

// MOECHECK_EQUIVALENT("name", "why") beside a fault in one of the lists.
struct Equivalent {
  std::string_view name, why;
};
constexpr Equivalent kEquivalent[] = {
#define MOECHECK_FAULT(id, name, op, class_, what, upstream)
#define MOECHECK_HARNESS_FAULT(id, name, layer, class_, what, upstream, tests)
#define MOECHECK_EQUIVALENT(name, why) {name, why},
#include "harness/faults.def"
#include "optimized/faults.def"
#include "optimized/gpu/faults.def"
#undef MOECHECK_EQUIVALENT
#undef MOECHECK_HARNESS_FAULT
#undef MOECHECK_FAULT
    {"", ""},
};

constexpr int kFirstGpu = 1001, kFirstHarness = 2001;

Mutant kernel_mutant(const PlantedFault& f, const char* layer, int number) {
  Mutant m;
  m.number = number;
  m.name = f.name;
  m.layer = layer;
  m.op = f.op;
  m.class_ = f.class_;
  m.what = f.what;
  m.upstream = f.upstream;
  return m;
}

std::vector<Mutant> make_all() {
  std::vector<Mutant> list;
  int number = 1;
  for (const PlantedFault& f : planted_faults()) {
    list.push_back(kernel_mutant(f, "cpu", number++));
    list.back().implementations = {fmt::format("cpu!{}", f.name)};
  }
  number = kFirstGpu;
  for (const PlantedFault& f : planted_gpu_faults()) {
    list.push_back(kernel_mutant(f, "gpu", number++));
    // What assumes waves of 32 shows with 64, what relies on the order of lanes in the reverse one.
    list.back().implementations = {fmt::format("gpu-host:w64:reverse!{}", f.name),
                                   fmt::format("gpu-host!{}", f.name)};
  }
  number = kFirstHarness;
  for (const HarnessEntry& f : harness_faults()) {
    Mutant m;
    m.number = number++;
    m.name = f.name;
    m.layer = f.layer;
    m.class_ = f.class_;
    m.what = f.what;
    m.upstream = f.upstream;
    m.tests = f.tests;
    list.push_back(std::move(m));
  }
  for (Mutant& m : list)
    for (const Equivalent& e : kEquivalent)
      if (e.name == m.name) m.equivalent = e.why;
  return list;
}

bool contains(const std::vector<std::string>& list, std::string_view word) {
  return std::ranges::find(list, word) != list.end();
}

// Each word of `given` must be one that some mutant has.
void require_known(const char* what, const std::vector<std::string>& given, std::string Mutant::*field) {
  std::set<std::string> names;
  for (const Mutant& m : all())
    if (!(m.*field).empty()) names.insert(m.*field);
  const std::vector<std::string> known(names.begin(), names.end());
  for (const std::string& word : given)
    if (!names.contains(word))
      throw UsageError(fmt::format("{} '{}' is not known: did you mean {}? There are {}", what,
                                   printable(word), nearest(word, known), fmt::join(known, ", ")));
}

void require_known_ids(const std::vector<std::string>& ids) {
  std::vector<std::string> names;
  for (const Mutant& m : all()) names.push_back(m.name);
  for (const std::string& id : ids)
    if (std::ranges::none_of(all(),
                             [&](const Mutant& m) { return m.name == id || std::to_string(m.number) == id; }))
      throw UsageError(
          fmt::format("mutant '{}' is not known: did you mean {}? `moecheck list faults` shows all",
                      printable(id), nearest(id, names)));
}

// The file or folder of a path that names an operator: "optimized/cpu/gating_select.cpp" -> "gating".
std::string operator_in(std::string_view path) {
  const std::string_view file = path.substr(path.rfind('/') + 1);
  std::string found;
  for (const Operator* op : operators()) {
    const std::string_view name = op->name();
    for (const std::string_view prefix : {"", "cpu_", "gpu_"}) {
      const std::string start = std::string(prefix) + std::string(name);
      if (file.starts_with(start) &&
          (file.size() == start.size() || file[start.size()] == '_' || file[start.size()] == '.') &&
          name.size() > found.size())
        found = name;
    }
  }
  return found;
}

}  // namespace

const std::vector<Mutant>& all() {
  static const std::vector<Mutant> list = make_all();
  return list;
}

const std::vector<UpstreamBug>& upstream_bugs() {
  static const std::vector<UpstreamBug> list = {
#define MOECHECK_UPSTREAM_BUG(reference, symptom, mutants, why_none) {reference, symptom, mutants, why_none},
#include "harness/mutants/upstream_bugs.def"
#undef MOECHECK_UPSTREAM_BUG
  };
  return list;
}

std::vector<Mutant> select(const Selection& s) {
  require_known_ids(s.ids);
  require_known("class", s.classes, &Mutant::class_);
  require_known("layer", s.layers, &Mutant::layer);
  require_known("operator", s.operators, &Mutant::op);
  std::vector<Mutant> chosen;
  for (const Mutant& m : all()) {
    const bool id = s.ids.empty() || contains(s.ids, m.name) || contains(s.ids, std::to_string(m.number));
    if (id && (s.classes.empty() || contains(s.classes, m.class_)) &&
        (s.layers.empty() || contains(s.layers, m.layer)) &&
        (s.operators.empty() || contains(s.operators, m.op)))
      chosen.push_back(m);
  }
  return chosen;
}

bool Affected::has(const Mutant& m) const {
  if (everything) return true;
  return m.op.empty() ? harness : std::ranges::find(operators, m.op) != operators.end();
}

Affected affected_by(const std::vector<std::string>& paths) {
  Affected a;
  for (const std::string& path : paths) {
    const auto under = [&](std::string_view folder) { return path.starts_with(folder); };
    if (path.ends_with(".md") || under("reports/") || under("python/") || under("scripts/") ||
        under("examples/"))
      continue;
    a.harness = true;
    // These judge nothing of a kernel.
    static constexpr std::string_view kElsewhere[] = {"tests/",
                                                      "harness/cli/",
                                                      "harness/eval/",
                                                      "harness/http/",
                                                      "harness/load/",
                                                      "harness/serve/",
                                                      "harness/tasks/",
                                                      "harness/statistics/",
                                                      "harness/report/",
                                                      "harness/streams/",
                                                      "harness/plugin/",
                                                      "harness/mutants/",
                                                      "harness/localize/",
                                                      "harness/glm4_moe/",
                                                      "datasets/word_problems/",
                                                      "harness/fault",
                                                      "reference/stream_"};
    if (std::ranges::any_of(kElsewhere, under)) continue;
    const std::string op = operator_in(path);
    if (op.empty())
      a.everything = true;  // what they share
    else
      a.operators.push_back(op);
    // A block is made of these.
    static constexpr std::string_view kParts[] = {"gating", "routed_scaling", "shared_experts", "experts"};
    if (std::ranges::find(kParts, op) != std::end(kParts)) a.operators.emplace_back("moe_block");
  }
  return a;
}

}  // namespace moecheck::harness::mutants
