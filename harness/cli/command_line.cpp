#include "harness/cli/command_line.h"

#include <fstream>
#include <iterator>
#include <utility>

#include "harness/text.h"

namespace moecheck::harness {

std::string this_command_line() {
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  const std::string raw{std::istreambuf_iterator<char>(in), {}};
  std::string out = "moecheck";
  bool first = true, secret = false;
  for (std::size_t at = 0; at < raw.size();) {
    const std::string word = raw.c_str() + at;
    at += word.size() + 1;
    if (!std::exchange(first, false))
      out += " " + (secret ? "***" : word.starts_with("--api-key=") ? "--api-key=***" : shell_word(word));
    secret = word == "--api-key";
  }
  return out;
}

}  // namespace moecheck::harness
