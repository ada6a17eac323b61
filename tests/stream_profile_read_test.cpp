// Profiles as files: what is read, and what is refused with place and remedy.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "harness/streams/profile_names.h"
#include "harness/streams/program_json.h"
#include "stream_profile_support.h"

namespace moecheck::harness::streams {
namespace {

using reference::StepKind;

TEST(StreamProfileFile, Refused) {
  EXPECT_HAS(refused(""), "is empty");
  EXPECT_HAS(refused("\x1f\x8b\x08"), "gunzip -k t.json");
  EXPECT_HAS(refused(std::string("SQLite format 3") + '\0'), "reports/stream_program.md");
  EXPECT_HAS(refused("{\n\"traceEvents\": [{}, 3]}"), "traceEvents[1] is no object");
  EXPECT_HAS(refused("{\n\"other\": [1, 2]}"), "no list traceEvents");
  EXPECT_HAS(refused("{\n\"traceEvents\": []}"), "no kernel, copy or memset");
  EXPECT_HAS(refused("[]"), "ProfilerActivity.CUDA");
  const std::string whole = dual_stream().json();
  EXPECT_HAS(refused(whole.substr(0, whole.size() / 2)), "exported again");
  const auto with = [](const std::string& fields, const std::string& arguments) {
    return "{\n\"traceEvents\": [{\"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"k\", " + fields +
           ", \"args\": {\"device\": 0, " + arguments + "}}]}";
  };
  EXPECT_EQ(refused(with("\"ts\": 1, \"dur\": 1", "\"stream\": 7, \"correlation\": 1")), "accepted");
  EXPECT_EQ(refused(with("\"ts\": \"1.5\", \"dur\": 1", "\"stream\": \"7\", \"correlation\": 1")),
            "accepted");
  EXPECT_HAS(refused(with("\"ts\": 1, \"dur\": -3", "\"stream\": 7")),
             "traceEvents[0] (kernel 'k').dur is -3");
  EXPECT_HAS(refused(with("\"ts\": [1], \"dur\": 1", "\"stream\": 7")), "ts is missing");
  EXPECT_HAS(refused(with("\"ts\": \"soon\", \"dur\": 1", "\"stream\": 7")), "ts is no number");
  EXPECT_HAS(refused(with("\"ts\": 1, \"dur\": true", "\"stream\": 7")), "dur is no number");
  EXPECT_HAS(refused(with("\"ts\": 1, \"dur\": 1", "\"x\": 7")), "args.stream is missing");
  EXPECT_HAS(refused(with("\"ts\": 1, \"dur\": 1", "\"stream\": 7.5")), "args.stream is no id");
  EXPECT_HAS(refused(with("\"ts\": 1, \"dur\": 1", "\"stream\": 7, \"correlation\": 18446744073709551615")),
             "args.correlation is no id");
}

TEST(StreamProfileFile, ShortNames) {
  EXPECT_EQ(short_name("void at::native::(anonymous namespace)::sort<int, 2>(int*)"), "sort");
  EXPECT_EQ(short_name("Memcpy DtoD (Device -> Device)"), "Memcpy DtoD");
  EXPECT_EQ(short_name("sm90_xmma_gemm_bf16"), "sm90_xmma_gemm_bf16");
  EXPECT_EQ(short_name("(x)"), "(x)");
  UniqueNames names;
  EXPECT_EQ(names.unique("k"), "k");
  EXPECT_EQ(names.unique("k#3"), "k#3");
  EXPECT_EQ(names.unique("k"), "k#2");
  EXPECT_EQ(names.unique("k"), "k#4");
}

// Records, one a line: the same block.
TEST(StreamProfileFile, CuptiRecords) {
  const std::string text =
      R"({"kind":"RUNTIME","start":1000,"end":1500,"correlationId":1,"globalTid":5,"name":"cudaLaunchKernel_v7000"}
{"kind":"KERNEL","start":10000,"end":20000,"deviceId":0,"streamId":7,"correlationId":1,"name":"P","graphNodeId":null}
{"kind":"RUNTIME","start":2000,"end":2500,"correlationId":2,"globalTid":5,"name":"cudaEventRecord_v3020"}
{"kind":"CUDA_EVENT","deviceId":0,"streamId":7,"correlationId":2,"eventId":4,"eventSyncId":90}
{"kind":"RUNTIME","start":3000,"end":3500,"correlationId":3,"globalTid":5,"name":"cudaLaunchKernel_v7000"}
{"kind":"MEMCPY","start":20000,"end":60000,"deviceId":0,"streamId":7,"correlationId":3}
{"kind":"CUDA_EVENT","deviceId":0,"streamId":7,"correlationId":4,"eventId":4,"eventSyncId":91}
{"kind":"SYNCHRONIZATION","syncType":2,"start":5000,"end":5100,"deviceId":0,"streamId":20,"correlationId":5,"eventId":4,"eventSyncId":90}

{"kind":"RUNTIME","start":6000,"end":6500,"correlationId":6,"globalTid":5,"name":"cuLaunchKernelEx"}
{"kind":"KERNEL","start":21000,"end":30000,"deviceId":0,"streamId":20,"correlationId":6,"name":"G"}
{"kind":"NVTX","x":1}
)";
  const Imported i(text);
  EXPECT_TRUE(i.before("P", "G"));
  EXPECT_FALSE(i.before("Memcpy", "G")) << "eventSyncId tells one recording from the next";
  EXPECT_EQ(i.program.program.steps.at(static_cast<std::size_t>(i.program.program.find("Memcpy"))).kind,
            StepKind::kCopy);
  EXPECT_NEAR(i.measures.several, 9, 1e-6);
  EXPECT_HAS(refused(text + "{\"kind\":\"KERNEL\",\"start\":3}\n"),
             "t.json:13: deviceId of a KERNEL is missing");
  EXPECT_HAS(refused(text + "{\"kind\":\"KERNEL\",\"start\":3,\"end\":2,\"deviceId\":0,\"streamId\":1}\n"),
             "end 2 lies before start 3");
  EXPECT_HAS(refused(text + "{\"kind\":7}\n"), "kind is missing or no text");
  EXPECT_HAS(refused(text + "{\"kind\":\n"), "t.json:13: ");
}

// Correlation ids count anew in each process: records of two would be taken for those of one.
TEST(StreamProfileFile, OneProcess) {
  const auto record = [](const char* kind, const char* process, std::int64_t id) {
    return fmt::format(
        R"({{"kind":"{}","start":1,"end":2,"deviceId":0,"streamId":7,"correlationId":1,"name":"k","{}":{}}})"
        "\n",
        kind, process, id);
  };
  const auto global = [](std::int64_t process, std::int64_t thread) {
    return (std::int64_t{1} << 48) + (process << 24) + thread;
  };
  const std::string one = record("KERNEL", "globalPid", global(70, 0)) +
                          record("RUNTIME", "globalTid", global(70, 71)) +
                          record("RUNTIME", "globalTid", global(70, 99));
  EXPECT_EQ(refused(one), "accepted");
  EXPECT_EQ(refused(one + record("NVTX_EVENTS", "globalTid", global(80, 81))), "accepted") << "passed over";
  for (const char* kind : {"KERNEL", "MEMCPY"})
    EXPECT_HAS(refused(one + record(kind, "globalPid", global(80, 0))),
               "is of process 80, and records above are of process 70");
  EXPECT_HAS(refused(one + record("RUNTIME", "globalTid", global(80, 81))), "t.json:4: globalTid");
  EXPECT_HAS(refused(record("KERNEL", "pid", 70) + record("KERNEL", "pid", 80)),
             "Give the records of one alone");
}

// The command: what it prints, and its exit codes.
TEST(StreamProfileFile, Command) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("moecheck_profile_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  const auto ran = [&](const std::string& trace, const std::string& options, std::string& printed) {
    std::ofstream(folder / "t.json") << trace;
    const std::string command =
        MOECHECK_BINARY " streams import " + (folder / "t.json").string() + " " + options + " 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    char chunk[4096];
    printed.clear();
    for (std::size_t n; (n = fread(chunk, 1, sizeof chunk, pipe)) > 0;) printed.append(chunk, n);
    return WEXITSTATUS(pclose(pipe));
  };
  std::string printed;
  EXPECT_EQ(ran(dual_stream().json(), "--svg " + (folder / "t.svg").string(), printed), 0);
  EXPECT_HAS(printed, "overlap   39.00 us with two or more streams busy");
  EXPECT_GT(std::filesystem::file_size(folder / "t.svg"), 1000u);
  EXPECT_EQ(ran(dual_stream().json(), "--json -", printed), 0);
  EXPECT_EQ(parse_program(printed, "-").steps.size(), 10u) << "6 operations, 2 records, 2 waits";
  TraceBuilder wrong;
  wrong.run("P", 7, 0, 10, 20);
  wrong.run("Q", 7, 1, 15, 20);
  EXPECT_EQ(ran(wrong.json(), "", printed), 1);
  EXPECT_EQ(ran("{}", "", printed), 2);
  EXPECT_EQ(ran(dual_stream().json(), "--device 3", printed), 2);
  EXPECT_HAS(printed, "--device takes 0");
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace moecheck::harness::streams
