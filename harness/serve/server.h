#pragma once
// The OpenAI API over an Engine: /v1/models, /v1/completions, /v1/chat/completions, /tokenize, /detokenize, /health,
// /version, /metrics. Semantics from OpenAI's API reference, and from vLLM's server where OpenAI's is silent.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "harness/serve/engine.h"
#include "harness/serve/http_server.h"

namespace moecheck::harness {

struct ServerOptions {
  HttpOptions http;
  std::vector<std::string> model_names{"scripted"};  // the first is the one that answers carry
  std::string api_key;                               // empty: none is asked for
  std::string version = "0.1.0";
  std::int64_t max_queue = 4096;      // sequences running and waiting; more: 429 with Retry-After
  std::int64_t max_sequences = 1024;  // prompts times n of one request; more: 400
  double default_temperature = 1;     // OpenAI's and vLLM's: greedy only where the client says temperature 0
  std::string chaos;                  // see chaos.h; empty: none
  std::uint64_t chaos_seed = 0;
};

class Server {
 public:
  // Binds. Throws UsageError: an address in use, a chaos that can not be read. The engine outlives the server, and
  // ends or forgets its requests before it is destroyed.
  Server(Engine& engine, ServerOptions options);
  ~Server();  // stops at once if started
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  std::uint16_t port() const;
  void run(bool signals);  // serves on this thread until stopped
  void start();            // serves on a thread of its own
  void stop();             // finishes running requests, waits for the end of start()'s thread
  void stop_at_once();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace moecheck::harness
