#include "harness/ledger/issue_reference.h"

#include <fmt/format.h>

#include <algorithm>

#include "harness/case.h"
#include "harness/text.h"

namespace moecheck::harness::ledger {
namespace {

bool letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool is_name(std::string_view text, std::string_view marks) {
  return !text.empty() && std::ranges::all_of(text, [&](char c) {
    return letter_or_digit(c) || marks.find(c) != std::string_view::npos;
  });
}

bool is_number(std::string_view text) {
  return !text.empty() && text.size() <= 12 && text[0] != '0' &&
         std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

// owner/repo#123
bool is_short(std::string_view text) {
  const std::size_t slash = text.find('/'), hash = text.rfind('#');
  if (slash == std::string_view::npos || hash == std::string_view::npos || hash < slash) return false;
  return is_name(text.substr(0, slash), "-_") && is_name(text.substr(slash + 1, hash - slash - 1), "-_.") &&
         is_number(text.substr(hash + 1));
}

// The page shows it as a link: nothing but what an address is made of, and no
// other scheme.
bool is_address(std::string_view text) {
  const std::size_t scheme = text.starts_with("https://") ? 8 : text.starts_with("http://") ? 7 : 0;
  if (scheme == 0) return false;
  const std::string_view rest = text.substr(scheme);
  const std::size_t slash = rest.find('/');
  return slash != std::string_view::npos && slash + 1 < rest.size() &&
         is_name(rest.substr(0, slash), "-.:") && is_name(rest.substr(slash), "/-._~:?#@!$&()*+,;=%[]");
}

}  // namespace

IssueReference::IssueReference(std::string_view text) : text_(text) {
  if (text.empty())
    throw UsageError(
        "the issue is missing: a waiver names the issue that will "
        "end it, as owner/repo#123 or "
        "https://host/path");
  if (!is_short(text) && !is_address(text))
    throw UsageError(fmt::format("issue '{}' is no issue: write owner/repo#123 or https://host/path",
                                 printable(text, 120)));
}

std::string IssueReference::url() const {
  if (is_address(text_)) return text_;
  const std::size_t hash = text_.rfind('#');
  return fmt::format("https://github.com/{}/issues/{}", text_.substr(0, hash), text_.substr(hash + 1));
}

}  // namespace moecheck::harness::ledger
