#include "harness/serve/chaos.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "harness/case.h"
#include "harness/random.h"
#include "harness/text.h"

namespace moecheck::harness::serve {
namespace {

struct FaultName {
  std::string_view name;
  Fault fault;
  double seconds;  // unless told; negative: no time applies
};
constexpr FaultName kFaults[] = {
    {"reset", Fault::kReset, -1},
    {"refuse", Fault::kRefuse, -1},
    {"429", Fault::kTooMany, 1},
    {"429_date", Fault::kTooManyDate, 1},
    {"503", Fault::kUnavailable, 1},
    {"503_date", Fault::kUnavailableDate, 1},
    {"500", Fault::kInternal, -1},
    {"timeout", Fault::kTimeout, -1},
    {"slow_first", Fault::kSlowFirst, 1},
    {"truncate", Fault::kTruncate, -1},
    {"cut", Fault::kCut, -1},
    {"no_done", Fault::kNoDone, -1},
    {"invalid_json", Fault::kInvalidJson, -1},
    {"wrong_type", Fault::kWrongType, -1},
    {"error_event", Fault::kErrorEvent, -1},
};
constexpr std::string_view kStyles[] = {"split",          "multi_token", "no_usage",  "usage_last",
                                        "usage_separate", "usage_every", "role_only", "comments",
                                        "crlf",           "bom"};
constexpr std::size_t kMaxSeen = 1'000'000;

[[noreturn]] void bad(std::string_view word, std::string_view why) {
  throw UsageError(fmt::format("chaos: '{}' {}", printable(word), why));
}

double number_of(std::string_view word, std::string_view text) {
  double x = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), x);
  if (ec != std::errc() || end != text.data() + text.size() || !(x >= 0 && x <= 1e6))
    bad(word, "needs a number, as in reset=0.05 or slow_first=0.02:2s");
  return x;
}

std::uint64_t hash_of(std::string_view text, std::uint64_t seed) {
  std::uint64_t h = mix64(seed + 0x9E3779B97F4A7C15ull);
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return mix64(h);
}

}  // namespace

Chaos::Chaos(std::string_view spec, std::uint64_t seed) : active_(!spec.empty()), seed_(seed) {
  double sum = 0;
  while (!spec.empty()) {
    const std::string_view word = spec.substr(0, spec.find(','));
    spec.remove_prefix(std::min(spec.size(), word.size() + 1));
    const std::size_t equals = word.find('=');
    if (equals == word.npos) bad(word, "needs a number, as in reset=0.05");
    const std::string_view name = word.substr(0, equals);
    std::string_view value = word.substr(equals + 1);
    std::optional<double> seconds;
    if (const std::size_t colon = value.find(':'); colon != value.npos) {
      std::string_view time = value.substr(colon + 1);
      const double unit = time.ends_with("ms") ? 1e-3 : 1;
      if (time.ends_with('s')) time.remove_suffix(unit < 1 ? 2 : 1);
      seconds = number_of(word, time) * unit;
      value = value.substr(0, colon);
    }
    const double probability = number_of(word, value);
    if (name == "max_faults") {
      max_faults_ = static_cast<std::uint32_t>(probability);
      continue;
    }
    if (probability > 1) bad(word, "is no probability: give one from 0 to 1");
    bool known = false;
    for (const FaultName& f : kFaults)
      if (f.name == name) {
        if (seconds && f.seconds < 0) bad(word, "has no time: leave out what follows the colon");
        faults_.push_back({static_cast<int>(f.fault), probability, seconds.value_or(f.seconds)});
        sum += probability;
        known = true;
      }
    for (std::size_t i = 0; i < std::size(kStyles); ++i)
      if (kStyles[i] == name) {
        if (seconds) bad(word, "has no time: leave out what follows the colon");
        styles_.push_back({static_cast<int>(i), probability, 0});
        known = true;
      }
    if (!known) {
      std::vector<std::string_view> names(std::begin(kStyles), std::end(kStyles));
      for (const FaultName& f : kFaults) names.push_back(f.name);
      bad(word, fmt::format("is not known: there are max_faults, {}", fmt::join(names, ", ")));
    }
  }
  if (sum > 1 + 1e-9)
    throw UsageError(
        fmt::format("chaos: the probabilities of faults add up to {}: at most 1 is possible", sum));
}

StreamStyle Chaos::style(std::uint64_t draw) const {
  const Random random(draw, "style");
  StreamStyle s;
  for (const Choice& c : styles_) {
    if (random.uniform(static_cast<std::uint64_t>(c.what)) >= c.probability) continue;
    switch (c.what) {
      case 0:
        s.split = true;
        break;
      case 1:
        s.multi_token = true;
        break;
      case 2:
        s.no_usage = true;
        break;
      case 3:
        s.usage = StreamStyle::Usage::kLast;
        break;
      case 4:
        s.usage = StreamStyle::Usage::kSeparate;
        break;
      case 5:
        s.usage = StreamStyle::Usage::kEvery;
        break;
      case 6:
        s.role_only = true;
        break;
      case 7:
        s.comments = true;
        break;
      case 8:
        s.crlf = true;
        break;
      case 9:
        s.bom = true;
        break;
      default:
        break;
    }
  }
  return s;
}

ChaosPlan Chaos::plan(std::string_view body) {
  ChaosPlan plan;
  if (!active_) return plan;
  if (seen_.size() >= kMaxSeen) seen_.clear();
  const std::uint64_t hash = hash_of(body, seed_);
  Seen& seen = seen_[hash];
  plan.draw = mix64(hash + 0x9E3779B97F4A7C15ull * ++seen.tries);
  plan.style = style(plan.draw);
  if (seen.faults >= max_faults_) return plan;
  double u = Random(plan.draw, "fault").uniform(0);
  for (const Choice& c : faults_) {
    u -= c.probability;
    if (u >= 0) continue;
    plan.fault = static_cast<Fault>(c.what);
    plan.seconds = c.seconds;
    ++seen.faults;
    break;
  }
  return plan;
}

}  // namespace moecheck::harness::serve
