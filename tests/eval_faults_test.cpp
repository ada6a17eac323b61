// Every fault that a server or a network may show an evaluation: nothing is lost, nothing is graded that was no whole
// answer, and the samples in the end are those of a run without faults.
#include <gtest/gtest.h>

#include "eval_test_support.h"
#include "harness/eval/evaluation.h"

namespace moecheck::harness::eval {
namespace {

using test::EvalSetup;
using test::Fault;
using test::ModelServer;

struct Answer {
  std::string completion, finish, extracted;
  bool right;
  bool operator==(const Answer&) const = default;
};

std::vector<Answer> answers(const Evaluation& e) {
  std::vector<Answer> all;
  for (const Sample& s : e.run_of_arm(0).samples) {
    EXPECT_FALSE(s.failed) << s.doc_id << ": " << s.error;
    all.push_back({s.completion, s.finish_reason, s.scores.at(0).extracted, s.scores.at(0).right});
  }
  return all;
}

std::unique_ptr<Evaluation> run(const EvalSetup& setup, const std::string& url,
                                End expected = End::kComplete) {
  auto e = setup.evaluation({url});
  http::Client client;
  EXPECT_EQ(e->run(client, [] { return true; }), expected);
  return e;
}

struct FaultCase {
  const char* name;
  Fault fault;
  bool retried;       // the client must notice and ask again
  const char* error;  // name(ErrorKind) under which the attempt is counted: stream, plain
  const char* plain_error;
};
void PrintTo(const FaultCase& c, std::ostream* out) { *out << c.name; }

class EvalFaults : public testing::TestWithParam<std::tuple<FaultCase, bool, Api>> {};

TEST_P(EvalFaults, NothingIsLost) {
  const auto& [fault, stream, api] = GetParam();
  EvalSetup setup(20, api);
  setup.settings.stream = stream;
  if (fault.fault == Fault::kSilent) setup.settings.limits.total_s = 0.25;
  const ModelServer sound;
  const std::vector<Answer> expected = answers(*run(setup, sound.url()));
  ASSERT_EQ(expected.size(), 20u);
  // Every third question meets the fault, and half of those meet it twice.
  const auto meets = [&fault](int question, int attempt) {
    return question % 3 == 0 && attempt < 1 + question % 2 ? fault.fault : Fault::kNone;
  };
  const ModelServer faulty(meets);
  const auto e = run(setup, faulty.url());
  EXPECT_EQ(answers(*e), expected);
  const Arm& arm = e->arms()[0];
  int attempts = 0, met = 0;
  for (const auto& [question, times] : faulty.asked()) {
    attempts += times;
    for (int attempt = 0; attempt < times; ++attempt) met += meets(question, attempt) != Fault::kNone;
  }
  EXPECT_GE(met, 7);
  const std::string kind = stream ? fault.error : fault.plain_error;
  // A reset on a kept connection may be taken for its end, and the request sent again by the transport.
  const bool by_transport = fault.fault == Fault::kReset || fault.fault == Fault::kClose;
  if (fault.retried && !kind.empty() && !by_transport) {
    EXPECT_EQ(arm.retries, met);
    EXPECT_EQ(arm.errors, (std::map<std::string, std::int64_t>{{kind, met}}));
  } else if (!by_transport) {
    EXPECT_EQ(arm.retries, 0);
    EXPECT_EQ(attempts, 20);
  }
}

const FaultCase kCases[] = {
    {"reset", Fault::kReset, true, "reset", "reset"},
    {"closed", Fault::kClose, true, "reset", "reset"},
    {"too_many_requests", Fault::kTooMany, true, "rate-limited", "rate-limited"},
    {"too_many_requests_date", Fault::kTooManyDate, true, "rate-limited", "rate-limited"},
    {"unavailable", Fault::kUnavailable, true, "server-error", "server-error"},
    {"internal_error", Fault::kBroken, true, "server-error", "server-error"},
    {"silent", Fault::kSilent, true, "timeout", "timeout"},
    {"slow_first_token", Fault::kSlowFirst, false, "", ""},
    {"truncated", Fault::kTruncated, true, "cut-short", "cut-short"},
    {"cut", Fault::kCut, true, "cut-short", "invalid-json"},
    {"no_done", Fault::kNoDone, false, "",
     ""},  // whole by finish_reason and the last chunk; once taken for cut
    {"no_finish_reason", Fault::kNoFinish, true, "cut-short", "invalid-response"},
    {"invalid_json", Fault::kInvalidJson, true, "invalid-json", "invalid-json"},
    {"html", Fault::kHtml, true, "wrong-content-type", "wrong-content-type"},
    {"error_event", Fault::kErrorEvent, true, "error-in-stream", "error-in-stream"},
    {"split_utf8", Fault::kSplit, false, "", ""},
    {"multi_token_chunks", Fault::kMultiToken, false, "", ""},
    {"no_usage", Fault::kNoUsage, false, "", ""},
};

INSTANTIATE_TEST_SUITE_P(All, EvalFaults,
                         testing::Combine(testing::ValuesIn(kCases), testing::Bool(),
                                          testing::Values(Api::kCompletions, Api::kChat)),
                         [](const auto& tested) {
                           return std::string(std::get<0>(tested.param).name) +
                                  (std::get<1>(tested.param) ? "_stream" : "_plain") +
                                  (std::get<2>(tested.param) == Api::kChat ? "_chat" : "_completions");
                         });

TEST(EvalFaults, AllAtOnce) {
  EvalSetup setup(60);
  setup.settings.stream = true;
  setup.settings.limits.total_s = 1;
  const ModelServer sound, faulty([](int question, int attempt) {
    return attempt < 2
               ? kCases[static_cast<std::size_t>(question * 7 + attempt * 5) % std::size(kCases)].fault
               : Fault::kNone;
  });
  EXPECT_EQ(answers(*run(setup, faulty.url())), answers(*run(setup, sound.url())));
}

// Accepted, but never silently: the samples say which answers came without [DONE].
TEST(EvalFaults, AMissingDoneIsRecorded) {
  EvalSetup setup(12);
  setup.settings.stream = true;
  const ModelServer server(
      [](int question, int) { return question % 4 == 0 ? Fault::kNoDone : Fault::kNone; });
  const auto e = run(setup, server.url());
  const harness::Run r = e->run_of_arm(0);
  for (const Sample& s : r.samples) EXPECT_EQ(s.missing_done, s.doc_id % 4 == 0) << s.doc_id;
  EXPECT_EQ(summarize(r).missing_done, 3);
}

TEST(EvalFaults, RetryAfterIsWaitedFor) {
  EvalSetup setup(1);
  http::Nanoseconds first = 0, second = 0;
  test::ScriptedServer server([&](test::Exchange& e) {
    (first == 0 ? first : second) = http::now();
    if (second == 0) return e.respond(429, "{}", "Content-Type: application/json\r\nRetry-After: 1\r\n");
    e.respond(200, R"({"choices":[{"text":" 5","finish_reason":"stop"}]})");
  });
  run(setup, server.url());
  EXPECT_GE(second - first, http::kSecond);
}

TEST(EvalFaults, AFailedRequestIsNeitherRightNorWrong) {
  EvalSetup setup(30);
  setup.settings.retry.max_retries = 2;
  const ModelServer server(
      [](int question, int) { return question == 7 || question == 14 ? Fault::kBroken : Fault::kNone; });
  const auto e = run(setup, server.url());
  EXPECT_EQ(e->arms()[0].failed, 2);
  EXPECT_EQ(e->arms()[0].answered, 28);
  EXPECT_EQ(server.asked().at(7), 3);
  const harness::Run r = e->run_of_arm(0);
  const Summary sum = summarize(r);
  EXPECT_EQ(sum.failed, 2);
  EXPECT_EQ(sum.filters[0].accuracy.n, 28);
  EXPECT_EQ(sum.filters[0].accuracy.right, 23);  // 24 of 30 are right, question 7 would be, 14 would not
  ASSERT_EQ(r.samples.size(), 30u);
  EXPECT_TRUE(r.samples[7].failed);
  EXPECT_EQ(r.samples[7].scores[0].outcome, Outcome::kFailed);
  EXPECT_NE(r.samples[7].error.find("500"), std::string::npos);
}

TEST(EvalFaults, AWrongKeyEndsTheRunSoon) {
  EvalSetup setup(30);
  std::atomic<int> asked{0};
  test::ScriptedServer server([&](test::Exchange& e) {
    ++asked;
    e.respond(401, R"({"error":{"message":"no such key"}})");
  });
  const auto e = run(setup, server.url(), End::kNoAnswers);
  EXPECT_LE(asked, 5 + 8);
  EXPECT_NE(e->arms()[0].last_error.find("no such key"), std::string::npos);
}

TEST(EvalFaults, AServerThatIsNotThereEndsTheRun) {
  EvalSetup setup(30);
  setup.settings.retry.max_retries = 2;
  std::string url;
  {
    url = test::ScriptedServer([](test::Exchange&) {}).url();
  }
  const auto e = run(setup, url, End::kNoAnswers);
  EXPECT_EQ(e->arms()[0].answered, 0);
  EXPECT_NE(e->arms()[0].last_error.find("refused"), std::string::npos);
}

TEST(EvalFaults, AServerThatComesBackIsUsedAgain) {
  EvalSetup setup(30);
  setup.settings.retry.max_retries = 50;
  const http::Nanoseconds back = http::now() + http::kSecond / 2;
  const ModelServer server([back](int, int) { return http::now() < back ? Fault::kReset : Fault::kNone; });
  EXPECT_EQ(answers(*run(setup, server.url())).size(), 30u);
}

}  // namespace
}  // namespace moecheck::harness::eval
