#include "harness/serve/text_stream.h"

#include <algorithm>

#include "harness/fault.h"

namespace moecheck::harness::serve {
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
  for (Stop& s : stops_)
    if (HARNESS_FAULT(kServeStopWithinAToken)) s.matched = 0;
  for (const char c : bytes) {
    held_ += c;
    std::size_t longest = 0, complete = 0;
    for (Stop& s : stops_) {
      while (s.matched > 0 && s.text[s.matched] != c) s.matched = s.fallback[s.matched - 1];
      if (s.text[s.matched] == c) ++s.matched;
      longest = std::max(longest, s.matched);
      if (s.matched == s.text.size()) complete = std::max(complete, s.matched);
    }
    const std::size_t free =
        held_.size() - (complete > 0 ? (HARNESS_FAULT(kServeStopStringShown) ? 0 : complete) : longest);
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
