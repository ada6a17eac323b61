// Many clients at once, clients of a library, and requests that a broken or hostile client sends.
#include <curl/curl.h>

#include <cstdlib>
#include <fstream>

#include "harness/random.h"
#include "serve_test_support.h"

namespace {

using namespace moecheck;
using namespace moecheck::serve_test;
using harness::Random;

double resident_mib() {
  std::ifstream file("/proc/self/statm");
  double pages = 0, resident = 0;
  file >> pages >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1048576;
}

TEST(ServeLoad, TwoHundredStreamsAtOnce) {
  constexpr int kClients = 200;
  const Served s("ttft=3000,tpot=3");  // long enough for all to be sent on a slow machine
  std::vector<std::unique_ptr<Client>> clients;
  const auto body = [](int i) {
    return completion("Question: number " + std::to_string(i) + "?\nAnswer:",
                      {{"max_tokens", 20}, {"ignore_eos", true}});
  };
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(std::make_unique<Client>(s.port()));
    Json streamed = body(i);
    streamed["stream"] = true;
    const std::string text = streamed.dump();
    ASSERT_TRUE(clients.back()->send(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " +
        std::to_string(text.size()) + "\r\n\r\n" + text));
  }
  EXPECT_TRUE(
      eventually([&] { return s.engine->statistics().running == kClients; }, 20));  // none waits for another
  const Served plain;
  for (int i = 0; i < kClients; ++i) {
    const Response r = clients[static_cast<std::size_t>(i)]->response();
    ASSERT_TRUE(r.complete) << i;
    std::string text;
    for (const std::string& e : r.events())
      if (e != "[DONE]") text += Json::parse(e)["choices"][0]["text"].get<std::string>();
    if (i % 20 == 0) {
      EXPECT_EQ(text, plain.post("/v1/completions", body(i)).json()["choices"][0]["text"]);
    }
    EXPECT_EQ(r.events().back(), "[DONE]");
  }
  EXPECT_EQ(s.metric("vllm:generation_tokens_total"), kClients * 20);
}

TEST(ServeLoad, LibcurlWithOneHandleForAll) {
  const Served s;
  CURL* curl = curl_easy_init();
  ASSERT_NE(curl, nullptr);
  curl_slist* headers = curl_slist_append(nullptr, "Content-Type: application/json");
  headers = curl_slist_append(headers, "Expect: 100-continue");
  const std::string url = "http://127.0.0.1:" + std::to_string(s.port()) + "/v1/completions";
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT, 10L);
  std::string got;
  const curl_write_callback keep = [](char* data, std::size_t size, std::size_t n, void* to) {
    static_cast<std::string*>(to)->append(data, size * n);
    return size * n;
  };
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, keep);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &got);
  long connections = 0;
  for (int i = 0; i < 50; ++i) {
    got.clear();
    // Some bodies are long enough to come in pieces.
    const std::string body =
        completion(std::string(i % 5 == 0 ? 30'000 : 10, 'x'), {{"stream", i % 2 == 0}}).dump();
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, static_cast<long>(body.size()));
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body.c_str());
    ASSERT_EQ(curl_easy_perform(curl), CURLE_OK) << i;
    long status = 0, opened = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(curl, CURLINFO_NUM_CONNECTS, &opened);
    EXPECT_EQ(status, 200) << got;
    connections += opened;
    if (i % 2 == 0) {
      EXPECT_TRUE(got.ends_with("data: [DONE]\n\n"));
    }
  }
  EXPECT_EQ(connections, 1);
  curl_slist_free_all(headers);
  curl_easy_cleanup(curl);
}

// ---- Malformed requests

std::string valid_request(const Random& random) {
  static const Json kBodies[] = {
      completion("Question: \u20ac?", {{"stream", true}, {"stop", {"a", "b"}}, {"max_tokens", 20}}),
      {{"prompt", {{1, 2}, {3}}}, {"n", 2}, {"logprobs", 2}, {"echo", true}, {"seed", 5}, {"max_tokens", 3}},
      {{"messages", {{{"role", "user"}, {"content", {{{"type", "text"}, {"text", "x"}}}}}}},
       {"logprobs", true},
       {"top_logprobs", 2},
       {"stream", true},
       {"stream_options", {{"include_usage", true}}},
       {"max_completion_tokens", 5}},
      {{"prompt", "x"}, {"return_token_strs", true}},
      {{"tokens", {1, 2, 256}}},
  };
  static const char* kPaths[] = {"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize",
                                 "/v1/models"};
  static const char* kMatching[] = {kPaths[0], kPaths[0], kPaths[1], kPaths[2], kPaths[3]};
  const auto pick = [&](std::uint64_t i, auto& list) {
    return list[static_cast<std::size_t>(
        random.integer(i, 0, static_cast<std::int64_t>(std::size(list)) - 1))];
  };
  const auto which = static_cast<std::size_t>(random.integer(0, 0, 4));
  Json object = kBodies[which];
  if (random.uniform(5) < 0.6) {  // JSON still, but a member is another one's, or something strange
    static const char* kMembers[] = {"prompt", "messages", "max_tokens", "temperature", "top_p",
                                     "n",      "stop",     "seed",       "stream",      "logprobs",
                                     "echo",   "model",    "tokens"};
    static const Json kValues[] = {nullptr,
                                   true,
                                   -1,
                                   0,
                                   1,
                                   3,
                                   1e300,
                                   1.5,
                                   18446744073709551615U,
                                   INT64_MIN,
                                   "",
                                   "x",
                                   "\u0000",
                                   std::string(5000, 'y'),
                                   Json::array(),
                                   Json::object(),
                                   {1, 2, 3},
                                   {"a", "b"},
                                   {{1}, {2}},
                                   {{{"role", "user"}, {"content", "x"}}},
                                   {nullptr, {{}}},
                                   {{"type", "text"}}};
    for (std::uint64_t i = 6; i < 10; i += 2) object[pick(i, kMembers)] = pick(i + 1, kValues);
  }
  const std::string body = object.dump();
  const bool chunked = random.uniform(1) < 0.3;
  std::string text = std::string(random.uniform(2) < 0.9 ? "POST " : "GET ") +
                     (random.uniform(4) < 0.8 ? kMatching[which] : pick(3, kPaths)) +
                     " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: */*\r\n";
  if (!chunked) return text + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  char size[32];
  std::snprintf(size, sizeof size, "%zx", body.size());
  return text + "Transfer-Encoding: chunked\r\n\r\n" + size + "\r\n" + body + "\r\n0\r\n\r\n";
}

std::string mutated(std::string text, const Random& random) {
  static const std::string kTokens[] = {"\r\n",
                                        "\r\n\r\n",
                                        "\n",
                                        "\0",
                                        "{",
                                        "}",
                                        "[",
                                        "\"",
                                        "\xff",
                                        "\xe2\x82",
                                        "-1",
                                        "1e99",
                                        "null",
                                        "99999999",
                                        "\\ud800",
                                        "\\u0000",
                                        "HTTP/",
                                        "chunked",
                                        ": ",
                                        "%00",
                                        "../..",
                                        "POST / HTTP/1.1\r\n",
                                        "Content-Length: 5\r\n",
                                        std::string(300, 'A')};
  const std::int64_t edits = random.integer(100, 1, 6);
  for (std::int64_t e = 0; e < edits && !text.empty(); ++e) {
    const auto draw = static_cast<std::uint64_t>(101 + e * 4);
    const auto at =
        static_cast<std::size_t>(random.integer(draw, 0, static_cast<std::int64_t>(text.size()) - 1));
    const auto length = static_cast<std::size_t>(random.integer(draw + 1, 1, 20));
    switch (random.integer(draw + 2, 0, 5)) {
      case 0:
        text[at] = static_cast<char>(random.integer(draw + 3, 0, 255));
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, text.substr(at, length));
        break;
      case 3:
        text.insert(at, kTokens[static_cast<std::size_t>(
                            random.integer(draw + 3, 0, static_cast<std::int64_t>(std::size(kTokens)) - 1))]);
        break;
      case 4:
        text.resize(at);
        break;
      default:
        text[at] = static_cast<char>(text[at] ^ (1 << random.integer(draw + 3, 0, 7)));
        break;
    }
  }
  return text;
}

// MOECHECK_FUZZ_REQUESTS=10000 for the full run.
TEST(ServeLoad, MutatedRequestsAreRefusedAndNothingElseHappens) {
  const char* wanted = std::getenv("MOECHECK_FUZZ_REQUESTS");
  const int requests = wanted != nullptr ? std::atoi(wanted) : 1500;
  harness::ServerOptions o = quick_options();
  o.http.read_seconds = 1;
  o.http.max_body_bytes = 1 << 20;
  const Served s("max_len=1000", o);
  const double before = resident_mib();
  int refused = 0, answered = 0, silent = 0;
  for (int i = 0; i < requests; ++i) {
    const Random random(static_cast<std::uint64_t>(i), "fuzz");
    Client c(s.port());
    ASSERT_TRUE(c.connected()) << i;
    const std::string text = valid_request(random);
    c.send(random.uniform(99) < 0.7 ? mutated(text, random) : text);
    // What is whole is answered at once; the rest is told that no more comes.
    if (c.receive(10)) c.receive(1);
    c.shut_down_sending();
    while (c.receive(3000)) {
    }
    const std::string& in = c.in();
    ASSERT_TRUE(in.empty() || in.starts_with("HTTP/1.1 ")) << i << in;
    const int status = in.empty() ? 0 : std::stoi(in.substr(9, 3));
    ASSERT_TRUE(status == 0 || status == 100 || status == 200 || status == 204 ||
                (status >= 400 && status < 500) || status == 501 || status == 505)
        << i << in;
    (status >= 400 ? refused : status == 0 ? silent : answered)++;
  }
  EXPECT_GT(refused, requests / 3);
  EXPECT_GT(answered, 0);
  EXPECT_EQ(s.post("/v1/completions", completion("still there")).status, 200);
  EXPECT_TRUE(eventually([&] { return s.engine->statistics().running == 0; }));
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr double kGrowth = 1000;  // a sanitizer keeps what was freed
#else
  constexpr double kGrowth = 50;
#endif
  EXPECT_LT(resident_mib() - before, kGrowth) << "MiB";
  RecordProperty("grown_mib", std::to_string(resident_mib() - before));
  RecordProperty("refused", refused);
  RecordProperty("answered", answered);
  RecordProperty("silent", silent);
}

}  // namespace
