// What the safetensors reader refuses, and that no bytes crash it. Round trips and files:
// safetensors_test.cpp.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>

#include "harness/case.h"
#include "harness/safetensors.h"

namespace moecheck::harness {
namespace {

std::string file_of(std::string_view header, std::string_view data) {
  std::string out;
  for (std::size_t i = 0; i < 8; ++i) out += static_cast<char>(header.size() >> (8 * i) & 0xFF);
  return out.append(header).append(data);
}

TensorSet parse_text(std::string_view file) {
  return parse_safetensors(std::as_bytes(std::span(file.data(), file.size())), "x.safetensors");
}

// The message of the UsageError; "accepted" where there is none.
std::string refusal(std::string_view file) {
  try {
    parse_text(file);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "accepted";
}

void expect_refused(std::string_view file, std::initializer_list<std::string_view> words) {
  const std::string message = refusal(file);
  EXPECT_TRUE(message.starts_with("x.safetensors: ")) << message;
  EXPECT_LT(message.size(), 600u) << message;
  for (const std::string_view word : words)
    EXPECT_NE(message.find(word), std::string::npos) << message << "\nlacks " << word;
}

// A file of one tensor "t" whose entry is `entry`, with 16 bytes of data.
std::string one(std::string_view entry) {
  return file_of(fmt::format(R"({{"t":{}}})", entry), std::string(16, 'x'));
}
std::string two(std::string_view offsets_a, std::string_view offsets_b) {
  constexpr std::string_view kFormat =
      R"({{"a":{{"dtype":"U8","shape":[8],"data_offsets":{}}},"b":{{"dtype":"U8","shape":[8],"data_offsets":{}}}}})";
  return file_of(fmt::format(kFormat, offsets_a, offsets_b), std::string(16, 'x'));
}

TEST(SafetensorsFormat, ATensorHasTheBytesOfItsShapeNoMoreNoLess) {
  for (const char* shape : {"[15]", "[17]", "[3,5]"})
    expect_refused(one(fmt::format(R"({{"dtype":"U8","shape":{},"data_offsets":[0,16]}})", shape)),
                   {"hold 16 bytes", "needs"});
}

TEST(SafetensorsFormat, AcceptsWhatTheFormatAllows) {
  EXPECT_EQ(parse_text(file_of("{}", "")).tensors().size(), 0u);
  EXPECT_EQ(parse_text(file_of("{}   \n", "")).tensors().size(), 0u);
  EXPECT_EQ(parse_text(one(R"({"dtype":"U8","shape":[16],"data_offsets":[0,16]})")).tensors().size(), 1u);
  EXPECT_EQ(parse_text(two("[8,16]", "[0,8]")).tensors().size(), 2u)
      << "data in another order than the names";
  EXPECT_EQ(
      parse_text(file_of(R"({"s":{"data_offsets":[0,4],"shape":[],"dtype":"F32"}})", "abcd")).at("s").shape(),
      Shape());
  EXPECT_EQ(
      parse_text(file_of(R"({"":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]}})", "")).at("").shape(),
      Shape(0, 7));
}

TEST(SafetensorsFormat, RefusesDamagedFraming) {
  expect_refused("", {"0 bytes is too short"});
  expect_refused("1234567", {"7 bytes is too short", "truncated"});
  expect_refused(std::string(8, '\0'), {"header is 0 bytes long"});
  expect_refused(file_of("{}", "").substr(0, 9),
                 {"header would be 2 bytes", "ends after 1", "copy it again"});
  expect_refused(std::string(16, '\xff'), {"18446744073709551615", "100000000"});
  expect_refused(std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10), {"100000001"});
  const std::string whole = one(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})");
  for (std::size_t n = 0; n < whole.size(); ++n) EXPECT_NE(refusal(whole.substr(0, n)), "accepted") << n;
  expect_refused(whole + "y", {"bytes [16, 17] after the last tensor"});
}

TEST(SafetensorsFormat, RefusesWhatIsNoHeader) {
  expect_refused(file_of("[]", ""), {"starts with '['"});
  expect_refused(file_of("\xef\xbb\xbf{}", ""), {"starts with '\\xef'"});
  expect_refused(file_of("{]", ""), {"not JSON"});
  expect_refused(file_of("{}{}", ""), {"not JSON"});
  expect_refused(file_of("{} // x", ""), {"not JSON"});
  expect_refused(file_of("{\"a\xc3\":1}", ""), {"not JSON in UTF-8"});
  expect_refused(file_of("{\"\xed\xa0\x80\":1}", ""), {"not JSON in UTF-8"});
  expect_refused(file_of(R"({"\ud800":{}})", ""), {"not JSON in UTF-8"});
  expect_refused(file_of(std::string("{}\0x", 4), ""), {"NUL at byte 10"});
  expect_refused(file_of(R"({"t":1})", ""), {"entry 't' is 1, not an object"});
  expect_refused(file_of(R"({"t":null})", ""), {"entry 't' is null"});
  expect_refused(file_of(R"({"__metadata__":{"a":1}})", ""), {"__metadata__ 'a' is 1"});
  expect_refused(file_of(R"({"__metadata__":{"a":{}}})", ""), {"__metadata__ 'a' is an object"});
  expect_refused(file_of(R"({"__metadata__":[]})", ""), {"__metadata__", "an array"});
}

TEST(SafetensorsFormat, RefusesDoubledNames) {
  expect_refused(
      file_of(
          R"({"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
          ""),
      {"name 't' appears twice", "rename"});
  expect_refused(file_of(R"({"__metadata__":{},"__metadata__":{}})", ""), {"'__metadata__' appears twice"});
  expect_refused(file_of(R"({"__metadata__":{"a":"1","a":"2"}})", ""), {"key 'a' appears twice"});
  expect_refused(one(R"({"dtype":"U8","dtype":"U8","shape":[16],"data_offsets":[0,16]})"),
                 {"tensor 't'", "'dtype' appears twice"});
}

TEST(SafetensorsFormat, RefusesEntriesThatAreNotTensors) {
  expect_refused(one(R"({})"), {"tensor 't'", "'dtype' is missing"});
  expect_refused(one(R"({"dtype":"U8","shape":[16]})"), {"'data_offsets' is missing"});
  expect_refused(one(R"({"dtype":"U8","data_offsets":[0,16]})"), {"'shape' is missing"});
  expect_refused(one(R"({"dtype":"U8","shape":[16],"data_offsets":[0,16],"stride":[1]})"),
                 {"'stride' is none of"});
  expect_refused(one(R"({"dtype":"BOOL","shape":[16],"data_offsets":[0,16]})"),
                 {"'BOOL'", "F64, F32, BF16, F16, F8_E4M3, F8_E4M3FNUZ"});
  expect_refused(one(R"({"dtype":"f32","shape":[4],"data_offsets":[0,16]})"), {"dtype 'f32'"});
  expect_refused(one(R"({"dtype":3,"shape":[4],"data_offsets":[0,16]})"),
                 {"dtype is 3; it must be a string"});
  expect_refused(one(R"({"dtype":["U8"],"shape":[4],"data_offsets":[0,16]})"), {"dtype is an array"});
  expect_refused(one(R"({"dtype":"U8","shape":16,"data_offsets":[0,16]})"),
                 {"shape is 16; it must be an array"});
  expect_refused(one(R"({"dtype":"U8","shape":"16","data_offsets":[0,16]})"), {"shape is the string '16'"});
}

TEST(SafetensorsFormat, RefusesImpossibleShapes) {
  const auto shape = [](std::string_view s) {
    return one(fmt::format(R"({{"dtype":"F32","shape":[{}],"data_offsets":[0,16]}})", s));
  };
  expect_refused(shape("-4"), {"shape[0] is -4", "whole number"});
  expect_refused(shape("2, 2.0"), {"shape[1] is 2.0"});
  expect_refused(shape("null"), {"shape[0] is null"});
  expect_refused(shape("[4]"), {"shape[0] is an array"});
  expect_refused(shape("99999999999999999999999"), {"shape[0] is 99999999999999999999999"});
  expect_refused(shape("18446744073709551615"), {"shape[0] is 18446744073709551615"});
  expect_refused(shape("9223372036854775807"), {"overflows"});
  expect_refused(shape("4294967296, 4294967296"), {"[4294967296, 4294967296] of F32 overflows"});
  expect_refused(shape("4611686018427387904, 4611686018427387904, 0"), {"overflows"});
  expect_refused(shape("1,1,1,2,2"), {"more than 4 dimensions"});
  expect_refused(shape("5"), {"hold 16 bytes", "[5] of F32 needs 20"});
  expect_refused(shape("1e400"), {"not JSON"});
}

TEST(SafetensorsFormat, RefusesOffsetsThatDoNotTileTheData) {
  const auto offsets = [](std::string_view s) {
    return one(fmt::format(R"({{"dtype":"U8","shape":[16],"data_offsets":{}}})", s));
  };
  expect_refused(offsets("[0]"), {"data_offsets has 1 number"});
  expect_refused(offsets("[]"), {"data_offsets has 0 numbers"});
  expect_refused(offsets("[0,8,16]"), {"more than 2 numbers"});
  expect_refused(offsets("[-1,15]"), {"data_offsets[0] is -1"});
  expect_refused(offsets("[16,0]"), {"[16, 0] end before they begin"});
  expect_refused(offsets("[1,17]"), {"reach past the 16 bytes", "truncated"});
  expect_refused(offsets("[18446744073709551600,18446744073709551615]"), {"reach past"});
  expect_refused(offsets("[0,15]"), {"hold 15 bytes", "needs 16"});
  expect_refused(two("[0,8]", "[0,8]"), {"overlap", "'a'", "'b'"});
  expect_refused(two("[4,12]", "[8,16]"), {"bytes [0, 4] before tensor 'a'"});
  expect_refused(two("[0,8]", "[4,12]"), {"tensor 'b'", "overlap those of 'a' [0, 8]"});
}

TEST(SafetensorsFormat, NamesInMessagesAreCutAndHarmless) {
  expect_refused(file_of("{\"" + std::string(1 << 20, 'n') + "\":1}", ""), {"nnn..."});
  expect_refused(file_of(R"({"\u001b[31m\u202e":1})", ""), {"'\\x1b[31m\\u{202e}'"});
}

TEST(SafetensorsFormat, DeepNestingDoesNotOverflowTheStack) {
  const std::string deep = "{\"t\":" + std::string(10'000'000, '[');
  expect_refused(file_of(deep, ""), {"entry 't' is an array"});
  std::string objects = "{\"__metadata__\":";
  for (int i = 0; i < 1'000'000; ++i) objects += "{\"a\":";
  expect_refused(file_of(objects, ""), {"__metadata__ 'a' is an object"});
}

// One random change of the kind that finds parser bugs.
void mutate(std::string& file, std::mt19937_64& random) {
  static constexpr std::string_view kWords[] = {"{",
                                                "}",
                                                "[",
                                                "]",
                                                ",",
                                                ":",
                                                "\"",
                                                "-1",
                                                "0",
                                                "1e9",
                                                "18446744073709551615",
                                                "null",
                                                "\"dtype\"",
                                                "\"F64\"",
                                                "\"U8\"",
                                                "\"shape\"",
                                                "\"__metadata__\":{},",
                                                "\\u0000",
                                                "\xff"};
  const std::size_t at = file.empty() ? 0 : random() % file.size();
  switch (random() % 6) {
    case 0:
      if (!file.empty()) file[at] = static_cast<char>(random());
      break;
    case 1:
      file.erase(at, random() % 8);
      break;
    case 2:
      file.insert(at, kWords[random() % std::size(kWords)]);
      break;
    case 3:
      file.insert(at, file.substr(random() % (file.size() + 1), random() % 64));
      break;
    case 4:
      if (!file.empty() && file[at] >= '0' && file[at] <= '9')
        file[at] = static_cast<char>('0' + random() % 10);
      break;
    default:
      if (file.size() > 8) file[0] = static_cast<char>(file[0] + static_cast<int>(random() % 17) - 8);
  }
}

TEST(SafetensorsFormat, NoMutatedFileCrashesTheReader) {
  std::vector<std::string> seeds = {
      two("[8,16]", "[0,8]"), one(R"({"dtype":"F8_E4M3","shape":[2,2,2,2],"data_offsets":[0,16]})"),
      file_of(R"({"__metadata__":{"case":"gating"},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})",
              "abcd")};
  std::mt19937_64 random(20261122);
  int accepted = 0, refused = 0;
  for (int i = 0; i < 100'000; ++i) {
    std::string file = seeds[static_cast<std::size_t>(i) % seeds.size()];
    for (std::size_t n = 1 + random() % 4; n > 0; --n) mutate(file, random);
    if (random() % 2 == 0 && file.size() > 8) {  // a length that fits, so that the mutation reaches the JSON
      const std::size_t header = file.rfind('}') + 1;
      for (std::size_t b = 0; b < 8; ++b)
        file[b] = static_cast<char>(header > 8 ? (header - 8) >> (8 * b) & 0xFF : 0);
    }
    try {
      const TensorSet set = parse_text(file);
      ASSERT_LE(set.bytes(), file.size());
      ASSERT_EQ(first_broken_guard(set), "");
      ++accepted;
    } catch (const UsageError&) {
      ++refused;
    }
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(refused, 50'000);
}

}  // namespace
}  // namespace moecheck::harness
