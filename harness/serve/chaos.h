#pragma once
// What real servers and networks do to clients, on purpose and repeatably: which fault a request meets is a function
// of the seed, of the request's body and of how often that body came.
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace moecheck::harness::serve {

// At most one of these per request; a client should notice each and try again (kSlowFirst: or wait).
enum class Fault : std::uint8_t {
  kNone,
  kReset,            // RST instead of an answer
  kRefuse,           // closed instead of an answer
  kTooMany,          // 429, Retry-After in seconds
  kTooManyDate,      // 429, Retry-After as a date
  kUnavailable,      // 503, Retry-After in seconds
  kUnavailableDate,  // 503, Retry-After as a date
  kInternal,         // 500, no Retry-After
  kTimeout,          // no answer ever
  kSlowFirst,        // right, but late
  kTruncate,         // the connection closes in the middle
  kCut,              // HTTP ends as it should, the text or the stream of events does not
  kNoDone,           // a stream without its "data: [DONE]"
  kInvalidJson,      // one event, or the answer, is not JSON
  kWrongType,        // 200 with a page of HTML
  kErrorEvent,       // an error in the middle of a stream, after status 200
};

// How an answer is written that is right all the same: any number of these together.
struct StreamStyle {
  bool split = false;        // small pieces that cut lines, JSON and UTF-8 sequences
  bool multi_token = false;  // several deltas in one event
  bool no_usage = false;     // usage is left out
  enum class Usage : std::uint8_t { kAsked, kLast, kSeparate, kEvery } usage = Usage::kAsked;
  bool role_only = false;  // an event with a role or with an empty text first
  bool comments = false;   // ": ping" lines, and event: and id: fields
  bool crlf = false;
  bool bom = false;
};

struct ChaosPlan {
  Fault fault = Fault::kNone;
  double seconds = 1;      // of Retry-After, of kSlowFirst
  std::uint64_t draw = 0;  // for places: where to cut
  StreamStyle style;
};

class Chaos {
 public:
  // "reset=0.05,503=0.1:2s,slow_first=0.02:1.5s,split=0.5,max_faults=3": words with a probability, and a time where
  // one applies. Faults: reset refuse 429 429_date 503 503_date 500 timeout slow_first truncate cut no_done
  // invalid_json wrong_type error_event; their probabilities add up to at most 1. Styles: split multi_token no_usage
  // usage_last usage_separate usage_every role_only comments crlf bom. After max_faults faults (3) one and the same
  // body meets none, so enough retries always get through. Throws UsageError; the empty text is no chaos.
  Chaos(std::string_view spec, std::uint64_t seed);

  bool active() const { return active_; }
  // Counts the request as one more try of this body. Not thread-safe.
  ChaosPlan plan(std::string_view body);

 private:
  struct Choice {
    int what;
    double probability, seconds;
  };
  struct Seen {
    std::uint32_t tries = 0, faults = 0;
  };

  StreamStyle style(std::uint64_t draw) const;

  bool active_ = false;
  std::uint64_t seed_;
  std::uint32_t max_faults_ = 3;
  std::vector<Choice> faults_, styles_;
  std::unordered_map<std::uint64_t, Seen> seen_;
};

}  // namespace moecheck::harness::serve
