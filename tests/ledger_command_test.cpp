// check --waivers, waivers and headroom from outside: exit codes, and what stays behind.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "command_support.h"

namespace {

namespace fs = std::filesystem;

using ::moecheck::Ran;
Ran moecheck(const std::string& arguments) { return ::moecheck::run_moecheck(arguments); }

class LedgerCommand : public testing::Test {
 protected:
  void SetUp() override {
    const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
    dir_ = fs::temp_directory_path() / (std::string("moecheck_") + std::to_string(getpid()) + test->name());
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::string path(const char* name) const { return (dir_ / name).string(); }
  std::string content(const char* name) const {
    std::ifstream in(path(name));
    return {std::istreambuf_iterator<char>(in), {}};
  }
  // A waiver of a planted fault; `more` are further keys.
  void write_waiver(const std::string& where, const std::string& more = "") const {
    std::ofstream(path("w"))
        << "{\"operator\": \"gating\", \"implementation\": \"cpu!scale_dropped\", \"where\": \"" << where
        << "\", \"issue\": \"vllm-project/vllm#44313\", \"reason\": \"the scale is "
        << "lost\", \"added\": \"2026-11-01\"" << more << "}\n";
  }
  Ran check(const std::string& more) const {
    return moecheck("check gating --fault scale_dropped --no-relations --jobs 1 --waivers " + path("w") +
                    " " + more);
  }

  fs::path dir_;
};

constexpr const char* kWrong = "--case 'policy=vllm_torch tokens=2' ";
// Without a routed scale there is none to drop.
constexpr const char* kRight = "--case 'policy=vllm_torch tokens=2 rsf=1' ";

TEST_F(LedgerCommand, AWaivedFailureFailsNothingAndIsKept) {
  write_waiver("policy=vllm_torch");
  const Ran r = check(std::string(kWrong) + "--records " + path("r") + " --report " + path("h") +
                      " --junit " + path("x"));
  EXPECT_EQ(r.code, 0) << r.text;
  EXPECT_TRUE(r.says("1x WAIVED  gating cpu!scale_dropped: vllm-project/vllm#44313: the scale is lost"))
      << r.text;
  EXPECT_NE(content("r").find("\"waived\":{\"verdict\":\"FAIL\""), std::string::npos) << content("r");
  EXPECT_NE(content("h").find("https://github.com/vllm-project/vllm/issues/44313"), std::string::npos);
  EXPECT_NE(content("x").find("<skipped message=\"waived: vllm-project/vllm#44313"), std::string::npos);
  const Ran listed = moecheck("waivers --waivers " + path("w") + " " + path("r"));
  EXPECT_EQ(listed.code, 0) << listed.text;
  EXPECT_TRUE(listed.says("open, 1 case failing, 0 passing")) << listed.text;
}

TEST_F(LedgerCommand, AnotherFailureStillFails) {
  write_waiver("policy=vllm_cuda");
  const Ran r = check(kWrong);
  EXPECT_EQ(r.code, 1) << r.text;
  EXPECT_TRUE(r.says("unused: no case that it covers ran")) << r.text;
}

TEST_F(LedgerCommand, AnExpiredWaiverFailsUnlessAllowed) {
  write_waiver("policy=vllm_torch");
  const Ran r = check(kRight);
  EXPECT_EQ(r.code, 1) << r.text;
  EXPECT_TRUE(r.says("w:1: vllm-project/vllm#44313") && r.says("delete the line")) << r.text;
  EXPECT_EQ(check(std::string(kRight) + "--allow-expired").code, 0);
  const Ran wide = check(std::string(kRight) + kWrong);
  EXPECT_EQ(wide.code, 0) << wide.text;
  EXPECT_TRUE(wide.says("1 case that it covers fails, 1 passes: narrow it")) << wide.text;
}

TEST_F(LedgerCommand, AWaiverPastItsDateWaivesNothing) {
  write_waiver("policy=vllm_torch", ", \"until\": \"2026-11-02\"");
  const Ran r = check(kWrong);
  EXPECT_EQ(r.code, 1) << r.text;
  EXPECT_TRUE(r.says("out of date: it waives nothing since 2026-11-02")) << r.text;
}

TEST_F(LedgerCommand, AWaiverWithoutAnIssueIsRefused) {
  std::ofstream(path("w"))
      << "{\"operator\": \"gating\", \"implementation\": \"cpu\", \"where\": \"tokens=2\", "
      << "\"reason\": \"x\", \"added\": \"2026-11-01\"}\n";
  for (const Ran& r :
       {check(std::string(kWrong) + "--records " + path("r")), moecheck("waivers --waivers " + path("w"))}) {
    EXPECT_EQ(r.code, 2) << r.text;
    EXPECT_TRUE(r.says("w:1: the issue is missing") && r.says("owner/repo#123")) << r.text;
  }
  EXPECT_FALSE(fs::exists(path("r")));
}

// A ledger of 12 cases, and what it says when their bounds are three times nearer.
TEST_F(LedgerCommand, HeadroomFlagsWhatMovedTowardsItsBound) {
  std::string cases;
  for (int i = 1; i <= 12; ++i) cases += "gating policy=vllm_torch tokens=2 seed=" + std::to_string(i) + "\n";
  std::ofstream(path("cases")) << cases;
  ASSERT_EQ(moecheck("check --impl cpu --no-relations --jobs 1 --cases " + path("cases") + " --records " +
                     path("r"))
                .code,
            0);
  const std::string of = "headroom " + path("r") + " --ledger " + path("l");
  EXPECT_EQ(moecheck("headroom " + path("r")).code, 0);
  EXPECT_EQ(moecheck("headroom " + path("r") + " --append").code, 2) << "needs a ledger";
  EXPECT_EQ(moecheck(of + " --against last").code, 2) << "there is none yet";
  // The commit of these records is that of this build: an older one, three times farther from its bounds.
  std::string older = content("r");
  const auto replace = [&](const std::string& from, const auto& to) {
    for (std::size_t at = 0; (at = older.find(from, at)) != std::string::npos;) {
      const std::size_t begin = at + from.size(), end = older.find_first_of(",\"}", begin);
      const std::string value = to(older.substr(begin, end - begin));
      older.replace(begin, end - begin, value);
      at = begin + value.size();
    }
  };
  replace("\"commit\":\"", [](const std::string&) { return std::string("0123abcd"); });
  std::ofstream(path("old")) << older;
  ASSERT_EQ(moecheck("headroom " + path("old") + " --append --ledger " + path("l")).code, 0);
  const Ran same = moecheck(of + " --against last");
  EXPECT_EQ(same.code, 0) << same.text;
  EXPECT_TRUE(same.says("1 group compared with their last commit, 0 drifted")) << same.text;
  replace("\"headroom\":", [](const std::string& v) { return std::to_string(std::stod(v) / 3); });
  std::ofstream(path("old")) << older;
  ASSERT_EQ(moecheck("headroom " + path("old") + " --append --ledger " + path("l")).code, 0);
  const std::string before = content("l");
  const Ran drifted = moecheck(of + " --against 0123 --append");
  EXPECT_EQ(drifted.code, 1) << drifted.text;
  EXPECT_TRUE(drifted.says("drifted since 0123abcd, 12 cases")) << drifted.text;
  EXPECT_TRUE(drifted.says("worst now gating policy=vllm_torch")) << drifted.text;
  EXPECT_EQ(content("l"), before) << "what drifted is not appended";
  EXPECT_EQ(moecheck(of + " --against 0123 --threshold 4").code, 0);
}

}  // namespace
