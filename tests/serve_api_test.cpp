// The OpenAI API as its clients see it.
#include "serve_test_support.h"

namespace {

using namespace moecheck;
using namespace moecheck::serve_test;

std::string text_of(const Response& r) { return r.json()["choices"][0]["text"]; }

TEST(ServeApi, ModelsVersionHealth) {
  harness::ServerOptions o = quick_options();
  o.model_names = {"scripted", "other name"};
  o.version = "1.2.3";
  const Served s("max_len=1000", o);
  const Json list = s.get("/v1/models").json();
  ASSERT_EQ(list["data"].size(), 2U);
  EXPECT_EQ(list["data"][0]["id"], "scripted");
  EXPECT_EQ(list["data"][1]["max_model_len"], 1000);
  EXPECT_EQ(s.get("/v1/models/scripted").json()["object"], "model");
  EXPECT_EQ(s.get("/v1/models/none").status, 404);
  EXPECT_EQ(s.get("/version").json()["version"], "1.2.3");
  EXPECT_EQ(s.get("/health").status, 200);
  EXPECT_EQ(s.post("/v1/completions", completion("x", {{"model", "other name"}})).json()["model"],
            "other name");
}

TEST(ServeApi, PromptsInEveryForm) {
  const Served s("echo=1");
  const auto ask = [&](const Json& prompt) {
    return s.post("/v1/completions", {{"prompt", prompt}, {"temperature", 0}, {"max_tokens", 100}}).json();
  };
  EXPECT_EQ(ask("ab")["choices"][0]["text"], "ab");
  EXPECT_EQ(ask({104, 105})["choices"][0]["text"], "hi");
  const Json two = ask({"one", "three"});
  EXPECT_EQ(two["choices"][0]["text"], "one");
  EXPECT_EQ(two["choices"][1]["text"], "three");
  EXPECT_EQ(two["choices"][1]["index"], 1);
  EXPECT_EQ(two["usage"]["prompt_tokens"], 8);
  EXPECT_EQ(two["usage"]["completion_tokens"], 8);
  EXPECT_EQ(two["usage"]["total_tokens"], 16);
  const Json ids = ask({{104}, {105, 106}});
  EXPECT_EQ(ids["choices"][1]["text"], "ij");
}

TEST(ServeApi, LengthStopAndDefaults) {
  const Served s;
  const Json by_default = s.post("/v1/completions", {{"prompt", "x"}, {"ignore_eos", true}}).json();
  EXPECT_EQ(by_default["usage"]["completion_tokens"], 16);
  EXPECT_EQ(by_default["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(by_default["object"], "text_completion");
  EXPECT_TRUE(by_default["choices"][0]["logprobs"].is_null());
  const Json ended = s.post("/v1/completions", completion("x", {{"max_tokens", 1000}})).json();
  EXPECT_EQ(ended["choices"][0]["finish_reason"], "stop");
  const Json longer =
      s.post("/v1/completions", completion("x", {{"max_tokens", 1000}, {"ignore_eos", true}})).json();
  EXPECT_EQ(longer["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(longer["usage"]["completion_tokens"], 1000);
  EXPECT_NE(by_default["id"], ended["id"]);
  EXPECT_EQ(by_default["system_fingerprint"], ended["system_fingerprint"]);
}

TEST(ServeApi, AStopStringIsNotDeliveredAndUsageCountsWhatWasGenerated) {
  const Served s("echo=1");
  for (const bool stream : {false, true}) {
    const Json body =
        completion("one two Question: three",
                   {{"stop", {"never", "Question:", "\n\n", "four", "five"}}, {"stream", stream}});
    const Response r = s.post("/v1/completions", body);
    std::string text, reason;
    if (!stream) {
      text = text_of(r);
      reason = r.json()["choices"][0]["finish_reason"];
      EXPECT_EQ(r.json()["usage"]["completion_tokens"], std::string("one two Question:").size());
    } else {
      for (const std::string& e : r.events()) {
        if (e == "[DONE]") continue;
        const Json choice = Json::parse(e)["choices"][0];
        text += choice["text"].get<std::string>();
        if (!choice["finish_reason"].is_null()) reason = choice["finish_reason"];
      }
    }
    EXPECT_EQ(text, "one two ");
    EXPECT_EQ(reason, "stop");
  }
  EXPECT_EQ(text_of(s.post("/v1/completions", completion("a b", {{"stop", "b"}}))), "a ");
  EXPECT_EQ(text_of(s.post("/v1/completions", completion("a b", {{"stop", Json::array({"", "z"})}}))), "a b");
  // What was held back as a start of a stop string is delivered in the end.
  EXPECT_EQ(text_of(s.post("/v1/completions", completion("a Quest", {{"stop", "Question:"}}))), "a Quest");
}

TEST(ServeApi, TheEngineStopsAtTheStopString) {
  const Served s("echo=1,burst=1");
  s.post("/v1/completions",
         completion("abc" + std::string(500, 'x'), {{"stop", "abc"}, {"max_tokens", 500}}));
  EXPECT_EQ(s.engine->statistics().generation_tokens, 3);
}

TEST(ServeApi, EchoPutsThePromptFirst) {
  const Served s;
  const std::string euro = "5 \u20ac";
  const Json r =
      s.post("/v1/completions", completion(euro, {{"echo", true}, {"max_tokens", 1}, {"logprobs", 2}}))
          .json();
  const Json logprobs = r["choices"][0]["logprobs"];
  EXPECT_EQ(r["choices"][0]["text"].get<std::string>().substr(0, euro.size()), euro);
  ASSERT_EQ(logprobs["tokens"].size(), 6U);  // five bytes and one generated
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  EXPECT_EQ(logprobs["tokens"][2], "bytes:\\xe2");
  EXPECT_EQ(logprobs["text_offset"], Json({0, 1, 2, 3, 3, 3}));
  EXPECT_GE(logprobs["top_logprobs"][1].size(), 2U);
  EXPECT_LT(logprobs["token_logprobs"][1].get<double>(), 0);
  for (const bool with_logprobs : {false, true}) {  // as for the likelihood of a given text
    Json body = completion("abc", {{"echo", true}, {"max_tokens", 0}});
    if (with_logprobs) body["logprobs"] = 1;
    const Json only = s.post("/v1/completions", body).json();
    EXPECT_EQ(only["choices"][0]["text"], "abc");
    EXPECT_EQ(only["usage"]["completion_tokens"], 0);
    EXPECT_EQ(only["choices"][0]["finish_reason"], "length");
    if (with_logprobs) {
      EXPECT_EQ(only["choices"][0]["logprobs"]["tokens"], Json({"a", "b", "c"}));
    }
  }
}

TEST(ServeApi, LogprobsInTheChatForm) {
  const Served s;
  const Json r = s.post("/v1/chat/completions", {{"messages", {{{"role", "user"}, {"content", "x"}}}},
                                                 {"temperature", 0},
                                                 {"max_completion_tokens", 8},
                                                 {"logprobs", true},
                                                 {"top_logprobs", 3}})
                     .json();
  const Json content = r["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 8U);
  std::string bytes;
  for (const Json& t : content) {
    for (const Json& b : t["bytes"]) bytes += static_cast<char>(b.get<int>());
    EXPECT_EQ(t["top_logprobs"].size(), 3U);
    EXPECT_EQ(t["top_logprobs"][0]["token"], t["token"]);
  }
  EXPECT_EQ(bytes.substr(0, 4), r["choices"][0]["message"]["content"].get<std::string>().substr(0, 4));
}

TEST(ServeApi, ShotsAsTurnsAreThePlainPrompt) {
  const Served s("echo=1");
  const Json turns = {
      {{"role", "system"}, {"content", "Solve.\n\n"}},
      {{"role", "user"}, {"content", "Question: a?\nAnswer:"}},
      {{"role", "assistant"}, {"content", "Because. #### 1"}},
      {{"role", "user"},
       {"content",
        {{{"type", "text"}, {"text", "Question: b?\n"}}, {{"type", "text"}, {"text", "Answer:"}}}}}};
  const std::string plain = "Solve.\n\nQuestion: a?\nAnswer: Because. #### 1\n\nQuestion: b?\nAnswer:";
  const Json r = s.post("/v1/chat/completions", {{"messages", turns}, {"temperature", 0}}).json();
  EXPECT_EQ(r["object"], "chat.completion");
  EXPECT_EQ(r["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(r["choices"][0]["message"]["content"], plain);
  EXPECT_EQ(r["usage"]["prompt_tokens"], plain.size());
  EXPECT_EQ(s.post("/tokenize", {{"messages", turns}}).json()["count"], plain.size());
}

TEST(ServeApi, TokenizeAndBack) {
  const Served s;
  const std::string text = "h\u00e9llo \u20ac";
  const Json t =
      s.post("/tokenize", {{"model", "scripted"}, {"prompt", text}, {"return_token_strs", true}}).json();
  EXPECT_EQ(t["count"], text.size());
  EXPECT_EQ(t["tokens"].size(), text.size());
  EXPECT_EQ(t["token_strs"][0], "h");
  EXPECT_EQ(t["max_model_len"], 32768);
  EXPECT_EQ(s.post("/detokenize", {{"tokens", t["tokens"]}}).json()["prompt"], text);
}

TEST(ServeApi, SeedsRepeatAndAnswersDiffer) {
  const Served s;
  const auto ask = [&](const Json& more) {
    Json body = {{"prompt", "x"}, {"max_tokens", 40}};
    body.update(more);
    return s.post("/v1/completions", body).json()["choices"];
  };
  EXPECT_EQ(ask({{"seed", 7}})[0]["text"], ask({{"seed", 7}})[0]["text"]);
  EXPECT_NE(ask({{"seed", 7}})[0]["text"], ask({{"seed", 8}})[0]["text"]);
  EXPECT_NE(ask(Json::object())[0]["text"],
            ask(Json::object())[0]["text"]);  // no seed: another one each time
  EXPECT_EQ(ask({{"temperature", 0}})[0]["text"], ask({{"temperature", 0}, {"seed", 5}})[0]["text"]);
  const Json several = ask({{"seed", -3}, {"n", 3}});
  ASSERT_EQ(several.size(), 3U);
  EXPECT_NE(several[0]["text"], several[1]["text"]);
  EXPECT_EQ(several[2]["index"], 2);
}

TEST(ServeApi, UsageStandsWhereItWasAskedFor) {
  const Served s("burst=3");
  const auto events = [&](const Json& options) {
    Json body = completion("x", {{"stream", true}, {"max_tokens", 10}, {"ignore_eos", true}});
    if (!options.is_null()) body["stream_options"] = options;
    std::vector<std::string> all = s.post("/v1/completions", body).events();
    EXPECT_EQ(all.back(), "[DONE]");
    all.pop_back();
    return all;
  };
  for (const std::string& e : events(nullptr)) EXPECT_FALSE(Json::parse(e).contains("usage"));
  const auto at_end = events({{"include_usage", true}});
  const Json last = Json::parse(at_end.back());
  EXPECT_TRUE(last["choices"].empty());
  EXPECT_EQ(last["usage"]["completion_tokens"], 10);
  EXPECT_TRUE(Json::parse(at_end.front())["usage"].is_null());
  std::int64_t tokens = 0;
  const auto every = events({{"include_usage", true}, {"continuous_usage_stats", true}});
  EXPECT_EQ(every.size(), 5U);  // 3 + 3 + 3 + 1 tokens, and the usage
  for (const std::string& e : every) {
    const std::int64_t now = Json::parse(e)["usage"]["completion_tokens"];
    EXPECT_GE(now, tokens);
    tokens = now;
  }
  EXPECT_EQ(tokens, 10);
}

TEST(ServeApi, StreamsOfSeveralSequencesAreWholeEach) {
  const Served s("tpot=0.2,ttft=0.2,burst=2");
  const Json body = {{"prompt", {"p", "q"}}, {"n", 2}, {"stream", true}, {"max_tokens", 30}, {"seed", 1}};
  Json whole = body;
  whole["stream"] = false;
  std::vector<std::string> texts(4);
  int ends = 0;
  for (const std::string& e : s.post("/v1/completions", body).events()) {
    if (e == "[DONE]") continue;
    const Json c = Json::parse(e)["choices"][0];
    texts[c["index"].get<std::size_t>()] += c["text"].get<std::string>();
    ends += c["finish_reason"].is_null() ? 0 : 1;
  }
  EXPECT_EQ(ends, 4);
  const Json choices = s.post("/v1/completions", whole).json()["choices"];
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(choices[i]["text"], texts[i]) << i;
}

TEST(ServeApi, MetricsAgreeWithWhatClientsGot) {
  const Served s("draft=2,acceptance=0.7");
  std::int64_t prompt = 0, generated = 0;
  for (int i = 0; i < 40; ++i) {
    const bool chat = i % 2 == 1;
    const std::string text = "Question: number " + std::to_string(i) + " of a long common text?\nAnswer:";
    Json body = completion(text, {{"max_tokens", 100}, {"stop", "####"}});
    if (chat) body["messages"] = {{{"role", "user"}, {"content", text}}};
    const Json r = s.post(chat ? "/v1/chat/completions" : "/v1/completions", body).json();
    prompt += r["usage"]["prompt_tokens"].get<std::int64_t>();
    generated += r["usage"]["completion_tokens"].get<std::int64_t>();
  }
  EXPECT_EQ(s.metric("vllm:prompt_tokens_total"), prompt);
  EXPECT_EQ(s.metric("vllm:generation_tokens_total"), generated);
  EXPECT_EQ(s.metric("vllm:request_success_total", ",finished_reason=\"stop\""), 40);
  EXPECT_EQ(s.metric("vllm:e2e_request_latency_seconds_count"), 40);
  EXPECT_EQ(s.metric("vllm:time_to_first_token_seconds_bucket", ",le=\"+Inf\""), 40);
  EXPECT_EQ(s.metric("vllm:prefix_cache_queries_total"), prompt);
  EXPECT_GT(s.metric("vllm:prefix_cache_hits_total"), 0);
  const double drafts = s.metric("vllm:spec_decode_num_drafts_total");
  const double first = s.metric("vllm:spec_decode_num_accepted_tokens_per_pos_total", ",position=\"0\"");
  const double second = s.metric("vllm:spec_decode_num_accepted_tokens_per_pos_total", ",position=\"1\"");
  EXPECT_EQ(s.metric("vllm:spec_decode_num_draft_tokens_total"), 2 * drafts);
  EXPECT_EQ(s.metric("vllm:spec_decode_num_accepted_tokens_total"), first + second);
  EXPECT_NEAR(first / drafts, 0.7, 0.1);
  EXPECT_NEAR(second / drafts, 0.49, 0.1);
  const Served plain;
  EXPECT_EQ(plain.metric("vllm:spec_decode_num_drafts_total"), -1);  // no speculation, no such metric
}

}  // namespace
