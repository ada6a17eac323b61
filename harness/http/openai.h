#pragma once
// The OpenAI API as vLLM, SGLang, llama.cpp and others speak it: request bodies, and a strict reader of
// responses and streams. Rules and their reasons: evaluation notes, section 3.6.
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/http/client.h"
#include "harness/http/sse.h"

namespace moecheck::harness::http {

enum class Api { kCompletions, kChat };
std::string_view name(Api api);  // "completions", "chat"

// Where a server's API lives: a user may give http://host:port, .../v1, or .../v1/completions. The URL is checked; throws
// UsageError naming what is wrong with it.
struct Endpoint {
  std::string base;     // http://host:port/v1, no slash at the end
  std::string root;     // http://host:port, for /metrics and /health
  std::string api_key;  // empty: no Authorization header

  std::string url(Api api) const;  // base + "/completions" or "/chat/completions"
  std::vector<std::string> headers(bool json_body) const;
};
Endpoint parse_endpoint(std::string_view url, std::string api_key = {});

struct Message {
  std::string role, content;
};

struct Generate {
  Api api = Api::kCompletions;
  std::string model;
  // The prompt: messages for kChat; otherwise token_ids when there are any, else text.
  std::string text;
  std::vector<std::int32_t> token_ids;
  std::vector<Message> messages;

  int max_tokens = 256;
  std::optional<double> temperature;
  std::optional<std::int64_t> seed;
  std::vector<std::string> stop;
  bool stream = false;
  bool include_usage = true;      // stream_options.include_usage, only where stream
  bool continuous_usage = false;  // vLLM's stream_options.continuous_usage_stats
  bool ignore_eos = false;        // sent only where true
  std::optional<int> logprobs;    // alternatives per token
  bool return_token_ids = false;  // vLLM's extension, sent only where true
  std::string extra_body;         // a JSON object merged over the rest, "" for none
};
// Throws UsageError when extra_body is no JSON object.
std::string request_body(const Generate& generate);

// What went wrong with a request, for people, for retry.h and for the counts of a run.
enum class ErrorKind {
  kNone,
  kRefused,
  kUnreachable,
  kReset,
  kTimeout,      // of any kind; the message says which
  kRateLimited,  // 429
  kServerError,  // 5xx
  kClientError,  // any other status that is not 2xx: the request itself is wrong
  kTruncated,    // body cut short; a stream without a finish_reason, or with neither [DONE] nor a clean end
  kInvalidJson,  // bytes that are no JSON
  kInvalidResponse,   // JSON that is no completion
  kWrongContentType,  // a proxy's HTML page, a JSON body for a stream
  kMidStream,         // an error event after status 200
  kTooLarge,
  kTls,
  kCancelled,
  kOther,
};
std::string_view name(ErrorKind kind);  // "rate-limited", "truncated", ...

struct Error {
  ErrorKind kind = ErrorKind::kNone;
  int status = 0;
  std::string message;     // one line; the server's own words where it sent an OpenAI error object
  std::string type, code;  // of that object
  std::optional<double> retry_after_s;

  explicit operator bool() const { return kind != ErrorKind::kNone; }
};

struct Usage {  // -1: not told
  std::int64_t prompt_tokens = -1, completion_tokens = -1, cached_tokens = -1;
};

struct TokenLogprob {
  std::string token;
  double logprob = 0;
};

// One event of a stream that carries JSON.
struct Chunk {
  Nanoseconds time = 0;        // when its last byte was read
  bool has_choice = false;     // `choices` is not empty: counts for TTFT and ITL as vLLM defines them
  std::string_view text;       // of the answer; valid during the callback
  std::string_view reasoning;  // delta.reasoning_content or delta.reasoning
  bool finished = false;       // carries finish_reason
  Usage usage;                 // of this chunk
  std::int64_t tokens =
      -1;  // in this chunk, where the server tells (token_ids or continuous usage); -1: not told
};

struct Generation {
  std::string text, reasoning;
  std::string finish_reason;  // "stop", "length", ...; never empty without error
  Usage usage;                // the maximum seen
  std::vector<TokenLogprob> logprobs;
  std::vector<std::int32_t> token_ids;  // of the answer, where return_token_ids was sent and understood
  std::string model;
  int chunks = 0;             // with a choice
  bool missing_done = false;  // a whole stream, but without the [DONE] that OpenAI's protocol ends it with

  Error error;  // text holds what came before it
  Timing timing;
};

struct CompletionFields;

// Reads one response, streamed or not.
class ResponseReader {
 public:
  ResponseReader(Api api, bool stream);
  std::function<void(const Chunk&)> on_chunk;  // optional, streams only

  void headers(const Response& response);
  void body(std::string_view bytes, Nanoseconds time);
  // After this the reader is spent.
  Generation done(Response&& response);

 private:
  void read_event(std::string_view data, Nanoseconds time);
  void read_whole(const Response& response);
  void take(CompletionFields& fields);
  void fail(ErrorKind kind, std::string message);
  void judge_stream(const Response& response);

  Api api_;
  bool stream_;
  bool as_stream_ = false;      // status 2xx and the right content type: the body is events
  bool done_marker_ = false;    // [DONE] has come
  bool counts_tokens_ = false;  // usage came with the first choice already: with every chunk, then
  std::int64_t tokens_told_ = 0;
  std::string body_;  // of an error, where a stream was asked for
  SseParser sse_;
  std::shared_ptr<CompletionFields> fields_;
  Generation result_;
};

// Starts the request; `done` gets the answer or its error. Retries are retry.h's business.
Client::Id generate(Client& client, const Endpoint& endpoint, const Generate& what, const Limits& limits,
                    std::function<void(Generation&&)> done, std::function<void(const Chunk&)> on_chunk = {});
// The same with the body made beforehand by request_body(what.api, what.stream are used only).
Client::Id generate(Client& client, const Endpoint& endpoint, Api api, bool stream, std::string body,
                    const Limits& limits, std::function<void(Generation&&)> done,
                    std::function<void(const Chunk&)> on_chunk = {});

// The error of a whole response: transport, status, OpenAI error object. kNone for a 2xx without failure.
Error error_of(const Response& response);

// Blocking: the model names of /v1/models, in its order. Throws UsageError saying what the endpoint answered and what to check.
std::vector<std::string> list_models(const Endpoint& endpoint, const Limits& limits,
                                     const Options& options = {});
// Blocking GET of any URL.
Response get(const std::string& url, const std::vector<std::string>& headers, const Limits& limits,
             const Options& options = {});

}  // namespace moecheck::harness::http
