#pragma once
// What a load run sends, and when: requests made from a seed, and the seconds at which they are due.
//
// Kinds of load, by the names of `vllm bench serve`:
//   random             token ids, each drawn on its own; lengths uniform in [floor(L(1-r)), ceil(L(1+r))], r = range
//                      ratio. Random ids route experts and accept drafts unlike real text: the result says which.
//   prefix_repetition  `prefixes` shared prefixes of token ids, each followed by a suffix of its own
//   trace              a file of lines {"timestamp", "input_length", "output_length"[, "hash_ids"]} (Mooncake's
//                      format: equal hash ids are equal blocks of 512 tokens) or {"prompt"[, "output_tokens"]}
//   text               prompts handed in by the caller (word problems, GSM8K)
// The same options give the same requests on every machine. Warm-up prompts are others than the measured ones,
// or they would serve the first request from the prefix cache.
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::harness::load {

struct LoadRequest {
  std::vector<std::int32_t>
      prompt_ids;      // sent as ids when not empty: a text would be tokenized to another length
  std::string prompt;  // otherwise
  std::int64_t max_tokens = 16;
  double due = -1;  // seconds, where the load has its own times; -1: the schedule decides

  std::int64_t prompt_tokens() const {  // -1: only a server can count them
    return prompt_ids.empty() ? -1 : static_cast<std::int64_t>(prompt_ids.size());
  }
};

// Token ids a random prompt may hold.
struct Vocabulary {
  std::vector<std::int32_t> allowed;  // ascending
};
// [first, size) without `special`. Throws UsageError when fewer than two are left.
Vocabulary make_vocabulary(std::int64_t size, std::int64_t first, const std::vector<std::int32_t>& special);
// From a Hugging Face folder: vocab_size of config.json, or the largest id of tokenizer.json + 1, whichever is
// smaller, without tokenizer.json's special added tokens. Throws UsageError naming the file.
Vocabulary read_vocabulary(const std::string& folder);

struct RandomLoad {
  std::int64_t count = 1000;
  std::int64_t input_len = 1024, output_len = 128, prefix_len = 0;  // the prefix is the same for all
  double input_range_ratio = 0, output_range_ratio = 0;             // in [0, 1)
  std::uint64_t seed = 0;
};
// `warm_up` draws from another stream of the same seed.
std::vector<LoadRequest> random_load(const RandomLoad& load, const Vocabulary& vocabulary,
                                     bool warm_up = false);

struct PrefixLoad {
  std::int64_t count = 1000, prefixes = 10;
  std::int64_t prefix_len = 256, suffix_len = 256, output_len = 128;
  std::uint64_t seed = 0;
};
std::vector<LoadRequest> prefix_load(const PrefixLoad& load, const Vocabulary& vocabulary,
                                     bool warm_up = false);

struct TraceLoad {
  std::int64_t count = 0;         // the first so many; 0: all
  double time_unit = 1e-3;        // seconds per unit of `timestamp`
  double speed = 1;               // 2: twice as fast
  std::int64_t output_len = 128;  // where a line gives none
  std::uint64_t seed = 0;
};
// Throws UsageError with path and line. `vocabulary` is needed for lines of lengths only.
std::vector<LoadRequest> trace_load(const std::string& path, const TraceLoad& load,
                                    const Vocabulary* vocabulary);

// ---- When

struct Arrivals {
  double request_rate =
      std::numeric_limits<double>::infinity();  // infinite: all at once, or as slots get free
  double burstiness = 1;  // shape of the gamma distribution of gaps; 1: Poisson; infinite: constant
  std::string ramp_up;    // "", "linear" or "exponential" in the request's index
  double ramp_start = 0, ramp_end = 0;  // requests per second
  std::uint64_t seed = 0;
};
// Seconds since the start, one per request, ascending. Gaps ~ Gamma(burstiness, 1 / (rate burstiness)), summed,
// then rescaled so that the last is n / rate exactly (not under a ramp): request 0 waits its gap too. Throws UsageError.
std::vector<double> arrival_times(const Arrivals& arrivals, std::int64_t count);

struct SweepPoint {
  std::int64_t input_len = 0, output_len = 0, max_concurrency = 0;  // 0: no limit
};
// Points "ISL:OSL:MC" separated by commas; a part may list several with slashes: 1000/4000:100:4/16/64 is six
// points. Throws UsageError.
std::vector<SweepPoint> parse_sweep(std::string_view text);

}  // namespace moecheck::harness::load
