#include "harness/streams/profile_waits.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>
#include <unordered_map>

#include "harness/text.h"

namespace moecheck::harness::streams {

bool is_call(const HostCall& call, std::string_view what) {
  for (const std::string_view prefix : {"cuda", "cu", "hip"})
    if (std::string_view(call.name).starts_with(prefix) &&
        std::string_view(call.name).substr(prefix.size()).starts_with(what))
      return true;
  return false;
}

CallIndex::CallIndex(const Profile& profile) {
  for (const HostCall& c : profile.calls) {
    if (c.correlation == 0) continue;
    const auto [found, fresh] = calls_.emplace(c.correlation, &c);
    if (fresh) continue;
    ++repeated_;
    if (c.start < found->second->start) found->second = &c;
  }
}

const HostCall* CallIndex::find(std::int64_t correlation) const {
  const auto found = calls_.find(correlation);
  return found == calls_.end() ? nullptr : found->second;
}

double CallIndex::place(std::int64_t correlation, double otherwise) const {
  if (correlation == 0 || calls_.empty()) return otherwise;
  auto after = calls_.upper_bound(correlation);
  return after == calls_.begin() ? -std::numeric_limits<double>::infinity() : std::prev(after)->second->start;
}

WaitResolver::WaitResolver(const Profile& profile, const CallIndex& calls)
    : profile_(profile), calls_(calls) {
  for (const EventRecord& e : profile.events) {
    recordings_[{e.device, e.event}].emplace(e.correlation, &e);
    by_call_.emplace(e.correlation, &e);
    if (e.sync_id > 0) by_sync_id_.emplace(e.sync_id, &e);
  }
  find_captures();
  for (const SyncRecord& said : profile.syncs) {
    ResolvedSync s{said.kind, said.device, said.stream, said.correlation, -1, said.device, -1, said.start};
    if (captured(said)) {
      ++captured_;
      continue;
    }
    const bool of_event = said.kind == SyncKind::kWaitEvent || said.kind == SyncKind::kHostEvent;
    if (of_event && !resolve_record(said, s)) {
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

void WaitResolver::find_captures() {
  std::vector<const HostCall*> ends;
  for (const HostCall& c : profile_.calls)
    if (is_call(c, "StreamEndCapture")) ends.push_back(&c);
  for (const HostCall& c : profile_.calls) {
    if (!is_call(c, "StreamBeginCapture")) continue;
    double end = std::numeric_limits<double>::infinity();
    for (const HostCall* e : ends)
      if (e->thread == c.thread && e->start > c.start) end = std::min(end, e->start);
    captures_.push_back({c.thread, c.start, end});
  }
}

bool WaitResolver::captured(const SyncRecord& said) const {
  const HostCall* call = calls_.find(said.correlation);
  return call != nullptr && std::any_of(captures_.begin(), captures_.end(), [&](const Capture& c) {
           return c.thread == call->thread && call->start > c.begin && call->start < c.end;
         });
}

// Calls that wait, without a record that says for what.
void WaitResolver::count_unknown() {
  std::set<std::int64_t> known;
  for (const SyncRecord& s : profile_.syncs) known.insert(s.correlation);
  std::set<std::int64_t> devices;
  for (const Activity& a : profile_.activities) devices.insert(a.device);
  for (const HostCall& c : profile_.calls) {
    if (known.contains(c.correlation)) continue;
    SyncRecord said;
    said.correlation = c.correlation;
    if (is_call(c, "StreamWaitEvent")) {
      silent_waits_ += !captured(said);
    } else if ((is_call(c, "DeviceSynchronize") || is_call(c, "CtxSynchronize")) && devices.size() == 1) {
      resolved_.push_back(
          {SyncKind::kHostDevice, *devices.begin(), -1, c.correlation, -1, *devices.begin(), -1, c.start});
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
  add(unresolved_, "wait", "for a recording that the profile does not name: left out");
  add(corrected_, "wait",
      "where the profile named another recording of the event than the last one before the wait: corrected");
  add(captured_, "wait", "inside of a capture: left out, the graph's launches count");
  add(silent_syncs_, "wait", "of the host for a stream or event that the profile does not tell: left out");
  return list;
}

}  // namespace moecheck::harness::streams
