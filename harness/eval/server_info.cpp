#include "harness/eval/server_info.h"

#include <fmt/format.h>

#include <algorithm>

#include "harness/json.h"
#include "harness/load/prometheus.h"
#include "harness/text.h"

namespace moecheck::harness::eval {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kPatience = 5;
constexpr std::size_t kLongest = 300, kMostModels = 100;  // of what a stranger may put into results

std::string string_of(const Json& object, const char* key) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_string()) return "";
  return printable(object[key].get<std::string>(), kLongest);
}

http::Response ask(const std::string& url, const http::Endpoint& endpoint, const http::Options& options) {
  http::Limits limits;
  limits.total_s = kPatience;
  http::Response r = http::get(url, endpoint.headers(false), limits, options);
  if (http::error_of(r)) r.body.clear();
  return r;
}

std::vector<ServedModel> models_of(const std::string& body) {
  std::vector<ServedModel> out;
  const Json j = Json::parse(body, nullptr, false);
  if (!j.is_object() || !j.contains("data") || !j["data"].is_array()) return out;
  for (const Json& item : j["data"]) {
    if (out.size() == kMostModels) break;
    if (string_of(item, "id").empty()) continue;
    ServedModel m{string_of(item, "id"), string_of(item, "owned_by"), string_of(item, "root"), -1};
    if (item.contains("max_model_len") && item["max_model_len"].is_number_integer())
      m.max_model_len = item["max_model_len"].get<std::int64_t>();
    out.push_back(std::move(m));
  }
  return out;
}

}  // namespace

ServerInfo ask_server(const http::Endpoint& endpoint, const http::Options& options) {
  ServerInfo info;
  const http::Response models = ask(endpoint.base + "/models", endpoint, options);
  info.http_server = printable(models.header("Server"), kLongest);
  info.models = models_of(models.body);
  info.version = string_of(
      Json::parse(ask(endpoint.root + "/version", endpoint, options).body, nullptr, false), "version");
  const load::ServerKind kind =
      load::read_counters(ask(endpoint.root + "/metrics", endpoint, options).body).kind;
  if (kind != load::ServerKind::kUnknown) info.counters = load::name(kind);
  return info;
}

std::string text(const ServerInfo& info, const std::string& model) {
  const auto of = std::find_if(info.models.begin(), info.models.end(),
                               [&](const ServedModel& m) { return m.id == printable(model, kLongest); });
  std::string who = of != info.models.end() ? of->owner : "";
  if (who.empty()) who = !info.counters.empty() ? info.counters : info.http_server;
  if (!info.version.empty()) who += (who.empty() ? "version " : " ") + info.version;
  std::string what;
  if (of != info.models.end()) {
    if (of->max_model_len >= 0) what += fmt::format("max_model_len {}", grouped(of->max_model_len));
    if (!of->root.empty() && of->root != of->id)
      what += fmt::format("{}root {}", what.empty() ? "" : ", ", of->root);
    if (!what.empty()) what = of->id + ": " + what;
  }
  return who + (who.empty() || what.empty() ? "" : "; ") + what;
}

nlohmann::ordered_json to_json(const ServerInfo& info) {
  Json j;
  j["version"] = info.version.empty() ? Json(nullptr) : Json(info.version);
  j["counters"] = info.counters.empty() ? Json(nullptr) : Json(info.counters);
  j["http_server"] = info.http_server.empty() ? Json(nullptr) : Json(info.http_server);
  j["models"] = Json::array();
  for (const ServedModel& m : info.models)
    j["models"].push_back({{"id", m.id},
                           {"owned_by", m.owner.empty() ? Json(nullptr) : Json(m.owner)},
                           {"root", m.root.empty() ? Json(nullptr) : Json(m.root)},
                           {"max_model_len", m.max_model_len < 0 ? Json(nullptr) : Json(m.max_model_len)}});
  return j;
}

}  // namespace moecheck::harness::eval
