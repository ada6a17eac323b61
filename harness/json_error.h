#pragma once
// What went wrong with JSON that a user gave, without the names of the library that read it.
#include <exception>
#include <string>
#include <string_view>

namespace moecheck::harness {

// "FILE:LINE: not JSON: unexpected end of input; expected string literal (column 2)" for text that is no JSON, and
// "FILE:LINE: key 'doc_id' not found" for JSON that lacks something; other exceptions keep their words. `line` is that of
// the text's first one; 0: the text is the whole file, and what it lacks is missed in no line. Ends without a remedy: the
// caller knows it.
std::string json_error_at(const std::string& path, std::size_t line, const std::exception& e);

// The same without a place.
std::string json_error(const std::exception& e);

// Whether it says that the text is no JSON.
bool is_no_json(const std::exception& e);

}  // namespace moecheck::harness
