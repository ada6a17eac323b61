#include "reference/stream_oracle.h"

#include <algorithm>
#include <bit>
#include <unordered_map>

#include "reference/index.h"
#include "reference/stream_oracle_queues.h"

namespace moecheck::reference {
namespace {

using oracle::bit;
using oracle::Handed;
using oracle::Mask;
using oracle::Queues;
using oracle::Ready;
using oracle::Touch;

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t x = a * 0x9E3779B97F4A7C15u + b + 0x632BE59BD9B4E019u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

struct State {
  Mask done = 0;
  std::vector<std::uint64_t> cells;  // of each: the history of its writers
  std::uint64_t read = 0;            // what all operations read
  std::vector<char> handed;          // of each: 0 open, 1 the new buffer got the bytes, 2 it did not
  bool poison = false;

  std::uint64_t value() const {
    std::uint64_t v = read;
    for (std::size_t i = 0; i < cells.size(); ++i) v += mix(i + 1, cells[i]);
    return v;
  }
};

bool collide(const std::vector<Touch>& a, const std::vector<Touch>& b) {
  for (const Touch& x : a)
    for (const Touch& y : b)
      if (x.cell == y.cell && (x.write || y.write)) return true;
  return false;
}

class Explorer {
 public:
  explicit Explorer(const StreamProgram& p) : q_(oracle::make_queues(p)) {}
  const Queues& queues() const { return q_; }

  State start() const {
    State s;
    s.cells.assign(index(q_.cells), 1);
    s.handed.assign(q_.handed.size(), 0);
    s.poison = q_.dead;
    return s;
  }

  void run(State& s, int o, const Ready& now) const {
    const auto& touches = q_.touches[index(o)];
    std::uint64_t seen = 7;
    for (const Touch& t : touches)
      if (!t.write) seen = mix(seen, s.cells[index(t.cell)]);
    s.read += mix(static_cast<std::uint64_t>(o) + 1000, seen);
    for (const Touch& t : touches)
      if (t.write) s.cells[index(t.cell)] = mix(s.cells[index(t.cell)], static_cast<std::uint64_t>(o) + 1);
    for (const auto& [syncs, users] : q_.host_frees)
      s.poison = s.poison || ((users & bit(o)) != 0 && now.syncs >= syncs);
    for (std::size_t h = 0; h < q_.handed.size(); ++h) hand(s, h, o, now);
    s.done |= bit(o);
  }

  OracleResult explore(const OracleOptions& options) {
    OracleResult r;
    r.capture_failed = q_.capture_failed;
    if (q_.capture_failed) {
      r.complete = true;
      return r;
    }
    if (q_.too_many) return r;
    r.poison = q_.dead;
    std::vector<Mask> before(q_.operations.size(), 0);  // of each: what can be done ahead of it
    std::set<std::pair<Mask, std::vector<char>>> visited;
    std::unordered_map<Mask, std::uint64_t> values;
    std::vector<State> stack{start()};
    values[0] = stack.back().value();
    visited.insert({0, stack.back().handed});
    while (!stack.empty()) {
      const State s = std::move(stack.back());
      stack.pop_back();
      if (++r.states > options.max_states) return r;
      const Ready now = oracle::ready(q_, s.done);
      for (Mask left = now.operations; left != 0; left &= left - 1) {
        const int o = std::countr_zero(left);
        before[index(o)] |= s.done;
        State next = s;
        run(next, o, now);
        r.poison = r.poison || next.poison;
        const std::uint64_t value = next.value();
        const auto [known, fresh] = values.emplace(next.done, value);
        if (fresh) from_.emplace(next.done, std::make_pair(s.done, o));
        if (!fresh && known->second != value && !r.outcomes_differ) {
          r.outcomes_differ = true;
          r.one = finish(schedule(next.done));
          std::vector<int> other = schedule(s.done);
          other.push_back(o);
          r.other = finish(std::move(other));
        }
        if (visited.insert({next.done, next.handed}).second) stack.push_back(std::move(next));
      }
    }
    for (std::size_t a = 0; a < before.size(); ++a)
      for (std::size_t b = 0; b < before.size(); ++b)
        if ((before[a] & bit(static_cast<int>(b))) != 0 && (before[b] & bit(static_cast<int>(a))) != 0 &&
            q_.operations[a] < q_.operations[b])
          r.unordered.insert({q_.operations[a], q_.operations[b]});
    r.complete = true;
    return r;
  }

 private:
  // Old users behind a new one find other bytes than they left. Launches of one graph follow each other, each with its own use.
  void hand(State& s, std::size_t number, int o, const Ready& now) const {
    const Handed& h = q_.handed[number];
    const auto used_by = [&](int x) { return (s.done & bit(x)) != 0; };
    for (const auto& [x, cells] : h.touches) {
      if (x == o && s.handed[number] == 0) {
        bool free = true;
        for (const auto& [stream, place] : h.kept) {
          const auto& queue = q_.streams[index(stream)];
          const std::size_t at = now.at[index(stream)];
          free = free && (at == queue.size() || q_.entries[index(queue[at])].place >= place);
        }
        s.handed[number] = free ? 1 : 2;
      }
      const auto &a = q_.operations[index(o)], &b = q_.operations[index(x)];
      const bool same = a.launch < 0 || b.launch < 0 || a.launch == b.launch;
      if ((h.users & bit(o)) != 0 && used_by(x) && s.handed[number] == 1 && same &&
          collide(q_.touches[index(o)], cells))
        s.poison = true;
    }
  }

  std::vector<int> schedule(Mask done) const {
    std::vector<int> list;
    while (done != 0) {
      const auto& [previous, o] = from_.at(done);
      list.push_back(o);
      done = previous;
    }
    std::reverse(list.begin(), list.end());
    return list;
  }

  std::vector<Executed> finish(std::vector<int> schedule) const {
    Mask done = 0;
    for (const int o : schedule) done |= bit(o);
    while (true) {
      const Mask next = oracle::ready(q_, done).operations;
      if (next == 0) break;
      schedule.push_back(std::countr_zero(next));
      done |= bit(schedule.back());
    }
    std::vector<Executed> list;
    for (const int o : schedule) list.push_back(q_.operations[index(o)]);
    return list;
  }

  Queues q_;
  std::unordered_map<Mask, std::pair<Mask, int>> from_;
};

}  // namespace

OracleResult explore_streams(const StreamProgram& program, const OracleOptions& options) {
  return Explorer(program).explore(options);
}

std::optional<std::uint64_t> execute_schedule(const StreamProgram& program,
                                              const std::vector<Executed>& schedule) {
  const Explorer explorer(program);
  const Queues& q = explorer.queues();
  if (q.capture_failed || q.too_many || schedule.size() != q.operations.size()) return std::nullopt;
  State s = explorer.start();
  for (const Executed& e : schedule) {
    const auto found = std::find(q.operations.begin(), q.operations.end(), e);
    if (found == q.operations.end()) return std::nullopt;
    const int o = static_cast<int>(found - q.operations.begin());
    const Ready now = oracle::ready(q, s.done);
    if ((now.operations & bit(o)) == 0) return std::nullopt;
    explorer.run(s, o, now);
  }
  return s.value();
}

}  // namespace moecheck::reference
