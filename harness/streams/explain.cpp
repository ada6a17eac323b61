// One edge of a program: who makes it, what breaks without it, what it costs.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "harness/case.h"
#include "harness/streams/text.h"
#include "harness/text.h"
#include "reference/index.h"

namespace moecheck::harness::streams {
namespace {

using namespace reference;

constexpr std::size_t kMostOperations = 3000;  // what depends on what is looked at pair by pair

// What data and the streams' own order ask for, whatever the waits: operations are in the host's order.
class Needed {
 public:
  explicit Needed(const CheckedStreams& c) : place_(c.order.nodes().size(), 0) {
    const auto& all = c.order.operations();
    before_.assign(all.size(), std::vector<bool>(all.size()));
    for (std::size_t j = 0; j < all.size(); ++j) {
      place_[index(all[j])] = j;
      for (std::size_t i = j; i-- > 0;) {
        if (before_[j][i] ||
            !(c.order.node(all[i]).chain == c.order.node(all[j]).chain || conflicts(c, all[i], all[j])))
          continue;
        before_[j][i] = true;
        for (std::size_t k = 0; k < i; ++k) before_[j][k] = before_[j][k] || before_[i][k];
      }
    }
  }
  bool operator()(int a, int b) const { return before_[place_[index(b)]][place_[index(a)]]; }

  static bool conflicts(const CheckedStreams& c, int a, int b) {
    for (const int m : memories_of(c.memory, c.order.node(b).step))
      if (conflict(c.memory, m, c.order.node(a).step, c.order.node(b).step)) return true;
    return false;
  }

 private:
  std::vector<std::size_t> place_;
  std::vector<std::vector<bool>> before_;
};

int operation(const StreamProgram& p, const std::string& given) {
  if (const int step = p.find(given); step >= 0) return step;
  std::vector<std::string> known;
  for (const StreamStep& s : p.steps)
    if (is_operation(s)) known.push_back(s.name);
  throw UsageError(
      fmt::format("--edge names operation '{}', which the program does not have: did you mean '{}'?",
                  printable(given, 60), known.empty() ? "" : printable(nearest(given, known), 60)));
}

std::pair<int, int> ends(const StreamProgram& p, const std::string& edge) {
  const std::size_t arrow = edge.find("->");
  if (arrow == edge.npos || arrow == 0 || arrow + 2 == edge.size())
    throw UsageError(
        fmt::format("--edge '{}' is no edge: write A->B with two operations", printable(edge, 100)));
  return {operation(p, edge.substr(0, arrow)), operation(p, edge.substr(arrow + 2))};
}

// The pairs that are ordered with a wait and not without it.
std::vector<std::pair<int, int>> lost_pairs(const StreamOrder& order, int wait) {
  std::vector<std::pair<int, int>> pairs;
  order.without(wait, [&](int n, const std::int32_t* clock) {
    if (!order.node(n).operation()) return false;
    for (int c = 0; c < order.chains(); ++c)
      for (std::int32_t k = clock[c]; k < order.clock(n)[c]; ++k)
        pairs.emplace_back(order.chain(c)[index(k)], n);
    return false;
  });
  return pairs;
}

std::string pairs_text(const NodeNames& names, const std::vector<std::pair<int, int>>& pairs) {
  std::string text;
  for (std::size_t i = 0; i < pairs.size() && i < 12; ++i)
    text += fmt::format("{}{}|{}", i == 0 ? "" : ", ", names.of(pairs[i].first), names.of(pairs[i].second));
  return text + (pairs.size() > 12 ? ", ..." : "");
}

// What the wait's stream had when it was called, and what it gets later.
std::string snapshot_text(const StreamProgram& p, int wait) {
  const StreamStep& w = p.steps[index(wait)];
  int stream = w.on, until = wait;
  for (int i = wait; w.kind == StepKind::kWait && i >= 0; --i)
    if (p.steps[index(i)].kind == StepKind::kRecord && p.steps[index(i)].event == w.event) {
      stream = p.steps[index(i)].stream;
      until = i;
      break;
    }
  std::string had, later;
  for (std::size_t i = 0; i < p.steps.size(); ++i) {
    const StreamStep& s = p.steps[i];
    if (!is_operation(s) || s.stream != stream) continue;
    std::string& list = static_cast<int>(i) < until ? had : later;
    if (list.size() < 200) list += (list.empty() ? "" : ", ") + printable(s.name);
  }
  return fmt::format("waits for what {} had when it was called: {}; not for {}",
                     printable(p.streams[index(stream)].name), had.empty() ? "nothing" : had,
                     later.empty() ? "anything else" : later + " (put there later)");
}

void put_wait(std::string& out, const StreamProgram& p, const CheckedStreams& c, const NodeNames& names,
              const Needed* needed, int wait) {
  const auto found = std::find_if(c.report.waits.begin(), c.report.waits.end(),
                                  [&](const WaitVerdict& w) { return w.step == wait; });
  out += fmt::format("wait      {}: {}\n", names.step(wait), name(found->use));
  out += fmt::format("  snapshot  {}\n", snapshot_text(p, wait));
  const StreamProgram without = without_step(p, wait);
  const CheckedStreams w = check_streams(without, {.races = 100, .overlaps = 1000, .waits = false});
  const NodeNames w_names(without, w.order);
  for (const CaptureError& e : w.report.capture)
    out += fmt::format("  without   capture error {} {}\n", e.code, capture_error_name(e.code));
  std::set<std::string> seen;
  for (const Race& r : w.report.races) {
    const std::string what = fmt::format("race {} on {}", hazards(r), printable(w.memory.name(r.memory)));
    if (seen.size() >= 6 || !seen.insert(what).second) continue;
    out += fmt::format("  without   {} of {} and {}: schedule {}\n", what, w_names.of(r.first),
                       w_names.of(r.second), w_names.list(r.schedule));
  }
  for (const LifetimeError& e : w.report.lifetime) out += fmt::format("  without   {}\n", name(e.fault));
  if (w.report.race_count == 0 && w.report.lifetime.empty() && w.report.capture.empty())
    out += "  without   nothing goes wrong\n";
  if (needed == nullptr) return;
  std::vector<std::pair<int, int>> cost;
  for (const auto& [a, b] : lost_pairs(c.order, wait))
    if (!(*needed)(a, b)) cost.emplace_back(a, b);
  if (cost.empty())
    out += "  overlap   costs none: data order every pair that it orders\n";
  else
    out += fmt::format("  overlap   costs {}, which no data order: {}\n",
                       count(static_cast<std::int64_t>(cost.size()), "pair"), pairs_text(names, cost));
}

}  // namespace

std::string explain_text(const StreamProgram& p, const std::string& edge) {
  auto [from, to] = ends(p, edge);
  const CheckedStreams c = check_streams(p);
  const NodeNames names(p, c.order);
  if (c.order.nodes_of(from).empty() || c.order.nodes_of(to).empty())
    throw UsageError("--edge names an operation that never runs: its graph was not captured");
  int a = c.order.nodes_of(from).front(), b = c.order.nodes_of(to).front();
  std::string out = fmt::format("edge      {} -> {}\n", names.step(from), names.step(to));
  if (!c.report.capture.empty())
    out += "  its capture fails: what follows is of the same work without captures\n";
  const bool conflict = Needed::conflicts(c, a, b);
  if (c.order.before(b, a)) {
    out += fmt::format("  reversed  {} is ahead of {}: {}\n", names.step(to), names.step(from),
                       names.path(c.order.path(b, a)));
    std::swap(a, b);
  } else if (!c.order.before(a, b)) {
    out += fmt::format(
        "  absent    nothing orders them: they may run at the same time{}\n",
        conflict ? ", and they race: `moecheck streams check` shows how" : ", and no data ask for an order");
  }
  if (conflict) {
    for (const int m : memories_of(c.memory, c.order.node(b).step))
      if (const auto r = reference::conflict(c.memory, m, c.order.node(a).step, c.order.node(b).step))
        out += fmt::format("  data      {} on {} [{}, {})\n", hazards(*r), printable(c.memory.name(m)),
                           r->begin, r->end);
  } else {
    out += "  data      the two touch nothing in common\n";
  }
  std::set<int> waits;
  const std::vector<int> path = c.order.path(a, b);
  for (std::size_t i = 0; i + 1 < path.size(); ++i)
    if (const int by = c.order.edge(path[i], path[i + 1]).by; by >= 0) waits.insert(by);
  if (!path.empty()) out += fmt::format("  path      {}\n", names.path(path));
  if (!path.empty() && waits.empty()) out += "  made by   the order of their stream: no wait makes it\n";
  const std::optional<Needed> needed =
      c.order.operations().size() <= kMostOperations ? std::optional<Needed>(c) : std::nullopt;
  for (const int w : waits) put_wait(out, p, c, names, needed ? &*needed : nullptr, w);
  out += fmt::format("overlap   {} can run at the same time: {}\n", count(c.report.overlap_count, "pair"),
                     pairs_text(names, c.report.overlaps));
  return out;
}

}  // namespace moecheck::harness::streams
