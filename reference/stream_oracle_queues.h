#pragma once
// The queues of stream_oracle.h. Internal to reference/.
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "reference/stream_oracle.h"

namespace moecheck::reference::oracle {

using Mask = std::uint64_t;  // a set of operations

inline Mask bit(int i) { return Mask{1} << i; }

// An entry of a stream's queue. Several operations with their needs: a graph.
struct Entry {
  int place = 0;                // among all that the host puts anywhere
  int syncs = 0;                // waits of the host before it
  int needs_entry = -1;         // of a wait: its record's; of a graph: that of its earlier launch
  std::vector<int> operations;  // none: a record or a wait
  std::vector<Mask> needs;      // of each operation: others that must be done
};

struct HostSync {
  int place = 0;
  int stream = -1, entry = -1;  // a stream, the entry of a record, or neither: all
};

struct Touch {
  int cell = 0;
  bool write = false;
};

// A freed buffer whose bytes may go to `next`, or went there.
struct Handed {
  int old = 0, next = 0;  // buffers
  std::vector<std::pair<int, int>>
      kept;        // record_stream: a stream, and the place up to which it must be done
  Mask users = 0;  // operations on `old` that the host put there before the free
  std::vector<std::pair<int, std::vector<Touch>>>
      touches;  // operations on `next`, with the cells of `old` that they get
};

struct Queues {
  std::vector<Entry> entries;
  std::vector<std::vector<int>> streams;  // entries
  std::vector<StreamKind> kinds;
  std::vector<HostSync> syncs;
  std::vector<Executed> operations;
  std::vector<std::vector<Touch>> touches;  // of each operation
  std::vector<Handed> handed;
  std::vector<std::pair<int, Mask>> host_frees;  // syncs before it, operations that use the buffer
  int cells = 0;
  bool capture_failed = false, dead = false;  // dead: an access outside its buffer's life, whatever the order
  bool too_many = false;
};

Queues make_queues(const StreamProgram& program);

// What may run next when `done` has run, and how many waits of the host are over.
struct Ready {
  Mask operations = 0;
  int syncs = 0;
  std::vector<std::size_t> at;  // of each stream: how many entries of its queue are done
};
Ready ready(const Queues& queues, Mask done);

}  // namespace moecheck::reference::oracle
