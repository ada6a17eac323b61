#pragma once
// The memory of a program that is executed: which block a buffer has at each moment (execution.h).
#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "harness/streams/execution.h"

namespace moecheck::harness::streams {

// A number that a name alone decides, so that it is the same in a program with other steps.
std::uint64_t number_of(const std::string& name);

class ProgramBlocks {
 public:
  // Buffers hold what `body` says. With `serial` each has a block of its own, whatever is freed and allocated.
  ProgramBlocks(const reference::StreamProgram& program, gpu::Runtime& runtime, const OperationBody& body,
                bool serial);

  std::byte* allocate(std::int64_t bytes);  // for as long as this lives

  // Steps; graph: the capture that takes the step, or -1.
  void alloc(const reference::StreamStep& step, int graph);
  void free(const reference::StreamStep& step, int graph);
  void record_stream(const reference::StreamStep& step);

  // Where a range lies now.
  BoundRange bind(const reference::ByteRange& range);

  // Of the buffers that live and that some operation writes.
  std::map<int, std::vector<std::byte>> contents() const;

 private:
  struct Freed {
    int buffer;
    std::int64_t bytes;
    std::byte* data;
  };
  int root(int buffer) const;
  void poison(std::byte* data, std::int64_t bytes);

  const reference::StreamProgram& p_;
  gpu::Runtime& runtime_;
  std::deque<gpu::Memory> memory_;
  std::vector<std::byte*> now_, own_;  // of buffers that are no views
  std::vector<bool> written_;
  std::map<int, std::byte*> dead_;
  std::map<std::pair<int, int>, std::vector<Freed>> pools_;  // of (stream, capture)
  std::set<int> recorded_;
};

}  // namespace moecheck::harness::streams
