// What may run next: the queues as far as they go by themselves.
#include "reference/stream_oracle_queues.h"

#include "reference/index.h"

namespace moecheck::reference::oracle {
namespace {}  // namespace

Ready ready(const Queues& q, Mask done) {
  Ready r;
  r.at.assign(q.streams.size(), 0);
  std::vector<bool> over(q.entries.size());
  // Whether all that a stream got before `place` is done.
  const auto drained = [&](std::size_t s, int place) {
    return r.at[s] == q.streams[s].size() || q.entries[index(q.streams[s][r.at[s]])].place >= place;
  };
  const auto may_start = [&](std::size_t s, const Entry& e) {
    if (e.syncs > r.syncs || (e.needs_entry >= 0 && !over[index(e.needs_entry)])) return false;
    for (std::size_t t = 0; t < q.streams.size(); ++t) {
      const bool tied = (q.kinds[s] == StreamKind::kLegacy && q.kinds[t] == StreamKind::kBlocking) ||
                        (q.kinds[s] == StreamKind::kBlocking && q.kinds[t] == StreamKind::kLegacy);
      if (tied && !drained(t, e.place)) return false;
    }
    return true;
  };
  const auto host_may_go = [&](const HostSync& h) {
    if (h.entry >= 0) return bool{over[index(h.entry)]};
    for (std::size_t t = 0; t < q.streams.size(); ++t)
      if ((h.stream < 0 || index(h.stream) == t) && !drained(t, h.place)) return false;
    return true;
  };
  for (bool moved = true; moved;) {
    moved = false;
    for (std::size_t s = 0; s < q.streams.size(); ++s)
      while (r.at[s] < q.streams[s].size()) {
        const int n = q.streams[s][r.at[s]];
        const Entry& e = q.entries[index(n)];
        if (!may_start(s, e)) break;
        bool all = true;
        for (const int o : e.operations) all = all && (done & bit(o)) != 0;
        if (!all) break;
        over[index(n)] = true;
        ++r.at[s];
        moved = true;
      }
    while (index(r.syncs) < q.syncs.size() && host_may_go(q.syncs[index(r.syncs)])) {
      ++r.syncs;
      moved = true;
    }
  }
  for (std::size_t s = 0; s < q.streams.size(); ++s) {
    if (r.at[s] == q.streams[s].size()) continue;
    const Entry& e = q.entries[index(q.streams[s][r.at[s]])];
    if (!may_start(s, e)) continue;
    for (std::size_t i = 0; i < e.operations.size(); ++i)
      if ((done & bit(e.operations[i])) == 0 && (e.needs[i] & ~done) == 0)
        r.operations |= bit(e.operations[i]);
  }
  return r;
}

}  // namespace moecheck::reference::oracle
