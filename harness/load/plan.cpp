#include "harness/load/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/random.h"
#include "harness/tasks/task.h"
#include "harness/text.h"

namespace moecheck::harness::load {
namespace {

using Json = nlohmann::json;

bool by_length(const std::string& dataset) { return dataset == "random" || dataset == "prefix_repetition"; }

std::pair<double, double> range_ratios(const std::string& text) {
  const Json j = Json::parse(text, nullptr, false);
  if (j.is_number()) return {j.get<double>(), j.get<double>()};
  if (j.is_object()) return {j.value("input", 0.0), j.value("output", 0.0)};
  throw UsageError(fmt::format("range ratio '{}' is neither a number nor {{\"input\": r, \"output\": r}}",
                               printable(text)));
}

// Another one for each point and repeat: the prompts of one must not be in the prefix cache from another. Both arms of
// a comparison get the same.
std::uint64_t seed_of(const Plan& plan, const SweepPoint& at, std::int64_t repeat) {
  std::uint64_t h = plan.seed;
  for (const std::int64_t v : {at.input_len, at.output_len, at.max_concurrency, repeat})
    h = mix64(h + static_cast<std::uint64_t>(v) + 0x9E3779B97F4A7C15ull);
  return h;
}

std::optional<Vocabulary> vocabulary(const Plan& plan, std::optional<std::int64_t> server_vocab) {
  if (plan.vocab_size > 0) return make_vocabulary(plan.vocab_size, plan.first_id, {});
  if (!plan.tokenizer.empty()) return read_vocabulary(plan.tokenizer);
  if (server_vocab) return make_vocabulary(*server_vocab, plan.first_id, {});
  return {};
}

// Where ids can not be sent: short common words, most of which are one token with the blank before them.
std::string words_of(const std::vector<std::int32_t>& ids) {
  constexpr std::string_view kWords[] = {
      "time",    "year",    "people",   "way",    "day",    "man",    "thing",   "woman",
      "life",    "child",   "world",    "school", "state",  "family", "student", "group",
      "country", "problem", "hand",     "part",   "place",  "case",   "week",    "company",
      "system",  "program", "question", "work",   "number", "night",  "point",   "home"};
  std::string out;
  for (const std::int32_t id : ids) {
    if (!out.empty()) out += ' ';
    out += kWords[static_cast<std::size_t>(id) % std::size(kWords)];
  }
  return out;
}

constexpr std::int64_t kWordVocabulary = 4096;  // of which words_of() makes 32: starts still differ

void as_words(std::vector<LoadRequest>& requests, std::uint64_t seed) {
  const Random random(seed, "words");
  std::uint64_t draw = 0;
  for (LoadRequest& r : requests) {
    if (r.prompt_ids.empty()) continue;
    for (std::int32_t& id : r.prompt_ids)
      id = static_cast<std::int32_t>(random.integer(draw++, 0, kWordVocabulary - 1));
    r.prompt = words_of(r.prompt_ids);
    r.prompt_ids.clear();
  }
}

std::vector<LoadRequest> by_length_load(const Plan& plan, const SweepPoint& at, std::int64_t count,
                                        std::uint64_t seed, const Vocabulary& v, bool warm_up) {
  if (plan.dataset == "prefix_repetition") {
    PrefixLoad load{count, plan.prefixes, plan.repeated_prefix_len, plan.suffix_len, at.output_len, seed};
    return prefix_load(load, v, warm_up);
  }
  const auto [input, output] = range_ratios(plan.range_ratio);
  return random_load({count, at.input_len, at.output_len, plan.prefix_len, input, output, seed}, v, warm_up);
}

// Prompts of a task, its documents in order, again from the first when there are too few. Warm-ups have other shots.
std::vector<LoadRequest> task_load(const Plan& plan, const Task& task, const Dataset& data,
                                   const SweepPoint& at, std::int64_t count, std::int64_t first,
                                   std::uint64_t shots_seed) {
  PromptOptions options;
  options.num_fewshot = plan.num_fewshot;
  options.fewshot_seed = shots_seed;
  const PromptSet prompts = make_prompts(task, data, options);
  std::vector<LoadRequest> out;
  for (std::int64_t i = 0; i < count; ++i) {
    LoadRequest r;
    r.prompt = prompts.prompts[static_cast<std::size_t>((first + i) % std::ssize(prompts.prompts))].text;
    r.max_tokens = at.output_len;
    out.push_back(std::move(r));
  }
  return out;
}

void fill_by_length(Point& p, const Plan& plan, std::int64_t count, std::int64_t warm_ups, http::Api api,
                    std::optional<std::int64_t> server_vocab) {
  const std::uint64_t seed = seed_of(plan, p.at, p.repeat);
  const std::optional<Vocabulary> known = vocabulary(plan, server_vocab);
  const bool words = api == http::Api::kChat || !known;
  const Vocabulary v = known ? *known : make_vocabulary(kWordVocabulary, 0, {});
  p.requests = by_length_load(plan, p.at, count, seed, v, false);
  p.warm_up = by_length_load(plan, p.at, warm_ups, seed, v, true);
  if (words) {
    as_words(p.requests, seed);
    as_words(p.warm_up, seed + 1);
  }
  p.fixed_lengths = true;
  p.load_kind = words ? "random words, lengths approximate" : "random token ids";
  if (plan.dataset == "prefix_repetition") p.load_kind += fmt::format(", {} shared prefixes", plan.prefixes);
  p.load_kind += ": experts and drafts behave unlike on real text";
}

void fill_trace(Point& p, const Plan& plan, std::int64_t warm_ups, std::optional<std::int64_t> server_vocab) {
  const std::optional<Vocabulary> v = vocabulary(plan, server_vocab);
  TraceLoad load{plan.num_prompts, plan.trace_unit, plan.trace_speed, p.at.output_len,
                 seed_of(plan, p.at, p.repeat)};
  p.requests = trace_load(plan.path, load, v ? &*v : nullptr);
  const bool ids = !p.requests.front().prompt_ids.empty();
  if (v && ids) p.warm_up = random_load({warm_ups, 128, 8, 0, 0, 0, plan.seed}, *v, true);
  p.fixed_lengths = ids;
  p.load_kind = fmt::format("{} of {}", plan.dataset == "trace" ? "trace" : "prompts", plan.path);
}

}  // namespace

std::vector<std::pair<SweepPoint, std::int64_t>> points_of(const Plan& plan) {
  std::vector<SweepPoint> sweep = plan.sweep;
  if (sweep.empty()) sweep.push_back({plan.input_len, plan.output_len, plan.max_concurrency});
  std::vector<std::pair<SweepPoint, std::int64_t>> out;
  for (std::int64_t r = 0; r < plan.repeats; ++r)
    for (const SweepPoint& p : sweep) out.emplace_back(p, r);
  return out;
}

Point make_point(const Plan& plan, const SweepPoint& at, std::int64_t repeat, http::Api api,
                 std::optional<std::int64_t> server_vocab) {
  Point p;
  p.at = at;
  p.repeat = repeat;
  const std::int64_t count = plan.prompts_per_slot > 0
                                 ? plan.prompts_per_slot * std::max<std::int64_t>(1, at.max_concurrency)
                                 : plan.num_prompts;
  if (count < 1 || count > 10'000'000)
    throw UsageError(fmt::format("{} prompts: give 1 to 10,000,000", count));
  const std::int64_t warm_ups =
      plan.num_warmups >= 0 ? plan.num_warmups
                            : std::min<std::int64_t>(32, std::max<std::int64_t>(1, at.max_concurrency));
  if (by_length(plan.dataset)) {
    fill_by_length(p, plan, count, warm_ups, api, server_vocab);
  } else if (plan.dataset == "trace" || plan.dataset == "custom") {
    fill_trace(p, plan, warm_ups, server_vocab);
  } else {
    const Task& task = require_task(plan.dataset);
    const Dataset data = read_dataset(plan.path);
    p.requests = task_load(plan, task, data, at, count, repeat * count, 1234);
    p.warm_up = task_load(plan, task, data, at, warm_ups, 0, 4321 + static_cast<std::uint64_t>(repeat));
    p.load_kind = fmt::format("prompts of {}, {}", task.name, data.name);
  }
  const bool own_times =
      std::all_of(p.requests.begin(), p.requests.end(), [](const LoadRequest& r) { return r.due >= 0; });
  if (own_times) {
    for (const LoadRequest& r : p.requests) p.due.push_back(r.due);
  } else {
    Arrivals arrivals = plan.arrivals;
    arrivals.seed = seed_of(plan, at, repeat);
    p.due = arrival_times(arrivals, std::ssize(p.requests));
  }
  return p;
}

std::optional<std::int64_t> ask_vocabulary(const http::Endpoint& endpoint) {
  http::Limits limits;
  limits.connect_s = 5;
  limits.total_s = 10;
  const http::Response r = http::get(endpoint.base + "/models", endpoint.headers(false), limits);
  if (r.failure != http::Failure::kNone || r.status != 200) return {};
  const Json j = Json::parse(r.body, nullptr, false);
  if (!j.is_object() || !j.contains("data") || !j["data"].is_array() || j["data"].empty()) return {};
  const Json& model = j["data"][0];
  for (const Json& place : {model, model.value("meta", Json())})
    for (const char* key : {"n_vocab", "vocab_size"})
      if (place.is_object() && place.contains(key) && place[key].is_number_integer() &&
          place[key].get<std::int64_t>() > 1)
        return place[key].get<std::int64_t>();
  return {};
}

Objectives parse_goodput(const std::vector<std::string>& words) {
  Objectives o;
  for (const std::string& w : words) {
    const std::size_t colon = w.find(':');
    double ms = 0;
    const char* end = w.data() + w.size();
    const bool number = colon != std::string::npos &&
                        std::from_chars(w.data() + colon + 1, end, ms).ptr == end && colon + 1 < w.size();
    const std::string name = w.substr(0, colon);
    std::optional<double>* slot = name == "ttft"   ? &o.ttft
                                  : name == "tpot" ? &o.tpot
                                  : name == "e2el" ? &o.e2el
                                                   : nullptr;
    if (!number || slot == nullptr || !(ms >= 0))
      throw UsageError(
          fmt::format("goodput '{}' is not understood: write ttft:MS, tpot:MS or e2el:MS", printable(w)));
    *slot = ms * 1e-3;
  }
  return o;
}

std::vector<double> parse_percentiles(std::string_view text) {
  std::vector<double> out;
  for (std::string_view rest = text;;) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    const std::string_view word = rest.substr(0, comma);
    double p = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), p);
    if (error != std::errc() || end != word.data() + word.size() || !(p >= 0 && p <= 100))
      throw UsageError(fmt::format("percentiles '{}': '{}' is not in 0 .. 100; write them as 50,90,99",
                                   printable(text), printable(word)));
    out.push_back(p);
    if (comma == rest.size()) return out;
    rest.remove_prefix(comma + 1);
  }
}

}  // namespace moecheck::harness::load
