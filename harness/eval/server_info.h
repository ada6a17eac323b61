#pragma once
// What a server says of itself, for the results of a run: its models, its version, whose counters it has. Nothing of it is
// needed for the evaluation, so a server that does not say has empty fields.
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "harness/http/openai.h"

namespace moecheck::harness::eval {

struct ServedModel {
  std::string id, owner, root;      // owner: "vllm", "sglang", "llamacpp"; root: where the weights came from
  std::int64_t max_model_len = -1;  // -1: not told
};

struct ServerInfo {
  std::vector<ServedModel> models;  // of /v1/models
  std::string version;              // of /version
  std::string counters;             // whose names /metrics has: "vllm", "sglang", "llama.cpp"
  std::string http_server;          // the Server header field: "uvicorn"
};

// Blocking: three requests, each given up after a few seconds.
ServerInfo ask_server(const http::Endpoint& endpoint, const http::Options& options);

// "vllm 0.11.0; tiny: max_model_len 4,096, root /models/tiny"; empty where nothing was told.
std::string text(const ServerInfo& info, const std::string& model);
nlohmann::ordered_json to_json(const ServerInfo& info);

}  // namespace moecheck::harness::eval
