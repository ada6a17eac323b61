#pragma once
// The inside of one connection, for its own two files: bytes in, requests out (http_connection.cpp), replies back, in order
// (http_reply.cpp). A read is always pending, also while a request is being answered, since nothing else tells that the
// client has gone.
#include <array>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <deque>
#include <memory>
#include <optional>

#include "harness/serve/error.h"
#include "harness/serve/http_core.h"

namespace moecheck::harness {

inline std::string_view view(boost::beast::string_view s) { return {s.data(), s.size()}; }

class Connection final : public HttpConnection,
                         public Exchange,
                         public std::enable_shared_from_this<Connection> {
 public:
  Connection(HttpServer::Core& core, Socket socket, bool overflow)
      : core_(core), socket_(std::move(socket)), pause_(core.io.get_executor()), overflow_(overflow) {
    parser_.emplace();
  }

  // ---- HttpConnection
  void start() override;
  void check_time(Clock::time_point now) override;
  void drain() override;
  void abort() override;

  // ---- Exchange
  void reply(HttpReply reply) override;
  void begin(const HttpReply& head) override;
  void write(std::string_view piece) override;
  void finish() override;
  void drop(bool reset) override;
  void hang() override { hung_ = true; }
  void dribble() override { dribble_ = true; }
  void on_gone(std::function<void()> call) override { gone_ = std::move(call); }

 private:
  // kLinger: all is said; the client's last bytes are read and forgotten, since closing on unread ones sends a
  // reset that may overtake the reply.
  enum class State { kIdle, kReading, kAnswering, kLinger, kClosed };

  static constexpr std::size_t kReadBytes = 16 << 10;

  // http_connection.cpp: requests come in, and the connection ends.
  void read();
  void on_read(boost::system::error_code ec, std::size_t n);
  void on_end();
  void parse();
  void open_parser();
  bool header_accepted();
  void dispatch();
  void refuse(const serve::ApiError& error);
  void linger();
  void close(bool reset);
  void lost(bool reset = false);
  void forget_body();
  // http_reply.cpp: replies go out.
  void append_head(const HttpReply& reply, const std::string& framing);
  void flush();
  void send();
  void on_written(boost::system::error_code ec, std::size_t n);
  void complete();
  void next();
  void expire_in(double seconds) { deadline_ = Clock::now() + seconds_of(seconds); }

  HttpServer::Core& core_;
  Socket socket_;
  Timer pause_;  // between the pieces of a dribble
  const bool overflow_;
  State state_ = State::kIdle;
  Clock::time_point deadline_ = Clock::time_point::max(), write_deadline_ = Clock::time_point::max();

  std::array<char, kReadBytes> chunk_;
  std::string in_;  // received, not parsed
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  bool reading_ = false, parsing_ = false, header_seen_ = false, refused_ = false;
  std::size_t body_bytes_ = 0;  // what this connection added to core_.buffered_bytes
  std::size_t discarded_ = 0;

  std::string out_, sending_;
  std::size_t sent_ = 0;  // of sending_
  std::deque<std::string> dribbles_;
  bool writing_ = false, dribble_ = false, hung_ = false;
  bool begun_ = false, complete_ = false, chunked_ = false;  // of the reply
  bool head_only_ = false, keep_alive_ = true, http10_ = false;
  std::function<void()> gone_;
};

}  // namespace moecheck::harness
