#pragma once
// What the host did, in its order, before it is a program: launches, recordings and waits of a profile's selected part.
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "harness/streams/profile_calls.h"
#include "harness/streams/profile_import.h"

namespace moecheck::harness::streams {

using StreamKey = std::pair<std::int64_t, std::int64_t>;  // device, stream

struct HostItem {
  enum class Is : std::uint8_t { kOperation, kGraph, kRecord, kWait, kSync } is{};
  double time = 0;  // of the call, or where it must have been
  std::int64_t correlation = 0;
  std::vector<int> activities;  // of a graph launch all of its nodes
  std::int64_t device = 0, stream = -1;
  std::int64_t record = -1;  // correlation of the recording call
  bool assumed = false;      // of a wait and its record: profile_assumed.h
};

struct HostItems {
  std::vector<HostItem> items;
  std::vector<Activity> activities;  // the selected ones, by start
  std::set<StreamKey> busy, alone;   // streams with operations; with operations that are no nodes of graphs
  bool several_devices = false;
  std::vector<std::string> notes;
};

// Throws UsageError where nothing is left to look at.
HostItems host_items(const Profile& profile, const CallIndex& calls, const ImportOptions& options,
                     const std::string& path);

}  // namespace moecheck::harness::streams
