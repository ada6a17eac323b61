// Loads and vocabularies from files.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/json_error.h"
#include "harness/load/workload.h"
#include "harness/random.h"
#include "harness/text.h"

namespace moecheck::harness::load {
namespace {

using Json = nlohmann::json;

std::string read_whole(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw UsageError(fmt::format("cannot read {}: {}", printable(path), std::strerror(errno)));
  return {std::istreambuf_iterator<char>(in), {}};
}

constexpr std::int64_t kHashBlock = 512;       // tokens per hash id of Mooncake's traces
constexpr std::int64_t kLongest = 16'000'000;  // tokens: more is a mistake in the file

// Block `hash` is the same tokens wherever it appears; what the hashes do not cover is the line's own.
std::vector<std::int32_t> trace_prompt(const std::vector<std::int64_t>& hashes, std::int64_t length,
                                       std::int64_t line, std::uint64_t seed, const Vocabulary& v) {
  std::vector<std::int32_t> out;
  out.reserve(static_cast<std::size_t>(length));
  for (std::int64_t block = 0; std::ssize(out) < length; ++block) {
    const bool shared = block < std::ssize(hashes);
    const Random random(seed, shared ? fmt::format("block {}", hashes[static_cast<std::size_t>(block)])
                                     : fmt::format("line {} block {}", line, block));
    const std::int64_t n = std::min(kHashBlock, length - std::ssize(out));
    for (std::int64_t j = 0; j < n; ++j)
      out.push_back(v.allowed[static_cast<std::size_t>(
          random.integer(static_cast<std::uint64_t>(j), 0, std::ssize(v.allowed) - 1))]);
  }
  return out;
}

LoadRequest read_line(const Json& j, const TraceLoad& load, std::int64_t line, const Vocabulary* v) {
  LoadRequest r;
  r.max_tokens = j.value("output_length", j.value("output_tokens", load.output_len));
  if (r.max_tokens < 1 || r.max_tokens > kLongest)
    throw UsageError(fmt::format("output length {} is outside 1 .. {}", r.max_tokens, kLongest));
  if (j.contains("timestamp")) {
    r.due = j.at("timestamp").get<double>() * load.time_unit / load.speed;
    if (!(r.due >= 0 && r.due < 1e9)) throw UsageError("timestamp is negative or too large");
  }
  if (j.contains("prompt")) {
    r.prompt = j.at("prompt").get<std::string>();
    return r;
  }
  const auto length = j.at("input_length").get<std::int64_t>();
  if (length < 1 || length > kLongest)
    throw UsageError(fmt::format("input_length {} is outside 1 .. {}", length, kLongest));
  if (v == nullptr)
    throw UsageError("a line without 'prompt' needs the vocabulary: give --vocab-size or --tokenizer");
  r.prompt_ids = trace_prompt(j.value("hash_ids", std::vector<std::int64_t>()), length, line, load.seed, *v);
  return r;
}

}  // namespace

std::vector<LoadRequest> trace_load(const std::string& path, const TraceLoad& load, const Vocabulary* v) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw UsageError(fmt::format("cannot read {}: {}", printable(path), std::strerror(errno)));
  std::vector<LoadRequest> out;
  std::string line;
  for (std::int64_t number = 1; std::getline(in, line); ++number) {
    if (load.count > 0 && std::ssize(out) >= load.count) break;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      out.push_back(read_line(Json::parse(line), load, number, v));
    } catch (const std::exception& e) {
      throw UsageError(fmt::format(
          "{}; a line is {{\"timestamp\", \"input_length\", \"output_length\"}} or {{\"prompt\"}}",
          json_error_at(path, static_cast<std::size_t>(number), e)));
    }
  }
  if (out.empty()) throw UsageError(fmt::format("{} holds no request", printable(path)));
  // A trace may be cut out of a longer one: its first request is due at once.
  double first = -1;
  for (const LoadRequest& r : out)
    if (r.due >= 0) first = first < 0 ? r.due : std::min(first, r.due);
  for (LoadRequest& r : out)
    if (r.due >= 0) r.due -= first;
  std::stable_sort(out.begin(), out.end(),
                   [](const LoadRequest& a, const LoadRequest& b) { return a.due < b.due; });
  return out;
}

Vocabulary read_vocabulary(const std::string& folder) {
  const std::string config_path = folder + "/config.json", tokenizer_path = folder + "/tokenizer.json";
  std::string path = config_path;  // being read
  try {
    const Json config = Json::parse(read_whole(config_path));
    std::int64_t size = config.contains("text_config")
                            ? config.at("text_config").at("vocab_size").get<std::int64_t>()
                            : config.at("vocab_size").get<std::int64_t>();
    std::vector<std::int32_t> special;
    path = tokenizer_path;
    if (std::ifstream(tokenizer_path)) {
      const Json tokenizer = Json::parse(read_whole(tokenizer_path));
      std::int64_t largest = -1;
      for (const Json& t : tokenizer.value("added_tokens", Json::array())) {
        largest = std::max(largest, t.at("id").get<std::int64_t>());
        if (t.value("special", false)) special.push_back(t.at("id").get<std::int32_t>());
      }
      const Json& vocab = tokenizer.at("model").at("vocab");
      if (vocab.is_object())
        for (const auto& [token, id] : vocab.items()) largest = std::max(largest, id.get<std::int64_t>());
      else
        largest = std::max<std::int64_t>(largest, std::ssize(vocab) - 1);
      size = std::min(size, largest + 1);
    }
    return make_vocabulary(size, 0, special);
  } catch (const Json::exception& e) {
    throw UsageError(fmt::format("{}; it is not as Hugging Face writes it: give --vocab-size instead",
                                 json_error_at(path, 0, e)));
  }
}

}  // namespace moecheck::harness::load
