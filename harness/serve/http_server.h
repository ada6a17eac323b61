#pragma once
// HTTP/1.1 on one thread, knowing nothing of what is served: requests go to a handler, which answers through an
// Exchange, at once or later. Semantics from RFC 9110 and 9112.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moecheck::harness {

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // "/v1/models", without the query
  std::string body;
  std::string authorization, content_type;  // of the header fields; empty: not given
};

struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";  // empty: none is sent
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;  // further ones
};

// One request being answered. All calls are made on the server's thread; after reply(), finish(), drop() or the
// call of on_gone the request is over and nothing may be called any more.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual void reply(HttpReply reply) = 0;
  // The same in pieces: head (its body is ignored), then any number of pieces. Each goes out as it comes.
  virtual void begin(const HttpReply& head) = 0;
  virtual void write(std::string_view piece) = 0;
  virtual void finish() = 0;
  // For what real networks do. Ends the connection: `reset` with RST at once, else orderly after what was written,
  // but without the end that HTTP asks for.
  virtual void drop(bool reset) = 0;
  virtual void hang() = 0;     // no answer ever comes
  virtual void dribble() = 0;  // from here on pieces leave one at a time, with pauses that a reader can see
  // Called once if the client goes away or its time is up before the reply is complete.
  virtual void on_gone(std::function<void()> call) = 0;
};

struct HttpOptions {
  std::string host = "127.0.0.1";                     // an address, or "localhost"
  std::uint16_t port = 0;                             // 0: any free one
  std::size_t max_header_bytes = 16 << 10;            // more: 431
  std::size_t max_body_bytes = 8 << 20;               // more: 413
  std::size_t max_buffered_bytes = 256 << 20;         // bodies of all connections together; more: 503
  std::size_t max_connections = 4096;                 // more: 503 and closed
  double read_seconds = 30, idle_seconds = 75;        // for a request to arrive whole; between requests
  double write_seconds = 30, request_seconds = 3600;  // for a client to take what is sent; for an answer
  double drain_seconds = 30;                          // for running requests at shutdown
};

class HttpServer {
 public:
  using Handler = std::function<void(HttpRequest, std::shared_ptr<Exchange>)>;
  // Binds and listens. Throws UsageError where the address can not be used.
  HttpServer(HttpOptions options, Handler handler);
  ~HttpServer();  // only after run() has returned, or without it
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  std::uint16_t port() const;
  // Serves on this thread until stopped. With `signals` SIGINT and SIGTERM stop it, the second one at once.
  void run(bool signals);
  // From any thread. Running requests are finished, at most drain_seconds long; `at_once` drops them.
  void stop(bool at_once);
  // From any thread until run() returns: calls `call` on the server's thread.
  void post(std::function<void()> call);
  // On the server's thread only.
  void after(double seconds, std::function<void()> call);
  bool draining() const;
  std::size_t connections() const;

  struct Core;

 private:
  std::shared_ptr<Core> core_;
};

}  // namespace moecheck::harness
