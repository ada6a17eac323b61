#include "harness/http/sse.h"

#include <cstring>

#include "harness/fault.h"

namespace moecheck::harness::http {
namespace {

std::size_t line_end(std::string_view bytes) {
  const void* lf = std::memchr(bytes.data(), '\n', bytes.size());
  const std::size_t limit =
      lf == nullptr ? bytes.size() : static_cast<std::size_t>(static_cast<const char*>(lf) - bytes.data());
  const void* cr = std::memchr(bytes.data(), '\r', limit);
  if (cr != nullptr) return static_cast<std::size_t>(static_cast<const char*>(cr) - bytes.data());
  return lf == nullptr ? std::string_view::npos : limit;
}

}  // namespace

// An event of one data line that lies whole in `bytes`, as nearly all do, needs no copy.
bool SseParser::next_whole(std::string_view& bytes, SseEvent& event) {
  if (at_start_ || skip_lf_ || has_data_ || !line_.empty() || !type_.empty()) return false;
  if (!bytes.starts_with("data:")) return false;
  const std::size_t end = line_end(bytes);
  if (end == std::string_view::npos || bytes[end] != '\n' || end + 1 >= bytes.size() ||
      bytes[end + 1] != '\n')
    return false;
  std::string_view value = bytes.substr(5, end - 5);
  if (value.starts_with(' ')) value.remove_prefix(1);
  bytes.remove_prefix(end + 2);
  event = {{}, value, id_};
  return true;
}

bool SseParser::next(std::string_view& bytes, SseEvent& event) {
  if (next_whole(bytes, event)) return true;
  while (!bytes.empty()) {
    if (skip_lf_) {
      skip_lf_ = false;
      if (bytes.front() == '\n') {
        bytes.remove_prefix(1);
        continue;
      }
    }
    const std::size_t end = line_end(bytes);
    if (end == std::string_view::npos) {
      line_.append(bytes);
      bytes = {};
      return false;
    }
    std::string_view line = bytes.substr(0, end);
    skip_lf_ = bytes[end] == '\r' && !HARNESS_FAULT(kSseCrlfIsTwoLines);
    bytes.remove_prefix(end + 1);
    if (!line_.empty()) {
      line_.append(line);
      line = line_;
    }
    if (at_start_ && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
    at_start_ = false;
    const bool blank = line.empty();
    take_line(line);
    line_.clear();
    if (blank && dispatch(event)) return true;
  }
  return false;
}

void SseParser::take_line(std::string_view line) {
  const std::size_t colon = line.find(':');
  if (line.empty() || colon == 0) return;  // a comment: servers send them to keep the connection
  const std::string_view field = line.substr(0, colon);
  std::string_view value = colon == std::string_view::npos ? std::string_view() : line.substr(colon + 1);
  while (HARNESS_FAULT(kSseStripsAllBlanks) && value.starts_with("  ")) value.remove_prefix(1);
  if (value.starts_with(' ')) value.remove_prefix(1);  // one, not more: the rest belongs to the value
  if (field == "data") {
    if (has_data_ && !HARNESS_FAULT(kSseLinesJoined)) data_.push_back('\n');
    data_.append(value);
    has_data_ = true;
  } else if (field == "event") {
    type_.assign(value);
  } else if (field == "id" && value.find('\0') == std::string_view::npos) {
    id_.assign(value);
  }
}

bool SseParser::dispatch(SseEvent& event) {
  const bool complete = has_data_;
  out_data_.swap(data_);
  out_type_.swap(type_);
  data_.clear();
  type_.clear();
  has_data_ = false;
  event = {out_type_, out_data_, id_};
  return complete;
}

bool SseParser::finish(SseEvent& event) {
  if (at_start_ && line_.starts_with("\xEF\xBB\xBF")) line_.erase(0, 3);
  take_line(line_);
  line_.clear();
  return dispatch(event);
}

void SseParser::reset() { *this = SseParser(); }

}  // namespace moecheck::harness::http
