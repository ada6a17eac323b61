#pragma once
// The inside of the HTTP server, for its own files: compiling Asio and Beast takes long.
#include <utility>  // Asio 1.74 needs std::exchange and does not ask for it

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <ctime>
#include <memory>
#include <string>
#include <unordered_map>

#include "harness/serve/http_server.h"

namespace moecheck::harness {

namespace asio = boost::asio;
using Executor = asio::io_context::executor_type;
using Acceptor = asio::basic_socket_acceptor<asio::ip::tcp, Executor>;
using Socket = asio::basic_stream_socket<asio::ip::tcp, Executor>;
using Timer = asio::basic_waitable_timer<std::chrono::steady_clock,
                                         asio::wait_traits<std::chrono::steady_clock>, Executor>;
using Clock = std::chrono::steady_clock;

class HttpConnection {
 public:
  virtual ~HttpConnection() = default;
  virtual void start() = 0;
  virtual void check_time(Clock::time_point now) = 0;  // ends what takes too long
  virtual void drain() = 0;  // closes now if nothing is being answered, else after it
  virtual void abort() = 0;  // closes now
};

struct HttpServer::Core {
  Core(HttpOptions o, Handler h) : options(std::move(o)), handler(std::move(h)) {}

  HttpOptions options;
  Handler handler;
  asio::io_context io{1};
  Acceptor acceptor{io.get_executor()};
  Timer sweep{io.get_executor()}, accept_pause{io.get_executor()};
  std::unordered_map<HttpConnection*, std::shared_ptr<HttpConnection>> connections;
  std::size_t buffered_bytes = 0;  // of request bodies
  bool draining = false;
  Clock::time_point drain_deadline = Clock::time_point::max();
  std::string date;  // of the Date header, made anew every second
  std::time_t date_second = 0;

  void accept();
  void sweep_later();
  void stop(bool at_once);
  void closed(HttpConnection* connection);
  const std::string& date_now();
};

// `overflow`: one connection too many, which is told so. The core outlives its connections.
std::shared_ptr<HttpConnection> make_connection(HttpServer::Core& core, Socket socket, bool overflow);

inline Clock::duration seconds_of(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(std::min(seconds, 1e8)));
}

}  // namespace moecheck::harness
