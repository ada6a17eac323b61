#pragma once
// Text as Python treats it: JSON as json.dumps writes it, floats, white space; and a reader of JSON that no completion
// can break.
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace moecheck::harness {

// json.dumps(value, ensure_ascii=False): ", " and ": " between things, floats as repr (1.0, 1e-05), keys in their
// order. With indent >= 0 as json.dumps(..., indent=indent).
std::string python_json(const nlohmann::ordered_json& value, int indent = -1);
// One string as a JSON string, quotes included.
std::string python_json_string(std::string_view text);
// Python's repr of a float.
std::string python_float(double value);

// Parses JSON text that may hold bytes that are not UTF-8 and halves of surrogate pairs (a server cut a character, or
// Python wrote one): each becomes U+FFFD. NaN and Infinity, which Python writes too, become null. Throws
// nlohmann::json::parse_error on anything else.
nlohmann::ordered_json parse_json(std::string_view text);

// str.strip(): Unicode white space too.
std::string_view python_strip(std::string_view text);

}  // namespace moecheck::harness
