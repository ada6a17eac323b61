// What each wait is for: the clocks without it, and what they no longer order.
#include <algorithm>
#include <unordered_map>

#include "reference/stream_checker.h"

#include "reference/index.h"

namespace moecheck::reference {
namespace {

class WaitJudge {
 public:
  WaitJudge(const StreamProgram& p, const StreamOrder& order, const ProgramMemory& memory,
            const AccessIndex& accesses, const Lifetimes& lifetimes, const CaptureFacts& captures)
      : p_(p), order_(order), memory_(memory), accesses_(accesses), captures_(captures) {
    for (const Reuse& r : lifetimes.reuses) reuses_[r.next_user].push_back(&r);
    for (const HostFree& f : lifetimes.frees)
      if (const int host = order.host_at(f.freed); host >= 0) frees_[host].push_back(&f);
  }

  WaitVerdict judge(int step) {
    WaitVerdict v;
    v.step = step;
    v.use = WaitUse::kRedundant;
    const StreamStep& s = p_.steps[index(step)];
    v.of_itself = s.kind == StepKind::kWaitStream && s.stream == s.on;
    order_.without(step, [&](int n, const std::int32_t* clock) { return lost(n, clock, v); });
    if (captures_.errors.empty() && captures_.graph_of_step[index(step)] >= 0) judge_capture(v);
    if (v.use == WaitUse::kRedundant && !v.of_itself) explain(v);
    return v;
  }

 private:
  // Says whether the order that node `n` lost is needed.
  bool lost(int n, const std::int32_t* clock, WaitVerdict& v) const {
    const OrderNode& node = order_.node(n);
    if (!node.operation()) return host_lost(n, clock, v);
    for (int c = 0; v.use == WaitUse::kRedundant && c < order_.chains(); ++c) {
      if (clock[c] >= order_.clock(n)[c]) continue;
      v.use = WaitUse::kCostsOverlap;
      v.first = order_.node(order_.chain(c)[index(order_.clock(n)[c] - 1)]).step;
      v.second = node.step;
    }
    for (const int m : memories_of(memory_, node.step))
      if (accesses_.others(m, node.chain, clock, order_.clock(n), [&](int other) {
            if (!conflict(memory_, m, order_.node(other).step, node.step)) return false;
            needed(v, order_.node(other).step, node.step, m, false);
            return true;
          }))
        return true;
    if (const auto found = reuses_.find(node.step); found != reuses_.end())
      for (const Reuse* r : found->second)
        for (const int a : order_.nodes_of(r->user))
          if (order_.before(a, n) && clock[order_.node(a).chain] < order_.node(a).number) {
            needed(v, r->user, node.step, r->buffer, true);
            return true;
          }
    return false;
  }

  bool host_lost(int n, const std::int32_t* clock, WaitVerdict& v) const {
    const auto found = frees_.find(n);
    if (found == frees_.end()) return false;
    for (const HostFree* f : found->second)
      for (const int a : order_.nodes_of(f->user))
        if (order_.before(a, n) && clock[order_.node(a).chain] < order_.node(a).number) {
          needed(v, f->user, f->freed, f->buffer, true);
          return true;
        }
    return false;
  }

  static void needed(WaitVerdict& v, int first, int second, int memory, bool lifetime) {
    v.use = WaitUse::kNeeded;
    v.first = first;
    v.second = second;
    v.memory = memory;
    v.lifetime = lifetime;
  }

  void judge_capture(WaitVerdict& v) const {
    const CaptureFacts facts = capture_facts(p_, v.step);
    bool leaves = false;
    for (std::size_t i = 0; i < p_.steps.size(); ++i)
      leaves = leaves || (is_operation(p_.steps[i]) && facts.graph_of_step[i] != captures_.graph_of_step[i]);
    if (facts.errors.empty() && !leaves) return;
    if (!facts.errors.empty()) v.code = facts.errors.front().code;
    if (v.use != WaitUse::kNeeded) v.use = WaitUse::kNeededByCapture;
  }

  // From what it waits for to the first operation behind it, without its own edges.
  void explain(WaitVerdict& v) const {
    const StreamStep& s = p_.steps[index(v.step)];
    int source = -1, behind = -1;
    const int on = s.kind == StepKind::kWaitStream ? s.on : recorded_on(v.step);
    for (const int n : order_.operations()) {
      const OrderNode& node = order_.node(n);
      const int stream = p_.steps[index(node.step)].stream;
      if (stream == on && node.step < (s.kind == StepKind::kWait ? record_of(v.step) : v.step)) source = n;
      if (stream == s.stream && node.step > v.step && behind < 0) behind = n;
    }
    if (source < 0 || behind < 0 || !order_.before(source, behind)) return;
    v.path = path_without(source, behind, v.step);
  }

  int record_of(int wait) const {
    for (int i = wait; i >= 0; --i)
      if (p_.steps[index(i)].kind == StepKind::kRecord &&
          p_.steps[index(i)].event == p_.steps[index(wait)].event)
        return i;
    return -1;
  }
  int recorded_on(int wait) const {
    const int r = record_of(wait);
    return r < 0 ? -1 : p_.steps[index(r)].stream;
  }

  std::vector<int> path_without(int a, int b, int step) const {
    std::unordered_map<int, int> next{{b, -1}};
    std::vector<int> queue{b};
    for (std::size_t k = 0; k < queue.size() && !next.contains(a); ++k)
      for (const OrderEdge& e : order_.node(queue[k]).before)
        if (e.by != step && e.from >= a && next.emplace(e.from, queue[k]).second) queue.push_back(e.from);
    std::vector<int> way;
    if (!next.contains(a)) return way;
    for (int n = a; n >= 0; n = next.at(n)) way.push_back(n);
    return way;
  }

  const StreamProgram& p_;
  const StreamOrder& order_;
  const ProgramMemory& memory_;
  const AccessIndex& accesses_;
  const CaptureFacts& captures_;
  std::unordered_map<int, std::vector<const Reuse*>> reuses_;    // by the later step
  std::unordered_map<int, std::vector<const HostFree*>> frees_;  // by the host's node
};

}  // namespace

void judge_waits(const StreamProgram& program, const StreamOrder& order, const ProgramMemory& memory,
                 const AccessIndex& index, const Lifetimes& lifetimes, const CaptureFacts& captures,
                 StreamReport& report) {
  WaitJudge judge(program, order, memory, index, lifetimes, captures);
  for (std::size_t i = 0; i < program.steps.size(); ++i)
    if (is_wait(program.steps[i])) report.waits.push_back(judge.judge(static_cast<int>(i)));
}

}  // namespace moecheck::reference
