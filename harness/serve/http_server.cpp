#include "harness/serve/http_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <ctime>

#include <boost/asio/post.hpp>
#include "harness/case.h"
#include "harness/serve/http_core.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using asio::ip::tcp;
using boost::system::error_code;

tcp::endpoint endpoint_of(const HttpOptions& o) {
  error_code ec;
  const auto address = asio::ip::make_address(o.host == "localhost" ? "127.0.0.1" : o.host, ec);
  if (ec)
    throw UsageError(
        fmt::format("host '{}' is not an address: give one as 127.0.0.1 or ::1, or 0.0.0.0 for all "
                    "of this machine's",
                    printable(o.host)));
  return {address, o.port};
}

}  // namespace

// ---- Core

void HttpServer::Core::accept() {
  acceptor.async_accept(io.get_executor(), [this](error_code ec, Socket socket) {
    if (ec == asio::error::operation_aborted || !acceptor.is_open()) return;
    if (ec) {  // out of file descriptors, as a rule: connections that end make room
      accept_pause.expires_after(std::chrono::milliseconds(50));
      accept_pause.async_wait([this](error_code stopped) {
        if (!stopped && acceptor.is_open()) accept();
      });
      return;
    }
    // A few over the limit are told so; beyond that, closing is all the answer there is.
    const std::size_t limit = options.max_connections;
    if (connections.size() < limit + 64) {
      error_code ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      const auto c = make_connection(*this, std::move(socket), connections.size() >= limit);
      connections.emplace(c.get(), c);
      c->start();
    }
    accept();
  });
}

void HttpServer::Core::sweep_later() {
  const HttpOptions& o = options;
  const double shortest =
      std::min({o.read_seconds, o.idle_seconds, o.write_seconds, o.request_seconds, o.drain_seconds, 1.0});
  sweep.expires_after(seconds_of(std::max(shortest / 4, 0.01)));
  sweep.async_wait([this](error_code ec) {
    if (ec) return;
    const Clock::time_point now = Clock::now();
    if (now >= drain_deadline) return stop(true);
    std::vector<std::shared_ptr<HttpConnection>> all;  // checking may close, which changes the map
    all.reserve(connections.size());
    for (const auto& [key, c] : connections) all.push_back(c);
    for (const auto& c : all) c->check_time(now);
    sweep_later();
  });
}

void HttpServer::Core::stop(bool at_once) {
  error_code ignored;
  acceptor.close(ignored);
  accept_pause.cancel();
  if (!draining) drain_deadline = Clock::now() + seconds_of(options.drain_seconds);
  draining = true;
  std::vector<std::shared_ptr<HttpConnection>> all;
  for (const auto& [key, c] : connections) all.push_back(c);
  for (const auto& c : all) {
    if (at_once)
      c->abort();
    else
      c->drain();
  }
  if (connections.empty()) io.stop();
}

void HttpServer::Core::closed(HttpConnection* connection) {
  connections.erase(connection);
  if (draining && connections.empty()) io.stop();
}

const std::string& HttpServer::Core::date_now() {
  const std::time_t now = std::time(nullptr);
  if (now != date_second) {
    std::tm utc{};
    gmtime_r(&now, &utc);
    date = fmt::format("{}, {:02} {} {} {:02}:{:02}:{:02} GMT",
                       &"Sun\0Mon\0Tue\0Wed\0Thu\0Fri\0Sat"[utc.tm_wday * 4], utc.tm_mday,
                       &"Jan\0Feb\0Mar\0Apr\0May\0Jun\0Jul\0Aug\0Sep\0Oct\0Nov\0Dec"[utc.tm_mon * 4],
                       utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec);
    date_second = now;
  }
  return date;
}

// ---- HttpServer

HttpServer::HttpServer(HttpOptions options, Handler handler)
    : core_(std::make_shared<Core>(std::move(options), std::move(handler))) {
  const tcp::endpoint endpoint = endpoint_of(core_->options);
  error_code ec;
  Acceptor& a = core_->acceptor;
  a.open(endpoint.protocol(), ec);
  if (!ec) a.set_option(asio::socket_base::reuse_address(true), ec);
  if (!ec) a.bind(endpoint, ec);
  if (!ec) a.listen(4096, ec);
  if (ec)
    throw UsageError(fmt::format("can not listen on {}:{}: {}; choose another --port, or 0 for any free one",
                                 printable(core_->options.host), core_->options.port, ec.message()));
}

HttpServer::~HttpServer() = default;

std::uint16_t HttpServer::port() const { return core_->acceptor.local_endpoint().port(); }

void HttpServer::run(bool signals) {
  Core& core = *core_;
  std::signal(SIGPIPE, SIG_IGN);
  asio::basic_signal_set<Executor> set(core.io.get_executor());
  std::function<void()> wait = [&] {
    set.async_wait([&](error_code ec, int) {
      if (ec) return;
      core.stop(core.draining);
      wait();
    });
  };
  if (signals) {
    set.add(SIGINT);
    set.add(SIGTERM);
    wait();
  }
  core.accept();
  core.sweep_later();
  core.io.run();
  // Handlers that were never called hold connections, and these the core: let go of them here.
  const auto left = std::move(core.connections);
  core.connections.clear();
  for (const auto& [key, c] : left) c->abort();
}

void HttpServer::stop(bool at_once) {
  asio::post(core_->io, [core = core_.get(), at_once] { core->stop(at_once); });
}

void HttpServer::post(std::function<void()> call) { asio::post(core_->io, std::move(call)); }

void HttpServer::after(double seconds, std::function<void()> call) {
  auto timer = std::make_shared<Timer>(core_->io.get_executor());
  timer->expires_after(seconds_of(seconds));
  timer->async_wait([timer, call = std::move(call)](error_code ec) {
    if (!ec) call();
  });
}

bool HttpServer::draining() const { return core_->draining; }

std::size_t HttpServer::connections() const { return core_->connections.size(); }

}  // namespace moecheck::harness
