#include "harness/load/failures.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace moecheck::harness::load {
namespace {

// The message with each number as one "#", those of hexadecimal ids too: what stays the same from failure to failure.
std::string kind_of(const std::string& message) {
  const auto in_word = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  };
  std::string kind;
  for (std::size_t at = 0; at < message.size();) {
    std::size_t end = at;
    while (end < message.size() && in_word(message[end])) ++end;
    if (end == at) {
      kind += message[at++];
      continue;
    }
    const std::string word = message.substr(at, end - at);
    kind += word.find_first_of("0123456789") == word.npos ? word : "#";
    at = end;
  }
  return kind;
}

}  // namespace

std::vector<FailureGroup> failure_groups(std::span<const RequestRecord> records, std::size_t limit) {
  std::map<std::string, FailureGroup> kinds;
  for (const RequestRecord& r : records) {
    if (r.success) continue;
    // A status is no number like others: 429 and 503 are two reasons.
    FailureGroup& g = kinds[fmt::format("{} {}", r.http_status, kind_of(r.error))];
    if (g.count++ == 0) g.reason = r.error, g.first = r.index;
  }
  std::vector<FailureGroup> groups;
  for (auto& [kind, group] : kinds) groups.push_back(std::move(group));
  std::sort(groups.begin(), groups.end(), [](const FailureGroup& a, const FailureGroup& b) {
    return a.count != b.count ? a.count > b.count : a.first < b.first;
  });
  if (groups.size() <= limit) return groups;
  FailureGroup rest{fmt::format("of {} other kinds", groups.size() - limit + 1), 0, groups[limit - 1].first};
  for (std::size_t i = limit - 1; i < groups.size(); ++i) {
    rest.count += groups[i].count;
    rest.first = std::min(rest.first, groups[i].first);
  }
  groups.resize(limit - 1);
  groups.push_back(std::move(rest));
  return groups;
}

}  // namespace moecheck::harness::load
