// Replies: whole or in pieces, sent at the client's pace.
#include <fmt/format.h>

#include <boost/asio/buffer.hpp>
#include <iterator>

#include "harness/serve/http_connection.h"

namespace moecheck::harness {

namespace {

namespace http = boost::beast::http;
using boost::system::error_code;

}  // namespace

void Connection::append_head(const HttpReply& r, const std::string& framing) {
  if (core_.draining) keep_alive_ = false;
  const auto reason = http::obsolete_reason(static_cast<http::status>(r.status));
  fmt::format_to(std::back_inserter(out_), "HTTP/1.1 {} {}\r\nServer: moecheck\r\nDate: {}\r\n", r.status,
                 view(reason), core_.date_now());
  if (!r.content_type.empty()) out_ += "Content-Type: " + r.content_type + "\r\n";
  out_ += framing;
  for (const auto& [name, value] : r.headers) out_ += name + ": " + value + "\r\n";
  if (!keep_alive_)
    out_ += "Connection: close\r\n";
  else if (http10_)
    out_ += "Connection: keep-alive\r\n";
  out_ += "\r\n";
}

void Connection::reply(HttpReply r) {
  if (state_ != State::kAnswering || complete_) return;
  const bool bodiless = r.status == 204;
  append_head(r, bodiless ? std::string() : fmt::format("Content-Length: {}\r\n", r.body.size()));
  if (!head_only_ && !bodiless) out_ += r.body;
  begun_ = true;
  complete();
}

void Connection::begin(const HttpReply& head) {
  if (state_ != State::kAnswering || begun_) return;
  begun_ = true;
  chunked_ = !http10_;
  if (http10_) keep_alive_ = false;  // the end of the connection is the end of the body
  append_head(head, chunked_ ? "Transfer-Encoding: chunked\r\n" : "");
  flush();
}

void Connection::write(std::string_view piece) {
  if (state_ != State::kAnswering || complete_ || piece.empty()) return;
  if (dribble_) {
    dribbles_.push_back(chunked_ ? fmt::format("{:x}\r\n{}\r\n", piece.size(), piece) : std::string(piece));
  } else if (chunked_) {
    fmt::format_to(std::back_inserter(out_), "{:x}\r\n", piece.size());
    out_.append(piece).append("\r\n");
  } else {
    out_ += piece;
  }
  flush();
}

void Connection::finish() {
  if (state_ != State::kAnswering || complete_) return;
  if (chunked_) {
    if (dribble_)
      dribbles_.emplace_back("0\r\n\r\n");
    else
      out_ += "0\r\n\r\n";
  }
  complete();
}

void Connection::drop(bool reset) {
  if (state_ != State::kAnswering || complete_) return;
  gone_ = nullptr;
  if (reset) return close(true);
  keep_alive_ = false;
  complete();
}

void Connection::complete() {
  complete_ = true;
  gone_ = nullptr;
  deadline_ = Clock::time_point::max();  // from here the client's reading alone is timed
  flush();
}

void Connection::flush() {
  if (writing_ || state_ == State::kClosed) return;
  if (out_.empty() && !dribbles_.empty()) {
    out_ = std::move(dribbles_.front());
    dribbles_.pop_front();
  }
  if (out_.empty()) {
    if (complete_ && state_ == State::kAnswering) next();
    return;
  }
  writing_ = true;
  sending_.swap(out_);
  out_.clear();
  sent_ = 0;
  send();
}

// In steps of what the client takes, each of which is timed: a slow client is no stuck one.
void Connection::send() {
  write_deadline_ = Clock::now() + seconds_of(core_.options.write_seconds);
  socket_.async_write_some(
      asio::buffer(sending_.data() + sent_, sending_.size() - sent_),
      [self = shared_from_this()](error_code ec, std::size_t n) { self->on_written(ec, n); });
}

void Connection::on_written(error_code ec, std::size_t n) {
  sent_ += n;
  if (!ec && state_ != State::kClosed && sent_ < sending_.size()) return send();
  writing_ = false;
  write_deadline_ = Clock::time_point::max();
  if (state_ == State::kClosed) return;
  if (ec) return lost();
  if (!dribble_) return flush();
  writing_ = true;
  pause_.expires_after(std::chrono::microseconds(300));
  pause_.async_wait([self = shared_from_this()](error_code stopped) {
    self->writing_ = false;
    if (!stopped) self->flush();
  });
}

void Connection::next() {
  begun_ = complete_ = dribble_ = false;
  if (!keep_alive_ || core_.draining) return linger();
  state_ = in_.empty() ? State::kIdle : State::kReading;
  expire_in(in_.empty() ? core_.options.idle_seconds : core_.options.read_seconds);
  parse();
  read();
}

}  // namespace moecheck::harness
