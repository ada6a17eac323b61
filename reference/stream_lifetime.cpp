// Memory that is used before it is allocated, after it is freed, or while it already belongs to another buffer.
#include <algorithm>
#include <map>

#include "reference/stream_checker.h"

#include "reference/index.h"

namespace moecheck::reference {
namespace {

// A pool hands out what was freed before: with this many buffers freed and allocated, only the next few of each are looked at.
constexpr std::size_t kAllPairs = 200'000, kNextAllocs = 64;

class LifetimePass {
 public:
  LifetimePass(const StreamProgram& p, const StreamOrder& order, const ProgramMemory& memory,
               const CaptureFacts& captures, StreamReport& report)
      : p_(p),
        order_(order),
        memory_(memory),
        captures_(captures),
        report_(report),
        allocated_(p.buffers.size(), -1),
        freed_(p.buffers.size(), -1),
        users_(p.buffers.size()),
        recorded_(p.buffers.size()) {
    for (std::size_t i = 0; i < p.steps.size(); ++i) {
      const StreamStep& s = p.steps[i];
      const int step = static_cast<int>(i);
      if (s.kind == StepKind::kAlloc) allocated_[index(s.buffer)] = step;
      if (s.kind == StepKind::kFree) freed_[index(s.buffer)] = step;
      if (s.kind == StepKind::kRecordStream) recorded_[index(s.buffer)].push_back(step);
      if (!is_operation(s)) continue;
      for (const int m : memories_of(memory, step))
        if (!memory.is_scratch(m)) users_[index(m)].push_back(step);
    }
  }

  Lifetimes run() {
    for (std::size_t i = 0; i < p_.steps.size(); ++i)
      if (const StreamStep& s = p_.steps[i];
          s.kind == StepKind::kRecordStream && s.stream == p_.buffers[index(s.buffer)].stream)
        report_.void_records.push_back(static_cast<int>(i));
    for (std::size_t b = 0; b < p_.buffers.size(); ++b) {
      const int buffer = static_cast<int>(b);
      if (allocated_[b] >= 0) not_yet(buffer);
      if (freed_[b] < 0) continue;
      dead_pointers(buffer);
      dead_at_replay(buffer);
      if (p_.buffers[b].stream < 0) freed_by_host(buffer);
    }
    pools();
    return std::move(lifetimes_);
  }

 private:
  void not_yet(int b) {
    for (const int u : users_[index(b)])
      if (u < allocated_[index(b)])
        report_.lifetime.push_back({LifetimeFault::kNotYetAllocated, b, u, allocated_[index(b)], -1, -1, {}});
  }

  void dead_pointers(int b) {
    for (const int u : users_[index(b)])
      if (u > freed_[index(b)])
        report_.lifetime.push_back({LifetimeFault::kDeadPointer, b, u, freed_[index(b)], -1, -1, {}});
  }

  // Memory of a graph's own pool lives as long as the graph.
  void dead_at_replay(int b) {
    const int freed = freed_[index(b)];
    for (const int u : users_[index(b)]) {
      const int graph = captures_.graph_of_step[index(u)];
      if (graph < 0 || u > freed || graph == pool_graph(b)) continue;
      for (const int n : order_.nodes_of(u)) {
        if (order_.node(n).launch < freed) continue;
        report_.lifetime.push_back(
            {LifetimeFault::kDeadAtReplay, b, u, freed, -1, order_.node(n).launch, {}});
        break;
      }
    }
  }

  void freed_by_host(int b) {
    const int freed = freed_[index(b)], host = order_.host_at(freed);
    for (const int u : users_[index(b)]) {
      if (u > freed) continue;
      lifetimes_.frees.push_back({u, b, freed});
      for (const int n : order_.nodes_of(u)) {
        if (order_.node(n).launch > freed || (host >= 0 && order_.before(n, host))) continue;
        report_.lifetime.push_back({LifetimeFault::kFreedWhileUsed, b, u, freed, -1, -1, {}});
        break;
      }
    }
  }

  int pool_graph(int b) const {
    return allocated_[index(b)] < 0 ? -1 : captures_.graph_of_step[index(allocated_[index(b)])];
  }

  // record_stream keeps the bytes until the work that the stream has at the free is done; in a capture, until that ends.
  bool kept_for(int b, int user) const {
    const int freed = freed_[index(b)];
    for (const int r : recorded_[index(b)]) {
      const int stream = p_.steps[index(r)].stream;
      if (stream == p_.buffers[index(b)].stream) continue;
      if (pool_graph(b) >= 0) return true;
      const int last = order_.last_at(freed)[index(stream)];
      bool covered = last >= 0;
      for (const int n : order_.nodes_of(user))
        covered = covered && (order_.node(n).launch > freed || n == last || order_.before(n, last));
      if (covered) return true;
    }
    return false;
  }

  void pools() {
    // By stream and graph: the buffers that are freed, and those that are allocated, by step.
    std::map<std::pair<int, int>, std::pair<std::vector<int>, std::vector<int>>> pools;
    for (std::size_t i = 0; i < p_.steps.size(); ++i) {
      const StreamStep& s = p_.steps[i];
      if (s.kind != StepKind::kAlloc && s.kind != StepKind::kFree) continue;
      const int stream = p_.buffers[index(s.buffer)].stream;
      if (stream < 0) continue;
      auto& [freed, allocated] = pools[{stream, pool_graph(s.buffer)}];
      (s.kind == StepKind::kAlloc ? allocated : freed).push_back(s.buffer);
    }
    for (const auto& [key, pool] : pools) {
      const bool all = pool.first.size() * pool.second.size() <= kAllPairs;
      for (const int b : pool.first) freed_into_pool(b, pool.second, all ? pool.second.size() : kNextAllocs);
    }
  }

  // `next` are the buffers of the same pool, as they are allocated.
  void freed_into_pool(int b, const std::vector<int>& next, std::size_t limit) {
    const int freed = freed_[index(b)];
    bool known = false;  // the bytes are known to have gone to one buffer
    for (const int n : next) known = known || p_.steps[index(allocated_[index(n)])].reuses == b;
    std::vector<int> open;
    for (const int u : users_[index(b)])
      if (u < freed && !kept_for(b, u)) open.push_back(u);
    if (open.empty()) return;
    std::vector<bool> told(open.size());
    for (const int n : next) {
      const int reuses = p_.steps[index(allocated_[index(n)])].reuses;
      if (allocated_[index(n)] < freed || (known || reuses >= 0 ? reuses != b : false)) continue;
      if (limit-- == 0) break;
      for (std::size_t k = 0; k < open.size(); ++k)
        for (const int x : users_[index(n)]) {
          if (x < allocated_[index(n)] || !touching(b, open[k], n, x, reuses == b)) continue;
          lifetimes_.reuses.push_back({open[k], x, b, n, freed});
          if (!told[k]) told[k] = reused(b, open[k], n, x);
        }
    }
    for (std::size_t k = 0; k < open.size(); ++k)
      if (!told[k] && p_.steps[index(open[k])].stream != p_.buffers[index(b)].stream &&
          !ordered_later(b, open[k]))
        report_.open_frees.push_back({freed, open[k]});
  }

  // One of them writes; where the bytes are known, the same ones.
  bool touching(int b, int user, int next, int next_user, bool known) const {
    for (const Access& x : memory_.of(user))
      for (const Access& y : memory_.of(next_user))
        if (x.memory == b && y.memory == next && (x.write || y.write) &&
            (!known || (x.begin < y.end && y.begin < x.end)))
          return true;
    return false;
  }

  bool reused(int b, int user, int next, int next_user) {
    for (const int a : order_.nodes_of(user))
      for (const int x : order_.nodes_of(next_user)) {
        if (!order_.concurrent(a, x)) continue;
        LifetimeError e{LifetimeFault::kReusedWhileUsed, b, user, freed_[index(b)], next, next_user, {}};
        std::vector<bool> done(order_.nodes().size());
        schedule_up_to(order_, x, done, e.schedule);
        schedule_up_to(order_, a, done, e.schedule);
        report_.lifetime.push_back(std::move(e));
        return true;
      }
    return false;
  }

  // The next work of the pool's stream is behind `user`.
  bool ordered_later(int b, int user) const {
    for (std::size_t i = index(freed_[index(b)]); i < p_.steps.size(); ++i) {
      const StreamStep& s = p_.steps[i];
      if (!is_operation(s) || s.stream != p_.buffers[index(b)].stream) continue;
      const auto& mine = order_.nodes_of(user);
      const auto& theirs = order_.nodes_of(static_cast<int>(i));
      return !mine.empty() && !theirs.empty() && order_.before(mine.front(), theirs.front());
    }
    return false;
  }

  const StreamProgram& p_;
  const StreamOrder& order_;
  const ProgramMemory& memory_;
  const CaptureFacts& captures_;
  StreamReport& report_;
  std::vector<int> allocated_, freed_;
  std::vector<std::vector<int>> users_, recorded_;  // of each buffer: steps
  Lifetimes lifetimes_;
};

}  // namespace

std::string_view name(LifetimeFault fault) {
  constexpr std::string_view names[] = {"dead pointer", "not yet allocated", "freed while used",
                                        "reused while used", "dead at replay"};
  return names[static_cast<std::size_t>(fault)];
}

Lifetimes find_lifetime_errors(const StreamProgram& program, const StreamOrder& order,
                               const ProgramMemory& memory, const CaptureFacts& captures,
                               StreamReport& report) {
  return LifetimePass(program, order, memory, captures, report).run();
}

}  // namespace moecheck::reference
