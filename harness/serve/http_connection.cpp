// Requests: bytes in, until the connection ends.
#include <fmt/format.h>

#include <boost/asio/buffer.hpp>

#include "harness/serve/http_connection.h"

namespace moecheck::harness {
namespace {

namespace http = boost::beast::http;
using boost::system::error_code;
using serve::ApiError;

constexpr std::size_t kReadAhead = 64 << 10;     // of further requests while one is being answered
constexpr std::size_t kDiscardBytes = 16 << 20;  // of what a refused client still sends before it is cut off
constexpr double kLingerSeconds = 2;

// What to say of a request that can not be parsed.
ApiError parse_error(const error_code& ec, const HttpOptions& o) {
  if (ec == http::error::body_limit)
    return {413, fmt::format("the body is longer than {} bytes", o.max_body_bytes)};
  if (ec == http::error::header_limit)
    return {431, fmt::format("the header is longer than {} bytes", o.max_header_bytes)};
  if (ec == http::error::bad_version) return {505, "HTTP/1.0 and HTTP/1.1 are understood"};
  if (ec == http::error::bad_transfer_encoding)
    return {501, "of transfer encodings chunked is understood, without a Content-Length beside it"};
  return {400, "the request is not HTTP: " + ec.message()};
}

}  // namespace

// ---- Reading

void Connection::start() {
  open_parser();
  expire_in(core_.options.idle_seconds);
  read();
}

void Connection::open_parser() {
  parser_.emplace();
  parser_->header_limit(static_cast<std::uint32_t>(core_.options.max_header_bytes));
  parser_->body_limit(core_.options.max_body_bytes);
  header_seen_ = false;
}

void Connection::read() {
  if (reading_ || state_ == State::kClosed || (state_ == State::kAnswering && in_.size() >= kReadAhead))
    return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(chunk_), [self = shared_from_this()](error_code ec, std::size_t n) {
    self->on_read(ec, n);
  });
}

void Connection::on_read(error_code ec, std::size_t n) {
  reading_ = false;
  if (state_ == State::kClosed) return;
  if (ec) return on_end();
  if (state_ == State::kLinger) {
    discarded_ += n;
    return discarded_ > kDiscardBytes ? close(false) : read();
  }
  in_.append(chunk_.data(), n);
  if (state_ == State::kIdle) {
    state_ = State::kReading;
    expire_in(core_.options.read_seconds);
  }
  parse();
  read();
}

// The client has closed its side, or the connection broke. As with other servers of this API, a client that closes
// its side before the answer has lost interest in it.
void Connection::on_end() {
  if (state_ != State::kAnswering || !complete_) return lost();
  keep_alive_ = false;  // the reply is on its way
}

void Connection::parse() {
  if (state_ != State::kReading || parsing_) return;
  parsing_ = true;  // a handler may reply at once, which must not come back here
  while (state_ == State::kReading && !in_.empty()) {
    if (!header_seen_ && !parser_->got_some() && (in_[0] == '\r' || in_[0] == '\n')) {
      in_.erase(0, 1);  // RFC 9112, 2.2: empty lines before a request are ignored
      continue;
    }
    error_code ec;
    const std::size_t used = parser_->put(asio::buffer(in_), ec);
    in_.erase(0, used);
    const std::size_t body = parser_->get().body().size();
    core_.buffered_bytes += body - body_bytes_;
    body_bytes_ = body;
    if (ec == http::error::need_more) break;
    if (ec) {
      refuse(parse_error(ec, core_.options));
    } else if (core_.buffered_bytes > core_.options.max_buffered_bytes) {
      refuse({503, "the server holds too many unfinished requests", "server_error", "", "overloaded"});
    } else if (parser_->is_header_done() && !header_seen_) {
      header_seen_ = true;
      if (header_accepted()) {
        parser_->eager(true);
        if (parser_->is_done()) dispatch();
      }
    } else if (parser_->is_done()) {
      dispatch();
    } else if (used == 0) {
      break;
    }
  }
  parsing_ = false;
}

// What the header alone refuses, before a body is read.
bool Connection::header_accepted() {
  const auto& m = parser_->get();
  http10_ = m.version() == 10;
  keep_alive_ = m.keep_alive();
  head_only_ = m.method() == http::verb::head;
  const auto refused = [this](ApiError e) {
    refuse(e);
    return false;
  };
  if (m.version() != 10 && m.version() != 11) return refused({505, "HTTP/1.0 and HTTP/1.1 are understood"});
  if (overflow_) return refused({503, "too many connections are open", "server_error", "", "overloaded"});
  if (m.version() == 11 && m.count(http::field::host) != 1)
    return refused({400, "one Host header is needed"});
  if (m.count(http::field::transfer_encoding) > 0 &&
      !boost::beast::iequals(m[http::field::transfer_encoding], "chunked"))
    return refused({501, "of transfer encodings chunked is understood"});
  if (const auto coding = m[http::field::content_encoding];
      !coding.empty() && !boost::beast::iequals(coding, "identity"))
    return refused({415, "a body must not be compressed: leave Content-Encoding out"});
  if (const auto expect = m[http::field::expect]; !expect.empty()) {
    if (!boost::beast::iequals(expect, "100-continue"))
      return refused({417, "of Expect 100-continue is understood"});
    if (!http10_ && in_.empty() && !parser_->is_done()) {
      out_ += "HTTP/1.1 100 Continue\r\n\r\n";
      flush();
    }
  }
  return true;
}

void Connection::dispatch() {
  auto message = parser_->release();
  HttpRequest request;
  request.method = view(message.method_string());
  std::string_view target = view(message.target());
  if (const std::size_t scheme = target.find("://"); !target.starts_with('/') && scheme != target.npos) {
    const std::size_t slash = target.find('/', scheme + 3);  // absolute form
    target = slash == target.npos ? std::string_view("/") : target.substr(slash);
  }
  request.path = target.substr(0, target.find_first_of("?#"));
  request.body = std::move(message.body());
  request.authorization = view(message[http::field::authorization]);
  request.content_type = view(message[http::field::content_type]);
  forget_body();
  open_parser();
  state_ = State::kAnswering;
  begun_ = complete_ = chunked_ = dribble_ = hung_ = false;
  expire_in(core_.options.request_seconds);
  core_.handler(std::move(request), shared_from_this());
}

void Connection::forget_body() {
  core_.buffered_bytes -= body_bytes_;
  body_bytes_ = 0;
}

// Answers what never became a request; what the client still sends can not be understood, so the connection ends.
void Connection::refuse(const ApiError& error) {
  forget_body();
  keep_alive_ = false;
  refused_ = true;
  state_ = State::kAnswering;
  begun_ = complete_ = chunked_ = dribble_ = false;
  in_.clear();
  reply(serve::error_reply(error));
}

// ---- Ending

void Connection::linger() {
  if (!refused_ && in_.empty()) return close(false);  // nothing is unread
  error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  state_ = State::kLinger;
  in_.clear();
  expire_in(kLingerSeconds);
  read();
}

void Connection::close(bool reset) {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  forget_body();
  error_code ignored;
  if (reset) socket_.set_option(asio::socket_base::linger(true, 0), ignored);
  pause_.cancel();
  socket_.close(ignored);
  core_.closed(this);
}

void Connection::lost(bool reset) {
  const auto gone = std::move(gone_);
  gone_ = nullptr;
  close(reset);
  if (gone) gone();
}

void Connection::check_time(Clock::time_point now) {
  if (now >= write_deadline_)
    return lost(true);  // else the system would keep trying to send what is buffered
  if (now < deadline_) return;
  deadline_ = Clock::time_point::max();
  switch (state_) {
    case State::kIdle:
    case State::kLinger:
      return close(false);
    case State::kReading:
      return refuse({408, "the request did not arrive in time"});
    case State::kAnswering: {
      if (begun_ || hung_) return lost();
      const auto gone = std::move(gone_);
      gone_ = nullptr;
      keep_alive_ = false;
      reply(serve::error_reply({503,
                                fmt::format("there was no answer within {} s", core_.options.request_seconds),
                                "server_error", "", "timeout"}));
      if (gone) gone();
      return;
    }
    case State::kClosed:
      return;
  }
}

void Connection::drain() {
  if (state_ != State::kAnswering || hung_) lost();
}

void Connection::abort() { lost(); }

std::shared_ptr<HttpConnection> make_connection(HttpServer::Core& core, Socket socket, bool overflow) {
  return std::make_shared<Connection>(core, std::move(socket), overflow);
}

}  // namespace moecheck::harness
