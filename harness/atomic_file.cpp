#include "harness/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "harness/case.h"

namespace moecheck::harness {
namespace {
namespace fs = std::filesystem;

std::string remedy(int error, const fs::path& target) {
  const std::string directory = target.parent_path().empty() ? "." : target.parent_path().string();
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return fmt::format("the directory '{}' does not exist: create it, or choose another path", directory);
    case ENOSPC:
    case EDQUOT:
      return "the disk is full: free some space, or choose another path";
    case EFBIG:
      return "the file is larger than the system allows: raise the limit (ulimit -f), or choose another path";
    case EACCES:
    case EPERM:
      return fmt::format("no permission to write in '{}': choose another path", directory);
    case EROFS:
      return fmt::format("'{}' is on a read-only file system: choose another path", directory);
    case EISDIR:
      return "it is a directory: name a file in it";
    case ENAMETOOLONG:
      return "the name is too long: choose a shorter one";
    default:
      return "choose another path";
  }
}

// Unique among the processes and threads that may write the same path at the same time.
std::string temporary_name(const std::string& target) {
  static std::atomic<unsigned> next{0};
  const fs::path p(target);
  return (p.parent_path() /
          fmt::format(".{}.{}.{}.tmp", p.filename().string().substr(0, 200), ::getpid(), next++))
      .string();
}

}  // namespace

AtomicFile::AtomicFile(const std::string& path) : path_(path), target_(path) {
  if (path.empty()) throw UsageError("an empty path cannot be written: name a file");
  std::error_code ec;
  const fs::file_status status = fs::status(path, ec);
  if (fs::is_directory(status)) fail(EISDIR);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    file_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    if (fs::is_symlink(fs::symlink_status(path, ec))) {
      const fs::path resolved = fs::weakly_canonical(path, ec);
      if (!ec) target_ = resolved.string();
    }
    temporary_ = temporary_name(target_);
    file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  }
  if (file_ < 0) {
    temporary_.clear();  // not ours to remove
    fail(errno);
  }
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() noexcept {
  if (file_ >= 0) ::close(file_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  file_ = -1;
  temporary_.clear();
}

void AtomicFile::fail(int error) {
  discard();
  throw UsageError(fmt::format("{}: cannot be written ({}): {}", path_,
                               std::generic_category().message(error), remedy(error, target_)));
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  constexpr std::size_t kAtMost = std::size_t{1} << 30;  // one write() takes at most 2 GiB
  while (!bytes.empty()) {
    const ssize_t n = ::write(file_, bytes.data(), std::min(bytes.size(), kAtMost));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(n < 0 ? errno : EIO);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

void AtomicFile::commit() {
  // Some file systems report a full disk only here. What cannot be synced (a pipe, a terminal) says EINVAL.
  if (::fsync(file_) != 0 && errno != EINVAL && errno != ENOTSUP && errno != EROFS) fail(errno);
  const int closed = ::close(file_);
  file_ = -1;
  if (closed != 0) fail(errno);
  if (temporary_.empty()) return;
  if (std::rename(temporary_.c_str(), target_.c_str()) != 0) fail(errno);
  temporary_.clear();
}

void write_file(const std::string& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

}  // namespace moecheck::harness
