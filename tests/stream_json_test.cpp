// Stream programs as JSON: what is printed reads back, and what is wrong is named with file, key and remedy.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "harness/case.h"
#include "harness/streams/blocks.h"
#include "harness/streams/program_json.h"
#include "harness/streams/text.h"
#include "stream_random_programs.h"

namespace moecheck::harness::streams {
namespace {

using reference::RandomProgram;
using reference::StreamProgram;

TEST(StreamJson, BlocksReadBack) {
  for (const Block& b : blocks())
    for (const BlockVariant& v : b.variants) {
      BlockOptions o;
      o.variant = v.name;
      const StreamProgram p = make_block(b, o);
      EXPECT_EQ(parse_program(program_json(p), "p.json"), p) << b.name << " " << v.name;
    }
}

// Events and graphs that no step names are not printed: the second time everything is as it was.
RC_GTEST_PROP(StreamJson, random_programs_read_back, ()) {
  const StreamProgram p = RandomProgram(*rc::gen::arbitrary<std::uint64_t>()).make();
  const std::string text = program_json(p);
  const StreamProgram q = parse_program(text, "p.json");
  RC_ASSERT(program_json(q) == text);
  RC_ASSERT(parse_program(program_json(q), "p.json") == q);
  RC_ASSERT(reference::check_streams(q).report.race_count == reference::check_streams(p).report.race_count);
}

RC_GTEST_PROP(StreamJson, mutated_text_reads_or_says_why, ()) {
  std::string text = program_json(RandomProgram(*rc::gen::arbitrary<std::uint64_t>()).make());
  for (int n = *rc::gen::inRange(1, 4); n > 0; --n)
    text[*rc::gen::inRange<std::size_t>(0, text.size())] = static_cast<char>(*rc::gen::inRange(1, 256));
  try {
    const StreamProgram p = parse_program(text, "p.json");
    check_text(p, reference::check_streams(p));
  } catch (const UsageError& e) {
    RC_ASSERT(std::string(e.what()).starts_with("p.json"));
  }
}

TEST(StreamJson, MistakesAreNamed) {
  const auto expect = [](const std::string& body, const std::string& text, bool schema = true) {
    const std::string whole = schema ? "{\"schema\": \"moecheck.stream_program/1\", " + body + "}" : body;
    try {
      parse_program(whole, "p.json");
      FAIL() << text;
    } catch (const UsageError& e) {
      const std::string what = e.what();
      EXPECT_TRUE(what.starts_with("p.json")) << what;
      EXPECT_NE(what.find(text), std::string::npos) << what;
    }
  };
  const std::string head = R"("streams": ["a"], "buffers": [{"name": "x", "bytes": 8}], )";
  expect("", "not JSON", false);
  expect("[]", "the program is no object", false);
  expect(R"({"schema": "moecheck.record/1"})", "this version reads moecheck.stream_program/1", false);
  expect(R"({"streams": []})", "schema is missing", false);
  expect(R"("stream": [])", "unknown key 'stream': did you mean 'streams'");
  expect(R"("streams": ["a"])", "steps is missing");
  expect(R"("streams": 3, "steps": [])", "streams is no list");
  expect(R"("streams": [{"name": "a", "kind": "fast"}], "steps": [])", "streams[0].kind is 'fast'");
  expect(R"("streams": ["a", "a"], "steps": [])", "streams[1].name is 'a', the name of another stream");
  expect(R"("streams": ["a"], "buffers": [{"name": "x"}], "steps": [])", "buffers[0].bytes is missing");
  expect(R"("streams": ["a"], "buffers": [{"name": "x", "bytes": 1.5}], "steps": [])",
         "buffers[0].bytes is no whole number");
  expect(R"("streams": ["a"], "buffers": [{"name": "x", "bytes": 18446744073709551615}], "steps": [])",
         "at most 2^53");
  expect(R"("streams": ["a"], "buffers": [{"name": "x", "bytes": 8, "pool": "b"}], "steps": [])",
         "did you mean 'a'");
  expect(head + R"("steps": [{"op": "kernal"}])", "steps[0].op is 'kernal': did you mean 'kernel'");
  expect(head + R"("steps": [{"op": "kernel", "name": "k", "stream": "a", "read": ["x"]}])",
         "unknown key 'read': did you mean 'reads'");
  expect(head + R"("steps": [{"op": "kernel", "name": "k", "stream": "a", "reads": ["z"]}])",
         "steps[0].reads names buffer 'z', which is not declared: did you mean 'x'");
  expect(
      head +
          R"("steps": [{"op": "kernel", "name": "k", "stream": "a", "reads": [{"buffer": "x", "end": 9}]}])",
      "bytes [0, 9) of 'x', which has 8");
  expect(head + R"("steps": [{"op": "kernel", "stream": "a"}])", "needs a name");
  expect(head + R"("steps": [{"op": "kernel", "name": "k"}])", "needs a known stream");
  expect(head + R"("steps": [{"op": "kernel", "name": "k", "stream": "a", "duration": "1"}])",
         "steps[0].duration is no number");
  expect(head + R"("steps": [{"op": "wait", "stream": "a", "event": "e"}])",
         "waits for event 'e', which no earlier step records");
  expect(head + R"("steps": [{"op": "launch_graph", "stream": "a", "graph": "g"}])", "none is declared");
  expect(head + R"("steps": [], "overlaps": [["k"]])", "overlaps[0]");
  expect(head + R"("steps": [3])", "steps[0] is no object");
  expect(R"("streams": ["a", "b"], "steps": [{"op": "kernel", "name": "k", "stream": "a", "after": ["l"]},
         {"op": "kernel", "name": "l", "stream": "b", "after": ["k"]}])",
         "a cycle, so none of these can ever run: 'k' after 'l' after 'k'");
  // Keys of other tools pass.
  EXPECT_EQ(parse_program(
                R"({"schema": "moecheck.stream_program/1", "x-tool": 1, "streams": ["a"], "steps": []})", "p")
                .streams.size(),
            1u);
}

TEST(StreamText, ExplainNamesWhatItDoesNotKnow) {
  const StreamProgram p = glm4_moe({});
  for (const char* const bad : {"", "P", "P->", "->G", "P->Z"})
    EXPECT_THROW(explain_text(p, bad), UsageError) << bad;
  EXPECT_NE(explain_text(p, "S->E").find("absent    nothing orders them"), std::string::npos);
  EXPECT_NE(explain_text(p, "A->R").find("no wait makes it"), std::string::npos);
  EXPECT_NE(explain_text(p, "A->E").find("reversed  E is ahead of A"), std::string::npos);
}

TEST(StreamText, LanesAsTextAndSvg) {
  StreamProgram p = glm4_moe({});
  p.streams[0].name = "a<b>&\"";
  const auto c = reference::check_streams(p);
  EXPECT_NE(timeline_text(p, c).find("shared"), std::string::npos);
  const std::string svg = timeline_svg(p, c);
  EXPECT_NE(svg.find("a&lt;b&gt;&amp;"), std::string::npos);
  EXPECT_EQ(svg.find("a<b>"), std::string::npos);
  EXPECT_NE(svg.find("<title>alt.wait(a&lt;b"), std::string::npos);
}

}  // namespace
}  // namespace moecheck::harness::streams
