// Counters of servers: the text format and its traps, differences, and what they are checked against.
#include <gtest/gtest.h>

#include "harness/load/prometheus.h"

namespace moecheck::harness::load {
namespace {

TEST(Prometheus, SamplesLabelsAndValues) {
  const auto all = parse_prometheus(
      "# HELP a b\n# TYPE a counter\n"
      "a 1\r\n"
      "a{x=\"1\",y=\"two, }\\\"\\\\ \\n\"} 2.5e3 1700000000000\n"
      "  b_bucket{le=\"+Inf\",} +Inf\n"
      "nan_gauge NaN\n"
      "broken{x=\"1\" 3\nnovalue\n{} 4\nword x\n"
      "last 7");
  ASSERT_EQ(all.size(), 5u);
  EXPECT_EQ(all[0].name, "a");
  EXPECT_EQ(all[1].value, 2500);  // the time stamp after it is no value
  EXPECT_EQ(all[1].labels[1].second, "two, }\"\\ \n");
  EXPECT_EQ(all[2].name, "b_bucket");
  EXPECT_EQ(all[4].value, 7);
}

// As vLLM writes it, two engines, k = 2.
std::string vllm(double drafts, double accepted, double position0, double position1, double generated) {
  const auto line = [](const std::string& name, const std::string& labels, double v) {
    return name + "{" + labels + "} " + std::to_string(v) + "\n";
  };
  std::string out = "# TYPE vllm:spec_decode_num_drafts counter\n";
  for (const std::string& engine : {std::string("engine=\"0\""), std::string("engine=\"1\"")}) {
    out += line("vllm:spec_decode_num_drafts_total", engine, drafts / 2);
    out += line("vllm:spec_decode_num_drafts_created", engine, 1.7e9);
    out += line("vllm:spec_decode_num_draft_tokens_total", engine, drafts);
    out += line("vllm:spec_decode_num_accepted_tokens_total", engine, accepted / 2);
    out +=
        line("vllm:spec_decode_num_accepted_tokens_per_pos_total", engine + ",position=\"0\"", position0 / 2);
    out +=
        line("vllm:spec_decode_num_accepted_tokens_per_pos_total", engine + ",position=\"1\"", position1 / 2);
    out += line("vllm:generation_tokens_total", engine, generated / 2);
    out += line("vllm:generation_tokens_created", engine, 1.7e9);
  }
  out += "other{help=\"vllm:spec_decode_num_drafts_total 99\"} 1\n";
  return out;
}

TEST(Counters, AcceptanceIsOfTheDifference) {
  const Counters before = read_counters(vllm(100, 10, 8, 2, 1000)),
                 after = read_counters(vllm(105, 17, 12, 5, 1012));
  EXPECT_EQ(before.kind, ServerKind::kVllm);
  EXPECT_EQ(*before.drafts, 100) << "summed over engines, without _created and labels";
  const CounterDelta d = difference(before, after);
  EXPECT_EQ(*d.drafts, 5);
  EXPECT_EQ(*d.draft_tokens, 10);
  EXPECT_DOUBLE_EQ(*d.acceptance_rate(), 70);
  EXPECT_DOUBLE_EQ(*d.acceptance_length(), 2.4);
  EXPECT_EQ(d.acceptance_per_position(), (std::vector<double>{0.8, 0.6}));
  EXPECT_EQ(*d.generation_tokens, 12);
  EXPECT_FALSE(d.prompt_tokens);
}

TEST(Counters, ASeriesThatAppearsStartsAtZero) {
  const CounterDelta d =
      difference(read_counters("vllm:num_requests_running 0\n"), read_counters(vllm(5, 7, 4, 3, 12)));
  EXPECT_EQ(*d.drafts, 5);
  EXPECT_FALSE(d.restarted);
}

TEST(Counters, ARestartIsNoDifference) {
  const std::string start = "process_start_time_seconds 1\n";
  EXPECT_TRUE(difference(read_counters(vllm(9, 9, 9, 9, 9)), read_counters(vllm(5, 7, 4, 3, 12))).restarted);
  const CounterDelta d = difference(read_counters(start + vllm(1, 1, 1, 1, 1)),
                                    read_counters("process_start_time_seconds 2\n" + vllm(5, 7, 4, 3, 12)));
  EXPECT_TRUE(d.restarted);
  EXPECT_FALSE(d.acceptance_rate());
  for (const CounterCheck& c : check_counters(d, 0, 11, 0)) EXPECT_FALSE(c.holds);
}

TEST(Counters, OtherServers) {
  const Counters sglang = read_counters(
      "sglang:prompt_tokens_total{model_name=\"m\"} 50\nsglang:generation_tokens_total{model_name=\"m\"} 70\n"
      "sglang:spec_accept_length{tp_rank=\"0\"} 2.5\nsglang:cache_hit_rate 0.25\n");
  EXPECT_EQ(sglang.kind, ServerKind::kSglang);
  const CounterDelta d = difference(sglang, sglang);
  EXPECT_EQ(*d.generation_tokens, 0);
  EXPECT_EQ(*d.gauge_accept_length, 2.5) << "a gauge is not differenced";
  EXPECT_FALSE(d.acceptance_rate());
  const Counters llama =
      read_counters("llamacpp:prompt_tokens_total 50\nllamacpp:tokens_predicted_total 70\n");
  EXPECT_EQ(llama.kind, ServerKind::kLlamaCpp);
  EXPECT_EQ(*llama.generation_tokens, 70);
  EXPECT_EQ(read_counters("<html>404</html>").kind, ServerKind::kUnknown);
}

TEST(Counters, ClientSumsMustMatchExactly) {
  CounterDelta d;
  d.prompt_tokens = 100;
  d.generation_tokens = 51;
  const auto checks = check_counters(d, 100, 50, 5);
  ASSERT_EQ(checks.size(), 2u) << "what the server does not count is not checked";
  EXPECT_TRUE(checks[0].holds);
  EXPECT_FALSE(checks[1].holds);
}

TEST(Counters, PrefixHits) {
  const auto text = [](double q, double h) {
    return "vllm:prefix_cache_queries_total " + std::to_string(q) + "\nvllm:prefix_cache_hits_total " +
           std::to_string(h) + "\n";
  };
  const CounterDelta d = difference(read_counters(text(100, 10)), read_counters(text(300, 60)));
  EXPECT_DOUBLE_EQ(*d.prefix_hit_rate(), 0.25);
  EXPECT_FALSE(difference(read_counters(text(100, 10)), read_counters(text(100, 10))).prefix_hit_rate());
}

}  // namespace
}  // namespace moecheck::harness::load
