// What a response says without its body.
#include <curl/curl.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "harness/http/client.h"
#include "harness/text.h"

namespace moecheck::harness::http {
namespace {

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower_ascii(x) == lower_ascii(y); });
}

}  // namespace

std::string_view name(Failure failure) {
  switch (failure) {
    case Failure::kNone:
      return "none";
    case Failure::kRefused:
      return "refused";
    case Failure::kUnreachable:
      return "unreachable";
    case Failure::kReset:
      return "reset";
    case Failure::kTruncated:
      return "truncated";
    case Failure::kConnectTimeout:
      return "connect timeout";
    case Failure::kFirstByteTimeout:
      return "first byte timeout";
    case Failure::kTotalTimeout:
      return "timeout";
    case Failure::kTooLarge:
      return "too large";
    case Failure::kMalformed:
      return "malformed";
    case Failure::kTls:
      return "tls";
    case Failure::kCancelled:
      return "cancelled";
    case Failure::kOther:
      return "other";
  }
  return "";
}

std::string_view Response::header(std::string_view wanted) const {
  for (auto h = headers.rbegin(); h != headers.rend(); ++h)
    if (same_name(h->name, wanted)) return h->value;
  return {};
}

std::optional<double> retry_after_seconds(std::string_view value, std::int64_t unix_now) {
  if (value.empty()) return std::nullopt;
  const std::string text(value);
  // Seconds by the standard; some gateways send a fraction too.
  if (text.find_first_not_of("0123456789.") == std::string::npos) {
    char* end = nullptr;
    const double seconds = std::strtod(text.c_str(), &end);
    if (*end != 0 || text == ".") return std::nullopt;
    return seconds;
  }
  if (text.find_first_of("GU") == std::string::npos)
    return std::nullopt;  // a date names its zone: GMT or UTC
  const std::int64_t date = curl_getdate(text.c_str(), nullptr);
  if (date < 0) return std::nullopt;
  return static_cast<double>(std::max<std::int64_t>(0, date - unix_now));
}

}  // namespace moecheck::harness::http
