// The engine without a model: its delays are what it was told, its texts repeat.
#include <condition_variable>
#include <fstream>
#include <mutex>

#include "serve_test_support.h"

namespace {

using namespace moecheck;
using namespace moecheck::harness;
using Steady = std::chrono::steady_clock;

struct Ran {
  std::string text;
  std::vector<double> ms;  // of each update, since submission
  std::vector<std::size_t> sizes;
  Finish finish = Finish::kNo;
};

// Submits all at once and waits for all.
std::vector<Ran> run(Engine& engine, const std::vector<GenerationRequest>& requests) {
  std::vector<Ran> all(requests.size());
  std::mutex mutex;
  std::condition_variable ended;
  std::size_t left = requests.size();
  const auto start = Steady::now();
  for (std::size_t i = 0; i < requests.size(); ++i)
    engine.submit(requests[i], [&, i](const GenerationUpdate& u) {
      const std::lock_guard lock(mutex);
      Ran& r = all[i];
      for (const TokenId t : u.tokens) r.text += engine.tokenizer().bytes(t);
      r.ms.push_back(std::chrono::duration<double, std::milli>(Steady::now() - start).count());
      r.sizes.push_back(u.tokens.size());
      r.finish = u.finish;
      if (u.finish != Finish::kNo && --left == 0) ended.notify_all();
      return true;
    });
  std::unique_lock lock(mutex);
  ended.wait(lock, [&] { return left == 0; });
  return all;
}

GenerationRequest request(const std::string& prompt, std::int64_t max_tokens = 20) {
  GenerationRequest r;
  r.prompt = byte_tokenizer().encode(prompt);
  r.max_tokens = max_tokens;
  r.ignore_eos = true;
  return r;
}

TEST(ServeScripted, DelaysAreAsToldAndDoNotAddUp) {
  const auto engine = make_scripted_engine(parse_scripted("ttft=40,tpot=5"));
  const Ran r = run(*engine, {request("x")})[0];
  ASSERT_EQ(r.ms.size(), 20U);
  for (std::size_t i = 0; i < r.ms.size(); ++i) EXPECT_GE(r.ms[i], 40 + 5.0 * static_cast<double>(i) - 0.01);
  // A busy machine may delay single tokens, never all that follow: the best of the last few is on time.
  double lateness = 1e9;
  for (std::size_t i = 10; i < 20; ++i)
    lateness = std::min(lateness, r.ms[i] - (40 + 5.0 * static_cast<double>(i)));
  EXPECT_LT(lateness, 4);
}

TEST(ServeScripted, SlotsMakeOthersWait) {
  const auto engine = make_scripted_engine(parse_scripted("ttft=20,tpot=1,slots=2"));
  const auto all = run(*engine, std::vector<GenerationRequest>(6, request("x", 11)));
  EXPECT_GE(all[5].ms.front(), 20 + 2 * 30 - 0.1);  // third round
  EXPECT_GE(all[5].ms.back(), 90 - 0.1);
}

TEST(ServeScripted, TextsAreAFunctionOfThePromptAndTheSeed) {
  const auto a = make_scripted_engine({}), b = make_scripted_engine({});
  const auto first = run(*a, {request("x"), request("y")}), again = run(*b, {request("y"), request("x")});
  EXPECT_EQ(first[0].text, again[1].text);
  EXPECT_EQ(first[1].text, again[0].text);
  GenerationRequest sampled = request("x");
  sampled.sampling.temperature = 1;
  sampled.sampling.seed = 3;
  EXPECT_NE(run(*a, {sampled})[0].text, first[0].text);
  GenerationRequest ends = request("x", 1000);
  ends.ignore_eos = false;
  const Ran r = run(*a, {ends})[0];
  EXPECT_EQ(r.finish, Finish::kEnd);
  EXPECT_NE(r.text.find("\n#### "), std::string::npos);
}

TEST(ServeScripted, SpeculationDeliversSeveralTokens) {
  const auto engine = make_scripted_engine(parse_scripted("draft=3,acceptance=0.5"));
  const Ran r = run(*engine, {request("x", 4000)})[0];
  const EngineStatistics s = engine->statistics();
  EXPECT_EQ(s.generation_tokens, 4000);
  EXPECT_EQ(s.drafts, static_cast<std::int64_t>(r.sizes.size()));
  EXPECT_NEAR(static_cast<double>(s.accepted_per_position[0]) / static_cast<double>(s.drafts), 0.5, 0.05);
  EXPECT_NEAR(static_cast<double>(s.accepted_per_position[2]) / static_cast<double>(s.drafts), 0.125, 0.03);
}

TEST(ServeScripted, AnswersComeFromAFileAsOftenAsTold) {
  const std::string path =
      testing::TempDir() + "serve_scripted_answers_" + std::to_string(getpid()) + ".jsonl";
  {
    std::ofstream file(path);
    for (int i = 0; i < 400; ++i)
      file << nlohmann::json{{"question", "How many " + std::to_string(i) + "?"},
                             {"answer", "So many.\n#### " + std::to_string(i)}}
                  .dump()
           << "\n";
  }
  const auto engine = make_scripted_engine(parse_scripted("accuracy=0.75,answers=" + path));
  int right = 0;
  for (int i = 0; i < 400; ++i) {
    GenerationRequest r =
        request("Question: shot\nAnswer: 5\n\nQuestion: How many " + std::to_string(i) + "?\nAnswer:", 100);
    r.ignore_eos = false;
    right += run(*engine, {r})[0].text == " So many.\n#### " + std::to_string(i) ? 1 : 0;
  }
  EXPECT_NEAR(right, 300, 35);
  std::remove(path.c_str());
}

TEST(ServeScripted, FalseEndsARequest) {
  const auto engine = make_scripted_engine(parse_scripted("ttft=1,tpot=1"));
  std::atomic<int> calls{0};
  engine->submit(request("x", 10000), [&](const GenerationUpdate&) { return ++calls < 3; });
  EXPECT_TRUE(serve_test::eventually([&] { return calls == 3 && engine->statistics().running == 0; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(calls, 3);
}

TEST(ServeScripted, WrongOptionsSayWhatThereIs) {
  for (const char* text :
       {"ttft", "ttft=x", "ttft=-1", "speed=1", "acceptance=2", "draft=64", "burst=0", "echo=2"})
    EXPECT_THROW(parse_scripted(text), std::runtime_error) << text;
  EXPECT_THROW(make_scripted_engine(parse_scripted("answers=/nonexistent")), std::runtime_error);
}

}  // namespace
