// Detection limits: foreign gates against values computed by hand, faults that are what they say, a search that finds a known
// threshold and believes no 58 of 59, false alarms, and the same results for any number of jobs.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "command_support.h"
#include "harness/detection/published.h"
#include "tests/altered_implementation.h"

namespace moecheck::harness::detection {
namespace {

const Gate& gate(std::string_view name) {
  for (const Gate& g : gates())
    if (g.name == name) return g;
  throw std::logic_error("no such gate");
}

bool passes(std::string_view name, std::vector<double> expected, std::vector<double> got) {
  const auto columns = static_cast<std::int64_t>(expected.size());
  return gate(name).passes({std::move(expected), std::move(got), columns, {}, {}});
}

const double kNan = std::nan("");

TEST(DetectionGates, AllcloseIsAbsolute) {
  EXPECT_TRUE(passes("allclose", {1000, -1}, {1000.0156, -1.0156}));
  EXPECT_FALSE(passes("allclose", {1000, -1}, {1000.0313, -1})) << "3e-5 of the value, and more than 2e-2";
  EXPECT_TRUE(passes("allclose", {0.015}, {0})) << "all of a small value";
  EXPECT_FALSE(passes("allclose", {1}, {kNan}));
}

// 0.1 + 0.85 |got|: a kernel that is too large is judged by its own size.
TEST(DetectionGates, MatchRatioScalesWithWhatIsWrong) {
  EXPECT_TRUE(passes("match_ratio", {1}, {6.5})) << "5.5 <= 0.1 + 5.525";
  EXPECT_FALSE(passes("match_ratio", {1}, {8})) << "7 > 0.1 + 6.8";
  EXPECT_FALSE(passes("match_ratio", {1}, {0.45})) << "0.55 > 0.1 + 0.3825";
  std::vector<double> right(10, 1.0), two = right, three = right;
  two[0] = two[5] = 1e6, three[0] = three[5] = three[9] = 1e6;
  EXPECT_TRUE(passes("match_ratio", two, right)) << "20% may be anything";
  EXPECT_FALSE(passes("match_ratio", three, right));
  std::vector<double> infinite = right;
  infinite[3] = INFINITY;
  EXPECT_FALSE(passes("match_ratio", right, infinite));
}

TEST(DetectionGates, CalcDiff) {
  EXPECT_TRUE(passes("calc_diff", {1, -2}, {1.03125, -2.0625}))
      << "1 - 2 * 1.03125 / (1 + 1.03125^2) = 4.7e-4";
  EXPECT_FALSE(passes("calc_diff", {1, -2}, {1.0625, -2.125})) << "1.8e-3";
  EXPECT_TRUE(passes("calc_diff", {0, 0}, {0, 0}));
  EXPECT_FALSE(passes("calc_diff", {0, 0}, {0, 1e-9}));
  EXPECT_FALSE(passes("calc_diff", {1}, {kNan}));
}

// Divided by the kernel's own squares, as ggml has it.
TEST(DetectionGates, Nmse) {
  EXPECT_TRUE(passes("nmse", {1}, {1.0225})) << "0.0225^2 / 1.0225^2 = 4.84e-4";
  EXPECT_FALSE(passes("nmse", {1.0225}, {1})) << "0.0225^2 = 5.06e-4";
  EXPECT_TRUE(passes("nmse", {0, 0}, {0, 0}));
  EXPECT_FALSE(passes("nmse", {1, 1}, {0, 0}));
  EXPECT_FALSE(passes("nmse", {1, 1}, {1, kNan}));
}

TEST(DetectionGates, CosineSeesNoScale) {
  EXPECT_TRUE(passes("cosine", {1, -2, 3}, {2.5, -5, 7.5}));
  EXPECT_TRUE(passes("cosine", {1, 0}, {1, 0.125})) << "1 / sqrt(1 + 1/64) = 0.9923";
  EXPECT_FALSE(passes("cosine", {1, 0}, {1, 0.25})) << "0.9701";
  EXPECT_FALSE(passes("cosine", {1, 2}, {-1, -2}));
  EXPECT_FALSE(passes("cosine", {1, 2}, {0, 0}));
}

TEST(DetectionGates, SortedWeightsDoNotSeeWhoseTheyAre) {
  const auto sorted = [](std::vector<double> got, std::vector<std::int64_t> ids) {
    return gate("sorted_weights")
        .passes({{0.5, 0.25, 0.7, 0.3}, std::move(got), 2, {3, 9, 1, 2}, std::move(ids)});
  };
  EXPECT_TRUE(sorted({0.5, 0.25, 0.7, 0.3}, {3, 9, 1, 2}));
  EXPECT_TRUE(sorted({0.25, 0.5, 0.3, 0.7}, {3, 9, 1, 2})) << "each weight is another expert's";
  EXPECT_FALSE(sorted({0.7, 0.3, 0.5, 0.25}, {3, 9, 1, 2})) << "another token's";
  EXPECT_FALSE(sorted({0.5, 0.25, 0.7, 0.3}, {3, 8, 1, 2}));
  EXPECT_TRUE(sorted({0.505, 0.25, 0.7, 0.3}, {3, 9, 1, 2})) << "0.005 <= 1e-3 + 5.05e-3";
  EXPECT_FALSE(sorted({0.51, 0.25, 0.7, 0.3}, {3, 9, 1, 2})) << "0.01 > 1e-3 + 5.1e-3";
  EXPECT_FALSE(sorted({0.5, kNan, 0.7, 0.3}, {3, 9, 1, 2}));
}

TEST(DetectionLimits, FiftyNineAreNeededAndAllOfThem) {
  EXPECT_EQ(allowed_misses(58), -1) << "0.05^(1/58) = 0.9497";
  EXPECT_EQ(allowed_misses(59), 0) << "0.05^(1/59) = 0.9505";
  EXPECT_EQ(allowed_misses(92), 0);
  EXPECT_EQ(allowed_misses(93), 1);
}

const std::vector<double> kGrid = {0.0625, 0.125, 0.25, 0.5, 1, 2, 4};

TEST(DetectionLimits, ASearchFindsTheThresholdOfEachGate) {
  const double thresholds[] = {0.3, 0.0625, 1e-9, 5};
  const std::vector<Limit> limits = search_limits(kGrid, 59, 4, [&](std::size_t m, int, std::uint32_t) {
    std::uint32_t caught = 0;
    for (unsigned g = 0; g < 4; ++g) caught |= static_cast<std::uint32_t>(kGrid[m] >= thresholds[g]) << g;
    return caught;
  });
  EXPECT_EQ(limits[0].smallest, 0.5);
  EXPECT_EQ(limits[0].missed, 0.25);
  EXPECT_EQ(limits[1].smallest, 0.0625);
  EXPECT_EQ(limits[2].missed, std::nullopt) << "the grid ends first";
  EXPECT_EQ(limits[3].smallest, std::nullopt);
  EXPECT_EQ(limits[3].missed, 4);
}

TEST(DetectionLimits, ALargerMissEndsTheSearch) {
  const std::vector<Limit> limits = search_limits(
      kGrid, 59, 1, [&](std::size_t m, int, std::uint32_t) { return std::uint32_t{kGrid[m] != 1}; });
  EXPECT_EQ(limits[0].smallest, 2) << "0.5 is caught, but 1 is not";
}

TEST(DetectionLimits, OneMissOf59IsTooMany) {
  const auto smallest = [](int trials, std::set<int> missed) {
    return search_limits(kGrid, trials, 1,
                         [&](std::size_t m, int t, std::uint32_t) {
                           return std::uint32_t{kGrid[m] >= 1 || !missed.contains(t)};
                         })[0]
        .smallest;
  };
  EXPECT_EQ(smallest(59, {}), 0.0625);
  EXPECT_EQ(smallest(59, {58}), 1) << "58 of 59";
  EXPECT_EQ(smallest(93, {4}), 0.0625) << "92 of 93";
  EXPECT_EQ(smallest(93, {4, 5}), 1);
  EXPECT_THROW(search_limits(kGrid, 58, 1, [](auto...) { return 1u; }), UsageError);
}

const Implementation& cpu() { return *find_implementation("cpu"); }

// A few tokens of each operator with real outputs; every family fits one of them.
const std::vector<std::string> kSmall = {"moe_block policy=vllm_cuda tokens=3 hidden=24 intermediate=8",
                                         "routed_scaling policy=vllm_runner tokens=3 topk=2 hidden=16",
                                         "gating policy=vllm_torch experts=16 topk=4 tokens=3",
                                         "mqa_logits tokens=2 context=20 contexts=mixed heads=2 head_dim=16"};

std::vector<double> values(const TensorSet& set, const Subject& s) { return s.beside_reference(set).got; }

TEST(DetectionFaults, NothingIsNothing) {
  std::set<Family> seen;
  for (const std::string& line : kSmall) {
    const Subject s(parse_case(line), cpu());
    for (const FamilyInfo& f : families()) {
      if (inapplicable(f.family, s)) continue;
      seen.insert(f.family);
      const TensorSet same = faulty(f.family, 0, 7, s);
      EXPECT_EQ(first_difference(same, s.outputs), "") << line << " " << f.name;
      EXPECT_FALSE(s.judged_wrong(same));
      for (const Gate& g : gates()) {
        const bool asked = !g.ids_only || !s.compared.expected_ids.empty();
        EXPECT_TRUE(!asked || g.passes(s.beside_reference(same))) << g.name << " " << line;
      }
    }
  }
  EXPECT_EQ(seen.size(), static_cast<std::size_t>(kFamilies)) << "the list of cases leaves a family out";
}

TEST(DetectionFaults, TheSeedDecidesWhere) {
  const Subject s(parse_case(kSmall[0]), cpu());
  for (const FamilyInfo& f : families()) {
    const double m = f.counts ? 3 : 0.5;
    EXPECT_EQ(first_difference(faulty(f.family, m, 7, s), faulty(f.family, m, 7, s)), "") << f.name;
    bool differs = false;
    for (std::uint64_t seed = 8; seed < 16; ++seed)
      differs = differs || !first_difference(faulty(f.family, m, 7, s), faulty(f.family, m, seed, s)).empty();
    EXPECT_TRUE(differs) << f.name;
  }
}

// Elements that differ from the unfaulted output.
std::vector<std::size_t> changed(Family family, double m, const Subject& s, std::uint64_t seed = 3) {
  const std::vector<double> before = values(s.outputs, s), after = values(faulty(family, m, seed, s), s);
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < before.size(); ++i)
    if (before[i] != after[i]) found.push_back(i);
  return found;
}

TEST(DetectionFaults, AreWhatTheySay) {
  const Subject s(parse_case(kSmall[0]), cpu());
  const std::vector<double> before = values(s.outputs, s);
  const auto after = [&](Family f, double m) { return values(faulty(f, m, 3, s), s); };
  const auto in_one_row = [](const std::vector<std::size_t>& elements) {
    return elements.front() / 24 == elements.back() / 24;
  };
  EXPECT_EQ(changed(Family::kScaled, 1, s).size(), before.size());
  for (const std::size_t i : changed(Family::kScaledRow, 1, s))
    EXPECT_TRUE(after(Family::kScaledRow, 1)[i] == 0 || after(Family::kScaledRow, 1)[i] == 2 * before[i]);
  EXPECT_EQ(changed(Family::kScaledRow, 1, s).size(), 24U);
  EXPECT_TRUE(in_one_row(changed(Family::kScaledRow, 1, s)));
  EXPECT_TRUE(in_one_row(changed(Family::kShifted, 1, s)));
  EXPECT_EQ(changed(Family::kShifted, 1, s).size(), 24U);

  const std::vector<std::size_t> few = changed(Family::kZeroed, 3, s), more = changed(Family::kZeroed, 9, s);
  EXPECT_EQ(few.size(), 3U);
  EXPECT_EQ(more.size(), 9U);
  EXPECT_TRUE(std::includes(more.begin(), more.end(), few.begin(), few.end()))
      << "a larger fault is in the same place";
  for (const std::size_t i : more) EXPECT_EQ(after(Family::kZeroed, 9)[i], 0);

  const std::vector<std::size_t> tile = changed(Family::kTile, 5, s);
  EXPECT_EQ(tile.size(), 5U);
  EXPECT_EQ(tile.back() - tile.front(), 4U);
  EXPECT_TRUE(in_one_row(tile));
  EXPECT_EQ(after(Family::kTile, 5)[tile[2]], 0);
  for (std::uint64_t seed = 0; seed < 20; ++seed)
    EXPECT_TRUE(in_one_row(changed(Family::kTile, 20, s, seed)));

  const std::vector<std::size_t> pair = changed(Family::kSwapped, 1, s);
  ASSERT_EQ(pair.size(), 2U);
  EXPECT_EQ(pair[1], pair[0] + 1);
  EXPECT_EQ(after(Family::kSwapped, 1)[pair[0]], before[pair[1]]);
  EXPECT_EQ(after(Family::kSwapped, 1)[pair[1]], before[pair[0]]);
}

// Without any column of w2 the routed experts add nothing: what is left is S. And out = rsf R + S, so a factor of 1 + m on the
// shared experts adds m S.
TEST(DetectionFaults, TheSharedPartIsWhatTheRoutedExpertsLeave) {
  const Subject s(parse_case("moe_block policy=any dtype=f32 tokens=3 hidden=24 intermediate=8"), cpu());
  ASSERT_EQ(s.shared.size(), 72U);
  const std::vector<double> without = values(faulty(Family::kReduction, 8, 1, s), s);
  for (std::size_t i = 0; i < without.size(); ++i) EXPECT_NEAR(without[i], s.shared[i], 1e-5);
  const std::vector<double> before = values(s.outputs, s),
                            doubled = values(faulty(Family::kSharedFactor, 1, 1, s), s);
  const double sign = (doubled[0] > before[0]) == (s.shared[0] > 0) ? 1 : -1;
  for (std::size_t i = 0; i < before.size(); ++i)
    EXPECT_NEAR(doubled[i] - before[i], sign * s.shared[i], 1e-5);
  EXPECT_EQ(magnitudes(Family::kReduction, s), (std::vector<double>{1, 2, 4, 8}));
}

TEST(DetectionStudy, OursIsAtTheFloorWhereDataAreExact) {
  const CaseLimits r =
      limits_of(parse_case("routed_scaling policy=vllm_runner tokens=3 topk=2 hidden=16 data=integers rsf=2"),
                cpu(), 59);
  EXPECT_EQ(r.tier, "integers");
  EXPECT_EQ(r.shape, "[3, 16]");
  ASSERT_EQ(r.families.size(), 7U) << "all but reduction";
  for (const FamilyLimits& f : r.families) {
    EXPECT_EQ(f.columns[kOwn].limit.smallest, f.columns[kBits].limit.smallest) << info(f.family).name;
    EXPECT_TRUE(f.columns[kOwn].limit.smallest) << info(f.family).name;
  }
  EXPECT_EQ(std::set<int>(r.false_alarms.begin(), r.false_alarms.end()), std::set<int>{0});
  EXPECT_EQ(r.families[1].columns[kFirstForeign + 4].limit.smallest, std::nullopt) << "cosine sees no scale";
  EXPECT_TRUE(weaker_than_others(std::span(&r, 1)).empty());
}

TEST(DetectionStudy, FalseAlarmsAreCounted) {
  const Altered wrong([](const Case&, const TensorSet&, TensorSet& outputs, const RunOptions&) {
    outputs.view("out").set(0, outputs.view("out").at(0) + 1);
  });
  CaseLimits r = limits_of(parse_case(kSmall[1]), wrong, 59);
  EXPECT_EQ(r.false_alarms[kBits], 0);
  EXPECT_EQ(r.false_alarms[kOwn], 59);
  EXPECT_EQ(r.false_alarms[kFirstForeign], 59) << "allclose";
  EXPECT_EQ(limit_text(r.families[0].columns[kOwn], 59, 59), "59 of 59 false alarms");
  EXPECT_TRUE(weaker_than_others(std::span(&r, 1)).empty());
  EXPECT_NE(limits_json(std::span(&r, 1), 59).find("\"allclose\": 59"), std::string::npos);
}

TEST(DetectionStudy, AGateThatCatchesLessIsShown) {
  CaseLimits r = limits_of(parse_case(kSmall[1]), cpu(), 59);
  ASSERT_TRUE(weaker_than_others(std::span(&r, 1)).empty());
  r.families[0].columns[kOwn].limit.smallest = 4;
  const std::vector<Weakness> weak = weaker_than_others(std::span(&r, 1));
  ASSERT_FALSE(weak.empty());
  EXPECT_EQ(weak[0].column, kFirstForeign);
  EXPECT_NE(table_markdown(std::span(&r, 1), 59).find("**"), std::string::npos);
  r.false_alarms[kFirstForeign] = 1;
  EXPECT_LT(weaker_than_others(std::span(&r, 1)).size(), weak.size())
      << "a gate that rejects right outputs is no rival";
}

TEST(DetectionStudy, JobsChangeNothing) {
  std::vector<StudyItem> items;
  for (const std::string& line : kSmall) items.push_back({parse_case(line), &cpu()});
  StudyOptions one, three;
  three.jobs = 3;
  const std::vector<CaseLimits> a = study(items, one), b = study(items, three);
  ASSERT_EQ(a.size(), kSmall.size());
  EXPECT_EQ(limits_json(a, 59), limits_json(b, 59));
  EXPECT_EQ(plot_svg(a, 59), plot_svg(b, 59));
  for (const CaseLimits& r : a) EXPECT_FALSE(r.families.empty()) << r.case_line;
}

TEST(DetectionStudy, TheDefaultLinesAreAccepted) {
  std::set<std::string> names;
  for (const std::string& line : default_lines()) {
    const Case c = parse_case(line);
    EXPECT_EQ(operator_of(c).refusal(c), std::nullopt) << line;
    EXPECT_EQ(cpu().unsupported(c), std::nullopt) << line;
    EXPECT_NE(real_output(c), "") << line;
    EXPECT_TRUE(names.insert(c.str()).second) << line << " is there twice";
  }
}

TEST(DetectionText, ASummaryHasTheSmallestAndTheLargestLimit) {
  const CaseLimits one = limits_of(parse_case(kSmall[1]), cpu(), 59);
  std::vector<CaseLimits> results(3, one);
  for (CaseLimits& r : results) r.families.resize(1);  // scaled_row
  const auto set = [&](std::size_t i, std::optional<double> own, std::optional<double> cosine) {
    results[i].families[0].columns[kOwn].limit.smallest = own;
    results[i].families[0].columns[kFirstForeign + 4].limit.smallest = cosine;
  };
  set(0, 0.25, 1), set(1, 1.0 / 64, std::nullopt), set(2, 4, std::nullopt);
  results[2].false_alarms[kOwn] = 7;
  const std::string text = summary_markdown(results, 59);
  EXPECT_NE(text.find("| 1/64 to 0.25 |"), std::string::npos) << "the case with false alarms is left out:\n"
                                                              << text;
  EXPECT_NE(text.find("| 1 to never |"), std::string::npos) << text;
  EXPECT_NE(text.find("| 7 of 177 |"), std::string::npos) << text;
}

TEST(DetectionText, Limits) {
  EXPECT_EQ(limit_text({true, {1.0 / 512, 1.0 / 1024}}, 0, 59), "1/512");
  EXPECT_EQ(limit_text({true, {0x1p-20, 0x1p-21}}, 0, 59), "1e-06");
  EXPECT_EQ(limit_text({true, {0x1p-26, std::nullopt}}, 0, 59), "<= 1e-08");
  EXPECT_EQ(limit_text({true, {1, std::nullopt}}, 0, 59), "1");
  EXPECT_EQ(limit_text({true, {std::nullopt, 64}}, 0, 59), "never");
  EXPECT_EQ(limit_text({true, {0.5, 0.25}}, 3, 59), "0.5 (3 of 59 false alarms)");
  EXPECT_EQ(limit_text({false, {}}, 0, 59), "-");
}

using ::moecheck::Ran;
Ran moecheck(const std::string& arguments) { return ::moecheck::run_moecheck(arguments); }

TEST(DetectionCommand, RefusalsNameTheValueAndTheRemedy) {
  const auto refused = [](const std::string& arguments, const std::string& words) {
    const Ran r = moecheck("detection " + arguments);
    EXPECT_EQ(r.code, 2) << arguments;
    EXPECT_NE(r.text.find(words), std::string::npos) << r.text;
  };
  refused("expert", "did you mean experts?");
  refused("--impl cpuu", "did you mean cpu?");
  refused("gating --trials 58", "use at least 59");
  refused("--case 'moe_align tokens=4'", "no output of real numbers");
  refused("--case 'gating experts=10 groups=3'", "refused");
  refused("gating --table /nowhere/at/all.md --case 'gating tokens=1 experts=8 topk=2'",
          "/nowhere/at/all.md");
}

TEST(DetectionCommand, NothingToDoIsNotSuccess) { EXPECT_EQ(moecheck("detection moe_align").code, 3); }

TEST(DetectionCommand, WritesWhatItIsAskedFor) {
  namespace fs = std::filesystem;
  const fs::path dir = fs::temp_directory_path() / ("moecheck_detection_" + std::to_string(getpid()));
  fs::create_directories(dir);
  const auto text = [&](const char* name) {
    std::ifstream in(dir / name);
    std::stringstream all;
    all << in.rdbuf();
    return all.str();
  };
  const std::string d = dir.string();
  const Ran r =
      moecheck("detection gating --case 'gating policy=vllm_torch experts=16 topk=4 tokens=3' --json " + d +
               "/d.json --table " + d + "/t.md --plot " + d + "/p.svg");
  EXPECT_EQ(r.code, 0) << r.text;
  EXPECT_NE(text("d.json").find("\"schema\": \"moecheck.detection/1\""), std::string::npos);
  EXPECT_NE(text("t.md").find("| swapped |"), std::string::npos);
  EXPECT_EQ(text("p.svg").rfind("<svg ", 0), 0U);
  fs::remove_all(dir);
  // A planted fault: the judge rejects outputs before anything is done to them.
  EXPECT_EQ(moecheck("detection --impl 'cpu!scale_dropped' --case 'gating experts=16 topk=4 tokens=3'").code,
            1);
}

}  // namespace
}  // namespace moecheck::harness::detection
