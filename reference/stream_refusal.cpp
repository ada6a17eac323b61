// What makes a stream program meaningless, each with its place and a remedy.
#include <algorithm>
#include <cmath>
#include <set>

#include "reference/stream_program.h"

namespace moecheck::reference {
namespace {

using Refusal = std::optional<std::string>;

std::string number(std::int64_t n) { return std::to_string(n); }

bool within(int index, std::size_t count) { return index >= 0 && static_cast<std::size_t>(index) < count; }

class Refuser {
 public:
  explicit Refuser(const StreamProgram& p) : p_(p), recorded_(p.events.size()), captured_(p.graphs.size()) {
    allocated_.assign(p.buffers.size(), -1);
    freed_.assign(p.buffers.size(), -1);
    alloc_steps_.assign(p.buffers.size(), 0);
    for (const StreamStep& s : p.steps)
      if (s.kind == StepKind::kAlloc && within(s.buffer, p.buffers.size()))
        ++alloc_steps_[static_cast<std::size_t>(s.buffer)];
  }

  Refusal run() {
    if (Refusal r = streams()) return r;
    if (Refusal r = buffers()) return r;
    for (std::size_t i = 0; i < p_.steps.size(); ++i)
      if (Refusal r = indices(p_.steps[i])) return place(i) + *r;
    for (std::size_t i = 0; i < p_.steps.size(); ++i)
      if (Refusal r = step(static_cast<int>(i))) return place(i) + *r;
    if (Refusal r = edges()) return r;
    for (const auto& [a, b] : p_.overlaps)
      if (!operation(a) || !operation(b) || a == b)
        return "overlaps: a pair is not two different operations: name kernels or copies of the program";
    return std::nullopt;
  }

 private:
  bool operation(int step) const {
    return within(step, p_.steps.size()) && is_operation(p_.steps[static_cast<std::size_t>(step)]);
  }
  std::string place(std::size_t i) const {
    const StreamStep& s = p_.steps[i];
    return "steps[" + number(static_cast<std::int64_t>(i)) + "] (" + std::string(name(s.kind)) +
           (s.name.empty() ? "" : " '" + s.name + "'") + "): ";
  }
  const std::string& buffer_name(int b) const { return p_.buffers[static_cast<std::size_t>(b)].name; }

  Refusal streams() const {
    if (p_.streams.empty()) return "streams: there are none: a program needs at least one";
    std::set<std::string> names;
    int legacy = 0;
    for (const ProgramStream& s : p_.streams) {
      if (!names.insert(s.name).second)
        return "streams: two are named '" + s.name + "': each needs a name of its own";
      if (s.kind == StreamKind::kLegacy && ++legacy > 1)
        return "streams: '" + s.name + "' is a second legacy stream: a device has one";
    }
    return std::nullopt;
  }

  Refusal buffers() const {
    std::set<std::string> names;
    for (std::size_t i = 0; i < p_.buffers.size(); ++i) {
      const ProgramBuffer& b = p_.buffers[i];
      const std::string at = "buffers: '" + b.name + "' ";
      if (!names.insert(b.name).second)
        return "buffers: two are named '" + b.name + "': each needs a name of its own";
      if (b.bytes < 1) return at + "has " + number(b.bytes) + " bytes: give at least 1";
      if (b.stream != -1 && !within(b.stream, p_.streams.size()))
        return at + "comes from the pool of an unknown stream";
      if (b.base == -1) continue;
      if (!within(b.base, i))
        return at + "is a view of a buffer that does not come before it: list the base first";
      const ProgramBuffer& base = p_.buffers[static_cast<std::size_t>(b.base)];
      if (b.offset < 0 || b.offset > base.bytes || b.bytes > base.bytes - b.offset)
        return at + "is bytes [" + number(b.offset) + ", " + number(b.offset + b.bytes) + ") of '" +
               base.name + "', which has " + number(base.bytes) + ": a view lies inside its base";
      if (b.stream != -1) return at + "is a view and names a pool: its base is what is allocated";
    }
    for (const ProgramScratch& s : p_.scratch) {
      if (!names.insert(s.name).second)
        return "scratch: '" + s.name + "' is the name of another buffer: use a new one";
      if (s.bytes < 1) return "scratch: '" + s.name + "' has " + number(s.bytes) + " bytes: give at least 1";
    }
    return std::nullopt;
  }

  Refusal range(const ByteRange& r) const {
    if (!within(r.buffer, p_.buffers.size()))
      return "an access names an unknown buffer: declare it in buffers";
    const std::int64_t bytes = p_.buffers[static_cast<std::size_t>(r.buffer)].bytes;
    if (r.begin < 0 || r.begin >= r.end || r.end > bytes)
      return "bytes [" + number(r.begin) + ", " + number(r.end) + ") of '" + buffer_name(r.buffer) +
             "', which has " + number(bytes) + ": begin is below end, and end at most the size";
    return std::nullopt;
  }

  // What a step needs to have, by its kind.
  Refusal indices(const StreamStep& s) const {
    const auto need = [](int index, std::size_t count, const char* what) -> Refusal {
      if (within(index, count)) return std::nullopt;
      return std::string("needs a known ") + what;
    };
    const bool streamless = s.kind == StepKind::kAlloc || s.kind == StepKind::kFree ||
                            (s.kind == StepKind::kHostSync && s.stream == -1);
    if (!streamless)
      if (Refusal r = need(s.stream, p_.streams.size(), "stream")) return r;
    if (s.kind == StepKind::kRecord || s.kind == StepKind::kWait ||
        (s.kind == StepKind::kHostSync && s.event != -1))
      if (Refusal r = need(s.event, p_.events.size(), "event")) return r;
    if (s.kind == StepKind::kHostSync && s.event != -1 && s.stream != -1)
      return "waits for a stream and for an event: make two steps of it";
    if (s.kind == StepKind::kWaitStream)
      if (Refusal r = need(s.on, p_.streams.size(), "stream to wait for")) return r;
    if (s.kind == StepKind::kAlloc || s.kind == StepKind::kFree || s.kind == StepKind::kRecordStream) {
      if (Refusal r = need(s.buffer, p_.buffers.size(), "buffer")) return r;
      if (p_.buffers[static_cast<std::size_t>(s.buffer)].base != -1)
        return "'" + buffer_name(s.buffer) + "' is a view: only its base is allocated, freed and recorded";
    }
    if (s.kind == StepKind::kBeginCapture || s.kind == StepKind::kLaunchGraph)
      if (Refusal r = need(s.graph, p_.graphs.size(), "graph")) return r;
    if (!is_operation(s)) return std::nullopt;
    for (const auto* list : {&s.reads, &s.writes})
      for (const ByteRange& b : *list)
        if (Refusal r = range(b)) return r;
    for (const int i : s.scratch)
      if (Refusal r = need(i, p_.scratch.size(), "scratch")) return r;
    if (!std::isfinite(s.duration) || s.duration < 0) return "its duration is no number of at least 0";
    return std::nullopt;
  }

  // What it needs of the steps before it.
  Refusal step(int i) {
    const StreamStep& s = p_.steps[static_cast<std::size_t>(i)];
    const auto event = static_cast<std::size_t>(s.event), buffer = static_cast<std::size_t>(s.buffer);
    switch (s.kind) {
      case StepKind::kKernel:
      case StepKind::kCopy:
        if (s.name.empty()) return "an operation needs a name, for reports";
        if (!operations_.insert(s.name).second)
          return "an earlier operation has the same name: give each its own";
        return std::nullopt;
      case StepKind::kRecord:
        recorded_[event] = true;
        return std::nullopt;
      case StepKind::kWait:
      case StepKind::kHostSync:
        if (s.event != -1 && !recorded_[event])
          return "waits for event '" + p_.events[event] +
                 "', which no earlier step records: record it first (a device would not wait at all)";
        return std::nullopt;
      case StepKind::kAlloc:
        return alloc(i);
      case StepKind::kFree:
        if (alloc_steps_[buffer] > 0 && allocated_[buffer] < 0)
          return "'" + buffer_name(s.buffer) + "' is allocated only later: move the free behind it";
        if (freed_[buffer] >= 0) return "'" + buffer_name(s.buffer) + "' was freed already: free it once";
        freed_[buffer] = i;
        return std::nullopt;
      case StepKind::kRecordStream:
        if (freed_[buffer] >= 0)
          return "'" + buffer_name(s.buffer) + "' was freed already: record_stream comes before the free";
        return std::nullopt;
      case StepKind::kBeginCapture:
        if (captured_[static_cast<std::size_t>(s.graph)])
          return "graph '" + p_.graphs[static_cast<std::size_t>(s.graph)] +
                 "' was captured already: name another one";
        captured_[static_cast<std::size_t>(s.graph)] = true;
        captures_ = true;
        return std::nullopt;
      case StepKind::kLaunchGraph:
        if (!captured_[static_cast<std::size_t>(s.graph)])
          return "graph '" + p_.graphs[static_cast<std::size_t>(s.graph)] +
                 "' is not captured by an earlier step";
        return std::nullopt;
      case StepKind::kWaitStream:
      case StepKind::kEndCapture:
        return std::nullopt;
    }
    return std::nullopt;
  }

  Refusal alloc(int i) {
    const StreamStep& s = p_.steps[static_cast<std::size_t>(i)];
    const auto buffer = static_cast<std::size_t>(s.buffer);
    if (allocated_[buffer] >= 0)
      return "'" + buffer_name(s.buffer) +
             "' was allocated already: memory got again is another buffer, with `reuses`";
    allocated_[buffer] = i;
    if (s.reuses == -1) return std::nullopt;
    if (!within(s.reuses, p_.buffers.size())) return "reuses an unknown buffer: declare it in buffers";
    const ProgramBuffer& old = p_.buffers[static_cast<std::size_t>(s.reuses)];
    if (freed_[static_cast<std::size_t>(s.reuses)] < 0)
      return "reuses '" + old.name + "', which no earlier step frees: free it first";
    if (old.stream != p_.buffers[buffer].stream)
      return "reuses '" + old.name + "' of another pool: pools do not share memory";
    if (p_.buffers[buffer].bytes > old.bytes)
      return "needs " + number(p_.buffers[buffer].bytes) + " bytes and reuses '" + old.name +
             "', which has " + number(old.bytes);
    return std::nullopt;
  }

  // `after` with the order of each stream has no cycle, and the list of steps is one of its orders.
  Refusal edges() const {
    const int n = static_cast<int>(p_.steps.size());
    std::vector<std::vector<int>> before(static_cast<std::size_t>(n));
    std::vector<int> last(p_.streams.size(), -1);
    bool any = false;
    for (int i = 0; i < n; ++i) {
      const StreamStep& s = p_.steps[static_cast<std::size_t>(i)];
      auto& mine = before[static_cast<std::size_t>(i)];
      for (const int a : s.after) {
        any = true;
        if (!is_operation(s) || !operation(a))
          return place(static_cast<std::size_t>(i)) + "`after` orders operations: name kernels or copies";
        mine.push_back(a);
      }
      if (!is_operation(s)) continue;
      if (int& l = last[static_cast<std::size_t>(s.stream)]; true) {
        if (l >= 0) mine.push_back(l);
        l = i;
      }
    }
    if (!any) return std::nullopt;
    if (captures_) return "`after` and captures do not go together: inside a capture, events make the edges";
    return cycle(before);
  }

  Refusal cycle(const std::vector<std::vector<int>>& before) const {
    const std::size_t n = before.size();
    std::vector<int> state(n), next(n), trail;
    for (std::size_t root = 0; root < n; ++root) {
      if (state[root] != 0) continue;
      trail.assign(1, static_cast<int>(root));
      state[root] = 1;
      while (!trail.empty()) {
        const auto v = static_cast<std::size_t>(trail.back());
        if (static_cast<std::size_t>(next[v]) == before[v].size()) {
          state[v] = 2;
          trail.pop_back();
          continue;
        }
        const int w = before[v][static_cast<std::size_t>(next[v]++)];
        if (state[static_cast<std::size_t>(w)] == 1) return cycle_text(trail, w);
        if (state[static_cast<std::size_t>(w)] == 0) {
          state[static_cast<std::size_t>(w)] = 1;
          trail.push_back(w);
        }
      }
    }
    for (std::size_t i = 0; i < n; ++i)
      for (const int a : before[i])
        if (a > static_cast<int>(i))
          return place(i) + "comes after '" + p_.steps[static_cast<std::size_t>(a)].name +
                 "', which is listed behind it: list steps in an order that keeps their edges";
    return std::nullopt;
  }

  // `trail` goes from an operation to what it waits for; the cycle is its end from `w` on.
  std::string cycle_text(const std::vector<int>& trail, int w) const {
    std::string text = "steps: a cycle, so none of these can ever run: ";
    for (auto it = std::find(trail.begin(), trail.end(), w); it != trail.end(); ++it)
      text += "'" + p_.steps[static_cast<std::size_t>(*it)].name + "' after ";
    return text + "'" + p_.steps[static_cast<std::size_t>(w)].name + "': remove one of these edges";
  }

  const StreamProgram& p_;
  std::vector<bool> recorded_, captured_;
  std::vector<int> allocated_, freed_, alloc_steps_;
  std::set<std::string> operations_;
  bool captures_ = false;
};

}  // namespace

std::optional<std::string> refusal(const StreamProgram& program) { return Refuser(program).run(); }

}  // namespace moecheck::reference
