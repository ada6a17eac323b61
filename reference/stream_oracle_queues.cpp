#include "reference/stream_oracle_queues.h"

#include <algorithm>

#include "reference/index.h"

namespace moecheck::reference::oracle {
namespace {

// A graph as the runtime records it: each node with all nodes it needs, directly or not.
struct Graph {
  std::vector<int> steps;
  std::vector<Mask> needs;
  int origin = -1, began = -1;
  bool open = false, invalid = false, launched = false;
  int last_launch = -1;  // its entry
};

struct StreamState {
  int graph = -1;
  Mask known = 0;  // nodes of the graph that its next work comes behind
};

struct EventState {
  int graph = -1, entry = -1;
  Mask known = 0;
};

class Filler {
 public:
  explicit Filler(const StreamProgram& p)
      : p_(p), streams_(p.streams.size()), events_(p.events.size()), graphs_(p.graphs.size()) {
    q_.streams.resize(p.streams.size());
    for (const ProgramStream& s : p.streams) q_.kinds.push_back(s.kind);
    for (const StreamStep& s : p.steps)
      if (s.kind == StepKind::kLaunchGraph) graphs_[index(s.graph)].launched = true;
    lay_out();
    allocated_.assign(p.buffers.size(), -1);
    freed_.assign(p.buffers.size(), -1);
    pool_graph_.assign(p.buffers.size(), -1);
    taken_.assign(p.steps.size(), -1);
  }

  Queues run() {
    for (std::size_t i = 0; i < p_.steps.size(); ++i) {
      step_ = static_cast<int>(i);
      take(p_.steps[i]);
    }
    for (const Graph& g : graphs_) q_.capture_failed = q_.capture_failed || g.open || g.invalid;
    if (!q_.capture_failed && !q_.too_many) lifetimes();
    return std::move(q_);
  }

 private:
  // ---- memory: one cell between any two neighbouring bounds of a buffer's accesses

  int root(int b) const {
    while (p_.buffers[index(b)].base >= 0) b = p_.buffers[index(b)].base;
    return b;
  }
  std::int64_t shift(int b) const {
    std::int64_t offset = 0;
    for (; p_.buffers[index(b)].base >= 0; b = p_.buffers[index(b)].base)
      offset += p_.buffers[index(b)].offset;
    return offset;
  }

  void lay_out() {
    bounds_.resize(p_.buffers.size());
    for (std::size_t b = 0; b < p_.buffers.size(); ++b) bounds_[b] = {0, p_.buffers[b].bytes};
    for (const StreamStep& s : p_.steps)
      for (const auto* list : {&s.reads, &s.writes})
        for (const ByteRange& r : *list)
          for (const std::int64_t at : {r.begin, r.end})
            bounds_[index(root(r.buffer))].push_back(at + shift(r.buffer));
    // What is known to be handed on is cut alike in both.
    for (int round = 0; round < 2; ++round)
      for (const StreamStep& s : p_.steps)
        if (s.kind == StepKind::kAlloc && s.reuses >= 0) {
          auto &a = bounds_[index(s.reuses)], &b = bounds_[index(s.buffer)];
          a.insert(a.end(), b.begin(), b.end());
          for (const std::int64_t at : a)
            if (at < p_.buffers[index(s.buffer)].bytes) b.push_back(at);
        }
    for (auto& list : bounds_) {
      std::sort(list.begin(), list.end());
      list.erase(std::unique(list.begin(), list.end()), list.end());
      first_cell_.push_back(q_.cells);
      q_.cells += static_cast<int>(list.size()) - 1;
    }
    for (const ProgramScratch& s : p_.scratch) {
      first_scratch_.push_back(q_.cells);
      q_.cells += s.per_stream ? static_cast<int>(p_.streams.size()) : 1;
    }
  }

  void touch(std::vector<Touch>& list, int buffer, std::int64_t begin, std::int64_t end, bool write) const {
    const auto& bounds = bounds_[index(buffer)];
    for (std::size_t i = 0; i + 1 < bounds.size(); ++i)
      if (bounds[i] >= begin && bounds[i + 1] <= end)
        list.push_back({first_cell_[index(buffer)] + static_cast<int>(i), write});
  }

  std::vector<Touch> touches(const StreamStep& s) const {
    std::vector<Touch> list;
    for (const bool write : {false, true})
      for (const ByteRange& r : write ? s.writes : s.reads)
        touch(list, root(r.buffer), r.begin + shift(r.buffer), r.end + shift(r.buffer), write);
    for (const int i : s.scratch) {
      const int cell = first_scratch_[index(i)] + (p_.scratch[index(i)].per_stream ? s.stream : 0);
      list.push_back({cell, false});
      list.push_back({cell, true});
    }
    return list;
  }

  // ---- the queues

  int put(int stream) {
    Entry e;
    e.place = step_;
    e.syncs = static_cast<int>(q_.syncs.size());
    q_.entries.push_back(std::move(e));
    const int n = static_cast<int>(q_.entries.size()) - 1;
    q_.streams[index(stream)].push_back(n);
    return n;
  }

  int operation(int step, int launch) {
    if (q_.operations.size() >= 64) {
      q_.too_many = true;
      return 0;
    }
    q_.operations.push_back({step, launch});
    q_.touches.push_back(touches(p_.steps[index(step)]));
    return static_cast<int>(q_.operations.size()) - 1;
  }

  void take(const StreamStep& s) {
    StreamState none;
    StreamState& stream = s.stream >= 0 ? streams_[index(s.stream)] : none;
    taken_[index(step_)] = stream.graph;
    if (s.kind == StepKind::kWaitStream && s.stream == s.on) return;
    if (implicit(s)) return;
    switch (s.kind) {
      case StepKind::kKernel:
      case StepKind::kCopy:
        return launch(s, stream);
      case StepKind::kRecord:
        events_[index(s.event)] = {stream.graph, stream.graph >= 0 ? -1 : put(s.stream), stream.known};
        return;
      case StepKind::kWait:
        return wait(s.stream, events_[index(s.event)]);
      case StepKind::kWaitStream:
        return wait(s.stream, {streams_[index(s.on)].graph, streams_[index(s.on)].graph >= 0 ? -1 : put(s.on),
                               streams_[index(s.on)].known});
      case StepKind::kHostSync:
        return sync(s);
      case StepKind::kBeginCapture: {
        Graph& g = graphs_[index(s.graph)];
        if (stream.graph >= 0 || p_.streams[index(s.stream)].kind == StreamKind::kLegacy) {
          q_.capture_failed = true;
          return;
        }
        g.open = true;
        g.origin = s.stream;
        g.began = step_;
        stream = {s.graph, 0};
        return;
      }
      case StepKind::kEndCapture:
        return end(s, stream);
      case StepKind::kLaunchGraph:
        if (stream.graph >= 0 || graphs_[index(s.graph)].open) {
          q_.capture_failed = true;
          return;
        }
        return replay(graphs_[index(s.graph)], s.stream);
      case StepKind::kAlloc:
        allocated_[index(s.buffer)] = step_;
        if (const int pool = p_.buffers[index(s.buffer)].stream; pool >= 0)
          pool_graph_[index(s.buffer)] = streams_[index(pool)].graph;
        return;
      case StepKind::kFree:
        freed_[index(s.buffer)] = step_;
        free_syncs_[s.buffer] = static_cast<int>(q_.syncs.size());
        return;
      case StepKind::kRecordStream:
        return;
    }
  }

  // The legacy stream and captured blocking streams exclude each other.
  bool implicit(const StreamStep& s) {
    const auto legacy = [&](int stream) { return p_.streams[index(stream)].kind == StreamKind::kLegacy; };
    const bool puts = is_operation(s) || is_wait(s) || s.kind == StepKind::kRecord;
    if (!puts || !(legacy(s.stream) || (s.kind == StepKind::kWaitStream && legacy(s.on)))) return false;
    for (std::size_t t = 0; t < streams_.size(); ++t)
      if (p_.streams[t].kind == StreamKind::kBlocking && streams_[t].graph >= 0) {
        q_.capture_failed = true;
        return true;
      }
    return false;
  }

  void launch(const StreamStep& s, StreamState& stream) {
    if (stream.graph >= 0) {
      Graph& g = graphs_[index(stream.graph)];
      if (g.steps.size() >= 64) {
        q_.too_many = true;
        return;
      }
      const int node = static_cast<int>(g.steps.size());
      g.steps.push_back(step_);
      g.needs.push_back(stream.known);
      stream.known |= bit(node);
      return;
    }
    const int e = put(s.stream), o = operation(step_, -1);
    Mask needs = 0;
    for (const int a : s.after)
      for (std::size_t i = 0; i < q_.operations.size(); ++i)
        if (q_.operations[i].step == a) needs |= bit(static_cast<int>(i));
    q_.entries[index(e)].operations = {o};
    q_.entries[index(e)].needs = {needs};
  }

  void wait(int s, const EventState& e) {
    StreamState& stream = streams_[index(s)];
    if (e.graph < 0 && stream.graph < 0) {
      const int n = put(s);
      q_.entries[index(n)].needs_entry = e.entry;
      return;
    }
    const bool legal = e.graph >= 0 && graphs_[index(e.graph)].open &&
                       (stream.graph == e.graph || stream.graph < 0) &&
                       !(stream.graph < 0 && p_.streams[index(s)].kind == StreamKind::kLegacy);
    if (!legal) {
      q_.capture_failed = true;
      return;
    }
    stream.graph = e.graph;
    stream.known |= e.known;
    taken_[index(step_)] = e.graph;
  }

  void sync(const StreamStep& s) {
    HostSync h{step_, s.stream, -1};
    bool legal = true;
    if (s.event >= 0) {
      legal = events_[index(s.event)].graph < 0;
      h.entry = events_[index(s.event)].entry;
    } else {
      for (std::size_t t = 0; t < streams_.size(); ++t)
        legal = legal && (streams_[t].graph < 0 || (s.stream >= 0 && index(s.stream) != t));
    }
    if (!legal) q_.capture_failed = true;
    q_.syncs.push_back(h);
  }

  void end(const StreamStep& s, StreamState& stream) {
    if (stream.graph < 0 || graphs_[index(stream.graph)].origin != s.stream) {
      q_.capture_failed = true;
      return;
    }
    const int number = stream.graph;
    Graph& g = graphs_[index(number)];
    const Mask all = g.steps.size() == 64 ? ~Mask{0} : bit(static_cast<int>(g.steps.size())) - 1;
    if ((stream.known & all) != all) q_.capture_failed = true;
    g.open = false;
    for (StreamState& t : streams_)
      if (t.graph == number) t = {};
    if (!g.launched && !q_.capture_failed) replay(g, s.stream);
  }

  void replay(Graph& g, int stream) {
    const int n = put(stream);
    std::vector<int> operations;
    for (const int step : g.steps) operations.push_back(operation(step, step_));
    Entry& e = q_.entries[index(n)];
    e.needs_entry = g.last_launch;
    for (std::size_t i = 0; i < g.steps.size(); ++i) {
      Mask needs = 0;
      for (std::size_t k = 0; k < i; ++k)
        if ((g.needs[i] & bit(static_cast<int>(k))) != 0) needs |= bit(operations[k]);
      e.needs.push_back(needs);
    }
    g.last_launch = n;
    e.operations = std::move(operations);
  }

  // ---- lifetimes

  bool uses(const Executed& o, int buffer) const {
    const StreamStep& s = p_.steps[index(o.step)];
    for (const auto* list : {&s.reads, &s.writes})
      for (const ByteRange& r : *list)
        if (root(r.buffer) == buffer) return true;
    return false;
  }

  void lifetimes() {
    for (std::size_t b = 0; b < p_.buffers.size(); ++b) {
      const int buffer = static_cast<int>(b), freed = freed_[b];
      Mask users = 0;
      for (std::size_t i = 0; i < q_.operations.size(); ++i) {
        const Executed& o = q_.operations[i];
        if (!uses(o, buffer)) continue;
        users |= bit(static_cast<int>(i));
        const bool own_pool = pool_graph_[b] >= 0 && pool_graph_[b] == taken_[index(o.step)];
        if (o.step < allocated_[b] || (freed >= 0 && (o.step > freed || (o.launch > freed && !own_pool))))
          q_.dead = true;
      }
      if (freed < 0) continue;
      if (p_.buffers[b].stream < 0)
        q_.host_frees.emplace_back(free_syncs_.at(buffer), users);
      else
        hand_on(buffer);
    }
  }

  void hand_on(int old) {
    const int pool = p_.buffers[index(old)].stream;
    bool known = false;
    for (const StreamStep& s : p_.steps) known = known || (s.kind == StepKind::kAlloc && s.reuses == old);
    for (std::size_t i = index(freed_[index(old)]); i < p_.steps.size(); ++i) {
      const StreamStep& s = p_.steps[i];
      if (s.kind != StepKind::kAlloc || p_.buffers[index(s.buffer)].stream != pool ||
          pool_graph_[index(s.buffer)] != pool_graph_[index(old)])
        continue;
      if (known || s.reuses >= 0 ? s.reuses != old : false) continue;
      Handed h;
      h.old = old;
      h.next = s.buffer;
      bool never = false;
      for (std::size_t r = 0; r < index(freed_[index(old)]); ++r) {
        const StreamStep& record = p_.steps[r];
        if (record.kind != StepKind::kRecordStream || record.buffer != old || record.stream == pool) continue;
        never = never || pool_graph_[index(old)] >= 0;
        h.kept.emplace_back(record.stream, freed_[index(old)]);
      }
      if (never) continue;
      for (std::size_t o = 0; o < q_.operations.size(); ++o)
        if (uses(q_.operations[o], old)) h.users |= bit(static_cast<int>(o));
      mirror(h, s.reuses == old);
      if (!h.touches.empty()) q_.handed.push_back(std::move(h));
    }
  }

  void mirror(Handed& h, bool known) const {
    for (std::size_t i = 0; i < q_.operations.size(); ++i) {
      if (!uses(q_.operations[i], h.next)) continue;
      const StreamStep& s = p_.steps[index(q_.operations[i].step)];
      std::vector<Touch> list;
      for (const bool write : {false, true})
        for (const ByteRange& r : write ? s.writes : s.reads) {
          if (root(r.buffer) != h.next) continue;
          if (known)
            touch(list, h.old, r.begin + shift(r.buffer), r.end + shift(r.buffer), write);
          else
            touch(list, h.old, 0, p_.buffers[index(h.old)].bytes, write);
        }
      h.touches.emplace_back(static_cast<int>(i), std::move(list));
    }
  }

  const StreamProgram& p_;
  Queues q_;
  std::vector<StreamState> streams_;
  std::vector<EventState> events_;
  std::vector<Graph> graphs_;
  std::vector<std::vector<std::int64_t>> bounds_;
  std::vector<int> first_cell_, first_scratch_, allocated_, freed_, pool_graph_, taken_;
  std::map<int, int> free_syncs_;
  int step_ = 0;
};

}  // namespace

Queues make_queues(const StreamProgram& program) { return Filler(program).run(); }

}  // namespace moecheck::reference::oracle
