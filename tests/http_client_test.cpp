// The HTTP client against a server that misbehaves on purpose: what it reports, and that nothing it keeps suffers.
#include "harness/http/client.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "scripted_server.h"

namespace moecheck::harness::http {
namespace {

using test::Exchange;
using test::ScriptedServer;

Response ask(Client& client, Request request) {
  Response answer;
  int times = 0;
  Callbacks callbacks;
  callbacks.done = [&](Response&& r) {
    answer = std::move(r);
    ++times;
  };
  client.start(std::move(request), std::move(callbacks));
  while (client.active() > 0) client.poll(kSecond / 10);
  EXPECT_EQ(times, 1);
  return answer;
}

Response ask(const ScriptedServer& server, Limits limits = {}) {
  Client client;
  return ask(client, {"POST", server.url("/x"), {}, "hello", limits});
}

TEST(HttpClient, AnswersComeBackWhole) {
  ScriptedServer server([](Exchange& e) {
    EXPECT_EQ(e.method, "POST");
    EXPECT_EQ(e.path, "/v1/echo");
    EXPECT_NE(e.head.find("X-Test: 7"), std::string::npos);
    EXPECT_EQ(e.head.find("Expect:"), std::string::npos);
    e.respond(201, e.body, "Content-Type: text/x\r\nX-Twice: a\r\nx-twice:  b \r\n");
  });
  Client client;
  const std::string body(3 << 20, 'q');
  const Nanoseconds before = now();
  const Response r = ask(client, {"POST", server.url("/v1/echo"), {"X-Test: 7"}, body, {}});
  EXPECT_EQ(r.failure, Failure::kNone) << r.error;
  EXPECT_EQ(r.status, 201);
  EXPECT_EQ(r.body, body);
  EXPECT_EQ(r.header("content-TYPE"), "text/x");
  EXPECT_EQ(r.header("X-Twice"), "b");
  EXPECT_EQ(r.header("absent"), "");
  const Timing& t = r.timing;
  EXPECT_LE(before, t.queued);
  EXPECT_LE(t.queued, t.sent);
  EXPECT_LT(t.sent, t.first_byte);
  ASSERT_FALSE(t.reads.empty());
  EXPECT_LE(t.first_byte, t.reads.front().time);
  EXPECT_LE(t.reads.back().time, t.done);
  std::size_t bytes = 0;
  for (const Read& read : t.reads) bytes += read.bytes;
  EXPECT_EQ(bytes, body.size());
}

TEST(HttpClient, ConnectionsAreUsedAgain) {
  ScriptedServer server([](Exchange& e) { e.respond(200, "{}"); });
  Client client;
  for (int i = 0; i < 20; ++i) {
    const Response r = ask(client, {"POST", server.url("/"), {}, "x", {}});
    ASSERT_EQ(r.failure, Failure::kNone);
    EXPECT_EQ(r.reused_connection, i > 0);
  }
  EXPECT_EQ(server.connections(), 1);
  EXPECT_EQ(client.counters().connections, 1u);
  EXPECT_EQ(client.counters().finished, 20u);
}

TEST(HttpClient, AKeptConnectionThatTheServerClosedIsNoFailure) {
  ScriptedServer server([](Exchange& e) {
    e.respond(200, "{}");
    e.close();  // without saying so
  });
  Client client;
  for (int i = 0; i < 5; ++i) {
    const Response r = ask(client, {"POST", server.url("/"), {}, "x", {}});
    EXPECT_EQ(r.failure, Failure::kNone) << r.error;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    client.poll(0);
  }
  EXPECT_EQ(server.connections(), 5);
}

// llama.cpp's server closes after each streamed answer, just when the next request is under way.
TEST(HttpClient, KeptConnectionsMayDieUnderEveryRequest) {
  std::atomic<int> requests = 0;
  ScriptedServer server([&](Exchange& e) {
    if (requests++ % 2 == 0)
      e.respond(200, "{}");
    else
      e.close();  // the second request of each connection: no byte of an answer
  });
  Client client;
  for (int i = 0; i < 40; ++i) {
    const Response r = ask(client, {"POST", server.url("/"), {}, "x", {}});
    ASSERT_EQ(r.failure, Failure::kNone) << i << ": " << r.error;
    EXPECT_EQ(r.resends, i > 0 ? 1 : 0) << i;
  }
}

TEST(HttpClient, NothingListens) {
  int port = 0;
  {
    port = ScriptedServer([](Exchange&) {}).port();
  }
  Client client;
  const Response r = ask(client, {"POST", "http://127.0.0.1:" + std::to_string(port) + "/", {}, "", {}});
  EXPECT_EQ(r.failure, Failure::kRefused);
  EXPECT_NE(r.error, "");
  EXPECT_EQ(r.timing.sent, 0);
}

TEST(HttpClient, NoSuchName) {
  Client client;
  Limits limits;
  limits.connect_s = 5;
  EXPECT_EQ(ask(client, {"GET", "http://no-such-host.invalid/", {}, "", limits}).failure,
            Failure::kUnreachable);
}

TEST(HttpClient, ResetAndClosedBeforeTheAnswer) {
  EXPECT_EQ(ask(ScriptedServer([](Exchange& e) { e.reset(); })).failure, Failure::kReset);
  EXPECT_EQ(ask(ScriptedServer([](Exchange& e) { e.close(); })).failure, Failure::kReset);
}

TEST(HttpClient, CutBodies) {
  const Response length = ask(ScriptedServer([](Exchange& e) {
    e.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this");
    e.close();
  }));
  EXPECT_EQ(length.failure, Failure::kTruncated) << length.error;
  EXPECT_EQ(length.body, "only this");
  const Response chunked = ask(ScriptedServer([](Exchange& e) {
    e.begin_stream();
    e.piece("one");
    e.send("5\r\ntw");
    e.close();
  }));
  EXPECT_EQ(chunked.failure, Failure::kTruncated) << chunked.error;
  EXPECT_EQ(chunked.body, "onetw");
  const Response broken = ask(ScriptedServer([](Exchange& e) {
    e.begin_stream();
    e.send("zz\r\nno number\r\n");
    e.wait(50);
    e.close();
  }));
  EXPECT_EQ(broken.failure, Failure::kMalformed) << broken.error;
  const Response reset = ask(ScriptedServer([](Exchange& e) {
    e.begin_stream();
    e.piece("one");
    e.wait(30);
    e.reset();
  }));
  EXPECT_EQ(reset.failure, Failure::kReset) << reset.error;
  EXPECT_EQ(reset.body, "one");
}

TEST(HttpClient, NotHttp) {
  EXPECT_EQ(ask(ScriptedServer([](Exchange& e) {
              e.send("SSH-2.0-OpenSSH_9.2\r\n\r\n");
              e.close();
            })).failure,
            Failure::kMalformed);
}

TEST(HttpClient, Limits) {
  struct Limits limits;
  limits.total_s = 0.15;
  const ScriptedServer silent([](Exchange& e) { e.wait(10000); });
  const Nanoseconds start = now();
  EXPECT_EQ(ask(silent, limits).failure, Failure::kTotalTimeout);
  EXPECT_LT(now() - start, kSecond);
  limits.total_s = 30;
  limits.first_byte_s = 0.1;
  const Response late = ask(silent, limits);
  EXPECT_EQ(late.failure, Failure::kFirstByteTimeout);
  EXPECT_NE(late.timing.sent, 0);
  // Once something came, the first byte's limit is over.
  EXPECT_EQ(ask(ScriptedServer([](Exchange& e) {
                  e.begin_stream();
                  e.wait(200);
                  e.piece("late");
                  e.end_stream();
                }),
                limits)
                .body,
            "late");
  limits = {};
  limits.max_body_bytes = 1000;
  const Response large =
      ask(ScriptedServer([](Exchange& e) { e.respond(200, std::string(5000, 'x')); }), limits);
  EXPECT_EQ(large.failure, Failure::kTooLarge) << large.error;
}

TEST(HttpClient, AnEndlessDribbleMeetsTheTotalLimit) {
  struct Limits limits;
  limits.total_s = 0.2;
  const Response r = ask(ScriptedServer([](Exchange& e) {
                           e.begin_stream();
                           while (e.open) {
                             e.piece("x");
                             e.wait(5);
                           }
                         }),
                         limits);
  EXPECT_EQ(r.failure, Failure::kTotalTimeout);
  EXPECT_GT(r.body.size(), 3u);
}

TEST(HttpClient, CancelEndsItOnceAndLeavesTheRestAlone) {
  ScriptedServer server([](Exchange& e) {
    if (e.body == "slow") e.wait(5000);
    e.respond(200, "{}");
  });
  Client client;
  std::vector<Failure> ends;
  const auto record = [&](Response&& r) { ends.push_back(r.failure); };
  Callbacks slow, fast;
  slow.done = fast.done = record;
  const Client::Id id = client.start({"POST", server.url(), {}, "slow", {}}, std::move(slow));
  client.start({"POST", server.url(), {}, "fast", {}}, std::move(fast));
  client.at(now() + kSecond / 20, [&] {
    client.cancel(id);
    client.cancel(id);
  });
  client.run();
  EXPECT_EQ(ends, (std::vector<Failure>{Failure::kNone, Failure::kCancelled}));
  client.cancel(id);
  client.cancel(12345);
  client.poll(0);
  EXPECT_EQ(ends.size(), 2u);
}

TEST(HttpClient, PiecesOfOneReadShareItsTime) {
  ScriptedServer server([](Exchange& e) {
    e.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n1\r\nc\r\n");
    e.wait(60);
    e.send("1\r\nd\r\n0\r\n\r\n");
  });
  Client client;
  std::vector<std::pair<std::string, Nanoseconds>> pieces;
  Timing timing;
  Callbacks callbacks;
  callbacks.body = [&](std::string_view bytes, Nanoseconds time) { pieces.emplace_back(bytes, time); };
  callbacks.done = [&](Response&& r) { timing = r.timing; };
  client.start({"POST", server.url(), {}, "", {}}, std::move(callbacks));
  client.run();
  ASSERT_EQ(pieces.size(), 4u);
  EXPECT_EQ(pieces[0].second, pieces[2].second);
  EXPECT_GT(pieces[3].second - pieces[2].second, kSecond / 25);
  ASSERT_EQ(timing.reads.size(), 2u);
  EXPECT_EQ(timing.reads[0].bytes, 3u);
  EXPECT_EQ(timing.reads[0].pieces, 3u);
  EXPECT_EQ(timing.reads[1].time, pieces[3].second);
}

TEST(HttpClient, HundredsAtOnce) {
  // Nobody is answered before all have asked, however slow this machine is; after 20 s they are.
  std::atomic<int> asked{0};
  ScriptedServer server([&](Exchange& e) {
    ++asked;
    for (int i = 0; i < 2000 && asked < 300; ++i) e.wait(10);
    e.respond(200, e.body);
  });
  Client client;
  int right = 0;
  for (int i = 0; i < 300; ++i) {
    Callbacks callbacks;
    callbacks.done = [&right, i](Response&& r) { right += r.body == std::to_string(i); };
    client.start({"POST", server.url(), {}, std::to_string(i), {}}, std::move(callbacks));
  }
  client.run();
  EXPECT_EQ(right, 300);
  EXPECT_EQ(server.most_at_once(), 300);
}

TEST(HttpClient, MoreRequestsThanConnectionsWait) {
  ScriptedServer server([](Exchange& e) {
    e.wait(5);
    e.respond(200, e.body);
  });
  Options options;
  options.max_connections = 4;
  Client client(options);
  int done = 0;
  for (int i = 0; i < 40; ++i) {
    Callbacks callbacks;
    callbacks.done = [&](Response&& r) { done += r.failure == Failure::kNone; };
    client.start({"POST", server.url(), {}, "x", {}}, std::move(callbacks));
  }
  client.run();
  EXPECT_EQ(done, 40);
  EXPECT_LE(server.most_at_once(), 4);
}

TEST(HttpClient, RequestsStartedByAnswersGoOn) {
  ScriptedServer server([](Exchange& e) { e.respond(200, "{}"); });
  Client client;
  int left = 100;
  std::function<void()> next = [&] {
    Callbacks callbacks;
    callbacks.done = [&](Response&& r) {
      EXPECT_EQ(r.failure, Failure::kNone);
      if (--left > 0) next();
    };
    client.start({"POST", server.url(), {}, "x", {}}, std::move(callbacks));
  };
  next();
  client.run();
  EXPECT_EQ(left, 0);
}

// A load client must not be what is measured: 5,000 short requests a second take at most one core of this thread.
TEST(HttpClient, ARequestCostsLittle) {
  ScriptedServer server([](Exchange& e) { e.respond(200, "{}"); });
  Client client;
  int left = 3000, right = 0;
  std::function<void()> next = [&] {
    if (left-- <= 0) return;
    Callbacks callbacks;
    callbacks.done = [&](Response&& r) {
      right += r.status == 200;
      next();
    };
    client.start({"POST", server.url(), {"Content-Type: application/json"}, "{\"prompt\":\"x\"}", {}},
                 std::move(callbacks));
  };
  const auto cpu = [] {
    rusage used{};
    getrusage(RUSAGE_THREAD, &used);
    return static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           1e-6 * static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
  };
  const double before = cpu();
  for (int i = 0; i < 32; ++i) next();
  client.run();
  EXPECT_EQ(right, 3000);
  EXPECT_LT((cpu() - before) / 3000, 200e-6);
  EXPECT_EQ(client.counters().connections, 32u);
}

TEST(HttpClient, TimersFireInOrderAndCanBeForgotten) {
  Client client;
  std::string order;
  const Nanoseconds start = now();
  client.at(start + 20'000'000, [&] { order += 'c'; });
  const Client::Id forgotten = client.at(start + 5'000'000, [&] { order += 'x'; });
  client.at(start + 1'000'000, [&] {
    order += 'a';
    client.at(0, [&] { order += 'b'; });
  });
  client.cancel(forgotten);
  client.run();
  EXPECT_EQ(order, "abc");
  EXPECT_GE(now() - start, 20'000'000);
  EXPECT_GT(client.counters().idle, 10'000'000);
}

TEST(HttpClient, TimersAreExactBelowAMillisecond) {
  Client client;
  std::vector<Nanoseconds> lags;
  for (int i = 1; i <= 20; ++i) {
    const Nanoseconds due = now() + 300'000;
    client.at(due, [&] { lags.push_back(now() - due); });
    client.run();
  }
  std::sort(lags.begin(), lags.end());
  EXPECT_GE(lags.front(), 0);
  EXPECT_LT(lags[lags.size() / 2], 400'000);
}

TEST(HttpClient, WakeEndsAWait) {
  Client client;
  const Nanoseconds start = now();
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    client.wake();
  });
  client.poll(20 * kSecond);
  other.join();
  EXPECT_LT(now() - start, 5 * kSecond);
}

TEST(HttpClient, ExceptionsOfCallbacksComeOutOfPoll) {
  ScriptedServer server([](Exchange& e) { e.respond(200, "{}"); });
  Client client;
  Callbacks callbacks;
  callbacks.body = [](std::string_view, Nanoseconds) { throw std::runtime_error("mine"); };
  callbacks.done = [](Response&&) {};
  client.start({"POST", server.url(), {}, "", {}}, std::move(callbacks));
  EXPECT_THROW(client.run(), std::runtime_error);
  EXPECT_EQ(client.active(), 0u);
}

TEST(HttpClient, DestroyedWithRequestsRunning) {
  ScriptedServer server([](Exchange& e) { e.wait(3000); });
  Client client;
  Callbacks callbacks;
  callbacks.done = [](Response&&) { FAIL() << "called back by the destructor"; };
  client.start({"POST", server.url(), {}, "", {}}, std::move(callbacks));
  client.poll(0);
  client.poll(kSecond / 20);
  EXPECT_EQ(client.active(), 1u);
}

TEST(RetryAfter, SecondsAndDates) {
  const std::int64_t at = 1445412480;  // Wed, 21 Oct 2015 07:28:00 GMT
  EXPECT_EQ(retry_after_seconds("120", at), 120);
  EXPECT_EQ(retry_after_seconds("0", at), 0);
  EXPECT_EQ(retry_after_seconds("1.5", at), 1.5);
  EXPECT_EQ(retry_after_seconds("Wed, 21 Oct 2015 07:28:30 GMT", at), 30);
  EXPECT_EQ(retry_after_seconds("Wed, 21 Oct 2015 07:20:00 GMT", at), 0);
  EXPECT_EQ(retry_after_seconds("", at), std::nullopt);
  EXPECT_EQ(retry_after_seconds("soon", at), std::nullopt);
  EXPECT_EQ(retry_after_seconds("1.2.3", at), std::nullopt);
  EXPECT_EQ(retry_after_seconds("-5", at), std::nullopt);
}

}  // namespace
}  // namespace moecheck::harness::http
