#include "harness/serve/text_stream.h"

#include <algorithm>

namespace moecheck::harness::serve {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// The bytes that may follow `lead` directly; `low` > `high` where it starts no sequence.
struct Lead {
  std::size_t length;  // of the sequence; 0: none starts so
  unsigned char low, high;
};

Lead lead_of(unsigned char lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xC2 || lead > 0xF4) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};  // no surrogates
  if (lead < 0xF0) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};  // nothing above U+10FFFF
  return {4, 0x80, 0xBF};
}

}  // namespace

void Utf8Decoder::add(std::string_view bytes, std::string& text) {
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (!partial_.empty()) {
      const Lead lead = lead_of(static_cast<unsigned char>(partial_[0]));
      const bool fits = partial_.size() == 1 ? byte >= lead.low && byte <= lead.high : (byte & 0xC0) == 0x80;
      if (fits) {
        partial_ += c;
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
      text += c;
    else if (length == 0)
      text += kReplacement;
    else
      partial_ = c;
  }
}

void Utf8Decoder::finish(std::string& text) {
  if (!partial_.empty()) text += kReplacement;
  partial_.clear();
}

TextStream::TextStream(const std::vector<std::string>& stops) {
  for (const std::string& text : stops) {
    if (text.empty()) continue;
    Stop s{text, std::vector<std::size_t>(text.size(), 0), 0};
    for (std::size_t i = 1, k = 0; i < text.size(); ++i) {
      while (k > 0 && text[i] != text[k]) k = s.fallback[k - 1];
      if (text[i] == text[k]) ++k;
      s.fallback[i] = k;
    }
    stops_.push_back(std::move(s));
  }
}

void TextStream::add_prompt(std::string_view bytes) { decoder_.add(bytes, text_); }

bool TextStream::add(std::string_view bytes) {
  if (stops_.empty()) {
    decoder_.add(bytes, text_);
    return false;
  }
  for (const char c : bytes) {
    held_ += c;
    std::size_t longest = 0, complete = 0;
    for (Stop& s : stops_) {
      while (s.matched > 0 && s.text[s.matched] != c) s.matched = s.fallback[s.matched - 1];
      if (s.text[s.matched] == c) ++s.matched;
      longest = std::max(longest, s.matched);
      if (s.matched == s.text.size()) complete = std::max(complete, s.matched);
    }
    const std::size_t free = held_.size() - (complete > 0 ? complete : longest);
    decoder_.add(std::string_view(held_).substr(0, free), text_);
    held_.erase(0, free);
    if (complete > 0) {
      held_.clear();
      decoder_.finish(text_);
      stopped_ = true;
      return true;
    }
  }
  return false;
}

void TextStream::finish() {
  if (stopped_) return;
  decoder_.add(held_, text_);
  held_.clear();
  decoder_.finish(text_);
}

std::string TextStream::take() {
  std::string text = std::move(text_);
  text_.clear();
  return text;
}

}  // namespace moecheck::harness::serve
