#include "harness/serve/error.h"

namespace moecheck::harness::serve {

void append_json_string(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (byte < 0x20 || byte == 0x7F) {
          out += "\\u00";
          out += kHex[byte >> 4];
          out += kHex[byte & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

std::string error_json(const ApiError& error) {
  const auto member = [](std::string& out, const char* name, const std::string& value) {
    out += name;
    if (value.empty())
      out += "null";
    else
      append_json_string(out, value);
  };
  std::string out = "{\"error\":{\"message\":";
  append_json_string(out, error.message);
  member(out, ",\"type\":", error.type);
  member(out, ",\"param\":", error.param);
  member(out, ",\"code\":", error.code);
  return out + "}}";
}

HttpReply error_reply(const ApiError& error) {
  HttpReply reply;
  reply.status = error.status;
  reply.body = error_json(error);
  if (error.status == 429 || error.status == 503) reply.headers.emplace_back("Retry-After", "1");
  if (error.status == 401) reply.headers.emplace_back("WWW-Authenticate", "Bearer");
  return reply;
}

}  // namespace moecheck::harness::serve
