#pragma once
// Whole files, and "-" for the standard streams.
#include <exception>
#include <string>
#include <string_view>

namespace moecheck::harness {

// The bytes of a file, or of standard input for "-". Throws UsageError with the path and what the system said.
std::string read_text(const std::string& path);
// To a file (whole or not at all), or to standard output for "-".
void write_text(const std::string& path, std::string_view text);

// Calls work(line, number) for each line that is not blank, numbers from 1; a UsageError or std::exception out of it is
// thrown again as UsageError("path:number: ..."), with `remedy` behind it where the line is no JSON.
template <class Work>
void each_line(const std::string& path, std::string_view text, Work work,
               std::string_view remedy = "every line is one JSON object");

[[noreturn]] void throw_at_line(const std::string& path, std::size_t line, const std::exception& e,
                                std::string_view remedy);

template <class Work>
void each_line(const std::string& path, std::string_view text, Work work, std::string_view remedy) {
  for (std::size_t at = 0, number = 1; at < text.size(); ++number) {
    const std::size_t end = text.find('\n', at) == text.npos ? text.size() : text.find('\n', at);
    const std::string_view line = text.substr(at, end - at);
    at = end + 1;
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    try {
      work(line, number);
    } catch (const std::exception& e) {
      throw_at_line(path, number, e, remedy);
    }
  }
}

}  // namespace moecheck::harness
