#pragma once
// Which recording a wait of a profile waits for, and where calls stand in the host's order.
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/streams/profile.h"

namespace moecheck::harness::streams {

// cudaGraphLaunch, cuGraphLaunch, hipGraphLaunch, with suffixes such as _ptsz: all are calls of "GraphLaunch".
bool is_call(const HostCall& call, std::string_view what);

class CallIndex {
 public:
  explicit CallIndex(const Profile& profile);

  const HostCall* find(std::int64_t correlation) const;  // the earliest with that id
  // When the call with that id started. A call that is missing stands where the last one with a lower id does; one without id
  // (0) at `otherwise`.
  double place(std::int64_t correlation, double otherwise) const;
  std::size_t repeated() const { return repeated_; }

 private:
  std::map<std::int64_t, const HostCall*> calls_;
  std::size_t repeated_ = 0;
};

struct ResolvedSync {
  SyncKind kind{};
  std::int64_t device = 0, stream = -1, correlation = 0;
  std::int64_t record = -1;  // correlation of the recording call
  std::int64_t record_device = 0, record_stream = -1;
  double start = 0;
};

class WaitResolver {
 public:
  WaitResolver(const Profile& profile, const CallIndex& calls);
  const std::vector<ResolvedSync>& resolved() const { return resolved_; }
  std::vector<std::string> notes() const;

 private:
  using Key = std::pair<std::int64_t, std::int64_t>;  // device, event

  bool resolve_record(const SyncRecord& said, ResolvedSync& s);
  const EventRecord* latest(const SyncRecord& said) const;
  bool captured(const SyncRecord& said) const;
  void find_captures();
  void count_unknown();

  struct Capture {
    int thread;
    double begin, end;
  };
  const Profile& profile_;
  const CallIndex& calls_;
  std::map<Key, std::map<std::int64_t, const EventRecord*>> recordings_;  // by correlation
  std::map<std::int64_t, const EventRecord*> by_call_, by_sync_id_;
  std::vector<Capture> captures_;
  std::vector<ResolvedSync> resolved_;
  std::size_t corrected_ = 0, unresolved_ = 0, captured_ = 0, silent_waits_ = 0, silent_syncs_ = 0;
};

}  // namespace moecheck::harness::streams
