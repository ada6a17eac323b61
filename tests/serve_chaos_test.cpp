// Chaos: every fault and style does what its name says, repeatably, and enough retries get through.
#include "harness/serve/chaos.h"

#include "serve_test_support.h"

namespace {

using namespace moecheck;
using namespace moecheck::serve_test;
using harness::serve::Chaos;
using harness::serve::ChaosPlan;
using harness::serve::Fault;

std::unique_ptr<Served> chaotic(const std::string& spec, const std::string& script = "") {
  harness::ServerOptions o = quick_options();
  o.chaos = spec;
  o.chaos_seed = 1;
  o.http.request_seconds = 2;
  return std::make_unique<Served>(script, o);
}

const std::string kPrompt = "Question: what?\nAnswer:";

Json ask(bool stream) {
  return completion(kPrompt, {{"stream", stream}, {"max_tokens", 60}, {"stop", "Question:"}});
}

// The right answer, by a server without chaos.
std::string right_text() {
  static const std::string text = Served().post("/v1/completions", ask(false)).json()["choices"][0]["text"];
  return text;
}

struct Told {
  std::string text, reason;
  bool done = false, error = false, broken = false;
  int usages = 0, events = 0;
};

Told told(const Response& r) {
  Told t;
  for (const std::string& e : r.events()) {
    ++t.events;
    if (e == "[DONE]") {
      t.done = true;
      continue;
    }
    const Json j = Json::parse(e, nullptr, false);
    t.broken = t.broken || j.is_discarded();
    if (j.is_discarded()) continue;
    t.error = t.error || j.contains("error");
    t.usages += j.contains("usage") && !j["usage"].is_null() ? 1 : 0;
    if (!j.contains("choices") || j["choices"].empty()) continue;
    t.text += j["choices"][0]["text"].get<std::string>();
    if (!j["choices"][0]["finish_reason"].is_null()) t.reason = j["choices"][0]["finish_reason"];
  }
  return t;
}

TEST(ServeChaos, ConnectionsEnd) {
  for (const bool stream : {false, true}) {
    const auto s = chaotic("reset=1");
    Client c(s->port());
    EXPECT_EQ(c.post("/v1/completions", ask(stream)).status, 0);
    EXPECT_TRUE(c.was_reset());
    const auto f = chaotic("refuse=1");
    Client d(f->port());
    EXPECT_EQ(d.post("/v1/completions", ask(stream)).status, 0);
    EXPECT_TRUE(d.closed());
    EXPECT_FALSE(d.was_reset());
    EXPECT_TRUE(d.in().empty());
  }
}

TEST(ServeChaos, BusyServersSayWhenToComeBack) {
  const std::pair<const char*, int> cases[] = {{"429=1:2s", 429}, {"503=1:1500ms", 503}};
  for (const auto& [spec, status] : cases) {
    const Response r = chaotic(spec)->post("/v1/completions", ask(true));
    EXPECT_EQ(r.status, status);
    EXPECT_EQ(r.header("Retry-After"), "2");
  }
  const Response dated = chaotic("503_date=1:1s")->post("/v1/completions", ask(true));
  EXPECT_TRUE(dated.header("Retry-After").ends_with(" GMT")) << dated.head;
  EXPECT_EQ(chaotic("500=1")->post("/v1/completions", ask(true)).status, 500);
}

TEST(ServeChaos, AnswersThatDoNotCome) {
  const auto s = chaotic("timeout=1");
  Client c(s->port());
  c.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
      "14\r\n\r\n"
      "{\"prompt\":\"x\"}");
  EXPECT_FALSE(c.receive(300));
  s->server.stop();  // does not wait for it
  EXPECT_TRUE(c.closed());
}

TEST(ServeChaos, SlowFirstIsRightButLate) {
  const auto s = chaotic("slow_first=1:300ms");
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(told(s->post("/v1/completions", ask(true))).text, right_text());
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(300));
}

TEST(ServeChaos, StreamsThatBreak) {
  const Response cut_off = chaotic("truncate=1")->post("/v1/completions", ask(true));
  EXPECT_EQ(cut_off.status, 200);
  EXPECT_FALSE(cut_off.complete);
  EXPECT_FALSE(told(cut_off).done);
  const Response cut = chaotic("cut=1")->post("/v1/completions", ask(true));
  EXPECT_TRUE(cut.complete);
  EXPECT_FALSE(told(cut).done);
  EXPECT_EQ(told(cut).reason, "");
  EXPECT_NE(told(cut).text, right_text());
  const Response no_done = chaotic("no_done=1")->post("/v1/completions", ask(true));
  EXPECT_TRUE(no_done.complete);
  EXPECT_FALSE(told(no_done).done);
  EXPECT_EQ(told(no_done).text, right_text());
  const Told broken = told(chaotic("invalid_json=1")->post("/v1/completions", ask(true)));
  EXPECT_TRUE(broken.broken);
  const Told error = told(chaotic("error_event=1")->post("/v1/completions", ask(true)));
  EXPECT_TRUE(error.error);
  EXPECT_GT(error.events, 2);
  EXPECT_EQ(error.reason, "");
}

TEST(ServeChaos, BreaksEvenAOneEventStream) {
  for (const char* spec : {"truncate=1", "cut=1", "invalid_json=1", "error_event=1"}) {
    Json body = ask(true);
    body["max_tokens"] = 1;
    const Response r = chaotic(spec)->post("/v1/completions", body);
    const Told t = told(r);
    EXPECT_TRUE(!r.complete || t.broken || t.error || t.reason.empty()) << spec << r.body;
  }
}

TEST(ServeChaos, WholeAnswersThatBreak) {
  const Response cut_off = chaotic("truncate=1")->post("/v1/completions", ask(false));
  EXPECT_EQ(cut_off.status, 200);
  EXPECT_FALSE(cut_off.complete);
  for (const char* spec : {"cut=1", "invalid_json=1"}) {
    const Response r = chaotic(spec)->post("/v1/completions", ask(false));
    EXPECT_TRUE(r.complete);
    EXPECT_TRUE(Json::parse(r.body, nullptr, false).is_discarded());
  }
  EXPECT_EQ(chaotic("error_event=1")->post("/v1/completions", ask(false)).status, 500);
  const Response html = chaotic("wrong_type=1")->post("/v1/completions", ask(false));
  EXPECT_EQ(html.status, 200);
  EXPECT_EQ(html.header("Content-Type"), "text/html");
}

TEST(ServeChaos, StylesChangeTheWayNotTheText) {
  const char* kStyles[] = {"split",       "multi_token", "no_usage", "usage_last", "usage_separate",
                           "usage_every", "role_only",   "comments", "crlf",       "bom"};
  const Response plain = Served().post("/v1/completions", ask(true));
  std::string all;
  for (const char* style : kStyles) all += std::string(all.empty() ? "" : ",") + style + "=1";
  for (const std::string& spec : [&] {
         std::vector<std::string> specs{all};
         for (const char* style : kStyles) specs.push_back(std::string(style) + "=1");
         return specs;
       }()) {
    const auto s = chaotic(spec);
    const Response r = s->post("/v1/completions", ask(true));
    const Told t = told(r);
    EXPECT_TRUE(r.complete) << spec;
    EXPECT_EQ(t.text, right_text()) << spec;
    EXPECT_EQ(t.reason, "stop") << spec;
    EXPECT_TRUE(t.done) << spec;
    EXPECT_EQ(s->post("/v1/completions", ask(false)).json()["choices"][0]["text"], right_text()) << spec;
    if (spec == "multi_token=1") {
      EXPECT_LT(t.events, told(plain).events / 2 + 2);
    }
    if (spec == "usage_last=1" || spec == "usage_separate=1") {
      EXPECT_EQ(t.usages, 1);
    }
    if (spec == "usage_every=1") {
      EXPECT_EQ(t.usages, t.events - 1);
    }
    if (spec == "no_usage=1") {
      Json body = ask(true);
      body["stream_options"] = {{"include_usage", true}};
      EXPECT_EQ(told(s->post("/v1/completions", body)).usages, 0);
      EXPECT_FALSE(s->post("/v1/completions", ask(false)).json().contains("usage"));
    }
    if (spec == "role_only=1") {
      EXPECT_EQ(t.events, told(plain).events + 1);
    }
    if (spec == "crlf=1") {
      EXPECT_NE(r.body.find("\r\n\r\ndata: "), std::string::npos);
    }
    if (spec == "bom=1") {
      EXPECT_TRUE(r.body.starts_with("\xEF\xBB\xBF"));
    }
    if (spec == "comments=1") {
      EXPECT_NE(r.body.find("\n: ping\n"), std::string::npos);
    }
  }
}

TEST(ServeChaos, SplitCutsInsideCharacters) {
  const Response r = chaotic("split=1")->post("/v1/completions", ask(true));
  ASSERT_NE(right_text().find("\u20ac"), std::string::npos);
  const bool inside = std::any_of(r.pieces.begin(), r.pieces.end(),
                                  [](const std::string& p) { return (p[0] & 0xC0) == 0x80; });
  EXPECT_TRUE(inside);
}

TEST(ServeChaos, PlansAreAFunctionOfSeedBodyAndTry) {
  const char* spec = "reset=0.2,503=0.3,truncate=0.2,split=0.5,crlf=0.3,max_faults=4";
  Chaos a(spec, 5), b(spec, 5), other(spec, 6);
  int faults = 0, same_as_other = 0;
  for (int i = 0; i < 2000; ++i) {
    const std::string body = "body " + std::to_string(i % 500);
    const ChaosPlan p = a.plan(body), q = b.plan(body), r = other.plan(body);
    EXPECT_EQ(p.fault, q.fault);
    EXPECT_EQ(p.draw, q.draw);
    EXPECT_EQ(p.style.split, q.style.split);
    faults += p.fault != Fault::kNone ? 1 : 0;
    same_as_other += p.fault == r.fault ? 1 : 0;
  }
  EXPECT_NEAR(faults, 1400, 100);
  EXPECT_LT(same_as_other, 1000);
  // The order in which requests come changes nothing.
  Chaos c(spec, 5), d(spec, 5);
  const ChaosPlan x1 = c.plan("x"), y1 = c.plan("y"), y2 = d.plan("y"), x2 = d.plan("x");
  EXPECT_EQ(x1.draw, x2.draw);
  EXPECT_EQ(y1.draw, y2.draw);
}

TEST(ServeChaos, EveryBodyGetsThroughInTheEnd) {
  Chaos chaos("reset=0.5,timeout=0.5,max_faults=3", 0);
  for (int i = 0; i < 100; ++i) {
    int tries = 0;
    while (tries < 10 && chaos.plan("body " + std::to_string(i)).fault != Fault::kNone) ++tries;
    EXPECT_EQ(tries, 3);
  }
}

TEST(ServeChaos, ManyClientsRetryUntilAllIsRight) {
  const auto s = chaotic(
      "reset=0.1,refuse=0.1,429=0.05:0s,503=0.1:0s,500=0.05,truncate=0.15,cut=0.1,no_done=0.05,"
      "invalid_json=0.1,wrong_type=0.05,error_event=0.05,split=0.3,multi_token=0.5,crlf=0.5,bom=0.2,"
      "comments=0.3,role_only=0.3");
  std::vector<std::thread> clients;
  std::atomic<int> right{0}, tries{0};
  for (int t = 0; t < 4; ++t)
    clients.emplace_back([&, t] {
      for (int i = 0; i < 10; ++i) {
        Json body = ask(true);
        body["prompt"] = kPrompt + " " + std::to_string(t * 100 + i);
        for (int attempt = 0; attempt < 6; ++attempt) {
          ++tries;
          const Response r = Client(s->port()).post("/v1/completions", body);
          const Told told_now = told(r);
          if (r.status != 200 || !r.complete || !told_now.done || told_now.broken || told_now.error) continue;
          ++right;
          break;
        }
      }
    });
  for (std::thread& t : clients) t.join();
  EXPECT_EQ(right, 40);
  EXPECT_GT(tries, 80);
}

TEST(ServeChaos, WrongSpecificationsSayWhatThereIs) {
  for (const char* spec : {"reset", "reset=x", "reset=2", "reset=-1", "nothing=1", "reset=0.6,503=0.6",
                           "split=1:2s", "reset=0.1:2s", "503=0.1:x", "=", "reset=nan"})
    EXPECT_THROW(Chaos(spec, 0), std::runtime_error) << spec;
  EXPECT_FALSE(Chaos("", 0).active());
}

}  // namespace
