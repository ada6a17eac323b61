#pragma once
// An HTTP/1.1 client for hundreds of requests at once on one thread: libcurl's multi interface over epoll.
// Connections are kept and reused, Nagle's algorithm is off, and every read is timed. Nothing here throws for
// what a server or a network does: that is a Failure in the Response. Not thread-safe but for wake().
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::harness::http {

// Nanoseconds of the monotonic clock: every time of this folder.
using Nanoseconds = std::int64_t;
inline Nanoseconds now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
inline constexpr Nanoseconds kSecond = 1'000'000'000;

// What the transport saw. A response with any status is kNone here: openai.h judges it.
enum class Failure {
  kNone,
  kRefused,      // nothing listens there
  kUnreachable,  // no such name, no route
  kReset,        // closed or reset before the response began, or reset within it
  kTruncated,    // the body ended before its announced length or last chunk
  kConnectTimeout,
  kFirstByteTimeout,  // sent, and not one byte of the response
  kTotalTimeout,
  kTooLarge,   // the body passed Limits::max_body_bytes
  kMalformed,  // not HTTP
  kTls,
  kCancelled,
  kOther,  // Response::error has libcurl's words
};
std::string_view name(Failure failure);  // "refused", "connect timeout", ...

struct Limits {  // seconds; 0: none
  double connect_s = 10;
  double first_byte_s = 0;
  double total_s = 300;
  std::size_t max_body_bytes = std::size_t{64} << 20;
};

struct Request {
  std::string method = "POST";       // GET or POST
  std::string url;                   // http://host:port/path or https://
  std::vector<std::string> headers;  // "Name: value"
  std::string body;
  Limits limits;
};

struct Read {  // what one read of the socket brought
  Nanoseconds time = 0;
  std::uint32_t bytes = 0;   // of the body, chunk framing taken off
  std::uint32_t pieces = 0;  // transfer chunks: 1 or more
};

struct Timing {
  Nanoseconds queued = 0;      // start() was called
  Nanoseconds sent = 0;        // connected, about to write the request; 0: never got there
  Nanoseconds first_byte = 0;  // of the response, its status line; 0: none came
  Nanoseconds done = 0;
  std::vector<Read> reads;  // of the body
};

struct Header {
  std::string name, value;  // as sent, blanks around the value taken off
};

struct Response {
  Failure failure = Failure::kNone;
  std::string error;  // for people; empty without failure
  int status = 0;     // 0: no status line came
  std::vector<Header> headers;
  std::string body;  // what came, also on failure; empty where Callbacks::body took it
  Timing timing;
  bool reused_connection = false;
  // A kept connection may close in the moment it is used again: such a request was sent once more, unseen by the server.
  int resends = 0;

  // The last header of that name, any case; empty without one.
  std::string_view header(std::string_view name) const;
};

// Seconds to wait from a Retry-After value, a number or an HTTP date against `unix_now`; never negative; nothing when unreadable.
std::optional<double> retry_after_seconds(std::string_view value, std::int64_t unix_now);

struct Callbacks {
  std::function<void(const Response&)> headers;  // status and headers have come, no body yet; optional
  // A piece of the body; optional: without it the body is collected in Response::body. `time` is its read's.
  std::function<void(std::string_view bytes, Nanoseconds time)> body;
  std::function<void(Response&&)> done;  // exactly once for each start(), also after cancel(); required
};

struct Options {
  bool verify_tls = true;
  std::string ca_file;              // empty: the system's
  std::size_t max_connections = 0;  // open at once, more requests wait; 0: as many as needed
  bool record_reads = true;         // Timing::reads
};

// Since the client was made. idle is time spent waiting in the kernel: 1 - idle/elapsed is how busy this thread was.
struct Counters {
  std::uint64_t started = 0, finished = 0, connections = 0, reads = 0;
  std::uint64_t body_bytes_sent = 0, body_bytes_received = 0;
  Nanoseconds idle = 0;
};

class Client {
 public:
  using Id = std::uint64_t;  // of a request or a timer; never 0, never used again

  explicit Client(Options options = {});
  ~Client();  // drops what runs without calling back
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Callbacks run inside poll() and run(), never inside start() or cancel(). They may call start(), at() and cancel().
  Id start(Request request, Callbacks callbacks);
  // Ends the request with Failure::kCancelled, or forgets the timer. Of a finished or unknown id: nothing happens.
  void cancel(Id id);
  // Calls `action` once, at that time or as soon after it as the loop comes round.
  Id at(Nanoseconds time, std::function<void()> action);

  // Handles what is ready, waiting at most `max_wait` for something to be.
  void poll(Nanoseconds max_wait);
  void run();  // until nothing runs and no timer is left
  // Ends the wait of a poll() in progress; from any thread or signal handler.
  void wake() noexcept;

  std::size_t active() const;  // requests not finished
  const Counters& counters() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moecheck::harness::http
