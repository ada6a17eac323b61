#pragma once
// A file that appears whole or not at all: written beside its place under another name, then renamed over it.
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace moecheck::harness {

// Errors are UsageErrors that name the path, what the system said and what to do. Without commit() nothing
// is left behind and an existing file stays as it was. Symbolic links are followed. A path that exists and
// is no regular file (/dev/stdout, a pipe) is written directly.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void commit();  // flushed to disk, then renamed

 private:
  [[noreturn]] void fail(int error);
  void discard() noexcept;

  std::string path_;       // as the user gave it, for messages
  std::string target_;     // links resolved
  std::string temporary_;  // empty when written directly
  int file_ = -1;
};

// The common case: the whole content at once.
void write_file(const std::string& path, std::string_view content);

}  // namespace moecheck::harness
