// HTTP as clients on the network speak it, rightly and wrongly.
#include "serve_test_support.h"

namespace {

using namespace moecheck;
using namespace moecheck::serve_test;

const std::string kHealth = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";

TEST(ServeHttp, RequestsInOnePacketAreAnsweredInOrder) {
  const Served s;
  Client c(s.port());
  std::string text;
  for (int i = 0; i < 50; ++i) {
    const std::string body =
        completion("pipeline " + std::to_string(i), {{"max_tokens", 8}, {"echo", true}}).dump();
    text += "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " +
            std::to_string(body.size()) + "\r\n\r\n" + body + (i % 3 == 0 ? kHealth : "");
  }
  ASSERT_TRUE(c.send(text));
  for (int i = 0; i < 50; ++i) {
    const Response r = c.response();
    ASSERT_EQ(r.status, 200) << r.body;
    const std::string prompt = "pipeline " + std::to_string(i);
    EXPECT_EQ(r.json()["choices"][0]["text"].get<std::string>().substr(0, prompt.size()), prompt);
    if (i % 3 == 0) {
      EXPECT_EQ(c.response().status, 200);
    }
  }
}

TEST(ServeHttp, ARequestMayArriveByteByByte) {
  const Served s;
  Client c(s.port());
  const std::string body = completion("slow", {{"max_tokens", 4}}).dump();
  std::string chunked =
      "\r\nPOST http://x/v1/completions?a=b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n";
  for (const char byte : body) chunked += std::string("1;name=value\r\n") + byte + "\r\n";
  chunked += "0\r\nTrailer: x\r\n\r\n";
  for (const char byte : chunked) ASSERT_TRUE(c.send(std::string_view(&byte, 1)));
  EXPECT_EQ(c.response().status, 200);
}

TEST(ServeHttp, ExpectContinueIsAnsweredBeforeTheBody) {
  const Served s;
  Client c(s.port());
  const std::string body = completion("x").dump();
  c.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
      "Content-Length: " +
      std::to_string(body.size()) + "\r\n\r\n");
  ASSERT_TRUE(c.receive());
  EXPECT_TRUE(c.in().starts_with("HTTP/1.1 100 Continue\r\n\r\n")) << c.in();
  c.send(body);
  EXPECT_EQ(c.response().status, 200);
  c.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\nContent-Length: 3\r\n\r\n");
  EXPECT_EQ(c.response().status, 417);
  EXPECT_TRUE(c.closed());
}

TEST(ServeHttp, HeadHasNoBodyAndOptionsSayWhatIsAllowed) {
  const Served s;
  Client c(s.port());
  const Response head = c.request("HEAD", "/v1/models");
  EXPECT_EQ(head.status, 200);
  EXPECT_NE(head.header("Content-Length"), "0");
  const Response options = c.request("OPTIONS", "/v1/completions");
  EXPECT_EQ(options.status, 204);
  EXPECT_EQ(options.header("Allow"), "POST, OPTIONS");
  EXPECT_EQ(options.head.find("Access-Control"), std::string::npos);  // no web page may read from here
  const Response wrong = c.request("GET", "/v1/completions");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.header("Allow"), "POST, OPTIONS");
  EXPECT_EQ(c.request("DELETE", "/v1/models").status, 405);
  EXPECT_EQ(c.request("GET", "/nothing").status, 404);
  EXPECT_EQ(c.request("GET", "/health").status, 200);  // all on one connection
}

TEST(ServeHttp, WhatIsNotHttpIsRefused) {
  const Served s;
  const std::pair<const char*, int> cases[] = {
      {"nonsense\r\n\r\n", 400},
      {"GET /health HTTP/1.1\r\n\r\n", 400},                        // no Host
      {"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},  // two
      {"GET /health HTTP/2.0\r\nHost: x\r\n\r\n", 505},
      {"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
      {"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 501},
      {"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501},
      {"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400},
      {"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n", 415},
      {"GET /health HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n", 400},
  };
  for (const auto& [text, status] : cases) {
    Client c(s.port());
    c.send(text);
    const Response r = c.response();
    EXPECT_EQ(r.status, status) << text;
    EXPECT_TRUE(r.json()["error"]["message"].is_string());
    EXPECT_EQ(r.header("Connection"), "close");
    EXPECT_TRUE(c.closed());
  }
}

TEST(ServeHttp, TooMuchIsRefusedWithoutReadingIt) {
  harness::ServerOptions o = quick_options();
  o.http.max_body_bytes = 1000;
  o.http.max_header_bytes = 2000;
  const Served s("", o);
  Client big(s.port());
  big.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
      "1001\r\n\r\n");
  EXPECT_EQ(big.response().status, 413);
  Client chunked(s.port());
  chunked.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n200\r\n" +
               std::string(512, 'x') + "\r\n200\r\n" + std::string(512, 'x'));
  EXPECT_EQ(chunked.response().status, 413);
  Client header(s.port());
  header.send("GET /health HTTP/1.1\r\nHost: x\r\nX: " + std::string(3000, 'x'));
  EXPECT_EQ(header.response().status, 431);
  Client line(s.port());
  line.send("GET /" + std::string(3000, 'x'));
  EXPECT_EQ(line.response().status, 431);
  Client fits(s.port());
  EXPECT_EQ(fits.post("/v1/completions", completion(std::string(800, 'x'))).status, 200);
}

TEST(ServeHttp, BodiesOfAllConnectionsTogetherAreLimited) {
  harness::ServerOptions o = quick_options();
  o.http.max_buffered_bytes = 100'000;
  const Served s("", o);
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 20; ++i) {  // 20 x 10,000 bytes that never become requests
    clients.push_back(std::make_unique<Client>(s.port()));
    clients.back()->send("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n" +
                         std::string(10'000, ' '));
  }
  int refused = 0;
  for (auto& c : clients)
    if (c->receive(100) && c->in().starts_with("HTTP/1.1 503")) ++refused;
  EXPECT_GE(refused, 9);
  EXPECT_LE(refused, 12);
  clients.clear();
  EXPECT_TRUE(eventually([&] {
    return s.post("/tokenize", {{"prompt", std::string(50'000, 'x')}}).status == 200;
  }));
}

TEST(ServeHttp, ConnectionsAreLimitedAndMakeRoomWhenTheyEnd) {
  harness::ServerOptions o = quick_options();
  o.http.max_connections = 4;
  const Served s("", o);
  std::vector<std::unique_ptr<Client>> held;
  for (int i = 0; i < 4; ++i) {
    held.push_back(std::make_unique<Client>(s.port()));
    EXPECT_EQ(held.back()->request("GET", "/health").status, 200);
  }
  Client fifth(s.port());
  const Response r = fifth.request("GET", "/health");
  EXPECT_EQ(r.status, 503);
  EXPECT_EQ(r.header("Retry-After"), "1");
  held.clear();
  EXPECT_TRUE(eventually([&] { return s.get("/health").status == 200; }));
}

TEST(ServeHttp, SlowAndIdleClientsAreLetGo) {
  harness::ServerOptions o = quick_options();
  o.http.read_seconds = 0.2;
  o.http.idle_seconds = 0.4;
  o.http.request_seconds = 0.3;
  const Served s("ttft=3000", o);
  Client slow(s.port()), idle(s.port()), long_answer(s.port());
  slow.send("GET /health HTTP/1.1\r\nHo");
  long_answer.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 14\r\n"
      "\r\n{\"prompt\":\"x\"}");
  EXPECT_EQ(slow.response().status, 408);
  const Response r = long_answer.response();
  EXPECT_EQ(r.status, 503);
  EXPECT_EQ(r.json()["error"]["code"], "timeout");
  EXPECT_TRUE(idle.closed());
  EXPECT_TRUE(idle.in().empty());
}

TEST(ServeHttp, Http10GetsAnEndByClosing) {
  const Served s;
  Client c(s.port());
  const std::string body = completion("x", {{"stream", true}, {"max_tokens", 5}}).dump();
  c.send("POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body);
  const Response r = c.response();
  EXPECT_EQ(r.status, 200);
  EXPECT_TRUE(r.header("Transfer-Encoding").empty());
  EXPECT_TRUE(r.complete);
  EXPECT_EQ(r.events().back(), "[DONE]");
}

TEST(ServeHttp, AClientThatGoesEndsItsSequence) {
  const Served s("tpot=5,ttft=5");
  for (const bool reset : {false, true}) {
    const double before = s.metric("vllm:request_success_total", ",finished_reason=\"abort\"");
    Client c(s.port());
    const std::string body =
        completion("x", {{"stream", !reset}, {"max_tokens", 20000}, {"ignore_eos", true}}).dump();
    c.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " +
           std::to_string(body.size()) + "\r\n\r\n" + body);
    ASSERT_TRUE(eventually([&] { return s.engine->statistics().running == 1; }));
    if (reset)
      c.reset();
    else
      c.close();
    EXPECT_TRUE(eventually([&] { return s.engine->statistics().running == 0; }));
    EXPECT_EQ(s.metric("vllm:request_success_total", ",finished_reason=\"abort\""), before + 1);
  }
}

TEST(ServeHttp, AClientThatDoesNotReadIsLetGo) {
  harness::ServerOptions o = quick_options();
  o.http.write_seconds = 0.3;
  const Served s("burst=10000", o);
  Client c(s.port());
  c.keep_little();
  // About 9 MB of logprobs: more than the system buffers.
  const std::string body = Json{
      {"messages", {{{"role", "user"}, {"content", "x"}}}},
      {"temperature", 0},
      {"max_tokens", 6000},
      {"ignore_eos", true},
      {"logprobs", true},
      {"top_logprobs", 20}}.dump();
  c.send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body);
  ASSERT_TRUE(
      eventually([&] { return s.metric("vllm:request_success_total", ",finished_reason=\"length\"") == 1; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  EXPECT_TRUE(c.closed());
  EXPECT_TRUE(c.was_reset());
}

TEST(ServeHttp, ShutdownFinishesWhatRuns) {
  Served s("ttft=50,tpot=2");
  Client streaming(s.port()), idle(s.port());
  EXPECT_EQ(idle.request("GET", "/health").status, 200);
  Response r;
  std::thread reader([&] {
    r = streaming.post("/v1/completions", completion("x", {{"stream", true}, {"max_tokens", 50}}));
  });
  ASSERT_TRUE(eventually([&] { return s.engine->statistics().running == 1; }));
  s.server.stop();
  reader.join();
  EXPECT_EQ(r.status, 200);
  EXPECT_TRUE(r.complete);
  EXPECT_EQ(r.events().back(), "[DONE]");
  EXPECT_TRUE(idle.closed());
  EXPECT_FALSE(Client(s.port()).connected());
}

TEST(ServeHttp, ShutdownHasALimitAndCanBeAtOnce) {
  for (const bool at_once : {false, true}) {
    harness::ServerOptions o = quick_options();
    o.http.drain_seconds = at_once ? 1000 : 0.2;
    Served s("ttft=20000", o);
    Client c(s.port());
    std::thread reader([&] { EXPECT_EQ(c.post("/v1/completions", completion("x")).status, 0); });
    ASSERT_TRUE(eventually([&] { return s.engine->statistics().running == 1; }));
    const auto start = std::chrono::steady_clock::now();
    if (at_once)
      s.server.stop_at_once();
    else
      s.server.stop();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
    reader.join();
  }
}

TEST(ServeHttp, AnAddressInUseIsAUsageError) {
  const Served s;
  harness::ServerOptions o;
  o.http.port = s.port();
  EXPECT_THROW(harness::Server(*s.engine, o), std::runtime_error);
  o.http.host = "nowhere.invalid";
  EXPECT_THROW(harness::Server(*s.engine, o), std::runtime_error);
}

}  // namespace
