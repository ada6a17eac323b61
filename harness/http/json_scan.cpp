#include "harness/http/json_scan.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "harness/utf8.h"

namespace moecheck::harness::http {
namespace {

// Bytes that need no look within a string: printable ASCII but for the quote and the backslash.
constexpr std::array<bool, 256> kPlain = [] {
  std::array<bool, 256> plain{};
  for (std::size_t c = 0x20; c < 0x80; ++c) plain[c] = c != '"' && c != '\\';
  return plain;
}();

constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Of the UTF-8 sequence that begins here; 0: it is none.
std::size_t sequence_length(const char* at, const char* end) {
  const CodePoint c = code_point({at, static_cast<std::size_t>(end - at)});
  return c.valid ? c.length : 0;
}

class Scanner {
 public:
  Scanner(std::string_view text, JsonEvents& events)
      : at_(text.data()), end_(text.data() + text.size()), events_(events) {
    if (text.starts_with("\xEF\xBB\xBF")) at_ += 3;
  }

  bool scan() {
    if (!value()) return false;
    while (depth_ > 0)
      if (!further()) return false;
    blanks();
    return at_ == end_;
  }

 private:
  void blanks() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
  }
  bool take(char c) {
    if (at_ == end_ || *at_ != c) return false;
    ++at_;
    return true;
  }
  bool in_list() const { return (lists_ >> (depth_ - 1) & 1) != 0; }

  // What may stand after a value within the innermost list or object.
  bool further() {
    blanks();
    if (take(in_list() ? ']' : '}')) return close();
    if (!take(',')) return false;
    return in_list() ? value() : member();
  }
  bool close() {
    --depth_;
    return events_.close();
  }
  bool member() {
    blanks();
    std::string_view name;
    if (!take('"') || !text(name) || !events_.key(name)) return false;
    blanks();
    return take(':') && value();
  }
  // A whole scalar, or the beginning of a list or an object up to its first value.
  bool value() {
    while (true) {
      blanks();
      if (at_ == end_) return false;
      switch (*at_) {
        case '"': {
          ++at_;
          std::string_view v;
          return text(v) && events_.string(v);
        }
        case '{':
        case '[': {
          const bool list = *at_++ == '[';
          if (depth_ >= kDeepestJson) return false;
          lists_ = (lists_ & ~(std::uint64_t{1} << depth_)) | std::uint64_t{list} << depth_;
          ++depth_;
          if (!events_.open(list)) return false;
          blanks();
          if (take(list ? ']' : '}')) return close();
          if (!list) return member();
          continue;  // the first value of a list
        }
        case 't':
          return word("true") && events_.boolean(true);
        case 'f':
          return word("false") && events_.boolean(false);
        case 'n':
          return word("null") && events_.null();
        default:
          return number();
      }
    }
  }
  bool word(std::string_view w) {
    if (!std::string_view(at_, static_cast<std::size_t>(end_ - at_)).starts_with(w)) return false;
    at_ += w.size();
    return true;
  }

  bool digits() {
    const char* first = at_;
    while (at_ != end_ && is_digit(*at_)) ++at_;
    return at_ != first;
  }
  bool number() {
    const char* first = at_;
    take('-');
    if (!take('0') && !digits()) return false;
    bool whole = true;
    if (take('.')) {
      whole = false;
      if (!digits()) return false;
    }
    if (at_ != end_ && (*at_ == 'e' || *at_ == 'E')) {
      whole = false;
      ++at_;
      if (!take('+')) take('-');
      if (!digits()) return false;
    }
    std::int64_t integer = 0;
    if (whole && std::from_chars(first, at_, integer).ec == std::errc())
      return events_.number(static_cast<double>(integer), integer);
    double v = 0;
    if (std::from_chars(first, at_, v).ec == std::errc::result_out_of_range)
      v = std::strtod(std::string(first, at_).c_str(), nullptr);  // tells the tiny from the huge
    return std::isfinite(v) && events_.number(v, -1);
  }

  // Behind the opening quote; leaves what follows the closing one.
  bool text(std::string_view& out) {
    const char* first = at_;
    bool copied = false;
    const auto copy = [&] {
      if (!copied) scratch_.clear();
      copied = true;
      scratch_.append(first, at_);
    };
    while (true) {
      while (at_ != end_ && kPlain[static_cast<unsigned char>(*at_)]) ++at_;
      if (at_ == end_) return false;
      const auto c = static_cast<unsigned char>(*at_);
      if (c == '"') {
        if (copied) copy();
        out = copied ? std::string_view(scratch_)
                     : std::string_view(first, static_cast<std::size_t>(at_ - first));
        ++at_;
        return true;
      }
      if (c == '\\') {
        copy();
        ++at_;
        if (!escape()) return false;
        first = at_;
      } else if (c < 0x20 || !utf8()) {
        return false;
      }
    }
  }

  bool utf8() {
    const std::size_t length = sequence_length(at_, end_);
    at_ += length;
    return length > 0;
  }

  bool escape() {
    if (at_ == end_) return false;
    const char c = *at_++;
    constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
    if (const std::size_t i = kFrom.find(c); i != kFrom.npos) {
      scratch_.push_back(kTo[i]);
      return true;
    }
    std::uint32_t point = 0, low = 0;
    if (c != 'u' || !hex(point) || (point >= 0xDC00 && point <= 0xDFFF)) return false;
    if (point >= 0xD800 && point <= 0xDBFF) {
      if (!take('\\') || !take('u') || !hex(low) || low < 0xDC00 || low > 0xDFFF) return false;
      point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
    }
    append(point);
    return true;
  }
  bool hex(std::uint32_t& out) {
    if (end_ - at_ < 4) return false;
    const auto [stop, ec] = std::from_chars(at_, at_ + 4, out, 16);
    if (ec != std::errc() || stop != at_ + 4) return false;
    at_ += 4;
    return true;
  }
  void append(std::uint32_t p) {
    const auto put = [this](std::uint32_t b) { scratch_.push_back(static_cast<char>(b)); };
    if (p < 0x80) return put(p);
    if (p < 0x800) {
      put(0xC0 | p >> 6);
    } else {
      if (p < 0x10000) {
        put(0xE0 | p >> 12);
      } else {
        put(0xF0 | p >> 18);
        put(0x80 | (p >> 12 & 0x3F));
      }
      put(0x80 | (p >> 6 & 0x3F));
    }
    put(0x80 | (p & 0x3F));
  }

  const char* at_;
  const char* end_;
  JsonEvents& events_;
  std::string scratch_;
  std::uint64_t lists_ = 0;  // a bit per open one: it is a list
  int depth_ = 0;
};

}  // namespace

bool append_json(std::string& out, std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  const char* at = text.data();
  const char* const end = at + text.size();
  out.push_back('"');
  while (at != end) {
    const char* const first = at;
    while (at != end && kPlain[static_cast<unsigned char>(*at)]) ++at;
    out.append(first, at);
    if (at == end) break;
    const auto c = static_cast<unsigned char>(*at);
    if (c >= 0x80) {
      const std::size_t length = sequence_length(at, end);
      if (length == 0) return false;
      out.append(at, length);
      at += length;
      continue;
    }
    ++at;
    constexpr std::string_view kFrom = "\"\\\b\f\n\r\t", kTo = "\"\\bfnrt";
    if (const std::size_t i = kFrom.find(static_cast<char>(c)); i != kFrom.npos)
      out.append({'\\', kTo[i]});
    else
      out.append("\\u00").append({kHex[c >> 4], kHex[c & 15]});
  }
  out.push_back('"');
  return true;
}

bool scan_json(std::string_view text, JsonEvents& events) { return Scanner(text, events).scan(); }

}  // namespace moecheck::harness::http
