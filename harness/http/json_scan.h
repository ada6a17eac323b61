#pragma once
// Strict JSON (RFC 8259) in one pass: no tree, and nothing is allocated but for strings with escapes in them. It takes and
// refuses what nlohmann's parser does, at a fraction of the time; the tests hold the two side by side.
#include <cstdint>
#include <string>
#include <string_view>

namespace moecheck::harness::http {

// What a scan tells, in order; false ends it. Views are valid during the call.
class JsonEvents {
 public:
  virtual bool null() = 0;
  virtual bool boolean(bool value) = 0;
  // `integer` is -1 where the number is none or does not fit.
  virtual bool number(double value, std::int64_t integer) = 0;
  virtual bool string(std::string_view value) = 0;
  virtual bool key(std::string_view name) = 0;
  virtual bool open(bool list) = 0;
  virtual bool close() = 0;

 protected:
  ~JsonEvents() = default;
};

inline constexpr int kDeepestJson = 64;  // lists and objects within each other; deeper is refused

// True: the text is one JSON value and all of it was told.
bool scan_json(std::string_view text, JsonEvents& events);

// The text as a JSON string, quotes and all, at the end of `out`. False: it is not valid UTF-8.
bool append_json(std::string& out, std::string_view text);

}  // namespace moecheck::harness::http
