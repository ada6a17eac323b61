#include "harness/streams/profile_waits.h"

#include <fmt/format.h>

#include <set>

#include "harness/text.h"

namespace moecheck::harness::streams {

WaitResolver::WaitResolver(const Profile& profile, const CallIndex& calls)
    : profile_(profile),
      calls_(calls),
      captures_(profile),
      assumed_(assume_records(profile, calls, captures_)) {
  for (const EventRecord& e : profile.events) {
    recordings_[{e.device, e.event}].emplace(e.correlation, &e);
    by_call_.emplace(e.correlation, &e);
    if (e.sync_id > 0) by_sync_id_.emplace(e.sync_id, &e);
  }
  for (const SyncRecord& said : profile.syncs) {
    ResolvedSync s{said.kind, said.device, said.stream, said.correlation, -1, said.device,
                   -1,        said.start,  false};
    if (captured(said.correlation)) {
      ++captured_;
      continue;
    }
    const bool of_event = said.kind == SyncKind::kWaitEvent || said.kind == SyncKind::kHostEvent;
    if (of_event && !resolve_record(said, s) && !assume_record(s)) {
      ++unresolved_;
      continue;
    }
    resolved_.push_back(s);
  }
  count_unknown();
}

// The last recording of the wait's event before the wait.
const EventRecord* WaitResolver::latest(const SyncRecord& said) const {
  if (const auto found = by_sync_id_.find(said.sync_id); found != by_sync_id_.end()) return found->second;
  const auto all = recordings_.find({said.device, said.event});
  if (all == recordings_.end()) return nullptr;
  const auto after = all->second.lower_bound(said.correlation);
  return after == all->second.begin() ? nullptr : std::prev(after)->second;
}

bool WaitResolver::resolve_record(const SyncRecord& said, ResolvedSync& s) {
  s.record = said.recorded_by;
  s.record_stream = said.on;
  if (const auto found = by_call_.find(s.record); found != by_call_.end()) {
    s.record_device = found->second->device;
    s.record_stream = found->second->stream;
  }
  const bool sound = s.record > 0 && s.record < said.correlation && s.record_stream >= 0;
  const EventRecord* e = latest(said);
  if (e == nullptr || (sound && e->correlation <= s.record)) return sound;
  corrected_ += said.recorded_by >= 0;
  s.record = e->correlation;
  s.record_device = e->device;
  s.record_stream = e->stream;
  return s.record_stream >= 0;
}

// Recordings are assumed for waits alone, which name none.
bool WaitResolver::assume_record(ResolvedSync& s) {
  const auto found = assumed_.of_wait.find(s.correlation);
  if (s.kind != SyncKind::kWaitEvent || found == assumed_.of_wait.end()) return false;
  s.record = found->second.correlation;
  s.record_device = found->second.device;
  s.record_stream = found->second.stream;
  s.assumed = true;
  ++(found->second.apart ? assumed_apart_ : assumed_directly_);
  return true;
}

bool WaitResolver::captured(std::int64_t correlation) const {
  const HostCall* call = calls_.find(correlation);
  return call != nullptr && captures_.contain(*call);
}

// Calls that wait, without a record that says for what.
void WaitResolver::count_unknown() {
  std::set<std::int64_t> known;
  for (const SyncRecord& s : profile_.syncs) known.insert(s.correlation);
  std::set<std::int64_t> devices;
  for (const Activity& a : profile_.activities) devices.insert(a.device);
  for (const HostCall& c : profile_.calls) {
    if (known.contains(c.correlation)) continue;
    if (is_call(c, "StreamWaitEvent")) {
      silent_waits_ += !captured(c.correlation);
    } else if ((is_call(c, "DeviceSynchronize") || is_call(c, "CtxSynchronize")) && devices.size() == 1) {
      resolved_.push_back({SyncKind::kHostDevice, *devices.begin(), -1, c.correlation, -1, *devices.begin(),
                           -1, c.start, false});
    } else if (is_call(c, "StreamSynchronize") || is_call(c, "EventSynchronize") ||
               is_call(c, "DeviceSynchronize") || is_call(c, "CtxSynchronize")) {
      ++silent_syncs_;
    }
  }
}

std::vector<std::string> WaitResolver::notes() const {
  std::vector<std::string> list;
  const auto add = [&](std::size_t n, std::string_view what, std::string_view rest) {
    if (n > 0) list.push_back(fmt::format("{} {}", count(static_cast<std::int64_t>(n), what), rest));
  };
  add(silent_waits_, "wait",
      "between streams that the profile does not tell (cudaStreamWaitEvent without a record of who waits for "
      "what): "
      "their order is missing below. Record with _ExperimentalConfig(enable_cuda_sync_events=True)");
  add(assumed_directly_, "wait",
      "for a recording that the profile does not name: *assumed* to be the call directly ahead, on the only "
      "other "
      "stream with work");
  add(assumed_apart_, "wait",
      "for a recording that the profile does not name, launches in between: *assumed*, less sure, to be the "
      "only one "
      "since the wait before, on the only other stream with work");
  add(assumed_.of_several, "wait",
      "for a recording that may be on several streams, the profile does not say which: left out. Records of "
      "Nsight "
      "Systems name it");
  add(unresolved_ - assumed_.of_several, "wait", "for a recording that the profile does not name: left out");
  add(corrected_, "wait",
      "where the profile named another recording of the event than the last one before the wait: corrected");
  add(captured_, "wait", "inside of a capture: left out, the graph's launches count");
  add(silent_syncs_, "wait", "of the host for a stream or event that the profile does not tell: left out");
  return list;
}

}  // namespace moecheck::harness::streams
