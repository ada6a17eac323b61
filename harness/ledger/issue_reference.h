#pragma once
// Where a known failure is tracked.
#include <string>
#include <string_view>

namespace moecheck::harness::ledger {

// "vllm-project/vllm#44313" (GitHub), or a whole address "https://host/path".
// There is no empty one: what holds an IssueReference has an issue.
class IssueReference {
 public:
  explicit IssueReference(std::string_view text);  // throws UsageError for anything else

  const std::string& text() const { return text_; }
  std::string url() const;  // begins with http:// or https://

 private:
  std::string text_;
};

}  // namespace moecheck::harness::ledger
