#include "harness/serve/server.h"

#include <thread>

#include "harness/serve/api.h"

namespace moecheck::harness {

struct Server::Parts {
  Parts(Engine& engine, const ServerOptions& o)
      : http(o.http,
             [this](HttpRequest r, std::shared_ptr<Exchange> e) { api->handle(std::move(r), std::move(e)); }),
        api(std::make_unique<serve::OpenAiApi>(engine, o)) {
    api->serve_on(http);
  }

  HttpServer http;
  std::unique_ptr<serve::OpenAiApi> api;  // holds exchanges, so it goes before the connections do
  std::thread thread;
  std::uint16_t port = 0;
};

Server::Server(Engine& engine, ServerOptions options) : parts_(std::make_unique<Parts>(engine, options)) {
  parts_->port = parts_->http.port();
}

Server::~Server() { stop_at_once(); }

std::uint16_t Server::port() const { return parts_->port; }

void Server::run(bool signals) { parts_->http.run(signals); }

void Server::start() {
  parts_->thread = std::thread([this] { parts_->http.run(false); });
}

void Server::stop() {
  if (!parts_->thread.joinable()) return;
  parts_->http.stop(false);
  parts_->thread.join();
}

void Server::stop_at_once() {
  if (!parts_->thread.joinable()) return;
  parts_->http.stop(true);
  parts_->thread.join();
}

}  // namespace moecheck::harness
