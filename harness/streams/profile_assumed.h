#pragma once
// Which recording a wait means, where the profile has the wait, its stream and its event, and names no recording of it. That is
// what torch 2.11 with CUDA 13.0 writes for all waits: wait_on_stream and wait_on_cuda_event_record_corr_id are -1, there is no
// cuda_event, and a recording's call says neither its event nor its stream. Both are inferred, *assumed*, and never read:
//
//   the recording   Of the calls of the wait's thread: the recording directly ahead, without a launch in between, as
//                   Stream.wait_stream makes them; or, less sure, the only one since the thread's wait before, with launches in
//                   between ("apart"). A second wait for the same event, nothing recorded since, means the same one. One call
//                   records one event: two recordings side by side, or a wait that no recording is left for, make it unknown.
//   its stream      The only other stream, of any device, on which work was launched ahead of the recording: nobody waits for the
//                   own stream. With several it is unknown. Streams of graph nodes count.
//
// What refutes it: pairs that ran against the order. What does not show: a recording of a stream without work, a timing event
// recorded between the meant recording and the wait, one that another thread recorded.
#include <cstdint>
#include <unordered_map>

#include "harness/streams/profile.h"
#include "harness/streams/profile_calls.h"

namespace moecheck::harness::streams {

struct AssumedRecord {
  std::int64_t correlation = 0;  // of the recording call
  std::int64_t device = 0, stream = -1;
  bool apart = false;
};

struct AssumedRecords {
  std::unordered_map<std::int64_t, AssumedRecord> of_wait;  // by the correlation of the wait
  std::size_t of_several = 0;  // waits with a recording that may be on several streams
};

// Of waits that name no recording; none if the profile has recordings of its own (EventRecord).
AssumedRecords assume_records(const Profile& profile, const CallIndex& calls, const Captures& captures);

}  // namespace moecheck::harness::streams
