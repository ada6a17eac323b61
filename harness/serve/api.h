#pragma once
// Routes, and what lies between a request and the engine.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "harness/serve/chaos.h"
#include "harness/serve/generation.h"
#include "harness/serve/server.h"

namespace moecheck::harness::serve {

class OpenAiApi {
 public:
  OpenAiApi(Engine& engine, const ServerOptions& options);
  ~OpenAiApi();
  // The server is made after the API, with the API's handle() as its handler.
  void serve_on(HttpServer& http);
  void handle(HttpRequest request, std::shared_ptr<Exchange> exchange);

 private:
  void route(HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void generate(Api api, HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  bool disturbed(const ChaosPlan& plan, const std::shared_ptr<Exchange>& exchange);
  void check_queue(const GenerationSpec& spec) const;
  void submit(std::uint64_t id);
  void submit_all(std::uint64_t id, const Generation& g);
  std::shared_ptr<Feed> make_feed(std::uint64_t id, const Generation& g, std::size_t sequence) const;
  void deliver();

  std::string models_json() const;
  std::string model_json(const std::string& name) const;
  std::string tokenize(const std::string& body) const;
  std::string detokenize(const std::string& body) const;
  void check_key(const HttpRequest& request) const;

  Engine& engine_;
  const ServerOptions options_;
  RequestLimits limits_;
  Metrics metrics_;
  Chaos chaos_;
  HttpServer* http_ = nullptr;
  std::shared_ptr<Mailbox> mailbox_;
  std::shared_ptr<std::atomic<std::int64_t>> in_flight_ = std::make_shared<std::atomic<std::int64_t>>(0);
  std::unordered_map<std::uint64_t, std::unique_ptr<Generation>> generations_;
  std::uint64_t next_id_ = 1;
  std::uint64_t process_;  // a random number that tells this server's ids from another's
  std::int64_t started_;   // Unix seconds
  std::string fingerprint_;
};

}  // namespace moecheck::harness::serve
