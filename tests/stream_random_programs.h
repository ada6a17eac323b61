#pragma once
// Random stream programs: small ones with everything in them, for the comparison with the oracle.
#include <random>
#include <string>

#include "reference/stream_program.h"

namespace moecheck::reference {

class RandomProgram {
 public:
  explicit RandomProgram(std::uint64_t seed, int operations = 7) : random_(seed), operations_(operations) {}

  StreamProgram make() {
    p_.name = "random";
    const int streams = 2 + below(2);
    const bool kinds = below(5) == 0;
    for (int i = 0; i < streams; ++i)
      p_.stream("s" + std::to_string(i), !kinds         ? StreamKind::kNonBlocking
                                         : i == 0       ? StreamKind::kLegacy
                                         : below(2) > 0 ? StreamKind::kBlocking
                                                        : StreamKind::kNonBlocking);
    const bool lives = below(2) == 0;
    for (int i = 0, n = 2 + below(3); i < n; ++i)
      p_.buffer("b" + std::to_string(i), 4 + below(5), lives && below(4) > 0 ? below(streams) : -1);
    if (below(3) == 0) p_.view("v", 0, below(3), 1 + below(2));
    if (below(6) == 0) p_.add_scratch("semaphores", below(2) > 0);
    for (int i = 0; i < 2; ++i) p_.events.push_back("e" + std::to_string(i));
    allocated_.assign(p_.buffers.size(), 0);
    freed_.assign(p_.buffers.size(), false);
    recorded_.assign(2, false);
    for (int& a : allocated_) a = lives ? below(2) : 0;  // 1: to be allocated
    if (below(3) == 0)
      captured(streams, lives);
    else
      for (int i = 0; i < 2 * operations_; ++i) step(streams, lives, true);
    return p_;
  }

 private:
  int below(int n) { return static_cast<int>(random_() % static_cast<std::uint64_t>(n)); }

  void captured(int streams, bool lives) {
    for (int i = below(4); i > 0; --i) step(streams, lives, true);
    const int origin = below(streams), other = below(streams);
    const int graph = p_.begin_capture(origin, "g");
    for (int i = below(2); i > 0; --i) operation(origin);
    if (below(8) > 0) p_.wait_stream(other, origin);
    for (int i = 2 + below(operations_); i > 0; --i)
      step(below(8) > 0 ? (below(2) > 0 ? origin : other) : below(streams), lives);
    if (below(8) > 0) p_.wait_stream(origin, other);
    for (int i = below(2); i > 0; --i) operation(origin);
    if (below(20) > 0) p_.end_capture(below(20) > 0 ? origin : other);
    for (int i = below(5); i > 0; --i) {
      if (below(3) == 0)
        p_.launch_graph(graph, below(streams));
      else
        step(streams, lives, true);
    }
  }

  void operation(int stream) {
    if (done_++ >= operations_) return;
    const int n = p_.kernel("k" + std::to_string(p_.steps.size()), stream, {}, {});
    StreamStep& s = p_.steps[static_cast<std::size_t>(n)];
    if (below(4) > 0) s.reads.push_back(range());
    if (below(4) > 0) s.writes.push_back(range());
    if (!p_.scratch.empty() && below(3) == 0) s.scratch.push_back(0);
  }

  ByteRange range() {
    const int b = below(static_cast<int>(p_.buffers.size()));
    const auto bytes = static_cast<int>(p_.buffers[static_cast<std::size_t>(b)].bytes);
    const int begin = below(2) == 0 ? 0 : below(bytes);
    return {b, begin, below(2) == 0 ? bytes : begin + 1 + below(bytes - begin)};
  }

  void step(int streams, bool lives, bool) { step(below(streams), lives); }

  void step(int stream, bool lives) {
    const int streams = static_cast<int>(p_.streams.size());
    switch (below(lives ? 13 : 10)) {
      default:
        return operation(stream);
      case 4:
        p_.record(below(2), stream);
        recorded_[static_cast<std::size_t>(p_.steps.back().event)] = true;
        return;
      case 5:
      case 6:
        if (const int e = below(2); recorded_[static_cast<std::size_t>(e)]) p_.wait(stream, e);
        return;
      case 7:
      case 8:
        p_.wait_stream(stream, below(streams));
        return;
      case 9:
        if (below(3) == 0) p_.host_sync(below(streams + 1) - 1);
        return;
      case 10:
      case 11:
      case 12:
        return life();
    }
  }

  void life() {
    const auto b = static_cast<std::size_t>(below(static_cast<int>(p_.buffers.size())));
    const int buffer = static_cast<int>(b);
    if (p_.buffers[b].base >= 0) return;
    if (allocated_[b] == 1) {
      int reuses = -1;
      for (std::size_t o = 0; o < p_.buffers.size(); ++o)
        if (freed_[o] && p_.buffers[o].stream == p_.buffers[b].stream &&
            p_.buffers[o].bytes >= p_.buffers[b].bytes && below(2) == 0)
          reuses = static_cast<int>(o);
      p_.alloc(buffer, reuses);
      allocated_[b] = 2;
    } else if (!freed_[b]) {
      if (p_.buffers[b].stream >= 0 && below(2) == 0)
        p_.record_stream(buffer, below(static_cast<int>(p_.streams.size())));
      p_.free(buffer);
      freed_[b] = true;
    }
  }

  std::mt19937_64 random_;
  StreamProgram p_;
  std::vector<int> allocated_;
  std::vector<bool> freed_, recorded_;
  int operations_, done_ = 0;
};

}  // namespace moecheck::reference
