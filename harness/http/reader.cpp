// A response becomes an answer or an error. Strict, since a server under test may do anything: a cut answer must
// never be graded as if the model had stopped there.
#include <fmt/format.h>

#include <algorithm>

#include "harness/fault.h"
#include "harness/http/completion_json.h"
#include "harness/http/openai.h"
#include "harness/text.h"

namespace moecheck::harness::http {
namespace {

constexpr std::size_t kShown = 120;  // bytes of an unreadable body in a message

std::string media_type(const Response& response) {
  const std::string_view value = response.header("Content-Type");
  std::string type(value.substr(0, value.find(';')));
  while (type.ends_with(' ')) type.pop_back();
  std::transform(type.begin(), type.end(), type.begin(), lower_ascii);
  return type;
}

// Whether HTTP itself says that the body has come to its end. One that lasts until the connection closes looks the same
// when it is cut.
bool ended_cleanly(const Response& response) {
  if (response.failure != Failure::kNone) return false;
  std::string coding(response.header("Transfer-Encoding"));
  std::transform(coding.begin(), coding.end(), coding.begin(), lower_ascii);
  return coding.ends_with("chunked") || !response.header("Content-Length").empty();
}

bool succeeded(const Response& response) { return response.status >= 200 && response.status < 300; }

}  // namespace

ResponseReader::ResponseReader(Api api, bool stream)
    : api_(api), stream_(stream), fields_(std::make_shared<CompletionFields>()) {}

void ResponseReader::headers(const Response& response) {
  as_stream_ = stream_ && succeeded(response) && media_type(response) == "text/event-stream";
}

void ResponseReader::body(std::string_view bytes, Nanoseconds time) {
  if (!as_stream_) {
    body_.append(bytes);
    return;
  }
  SseEvent event;
  while (sse_.next(bytes, event)) read_event(event.data, time);
}

void ResponseReader::fail(ErrorKind kind, std::string message) {
  if (result_.error) return;  // the first one counts
  result_.error.kind = kind;
  result_.error.message = std::move(message);
}

void ResponseReader::read_event(std::string_view data, Nanoseconds time) {
  if (done_marker_ || result_.error || data.empty()) return;
  if (data == "[DONE]") {
    done_marker_ = true;
    return;
  }
  CompletionFields& f = *fields_;
  const JsonKind kind = read_completion(data, f);
  if (kind == JsonKind::kInvalid)
    return fail(ErrorKind::kInvalidJson,
                fmt::format("an event that is no JSON: {}", printable(data, kShown)));
  if (kind == JsonKind::kNotObject)
    return fail(ErrorKind::kInvalidResponse,
                fmt::format("an event that is no object: {}", printable(data, kShown)));
  if (f.error && !HARNESS_FAULT(kClientErrorEventIgnored)) {
    take_error_object(result_.error, data);
    return fail(ErrorKind::kMidStream, result_.error.message);
  }
  const bool usable = api_ == Api::kChat ? f.delta_given : f.text_given;
  if (f.choice && f.wrong_type.empty() && !usable && f.finish_reason.empty())
    f.wrong_type = api_ == Api::kChat ? "choices[0].delta" : "choices[0].text";
  if (!f.wrong_type.empty())
    return fail(ErrorKind::kInvalidResponse,
                fmt::format("{} is missing or of a wrong type: {}", f.wrong_type, printable(data, kShown)));
  Chunk chunk;
  chunk.time = time;
  chunk.has_choice = f.choice;
  chunk.finished = !f.finish_reason.empty();
  chunk.usage = f.usage;
  if (f.choice && result_.chunks == 0) counts_tokens_ = f.usage.completion_tokens >= 0;
  if (f.token_ids_given) {
    chunk.tokens = static_cast<std::int64_t>(f.token_ids.size());
  } else if (counts_tokens_ && f.choice && f.usage.completion_tokens >= 0) {
    chunk.tokens = f.usage.completion_tokens - (HARNESS_FAULT(kClientTokensNotTold) ? 0 : tokens_told_);
    tokens_told_ = f.usage.completion_tokens;
  }
  result_.chunks += f.choice ? 1 : 0;
  if (on_chunk) {
    chunk.text = f.text;
    chunk.reasoning = f.reasoning;
    on_chunk(chunk);
  }
  take(f);
}

void ResponseReader::take(CompletionFields& f) {
  result_.text += f.text;
  result_.reasoning += f.reasoning;
  if (!f.finish_reason.empty()) result_.finish_reason = f.finish_reason;
  if (result_.model.empty()) result_.model = f.model;
  Usage& u = result_.usage;
  u.prompt_tokens = std::max(u.prompt_tokens, f.usage.prompt_tokens);
  u.completion_tokens = HARNESS_FAULT(kClientUsageAdded)
                            ? u.completion_tokens + f.usage.completion_tokens
                            : std::max(u.completion_tokens, f.usage.completion_tokens);
  u.cached_tokens = std::max(u.cached_tokens, f.usage.cached_tokens);
  result_.token_ids.insert(result_.token_ids.end(), f.token_ids.begin(), f.token_ids.end());
  std::move(f.logprobs.begin(), f.logprobs.end(), std::back_inserter(result_.logprobs));
}

// [DONE] ends a stream. Some servers (transformers serve) never send it: then a finish_reason, and HTTP's own end of the
// body, say as much.
void ResponseReader::judge_stream(const Response& response) {
  SseEvent event;
  const bool rest = sse_.finish(event) && !event.data.empty();
  if (rest && event.data == "[DONE]") done_marker_ = true;
  if (result_.error) return;
  const auto cut = [this](std::string_view how) {
    fail(ErrorKind::kTruncated, fmt::format("the stream ended {}, after {} chunks", how, result_.chunks));
  };
  if (result_.finish_reason.empty() && !HARNESS_FAULT(kClientCutStreamAccepted))
    cut(done_marker_ ? "without a finish_reason" : "without a finish_reason and without [DONE]");
  else if (!done_marker_ && rest)
    cut("within an event");
  else if (!done_marker_ && !ended_cleanly(response) && !HARNESS_FAULT(kClientDoneNotNeeded))
    cut("without [DONE], and HTTP does not tell its end either");
  else
    result_.missing_done = !done_marker_;
}

void ResponseReader::read_whole(const Response& response) {
  const std::string type = media_type(response);
  const bool json = type.empty() || type == "application/json" || type.ends_with("+json");
  if (stream_ || !json)
    return fail(
        ErrorKind::kWrongContentType,
        fmt::format("Content-Type is '{}', not {}: {}", printable(type, 60),
                    stream_ ? "text/event-stream" : "application/json", printable(response.body, kShown)));
  CompletionFields& f = *fields_;
  const JsonKind kind = read_completion(response.body, f);
  if (kind == JsonKind::kInvalid)
    return fail(ErrorKind::kInvalidJson,
                fmt::format("the body is no JSON: {}", printable(response.body, kShown)));
  if (kind == JsonKind::kObject && f.error) {
    take_error_object(result_.error, response.body);
    return fail(ErrorKind::kMidStream, result_.error.message);
  }
  const bool usable = f.choice && (api_ == Api::kChat ? f.message_given : f.text_given);
  if (kind == JsonKind::kNotObject || !usable || !f.wrong_type.empty())
    return fail(ErrorKind::kInvalidResponse, fmt::format("{} is missing or of a wrong type: {}",
                                                         !f.wrong_type.empty() ? f.wrong_type
                                                         : !f.choice           ? "choices[0]"
                                                         : api_ == Api::kChat  ? "choices[0].message"
                                                                               : "choices[0].text",
                                                         printable(response.body, kShown)));
  if (f.finish_reason.empty() && !HARNESS_FAULT(kClientCutBodyAccepted))
    return fail(ErrorKind::kInvalidResponse,
                "choices[0].finish_reason is missing: a whole answer and a cut one can not be told apart");
  take(f);
}

Generation ResponseReader::done(Response&& response) {
  if (response.body.empty()) response.body = std::move(body_);
  if (as_stream_) {
    // Once [DONE] is here the answer is whole, however the connection ends.
    const Error transport = error_of(response);
    if (transport && !done_marker_ && !result_.error) result_.error = transport;
    judge_stream(response);
  } else if (Error error = error_of(response)) {
    result_.error = std::move(error);
  } else {
    read_whole(response);
  }
  if (result_.error) result_.error.status = response.status;
  result_.timing = std::move(response.timing);
  return std::move(result_);
}

}  // namespace moecheck::harness::http
