#include "harness/tasks/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>

#include "harness/case.h"
#include "harness/fault.h"
#include "harness/json.h"
#include "harness/statistics/planning.h"
#include "harness/tasks/python_text.h"
#include "harness/text.h"
#include "harness/utf8.h"

namespace moecheck::harness {
namespace {

struct Pair {
  const Sample *a, *b;
};

// Questions answered in both, in order; counts those that only one run has.
struct Matched {
  std::vector<Pair> pairs;
  std::int64_t only_a = 0, only_b = 0, other_doc = 0, other_prompt = 0, first_other = -1;
};

Matched match(const Run& a, const Run& b) {
  std::map<std::int64_t, const Sample*> of_b;
  for (const Sample& s : b.samples) of_b[s.doc_id] = &s;
  Matched m;
  for (const Sample& s : a.samples) {
    const auto it = of_b.find(s.doc_id);
    if (it == of_b.end()) {
      ++m.only_a;
      continue;
    }
    const Sample& t = *it->second;
    of_b.erase(it);
    const bool other_doc = s.doc_hash != t.doc_hash || s.target_hash != t.target_hash;
    const bool other_prompt = s.prompt_hash != t.prompt_hash && !HARNESS_FAULT(kCompareOtherPromptsAllowed);
    m.other_doc += other_doc;
    m.other_prompt += other_prompt;
    if ((other_doc || other_prompt) && m.first_other < 0) m.first_other = s.doc_id;
    if ((!s.failed && !t.failed) || HARNESS_FAULT(kCompareFailedIsWrong)) m.pairs.push_back({&s, &t});
  }
  m.only_b = static_cast<std::int64_t>(of_b.size());
  return m;
}

const FilterScore* score(const Sample& s, const std::string& filter) {
  for (const FilterScore& f : s.scores)
    if (f.filter == filter) return &f;
  return nullptr;
}

bool right(const Sample& s, const std::string& filter) {
  const FilterScore* f = score(s, filter);
  return f != nullptr && f->right;
}

using Test = std::function<bool(const Sample&)>;

PairedCounts count(const std::vector<Pair>& pairs, const Test& test) {
  std::vector<bool> a, b;
  for (const Pair& p : pairs) a.push_back(test(*p.a)), b.push_back(test(*p.b));
  return paired_counts(a, b);
}

FilterComparison compare_filter(const std::vector<Pair>& pairs, const std::string& filter,
                                const CompareOptions& o) {
  FilterComparison f;
  f.filter = filter;
  std::vector<bool> a, b;
  std::int64_t worse = 0, better = 0;
  for (const Pair& p : pairs) {
    a.push_back(right(*p.a, filter));
    b.push_back(right(*p.b, filter));
    worse += a.back() && !b.back();
    better += !a.back() && b.back();
    if (f.stopped_after == 0 && log_e_value(worse, better) >= -std::log(o.alpha))
      f.stopped_after = static_cast<std::int64_t>(a.size());
  }
  f.a = accuracy(a);
  f.b = accuracy(b);
  f.counts = paired_counts(a, b);
  f.verdict = judge_pairs({f.counts, o.margin, o.alpha});
  return f;
}

Agreement agreement(const std::vector<Pair>& pairs, const std::vector<std::string>& until) {
  Agreement t;
  std::vector<std::int64_t> places;
  for (const Pair& p : pairs) {
    ++t.compared;
    const std::string_view a = up_to_stop(p.a->completion, until), b = up_to_stop(p.b->completion, until);
    t.a_past_stop += a.size() < p.a->completion.size();
    t.b_past_stop += b.size() < p.b->completion.size();
    const std::int64_t at = first_divergence(a, b);
    if (at < 0)
      ++t.identical;
    else
      places.push_back(at);
  }
  if (!places.empty()) {
    const auto middle = places.begin() + static_cast<std::ptrdiff_t>(places.size() / 2);
    std::nth_element(places.begin(), middle, places.end());
    t.median_divergence = *middle;
  }
  return t;
}

// Some characters before the place where the texts part, and some after it.
std::string around(std::string_view text, std::int64_t divergence) {
  constexpr std::int64_t kBefore = 24, kAfter = 40;
  std::string out = divergence > kBefore ? "..." : "";
  std::int64_t character = 0;
  for (std::size_t at = 0; at < text.size(); ++character) {
    const CodePoint c = code_point(text, at);
    if (character >= divergence + kAfter) return out + "...";
    if (character >= divergence - kBefore) out += text.substr(at, c.length);
    at += c.length;
  }
  return out;
}

// Flips of texts that are equal up to their stop show where they part behind it: that is what was graded.
std::vector<Flip> flips_of(const std::vector<Pair>& pairs, const std::string& filter) {
  std::vector<Flip> flips;
  for (const Pair& p : pairs) {
    const FilterScore *a = score(*p.a, filter), *b = score(*p.b, filter);
    if (a == nullptr || b == nullptr || a->right == b->right) continue;
    Flip f;
    f.doc_id = p.a->doc_id;
    f.regression = a->right;
    f.a_extracted = a->extracted;
    f.b_extracted = b->extracted;
    f.a_outcome = a->outcome;
    f.b_outcome = b->outcome;
    f.divergence = first_divergence(p.a->completion, p.b->completion);
    f.a_text = around(p.a->completion, std::max<std::int64_t>(0, f.divergence));
    f.b_text = around(p.b->completion, std::max<std::int64_t>(0, f.divergence));
    flips.push_back(std::move(f));
  }
  std::stable_sort(flips.begin(), flips.end(),
                   [](const Flip& x, const Flip& y) { return x.regression > y.regression; });
  return flips;
}

// The stop strings that the run was made with.
std::vector<std::string> stops_of(const Run& run) {
  if (!run.generation_json.empty()) {
    const nlohmann::ordered_json all = parse_json(run.generation_json);
    const auto until = all.is_object() ? all.find("until") : all.end();
    if (until != all.end() && until->is_string()) return {until->get<std::string>()};
    std::vector<std::string> stops;
    if (until != all.end() && until->is_array())
      for (const auto& stop : *until)
        if (stop.is_string()) stops.push_back(stop.get<std::string>());
    if (!stops.empty()) return stops;
  }
  for (const Task& t : tasks())
    if (t.name == run.task) return t.generation.until;
  return {};
}

double share(std::int64_t k, std::int64_t n) {
  return n == 0 ? 0 : static_cast<double>(k) / static_cast<double>(n);
}
std::string percent(double x) { return fmt::format("{:.2f}%", 100 * x); }

// Fisher's exact test, two-sided by doubling the smaller tail.
double rates_differ_p(std::int64_t x, std::int64_t n, std::int64_t y, std::int64_t m) {
  return std::min(1.0, 2 * std::min(excess_flips_p(x, n, y, m), excess_flips_p(y, m, x, n)));
}

bool same_file(const std::string& a, const std::string& b) {
  std::error_code error;
  return a == b || std::filesystem::equivalent(a, b, error);
}

// Two measurements never take the same time to the last digit, again and again.
bool same_latencies(const std::vector<Pair>& pairs) {
  std::int64_t known = 0, same = 0;
  for (const Pair& p : pairs)
    if (p.a->latency_s >= 0 && p.b->latency_s >= 0) ++known, same += p.a->latency_s == p.b->latency_s;
  return known >= 5 && same * 10 > known * 9;
}

// By value, so that 0 is 0.0 and the order of keys is nothing; what is not known is not different.
bool same_json(const std::string& a, const std::string& b) {
  return a.empty() || b.empty() || nlohmann::json(parse_json(a)) == nlohmann::json(parse_json(b));
}

// By what was asked: the same questions may have another name elsewhere (a task of one's own, a renamed one).
void check_questions(const Run& a, const Run& b, const Matched& m, std::vector<std::string>& why) {
  const bool same = m.only_a + m.only_b + m.other_doc + m.other_prompt == 0;
  if (a.task != b.task && !same)
    why.push_back(fmt::format("A is {}, B is {}", printable(a.task, 60), printable(b.task, 60)));
  if (m.only_a + m.only_b > 0)
    why.push_back(fmt::format("{} questions are in A only, {} in B only: run both with the same --limit",
                              m.only_a, m.only_b));
  if (m.other_doc > 0)
    why.push_back(fmt::format("{} questions are other ones (document {} is the first): the data differ",
                              m.other_doc, m.first_other));
  else if (m.other_prompt > 0)
    why.push_back(
        fmt::format("{} prompts differ (document {} is the first): task hash {:.12}... and {:.12}..., so the "
                    "shots, their seed, the template or chat differ",
                    m.other_prompt, m.first_other, a.task_hash, b.task_hash));
  if (!same_json(a.generation_json, b.generation_json))
    why.push_back(fmt::format("generation settings differ: {} and {}", printable(a.generation_json, 200),
                              printable(b.generation_json, 200)));
}

void check_failures(const Comparison& c, std::vector<std::string>& why) {
  for (const auto& [name, s] : {std::pair<const char*, const Summary&>{"A", c.a}, {"B", c.b}})
    if (share(s.failed, s.asked) > c.options.max_failed)
      why.push_back(
          fmt::format("{} of {} requests of {} failed, more than {}: see the errors in its results file",
                      s.failed, s.asked, name, percent(c.options.max_failed)));
  const double p = rates_differ_p(c.a.failed, c.a.asked, c.b.failed, c.b.asked);
  if (p < c.options.alpha)
    why.push_back(fmt::format("failures differ between the arms: {} of {} and {} of {} (p = {:.2g})",
                              c.a.failed, c.a.asked, c.b.failed, c.b.asked, p));
}

void check_truncation(const Comparison& c, std::vector<std::string>& why) {
  for (const auto& [name, s] : {std::pair<const char*, const Summary&>{"A", c.a}, {"B", c.b}})
    if (share(s.truncated, s.answered) > c.options.max_truncated)
      why.push_back(
          fmt::format("{} of {} answers of {} were cut at the token limit, more than {}: raise max_gen_toks",
                      s.truncated, s.answered, name, percent(c.options.max_truncated)));
  for (const OutcomeChange& o : c.changes)
    if (o.kind == "truncated" && o.p < c.options.alpha)
      why.push_back(fmt::format("answers cut at the token limit changed from {} to {} (McNemar p = {:.2g})",
                                o.a, o.b, o.p));
}

void add_noise(Comparison& c, const Run& a, const Run& again) {
  const Matched m = match(a, again);
  std::vector<std::string> why;
  check_questions(a, again, m, why);
  if (same_file(a.path, again.path)) why.push_back("it is the same file");
  if (same_latencies(m.pairs)) why.push_back("every latency is equal: it is a copy");
  if (!why.empty())
    throw UsageError(fmt::format("--aa {} is no repeat of A: {}", printable(again.path), why[0]));
  NoiseFloor noise;
  const FilterComparison& primary = c.filters[c.primary];
  noise.counts = count(m.pairs, [&](const Sample& s) { return right(s, primary.filter); });
  noise.texts = agreement(m.pairs, c.until);
  noise.sd = noise_sd(noise.counts.discordance(), static_cast<double>(std::max<std::int64_t>(1, c.pairs)));
  noise.excess_p =
      excess_flips_p(primary.counts.discordant(), c.pairs, noise.counts.discordant(), noise.counts.n());
  noise.excess_text_p = excess_flips_p(c.texts.compared - c.texts.identical, c.texts.compared,
                                       noise.texts.compared - noise.texts.identical, noise.texts.compared);
  if (noise.excess_p < c.options.alpha)
    c.notes.push_back(fmt::format(
        "the scores flip more often than A against itself does ({} of {} against {} of {}, "
        "p = {:.2g}): the outputs changed by more than noise",
        primary.counts.discordant(), c.pairs, noise.counts.discordant(), noise.counts.n(), noise.excess_p));
  if (noise.texts.identical == noise.texts.compared && c.texts.identical < c.texts.compared)
    c.notes.push_back("A repeats itself to the letter, so every text that differs is the change itself");
  c.noise = noise;
}

void add_notes(Comparison& c) {
  const FilterComparison& primary = c.filters[c.primary];
  for (std::size_t f = 0; f < c.filters.size(); ++f) {
    const FilterComparison& other = c.filters[f];
    if (f == c.primary) continue;
    if (other.holm_worse_p < c.options.alpha && primary.verdict.worse_p >= c.options.alpha)
      c.notes.push_back(
          fmt::format("{} alone shows B worse (Holm-adjusted p = {:.2g})", other.filter, other.holm_worse_p));
    if (primary.a.right * 2 < other.a.right && primary.b.right * 2 < other.b.right)
      c.notes.push_back(
          fmt::format("{} finds less than half of what {} finds in both runs: it measures the format of "
                      "these answers; --filter {} measures the answers",
                      primary.filter, other.filter, other.filter));
  }
  for (const OutcomeChange& o : c.changes)
    if (o.kind != "truncated" && o.p < c.options.alpha)
      c.notes.push_back(
          fmt::format("{} answers changed from {} to {} (McNemar p = {:.2g})", o.kind, o.a, o.b, o.p));
  if (c.texts.a_past_stop + c.texts.b_past_stop > 0)
    c.notes.push_back(
        fmt::format("{} texts of A and {} of B go on behind a stop string, and are compared up to it "
                    "(--whole-texts: to their end)",
                    c.texts.a_past_stop, c.texts.b_past_stop));
  if (c.texts.compared > 0 && c.texts.identical == c.texts.compared)
    c.notes.push_back(
        "every text is identical: the engine repeats itself to the letter, or a cache answered B");
}

std::string sentence(const Comparison& c) {
  const FilterComparison& f = c.filters[c.primary];
  const PairedVerdict& v = f.verdict;
  const double margin = 100 * c.options.margin;
  const std::string points = fmt::format("{:g} point{}", margin, margin == 1 ? "" : "s");
  const std::string moved =
      fmt::format("{:+.2f} points over {} questions, {} regressions and {} fixes",
                  100 * f.counts.difference(), grouped(c.pairs), f.counts.regressions, f.counts.fixes);
  switch (c.verdict) {
    case ComparisonVerdict::kInvalidRun:
      return c.invalid[0];
    case ComparisonVerdict::kRegression:
      return fmt::format("{}; p = {:.2g} if nothing were worse", moved, v.worse_p);
    case ComparisonVerdict::kWorseWithinMargin:
      return fmt::format("{}; worse (p = {:.2g}), and by less than {} (p = {:.2g})", moved, v.worse_p, points,
                         v.noninferiority_p);
    case ComparisonVerdict::kNoRegression:
      return fmt::format("{}; a loss of {} or more is ruled out (p = {:.2g})", moved, points,
                         v.noninferiority_p);
    case ComparisonVerdict::kInconclusive:
      break;
  }
  return fmt::format(
      "{}; a loss of {} is not ruled out (p = {:.2g}), only one of {:.2f} is; about {} questions "
      "would tell at this share of flips",
      moved, points, v.noninferiority_p, 100 * v.proven_margin, grouped(v.questions_needed));
}

std::vector<std::string> common_filters(const Run& a, const Run& b) {
  std::vector<std::string> names;
  for (const std::string& f : a.filters)
    if (std::find(b.filters.begin(), b.filters.end(), f) != b.filters.end()) names.push_back(f);
  if (names.empty())
    throw UsageError(fmt::format("{} and {} share no filter: they are of different tasks", printable(a.path),
                                 printable(b.path)));
  return names;
}

void add_changes(Comparison& c, const std::vector<Pair>& pairs, const std::string& filter) {
  const auto add = [&](const char* kind, const Test& test) {
    const PairedCounts n = count(pairs, test);
    c.changes.push_back({kind, n.both + n.regressions, n.both + n.fixes, mcnemar_two_sided(n)});
  };
  add("truncated", [](const Sample& s) { return s.finish_reason == "length"; });
  add("empty", [](const Sample& s) { return python_strip(s.completion).empty(); });
  add("looping", [](const Sample& s) { return is_loop(s.completion); });
  add("invalid", [&](const Sample& s) {
    const FilterScore* f = score(s, filter);
    return f != nullptr && f->extracted == kInvalidText;
  });
}

}  // namespace

std::int64_t first_divergence(std::string_view a, std::string_view b) {
  std::int64_t character = 0;
  std::size_t at = 0;
  while (at < a.size() && at < b.size()) {
    const CodePoint x = code_point(a, at), y = code_point(b, at);
    if (a.substr(at, x.length) != b.substr(at, y.length)) return character;
    at += x.length;
    ++character;
  }
  return a.size() == b.size() ? -1 : character;
}

Comparison compare_runs(const Run& a, const Run& b, const Run* again, const CompareOptions& options) {
  Comparison c;
  c.task = a.task;
  c.a_model = a.model, c.b_model = b.model;
  c.a_path = a.path, c.b_path = b.path;
  c.task_hash = a.task_hash;
  c.options = options;
  c.a = summarize(a), c.b = summarize(b);
  const std::vector<std::string> names = common_filters(a, b);
  if (!options.filter.empty()) {
    const auto at = std::find(names.begin(), names.end(), options.filter);
    if (at == names.end())
      throw UsageError(fmt::format("filter '{}' is not in both runs: there are {}",
                                   printable(options.filter, 60), fmt::join(names, ", ")));
    c.primary = static_cast<std::size_t>(at - names.begin());
  }
  const Matched m = match(a, b);
  c.pairs = static_cast<std::int64_t>(m.pairs.size());
  std::vector<double> p;
  for (const std::string& f : names) {
    c.filters.push_back(compare_filter(m.pairs, f, options));
    p.push_back(c.filters.back().verdict.worse_p);
  }
  const std::vector<double> adjusted = holm(p);
  for (std::size_t f = 0; f < names.size(); ++f) c.filters[f].holm_worse_p = adjusted[f];
  if (!options.whole_texts) c.until = stops_of(a);
  c.texts = agreement(m.pairs, c.until);
  c.flips = flips_of(m.pairs, names[c.primary]);
  add_changes(c, m.pairs, names[c.primary]);

  check_questions(a, b, m, c.invalid);
  if (a.task != b.task && c.invalid.empty())
    c.notes.push_back(
        fmt::format("the task is called {} in A and {} in B: its questions and prompts are the same by their "
                    "hashes",
                    printable(a.task, 60), printable(b.task, 60)));
  if (same_file(a.path, b.path)) c.invalid.push_back("A and B are the same file");
  if (same_latencies(m.pairs))
    c.invalid.push_back("every latency of B is A's: B is a copy of A, or a cache answered");
  check_failures(c, c.invalid);
  if (c.pairs == 0 && c.invalid.empty()) c.invalid.push_back("no question was answered in both runs");
  c.verdict = c.filters[c.primary].verdict.verdict;
  std::vector<std::string> cut;
  check_truncation(c, cut);
  const bool regression = c.verdict == ComparisonVerdict::kRegression;
  for (std::string& why : cut) (regression ? c.notes : c.invalid).push_back(std::move(why));
  if (!c.invalid.empty()) c.verdict = ComparisonVerdict::kInvalidRun;
  add_notes(c);
  if (again != nullptr) add_noise(c, a, *again);
  c.reason = sentence(c);
  return c;
}

}  // namespace moecheck::harness
