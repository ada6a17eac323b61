// Requests as they go out, and every way in which an answer can be whole or broken.
#include <gtest/gtest.h>

#include <cmath>

#include "harness/case.h"
#include "harness/http/openai.h"
#include "harness/http/retry.h"
#include "harness/json.h"

namespace moecheck::harness::http {
namespace {

using nlohmann::json;

Response head(int status, std::string type) {
  Response r;
  r.status = status;
  r.headers = {{"content-type", std::move(type)}};
  return r;
}

Generation read_stream(const std::string& body, std::size_t step = 1 << 20, Api api = Api::kCompletions,
                       std::function<void(const Chunk&)> on_chunk = {}, Failure failure = Failure::kNone) {
  ResponseReader reader(api, true);
  reader.on_chunk = std::move(on_chunk);
  Response r = head(200, "text/event-stream; charset=utf-8");
  reader.headers(r);
  for (std::size_t i = 0; i < body.size(); i += step)
    reader.body(std::string_view(body).substr(i, step), static_cast<Nanoseconds>(i));
  r.failure = failure;
  return reader.done(std::move(r));
}

Generation read_plain(std::string body, Api api = Api::kCompletions, int status = 200,
                      std::string type = "application/json", bool stream = false) {
  ResponseReader reader(api, stream);
  Response r = head(status, std::move(type));
  reader.headers(r);
  r.body = std::move(body);
  return reader.done(std::move(r));
}

std::string event(const std::string& data) { return "data: " + data + "\n\n"; }
std::string text_event(const std::string& text, const std::string& finish = "") {
  json choice = {{"index", 0}, {"text", text}, {"finish_reason", nullptr}};
  if (!finish.empty()) choice["finish_reason"] = finish;
  return event(json{{"object", "text_completion"}, {"model", "m"}, {"choices", {choice}}}.dump());
}

const std::string kWhole = text_event("na\xC3\xAFve ") + ": ping\n\n" +
                           text_event("\xF0\x9F\x98\x80, said two tokens") + text_event("", "stop") +
                           event(R"({"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":9,)"
                                 R"("prompt_tokens_details":{"cached_tokens":3}}})") +
                           event("[DONE]");

TEST(HttpOpenai, AStreamHoweverItIsCut) {
  for (std::size_t step = 1; step < 40; ++step) {
    const Generation g = read_stream(kWhole, step);
    ASSERT_FALSE(g.error) << g.error.message;
    ASSERT_EQ(g.text, "na\xC3\xAFve \xF0\x9F\x98\x80, said two tokens");
    ASSERT_EQ(g.finish_reason, "stop");
    ASSERT_EQ(g.chunks, 3);
    ASSERT_EQ(g.usage.prompt_tokens, 5);
    ASSERT_EQ(g.usage.completion_tokens, 9);
    ASSERT_EQ(g.usage.cached_tokens, 3);
    ASSERT_EQ(g.model, "m");
  }
}

TEST(HttpOpenai, UsageMayBeMissing) {
  const Generation g = read_stream(text_event("a") + text_event("b", "length") + event("[DONE]"));
  EXPECT_FALSE(g.error);
  EXPECT_EQ(g.text, "ab");
  EXPECT_EQ(g.usage.completion_tokens, -1);
}

// Cut at any byte, a stream whose end HTTP does not tell is an answer only once its [DONE] is there: never a shorter answer
// that looks whole.
TEST(HttpOpenai, ACutStreamIsNeverAnAnswer) {
  const std::size_t marker = kWhole.find("[DONE]") + 6;
  for (std::size_t n = 0; n < kWhole.size(); ++n) {
    const Generation g = read_stream(kWhole.substr(0, n));
    ASSERT_EQ(!g.error, n >= marker) << "after " << n << " bytes: " << name(g.error.kind);
    ASSERT_EQ(g.error.kind, n < marker ? ErrorKind::kTruncated : ErrorKind::kNone);
  }
  EXPECT_EQ(read_stream(text_event("a") + event("[DONE]")).error.kind,
            ErrorKind::kTruncated);                                                   // no finish_reason
  EXPECT_EQ(read_stream(text_event("a", "stop")).error.kind, ErrorKind::kTruncated);  // no [DONE], no framing
  EXPECT_EQ(read_stream("").error.kind, ErrorKind::kTruncated);
}

// Some servers never send [DONE]. A finish_reason, and HTTP's own end of the body, say as much; one of them does not.
TEST(HttpOpenai, WithoutDoneAFinishReasonAndACleanEndOfHttpAreWhole) {
  const auto read = [](const std::string& body, const char* name, const char* value,
                       Failure failure = Failure::kNone) {
    ResponseReader reader(Api::kCompletions, true);
    Response r = head(200, "text/event-stream");
    if (name != nullptr) r.headers.push_back({name, value});
    reader.headers(r);
    reader.body(body, 1);
    r.failure = failure;
    return reader.done(std::move(r));
  };
  const std::string finished = text_event("a") + text_event("b", "stop");
  for (const auto& [name, value] : {std::pair("Transfer-Encoding", "chunked"),
                                    {"transfer-encoding", "gzip, Chunked"},
                                    {"Content-Length", "200"}}) {
    const Generation g = read(finished, name, value);
    EXPECT_FALSE(g.error) << g.error.message;
    EXPECT_TRUE(g.missing_done);
    EXPECT_EQ(g.text, "ab");
    EXPECT_EQ(g.finish_reason, "stop");
    EXPECT_FALSE(read(finished + event("[DONE]"), name, value).missing_done);
    // Torn in the middle: an error whatever was read before it.
    EXPECT_EQ(read(finished, name, value, Failure::kTruncated).error.kind, ErrorKind::kTruncated);
    EXPECT_EQ(read(finished, name, value, Failure::kReset).error.kind, ErrorKind::kReset);
    EXPECT_EQ(read(text_event("a"), name, value).error.kind, ErrorKind::kTruncated);  // no finish_reason
    EXPECT_EQ(read(finished + "data: {\"choi", name, value).error.kind,
              ErrorKind::kTruncated);  // within an event
  }
  // A body that lasts until the connection closes ends the same when it is cut.
  EXPECT_EQ(read(finished, nullptr, nullptr).error.kind, ErrorKind::kTruncated);
  EXPECT_EQ(read(finished, "Connection", "close").error.kind, ErrorKind::kTruncated);
}

TEST(HttpOpenai, TheTransportsFailureCountsUnlessTheAnswerIsWhole) {
  EXPECT_EQ(read_stream(text_event("a"), 99, Api::kCompletions, {}, Failure::kReset).error.kind,
            ErrorKind::kReset);
  EXPECT_FALSE(read_stream(kWhole, 99, Api::kCompletions, {}, Failure::kReset).error);
}

TEST(HttpOpenai, ErrorsInsideAStream) {
  const Generation g = read_stream(
      text_event("a") + event(R"({"error":{"message":"CUDA\nerror","type":"server_error","code":500}})") +
      text_event("b", "stop") + event("[DONE]"));
  EXPECT_EQ(g.error.kind, ErrorKind::kMidStream);
  EXPECT_EQ(g.error.message, "CUDA\\nerror");
  EXPECT_EQ(g.error.type, "server_error");
  EXPECT_EQ(g.error.code, "500");
  EXPECT_EQ(g.text, "a");
  EXPECT_EQ(read_stream(event(R"({"object":"error","message":"old style"})")).error.message, "old style");
  EXPECT_EQ(read_stream(event(R"({"error":"plain"})")).error.message, "plain");
  EXPECT_FALSE(read_stream(event(R"({"error":null,"choices":[{"text":"a","finish_reason":"stop"}]})") +
                           event("[DONE]"))
                   .error);
}

TEST(HttpOpenai, EventsThatAreNoChunks) {
  EXPECT_EQ(read_stream(event("{\"choices\":[") + event("[DONE]")).error.kind, ErrorKind::kInvalidJson);
  EXPECT_EQ(read_stream(event("{\"a\":\"\xC3\"}") + event("[DONE]")).error.kind, ErrorKind::kInvalidJson);
  EXPECT_EQ(read_stream(event("{} {}") + event("[DONE]")).error.kind, ErrorKind::kInvalidJson);
  EXPECT_EQ(read_stream(event("[]")).error.kind, ErrorKind::kInvalidResponse);
  EXPECT_EQ(read_stream(event(R"({"choices":[{"text":7}]})")).error.kind, ErrorKind::kInvalidResponse);
  EXPECT_EQ(read_stream(event(R"({"choices":{"text":"x"}})")).error.kind, ErrorKind::kInvalidResponse);
  EXPECT_EQ(read_stream(event(R"({"choices":["x"]})")).error.kind, ErrorKind::kInvalidResponse);
  // A chat chunk where a completion was asked for would read as an empty answer.
  EXPECT_EQ(read_stream(event(R"({"choices":[{"delta":{"content":"x"}}]})")).error.kind,
            ErrorKind::kInvalidResponse);
  EXPECT_EQ(read_stream(event(std::string(100000, '['))).error.kind, ErrorKind::kInvalidJson);
}

TEST(HttpOpenai, ChatStreams) {
  std::vector<std::string> texts, thoughts;
  const Generation g = read_stream(
      event(R"({"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]})") +
          event(R"({"choices":[{"index":0,"delta":{"reasoning_content":"hm","reasoning":"hm"}}]})") +
          event(R"({"choices":[{"index":0,"delta":{"content":"yes"}}]})") +
          event(R"({"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]})") + event("[DONE]"),
      7, Api::kChat, [&](const Chunk& c) {
        texts.emplace_back(c.text);
        thoughts.emplace_back(c.reasoning);
      });
  EXPECT_FALSE(g.error) << g.error.message;
  EXPECT_EQ(g.text, "yes");
  EXPECT_EQ(g.reasoning, "hm");
  EXPECT_EQ(texts, (std::vector<std::string>{"", "", "yes", ""}));
  EXPECT_EQ(thoughts, (std::vector<std::string>{"", "hm", "", ""}));
}

TEST(HttpOpenai, TokensPerChunkWhereTheServerTells) {
  std::vector<std::int64_t> tokens;
  const auto count = [&](const Chunk& c) { tokens.push_back(c.tokens); };
  read_stream(
      event(R"({"choices":[{"text":"a"}],"usage":{"completion_tokens":1}})") +
          event(R"({"choices":[{"text":"b c d"}],"usage":{"completion_tokens":4}})") +
          event(R"({"choices":[{"text":"","finish_reason":"stop"}],"usage":{"completion_tokens":4}})"),
      99, Api::kCompletions, count);
  EXPECT_EQ(tokens, (std::vector<std::int64_t>{1, 3, 0}));
  tokens.clear();
  // Usage in the last chunk alone says nothing about that chunk.
  read_stream(
      event(R"({"choices":[{"text":"a"}]})") +
          event(R"({"choices":[{"text":"b","finish_reason":"stop"}],"usage":{"completion_tokens":4}})"),
      99, Api::kCompletions, count);
  EXPECT_EQ(tokens, (std::vector<std::int64_t>{-1, -1}));
  tokens.clear();
  const Generation g = read_stream(
      event(R"({"choices":[{"text":"a","token_ids":[5,6]}]})") +
          event(R"({"choices":[{"text":"b","token_ids":[7],"finish_reason":"stop"}]})") + event("[DONE]"),
      99, Api::kCompletions, count);
  EXPECT_EQ(tokens, (std::vector<std::int64_t>{2, 1}));
  EXPECT_EQ(g.token_ids, (std::vector<std::int32_t>{5, 6, 7}));
}

TEST(HttpOpenai, WholeAnswers) {
  const Generation g =
      read_plain(R"({"id":"x","model":"m","choices":[{"index":0,"text":" 18","finish_reason":"length",
      "logprobs":{"token_logprobs":[null,-0.5],"tokens":["a","b"],"text_offset":[0,1]}},{"index":1,"text":"other"}],
      "usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}})");
  ASSERT_FALSE(g.error) << g.error.message;
  EXPECT_EQ(g.text, " 18");
  EXPECT_EQ(g.finish_reason, "length");
  EXPECT_EQ(g.usage.completion_tokens, 2);
  ASSERT_EQ(g.logprobs.size(), 2u);
  EXPECT_TRUE(std::isnan(g.logprobs[0].logprob));
  EXPECT_EQ(g.logprobs[1].token, "b");
  EXPECT_EQ(g.logprobs[1].logprob, -0.5);
  const Generation chat = read_plain(
      R"({"choices":[{"message":{"role":"assistant","content":"hi","reasoning":"so"},"finish_reason":"stop","logprobs":
          {"content":[{"token":"h","logprob":-1,"top_logprobs":[{"token":"z","logprob":-9}]},{"token":"i","logprob":-2}]}}]})",
      Api::kChat);
  ASSERT_FALSE(chat.error) << chat.error.message;
  EXPECT_EQ(chat.text, "hi");
  EXPECT_EQ(chat.reasoning, "so");
  ASSERT_EQ(chat.logprobs.size(), 2u);
  EXPECT_EQ(chat.logprobs[1].token, "i");
  EXPECT_EQ(chat.logprobs[1].logprob, -2);
  // A model that only thought: no content is an empty answer, not an error.
  EXPECT_EQ(
      read_plain(R"({"choices":[{"message":{"content":null},"finish_reason":"length"}]})", Api::kChat).text,
      "");
}

TEST(HttpOpenai, AnswersThatAreNone) {
  const auto kind = [](std::string body, Api api = Api::kCompletions) {
    return read_plain(std::move(body), api).error.kind;
  };
  EXPECT_EQ(kind(""), ErrorKind::kInvalidJson);
  EXPECT_EQ(kind("{\"choices\":[{\"text\":\"a"), ErrorKind::kInvalidJson);
  EXPECT_EQ(kind("{}"), ErrorKind::kInvalidResponse);
  EXPECT_EQ(kind(R"({"choices":[]})"), ErrorKind::kInvalidResponse);
  EXPECT_EQ(kind(R"({"choices":[{"text":"a"}]})"), ErrorKind::kInvalidResponse);  // no finish_reason
  EXPECT_EQ(kind(R"({"choices":[{"text":null,"finish_reason":"stop"}]})"), ErrorKind::kInvalidResponse);
  EXPECT_EQ(kind(R"({"choices":[{"text":"a","finish_reason":"stop"}]})", Api::kChat),
            ErrorKind::kInvalidResponse);
  EXPECT_EQ(kind(R"({"error":{"message":"on 200"}})"), ErrorKind::kMidStream);
  EXPECT_EQ(read_plain("<html>gateway</html>", Api::kCompletions, 200, "text/html").error.kind,
            ErrorKind::kWrongContentType);
  EXPECT_EQ(read_plain(R"({"choices":[{"text":"a","finish_reason":"stop"}]})", Api::kCompletions, 200,
                       "application/json", true)
                .error.kind,
            ErrorKind::kWrongContentType);
}

TEST(HttpOpenai, StatusesAndTheirWords) {
  const Generation bad =
      read_plain(R"({"error":{"message":"max_tokens","type":"invalid_request_error","code":400}})",
                 Api::kCompletions, 400);
  EXPECT_EQ(bad.error.kind, ErrorKind::kClientError);
  EXPECT_EQ(bad.error.status, 400);
  EXPECT_EQ(bad.error.message, "status 400: max_tokens");
  EXPECT_EQ(read_plain("<h1>no</h1>", Api::kChat, 502, "text/html").error.kind, ErrorKind::kServerError);
  EXPECT_EQ(read_plain(R"({"detail":"Not Found"})", Api::kChat, 404).error.message, "status 404: Not Found");
  Response limited = head(429, "application/json");
  limited.headers.push_back({"retry-after", "7"});
  EXPECT_EQ(error_of(limited).kind, ErrorKind::kRateLimited);
  EXPECT_EQ(error_of(limited).retry_after_s, 7);
  EXPECT_EQ(error_of(head(301, "")).kind, ErrorKind::kClientError);
  EXPECT_FALSE(error_of(head(200, "")));
}

TEST(HttpOpenai, RequestBodies) {
  Generate g;
  g.model = "glm";
  g.text = "Q\n\"\xC3\xA9\"";
  g.temperature = 0;
  g.seed = 1234;
  g.stop = {"Question:"};
  EXPECT_EQ(request_body(g),
            "{\"model\":\"glm\",\"prompt\":\"Q\\n\\\"\xC3\xA9\\\"\",\"max_tokens\":256,\"temperature\":0.0,"
            "\"stop\":[\"Question:\"],\"seed\":1234}");
  g.token_ids = {1, 2};
  g.stream = true;
  g.ignore_eos = true;
  g.logprobs = 1;
  g.extra_body = R"({"seed": 7, "top_k": 1})";
  json body = json::parse(request_body(g));
  EXPECT_EQ(body["prompt"], (json{1, 2}));
  EXPECT_EQ(body["stream_options"], (json{{"include_usage", true}}));
  EXPECT_EQ(body["ignore_eos"], true);
  EXPECT_EQ(body["logprobs"], 1);
  EXPECT_EQ(body["seed"], 7);
  EXPECT_EQ(body["top_k"], 1);
  g.api = Api::kChat;
  g.messages = {{"user", "hi"}};
  body = json::parse(request_body(g));
  EXPECT_EQ(body["messages"], (json{{{"role", "user"}, {"content", "hi"}}}));
  EXPECT_FALSE(body.contains("prompt"));
  EXPECT_EQ(body["logprobs"], true);
  g.extra_body = "[1]";
  EXPECT_THROW(request_body(g), UsageError);
  g.extra_body = "";
  g.messages[0].content = "\xC3";
  EXPECT_THROW(request_body(g), UsageError);
}

TEST(HttpOpenai, Endpoints) {
  for (const char* url : {"http://h:8000", "http://h:8000/", "http://h:8000/v1", "http://h:8000/v1/",
                          "http://h:8000/v1/completions", "http://h:8000/v1/chat/completions"}) {
    const Endpoint e = parse_endpoint(url);
    EXPECT_EQ(e.base, "http://h:8000/v1") << url;
    EXPECT_EQ(e.root, "http://h:8000") << url;
    EXPECT_EQ(e.url(Api::kChat), "http://h:8000/v1/chat/completions");
  }
  EXPECT_EQ(parse_endpoint("https://h/api/openai").base, "https://h/api/openai");
  for (const char* url : {"", "localhost:8000", "ftp://h", "http://", "http://h:99999", "http://a b",
                          "http://h?x=1", "http://u:p@h", "http://h\r\nX: y"})
    EXPECT_THROW(parse_endpoint(url), UsageError) << url;
  EXPECT_THROW(parse_endpoint("http://h", "key\r\nX: y"), UsageError);
  EXPECT_EQ(parse_endpoint("http://h", "k").headers(true).back(), "Authorization: Bearer k");
}

TEST(Retry, WhatIsRetriedAndWhen) {
  const Random jitter(1, "retry");
  RetryPolicy policy;
  const auto error = [](ErrorKind kind, int status = 0) {
    Error e;
    e.kind = kind;
    e.status = status;
    return e;
  };
  for (const ErrorKind kind : {ErrorKind::kRefused, ErrorKind::kReset, ErrorKind::kTimeout,
                               ErrorKind::kRateLimited, ErrorKind::kServerError, ErrorKind::kTruncated,
                               ErrorKind::kInvalidJson, ErrorKind::kWrongContentType, ErrorKind::kMidStream})
    EXPECT_TRUE(may_help(error(kind))) << name(kind);
  for (const int status : {400, 401, 403, 404, 413, 422})
    EXPECT_FALSE(may_help(error(ErrorKind::kClientError, status)));
  EXPECT_TRUE(may_help(error(ErrorKind::kClientError, 408)));
  EXPECT_FALSE(may_help(error(ErrorKind::kTls)));
  EXPECT_FALSE(may_help(error(ErrorKind::kTooLarge)));
  for (int attempt = 0; attempt < policy.max_retries; ++attempt) {
    const double full = std::min(30.0, 0.5 * std::exp2(attempt));
    const auto delay = retry_delay(policy, error(ErrorKind::kReset), attempt, jitter);
    ASSERT_TRUE(delay);
    EXPECT_GE(*delay, full / 2);
    EXPECT_LT(*delay, full);
    EXPECT_EQ(delay, retry_delay(policy, error(ErrorKind::kReset), attempt, jitter));
  }
  EXPECT_NE(retry_delay(policy, error(ErrorKind::kReset), 0, jitter),
            retry_delay(policy, error(ErrorKind::kReset), 0, Random(2, "retry")));
  EXPECT_FALSE(retry_delay(policy, error(ErrorKind::kReset), policy.max_retries, jitter));
  EXPECT_FALSE(retry_delay(policy, error(ErrorKind::kClientError, 400), 0, jitter));
  Error limited = error(ErrorKind::kRateLimited, 429);
  limited.retry_after_s = 17;
  EXPECT_EQ(retry_delay(policy, limited, 0, jitter), 17);
  limited.retry_after_s = 1e6;
  EXPECT_FALSE(retry_delay(policy, limited, 0, jitter));
}

}  // namespace
}  // namespace moecheck::harness::http
