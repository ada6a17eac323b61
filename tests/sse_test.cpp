// The event parser: the standard's rules, and that the places where reads are cut never matter.
#include "harness/http/sse.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>
#include <vector>

namespace moecheck::harness::http {
namespace {

struct Event {
  std::string type, data, id;
  bool operator==(const Event&) const = default;
};
void PrintTo(const Event& e, std::ostream* out) {
  *out << "{" << e.type << "|" << e.data << "|" << e.id << "}";
}

void take(SseParser& parser, std::string_view bytes, std::vector<Event>& events) {
  SseEvent e;
  while (parser.next(bytes, e))
    events.push_back({std::string(e.type), std::string(e.data), std::string(e.id)});
  EXPECT_TRUE(bytes.empty());
}

std::vector<Event> parse(const std::vector<std::string_view>& reads) {
  SseParser parser;
  std::vector<Event> events;
  for (const std::string_view r : reads) take(parser, r, events);
  SseEvent rest;
  if (parser.finish(rest)) events.push_back({"unfinished", std::string(rest.data), ""});
  return events;
}

// With everything a server may put in: a BOM, comments, all three line ends, fields in any order, several data
// lines, a value that begins with blanks, characters of two to four bytes, an empty event.
const std::string kRecorded =
    "\xEF\xBB\xBF"
    ": ping\n\n"
    "data: {\"text\":\" h\xC3\xA9llo\"}\n\n"
    "event: token\r\nid: 7\r\ndata:  two blanks\r\n\r\n"
    "data:none\rdata\rdata: \xF0\x9F\x98\x80 \xE2\x82\xAC\r\r"
    "retry: 100\n\n"
    "unknown: field\ndata: {\"choices\":[]}\r\n\n"
    ":\n\n\n"
    "data\n\n"
    "data: [DONE]\n\n";

const std::vector<Event> kExpected = {{"", "{\"text\":\" h\xC3\xA9llo\"}", ""},
                                      {"token", " two blanks", "7"},
                                      {"", "none\n\n\xF0\x9F\x98\x80 \xE2\x82\xAC", "7"},
                                      {"", "{\"choices\":[]}", "7"},
                                      {"", "", "7"},
                                      {"", "[DONE]", "7"}};

TEST(Sse, AllOfTheStandard) { EXPECT_EQ(parse({kRecorded}), kExpected); }

TEST(Sse, EverySplitPointGivesTheSameEvents) {
  for (std::size_t i = 0; i <= kRecorded.size(); ++i)
    ASSERT_EQ(parse({std::string_view(kRecorded).substr(0, i), std::string_view(kRecorded).substr(i)}),
              kExpected)
        << "cut at byte " << i;
}

TEST(Sse, EveryPairOfSplitPointsGivesTheSameEvents) {
  const std::string_view all = kRecorded;
  for (std::size_t i = 0; i <= all.size(); ++i)
    for (std::size_t j = i; j <= std::min(all.size(), i + 5); ++j)
      ASSERT_EQ(parse({all.substr(0, i), all.substr(i, j - i), all.substr(j)}), kExpected) << i << ", " << j;
}

TEST(Sse, ByteByByte) {
  std::vector<std::string_view> reads;
  for (std::size_t i = 0; i < kRecorded.size(); ++i)
    reads.push_back(std::string_view(kRecorded).substr(i, 1));
  EXPECT_EQ(parse(reads), kExpected);
}

TEST(Sse, AnUnfinishedEventIsNotDelivered) {
  EXPECT_EQ(parse({"data: a\n\ndata: b\n"}), (std::vector<Event>{{"", "a", ""}, {"unfinished", "b", ""}}));
  EXPECT_EQ(parse({"data: [DONE]"}), (std::vector<Event>{{"unfinished", "[DONE]", ""}}));
  EXPECT_EQ(parse({""}), std::vector<Event>{});
}

TEST(Sse, ABomIsTakenOffTheStartOnly) {
  EXPECT_EQ(parse({"\xEF\xBB\xBF", "data: a\n\n",
                   "\xEF\xBB\xBF"
                   "data: b\n\ndata: c\n\n"}),
            (std::vector<Event>{{"", "a", ""}, {"", "c", ""}}));
}

RC_GTEST_PROP(Sse, AnyReadsOfAnyBytesGiveTheSameEvents, ()) {
  const auto text = *rc::gen::container<std::string>(
      rc::gen::elementOf(std::string("data: :\r\n\n\r\xEF\xBB\xBFxid\xC3\xA9")));
  const std::vector<Event> whole = parse({text});
  std::vector<std::string_view> reads;
  for (std::size_t i = 0; i < text.size();) {
    const auto n = *rc::gen::inRange<std::size_t>(1, 6);
    reads.push_back(std::string_view(text).substr(i, n));
    i += n;
  }
  RC_ASSERT(parse(reads) == whole);
}

}  // namespace
}  // namespace moecheck::harness::http
