#include "harness/glm4_moe/bpe_tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "harness/case.h"
#include "harness/json.h"

namespace moecheck::harness {
namespace {

using nlohmann::json;

const std::string kSource = MOECHECK_SOURCE_DIR;

std::unique_ptr<Tokenizer> tokenizer() {
  return load_bpe_tokenizer(kSource + "/datasets/tiny_glm4_moe/canary/tokenizer.json", {0});
}

TEST(BpeTokenizer, EncodesAsHuggingFaceDoes) {
  const json golden = json::parse(std::ifstream(kSource + "/datasets/golden/bpe.json"));
  const auto t = tokenizer();
  for (const json& row : golden.at("rows"))
    EXPECT_EQ(t->encode(row.at("text").get<std::string>()), row.at("ids").get<std::vector<TokenId>>()) << row.at("text");
  EXPECT_GT(golden.at("rows").size(), 200u);
}

TEST(BpeTokenizer, DecodingGivesTheTextBack) {
  const auto t = tokenizer();
  std::string all;
  for (int b = 1; b < 256; ++b) all += static_cast<char>(b);  // also what is no UTF-8
  for (const std::string& text : {all, std::string("Question: 12*3 \xF0\x9F\x99\x82 caf\xC3\xA9\n"), std::string(2000, 'q')}) {
    std::string back;
    for (const TokenId id : t->encode(text)) back += t->bytes(id);
    EXPECT_EQ(back, text);
  }
}

TEST(BpeTokenizer, EndOfTextIsSpecial) {
  const auto t = tokenizer();
  EXPECT_TRUE(t->is_end(0));
  EXPECT_FALSE(t->is_end(1));
  EXPECT_EQ(t->bytes(0), "");
  EXPECT_EQ(t->encode("<|endoftext|>"), std::vector<TokenId>{0});
  EXPECT_EQ(t->vocabulary(), 768);
}

TEST(BpeTokenizer, OtherTokenizersAreRefused) {
  const std::string path = testing::TempDir() + "tokenizer_refused.json";
  json file = json::parse(std::ifstream(kSource + "/datasets/tiny_glm4_moe/canary/tokenizer.json"));
  const auto error = [&](const json& changed) -> std::string {
    std::ofstream(path) << changed.dump();
    try {
      load_bpe_tokenizer(path, {});
    } catch (const UsageError& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_EQ(error(file), "accepted");
  json changed = file;
  changed["model"]["type"] = "WordPiece";
  EXPECT_NE(error(changed).find("must be BPE"), std::string::npos);
  changed = file;
  changed["normalizer"] = {{"type", "NFC"}};
  EXPECT_NE(error(changed).find("normalizer"), std::string::npos);
  changed = file;
  changed["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\w+";
  EXPECT_NE(error(changed).find("only ' ?[A-Za-z]+|[^A-Za-z]'"), std::string::npos);
  changed = file;
  changed["model"]["merges"].push_back({"q", "zzz"});
  EXPECT_NE(error(changed).find("zzz"), std::string::npos);
  changed = file;
  changed["model"]["vocab"].erase("q");
  EXPECT_NE(error(changed), "accepted");
  EXPECT_NE(error(json::array()).find("not a JSON object"), std::string::npos);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace moecheck::harness
