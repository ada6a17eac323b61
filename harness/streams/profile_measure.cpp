// What the measured times say of an imported program: overlap, waits, and what does not fit its order.
#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "harness/streams/profile_import.h"

#include "reference/index.h"

namespace moecheck::harness::streams {
namespace {

using reference::index;
using reference::OrderEdge;
using reference::OrderNode;
using reference::StepKind;
using reference::StreamOrder;
using reference::StreamProgram;

class Measurer {
 public:
  Measurer(const ImportedProgram& imported, const StreamOrder& order)
      : in_(imported), p_(imported.program), order_(order) {
    for (std::size_t n = 0; n < order.nodes().size(); ++n) {
      const OrderNode& node = order.nodes()[n];
      if (p_.steps[index(node.step)].kind == StepKind::kRecord)
        recorded_[p_.steps[index(node.step)].event] = static_cast<int>(n);
    }
  }

  ProfileMeasures run() {
    overlap();
    waits();
    contradictions();
    return std::move(out_);
  }

 private:
  const Activity& activity(int step) const {
    return in_.activities[index(in_.origins[index(step)].activity)];
  }
  double slack() const { return std::max(kTimerStep, in_.resolution); }
  int step_of(int node) const { return order_.node(node).step; }

  void overlap() {
    struct Change {
      double at;
      int stream, by;
    };
    std::vector<Change> changes;
    out_.streams.resize(p_.streams.size());
    for (const int n : order_.operations()) {
      const int stream = p_.steps[index(step_of(n))].stream;
      const Activity& a = activity(step_of(n));
      ++out_.streams[index(stream)].operations;
      changes.push_back({a.start, stream, 1});
      changes.push_back({a.end, stream, -1});
    }
    std::sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) { return a.at < b.at; });
    if (changes.empty()) return;
    out_.span = changes.back().at - changes.front().at;
    std::vector<int> running(p_.streams.size());
    std::set<int> busy;
    std::map<std::pair<int, int>, double> shared;
    for (std::size_t i = 0; i + 1 < changes.size(); ++i) {
      const Change& c = changes[i];
      if ((running[index(c.stream)] += c.by) > 0)
        busy.insert(c.stream);
      else
        busy.erase(c.stream);
      const double time = changes[i + 1].at - c.at;
      if (time <= 0 || busy.empty()) continue;
      out_.busy += time;
      if (busy.size() > 1) out_.several += time;
      for (auto a = busy.begin(); a != busy.end(); ++a) {
        out_.streams[index(*a)].busy += time;
        for (auto b = std::next(a); b != busy.end(); ++b) shared[{*a, *b}] += time;
      }
    }
    for (const auto& [pair, time] : shared) out_.shared.push_back({pair.first, pair.second, time});
    std::stable_sort(out_.shared.begin(), out_.shared.end(),
                     [](const SharedTime& a, const SharedTime& b) { return a.time > b.time; });
  }

  void waits() {
    std::unordered_map<int, std::vector<std::size_t>> by_behind;
    for (int i = 0; i < static_cast<int>(p_.steps.size()); ++i) {
      if (p_.steps[index(i)].kind != StepKind::kWait) continue;
      WaitMeasure w = around(i);
      if (w.awaited >= 0 && w.behind >= 0) {
        by_behind[w.behind].push_back(out_.waits.size());
        judge_redundant(w);
      }
      out_.waits.push_back(std::move(w));
    }
    for (WaitMeasure& w : out_.waits) {
      if (w.awaited < 0 || w.behind < 0) continue;
      double other = 0;
      for (const std::size_t o : by_behind[w.behind])
        if (out_.waits[o].step != w.step) other = std::max(other, activity(out_.waits[o].awaited).end);
      judge_effect(w, other);
    }
  }

  // The operations around a wait, and what it waits for.
  WaitMeasure around(int step) const {
    WaitMeasure w;
    w.step = step;
    w.effect = WaitEffect::kUnseen;
    const int stream = p_.steps[index(step)].stream;
    const std::vector<int>& lane = order_.chain(stream);
    const auto behind =
        std::partition_point(lane.begin(), lane.end(), [&](int n) { return step_of(n) < step; });
    if (behind != lane.end()) w.behind = step_of(*behind);
    if (behind != lane.begin()) w.ahead = step_of(*std::prev(behind));
    const std::int32_t* const clock = order_.clock(recorded_.at(p_.steps[index(step)].event));
    for (int c = 0; c < order_.chains(); ++c) {
      if (c == stream || clock[c] == 0) continue;
      const int last = step_of(order_.chain(c)[index(clock[c] - 1)]);
      if (w.awaited < 0 || activity(last).end > activity(w.awaited).end) w.awaited = last;
    }
    if (w.ahead >= 0 && w.behind >= 0) w.gap = activity(w.behind).start - activity(w.ahead).end;
    return w;
  }

  // `other`: when the latest of the other waits ahead of the same operation was over.
  void judge_effect(WaitMeasure& w, double other) const {
    const double called = in_.origins[index(w.behind)].called;
    if (w.ahead < 0 && called < 0) return;
    const double ready = std::max(called, w.ahead < 0 ? called : activity(w.ahead).end);
    const double over = activity(w.awaited).end;
    w.effect = over <= ready + slack()         ? WaitEffect::kFree
               : over > std::max(ready, other) ? WaitEffect::kHeld
                                               : WaitEffect::kHeldBeside;
    if (w.effect == WaitEffect::kHeld) w.held = over - std::max(ready, other);
  }

  void judge_redundant(WaitMeasure& w) const {
    w.redundant = true;
    order_.without(w.step, [&](int node, const std::int32_t*) {
      if (order_.node(node).operation()) w.redundant = false;
      return !w.redundant;
    });
    if (w.redundant)
      w.path = path_without(order_.nodes_of(w.awaited).front(), order_.nodes_of(w.behind).front(), w.step);
  }

  std::vector<int> path_without(int from, int to, int step) const {
    std::unordered_map<int, int> next{{to, -1}};
    std::vector<int> queue{to}, way;
    for (std::size_t k = 0; k < queue.size() && !next.contains(from); ++k)
      for (const OrderEdge& e : order_.node(queue[k]).before)
        if (e.by != step && e.from >= from && next.emplace(e.from, queue[k]).second) queue.push_back(e.from);
    if (!next.contains(from)) return way;
    for (int n = from; n >= 0; n = next.at(n)) way.push_back(n);
    return way;
  }

  // The last operation of each chain before each operation: what is earlier in that chain is looked at there.
  void contradictions() {
    for (const int n : order_.operations()) {
      const Activity& late = activity(step_of(n));
      for (int c = 0; c < order_.chains(); ++c) {
        const int number = order_.clock(n)[c];
        if (number == 0) continue;
        const int first = step_of(order_.chain(c)[index(number - 1)]);
        const Activity& early = activity(first);
        if (early.end <= late.start + slack()) continue;
        ++out_.contradiction_count;
        out_.contradictions.push_back({first, step_of(n), early.end - late.start, late.end <= early.start});
      }
      if (out_.contradictions.size() > 2 * kMostContradictions) keep_worst();
    }
    keep_worst();
  }
  void keep_worst() {
    std::stable_sort(out_.contradictions.begin(), out_.contradictions.end(),
                     [](const Contradiction& a, const Contradiction& b) { return a.by > b.by; });
    if (out_.contradictions.size() > kMostContradictions) out_.contradictions.resize(kMostContradictions);
  }

  const ImportedProgram& in_;
  const StreamProgram& p_;
  const StreamOrder& order_;
  std::unordered_map<int, int> recorded_;  // of each event, the node of its record
  ProfileMeasures out_;
};

}  // namespace

std::string_view name(WaitEffect effect) {
  constexpr std::string_view kNames[] = {"held", "held beside another", "free", "unseen"};
  return kNames[static_cast<std::size_t>(effect)];
}

ProfileMeasures measure(const ImportedProgram& imported, const StreamOrder& order) {
  return Measurer(imported, order).run();
}

}  // namespace moecheck::harness::streams
