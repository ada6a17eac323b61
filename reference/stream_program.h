#pragma once
// A stream program: the order of work on GPU streams, as data.
//
// A program lists what one host thread does, in its order: it puts kernels and copies on streams, records events and waits for
// them, allocates and frees memory, captures graphs and launches them. What may run at the same time follows from the list:
//
//   stream        its work runs in the order in which it was put there
//   record, wait  wait(s, e): work put on s later runs behind all work put, before the last record(e, r), on r. A snapshot:
//                 what is put on r behind the record is not waited for
//   wait_stream   wait_stream(a, b) = record(e, b), wait(a, e) with an event of its own. Waiting for oneself does nothing
//   legacy        work of the legacy stream runs behind all earlier work of blocking streams and before all later work of
//                 theirs. Non-blocking streams have no part in it (torch's streams are non-blocking)
//   host_sync     the host waits for an event, a stream or the device; all that it does later comes behind. A blocking stream
//                 or the legacy one is waited for alone (unconfirmed: a device may wait for their partners too)
//   host order    alone orders nothing, and neither does record_stream
//   capture       begin_capture(s, g) .. end_capture(s): work of s, and of streams that wait for an event recorded inside, is
//                 not run but becomes the nodes of graph g; edges are what streams and events order inside
//   launch_graph  runs the nodes: behind the earlier work of its stream, ahead of its later work, and behind an earlier launch
//                 of the same graph. A graph that is never launched counts as launched once, where its capture ends
//   after         an edge between two operations, for programs that were read back from a graph
//
// Memory. Accesses are ranges of bytes of a buffer. A buffer may be a view of another one: two accesses conflict where their
// bytes overlap, whatever names they go by, and one of them writes. Scratch (workspaces, semaphores) is read and written by
// each operation that names it; one copy per device, or one per stream.
// Lifetime. A buffer with an alloc step lives from there, any other from the start, until its free step. Pointers are bound
// where an operation is put on its stream: that is where the buffer must live. A buffer of a `stream` comes from the pool of
// that stream, as with torch's caching allocator: freed by the host, its bytes may go to the next alloc of the same pool at once,
// on the assumption that the pool's stream is ordered behind all use; record_stream(buffer, s) keeps the bytes until the work
// that s has when the buffer is freed is done, and does nothing where s is the pool's stream. A capture has pools of its own,
// which live as long as its graph. A buffer without a stream is gone the moment the host frees it.
//
// Sources: CUDA programming guide (streams, events, graphs), PyTorch's CUDA semantics and caching allocator. Not modelled:
// threads of the host, programmatic dependent launch, external events of graphs, child graphs, peers.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moecheck::reference {

enum class StreamKind : std::uint8_t { kNonBlocking, kBlocking, kLegacy };
std::string_view name(StreamKind kind);  // "non_blocking", "blocking", "legacy"

struct ProgramStream {
  std::string name;
  StreamKind kind = StreamKind::kNonBlocking;
  friend bool operator==(const ProgramStream&, const ProgramStream&) = default;
};

struct ProgramBuffer {
  std::string name;
  std::int64_t bytes = 1;
  int stream = -1;  // whose pool it comes from; -1: none
  int base = -1;    // the buffer that this one is a view of, and where it begins there
  std::int64_t offset = 0;
  friend bool operator==(const ProgramBuffer&, const ProgramBuffer&) = default;
};

struct ProgramScratch {
  std::string name;
  std::int64_t bytes = 1;
  bool per_stream = false;
  friend bool operator==(const ProgramScratch&, const ProgramScratch&) = default;
};

struct ByteRange {
  int buffer = 0;
  std::int64_t begin = 0, end = 0;
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

enum class StepKind : std::uint8_t {
  kKernel,
  kCopy,
  kRecord,
  kWait,
  kWaitStream,
  kHostSync,
  kAlloc,
  kFree,
  kRecordStream,
  kBeginCapture,
  kEndCapture,
  kLaunchGraph,
};
std::string_view name(StepKind kind);  // "kernel", "wait_stream", ...
inline constexpr int kStepKinds = 12;

// One thing that the host does. Numbers are indices into the program's lists; -1: not used.
struct StreamStep {
  StepKind kind = StepKind::kKernel;
  std::string name;  // an operation's is unique; others may have none
  int stream = -1;   // where it goes; of kHostSync: what is waited for
  std::vector<ByteRange> reads, writes;
  std::vector<int> scratch;
  std::vector<int> after;  // steps
  double duration = 1;     // in any unit
  int event = -1;          // kRecord, kWait, kHostSync
  int on = -1;             // kWaitStream: the stream that is waited for
  int buffer = -1;         // kAlloc, kFree, kRecordStream
  int reuses = -1;         // kAlloc: the freed buffer whose bytes it is known to have got
  int graph = -1;          // kBeginCapture, kLaunchGraph
  friend bool operator==(const StreamStep&, const StreamStep&) = default;
};

inline bool is_operation(const StreamStep& s) {
  return s.kind == StepKind::kKernel || s.kind == StepKind::kCopy;
}
inline bool is_wait(const StreamStep& s) {
  return s.kind == StepKind::kWait || s.kind == StepKind::kWaitStream;
}

struct StreamProgram {
  std::string name;
  std::vector<ProgramStream> streams;
  std::vector<ProgramBuffer> buffers;
  std::vector<ProgramScratch> scratch;
  std::vector<std::string> events, graphs;
  std::vector<StreamStep> steps;
  std::vector<std::pair<int, int>> overlaps;  // operations that must be able to run at the same time

  friend bool operator==(const StreamProgram&, const StreamProgram&) = default;

  // ---- Building. Each returns the index of what it added.
  int stream(std::string name, StreamKind kind = StreamKind::kNonBlocking);
  int buffer(std::string name, std::int64_t bytes = 1, int stream = -1);
  int view(std::string name, int base, std::int64_t offset, std::int64_t bytes);
  int add_scratch(std::string name, bool per_stream, std::int64_t bytes = 1);
  ByteRange all(int buffer) const;  // its whole range

  int kernel(std::string name, int stream, const std::vector<int>& reads, const std::vector<int>& writes,
             double duration = 1);
  int record(int event, int stream);
  int record(int stream);  // with an event of its own, whose index is returned
  int wait(int stream, int event);
  int wait_stream(int stream, int on);
  int host_sync(int stream = -1);
  int alloc(int buffer, int reuses = -1);
  int free(int buffer);
  int record_stream(int buffer, int stream);
  int begin_capture(int stream, std::string graph);
  int end_capture(int stream);
  int launch_graph(int graph, int stream);

  // The operation of that name, or -1.
  int find(std::string_view operation) const;
};

// What a step is called in reports: its name, or "alt.wait(cur)", "cur.wait(event e)", "free(h)"; "#2" follows where an earlier
// step is called the same.
std::vector<std::string> step_labels(const StreamProgram& program);

// Why the program means nothing, with the step's place and the remedy; nothing where it is well-formed: indices, names, ranges
// and views in range, waits behind records, no cycle of `after`. What a well-formed program does wrong is the checker's.
std::optional<std::string> refusal(const StreamProgram& program);

// The same program without these steps; indices of what remains are adapted. An event that is only waited for goes with its
// record's step: waits that lost theirs are dropped too.
StreamProgram without_step(const StreamProgram& program, int step);

// ---- Accesses with views and scratch resolved: `memory` counts buffers that are no views, then copies of scratch.

struct Access {
  int memory = 0;
  std::int64_t begin = 0, end = 0;
  bool write = false;
};

class ProgramMemory {
 public:
  explicit ProgramMemory(const StreamProgram& program);

  const std::vector<Access>& of(int step) const { return accesses_[static_cast<std::size_t>(step)]; }
  int count() const { return static_cast<int>(names_.size()); }
  const std::string& name(int memory) const { return names_[static_cast<std::size_t>(memory)]; }
  bool is_scratch(int memory) const { return memory >= first_scratch_; }
  int root(int buffer) const {
    return roots_[static_cast<std::size_t>(buffer)];
  }  // the buffer under all views

 private:
  int first_scratch_ = 0;
  std::vector<int> roots_;
  std::vector<std::vector<Access>> accesses_;
  std::vector<std::string> names_;
};

}  // namespace moecheck::reference
