// Where an API lives, and the blocking questions asked of it before a run.
#include <curl/curl.h>
#include <fmt/format.h>

#include <thread>

#include "harness/case.h"
#include "harness/http/openai.h"
#include "harness/http/retry.h"
#include "harness/json.h"
#include "harness/text.h"

namespace moecheck::harness::http {
namespace {

struct UrlParts {
  std::string scheme, host, path, query, user;
};

// By libcurl's own parser, so that what is accepted here is what will be connected to.
std::optional<UrlParts> parse_url(const std::string& url) {
  const std::unique_ptr<CURLU, void (*)(CURLU*)> handle(curl_url(), &curl_url_cleanup);
  if (!handle || curl_url_set(handle.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) return std::nullopt;
  const auto part = [&](CURLUPart what) {
    char* text = nullptr;
    std::string value;
    if (curl_url_get(handle.get(), what, &text, 0) == CURLUE_OK) value = text;
    curl_free(text);
    return value;
  };
  return UrlParts{part(CURLUPART_SCHEME), part(CURLUPART_HOST), part(CURLUPART_PATH), part(CURLUPART_QUERY),
                  part(CURLUPART_USER)};
}

void take_off(std::string& text, std::string_view ending) {
  if (text.ends_with(ending)) text.resize(text.size() - ending.size());
}

bool has_control(std::string_view text) {
  return text.find_first_of(std::string_view("\0\r\n\t ", 5)) != std::string_view::npos;
}

}  // namespace

std::string_view name(Api api) { return api == Api::kChat ? "chat" : "completions"; }

Endpoint parse_endpoint(std::string_view url, std::string api_key) {
  const auto refuse = [&](std::string_view why) {
    throw UsageError(
        fmt::format("endpoint '{}' {}: write http://HOST:PORT or http://HOST:PORT/v1", printable(url), why));
  };
  std::string text(url);
  if (text.find("://") == std::string::npos) refuse("has no scheme");
  if (has_control(text)) refuse("has blanks or control characters in it");
  const auto parts = parse_url(text);
  if (!parts) refuse("is no URL");
  if (parts->scheme != "http" && parts->scheme != "https") refuse("is neither http nor https");
  if (parts->host.empty()) refuse("names no host");
  if (!parts->query.empty() || text.find('#') != std::string::npos) refuse("has a query or fragment");
  if (!parts->user.empty()) refuse("has a user name in it; keys go into the environment");
  if (has_control(api_key))
    throw UsageError("the API key has blanks or control characters in it: check OPENAI_API_KEY");
  while (text.ends_with('/')) text.pop_back();
  take_off(text, "/completions");
  take_off(text, "/chat");
  Endpoint endpoint;
  endpoint.api_key = std::move(api_key);
  const bool bare = text.find('/', text.find("://") + 3) == std::string::npos;
  endpoint.base = bare ? text + "/v1" : text;
  endpoint.root = endpoint.base;
  take_off(endpoint.root, "/v1");
  return endpoint;
}

std::string Endpoint::url(Api api) const {
  return base + (api == Api::kChat ? "/chat/completions" : "/completions");
}

std::vector<std::string> Endpoint::headers(bool json_body) const {
  std::vector<std::string> all;
  if (json_body) all.emplace_back("Content-Type: application/json");
  if (!api_key.empty()) all.push_back("Authorization: Bearer " + api_key);
  return all;
}

Response get(const std::string& url, const std::vector<std::string>& headers, const Limits& limits,
             const Options& options) {
  Client client(options);
  Response answer;
  Callbacks callbacks;
  callbacks.done = [&](Response&& r) { answer = std::move(r); };
  client.start({"GET", url, headers, "", limits}, std::move(callbacks));
  client.run();
  return answer;
}

namespace {

// A server that is not there is told at once; one that is there but busy gets a few more chances.
Response ask_patiently(const std::string& url, const Endpoint& endpoint, const Limits& limits,
                       const Options& options) {
  RetryPolicy policy;
  policy.max_retries = 5;
  policy.first_s = 0.2;
  policy.longest_asked_s = 60;
  const Random jitter(0, url);
  for (int attempt = 0;; ++attempt) {
    Response answer = get(url, endpoint.headers(false), limits, options);
    const Error error = error_of(answer);
    if (!error || error.kind == ErrorKind::kRefused || error.kind == ErrorKind::kUnreachable) return answer;
    const auto delay = retry_delay(policy, error, attempt, jitter);
    if (!delay) return answer;
    std::this_thread::sleep_for(std::chrono::duration<double>(*delay));
  }
}

}  // namespace

std::vector<std::string> list_models(const Endpoint& endpoint, const Limits& limits, const Options& options) {
  const std::string url = endpoint.base + "/models";
  const Response answer = ask_patiently(url, endpoint, limits, options);
  if (const Error error = error_of(answer))
    throw UsageError(fmt::format("{} answers: {}{}: is the server up, and is this its address?", url,
                                 name(error.kind), error.message.empty() ? "" : " (" + error.message + ")"));
  const auto json = nlohmann::json::parse(answer.body, nullptr, false);
  if (!json.is_object() || !json.contains("data") || !json["data"].is_array())
    throw UsageError(
        fmt::format("{} does not answer with a list of models: is this an OpenAI API? It says {}", url,
                    printable(answer.body, 120)));
  std::vector<std::string> models;
  for (const auto& item : json["data"])
    if (item.is_object() && item.contains("id") && item["id"].is_string()) models.push_back(item["id"]);
  return models;
}

}  // namespace moecheck::harness::http
