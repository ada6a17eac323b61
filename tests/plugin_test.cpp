// Plug-ins: what the header promises, and that whatever one does becomes a verdict or a message.
#include "harness/plugin/plugin.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <filesystem>

#include "harness/plugin/call.h"
#include "harness/plugin/library.h"
#include "harness/verdict_text.h"
#include "harness/workers.h"
#include "plugin_test_support.h"

namespace moecheck::harness {
namespace {

bool says(const std::string& text, const std::string& words) { return text.find(words) != std::string::npos; }

std::string error_of(const std::string& path, const PluginOptions& options = {}) {
  try {
    (void)make_plugin(path, options);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "no error";
}

TEST(PluginHeader, LayoutIsThatOfAbi1) {
  EXPECT_EQ(sizeof(DLTensor), 48u);
  EXPECT_EQ(offsetof(DLTensor, device), 8u);
  EXPECT_EQ(offsetof(DLTensor, ndim), 16u);
  EXPECT_EQ(offsetof(DLTensor, dtype), 20u);
  EXPECT_EQ(offsetof(DLTensor, shape), 24u);
  EXPECT_EQ(offsetof(DLTensor, byte_offset), 40u);
  EXPECT_EQ(sizeof(moecheck_tensor), 72u);
  EXPECT_EQ(offsetof(moecheck_tensor, tensor), 24u);
  EXPECT_EQ(sizeof(moecheck_case), 32u);
  EXPECT_EQ(sizeof(moecheck_call), 64u);
  EXPECT_EQ(sizeof(moecheck_operator), 40u);
  EXPECT_EQ(sizeof(moecheck_plugin), 32u);
}

TEST(Plugin, TheExamplePasses) {
  const auto plugin = make_plugin(plugin_path("gating_plugin"));
  EXPECT_EQ(plugin->name(), "libgating_plugin.so");
  EXPECT_EQ(plugin->summary(), "a plain gate");
  const auto records = checked_in_workers(
      *plugin, {kGate + "5", "gating policy=sglang_fused model=deepseek-v3 tokens=2 scale_flag=1",
                kGate + "0", kGate + "3 data=ties", kGate + "2 edit=nan:0:3",
                "gating policy=vllm_torch tokens=2", "routed_scaling tokens=2"});
  ASSERT_EQ(records.size(), 7u);
  for (std::size_t i = 0; i < 5; ++i)
    EXPECT_FALSE(is_failure(records[i].result.verdict)) << verdict_text(records[i]);
  EXPECT_EQ(records[0].result.verdict, Verdict::kPass);
  for (const char* clause :
       {"deterministic", "address_independent", "writes_inside_outputs", "inputs_unchanged"}) {
    const ClauseResult* c = clause_of(records[0], clause);
    ASSERT_NE(c, nullptr) << clause;
    EXPECT_EQ(c->verdict, Verdict::kPass) << clause;
  }
  EXPECT_EQ(records[5].result.verdict, Verdict::kSkip);
  EXPECT_EQ(records[5].result.reason, "it follows policy sglang_fused");
  EXPECT_EQ(records[6].result.verdict, Verdict::kSkip);
  EXPECT_EQ(records[6].result.reason, "its table has no routed_scaling, only gating");
}

struct Bad {
  const char* behaviour;
  Verdict verdict;
  const char* words;
};

// The signal's name is not that of a sanitizer's exit: the verdict is the same.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr const char* kSegfault = "ended with";
#else
constexpr const char* kSegfault = "ended with signal 11 (Segmentation fault)";
#endif

TEST(Plugin, WhateverARunDoesIsAVerdict) {
  const std::string path = plugin_path("test_plugin_behaviours");
  const auto patient = make_plugin(path), hasty = make_plugin(path, {20, 0.4});
  for (const Bad& b :
       {Bad{"none", Verdict::kPass, ""}, Bad{"crash", Verdict::kCrash, kSegfault},
        Bad{"abort", Verdict::kCrash, "ended with signal 6 (Aborted)"},
        Bad{"exit", Verdict::kCrash, "ended with exit status 0"},
        Bad{"hang", Verdict::kTimeout, "no end after 0.4 s"},
        Bad{"supports_crash", Verdict::kCrash, kSegfault},
        Bad{"supports_throw", Verdict::kFail, "supports() threw: no idea"},
        Bad{"refuse", Verdict::kSkip, "not on a Sunday"},
        Bad{"throw", Verdict::kFail, "run() threw: cannot go on"},
        Bad{"throw_text", Verdict::kFail, "run() threw \"in plain text\""},
        Bad{"fail", Verdict::kFail, "run() returned 1: no workspace"},
        Bad{"fail_long", Verdict::kFail, "run() returned 1: xxxxxxxx"},
        Bad{"past_end", Verdict::kFail, "writes_inside_outputs"}, Bad{"writes_input", Verdict::kFail, ""}}) {
    const Behaviour behaviour(b.behaviour);
    const bool hangs = b.verdict == Verdict::kTimeout;
    const Implementation* plugin = hangs ? hasty.get() : patient.get();
    const Record in_worker = checked_in_workers(*plugin, {kGate + "3"}, hangs ? 0.4 : 20).front();
    EXPECT_EQ(name(in_worker.result.verdict), name(b.verdict)) << b.behaviour << verdict_text(in_worker);
    EXPECT_TRUE(says(in_worker.result.reason, b.words)) << b.behaviour << ": " << in_worker.result.reason;
    const Record here = checked_here(*plugin, kGate + "3");
    EXPECT_EQ(name(here.result.verdict), name(b.verdict)) << b.behaviour << verdict_text(here);
    EXPECT_TRUE(says(here.result.reason, b.words)) << b.behaviour << ": " << here.result.reason;
  }
}

TEST(Plugin, IsToldTheNumberOfThreads) {
  const Behaviour behaviour("three_threads");
  const auto plugin = make_plugin(plugin_path("test_plugin_behaviours"));
  const Implementation* one[] = {plugin.get()};
  const auto with = [&](int threads) {
    return check_case(parse_case(kGate + "3"), one,
                      {.clauses = false, .relations = false, .threads = threads})
        .front();
  };
  EXPECT_EQ(with(3).result.verdict, Verdict::kPass) << with(3).result.reason;
  EXPECT_TRUE(says(with(2).result.reason, "it was told of other threads"));
}

// DLPack's codes of the number formats: dlpack.h.
TEST(Plugin, TensorsAreHandedOutAsTheyAre) {
  const auto code = [](DType d) { return static_cast<int>(dl_dtype(d).code); };
  EXPECT_EQ(code(DType::kF32), 2);
  EXPECT_EQ(code(DType::kBF16), 4);
  EXPECT_EQ(code(DType::kE4M3FN), 10);
  EXPECT_EQ(code(DType::kE4M3FNUZ), 11);
  EXPECT_EQ(code(DType::kE5M2), 12);
  EXPECT_EQ(code(DType::kE8M0), 14);
  EXPECT_EQ(code(DType::kI64), 0);
  EXPECT_EQ(code(DType::kU8), 1);
  Tensor cache("cache", DType::kU8, Shape(3, 5, 7));
  TensorStructs structs;
  structs.add(cache, cache.data(), {}, true);
  structs.add(cache, cache.data(), {}, false);
  EXPECT_EQ(structs.get()[0]->in_place, 1);
  EXPECT_EQ(structs.get()[1]->in_place, 0);
  EXPECT_EQ(structs.get()[0]->tensor.shape[2], 7);
}

TEST(Plugin, ACrashCostsItsCaseAndIsShrunk) {
  const auto plugin = make_plugin(plugin_path("test_plugin_behaviours"));
  const Behaviour behaviour("crash_from_8_experts");
  const std::string gate = "gating policy=sglang_fused topk=2 tokens=2 experts=";
  const auto records = checked_in_workers(*plugin, {gate + "4", gate + "32", gate + "2"}, 20, true);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].result.verdict, Verdict::kPass) << verdict_text(records[0]);
  EXPECT_EQ(records[1].result.verdict, Verdict::kCrash);
  EXPECT_EQ(records[2].result.verdict, Verdict::kPass) << verdict_text(records[2]);
  EXPECT_EQ(parse_case(records[1].shrunk).integer("experts"), 8) << records[1].shrunk;
  EXPECT_TRUE(says(repro_command(records[1]), "experts=8")) << repro_command(records[1]);
  EXPECT_TRUE(says(repro_command(records[1]), "--impl " + plugin_path("test_plugin_behaviours")));
}

TEST(Plugin, AWrongResultIsShrunkEvenWhereSmallerCasesCrash) {
  const auto plugin = make_plugin(plugin_path("test_plugin_behaviours"));
  {
    const Behaviour behaviour("wrong_from_3_tokens");
    const Record r = checked_in_workers(*plugin, {kGate + "40"}, 20, true).front();
    EXPECT_EQ(r.result.verdict, Verdict::kFail);
    EXPECT_EQ(parse_case(r.shrunk).integer("tokens"), 3) << r.shrunk;
  }
  const Behaviour behaviour("crash_while_shrinking");
  const Record r = checked_in_workers(*plugin, {kGate + "40"}, 20, true).front();
  EXPECT_EQ(r.result.verdict, Verdict::kFail) << verdict_text(r);
  EXPECT_TRUE(r.shrunk.empty());
}

TEST(Plugin, TheCauseOfAFailureIsNamed) {
  const auto plugin = make_plugin(plugin_path("test_plugin_behaviours"));
  const Behaviour behaviour("factor");
  const Record r = checked_in_workers(*plugin, {kGate + "4"}).front();
  EXPECT_EQ(r.result.verdict, Verdict::kFail);
  EXPECT_TRUE(says(r.result.cause, "routed_scaling_factor is applied to the weights")) << r.result.cause;
}

TEST(Plugin, WhatIsNotPromisedIsNotAsked) {
  const Behaviour behaviour("unsteady");
  const auto plugin = make_plugin(plugin_path("test_plugin_behaviours"));
  const Case gating = parse_case(kGate + "4"), other = parse_case("routed_scaling tokens=1");
  EXPECT_EQ(plugin->not_promised_for(gating, "deterministic"), "atomics: the order of summation varies");
  EXPECT_FALSE(plugin->not_promised_for(gating, "inputs_unchanged"));
  EXPECT_FALSE(plugin->not_promised_for(other, "deterministic"));
  const Implementation* one[] = {plugin.get()};
  CampaignOptions options;
  options.check.relations = false;  // each of them compares two runs
  const Record r = run_campaign({gating}, one, options).front();
  EXPECT_FALSE(is_failure(r.result.verdict)) << verdict_text(r);
  const ClauseResult* clause = clause_of(r, "deterministic");
  ASSERT_NE(clause, nullptr);
  EXPECT_EQ(clause->verdict, Verdict::kSkip);
  EXPECT_EQ(clause->detail, "not promised: atomics: the order of summation varies");
}

TEST(PluginLoading, ErrorsNameTheFileAndTheRemedy) {
  const std::string file = plugin_path("test_plugin_behaviours");
  struct Refused {
    const char* behaviour;
    const char* words;
  };
  for (const Refused& b :
       {Refused{"abi_2", "it speaks plug-in ABI 2, this moecheck 1: rebuild it"},
        Refused{"null_table", "moecheck_plugin_v1 returned a null pointer"},
        Refused{"small_table", "moecheck_plugin has struct_size 8, and ABI 1 needs at least 32"},
        Refused{"small_operator", "moecheck_operator has struct_size 16"},
        Refused{"unknown_operator", "'gatting', which is not known: did you mean gating?"},
        Refused{"twice", "lists gating twice"}, Refused{"empty", "lists no operator"},
        Refused{"no_run", "gating has no run function"},
        Refused{"device_77", "device_type 77: use MOECHECK_CPU (1)"},
        Refused{"load_abort", "loading it in a process of its own ended with signal 6 (Aborted)"},
        Refused{"load_exit", "loading it in a process of its own ended with exit status 0"},
        Refused{"table_abort", "ended with signal 6 (Aborted)"},
        Refused{"load_hang", "loading it in a process of its own came to no end after 0.4 s"}}) {
    const Behaviour behaviour(b.behaviour);
    const std::string error = error_of(file, {0.4, 1});
    EXPECT_TRUE(says(error, b.words)) << b.behaviour << ": " << error;
    EXPECT_EQ(error.rfind(file, 0), 0u) << error;
  }
  EXPECT_TRUE(says(error_of("/no/such/libmine.so"), "/no/such/libmine.so: there is no such file"));
  EXPECT_TRUE(says(error_of("libmine.so"), "libmine.so: there is no such file"));
  EXPECT_TRUE(says(error_of(plugin_path("test_plugin_no_symbol")), "it exports no moecheck_plugin_v1"));
  EXPECT_TRUE(says(error_of(plugin_path("test_plugin_missing_library")), "libtest_plugin_gone.so"));
  EXPECT_TRUE(says(error_of(plugin_path("test_plugin_missing_library")), "`ldd "));
  EXPECT_TRUE(says(error_of(MOECHECK_SOURCE_DIR "/README.md"), "cannot be loaded"));
  EXPECT_TRUE(says(error_of(MOECHECK_SOURCE_DIR "/tests"), "cannot be loaded"));
}

TEST(PluginLoading, IsFoundByItsPath) {
  EXPECT_TRUE(is_plugin_path("./libmine.so"));
  EXPECT_TRUE(is_plugin_path("libmine.so"));
  EXPECT_TRUE(is_plugin_path("libmine.so.1"));
  EXPECT_FALSE(is_plugin_path("cpu"));
  EXPECT_FALSE(is_plugin_path("cpu!scale_dropped"));
  EXPECT_FALSE(is_plugin_path("gpu-host:w64:seed7"));
  const std::string file = plugin_path("gating_plugin");
  const Implementation* found = find_implementation(file);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found, find_implementation(file));
  EXPECT_EQ(found->argument(), file);
  // Another file of the same name would have the same name in records.
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("moecheck_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  std::filesystem::copy_file(file, folder / "libgating_plugin.so");
  EXPECT_THROW((void)find_implementation((folder / "libgating_plugin.so").string()), UsageError);
  std::filesystem::remove_all(folder);
}

TEST(PluginRecord, KeepsThePath) {
  const auto plugin = make_plugin(plugin_path("gating_plugin"));
  const Record r = checked_here(*plugin, kGate + "2");
  EXPECT_EQ(r.implementation, "libgating_plugin.so");
  const Record again = record_from_json(to_json(r));
  EXPECT_EQ(again.argument, plugin_path("gating_plugin"));
  EXPECT_TRUE(says(repro_command(again), "--impl " + plugin_path("gating_plugin")));
}

TEST(PluginDevice, WithoutADriverTheReasonIsSaid) {
  if (void* driver = dlopen("libcuda.so.1", RTLD_NOW)) {
    dlclose(driver);
    GTEST_SKIP() << "there is a CUDA driver here";
  }
  const Behaviour behaviour("cuda");
  const auto plugin = make_plugin(plugin_path("test_plugin_behaviours"));
  const Record r = checked_in_workers(*plugin, {kGate + "2"}).front();
  EXPECT_EQ(r.result.verdict, Verdict::kFail);
  EXPECT_TRUE(says(r.result.reason, "libcuda.so.1 cannot be loaded here")) << r.result.reason;
}

TEST(Workers, AnExceptionLosesTheItemAndTheProcessAlone) {
  std::vector<std::string> told(4);
  WorkerCallbacks callbacks;
  callbacks.work = [](std::size_t i) -> std::string {
    if (i == 1) throw ProcessBroken{"the device is gone"};
    if (i == 2) throw std::runtime_error("too large");
    return "fine";
  };
  callbacks.done = [&](std::size_t i, std::string text) { told[i] = text; };
  callbacks.lost = [&](std::size_t i, std::string how, bool) { told[i] = "lost: " + how; };
  run_in_workers(4, {2, 20}, callbacks);
  EXPECT_EQ(told, (std::vector<std::string>{"fine", "lost: the device is gone",
                                            "lost: an exception: too large", "fine"}));
}

}  // namespace
}  // namespace moecheck::harness
