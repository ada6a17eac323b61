// The run itself: what is sent, in which order, to how many at once; two arms, the load beside, the probe, the progress line.
#include "harness/eval/evaluation.h"

#include <gtest/gtest.h>

#include "eval_test_support.h"
#include "harness/eval/background.h"
#include "harness/eval/probe.h"
#include "harness/eval/progress.h"
#include "harness/eval/server_info.h"
#include "harness/text.h"

namespace moecheck::harness::eval {
namespace {

using nlohmann::json;
using test::EvalSetup;
using test::Fault;
using test::ModelServer;

End ask(
    Evaluation& e, const Evaluation::Tick& tick = [] { return true; }) {
  http::Client client;
  return e.run(client, tick);
}

TEST(Eval, SendsWhatLmEvalSends) {
  EvalSetup setup(3);
  const ModelServer server;
  ask(*setup.evaluation({server.url()}));
  ASSERT_EQ(server.bodies().size(), 3u);
  const json body = json::parse(server.bodies()[0]);
  json rest = body;
  rest.erase("prompt");
  EXPECT_EQ(rest, (json{{"model", "tiny"},
                        {"max_tokens", 256},
                        {"temperature", 0.0},
                        {"stop", {"Question:", "</s>", "<|im_end|>"}},
                        {"seed", 1234}}));
  const std::string prompt = body["prompt"];
  EXPECT_TRUE(prompt.starts_with("Question: ")) << prompt;
  EXPECT_TRUE(prompt.ends_with("\nAnswer:"));
}

TEST(Eval, SendsChatAsTurns) {
  EvalSetup setup(1, Api::kChat);
  setup.settings.max_gen_toks = 99;
  setup.settings.stream = true;
  setup.settings.extra_body = R"({"chat_template_kwargs":{"enable_thinking":false}})";
  const ModelServer server;
  const auto e = setup.evaluation({server.url()});
  ask(*e);
  const json body = json::parse(server.bodies().at(0));
  EXPECT_EQ(body["messages"].size(), 11u);
  EXPECT_EQ(body["messages"][1]["role"], "assistant");
  EXPECT_EQ(body["max_tokens"], 99);
  EXPECT_EQ(body["stream"], true);
  EXPECT_EQ(body["chat_template_kwargs"]["enable_thinking"], false);
  EXPECT_GT(e->arms()[0].samples[0].ttft_s, 0);
  EXPECT_LT(e->arms()[0].samples[0].ttft_s, e->arms()[0].samples[0].latency_s);
}

TEST(Eval, SamplesAreWhole) {
  EvalSetup setup(20);
  const ModelServer server;
  const auto e = setup.evaluation({server.url()});
  EXPECT_EQ(ask(*e), End::kComplete);
  const harness::Run run = e->run_of_arm(0);
  ASSERT_EQ(run.samples.size(), 20u);
  for (std::size_t i = 0; i < 20; ++i) {
    const Sample& s = run.samples[i];
    EXPECT_EQ(s.doc_id, static_cast<std::int64_t>(i));
    EXPECT_EQ(s.scores[0].right, i % 5 != 4);
    EXPECT_EQ(s.finish_reason, "stop");
    EXPECT_EQ(s.prompt_tokens, 100);
    EXPECT_EQ(s.completion_tokens, 12);
    EXPECT_GT(s.latency_s, 0);
    EXPECT_EQ(s.attempts, 1);
    EXPECT_EQ(s.prompt_hash, setup.prompts.prompts[i].prompt_hash);
  }
  EXPECT_EQ(run.task_hash, setup.prompts.task_hash);
  EXPECT_EQ(run.model, "tiny");
  EXPECT_EQ(summarize(run).filters[0].accuracy.right, 16);
}

TEST(Eval, KeepsToTheConcurrency) {
  EvalSetup setup(60);
  setup.settings.concurrency = 6;
  ModelServer server;
  server.answer_ms = 10;
  ask(*setup.evaluation({server.url()}));
  EXPECT_EQ(server.most_at_once(), 6);
}

TEST(Eval, TheOrderIsAShuffleBySeed) {
  EvalSetup setup(50);
  const auto order = setup.evaluation({"http://h"})->order();
  EXPECT_EQ(order, setup.evaluation({"http://h"})->order());
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
  EXPECT_TRUE(
      std::is_permutation(order.begin(), order.end(), setup.evaluation({"http://h"})->order().begin()));
  setup.settings.seed = 7;
  EXPECT_NE(order, setup.evaluation({"http://h"})->order());
}

TEST(Eval, TwoArmsStayTogether) {
  EvalSetup setup(60);
  setup.settings.concurrency = 4;
  ModelServer fast, slow;
  slow.answer_ms = 20;
  const auto e = setup.evaluation({fast.url(), slow.url()});
  std::int64_t furthest = 0;
  const End end = ask(*e, [&] {
    furthest = std::max(furthest, e->arms()[0].answered - e->arms()[1].answered);
    return true;
  });
  EXPECT_EQ(end, End::kComplete);
  EXPECT_LE(furthest, 2 * 4 + 1);
  EXPECT_EQ(fast.asked().size(), 60u);
  EXPECT_EQ(slow.asked().size(), 60u);
  EXPECT_EQ(e->complete_prefix(), 60u);
  // The same words to both, in the same order but for who was quicker.
  std::vector<std::string> a = fast.bodies(), b = slow.bodies();
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  EXPECT_EQ(a, b);
}

TEST(Eval, FlipsCountCompletePairsOnly) {
  EvalSetup setup(40);
  const ModelServer a({}, 5),
      b({}, 3);  // wrong: 4, 9, 14.. against 4, 7, 10.. (a - 100) % 3 == 4 never holds
  const ModelServer failing([](int question, int) { return question == 4 ? Fault::kBroken : Fault::kNone; },
                            0);
  setup.settings.retry.max_retries = 0;
  const auto e = setup.evaluation({a.url(), failing.url()});
  EXPECT_EQ(ask(*e), End::kComplete);
  const Flips f = flips(*e);
  EXPECT_EQ(f.pairs, 39);
  EXPECT_EQ(f.regressions, 0);
  EXPECT_EQ(f.fixes, 7);  // 8 wrong ones of A, of which question 4 has no pair
}

TEST(Eval, AStoppedRunReportsAPrefix) {
  EvalSetup setup(60);
  setup.settings.concurrency = 2;
  ModelServer a, b;
  a.answer_ms = b.answer_ms = 50;
  const auto e = setup.evaluation({a.url(), b.url()});
  EXPECT_EQ(ask(*e, [&] { return e->complete_prefix() == 0; }), End::kStopped);
  const std::size_t prefix = e->complete_prefix();
  EXPECT_GT(prefix, 0u);
  EXPECT_LT(prefix, 60u);
  EXPECT_EQ(e->run_of_arm(0, prefix).samples.size(), prefix);
  EXPECT_EQ(e->run_of_arm(1, prefix).samples.size(), prefix);
  EXPECT_EQ(ask(*e), End::kComplete) << "and goes on";
}

TEST(Eval, LoadRunsBesideAndIsNotGraded) {
  EvalSetup setup(40);
  setup.settings.concurrency = 2;
  ModelServer server;
  server.answer_ms = 10;
  const auto e = setup.evaluation({server.url()});
  http::Client client;
  Background load(setup.prompts, setup.settings, setup.target(server.url()), 6);
  load.start(client);
  EXPECT_TRUE(load.warm_up(client, 10));
  EXPECT_EQ(e->run(client, [] { return true; }), End::kComplete);
  load.stop(client);
  EXPECT_EQ(client.active(), 0u);
  EXPECT_EQ(server.most_at_once(), 8);
  EXPECT_GT(load.counts().finished, 40);
  EXPECT_EQ(load.counts().failed, 0);
  EXPECT_EQ(load.counts().tokens, 12 * load.counts().finished);
  EXPECT_EQ(e->run_of_arm(0).samples.size(), 40u);
}

TEST(EvalProbe, TextsThatDependOnTheBatchAreFound) {
  EvalSetup setup(30);
  ModelServer server;
  server.answer_ms = 5;
  server.drift_above = 3;
  const auto texts = [&](int concurrency) {
    setup.settings.concurrency = concurrency;
    const auto e = setup.evaluation({server.url()});
    ask(*e);
    return e->run_of_arm(0).samples;
  };
  const auto one = texts(1), again = texts(1), many = texts(8);
  const TextComparison same = compare_texts(one, again), batch = compare_texts(one, many);
  EXPECT_EQ(same.pairs, 30);
  EXPECT_EQ(same.identical, 30);
  EXPECT_LT(batch.identical, 20);
  ASSERT_FALSE(batch.divergences.empty());
  EXPECT_EQ(batch.divergences[0].at, 1u);
  EXPECT_EQ(batch.divergences[0].second.substr(0, 2), "So");
}

TEST(EvalProbe, DivergencesStartAtCharacters) {
  Sample a, b;
  a.completion = "price: \xE2\x82\xAC 5";
  b.completion = "price: \xE2\x82\xA4 5";
  TextComparison c = compare_texts({a}, {b});
  ASSERT_EQ(c.divergences.size(), 1u);
  EXPECT_EQ(c.divergences[0].at, 7u);
  EXPECT_EQ(c.divergences[0].before, "price: ");
  EXPECT_EQ(c.divergences[0].first, "\xE2\x82\xAC 5");
  b.completion = "price";
  c = compare_texts({a}, {b});
  EXPECT_EQ(c.divergences[0].at, 5u);
  EXPECT_EQ(c.divergences[0].second, "(end)");
  b.completion = a.completion + "\nQuestion: more";
  EXPECT_EQ(compare_texts({a}, {b}).identical, 0);
  const std::vector<std::string> until = {"\nQuestion:"};
  EXPECT_EQ(compare_texts({a}, {b}, until).identical, 1);
  b.failed = true;
  EXPECT_EQ(compare_texts({a}, {b}).pairs, 0);
}

TEST(EvalProgress, Lines) {
  EXPECT_EQ(clock_text(7), "0:07");
  EXPECT_EQ(clock_text(3723), "1:02:03");
  EXPECT_EQ(score_text(0, 0), "-");
  EXPECT_EQ(score_text(243, 256), "94.92% [91.51, 97.01]");
  EvalSetup setup(40);
  ModelServer server([](int question, int attempt) {
    return question % 10 == 0 && attempt == 0 ? Fault::kBroken : Fault::kNone;
  });
  server.answer_ms = 40;
  setup.settings.concurrency = 4;
  const auto e = setup.evaluation({server.url()});
  Progress progress;
  std::vector<std::string> lines;
  const http::Nanoseconds start = http::now();
  lines.push_back(progress.line(*e, start));
  ask(*e, [&] {
    lines.push_back(progress.line(*e, http::now()));
    return true;
  });
  EXPECT_EQ(lines.front(), "0/40  strict-match -");
  EXPECT_NE(lines[1].find("/s  strict-match "), std::string::npos) << lines[1];
  EXPECT_NE(lines[1].find(" left"), std::string::npos) << lines[1];
  EXPECT_TRUE(lines.back().starts_with("40/40  ")) << lines.back();
  EXPECT_TRUE(lines.back().ends_with("strict-match 80.00% [65.24, 89.50]  4 retries")) << lines.back();
}

TEST(EvalServerInfo, SaysWhatWasTold) {
  test::ScriptedServer server([](test::Exchange& e) {
    if (e.path == "/v1/models")
      return e.respond(
          200, R"({"data":[{"id":"glm","owned_by":"vllm","root":"/m/glm","max_model_len":4096},{"x":1},7]})",
          "Content-Type: application/json\r\nServer: uvicorn\r\n");
    if (e.path == "/metrics") return e.respond(200, "vllm:prompt_tokens_total{engine=\"0\"} 7\n");
    e.respond(200, R"({"version":"0.11.0"})");
  });
  const ServerInfo info = ask_server(http::parse_endpoint(server.url()), {});
  ASSERT_EQ(info.models.size(), 1u);
  EXPECT_EQ(info.counters, "vllm");
  EXPECT_EQ(text(info, "glm"), "vllm 0.11.0; glm: max_model_len 4,096, root /m/glm");
  EXPECT_EQ(text(info, "another"), "vllm 0.11.0");
  EXPECT_EQ(to_json(info)["http_server"], "uvicorn");
}

TEST(EvalServerInfo, AServerThatSaysNothingOrRubbish) {
  for (const auto& [status, body] : {std::pair(404, ""),
                                     {200, "<html>"},
                                     {200, "[]"},
                                     {200, R"({"data":{},"version":1})"},
                                     {200, R"({"data":[[],null,{"id":[]}]})"}}) {
    test::ScriptedServer server([&, s = status, b = body](test::Exchange& e) { e.respond(s, b); });
    const ServerInfo info = ask_server(http::parse_endpoint(server.url()), {});
    EXPECT_EQ(text(info, "glm"), "") << body;
    EXPECT_TRUE(to_json(info)["version"].is_null());
  }
  EXPECT_EQ(text(ask_server(http::parse_endpoint("http://127.0.0.1:1"), {}), "x"), "");
}

}  // namespace
}  // namespace moecheck::harness::eval
