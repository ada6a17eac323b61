// Plug-ins from the command line: exit codes, verdicts and the line that repeats them.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "plugin_test_support.h"

namespace moecheck::harness {
namespace {

struct Ran {
  int code = -1;
  std::string text;  // stdout and stderr
};

Ran moecheck(const std::string& arguments, const std::string& behaviour = "none") {
  Ran r;
  const std::string command =
      "MOECHECK_TEST_BEHAVIOUR=" + behaviour + " timeout 100 " MOECHECK_BINARY " " + arguments + " 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  char chunk[4096];
  for (std::size_t n; (n = fread(chunk, 1, sizeof chunk, pipe)) > 0;) r.text.append(chunk, n);
  const int status = pclose(pipe);
  r.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return r;
}

bool says(const Ran& r, const std::string& words) { return r.text.find(words) != std::string::npos; }

std::size_t times(const Ran& r, const std::string& words) {
  std::size_t n = 0;
  for (std::size_t at = r.text.find(words); at != std::string::npos; at = r.text.find(words, at + 1)) ++n;
  return n;
}

const std::string kPath = plugin_path("test_plugin_behaviours");
const std::string kCase = " --case '" + kGate + "3'";

TEST(PluginCommand, CheckPassesAndFails) {
  const Ran fine = moecheck("check gating --impl " + kPath + kCase);
  EXPECT_EQ(fine.code, 0) << fine.text;
  EXPECT_TRUE(says(fine, "libtest_plugin_behaviours.so")) << fine.text;
  const Ran wrong = moecheck("check gating --impl " + kPath + kCase, "factor");
  EXPECT_EQ(wrong.code, 1) << wrong.text;
  EXPECT_TRUE(says(wrong, "--impl " + kPath)) << wrong.text;
  const Ran crash = moecheck("check gating --impl " + kPath + kCase, "abort");
  EXPECT_EQ(crash.code, 1) << crash.text;
  EXPECT_TRUE(says(crash, "CRASH  libtest_plugin_behaviours.so")) << crash.text;
  const Ran hang = moecheck("check gating --timeout 0.3 --impl " + kPath + kCase, "hang");
  EXPECT_EQ(hang.code, 1) << hang.text;
  EXPECT_TRUE(says(hang, "TIMEOUT  libtest_plugin_behaviours.so")) << hang.text;
  const Ran skipped = moecheck("check gating --impl " + kPath + kCase, "refuse");
  EXPECT_EQ(skipped.code, 3) << skipped.text;
}

TEST(PluginCommand, RunAndReproContainIt) {
  const std::string out =
      (std::filesystem::temp_directory_path() / ("moecheck_" + std::to_string(getpid()))).string();
  const Ran fine = moecheck("run gating --impl " + kPath + kCase + " --outputs " + out, "print");
  EXPECT_EQ(fine.code, 0) << fine.text;
  EXPECT_TRUE(says(fine, "hello from the plug-in")) << fine.text;
  const Ran judged = moecheck("judge gating" + kCase + " --outputs " + out);
  EXPECT_EQ(judged.code, 0) << judged.text;
  std::filesystem::remove(out);
  const Ran run = moecheck("run gating --impl " + kPath + kCase + " --outputs " + out, "abort");
  EXPECT_EQ(run.code, 1) << run.text;
  EXPECT_TRUE(says(run, "CRASH")) << run.text;
  EXPECT_FALSE(std::filesystem::exists(out));
  const Ran failed = moecheck("run gating --impl " + kPath + kCase + " --outputs " + out, "fail");
  EXPECT_EQ(failed.code, 1) << failed.text;
  EXPECT_TRUE(says(failed, "run() returned 1: no workspace")) << failed.text;
  for (const char* behaviour : {"exit", "supports_abort", "throw"}) {
    const Ran repro = moecheck("repro '" + kGate + "3' --impl " + kPath, behaviour);
    EXPECT_EQ(repro.code, 1) << behaviour << repro.text;
    EXPECT_EQ(times(repro, "router_logits f32"), 1u)
        << behaviour << repro.text;  // exit() prints nothing twice
    EXPECT_EQ(times(repro, "moecheck repro "), 1u) << behaviour << repro.text;
  }
}

TEST(PluginCommand, WhatCannotBeLoadedIsAUsageError) {
  const Ran missing = moecheck("check gating --impl ./libmine.so");
  EXPECT_EQ(missing.code, 2) << missing.text;
  EXPECT_TRUE(says(missing, "./libmine.so: there is no such file")) << missing.text;
  const Ran crash = moecheck("check gating --impl " + kPath, "load_abort");
  EXPECT_EQ(crash.code, 2) << crash.text;
  EXPECT_TRUE(says(crash, "ended with signal 6 (Aborted)")) << crash.text;
}

TEST(PluginCommand, AServedModelRefusesOne) {
  const Ran r = moecheck("serve --model " MOECHECK_SOURCE_DIR "/datasets/tiny_glm4_moe/canary --moe-impl " + kPath);
  EXPECT_EQ(r.code, 2) << r.text;
  EXPECT_TRUE(says(r, "runs in processes of its own")) << r.text;
}

}  // namespace
}  // namespace moecheck::harness
