#include "harness/safetensors.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "harness/atomic_file.h"
#include "harness/case.h"

namespace moecheck::harness {
namespace {
namespace fs = std::filesystem;

constexpr DType kAll[] = {DType::kF64,    DType::kF32,      DType::kBF16, DType::kF16,
                          DType::kE4M3FN, DType::kE4M3FNUZ, DType::kE5M2, DType::kE8M0,
                          DType::kI64,    DType::kI32,      DType::kU8};

class Safetensors : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / fmt::format("moecheck_safetensors_{}", ::getpid());
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }
  std::string path(std::string_view name) const { return (directory_ / name).string(); }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(directory_), {}));
  }

  fs::path directory_;
};

TensorSet random_set(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  TensorSet set;
  const std::size_t n = random() % 6;
  for (std::size_t i = 0; i < n; ++i) {
    Shape shape;
    shape.rank = static_cast<int>(random() % 5);
    for (int d = 0; d < shape.rank; ++d)
      shape.dim[static_cast<std::size_t>(d)] = static_cast<std::int64_t>(random() % 5);
    Tensor& t =
        set.add(Tensor(fmt::format("tensor \"{}\" \u00fc\n", i), kAll[random() % std::size(kAll)], shape));
    for (std::size_t b = 0; b < t.bytes(); ++b) t.data()[b] = static_cast<std::byte>(random());
  }
  return set;
}

void expect_equal(const TensorSet& a, const TensorSet& b) {
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (std::size_t i = 0; i < a.tensors().size(); ++i) {
    const Tensor &x = a.tensors()[i], &y = b.tensors()[i];
    EXPECT_EQ(x.name(), y.name());
    EXPECT_EQ(x.dtype(), y.dtype());
    EXPECT_EQ(x.shape(), y.shape());
    EXPECT_EQ(std::memcmp(x.data(), y.data(), x.bytes()), 0);
  }
}

TEST_F(Safetensors, WhatIsWrittenIsRead) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const TensorSet set = random_set(seed);
    const Metadata metadata =
        seed % 2 == 0 ? Metadata{} : Metadata{{"case", "gating tokens=4"}, {"", "\u00fc\""}};
    write_safetensors(path("set"), set, metadata);
    Metadata read;
    expect_equal(read_safetensors(path("set"), &read), set);
    EXPECT_EQ(read, metadata);
  }
  EXPECT_EQ(files(), 1u);
}

TEST_F(Safetensors, EveryDtypeKeepsItsBits) {
  TensorSet set;
  for (const DType dtype : kAll) {
    Tensor& t = set.add(Tensor(std::string(reference::name(dtype)), dtype, Shape(3, 5)));
    for (std::size_t b = 0; b < t.bytes(); ++b) t.data()[b] = static_cast<std::byte>(b * 37 + 0xF0);
  }
  write_safetensors(path("set"), set);
  expect_equal(read_safetensors(path("set")), set);
}

TEST_F(Safetensors, TheDataOfEveryTensorAreAligned) {
  TensorSet set;
  set.add(Tensor("u8", DType::kU8, Shape(3)));
  set.add(Tensor("f64", DType::kF64, Shape(1)));
  set.add(Tensor("bf16", DType::kBF16, Shape(1)));
  write_safetensors(path("set"), set);
  std::ifstream in(path("set"), std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), {});
  EXPECT_EQ(static_cast<unsigned char>(bytes[0]) % 8, 0);
  EXPECT_NE(bytes.find(R"("u8":{"dtype":"U8","shape":[3],"data_offsets":[10,13]})"), std::string::npos)
      << bytes;
  EXPECT_NE(bytes.find(R"("f64":{"dtype":"F64","shape":[1],"data_offsets":[0,8]})"), std::string::npos)
      << bytes;
}

TEST_F(Safetensors, ReadsWhatThePythonPackageWrote) {
  Metadata metadata;
  const std::string golden = std::string(MOECHECK_SOURCE_DIR) + "/datasets/golden/safetensors/";
  const TensorSet set = read_safetensors(golden + "all_dtypes.safetensors", &metadata);
  EXPECT_EQ(metadata, (Metadata{{"case", "gating tokens=2 seed=7"}}));
  ASSERT_EQ(set.tensors().size(), 14u);
  for (const DType dtype : kAll) {
    const Tensor& t = set.at(reference::name(dtype));
    EXPECT_EQ(t.dtype(), dtype);
    EXPECT_EQ(t.shape(), Shape(2, 3));
    for (std::int64_t i = 0; i < 6; ++i) {
      if (dtype == DType::kU8)
        EXPECT_EQ(t.view().int_at(i), i);
      else if (!reference::is_float(dtype))
        EXPECT_EQ(t.view().int_at(i), i - 2);
      else
        EXPECT_EQ(t.view().at(i),
                  dtype == DType::kE8M0 ? std::ldexp(1.0, static_cast<int>(i)) : static_cast<double>(i - 2))
            << t.name();
    }
  }
  EXPECT_EQ(set.at("scalar").shape(), Shape());
  EXPECT_EQ(set.at("scalar").view().at(0), -2.0);
  EXPECT_EQ(set.at("empty").shape(), Shape(0, 3));
  EXPECT_EQ(set.at("rank 4, \u00fc\u6771\"\\").view().at(15), 13.0);
  try {
    read_safetensors(golden + "bool.safetensors");
    ADD_FAILURE() << "BOOL was read";
  } catch (const UsageError& e) {
    EXPECT_NE(
        std::string(e.what()).find("tensor 'mask': dtype 'BOOL' is not one moecheck reads (F64, F32, BF16"),
        std::string::npos)
        << e.what();
  }
}

TEST_F(Safetensors, UnreadablePathsAreNamed) {
  const auto message = [](const std::string& p) -> std::string {
    try {
      read_safetensors(p);
    } catch (const UsageError& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message(path("none")), path("none") + ": there is no such file: check the path");
  EXPECT_NE(message(directory_.string()).find("not a regular file"), std::string::npos);
}

TEST_F(Safetensors, UnwritablePathsAreNamedAndNothingIsLeftBehind) {
  const auto message = [](const std::string& p, const TensorSet& set) -> std::string {
    try {
      write_safetensors(p, set);
    } catch (const UsageError& e) {
      return e.what();
    }
    return "accepted";
  };
  TensorSet set;
  set.add(Tensor("t", DType::kF32, Shape(4)));
  EXPECT_NE(message(path("none/x"), set)
                .find(fmt::format("the directory '{}' does not exist: create it", path("none"))),
            std::string::npos);
  EXPECT_NE(message(directory_.string(), set).find("it is a directory"), std::string::npos);
  EXPECT_NE(message("", set).find("empty path"), std::string::npos);
  if (fs::exists("/dev/full")) {
    EXPECT_NE(message("/dev/full", set).find("the disk is full"), std::string::npos);
  }
  EXPECT_EQ(message("/dev/null", set), "accepted");
  EXPECT_TRUE(fs::is_character_file("/dev/null")) << "a device must not be replaced by a file";

  write_file(path("old"), "kept");
  set.add(Tensor("t", DType::kF32, Shape(4)));
  EXPECT_NE(message(path("old"), set).find("'t' is used twice"), std::string::npos);
  TensorSet bad;
  bad.add(Tensor("\xff", DType::kF32, Shape(4)));
  EXPECT_NE(message(path("old"), bad).find("not valid UTF-8"), std::string::npos);
  TensorSet reserved;
  reserved.add(Tensor("__metadata__", DType::kF32, Shape(4)));
  EXPECT_NE(message(path("old"), reserved).find("reserved"), std::string::npos);
  EXPECT_EQ(files(), 1u);
  EXPECT_EQ(fs::file_size(path("old")), 4u);
  {
    AtomicFile abandoned(path("old"));
    abandoned.write("half a fi");
  }
  EXPECT_EQ(files(), 1u);
  EXPECT_EQ(fs::file_size(path("old")), 4u);
}

TEST_F(Safetensors, AWriteThatFailsHalfwayLeavesTheOldFile) {
  write_file(path("old"), "kept");
  TensorSet set;
  set.add(Tensor("t", DType::kF32, Shape(100'000)));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{100'000, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);  // write() then says EFBIG
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THROW(write_safetensors(path("old"), set), UsageError);
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(files(), 1u);
  EXPECT_EQ(fs::file_size(path("old")), 4u);
}

TEST_F(Safetensors, ALinkKeepsPointingAtTheFileItNames) {
  write_file(path("target"), "old");
  fs::create_symlink("target", path("link"));
  write_file(path("link"), "new!");
  EXPECT_TRUE(fs::is_symlink(path("link")));
  EXPECT_EQ(fs::file_size(path("target")), 4u);
  EXPECT_EQ(files(), 2u);
}

}  // namespace
}  // namespace moecheck::harness
