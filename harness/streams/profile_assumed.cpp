#include "harness/streams/profile_assumed.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

namespace moecheck::harness::streams {
namespace {

// What one thread called, in order.
class ThreadWalk {
 public:
  struct Found {
    const SyncRecord* wait = nullptr;
    const HostCall* recording = nullptr;
    bool apart = false;
  };

  void launch() { launched_ = true; }

  void record(const HostCall& call) {
    crowded_ = !fresh_.empty() && !launched_;
    launched_ = false;
    fresh_.push_back(&call);
  }

  // `said` is nothing for a wait that the profile tells nothing of.
  void wait(const SyncRecord* said) {
    const std::vector<const HostCall*> fresh = std::exchange(fresh_, {});
    if (said == nullptr || fresh.size() > 1) of_event_.clear();  // any event may have been recorded again
    if (said == nullptr) return;
    const bool directly = !launched_ && !crowded_;
    if (fresh.empty()) return again(*said);
    if (fresh.size() > 1 && !directly) return;
    of_event_[said->event] = {said, fresh.back(), !directly};
    add(of_event_[said->event]);
    if (fresh.size() > 1) passed_over_ = said;
  }

  const std::vector<Found>& found() const { return found_; }

 private:
  void again(const SyncRecord& said) {
    if (const auto known = of_event_.find(said.event); known != of_event_.end())
      return add({&said, known->second.recording, known->second.apart});
    // It may mean the recording that was given to another wait, which then meant one that was passed over.
    std::erase_if(found_, [&](const Found& f) { return f.wait == passed_over_; });
    of_event_.clear();
  }
  void add(const Found& found) { found_.push_back(found); }

  std::vector<const HostCall*> fresh_;       // recordings since the last wait
  bool launched_ = false, crowded_ = false;  // a launch behind the last of them; two of them side by side
  std::map<std::int64_t, Found> of_event_;   // the last recording of events
  const SyncRecord* passed_over_ = nullptr;  // the last wait that took one recording of several
  std::vector<Found> found_;
};

class Assumer {
 public:
  Assumer(const Profile& profile, const CallIndex& calls, const Captures& captures)
      : profile_(profile), calls_(calls), captures_(captures) {
    for (const Activity& a : profile.activities) {
      launching_.insert(a.correlation);
      const double at = calls.place(a.correlation, a.start);
      const auto [found, fresh] = first_work_.emplace(Key{a.device, a.stream}, at);
      if (!fresh) found->second = std::min(found->second, at);
    }
    for (const SyncRecord& s : profile.syncs)
      if (s.kind == SyncKind::kWaitEvent && s.recorded_by <= 0 && s.event >= 0)
        waits_.emplace(s.correlation, &s);
  }

  AssumedRecords run() {
    std::vector<const HostCall*> order;
    for (const HostCall& c : profile_.calls)
      if (c.correlation != 0 && calls_.find(c.correlation) == &c && !captures_.contain(c))
        order.push_back(&c);
    std::stable_sort(order.begin(), order.end(), [](const HostCall* a, const HostCall* b) {
      return a->start != b->start ? a->start < b->start : a->correlation < b->correlation;
    });
    std::map<int, ThreadWalk> threads;
    for (const HostCall* c : order) {
      if (is_call(*c, "EventRecord"))
        threads[c->thread].record(*c);
      else if (is_call(*c, "StreamWaitEvent"))
        threads[c->thread].wait(said(*c));
      else if (launching_.contains(c->correlation))
        threads[c->thread].launch();
    }
    for (const auto& [thread, walk] : threads)
      for (const ThreadWalk::Found& f : walk.found()) keep(f);
    return std::move(out_);
  }

 private:
  using Key = std::pair<std::int64_t, std::int64_t>;  // device, stream

  const SyncRecord* said(const HostCall& call) const {
    const auto found = waits_.find(call.correlation);
    return found == waits_.end() ? nullptr : found->second;
  }

  void keep(const ThreadWalk::Found& f) {
    std::vector<Key> streams;
    for (const auto& [key, at] : first_work_)
      if (at < f.recording->start && key != Key{f.wait->device, f.wait->stream} &&
          (f.wait->on < 0 || key == Key{f.wait->device, f.wait->on}))
        streams.push_back(key);
    out_.of_several += streams.size() > 1;
    if (streams.size() == 1)
      out_.of_wait[f.wait->correlation] = {f.recording->correlation, streams[0].first, streams[0].second,
                                           f.apart};
  }

  const Profile& profile_;
  const CallIndex& calls_;
  const Captures& captures_;
  std::unordered_set<std::int64_t> launching_;
  std::map<Key, double> first_work_;  // when the first work of each stream was launched
  std::unordered_map<std::int64_t, const SyncRecord*> waits_;
  AssumedRecords out_;
};

}  // namespace

AssumedRecords assume_records(const Profile& profile, const CallIndex& calls, const Captures& captures) {
  if (!profile.events.empty()) return {};
  return Assumer(profile, calls, captures).run();
}

}  // namespace moecheck::harness::streams
