// What is sent, and what the errors of an exchange are called.
#include "harness/http/openai.h"

#include <fmt/format.h>

#include <ctime>

#include "harness/case.h"
#include "harness/fault.h"
#include "harness/http/completion_json.h"
#include "harness/http/json_scan.h"
#include "harness/json.h"
#include "harness/text.h"

namespace moecheck::harness::http {
namespace {

using nlohmann::ordered_json;

ordered_json prompt_of(const Generate& g) {
  if (!g.token_ids.empty()) return g.token_ids;
  return g.text;
}

ordered_json messages_of(const Generate& g) {
  ordered_json all = ordered_json::array();
  for (const Message& m : g.messages) all.push_back({{"role", m.role}, {"content", m.content}});
  return all;
}

void merge_extra(ordered_json& body, const std::string& extra) {
  if (extra.empty()) return;
  const ordered_json more = ordered_json::parse(extra, nullptr, false);
  if (!more.is_object())
    throw UsageError(fmt::format("the extra body '{}' is no JSON object: write e.g. '{{\"top_k\": 1}}'",
                                 printable(extra, 120)));
  for (const auto& [key, value] : more.items()) body[key] = value;
}

ErrorKind kind_of(Failure failure) {
  switch (failure) {
    case Failure::kNone:
      return ErrorKind::kNone;
    case Failure::kRefused:
      return ErrorKind::kRefused;
    case Failure::kUnreachable:
      return ErrorKind::kUnreachable;
    case Failure::kReset:
      return ErrorKind::kReset;
    case Failure::kTruncated:
      return ErrorKind::kTruncated;
    case Failure::kConnectTimeout:
    case Failure::kFirstByteTimeout:
    case Failure::kTotalTimeout:
      return ErrorKind::kTimeout;
    case Failure::kTooLarge:
      return ErrorKind::kTooLarge;
    case Failure::kMalformed:
      return ErrorKind::kInvalidResponse;
    case Failure::kTls:
      return ErrorKind::kTls;
    case Failure::kCancelled:
      return ErrorKind::kCancelled;
    case Failure::kOther:
      return ErrorKind::kOther;
  }
  return ErrorKind::kOther;
}

}  // namespace

std::string_view name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kNone:
      return "none";
    case ErrorKind::kRefused:
      return "refused";
    case ErrorKind::kUnreachable:
      return "unreachable";
    case ErrorKind::kReset:
      return "reset";
    case ErrorKind::kTimeout:
      return "timeout";
    case ErrorKind::kRateLimited:
      return "rate-limited";
    case ErrorKind::kServerError:
      return "server-error";
    case ErrorKind::kClientError:
      return "client-error";
    case ErrorKind::kTruncated:
      return "cut-short";
    case ErrorKind::kInvalidJson:
      return "invalid-json";
    case ErrorKind::kInvalidResponse:
      return "invalid-response";
    case ErrorKind::kWrongContentType:
      return "wrong-content-type";
    case ErrorKind::kMidStream:
      return "error-in-stream";
    case ErrorKind::kTooLarge:
      return "too-large";
    case ErrorKind::kTls:
      return "tls";
    case ErrorKind::kCancelled:
      return "cancelled";
    case ErrorKind::kOther:
      return "other";
  }
  return "";
}

namespace {

[[noreturn]] void refuse_text() {
  throw UsageError("a prompt is not valid UTF-8, and JSON can carry nothing else: re-encode the data");
}

std::string dumped(const ordered_json& json) {
  try {
    return json.dump();
  } catch (const nlohmann::json::exception&) {
    refuse_text();
  }
}

// All that follows the model and the prompt.
void add_settings(ordered_json& body, const Generate& g) {
  body["max_tokens"] = g.max_tokens;
  if (g.temperature) body["temperature"] = *g.temperature;
  if (!g.stop.empty() && !HARNESS_FAULT(kClientStopNotSent)) body["stop"] = g.stop;
  if (g.seed) body["seed"] = *g.seed;
  if (g.stream) {
    body["stream"] = true;
    if (g.include_usage || g.continuous_usage) body["stream_options"]["include_usage"] = true;
    if (g.continuous_usage) body["stream_options"]["continuous_usage_stats"] = true;
  }
  if (g.ignore_eos) body["ignore_eos"] = true;
  if (g.return_token_ids) body["return_token_ids"] = true;
  if (g.logprobs) {
    if (g.api == Api::kChat) {
      body["logprobs"] = true;
      body["top_logprobs"] = *g.logprobs;
    } else {
      body["logprobs"] = *g.logprobs;
    }
  }
}

}  // namespace

std::string request_body(const Generate& g) {
  ordered_json body;
  // Most of the bytes are a prompt's text: where nothing may change it, it goes straight into the body.
  if (g.api == Api::kCompletions && g.token_ids.empty() && g.extra_body.empty()) {
    add_settings(body, g);
    const std::string rest = dumped(body);
    std::string out = "{\"model\":";
    out.reserve(g.text.size() + g.text.size() / 16 + rest.size() + g.model.size() + 64);
    if (!append_json(out, g.model) || !append_json(out.append(",\"prompt\":"), g.text)) refuse_text();
    return out.append(",").append(rest, 1);
  }
  body["model"] = g.model;
  if (g.api == Api::kChat)
    body["messages"] = messages_of(g);
  else
    body["prompt"] = prompt_of(g);
  add_settings(body, g);
  merge_extra(body, g.extra_body);
  return dumped(body);
}

Error error_of(const Response& response) {
  Error error;
  error.status = response.status;
  // A refusal with its whole error body counts as the refusal, even where the connection then broke.
  const bool refused = response.status >= 300;
  if (response.failure != Failure::kNone && !refused) {
    error.kind = kind_of(response.failure);
    error.message = printable(response.error, kMessageBytes);
    return error;
  }
  if (response.status >= 200 && response.status < 300) return error;
  error.kind = response.status == 429   ? ErrorKind::kRateLimited
               : response.status >= 500 ? ErrorKind::kServerError
                                        : ErrorKind::kClientError;
  error.retry_after_s = retry_after_seconds(response.header("Retry-After"), std::time(nullptr));
  take_error_object(error, response.body);
  error.message =
      fmt::format("status {}{}{}{}", response.status, error.message.empty() ? "" : ": ", error.message,
                  response.status == 401 ? " (the key is taken from OPENAI_API_KEY)" : "");
  return error;
}

Client::Id generate(Client& client, const Endpoint& endpoint, const Generate& what, const Limits& limits,
                    std::function<void(Generation&&)> done, std::function<void(const Chunk&)> on_chunk) {
  return generate(client, endpoint, what.api, what.stream, request_body(what), limits, std::move(done),
                  std::move(on_chunk));
}

Client::Id generate(Client& client, const Endpoint& endpoint, Api api, bool stream, std::string body,
                    const Limits& limits, std::function<void(Generation&&)> done,
                    std::function<void(const Chunk&)> on_chunk) {
  const auto reader = std::make_shared<ResponseReader>(api, stream);
  reader->on_chunk = std::move(on_chunk);
  Callbacks callbacks;
  if (stream) {
    callbacks.headers = [reader](const Response& r) { reader->headers(r); };
    callbacks.body = [reader](std::string_view bytes, Nanoseconds time) { reader->body(bytes, time); };
  }
  callbacks.done = [reader, done = std::move(done)](Response&& r) { done(reader->done(std::move(r))); };
  return client.start({"POST", endpoint.url(api), endpoint.headers(true), std::move(body), limits},
                      std::move(callbacks));
}

}  // namespace moecheck::harness::http
