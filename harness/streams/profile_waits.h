#pragma once
// Which recording a wait of a profile waits for.
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "harness/streams/profile.h"
#include "harness/streams/profile_assumed.h"
#include "harness/streams/profile_calls.h"

namespace moecheck::harness::streams {

struct ResolvedSync {
  SyncKind kind{};
  std::int64_t device = 0, stream = -1, correlation = 0;
  std::int64_t record = -1;  // correlation of the recording call
  std::int64_t record_device = 0, record_stream = -1;
  double start = 0;
  bool assumed = false;  // the record is (profile_assumed.h)
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
  bool assume_record(ResolvedSync& s);
  bool captured(std::int64_t correlation) const;
  void count_unknown();

  const Profile& profile_;
  const CallIndex& calls_;
  Captures captures_;
  AssumedRecords assumed_;
  std::map<Key, std::map<std::int64_t, const EventRecord*>> recordings_;  // by correlation
  std::map<std::int64_t, const EventRecord*> by_call_, by_sync_id_;
  std::vector<ResolvedSync> resolved_;
  std::size_t corrected_ = 0, unresolved_ = 0, captured_ = 0, silent_waits_ = 0, silent_syncs_ = 0;
  std::size_t assumed_directly_ = 0, assumed_apart_ = 0;
};

}  // namespace moecheck::harness::streams
