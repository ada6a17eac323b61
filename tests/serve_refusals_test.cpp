// What the OpenAI API refuses, and with which words: wrong fields, keys, full queues, an engine that fails.
#include "serve_test_support.h"

namespace {

using namespace moecheck;
using namespace moecheck::serve_test;

struct Refusal {
  Json body;
  std::string param;
  int status = 400;
};

TEST(ServeRefusals, WrongRequestsAreToldWhichFieldAndWhy) {
  const Served s("max_len=100");
  const Json x = {{"prompt", "x"}};
  const auto with = [&](const Json& more) {
    Json j = x;
    j.update(more);
    return j;
  };
  const Refusal cases[] = {
      {Json::object(), "prompt"},
      {Json::array(), ""},
      {with({{"model", "none"}}), "model", 404},
      {with({{"prompt", nullptr}}), "prompt"},
      {with({{"prompt", ""}}), "prompt"},
      {with({{"prompt", Json::array()}}), "prompt"},
      {with({{"prompt", {1, -1}}}), "prompt"},
      {with({{"prompt", {257}}}), "prompt"},
      {with({{"prompt", {1.5}}}), "prompt"},
      {with({{"prompt", {"a", 1}}}), "prompt"},
      {with({{"prompt", {1, "a"}}}), "prompt"},
      {with({{"prompt", {{1}, "a"}}}), "prompt"},
      {with({{"prompt", {{18446744073709551615U}}}}), "prompt"},
      {with({{"prompt", std::string(100, 'x')}}), "prompt"},
      {with({{"max_tokens", 0}}), "max_tokens"},
      {with({{"max_tokens", -5}}), "max_tokens"},
      {with({{"max_tokens", "5"}}), "max_tokens"},
      {with({{"max_tokens", 1e300}}), "max_tokens"},
      {with({{"temperature", -0.1}}), "temperature"},
      {with({{"temperature", 2.1}}), "temperature"},
      {with({{"temperature", "hot"}}), "temperature"},
      {with({{"top_p", 0}}), "top_p"},
      {with({{"top_p", 1.1}}), "top_p"},
      {with({{"n", 0}}), "n"},
      {with({{"n", 1000}}), "n"},
      {with({{"best_of", 2}}), "best_of"},
      {with({{"logprobs", 21}}), "logprobs"},
      {with({{"stop", 5}}), "stop"},
      {with({{"stop", Json(std::vector<std::string>(17, "x"))}}), "stop"},
      {with({{"stop", std::string(2000, 'x')}}), "stop"},
      {with({{"stream", "yes"}}), "stream"},
      {with({{"stream_options", {{"include_usage", true}}}}), "stream_options"},
      {with({{"logit_bias", {{"5", 1}}}}), "logit_bias"},
      {with({{"presence_penalty", 0.5}}), "presence_penalty"},
      {with({{"suffix", "x"}}), "suffix"},
      {with({{"seed", 1.5}}), "seed"},
      {with({{"response_format", {{"type", "json_object"}}}}), "response_format"},
  };
  for (const Refusal& c : cases) {
    const Response r = s.post("/v1/completions", c.body);
    EXPECT_EQ(r.status, c.status) << c.body << r.body;
    const Json e = r.json()["error"];
    EXPECT_EQ(e["type"], "invalid_request_error");
    EXPECT_EQ(e["param"].is_null() ? "" : e["param"], c.param) << c.body << e;
    EXPECT_TRUE(e.contains("code"));
  }
  // What asks for nothing is no reason to refuse; nor are fields nobody knows.
  EXPECT_EQ(s.post("/v1/completions", with({{"presence_penalty", 0},
                                            {"logit_bias", Json::object()},
                                            {"suffix", nullptr},
                                            {"best_of", 1},
                                            {"user", "me"},
                                            {"unknown", {1, 2}}}))
                .status,
            200);
  const Json length =
      s.post("/v1/completions", with({{"prompt", std::string(90, 'x')}, {"max_tokens", 11}})).json();
  EXPECT_EQ(length["error"]["code"], "context_length_exceeded");
}

TEST(ServeRefusals, WrongChats) {
  const Served s;
  const Json cases[] = {
      Json::object(),
      {{"messages", "x"}},
      {{"messages", Json::array()}},
      {{"messages", {1}}},
      {{"messages", {{{"content", "x"}}}}},
      {{"messages", {{{"role", "tool"}, {"content", "x"}}}}},
      {{"messages", {{{"role", "user"}}}}},
      {{"messages", {{{"role", "user"}, {"content", 5}}}}},
      {{"messages", {{{"role", "user"}, {"content", {{{"type", "image_url"}}}}}}}},
      {{"messages", {{{"role", "user"}, {"content", ""}}}}},
      {{"messages", {{{"role", "user"}, {"content", "x"}}}}, {"top_logprobs", 2}},
      {{"messages", {{{"role", "user"}, {"content", "x"}}}}, {"tools", {{{"type", "function"}}}}},
      {{"messages", {{{"role", "user"}, {"content", "x"}}}}, {"echo", true}},
  };
  for (const Json& c : cases) EXPECT_EQ(s.post("/v1/chat/completions", c).status, 400) << c;
}

TEST(ServeRefusals, BodiesThatAreNotJson) {
  const Served s;
  Client c(s.port());
  for (const std::string& body : {std::string(), std::string("{"), std::string("{\"prompt\":\"\xff\"}"),
                                  std::string(200'000, '['), std::string("{\"prompt\":\"\\ud800\"}"),
                                  std::string("{\"prompt\":1e999}"), std::string("\xEF\xBB\xBFx")})
    EXPECT_EQ(c.request("POST", "/v1/completions", body).status, 400) << body.substr(0, 40);
  c.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_EQ(c.response().status, 415);  // what a web page may send unasked
}

TEST(ServeRefusals, TheKeyIsAskedFor) {
  harness::ServerOptions o = quick_options();
  o.api_key = "secret";
  const Served s("", o);
  Client c(s.port());
  const Response none = c.request("GET", "/v1/models");
  EXPECT_EQ(none.status, 401);
  EXPECT_EQ(none.json()["error"]["code"], "invalid_api_key");
  EXPECT_EQ(none.header("WWW-Authenticate"), "Bearer");
  for (const char* wrong :
       {"Bearer ", "Bearer secre", "Bearer secrets", "Bearer Secret", "secret", "Basic secret"})
    EXPECT_EQ(c.request("GET", "/v1/models", "", std::string("Authorization: ") + wrong + "\r\n").status, 401)
        << wrong;
  EXPECT_EQ(c.request("GET", "/v1/models", "", "Authorization: Bearer secret\r\n").status, 200);
  EXPECT_EQ(c.post("/v1/completions", completion("x")).status, 401);
  EXPECT_EQ(c.post("/v1/completions", completion("x"), "Authorization: bearer secret\r\n").status, 200);
  EXPECT_EQ(c.request("GET", "/health").status, 200);
}

TEST(ServeRefusals, AFullQueueSaysWhenToComeBack) {
  harness::ServerOptions o = quick_options();
  o.max_queue = 2;
  const Served s("ttft=1000,slots=1", o);
  const auto held = [&] {
    const auto e = s.engine->statistics();
    return e.running + e.waiting;
  };
  std::vector<std::thread> running;
  for (int i = 0; i < 2; ++i)
    running.emplace_back([&] { EXPECT_EQ(s.post("/v1/completions", completion("x")).status, 200); });
  ASSERT_TRUE(eventually([&] { return held() == 2; }));
  EXPECT_TRUE(eventually([&] { return s.metric("vllm:num_requests_waiting") == 1; }));
  const Response r = s.post("/v1/completions", completion("y"));
  EXPECT_EQ(r.status, 429);
  EXPECT_EQ(r.header("Retry-After"), "1");
  EXPECT_EQ(r.json()["error"]["type"], "rate_limit_error");
  EXPECT_EQ(s.post("/v1/completions", {{"prompt", "x"}, {"n", 3}}).status, 400);  // never fits
  for (std::thread& t : running) t.join();
  Client again(s.port());
  std::thread late([&] { again.post("/v1/completions", completion("y")); });
  EXPECT_TRUE(eventually([&] { return held() == 1; }));
  again.shut_down_sending();
  late.join();
}

// An engine that fails in the middle.
class FailingEngine final : public harness::Engine {
 public:
  const harness::Tokenizer& tokenizer() const override { return harness::byte_tokenizer(); }
  std::int64_t max_model_len() const override { return 100; }
  void submit(harness::GenerationRequest request, harness::OnUpdate on_update) override {
    harness::GenerationUpdate u;
    if (request.prompt[0] == 't') throw std::runtime_error("no room");
    if (request.prompt[0] == 'l') {
      u.tokens = {'a', 'b'};
      ASSERT_TRUE(on_update(u));
      u.tokens.clear();
    }
    u.finish = harness::Finish::kError;
    u.error = "NaN in \"logits\"";
    on_update(u);
  }
  harness::EngineStatistics statistics() const override { return {}; }
};

TEST(ServeRefusals, ErrorsOfTheEngineReachTheClient) {
  FailingEngine engine;
  harness::Server server(engine, quick_options());
  server.start();
  Client c(server.port());
  for (const char* prompt : {"early", "late", "throws"}) {
    const Response r = c.post("/v1/completions", completion(prompt));
    EXPECT_EQ(r.status, 500);
    EXPECT_EQ(r.json()["error"]["type"], "server_error");
  }
  const auto events = c.post("/v1/completions", completion("late", {{"stream", true}})).events();
  ASSERT_GE(events.size(), 3U);
  EXPECT_EQ(Json::parse(events[events.size() - 2])["error"]["message"], "NaN in \"logits\"");
  EXPECT_EQ(events.back(), "[DONE]");
  EXPECT_EQ(c.post("/v1/completions", completion("early", {{"stream", true}})).status, 500);
}

}  // namespace
