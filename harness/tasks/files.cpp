#include "harness/tasks/files.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "harness/atomic_file.h"
#include "harness/case.h"
#include "harness/json_error.h"
#include "harness/text.h"

namespace moecheck::harness {

std::string read_text(const std::string& path) {
  const auto close = [](std::FILE* f) {
    if (f != stdin) std::fclose(f);
  };
  const std::unique_ptr<std::FILE, decltype(close)> file(path == "-" ? stdin : std::fopen(path.c_str(), "rb"),
                                                         close);
  std::string text;
  char buffer[1 << 16];
  bool good = file != nullptr;
  while (good) {
    const std::size_t n = std::fread(buffer, 1, sizeof buffer, file.get());
    text.append(buffer, n);
    if (n < sizeof buffer) {
      good = std::ferror(file.get()) == 0;
      break;
    }
  }
  if (!good) throw UsageError(fmt::format("{} can not be read: {}", printable(path), std::strerror(errno)));
  return text;
}

void write_text(const std::string& path, std::string_view text) {
  if (path != "-") return write_file(path, text);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    throw UsageError(fmt::format("standard output can not be written: {}", std::strerror(errno)));
}

void throw_at_line(const std::string& path, std::size_t line, const std::exception& e,
                   std::string_view remedy) {
  const std::string place = json_error_at(path, line, e);
  throw UsageError(is_no_json(e) ? fmt::format("{}; {}", place, remedy) : place);
}

}  // namespace moecheck::harness
