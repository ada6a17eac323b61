#include "harness/text.h"

#include <gtest/gtest.h>

#include <limits>

namespace moecheck::harness {
namespace {

TEST(Text, WhatIsPrintableStays) {
  EXPECT_EQ(printable("topk_ids[3] <&> \u00fc \u6771 \U0001F600"),
            "topk_ids[3] <&> \u00fc \u6771 \U0001F600");
}

TEST(Text, ControlAndReorderingCharactersBecomeVisible) {
  EXPECT_EQ(printable("a\nb\tc\r\x1b[31m\x7f"), "a\\nb\\tc\\r\\x1b[31m\\x7f");
  EXPECT_EQ(printable(std::string_view("\0", 1)), "\\x00");
  EXPECT_EQ(printable("\u0085\u202e\u2066\ufeff\uffff"), "\\u{0085}\\u{202e}\\u{2066}\\u{feff}\\u{ffff}");
}

TEST(Text, InvalidUtf8BecomesVisible) {
  EXPECT_EQ(printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(printable("\xc0\xaf"), "\\xc0\\xaf") << "overlong";
  EXPECT_EQ(printable("\xe0\x80\xaf"), "\\xe0\\x80\\xaf") << "overlong";
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "surrogate";
  EXPECT_EQ(printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80") << "past U+10FFFF";
  EXPECT_EQ(printable("\xe6\x9d"), "\\xe6\\x9d") << "cut off";
}

TEST(Text, LongNamesAreCutBetweenCharacters) {
  EXPECT_EQ(printable("\u6771\u6771\u6771", 4), "\u6771\u6771...");
  EXPECT_EQ(printable("abc", 3), "abc");
}

TEST(Text, LinesAreSplitAndCleaned) {
  EXPECT_EQ(printable_lines("a\r\nb\tc\n"), (std::vector<std::string>{"a", "b\\tc"}));
  EXPECT_TRUE(printable_lines("").empty());
}

TEST(Text, NumbersForPeople) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1234567), "1,234,567");
  EXPECT_EQ(grouped(-1234), "-1,234");
  EXPECT_EQ(grouped(std::numeric_limits<std::int64_t>::min()), "-9,223,372,036,854,775,808");
  EXPECT_EQ(count(1, "case"), "1 case");
  EXPECT_EQ(count(2048, "case"), "2,048 cases");
  EXPECT_EQ(coordinates_text({3, 17}), "[3, 17]");
}

TEST(Text, DifferentNumbersLookDifferent) {
  EXPECT_EQ(tell_apart({0.5, 0.25}), (std::vector<std::string>{"0.5", "0.25"}));
  EXPECT_EQ(tell_apart({1.0, 1.0}), (std::vector<std::string>{"1", "1"}));
  const auto near = tell_apart({1.0, 1.0 + 0x1p-23});
  EXPECT_NE(near[0], near[1]);
  const auto nearest = tell_apart({1.0, 1.0 + 0x1p-52});
  EXPECT_NE(nearest[0], nearest[1]);
  EXPECT_EQ(tell_apart({0.0, -0.0}), (std::vector<std::string>{"0", "-0"}));
}

TEST(Text, RatiosSayWhetherTheBoundWasPassed) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(ratio_text(0), "0.0%");
  EXPECT_EQ(ratio_text(1e-9), "<0.1%");
  EXPECT_EQ(ratio_text(0.1234), "12.3%");
  EXPECT_EQ(ratio_text(0.99999), "99.9%") << "what is within the bound never looks like the bound";
  EXPECT_EQ(ratio_text(1), "100.0%");
  EXPECT_EQ(ratio_text(1.0000001), "1.01x");
  EXPECT_EQ(ratio_text(479.1), "479x");
  EXPECT_EQ(ratio_text(1.2e9), "1.2e+09x");
  EXPECT_EQ(ratio_text(kInf), "inf");
  EXPECT_EQ(ratio_text(-std::numeric_limits<double>::quiet_NaN()), "nan");
}

TEST(Text, ShellWordsSurviveAShell) {
  EXPECT_EQ(shell_word("cpu-scalar"), "cpu-scalar");
  EXPECT_EQ(shell_word("cpu!fault"), "'cpu!fault'");
  EXPECT_EQ(shell_word(""), "''");
  EXPECT_EQ(shell_word("a'b $(x)"), "'a'\\''b $(x)'");
  EXPECT_EQ(shell_quoted("plain"), "'plain'");
}

}  // namespace
}  // namespace moecheck::harness
