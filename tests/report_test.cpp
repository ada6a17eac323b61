#include "harness/report/html.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "harness/report/aggregate.h"
#include "harness/report/page.h"
#include "harness/text.h"
#include "harness/verdict_text.h"
#include "tests/synthetic_records.h"

namespace moecheck::harness {
namespace {

std::int64_t occurrences(std::string_view text, std::string_view word) {
  std::int64_t n = 0;
  for (std::size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + word.size()))
    ++n;
  return n;
}

// What stands between each `before` and the next of the characters `ends`.
std::vector<std::string> all_between(std::string_view text, std::string_view before, std::string_view ends) {
  std::vector<std::string> found;
  for (std::size_t at = text.find(before); at != std::string_view::npos; at = text.find(before, at)) {
    at += before.size();
    found.emplace_back(text.substr(at, text.find_first_of(ends, at) - at));
  }
  return found;
}

std::string section(const std::string& page, std::string_view id) {
  const std::size_t begin = page.find(fmt::format("<section id={}>", id));
  return begin == std::string::npos ? "" : page.substr(begin, page.find("</section>", begin) - begin);
}

TEST(HtmlReport, ATallyShowsItsWorstVerdict) {
  report::Tally t;
  EXPECT_EQ(t.worst(), Verdict::kSkip);
  for (const Verdict v : {Verdict::kSkip, Verdict::kPass, Verdict::kUndecided, Verdict::kFail, Verdict::kPass,
                          Verdict::kSuspect})
    t.add(v);
  EXPECT_EQ(t.worst(), Verdict::kFail);
  EXPECT_EQ(t.failures(), 2);
  t.add(Verdict::kOracle);
  EXPECT_EQ(t.worst(), Verdict::kOracle);
}

TEST(HtmlReport, EveryFailureAppearsOnceWithTheLineThatRepeatsIt) {
  const auto records = synthetic_campaign(12);
  const std::string failures = section(html_report(records), "failures");
  std::int64_t failed = 0;
  for (const Record& r : records) {
    if (!is_failure(r.result.verdict)) continue;
    ++failed;
    EXPECT_NE(failures.find("<code>" + report::html(repro_command(r)) + "</code>"), std::string::npos)
        << repro_command(r);
  }
  ASSERT_GT(failed, 100);
  EXPECT_EQ(occurrences(failures, "<code>moecheck repro "), failed);
  for (std::int64_t i = 1; i <= failed; ++i)
    EXPECT_EQ(occurrences(failures, fmt::format(" id=f{}>", i)), 1) << i;
}

TEST(HtmlReport, AFailureShowsCauseElementAndClauses) {
  const Record r = synthetic_failure();
  const std::string page = html_report({&r, 1});
  for (const std::string& word :
       {r.result.cause, r.result.reason, std::string("output[3, 17]"), std::string("0.782227"),
        std::string("[0.3125, 0.314453]"), std::string("479x"),
        std::string("1,024 of 9,216 elements beyond the bound, 2 suspect, 1 undecided"),
        std::string("token_permutation"), r.case_line})
    EXPECT_NE(section(page, "failures").find(report::html(word)), std::string::npos) << word;
}

TEST(HtmlReport, CountsAreTheRecords) {
  const auto records = synthetic_campaign(3);
  const std::string page = html_report(records);
  std::map<Verdict, std::int64_t> counts;
  std::int64_t failed = 0;
  for (const Record& r : records) {
    ++counts[r.result.verdict];
    failed += is_failure(r.result.verdict);
  }
  for (const auto& [v, n] : counts)
    EXPECT_NE(page.find(fmt::format("<b>{}</b><span>{}</span></li>", grouped(n), name(v))), std::string::npos)
        << name(v);
  EXPECT_NE(page.find(fmt::format("<span class=bad>{} of {}</span> checks failed", failed,
                                  grouped(std::ssize(records)))),
            std::string::npos);
  // The cells' titles name every verdict of the cell: over the matrix they add up to the records.
  const std::string matrix = section(page, "matrix");
  std::map<std::string, std::int64_t> in_cells;
  for (const std::string& title : all_between(matrix, "title=\"", "\""))
    for (const std::string& part : all_between(", " + title, ", ", ",>")) {
      if (part[0] < '0' || part[0] > '9') continue;  // the title of a planted fault
      const std::size_t space = part.find(' ');
      in_cells[part.substr(space + 1)] += std::stoll(part.substr(0, space));
    }
  for (const auto& [v, n] : counts) EXPECT_EQ(in_cells[std::string(name(v))], n) << name(v);
}

TEST(HtmlReport, EveryLinkLeadsSomewhere) {
  const std::string page = html_report(synthetic_campaign(2));
  std::set<std::string> ids;
  for (const std::string& id : all_between(page, " id=", " >"))
    EXPECT_TRUE(ids.insert(id).second) << id << " twice";
  const std::vector<std::string> links = all_between(page, "href=#", " >");
  for (const std::string& link : links) EXPECT_TRUE(ids.contains(link)) << link;
  EXPECT_GT(links.size(), 300u);
}

TEST(HtmlReport, LoadsNothingAndRunsNothing) {
  const std::string page = html_report(synthetic_campaign(2), {"moecheck report x.jsonl -o x.html"});
  for (const std::string_view word : {"http://", "https://", "//cdn", "<script", "<link", "<iframe", "<img",
                                      "@import", "url(", "onload", "onclick", "javascript:"}) {
    EXPECT_EQ(occurrences(page, word), 0) << word;
  }
  EXPECT_NE(page.find("default-src 'none'"), std::string::npos);
  EXPECT_NE(page.find("<code>moecheck report x.jsonl -o x.html</code>"), std::string::npos);
}

// Tags, ids and numbers only: what is left of a page without the text of its records.
TEST(HtmlReport, NoByteOfARecordBecomesMarkup) {
  std::string hostile;
  for (int c = 0; c < 256; ++c) hostile += static_cast<char>(c);
  hostile += "</style></code><script>alert(1)</script>\" onload='x' <!-- &lt; \xed\xa0\x80";
  for (int v = 0; v <= static_cast<int>(Verdict::kWaived); ++v) {
    Record plain = synthetic_failure();
    plain.result.verdict = static_cast<Verdict>(v);
    plain.model = plain.policy = "x";
    Record r = plain;
    r.operator_name = r.implementation = r.model = r.policy = r.case_line = r.shrunk = hostile;
    r.result.reason = r.result.cause = r.result.worst->output = hostile;
    for (ClauseResult& c : r.result.clauses) c = {c.name + hostile, c.verdict, c.detail + hostile};
    r.env = {hostile, hostile, hostile, hostile, hostile, hostile, hostile, 1};
    plain.env = {"a", "b", "c", "d", "e", "f", "g", 1};
    plain.implementation = "cpu!x";  // hostile has a "!" too
    const std::string page = html_report({&r, 1}, {hostile, hostile});
    const std::string same = html_report({&plain, 1}, {"x", "x"});
    for (const char mark : {'<', '>'})
      EXPECT_EQ(std::count(page.begin(), page.end(), mark), std::count(same.begin(), same.end(), mark));
    EXPECT_EQ(occurrences(page, "<script"), 0);
    for (const char c : page) ASSERT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= 0x20);
    std::string flat = page;
    std::erase(flat, '\n');
    EXPECT_EQ(printable(flat), flat) << "valid UTF-8";
  }
}

TEST(HtmlReport, NumbersThatAreNotFiniteAreShown) {
  Record r = synthetic_failure();
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN(),
                   kInf = std::numeric_limits<double>::infinity();
  for (const double v : {kNan, kInf, -kInf}) {
    r.result.worst = Element{"output", {0}, v, v, v, v, v, v, v, ""};
    r.result.headroom = v;
    EXPECT_NE(html_report({&r, 1}).find("output[0]"), std::string::npos);
  }
}

TEST(HtmlReport, AnEmptyListIsAPage) {
  const std::string page = html_report({});
  EXPECT_NE(page.find("No checks in these records"), std::string::npos);
  EXPECT_TRUE(page.ends_with("</html>\n"));
}

TEST(HtmlReport, OnlySkipsAndOnlyPassesHaveTheirOwnHeadline) {
  Record r;
  r.operator_name = "gating";
  r.implementation = "cpu";
  EXPECT_NE(html_report({&r, 1}).find("<span class=good>No failure</span> in 1 check<"), std::string::npos);
  r.result.verdict = Verdict::kSkip;
  EXPECT_NE(html_report({&r, 1}).find("Nothing ran: 1 check skipped"), std::string::npos);
}

TEST(HtmlReport, FiveThousandRecordsStayUnderThreeMegabytes) {
  auto records = synthetic_campaign(14);
  ASSERT_GE(records.size(), 4900u);
  EXPECT_LT(html_report(records).size(), 3'000'000u);
  for (Record& r : records) {  // the worst page: everything fails, each in its own way
    const std::string line = r.case_line;
    r = synthetic_failure();
    r.case_line = r.shrunk = line + fmt::format(" seed={}", &r - records.data());
    r.result.cause += line;
  }
  EXPECT_LT(html_report(records).size(), 3'000'000u);
}

TEST(HtmlReport, TheSameRecordsGiveTheSamePage) {
  EXPECT_EQ(html_report(synthetic_campaign(1)), html_report(synthetic_campaign(1)));
}

}  // namespace
}  // namespace moecheck::harness
