#include "harness/streams/profile_calls.h"

#include <algorithm>
#include <limits>

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

Captures::Captures(const Profile& profile) {
  std::vector<const HostCall*> ends;
  for (const HostCall& c : profile.calls)
    if (is_call(c, "StreamEndCapture")) ends.push_back(&c);
  for (const HostCall& c : profile.calls) {
    if (!is_call(c, "StreamBeginCapture")) continue;
    double end = std::numeric_limits<double>::infinity();
    for (const HostCall* e : ends)
      if (e->thread == c.thread && e->start > c.start) end = std::min(end, e->start);
    captures_.push_back({c.thread, c.start, end});
  }
}

bool Captures::contain(const HostCall& call) const {
  return std::any_of(captures_.begin(), captures_.end(), [&](const Capture& c) {
    return c.thread == call.thread && call.start > c.begin && call.start < c.end;
  });
}

}  // namespace moecheck::harness::streams
