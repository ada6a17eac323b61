#include "harness/glm4_moe/bpe_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>
#include <unordered_map>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/json_error.h"
#include "harness/text.h"
#include "harness/utf8.h"

namespace moecheck::harness {
namespace {

using nlohmann::json;

constexpr std::string_view kPattern = " ?[A-Za-z]+|[^A-Za-z]";

// The characters that stand for bytes in tokenizer.json: printable ones for themselves, the others from U+0100 on (GPT-2's rule).
std::map<std::string, std::uint8_t> bytes_of_characters() {
  const auto utf8 = [](unsigned code) {
    std::string s;
    if (code < 0x80) return std::string(1, static_cast<char>(code));
    s += static_cast<char>(0xC0 | code >> 6);
    s += static_cast<char>(0x80 | (code & 0x3F));
    return s;
  };
  std::map<std::string, std::uint8_t> map;
  unsigned next = 256;
  for (unsigned b = 0; b < 256; ++b) {
    const bool printable_byte = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    map[utf8(printable_byte ? b : next++)] = static_cast<std::uint8_t>(b);
  }
  return map;
}

bool is_letter(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

// The piece at the start of s: letters with the one space before them, or a single other character.
std::size_t piece_length(std::string_view s) {
  std::size_t i = s[0] == ' ' && s.size() > 1 && is_letter(s[1]) ? 1 : 0;
  if (!is_letter(s[i])) return code_point(s).length;
  while (i < s.size() && is_letter(s[i])) ++i;
  return i;
}

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(const json& file, std::string path, std::vector<TokenId> end_ids)
      : path_(std::move(path)), end_ids_(std::move(end_ids)) {
    require_supported(file);
    const json& model = file.at("model");
    std::map<std::string, TokenId> ids;
    for (const auto& [text, id] : model.at("vocab").items()) ids[text] = id_of(id);
    for (const auto& added : file.value("added_tokens", json::array())) {
      specials_.emplace_back(added.at("content").get<std::string>(), id_of(added.at("id")));
      ids[specials_.back().first] = specials_.back().second;
    }
    std::erase_if(specials_, [](const auto& s) { return s.first.empty(); });
    fill_bytes(ids);
    fill_merges(model.at("merges"), ids);
    for (unsigned b = 0; b < 256; ++b)
      if (byte_ids_[b] < 0) fail(fmt::format("\"vocab\" lacks a token for byte 0x{:02x}", b));
  }

  std::vector<TokenId> encode(std::string_view text) const override {
    std::vector<TokenId> out;
    while (!text.empty()) {
      std::size_t at = std::string_view::npos;
      const std::pair<std::string, TokenId>* special = nullptr;
      for (const auto& s : specials_) {
        const std::size_t found = text.find(s.first);
        if (found < at) at = found, special = &s;
      }
      encode_plain(text.substr(0, at), out);
      if (special == nullptr) break;
      out.push_back(special->second);
      text.remove_prefix(at + special->first.size());
    }
    return out;
  }

  std::string_view bytes(TokenId id) const override { return bytes_[static_cast<std::size_t>(id)]; }
  std::int64_t vocabulary() const override { return static_cast<std::int64_t>(bytes_.size()); }
  bool is_end(TokenId id) const override {
    return std::find(end_ids_.begin(), end_ids_.end(), id) != end_ids_.end();
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw UsageError(fmt::format("{}: {}", printable(path_), what));
  }
  TokenId id_of(const json& id) const {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() >= 1 << 20)
      fail("token ids must be integers in [0, 2^20)");
    return id.get<TokenId>();
  }

  void require_supported(const json& file) const {
    const json model = file.value("model", json::object());
    if (model.value("type", "") != "BPE" || !model.contains("vocab") || !model.contains("merges"))
      fail("\"model\" must be BPE with vocab and merges");
    if (file.contains("normalizer") && !file.at("normalizer").is_null()) fail("\"normalizer\" must be null");
    std::string pattern;
    const json pre = file.value("pre_tokenizer", json());
    if (pre.is_object())
      for (const json& step : pre.value("pretokenizers", json::array()))
        if (step.value("type", "") == "Split") pattern = step.value("/pattern/Regex"_json_pointer, "");
    if (pattern != kPattern)
      fail(fmt::format("pre_tokenizer splits by '{}': only '{}' is implemented", printable(pattern),
                       kPattern));
  }

  void fill_bytes(const std::map<std::string, TokenId>& ids) {
    const std::map<std::string, std::uint8_t> characters = bytes_of_characters();
    TokenId largest = -1;
    for (const auto& [text, id] : ids) largest = std::max(largest, id);
    bytes_.resize(static_cast<std::size_t>(largest + 1));
    byte_ids_.fill(-1);
    for (const auto& [text, id] : ids) {
      if (std::any_of(specials_.begin(), specials_.end(),
                      [id = id](const auto& s) { return s.second == id; }))
        continue;
      std::string raw;
      for (std::size_t i = 0; i < text.size();) {
        const std::size_t n = code_point(text, i).length;
        const auto byte = characters.find(text.substr(i, n));
        if (byte == characters.end()) fail(fmt::format("token '{}' is not byte-level", printable(text)));
        raw += static_cast<char>(byte->second);
        i += n;
      }
      if (raw.size() == 1) byte_ids_[static_cast<unsigned char>(raw[0])] = id;
      bytes_[static_cast<std::size_t>(id)] = std::move(raw);
    }
  }

  void fill_merges(const json& merges, const std::map<std::string, TokenId>& ids) {
    const auto id = [&](const std::string& text) {
      const auto it = ids.find(text);
      if (it == ids.end())
        fail(fmt::format("\"merges\" names '{}', which is not in \"vocab\"", printable(text)));
      return it->second;
    };
    std::int32_t rank = 0;
    for (const json& merge : merges) {
      std::string left, right;
      if (merge.is_array() && merge.size() == 2) {
        left = merge[0].get<std::string>(), right = merge[1].get<std::string>();
      } else {  // older files: "left right"
        const std::string both = merge.get<std::string>();
        const std::size_t space = both.find(' ');
        if (space == std::string::npos) fail("\"merges\" must hold pairs");
        left = both.substr(0, space), right = both.substr(space + 1);
      }
      merges_[key(id(left), id(right))] = {rank++, id(left + right)};
    }
  }

  static std::uint64_t key(TokenId a, TokenId b) {
    return static_cast<std::uint64_t>(a) << 32 | static_cast<std::uint32_t>(b);
  }

  void encode_plain(std::string_view text, std::vector<TokenId>& out) const {
    while (!text.empty()) {
      const std::size_t n = piece_length(text);
      encode_piece(text.substr(0, n), out);
      text.remove_prefix(n);
    }
  }

  // Merges the pair of the lowest rank, the leftmost first, until none is left. Pieces are words: quadratic is fine, except that
  // a run of letters may be as long as the text; there only whole passes are made.
  void encode_piece(std::string_view piece, std::vector<TokenId>& out) const {
    std::vector<TokenId> ids;
    for (const char c : piece) ids.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    while (ids.size() > 1) {
      std::int32_t best = std::numeric_limits<std::int32_t>::max();
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
        const auto it = merges_.find(key(ids[i], ids[i + 1]));
        if (it != merges_.end()) best = std::min(best, it->second.rank);
      }
      if (best == std::numeric_limits<std::int32_t>::max()) break;
      std::size_t kept = 0;
      for (std::size_t i = 0; i < ids.size(); ++kept) {
        const auto it = i + 1 < ids.size() ? merges_.find(key(ids[i], ids[i + 1])) : merges_.end();
        const bool merges = it != merges_.end() && it->second.rank == best;
        ids[kept] = merges ? it->second.merged : ids[i];
        i += merges ? 2 : 1;
      }
      ids.resize(kept);
    }
    out.insert(out.end(), ids.begin(), ids.end());
  }

  struct Merge {
    std::int32_t rank;
    TokenId merged;
  };
  std::string path_;
  std::vector<TokenId> end_ids_;
  std::vector<std::pair<std::string, TokenId>> specials_;
  std::vector<std::string> bytes_;
  std::array<TokenId, 256> byte_ids_{};
  std::unordered_map<std::uint64_t, Merge> merges_;
};

}  // namespace

std::unique_ptr<Tokenizer> load_bpe_tokenizer(const std::string& path, std::vector<TokenId> end_ids) {
  std::ifstream in(path);
  if (!in) throw UsageError(fmt::format("{} cannot be read", printable(path)));
  std::stringstream text;
  text << in.rdbuf();
  try {
    const json file = json::parse(text.str());
    if (!file.is_object()) throw UsageError(fmt::format("{} is not a JSON object", printable(path)));
    return std::make_unique<BpeTokenizer>(file, path, std::move(end_ids));
  } catch (const json::exception& e) {
    throw UsageError(
        fmt::format("{}; give a tokenizer.json of Hugging Face's tokenizers", json_error_at(path, 0, e)));
  }
}

}  // namespace moecheck::harness
