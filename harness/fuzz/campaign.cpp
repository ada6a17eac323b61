#include "harness/fuzz/campaign.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "harness/fuzz/case_source.h"
#include "harness/fuzz/tally.h"

namespace moecheck::harness {
namespace {

using Clock = std::chrono::steady_clock;

// Of an island: cases [0, 32) are drawn, [32, 48) and [48, 64) fed back.
constexpr std::uint64_t kGenerations[] = {0, 32, 48, 64};
constexpr std::uint64_t kIsland = 64;
constexpr double kChunkSeconds = 1;  // of cases between two looks at the clock

// The case that came nearest to its bound, per implementation and output.
class Nearest {
 public:
  void add(const Case& c, const Record& r) {
    const Verdict v = r.result.verdict;
    if ((v != Verdict::kPass && v != Verdict::kUndecided) || !r.result.worst || !(r.result.headroom > 0) ||
        !(r.result.headroom <= 1))
      return;
    const auto [it, is_new] =
        best_.try_emplace({r.implementation, r.result.worst->output}, Best{r.result.headroom, c});
    if (!is_new && r.result.headroom > it->second.headroom) it->second = {r.result.headroom, c};
  }
  bool empty() const { return best_.empty(); }
  const Case& pick(Choices& choices) const {
    return std::next(best_.begin(), static_cast<std::ptrdiff_t>(choices.below(best_.size())))->second.c;
  }

 private:
  struct Best {
    double headroom;
    Case c;
  };
  std::map<std::pair<std::string, std::string>, Best> best_;
};

struct Island {
  const CaseSource* source;
  std::uint64_t op;  // its place among the operators
  Nearest nearest;
};

// A case to run: `island` is nullptr for those of the corpus.
struct Item {
  std::uint64_t number;
  Case c;
  Island* island;
  const CorpusEntry* entry;
};

class FuzzCampaign {
 public:
  explicit FuzzCampaign(const FuzzOptions& options)
      : options_(options), workers_(options.implementations, checking(options)) {
    for (const Operator* op : options.operators) sources_.emplace_back(*op);
  }

  std::vector<FuzzFinding> run() {
    replay();
    const std::uint64_t per_round = kIsland * sources_.size();
    for (std::uint64_t round = 0; !over() && round * per_round < options_.cases; ++round) run_round(round);
    std::vector<FuzzFinding> findings;
    for (auto& [key, f] : found_)
      if (f.finding.times > 0) findings.push_back(std::move(f.finding));
    std::sort(findings.begin(), findings.end(), [&](const FuzzFinding& a, const FuzzFinding& b) {
      return order_.at(a.cause.key()) < order_.at(b.cause.key());
    });
    return findings;
  }

 private:
  struct Found {
    FuzzFinding finding;
    Item item;
  };

  CampaignOptions checking(const FuzzOptions& o) {
    CampaignOptions options;
    options.check = o.check;
    options.jobs = o.jobs;
    options.timeout_seconds = o.timeout_seconds;
    options.shrink = false;
    options.amend = o.amend;
    options.on_record = [this](const Record& r, std::size_t, std::size_t) { take(r); };
    return options;
  }

  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  bool over() const { return seconds() >= options_.seconds || (options_.stop && options_.stop()); }

  // Entries of the chosen operators, those of this shard. All are known from the start: the others' shards have them.
  void replay() {
    if (options_.corpus == nullptr) return;
    std::vector<Item> items;
    std::size_t n = 0;
    for (const CorpusEntry& e : options_.corpus->entries()) {
      const auto is_it = [&](const Operator* op) { return op->name() == e.c.operator_name(); };
      if (std::ranges::none_of(options_.operators, is_it)) continue;
      if (!e.cause.implementation.empty()) known_.insert(e.cause.key());
      if (static_cast<int>(n++ % static_cast<std::size_t>(options_.shard.count)) == options_.shard.index)
        items.push_back({0, e.c, nullptr, &e});
    }
    run_items(items, kReplayed);
  }

  // One island of each operator. Shards take turns.
  void run_round(std::uint64_t round) {
    std::vector<Island> islands;
    for (std::uint64_t op = 0; op < sources_.size(); ++op)
      if ((round + op) % static_cast<std::uint64_t>(options_.shard.count) ==
          static_cast<std::uint64_t>(options_.shard.index))
        islands.push_back({&sources_[op], op, {}});
    for (std::size_t g = 0; g + 1 < std::size(kGenerations) && !over(); ++g) {
      std::vector<Item> drawn, fed_back;
      for (std::uint64_t at = kGenerations[g]; at < kGenerations[g + 1]; ++at)
        for (Island& island : islands) {
          const std::uint64_t k = round * kIsland + at, number = k * sources_.size() + island.op;
          if (number >= options_.cases) continue;
          RandomChoices choices(options_.seed, fmt::format("fuzz {} {}", island.source->op().name(), k));
          if (g == 0 || island.nearest.empty())
            drawn.push_back({number, island.source->draw(choices), &island, nullptr});
          else
            fed_back.push_back(
                {number, island.source->changed(island.nearest.pick(choices), choices), &island, nullptr});
        }
      run_items(drawn, kDrawn);
      run_items(fed_back, kFedBack);
    }
  }

  void run_items(const std::vector<Item>& items, std::string_view suite) {
    for (std::size_t at = 0; at < items.size() && !over();) {
      const double rate = cases_ == 0 ? 0 : static_cast<double>(cases_) / seconds();
      const auto wanted = static_cast<std::size_t>(
          std::clamp(rate * kChunkSeconds, 8.0 * options_.jobs, 1024.0 * options_.jobs));
      const std::size_t n = std::min(wanted, items.size() - at);
      run_chunk({items.data() + at, n}, suite);
      at += n;
    }
  }

  void run_chunk(std::span<const Item> items, std::string_view suite) {
    std::vector<Case> cases;
    for (const Item& item : items) cases.push_back(item.c);
    items_ = items, records_ = 0;
    workers_.run(cases, suite);
    cases_ += static_cast<std::int64_t>(items.size());
    for (const std::string& key : std::exchange(fresh_, {})) tell(found_.at(key));
    if (options_.on_progress) options_.on_progress({cases_, seconds(), found_.size()});
  }

  // One per implementation and case, in order.
  void take(const Record& r) {
    const Item& item = items_[records_++ / options_.implementations.size()];
    if (item.island != nullptr) item.island->nearest.add(item.c, r);
    // What the entry's implementation does with it is the entry's story, whatever words it finds for it now.
    const bool own = item.entry != nullptr && item.entry->cause.implementation == r.implementation;
    if (is_finding(r)) {
      const Cause cause = own ? item.entry->cause : cause_of(r);
      const std::string key = cause.key();
      const auto [it, is_new] =
          found_.try_emplace(key, Found{{cause, r, 0, known_.contains(key), true, {}}, item});
      ++it->second.finding.times;
      if (is_new) {
        order_.emplace(key, order_.size());
        // A known one is told too, when it is met: the entry was replayed, or another shard does so.
        if (!it->second.finding.known) store(it->second);
        fresh_.push_back(key);
        return;  // told when it is shrunk
      }
    } else if (own && options_.on_mended && r.result.verdict != Verdict::kSkip &&
               r.result.verdict != Verdict::kWaived) {
      options_.on_mended(*item.entry, r);
    }
    if (options_.on_record) options_.on_record(r);
  }

  CorpusEntry entry_of(const Found& f) const {
    const Record& r = f.finding.record;
    const std::string& smallest = r.shrunk;
    return {smallest.empty() ? f.item.c : parse_case(smallest), f.finding.cause,
            f.item.entry != nullptr
                ? fmt::format("{}, of the corpus", f.item.c.str())
                : fmt::format("{}, case {} of seed {}", f.item.c.str(), f.item.number, options_.seed),
            r.env.commit};
  }

  void store(Found& f) {
    if (options_.corpus != nullptr) f.finding.path = options_.corpus->store(entry_of(f));
  }

  // Shrinks a new finding, keeps it and says so.
  void tell(Found& f) {
    const Implementation* one[1] = {};
    for (const Implementation* impl : options_.implementations)
      if (impl->name() == f.finding.record.implementation) one[0] = impl;
    if (options_.shrink && !f.finding.known) {
      CampaignOptions options;
      options.check = options_.check;
      options.timeout_seconds = options_.timeout_seconds;
      options.amend = options_.amend;  // shrinking does not end at a waived cause
      const std::vector<Record> again = run_campaign({f.item.c}, one, options);
      f.finding.repeats = is_finding(again.front());
      f.finding.record.shrunk = again.front().shrunk;
      if (!again.front().shrunk.empty()) store(f);
    }
    if (options_.corpus != nullptr && options_.tensors && !f.finding.known)
      options_.corpus->store_tensors(entry_of(f), *one[0]);
    if (options_.on_record) options_.on_record(f.finding.record);
    if (options_.on_finding) options_.on_finding(f.finding);
  }

  const FuzzOptions& options_;
  const Clock::time_point start_ = Clock::now();
  CaseWorkers workers_;
  std::vector<CaseSource> sources_;
  // Of the chunk at hand: its cases, how many records there are of them, keys of the new causes.
  std::span<const Item> items_;
  std::size_t records_ = 0;
  std::vector<std::string> fresh_;
  std::set<std::string> known_;               // causes of the corpus
  std::map<std::string, Found> found_;        // by key of the cause
  std::map<std::string, std::size_t> order_;  // in which they were met
  std::int64_t cases_ = 0;
};

}  // namespace

std::vector<FuzzFinding> run_fuzz(const FuzzOptions& options) { return FuzzCampaign(options).run(); }

}  // namespace moecheck::harness
