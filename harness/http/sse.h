#pragma once
// Server-sent events, byte by byte as they come (WHATWG HTML, section 9.2.6): lines end with LF, CRLF or CR,
// an event ends at an empty line, reads may be cut anywhere, in a UTF-8 character too.
#include <string>
#include <string_view>

namespace moecheck::harness::http {

struct SseEvent {
  std::string_view type;  // of the "event:" line; empty without one
  std::string_view data;  // lines joined with LF
  std::string_view id;
};

class SseParser {
 public:
  // Takes bytes off the front of `bytes` until an event is complete: true, and `event` is valid until the next
  // call and as long as those bytes are. False: `bytes` is used up. Call in a loop. An event without any data line is no event.
  bool next(std::string_view& bytes, SseEvent& event);
  // At the end of the stream: what no empty line ended. The standard drops it; some servers end with
  // "data: [DONE]" and no line end, so the caller may look.
  bool finish(SseEvent& event);
  void reset();

 private:
  bool next_whole(std::string_view& bytes, SseEvent& event);
  void take_line(std::string_view line);
  bool dispatch(SseEvent& event);

  std::string line_;                 // a line whose end has not come
  std::string data_, type_, id_;     // of the event being built
  std::string out_data_, out_type_;  // of the event handed out
  bool has_data_ = false;
  bool at_start_ = true;  // a BOM may still come
  bool skip_lf_ = false;  // the last byte was CR
};

}  // namespace moecheck::harness::http
