#pragma once
// What a profiler saw of work on GPU streams, in the few words that the profilers share: activities of the device with the stream
// and the time in which they ran, calls of the host, and the records that say which stream waited for which event. The link
// between them is the correlation id: CUPTI gives one to each call of the CUDA API, counting up, and writes it into the records
// of what the call did.
//
// Two files are read.
//
// 1. A Chrome trace as Kineto writes it (torch.profiler's export_chrome_trace). Complete events (ph "X"), ts and dur in us:
//      cat kernel, gpu_memcpy, gpu_memset   args device (or inDevice), stream, correlation; "graph node id" is not 0 in a node of
//                                           a CUDA graph (torch 2.11 does not write it), whose nodes all have the correlation
//                                           of the launch
//      cat cuda_runtime, cuda_driver        args correlation; name: the call. It does not say for which stream or event
//      cat cuda_sync                        args cuda_sync_kind: "Stream Wait Event" (stream waits), "Event Sync", "Stream Sync",
//                                           "Context Sync" (the host waits); wait_on_stream, wait_on_cuda_event_id and
//                                           wait_on_cuda_event_record_corr_id: the correlation of the call that recorded.
//                                           -1 as stream and correlation: not known (all waits of torch 2.11 with CUDA 13.0)
//      cat cuda_event                       args event_id, stream, correlation of a recording call; newer versions only
//    cuda_sync needs experimental_config=torch._C._profiler._ExperimentalConfig(enable_cuda_sync_events=True). Sources: Kineto's
//    CuptiActivity.cpp and CuptiActivityProfiler.cpp, torch/profiler/_trace_validator.py. Known there: versions before the fix of
//    2026 name the *last* record of an event that the profiler saw, also one behind the wait (pytorch/kineto#1318 and the lookup
//    by correlation that followed); waits on streams without work so far were dropped (#795, #904). Traces of torch
//    2.11.0+cu130 on an H100 were read (reports/stream_program.md, "How sure"; profile_assumed.h: what becomes of their waits). HIP
//    traces have calls named hip... in cuda_runtime and no cuda_sync (by Kineto's source; never seen by us).
//
// 2. Records of CUPTI's activity API, one JSON object a line. Nsight Systems' CSV reports name neither the events nor the streams
//    of waits; its SQLite export does, so the keys are that export's columns: kind (KERNEL, MEMCPY, MEMSET, GRAPH_TRACE, RUNTIME,
//    DRIVER, SYNCHRONIZATION, CUDA_EVENT), start, end (ns), deviceId, streamId, correlationId, name, graphNodeId, globalTid,
//    syncType (1 event, 2 stream waits for event, 3 stream, 4 context: cupti_activity.h), eventId, eventSyncId; globalPid,
//    processId or pid where they are: all of one process, as ids count anew in each. Other kinds and keys are passed over.
//    reports/stream_program.md has the commands that write them. Sources: cupti_activity.h of CUDA 13.0 and the schema in Nsight
//    Systems' user guide.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::harness::streams {

enum class ActivityKind : std::uint8_t {
  kKernel,
  kCopy,
  kMemset,
  kGraph
};  // kGraph: a launch seen as a whole

struct Activity {
  ActivityKind kind{};
  std::string name;
  std::int64_t device = 0, stream = 0;
  double start = 0, end = 0;
  std::int64_t correlation = 0;  // 0: none
  bool of_graph = false;         // a node of a graph
};

struct HostCall {
  std::string name;  // "cudaLaunchKernel", without the suffix of its version
  std::int64_t correlation = 0;
  int thread = 0;  // number of the thread, by first appearance
  double start = 0, end = 0;
};

enum class SyncKind : std::uint8_t { kWaitEvent, kHostEvent, kHostStream, kHostDevice };

struct SyncRecord {
  SyncKind kind{};
  std::int64_t device = 0, stream = -1;  // kWaitEvent: who waits; kHostStream: what is waited for
  std::int64_t correlation = 0;
  std::int64_t event = -1, sync_id = -1;  // of the event; sync_id: of one recording of it
  std::int64_t recorded_by = -1;          // correlation of the call that recorded it, as the profile says
  std::int64_t on = -1;                   // the stream it was recorded on
  double start = 0;
};

struct EventRecord {
  std::int64_t event = -1, sync_id = -1, device = 0, stream = 0, correlation = 0;
};

struct Profile {
  std::string source;  // "Kineto trace", "CUPTI records"
  std::vector<Activity> activities;
  std::vector<HostCall> calls;
  std::vector<SyncRecord> syncs;
  std::vector<EventRecord> events;
  int threads = 0;
  double resolution = 0;  // times differ by rounding up to this much
};

// Times in us since the earliest of the profile. Throws UsageError, which names `path`, the place in it and the remedy, for text
// that is neither of the two and for records that lack what they need.
Profile parse_profile(std::string_view text, const std::string& path);
Profile read_profile(const std::string& path);

// ---- The parts: times as they are in the file, in us.
Profile parse_kineto(std::string_view text, const std::string& path);
Profile parse_cupti(std::string_view text, const std::string& path);

}  // namespace moecheck::harness::streams
