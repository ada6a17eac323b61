#include "harness/tasks/scoring.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "harness/fault.h"
#include "harness/tasks/regrading.h"

namespace moecheck::harness {
namespace {

constexpr std::string_view kNames[] = {"hashes",      "flexible", "the-answer-is", "the-final-answer-is",
                                       "last-number", "vllm",     "sglang",        "openai"};

constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }
constexpr bool is_number_char(char c) { return is_digit(c) || c == '.' || c == ','; }  // [0-9.,]
constexpr bool is_money_char(char c) { return is_number_char(c) || c == '$'; }         // [$0-9.,]

template <class Is>
std::size_t run_end(std::string_view text, std::size_t at, Is is) {
  while (at < text.size() && is(text[at])) ++at;
  return at;
}

// \-?[0-9\.\,]+ at `at`: its end, or `at` where it does not match.
std::size_t number_end(std::string_view text, std::size_t at) {
  const std::size_t first = at + (at < text.size() && text[at] == '-' ? 1 : 0);
  const std::size_t end = run_end(text, first, is_number_char);
  return end > first ? end : at;
}

// (-?[$0-9.,]{2,})|(-?[0-9]+) at `at`: a run of one character matches only as a digit.
std::size_t flexible_end(std::string_view text, std::size_t at) {
  const std::size_t first = at + (at < text.size() && text[at] == '-' ? 1 : 0);
  const std::size_t end = run_end(text, first, is_money_char);
  return end - first >= 2 || (end - first == 1 && is_digit(text[first])) ? end : at;
}

// The first text after `marker` for which end(at) says more than `at`.
template <class End>
std::string after_first(std::string_view text, std::string_view marker, End end) {
  for (std::size_t at = HARNESS_FAULT(kScorerStrictTakesLast) ? text.rfind(marker) : text.find(marker);
       at != text.npos; at = text.find(marker, at + 1)) {
    const std::size_t from = at + marker.size();
    if (const std::size_t to = end(from); to > from) return std::string(text.substr(from, to - from));
  }
  return std::string(kInvalidText);
}

std::string hashes(std::string_view text) {
  return after_first(text, "#### ", [&](std::size_t at) { return number_end(text, at); });
}

// The last "." of this pattern is any character but a newline, so the number gives up its last character where
// nothing else follows it.
std::string the_answer_is(std::string_view text) {
  return after_first(text, "The answer is ", [&](std::size_t at) {
    const std::size_t end = number_end(text, at);
    if (end == at || (end < text.size() && text[end] != '\n')) return end;
    const std::size_t first = at + (text[at] == '-' ? 1 : 0);
    return end - first >= 2 ? end - 1 : at;
  });
}

// What a match consumes holds no letters, so no two matches after a marker overlap: the last one is the last that
// matches at all.
std::string the_final_answer_is(std::string_view text) {
  static constexpr std::string_view kMarker = "The final answer is ";
  for (std::size_t at = text.rfind(kMarker); at != text.npos;
       at = at == 0 ? text.npos : text.rfind(kMarker, at - 1)) {
    const std::size_t from = at + kMarker.size();
    if (const std::size_t to = flexible_end(text, from); to > from)
      return std::string(text.substr(from, to - from));
  }
  return std::string(kInvalidText);
}

// A match is one whole run of [$0-9.,] and the "-" before it, so the last run that matches is searched from the end.
std::string flexible(std::string_view text) {
  if (HARNESS_FAULT(kScorerFlexibleTakesFirst))
    return after_first(text, "", [&](std::size_t at) { return flexible_end(text, at); });
  std::size_t end = text.size();
  while (end > 0) {
    if (!is_money_char(text[end - 1])) {
      --end;
      continue;
    }
    std::size_t first = end;
    while (first > 0 && is_money_char(text[first - 1])) --first;
    if (end - first >= 2 || is_digit(text[first])) {
      if (first > 0 && text[first - 1] == '-' && !HARNESS_FAULT(kScorerMinusLost)) --first;
      return std::string(text.substr(first, end - first));
    }
    end = first;
  }
  return std::string(kInvalidText);
}

// What lm_eval compares: see exact_match(). Each step goes through a numpy array of fixed-width strings there, which
// loses trailing NULs.
std::string normalized(std::string_view given) {
  std::string text(given);
  const auto trim = [&] {
    while (!text.empty() && text.back() == '\0') text.pop_back();
  };
  trim();
  if (!HARNESS_FAULT(kScorerKeepsCommas)) std::erase(text, ',');
  trim();
  std::erase(text, '$');
  trim();
  if (const std::size_t at = text.rfind("#### "); at != text.npos) text.erase(0, at + 5);
  trim();
  // Python's $ is the end, and the place before a newline at the end.
  const std::size_t n = text.size();
  if (n >= 1 && text[n - 1] == '.' && !HARNESS_FAULT(kScorerKeepsLastDot))
    text.erase(n - 1);
  else if (n >= 2 && text[n - 1] == '\n' && text[n - 2] == '.')
    text.erase(n - 2, 1);
  trim();
  // Extracted answers are ASCII, and no other letter's lower case is one of "[invalid]": ASCII is enough.
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

}  // namespace

std::string_view name(Rule rule) { return kNames[static_cast<std::size_t>(rule)]; }

std::span<const Filter> regrading_filters() {
  static const std::array<Filter, 6> kFilters{{{"strict-match", Rule::kHashes},
                                               {"flexible-extract", Rule::kFlexible},
                                               {"last-number", Rule::kLastNumber},
                                               {"vllm", Rule::kVllm},
                                               {"sglang", Rule::kSglang},
                                               {"openai", Rule::kOpenai}}};
  return kFilters;
}

std::string extract(Rule rule, std::string_view completion) {
  switch (rule) {
    case Rule::kHashes:
      return hashes(completion);
    case Rule::kFlexible:
      return flexible(completion);
    case Rule::kTheAnswerIs:
      return the_answer_is(completion);
    case Rule::kTheFinalAnswerIs:
      return the_final_answer_is(completion);
    case Rule::kLastNumber:
      return last_number(completion);
    case Rule::kVllm:
      return last_integer(completion);
    case Rule::kSglang:
      return last_literal(completion);
    case Rule::kOpenai: {
      std::string found = hashes(completion);
      std::erase(found, ',');
      return found;
    }
  }
  return std::string(kInvalidText);
}

bool exact_match(std::string_view extracted, std::string_view reference) {
  return normalized(extracted) ==
         (HARNESS_FAULT(kScorerReferenceNotNormalized) ? std::string(reference) : normalized(reference));
}

bool is_right(Rule rule, std::string_view extracted, std::string_view reference) {
  switch (rule) {
    case Rule::kLastNumber:
      return same_decimal(extracted, last_number(reference));
    case Rule::kVllm:
      return same_literal(extracted, last_integer(reference));
    case Rule::kSglang:
      return same_literal(extracted, last_literal(reference));
    case Rule::kOpenai: {
      std::string expected = extract(Rule::kOpenai, reference);
      if (expected == kInvalidText) {  // a bare number
        expected = reference;
        std::erase(expected, ',');
      }
      return extracted == expected;
    }
    default:
      return exact_match(extracted, reference);
  }
}

Score grade(Rule rule, std::string_view completion, std::string_view reference) {
  Score s;
  s.extracted = extract(rule, completion);
  s.right = is_right(rule, s.extracted, reference);
  return s;
}

std::string_view up_to_stop(std::string_view completion, std::span<const std::string> until) {
  for (const std::string& stop : until)
    if (!stop.empty() && !HARNESS_FAULT(kScorerIgnoresStops))
      completion = completion.substr(0, completion.find(stop));
  return completion;
}

bool runs_on(std::string_view completion, std::span<const std::string> until) {
  return up_to_stop(completion, until).size() < completion.size();
}

bool is_loop(std::string_view completion) {
  // Knuth, Morris, Pratt on the reversed end: a prefix of length n with border b repeats with period n - b.
  constexpr std::size_t kWindow = 8192, kShortest = 64, kTimes = 4;
  const std::string tail(completion.rbegin(), completion.rbegin() + static_cast<std::ptrdiff_t>(std::min(
                                                                        completion.size(), kWindow)));
  std::vector<std::size_t> border(tail.size() + 1, 0);
  for (std::size_t n = 2; n <= tail.size(); ++n) {
    std::size_t b = border[n - 1];
    while (b > 0 && tail[b] != tail[n - 1]) b = border[b];
    border[n] = tail[b] == tail[n - 1] ? b + 1 : 0;
    if (n >= kShortest && n >= kTimes * (n - border[n])) return true;
  }
  return false;
}

Accuracy accuracy(const std::vector<bool>& scores) {
  Accuracy a;
  a.n = static_cast<std::int64_t>(scores.size());
  a.right = std::count(scores.begin(), scores.end(), true);
  a.mean = a.standard_error = std::numeric_limits<double>::quiet_NaN();
  if (a.n == 0) return a;
  const auto n = static_cast<double>(a.n);
  a.mean = static_cast<double>(a.right) / n;
  if (a.n < 2) return a;
  // numpy calls pow(), which need not round as a product does; the volatile keeps the compiler from making it one.
  const volatile double two = 2;
  const double right = std::pow(1 - a.mean, two), wrong = std::pow(0 - a.mean, two);
  double sum = 0;
  for (const bool s : scores) sum += s ? right : wrong;
  a.standard_error = std::sqrt(sum / (n - (HARNESS_FAULT(kScorerStderrPopulation) ? 0 : 1))) / std::sqrt(n);
  return a;
}

}  // namespace moecheck::harness
