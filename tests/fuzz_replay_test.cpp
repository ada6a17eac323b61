// The fuzz targets of tests/fuzz on their corpora: what libFuzzer once found stays found, with every compiler.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "fuzz/target.h"
#include "harness/random.h"

namespace moecheck {
namespace {

namespace fs = std::filesystem;

constexpr int kAltered = 8;  // of each file: a cut, a byte changed, a stretch doubled

std::vector<std::uint8_t> read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::vector<std::uint8_t> altered(std::vector<std::uint8_t> bytes, std::uint64_t i) {
  const harness::Random random(i, "altered");
  const auto at =
      static_cast<std::ptrdiff_t>(random.integer(0, 0, static_cast<std::int64_t>(bytes.size()) - 1));
  const auto value = static_cast<std::uint8_t>(random.bits(1));
  const auto length = std::min(std::ssize(bytes) - at, static_cast<std::ptrdiff_t>(random.integer(2, 1, 16)));
  if (i % 3 == 0) {
    bytes.resize(static_cast<std::size_t>(at));
  } else if (i % 3 == 1) {
    bytes[static_cast<std::size_t>(at)] = value;
  } else {
    const std::vector<std::uint8_t> stretch(bytes.begin() + at, bytes.begin() + at + length);
    bytes.insert(bytes.begin() + at, stretch.begin(), stretch.end());
  }
  return bytes;
}

TEST(FuzzReplay, EveryTargetHasACorpusAndEveryCorpusATarget) {
  std::set<std::string> folders, names;
  for (const auto& entry : fs::directory_iterator(MOECHECK_SOURCE_DIR "/tests/fuzz/corpus"))
    folders.insert(entry.path().filename().string());
  for (const fuzz::Target& t : fuzz::targets()) names.insert(t.name);
  EXPECT_EQ(folders, names);
  EXPECT_GE(names.size(), 12u);
}

// A target that fails ends the process: the last line says with which file.
TEST(FuzzReplay, Corpora) {
  for (const fuzz::Target& t : fuzz::targets()) {
    t.run({});
    std::vector<fs::path> files;
    for (const auto& entry :
         fs::directory_iterator(fs::path(MOECHECK_SOURCE_DIR "/tests/fuzz/corpus") / t.name))
      files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    EXPECT_GE(files.size(), 2u) << t.name;
    for (const fs::path& file : files) {
      SCOPED_TRACE(file.string());
      const std::vector<std::uint8_t> bytes = read(file);
      EXPECT_NO_THROW(t.run(bytes)) << file;
      for (std::uint64_t i = 0; i < kAltered && !bytes.empty(); ++i)
        EXPECT_NO_THROW(t.run(altered(bytes, i))) << file << ", altered " << i;
    }
  }
}

}  // namespace
}  // namespace moecheck
