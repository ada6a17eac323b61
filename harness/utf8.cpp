#include "harness/utf8.h"

#include <cstdint>
#include <cstring>

namespace moecheck::harness {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// The bytes that may follow `lead` directly; `low` > `high` where none may.
struct Lead {
  std::size_t length;  // of the sequence; 0: none starts so
  unsigned char low, high;
};

Lead lead_of(unsigned char lead) {
  if (lead < 0x80) return {1, 1, 0};
  if (lead < 0xC2 || lead > 0xF4) return {0, 1, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};  // below: overlong
  if (lead == 0xED) return {3, 0x80, 0x9F};  // above: surrogates
  if (lead < 0xF0) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};  // above: past U+10FFFF
  return {4, 0x80, 0xBF};
}

// How many bytes at the start are ASCII, eight at a time.
std::size_t ascii_prefix(std::string_view text) {
  std::size_t n = 0;
  for (std::uint64_t word = 0; n + sizeof word <= text.size(); n += sizeof word) {
    std::memcpy(&word, text.data() + n, sizeof word);
    if ((word & 0x8080808080808080u) != 0) break;
  }
  while (n < text.size() && static_cast<unsigned char>(text[n]) < 0x80) ++n;
  return n;
}

}  // namespace

CodePoint code_point(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  constexpr CodePoint kBroken{0xFFFD, 1, false};
  const Lead lead = lead_of(byte(0));
  if (lead.length == 1) return {byte(0), 1, true};
  if (lead.length == 0 || text.size() - at < lead.length || byte(1) < lead.low || byte(1) > lead.high)
    return kBroken;
  char32_t value = byte(0) & (0xFFu >> (lead.length + 1));
  for (std::size_t i = 1; i < lead.length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return kBroken;
    value = value << 6 | (byte(i) & 0x3Fu);
  }
  return {value, lead.length, true};
}

std::size_t utf8_prefix(std::string_view text) {
  for (std::size_t at = 0;;) {
    at += ascii_prefix(text.substr(at));
    if (at == text.size()) return at;
    const CodePoint c = code_point(text, at);
    if (!c.valid) return at;
    at += c.length;
  }
}

std::string valid_utf8(std::string_view text) {
  const std::size_t good = utf8_prefix(text);
  std::string out(text.substr(0, good));
  if (good == text.size()) return out;
  Utf8Decoder decoder;
  decoder.add(text.substr(good), out);
  decoder.finish(out);
  return out;
}

void Utf8Decoder::add(std::string_view bytes, std::string& text) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (partial_.empty()) {
      const std::size_t plain = ascii_prefix(bytes.substr(i));
      text.append(bytes, i, plain);
      i += plain;
      if (i == bytes.size()) return;
    }
    const auto byte = static_cast<unsigned char>(bytes[i]);
    if (!partial_.empty()) {
      const Lead lead = lead_of(static_cast<unsigned char>(partial_[0]));
      const bool fits = partial_.size() == 1 ? byte >= lead.low && byte <= lead.high : (byte & 0xC0) == 0x80;
      if (fits) {
        partial_ += bytes[i];
        if (partial_.size() == lead.length) {
          text += partial_;
          partial_.clear();
        }
        continue;
      }
      text += kReplacement;
      partial_.clear();
    }
    const std::size_t length = lead_of(byte).length;
    if (length == 1)
      text += bytes[i];
    else if (length == 0)
      text += kReplacement;
    else
      partial_ = bytes[i];
  }
}

void Utf8Decoder::finish(std::string& text) {
  if (!partial_.empty()) text += kReplacement;
  partial_.clear();
}

}  // namespace moecheck::harness
