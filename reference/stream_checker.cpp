#include "reference/stream_checker.h"

#include <algorithm>

#include "reference/index.h"

namespace moecheck::reference {
namespace {

// Of each pair of operations that nothing orders, the count; and the first of them.
void find_overlaps(const StreamOrder& order, const CheckLimits& limits, StreamReport& report) {
  std::vector<std::int32_t> listed(index(order.chains()), 0);
  for (const int n : order.operations()) {
    const int mine = order.node(n).chain;
    for (int c = 0; c < order.chains(); ++c) {
      const std::int32_t known = order.clock(n)[c];
      if (c == mine || known >= listed[index(c)]) continue;
      report.overlap_count += listed[index(c)] - known;
      for (std::int32_t k = known;
           k < listed[index(c)] && static_cast<std::int64_t>(report.overlaps.size()) < limits.overlaps; ++k)
        report.overlaps.emplace_back(order.chain(c)[index(k)], n);
    }
    listed[index(mine)] = order.node(n).number;
  }
}

void find_lost_overlaps(const StreamProgram& program, const StreamOrder& order, StreamReport& report) {
  for (const auto& [first, second] : program.overlaps) {
    bool possible = false;
    for (const int a : order.nodes_of(first))
      for (const int b : order.nodes_of(second))
        possible = possible || (order.node(a).launch == order.node(b).launch && order.concurrent(a, b));
    if (possible || order.nodes_of(first).empty() || order.nodes_of(second).empty()) continue;
    int a = order.nodes_of(first).front(), b = order.nodes_of(second).front();
    if (order.before(b, a)) std::swap(a, b);
    report.lost.push_back({first, second, order.path(a, b)});
  }
}

void find_paths(const StreamProgram& program, const StreamOrder& order, StreamReport& report) {
  const std::size_t n = order.nodes().size();
  std::vector<double> end(n, 0);
  std::vector<int> from(n, -1);
  int last = -1;
  for (std::size_t i = 0; i < n; ++i) {
    const OrderNode& node = order.nodes()[i];
    for (const OrderEdge& e : node.before)
      if (from[i] < 0 || end[index(e.from)] > end[index(from[i])]) from[i] = e.from;
    const double own = node.operation() ? program.steps[index(node.step)].duration : 0;
    end[i] = own + (from[i] < 0 ? 0 : end[index(from[i])]);
    report.serial += own;
    if (node.operation() && (last < 0 || end[i] > end[index(last)])) last = static_cast<int>(i);
  }
  if (last < 0) return;
  report.critical = end[index(last)];
  for (int i = last; i >= 0; i = from[index(i)])
    if (order.node(i).operation()) report.critical_path.push_back(i);
  std::reverse(report.critical_path.begin(), report.critical_path.end());
}

}  // namespace

std::string hazards(const Race& race) {
  std::string text;
  const auto add = [&](bool is, const char* word) {
    if (is) text += (text.empty() ? "" : " ") + std::string(word);
  };
  add(race.read_after_write, "RAW");
  add(race.write_after_read, "WAR");
  add(race.write_after_write, "WAW");
  return text;
}

std::string_view name(WaitUse use) {
  constexpr std::string_view names[] = {"needed", "needed by capture", "costs overlap", "redundant"};
  return names[static_cast<std::size_t>(use)];
}

AccessIndex::AccessIndex(const StreamOrder& order, const ProgramMemory& memory)
    : lanes_(index(memory.count())) {
  for (const int n : order.operations()) {
    const OrderNode& node = order.node(n);
    for (const int m : memories_of(memory, node.step)) {
      std::vector<Lane>& lanes = lanes_[index(m)];
      auto lane =
          std::find_if(lanes.begin(), lanes.end(), [&](const Lane& l) { return l.chain == node.chain; });
      if (lane == lanes.end()) lane = lanes.insert(lanes.end(), Lane{node.chain, {}});
      lane->entries.push_back({node.number, n});
    }
  }
}

bool AccessIndex::others(int m, int chain, const std::int32_t* after, const std::int32_t* up_to,
                         const Visit& visit) const {
  for (const Lane& lane : lanes_[index(m)]) {
    if (lane.chain == chain || after[lane.chain] >= up_to[lane.chain]) continue;
    auto it = std::upper_bound(lane.entries.begin(), lane.entries.end(), after[lane.chain],
                               [](std::int32_t v, const Entry& e) { return v < e.number; });
    for (; it != lane.entries.end() && it->number <= up_to[lane.chain]; ++it)
      if (visit(it->node)) return true;
  }
  return false;
}

std::vector<int> memories_of(const ProgramMemory& memory, int step) {
  std::vector<int> list;
  for (const Access& a : memory.of(step))
    if (std::find(list.begin(), list.end(), a.memory) == list.end()) list.push_back(a.memory);
  return list;
}

std::optional<Race> conflict(const ProgramMemory& memory, int m, int first_step, int second_step) {
  std::optional<Race> race;
  for (const Access& a : memory.of(first_step)) {
    if (a.memory != m) continue;
    for (const Access& b : memory.of(second_step)) {
      const std::int64_t begin = std::max(a.begin, b.begin), end = std::min(a.end, b.end);
      if (b.memory != m || begin >= end || (!a.write && !b.write)) continue;
      if (!race) race = Race{-1, -1, m, begin, end, false, false, false, {}};
      race->begin = std::min(race->begin, begin);
      race->end = std::max(race->end, end);
      race->read_after_write = race->read_after_write || (a.write && !b.write);
      race->write_after_read = race->write_after_read || (!a.write && b.write);
      race->write_after_write = race->write_after_write || (a.write && b.write);
    }
  }
  return race;
}

void schedule_up_to(const StreamOrder& order, int last, std::vector<bool>& done, std::vector<int>& schedule) {
  for (const int n : order.operations()) {
    if (done[index(n)] || (n != last && !order.before(n, last))) continue;
    done[index(n)] = true;
    schedule.push_back(n);
  }
}

void find_races(const StreamOrder& order, const ProgramMemory& memory, const AccessIndex& accesses,
                const CheckLimits& limits, StreamReport& report) {
  std::vector<std::int32_t> listed(index(order.chains()), 0);
  for (const int n : order.operations()) {
    const OrderNode& node = order.node(n);
    for (const int m : memories_of(memory, node.step))
      accesses.others(m, node.chain, order.clock(n), listed.data(), [&](int other) {
        std::optional<Race> race = conflict(memory, m, order.node(other).step, node.step);
        if (!race || ++report.race_count > limits.races) return false;
        race->first = other;
        race->second = n;
        std::vector<bool> done(order.nodes().size());
        schedule_up_to(order, n, done, race->schedule);
        schedule_up_to(order, other, done, race->schedule);
        report.races.push_back(std::move(*race));
        return false;
      });
    listed[index(node.chain)] = node.number;
  }
}

CheckedStreams check_streams(const StreamProgram& program, const CheckLimits& limits) {
  CaptureFacts captures = capture_facts(program);
  const bool fine = captures.errors.empty();
  if (!fine) captures.graph_of_step.assign(program.steps.size(), -1);
  CheckedStreams checked{StreamOrder(program, fine), ProgramMemory(program), {}};
  const StreamOrder& order = checked.order;
  StreamReport& report = checked.report;
  report.capture = captures.errors;
  const AccessIndex accesses(order, checked.memory);
  find_races(order, checked.memory, accesses, limits, report);
  const Lifetimes lifetimes = find_lifetime_errors(program, order, checked.memory, captures, report);
  if (limits.waits) judge_waits(program, order, checked.memory, accesses, lifetimes, captures, report);
  find_overlaps(order, limits, report);
  find_lost_overlaps(program, order, report);
  find_paths(program, order, report);
  return checked;
}

}  // namespace moecheck::reference
