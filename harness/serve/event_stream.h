#pragma once
// Server-sent events, in the ways that servers write them.
#include <cstdint>
#include <string>
#include <string_view>

#include "harness/serve/chaos.h"
#include "harness/serve/http_server.h"

namespace moecheck::harness::serve {

class EventStream {
 public:
  EventStream(Exchange& exchange, const StreamStyle& style, std::uint64_t draw)
      : exchange_(exchange), style_(style), draw_(draw) {}
  void begin();
  void event(std::string_view data);  // "data: ...", one line
  void half(std::string_view data);   // the first half of an event, for connections that break
  std::int64_t events() const { return events_; }

 private:
  std::string lines(std::string_view data);

  Exchange& exchange_;
  StreamStyle style_;
  std::uint64_t draw_;
  std::int64_t events_ = 0;
};

// Writes `bytes` in a few pieces, one cut inside its first UTF-8 sequence of several bytes, others anywhere.
void write_split(Exchange& exchange, std::string_view bytes, std::uint64_t draw);

}  // namespace moecheck::harness::serve
