#pragma once
// What a stream program does wrong, and what its waits cost: the answer from vector clocks (stream_order.h), each with a witness.
//
//   race       two operations touch the same bytes, one writes, and nothing orders them. Witness: a schedule that every edge
//              allows, in which the one that the host put later runs first
//   lifetime   memory that is used when it is not, or no longer, the buffer's
//   capture    a step that a capture forbids (stream_capture.h). Nothing is captured then: the rest of the report
//              treats the program as if it were run without captures
//   wait       what each wait is for: without it there is a race or a capture error (needed), or only less overlap (costs
//              overlap), or no change at all between any two operations (redundant)
//   overlap    pairs that can run at the same time, and declared pairs that cannot
//   paths      the longest chain of operations against all of them in a row
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "reference/stream_capture.h"
#include "reference/stream_order.h"
#include "reference/stream_program.h"

namespace moecheck::reference {

struct Race {
  int first = 0, second = 0;        // nodes, in the host's order
  int memory = 0;                   // of ProgramMemory
  std::int64_t begin = 0, end = 0;  // the first to the last byte in conflict
  bool read_after_write = false, write_after_read = false,
       write_after_write = false;  // of second after first
  std::vector<int> schedule;       // nodes: what second needs, second, what first needs, first
};
std::string hazards(const Race& race);  // "RAW WAW"

enum class LifetimeFault : std::uint8_t {
  kDeadPointer,      // put on its stream when the buffer was freed already
  kNotYetAllocated,  // put on its stream before the alloc
  kFreedWhileUsed,   // no pool: the host freed it and had not waited for the operation
  kReusedWhileUsed,  // its bytes may be, or are, those of `next` while the operation is still to run
  kDeadAtReplay,     // a graph is launched after a buffer of its nodes was freed
};
std::string_view name(LifetimeFault fault);

struct LifetimeError {
  LifetimeFault fault{};
  int buffer = 0;
  int operation = 0;          // step
  int freed = -1;             // step; of kNotYetAllocated the alloc
  int next = -1;              // kReusedWhileUsed: the buffer that gets the bytes
  int next_user = -1;         // and the step that touches them first; kDeadAtReplay: the launch
  std::vector<int> schedule;  // nodes, where an order shows it: next_user before operation
};

// A free that is safe only if the pool's stream waits for this operation before it allocates again.
struct OpenFree {
  int freed = 0, operation = 0;  // steps
};

enum class WaitUse : std::uint8_t { kNeeded, kNeededByCapture, kCostsOverlap, kRedundant };
std::string_view name(WaitUse use);  // "needed", "needed by capture", "costs overlap", "redundant"

struct WaitVerdict {
  int step = 0;
  WaitUse use{};
  bool of_itself = false;  // a stream that waits for itself
  // kNeeded: the first race or lifetime error without it, with the pair's steps.
  int first = -1, second = -1;
  int memory = -1;
  bool lifetime = false;
  // kNeededByCapture: the error that its removal gives, or "" where work would leave the capture.
  int code = 0;
  // kCostsOverlap: the first pair that could overlap without it.
  // kRedundant: the edges that already order what it orders, as nodes from the source to the first operation behind it.
  std::vector<int> path;
};

struct LostOverlap {
  int first = 0, second = 0;  // steps, declared to overlap
  std::vector<int> path;      // nodes: why they cannot
};

struct StreamReport {
  std::vector<CaptureError> capture;
  std::vector<LifetimeError> lifetime;
  std::vector<OpenFree> open_frees;
  std::vector<int> void_records;  // record_stream steps for the stream whose pool it is
  std::vector<Race> races;        // at most CheckLimits::races
  std::int64_t race_count = 0;
  std::vector<WaitVerdict> waits;
  std::vector<std::pair<int, int>> overlaps;  // nodes; at most CheckLimits::overlaps
  std::int64_t overlap_count = 0;
  std::vector<LostOverlap> lost;
  double serial = 0, critical = 0;  // durations
  std::vector<int> critical_path;   // nodes

  bool wrong() const { return !capture.empty() || !lifetime.empty() || race_count > 0; }
};

struct CheckLimits {
  std::int64_t races = 100, overlaps = 1000;
  bool waits = true;  // judge each wait
};

struct CheckedStreams {
  StreamOrder order;
  ProgramMemory memory;
  StreamReport report;
};

// The program is not refused (stream_program.h).
CheckedStreams check_streams(const StreamProgram& program, const CheckLimits& limits = {});

// ---- The parts

// Who touches a piece of memory: of each chain, by number.
class AccessIndex {
 public:
  struct Entry {
    int number, node;
  };
  AccessIndex(const StreamOrder& order, const ProgramMemory& memory);

  // Calls visit(node) for the operations of other chains that touch memory `m` and whose number is above after[chain], and
  // at most up_to[chain], until it returns true. Says whether it did.
  using Visit = std::function<bool(int node)>;
  bool others(int m, int chain, const std::int32_t* after, const std::int32_t* up_to,
              const Visit& visit) const;

 private:
  struct Lane {
    int chain;
    std::vector<Entry> entries;
  };
  std::vector<std::vector<Lane>> lanes_;  // of each memory
};

// Two operations whose order matters because the bytes of one's buffer may go to the other's: `user` must be done first.
struct Reuse {
  int user = 0, next_user = 0;  // steps
  int buffer = 0, next = 0, freed = 0;
};
// And those that must be done when the host gets to a free step.
struct HostFree {
  int user = 0, buffer = 0, freed = 0;
};
struct Lifetimes {
  std::vector<Reuse> reuses;
  std::vector<HostFree> frees;
};

// How two steps conflict in memory `m`, without nodes and schedule; nothing where they do not.
std::optional<Race> conflict(const ProgramMemory& memory, int m, int first_step, int second_step);
std::vector<int> memories_of(const ProgramMemory& memory, int step);  // each once

void find_races(const StreamOrder& order, const ProgramMemory& memory, const AccessIndex& index,
                const CheckLimits& limits, StreamReport& report);
Lifetimes find_lifetime_errors(const StreamProgram& program, const StreamOrder& order,
                               const ProgramMemory& memory, const CaptureFacts& captures,
                               StreamReport& report);
void judge_waits(const StreamProgram& program, const StreamOrder& order, const ProgramMemory& memory,
                 const AccessIndex& index, const Lifetimes& lifetimes, const CaptureFacts& captures,
                 StreamReport& report);
// Operations that must be done before `last`, in order, then `last`; each once over several calls with the same `done`, which
// counts nodes.
void schedule_up_to(const StreamOrder& order, int last, std::vector<bool>& done, std::vector<int>& schedule);

}  // namespace moecheck::reference
