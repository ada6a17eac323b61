#pragma once
// Extraction of an answer from a completion, and its comparison with the reference: lm_eval's rules, character for
// character, and those of other projects for re-grading. Hand-written scanners: linear time, no recursion, any length.
//
// Text is UTF-8; bytes that are not UTF-8 count as characters that match nothing special. lm_eval works on Python
// strings; [0-9] there means ASCII digits, and so it does here.
// Sources: lm_eval/filters/extraction.py, selection.py, api/metrics.py (0.4.13); vLLM tests/evals/gsm8k/gsm8k_eval.py;
// SGLang few_shot_gsm8k.py and simple_eval_gsm8k.py; openai/grade-school-math dataset.py.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::harness {

inline constexpr std::string_view kInvalidText = "[invalid]";  // what lm_eval writes when nothing matches

enum class Rule : std::uint8_t {
  // lm_eval: extracted text compared by exact_match()
  kHashes,            // #### (\-?[0-9\.\,]+)                               first
  kFlexible,          // (-?[$0-9.,]{2,})|(-?[0-9]+)                        last
  kTheAnswerIs,       // The answer is (\-?[0-9\.\,]+).                     first
  kTheFinalAnswerIs,  // The final answer is ((-?[$0-9.,]{2,})|(-?[0-9]+))  last
  // other projects': extracted text compared as they do
  kLastNumber,  // commas out, last -?[0-9]+(\.[0-9]+)?, compared as numbers: 18.00 == 18
  kVllm,    // commas out, last run of digits (any Unicode digits), as an integer; sign and decimals are lost
  kSglang,  // the newer script: commas out, last -?[0-9]+\.?[0-9]*, compared as numbers
  kOpenai,  // #### (\-?[0-9\.\,]+), first, commas out; compared as strings
};

struct Filter {
  std::string name;  // "strict-match"
  Rule rule = Rule::kHashes;
};

std::string_view name(Rule rule);  // "hashes", "last-number", ...
// Every rule that grades a completion ending in "#### N", with the name it has in reports: for re-grading.
std::span<const Filter> regrading_filters();

// The answer in `completion`, kInvalidText where there is none.
std::string extract(Rule rule, std::string_view completion);

// lm_eval's exact_match: on both sides remove every ",", every "$", everything through the last "#### ", one final
// "." (also before one final newline); lower-case; then equal. `reference` may be the whole reference answer.
bool exact_match(std::string_view extracted, std::string_view reference);

// Whether `extracted` is right by the comparison that belongs to `rule`; `reference` is the whole reference answer or
// the bare number.
bool is_right(Rule rule, std::string_view extracted, std::string_view reference);

struct Score {
  std::string extracted;
  bool right = false;
  bool operator==(const Score&) const = default;
};

Score grade(Rule rule, std::string_view completion, std::string_view reference);

// ---- What else a completion shows

// True where the text goes on into another question: one of `until` stands in it, so the server did not stop there.
bool runs_on(std::string_view completion, std::span<const std::string> until);
// The text before the first of `until` that stands in it: what a server that honours them sends.
std::string_view up_to_stop(std::string_view completion, std::span<const std::string> until);
// True where the end of the text repeats one piece of it at least 4 times over at least 64 bytes: degenerate decoding.
bool is_loop(std::string_view completion);

// lm_eval's mean and standard error of 0/1 scores: p = k/n, sqrt(sum (x-p)^2/(n-1))/sqrt(n), summed left to right as
// Python does; stderr is NaN ("N/A" in files) for n < 2.
struct Accuracy {
  std::int64_t n = 0, right = 0;
  double mean = 0, standard_error = 0;
};
Accuracy accuracy(const std::vector<bool>& scores);

}  // namespace moecheck::harness
