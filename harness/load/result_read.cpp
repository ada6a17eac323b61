// Saved runs, ours and vLLM's.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/json_error.h"
#include "harness/load/result.h"
#include "harness/text.h"

namespace moecheck::harness::load {
namespace {

using Json = nlohmann::json;

const std::string kRemedy = "; give a file that 'bench serve' wrote";

template <class T>
T get_or(const Json& j, const char* key, T fallback) {
  const auto at = j.find(key);
  return at == j.end() || at->is_null() ? fallback : at->get<T>();
}

std::optional<double> number(const Json& j, const char* key) {
  const auto at = j.find(key);
  if (at == j.end() || !at->is_number()) return {};
  return at->get<double>();
}

bool is_bench(const Json& j) {
  return j.is_object() && j.contains("completed") && j.contains("duration") &&
         j.contains("output_throughput");
}

// "p99.9_ttft_ms" is metric ttft, statistic p99.9.
void read_statistics(const Json& j, SavedBench& b) {
  for (const auto& [key, value] : j.items()) {
    const std::size_t cut = key.find('_');
    if (!value.is_number() || !key.ends_with("_ms") || cut == std::string::npos || cut + 4 > key.size())
      continue;
    const std::string statistic = key.substr(0, cut);
    if (statistic != "mean" && statistic != "median" && statistic != "std" && !statistic.starts_with('p'))
      continue;
    b.statistics.push_back({key.substr(cut + 1, key.size() - cut - 4), statistic, value.get<double>()});
  }
}

void read_arrays(const Json& j, SavedBench& b) {
  if (!j.contains("ttfts") || !j.contains("itls")) return;
  const auto& ttfts = j.at("ttfts");
  const auto& itls = j.at("itls");
  const Json lengths = j.value("output_lens", Json::array()), errors = j.value("errors", Json::array());
  for (std::size_t i = 0; i < std::min(ttfts.size(), itls.size()); ++i) {
    const bool failed =
        (i < errors.size() && errors[i].is_string() && errors[i] != "") || ttfts[i].get<double>() <= 0;
    if (failed) continue;
    const double ttft = ttfts[i].get<double>();
    double e2el = ttft;
    for (const Json& gap : itls[i]) {
      b.itls.push_back(gap.get<double>());
      e2el += b.itls.back();
    }
    b.ttfts.push_back(ttft);
    b.e2els.push_back(e2el);
    if (i < lengths.size() && lengths[i].get<double>() > 1)
      b.tpots.push_back((e2el - ttft) / (lengths[i].get<double>() - 1));
  }
}

void read_ours(const Json& j, SavedBench& b) {
  if (!j.contains("moecheck")) return;
  const Json& m = j.at("moecheck");
  const Json& asked = m.at("asked");
  b.ours = true;
  b.command = get_or<std::string>(asked, "command", "");
  b.base_url = get_or<std::string>(asked, "base_url", "");
  b.dataset = get_or<std::string>(asked, "dataset", "");
  b.load_kind = get_or<std::string>(asked, "load", "");
  b.input_len = get_or<std::int64_t>(asked, "input_len", 0);
  b.output_len = get_or<std::int64_t>(asked, "output_len", 0);
  b.repeat = get_or<std::int64_t>(asked, "repeat", 0);
  b.invalid = m.at("invalid").get<std::vector<std::string>>();
  b.warnings = m.at("warnings").get<std::vector<std::string>>();
  const Json& e = m.at("environment");
  b.env = {get_or<std::string>(e, "version", ""),  get_or<std::string>(e, "commit", ""),
           get_or<std::string>(e, "compiler", ""), get_or<std::string>(e, "build", ""),
           get_or<std::string>(e, "cpu", ""),      get_or<std::string>(e, "os", ""),
           get_or<std::string>(e, "device", ""),   get_or<int>(e, "threads", 0)};
}

SavedBench read_one(const Json& j, const std::string& path) {
  SavedBench b;
  b.path = path;
  b.date = get_or<std::string>(j, "date", "");
  b.backend = get_or<std::string>(j, "backend", get_or<std::string>(j, "endpoint_type", ""));
  b.model = get_or<std::string>(j, "model_id", "");
  b.label = get_or<std::string>(j, "label", "");
  b.num_prompts = get_or<std::int64_t>(j, "num_prompts", 0);
  b.max_concurrency = get_or<std::int64_t>(j, "max_concurrency", 0);
  b.request_rate = number(j, "request_rate").value_or(std::numeric_limits<double>::infinity());
  b.completed = j.at("completed").get<std::int64_t>();
  b.failed = get_or<std::int64_t>(j, "failed", std::max<std::int64_t>(0, b.num_prompts - b.completed));
  b.duration = j.at("duration").get<double>();
  b.request_throughput = get_or<double>(j, "request_throughput", 0);
  b.output_throughput = j.at("output_throughput").get<double>();
  b.total_token_throughput = get_or<double>(j, "total_token_throughput", 0);
  b.acceptance_rate = number(j, "spec_decode_acceptance_rate");
  b.acceptance_length = number(j, "spec_decode_acceptance_length");
  // vLLM does not save the lengths it was asked for: of fixed lengths they are the means.
  if (b.completed > 0) {
    b.input_len = get_or<std::int64_t>(j, "total_input_tokens", 0) / b.completed;
    b.output_len = get_or<std::int64_t>(j, "total_output_tokens", 0) / b.completed;
  }
  read_statistics(j, b);
  read_arrays(j, b);
  read_ours(j, b);
  return b;
}

// The objects of a file: one, a list of them, or one per line, as --append-result leaves them. What is no JSON is a null
// where it need not be, and said otherwise.
std::vector<Json> objects_of(const std::string& path, const std::string& text, bool must) {
  Json whole = Json::parse(text, nullptr, false);
  if (whole.is_array()) return whole.get<std::vector<Json>>();
  if (!whole.is_discarded()) return {std::move(whole)};
  std::vector<Json> all;
  std::size_t line = 0;
  try {
    for (std::size_t at = 0; at < text.size(); ++line) {
      const std::size_t end = std::min(text.find('\n', at), text.size());
      const std::string_view one = std::string_view(text).substr(at, end - at);
      at = end + 1;
      if (one.find_first_not_of(" \t\r") == one.npos) continue;
      all.push_back(Json::parse(one, nullptr, must));
    }
    return all;
  } catch (const Json::exception& e) {
    if (!all.empty()) throw UsageError(json_error_at(path, line + 1, e) + kRemedy);
  }
  try {  // one object over several lines: the place is in the whole text
    return {Json::parse(text)};
  } catch (const Json::exception& e) {
    throw UsageError(json_error_at(path, 0, e) + kRemedy);
  }
}

void read_file(const std::string& path, bool must, std::vector<SavedBench>& out) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw UsageError(fmt::format("cannot read {}: {}", printable(path), std::strerror(errno)));
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const std::vector<Json> all = objects_of(path, text, must);
  const std::size_t before = out.size();
  for (const Json& j : all) {
    if (!is_bench(j)) {
      if (!must) continue;
      throw UsageError(
          fmt::format("{} is no result of 'moecheck bench serve' or 'vllm bench serve': it has no completed, "
                      "duration, output_throughput",
                      printable(path)));
    }
    try {
      out.push_back(read_one(j, path));
    } catch (const Json::exception& e) {
      throw UsageError(fmt::format("{}: {}{}", printable(path), json_error(e), kRemedy));
    }
  }
  if (must && out.size() == before) throw UsageError(fmt::format("{} holds no result", printable(path)));
}

}  // namespace

std::optional<double> SavedBench::statistic(std::string_view metric, std::string_view which) const {
  for (const SavedStatistic& s : statistics)
    if (s.metric == metric && s.statistic == which) return s.milliseconds;
  return {};
}

std::vector<SavedBench> read_benches(const std::string& path) {
  std::vector<SavedBench> out;
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) {
    read_file(path, true, out);
    return out;
  }
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(path, error))
    if (entry.path().extension() == ".json") files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  for (const std::string& f : files) read_file(f, false, out);
  if (out.empty()) throw UsageError(fmt::format("{} has no benchmark result (*.json)", printable(path)));
  return out;
}

}  // namespace moecheck::harness::load
