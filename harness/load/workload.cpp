#include "harness/load/workload.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "harness/case.h"
#include "harness/random.h"
#include "harness/text.h"

namespace moecheck::harness::load {
namespace {

void check_range_ratio(double r, std::string_view which) {
  if (!(r >= 0 && r < 1))
    throw UsageError(fmt::format(
        "{} range ratio {} is outside [0, 1): lengths are uniform in L(1-r) .. L(1+r)", which, r));
}

// Uniform in [floor(L(1-r)), ceil(L(1+r))].
std::int64_t draw_length(const Random& random, std::uint64_t i, std::int64_t length, double ratio,
                         std::int64_t least) {
  const auto l = static_cast<double>(length);
  const auto low = static_cast<std::int64_t>(std::floor(l * (1 - ratio)));
  const auto high = static_cast<std::int64_t>(std::ceil(l * (1 + ratio)));
  return std::max(least, random.integer(i, std::max(least, low), std::max(least, high)));
}

// Each id on its own: runs of consecutive ids, which other tools send, repeat whole prompts of a small vocabulary.
std::vector<std::int32_t> random_ids(const Random& random, const Vocabulary& v, std::int64_t n) {
  std::vector<std::int32_t> out;
  for (std::int64_t j = 0; j < n; ++j)
    out.push_back(v.allowed[static_cast<std::size_t>(
        random.integer(static_cast<std::uint64_t>(j), 0, std::ssize(v.allowed) - 1))]);
  return out;
}

}  // namespace

Vocabulary make_vocabulary(std::int64_t size, std::int64_t first, const std::vector<std::int32_t>& special) {
  const std::set<std::int32_t> skip(special.begin(), special.end());
  Vocabulary v;
  if (first < 0 || size > (1 << 28))
    throw UsageError(fmt::format("no vocabulary has ids {} to {}", first, size));
  for (std::int64_t id = first; id < size; ++id)
    if (!skip.contains(static_cast<std::int32_t>(id))) v.allowed.push_back(static_cast<std::int32_t>(id));
  if (v.allowed.size() < 2)
    throw UsageError(
        fmt::format("a vocabulary of ids {} to {} without {} special ones leaves {}: give --vocab-size as in "
                    "the model's config.json",
                    first, size, special.size(), v.allowed.size()));
  return v;
}

std::vector<LoadRequest> random_load(const RandomLoad& load, const Vocabulary& v, bool warm_up) {
  check_range_ratio(load.input_range_ratio, "input");
  check_range_ratio(load.output_range_ratio, "output");
  if (load.input_len + load.prefix_len < 1 || load.output_len < 1)
    throw UsageError(fmt::format("{} prompt and {} output tokens: both must be at least 1",
                                 load.input_len + load.prefix_len, load.output_len));
  const std::string kind = warm_up ? "warm-up " : "";
  const Random inputs(load.seed, kind + "input lengths"), outputs(load.seed, kind + "output lengths");
  // The warm-up's fixed prefix is another, too.
  const std::vector<std::int32_t> prefix = random_ids(Random(load.seed, kind + "prefix"), v, load.prefix_len);
  std::vector<LoadRequest> out;
  for (std::int64_t i = 0; i < load.count; ++i) {
    const auto at = static_cast<std::uint64_t>(i);
    LoadRequest r;
    r.prompt_ids = prefix;
    const std::int64_t n =
        draw_length(inputs, at, load.input_len, load.input_range_ratio, load.prefix_len > 0 ? 0 : 1);
    const auto own = random_ids(Random(load.seed, fmt::format("{}prompt {}", kind, i)), v, n);
    r.prompt_ids.insert(r.prompt_ids.end(), own.begin(), own.end());
    r.max_tokens = draw_length(outputs, at, load.output_len, load.output_range_ratio, 1);
    out.push_back(std::move(r));
  }
  return out;
}

std::vector<LoadRequest> prefix_load(const PrefixLoad& load, const Vocabulary& v, bool warm_up) {
  if (load.prefixes < 1 || load.prefix_len + load.suffix_len < 1 || load.output_len < 1)
    throw UsageError(
        fmt::format("{} prefixes of {} tokens, suffixes of {}, {} output tokens: all must be at least 1",
                    load.prefixes, load.prefix_len, load.suffix_len, load.output_len));
  const std::string kind = warm_up ? "warm-up " : "";
  std::vector<LoadRequest> out;
  for (std::int64_t i = 0; i < load.count; ++i) {
    LoadRequest r;
    r.prompt_ids = random_ids(Random(load.seed, fmt::format("{}prefix {}", kind, i % load.prefixes)), v,
                              load.prefix_len);
    const auto suffix =
        random_ids(Random(load.seed, fmt::format("{}suffix {}", kind, i)), v, load.suffix_len);
    r.prompt_ids.insert(r.prompt_ids.end(), suffix.begin(), suffix.end());
    r.max_tokens = load.output_len;
    out.push_back(std::move(r));
  }
  return out;
}

namespace {

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> out;
  for (;;) {
    const std::size_t n = text.find(at);
    out.push_back(text.substr(0, n));
    if (n == std::string_view::npos) return out;
    text.remove_prefix(n + 1);
  }
}

std::int64_t read_count(std::string_view word, std::string_view whole) {
  std::int64_t v = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), v);
  if (error != std::errc() || end != word.data() + word.size() || v < 0)
    throw UsageError(fmt::format("sweep '{}': '{}' is no count; write ISL:OSL:MC, as 1000:100:4,1000:100:16",
                                 printable(whole), printable(word)));
  return v;
}

}  // namespace

std::vector<SweepPoint> parse_sweep(std::string_view text) {
  std::vector<SweepPoint> out;
  for (const std::string_view point : split(text, ',')) {
    const auto parts = split(point, ':');
    if (parts.size() != 3)
      throw UsageError(
          fmt::format("sweep point '{}' has {} parts: write ISL:OSL:MC, as 1000:100:4,1000:100:16",
                      printable(point), parts.size()));
    // "a/b/c" in a part: each of them
    for (const std::string_view isl : split(parts[0], '/'))
      for (const std::string_view osl : split(parts[1], '/'))
        for (const std::string_view mc : split(parts[2], '/'))
          out.push_back({read_count(isl, text), read_count(osl, text), read_count(mc, text)});
  }
  return out;
}

}  // namespace moecheck::harness::load
