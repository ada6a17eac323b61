// Stream programs as JSON: what is read is written as text that reads the same.
#include "harness/case.h"
#include "harness/streams/program_json.h"
#include "target.h"

using namespace moecheck;

MOECHECK_FUZZ_TARGET(stream_program) {
  std::string text;
  try {
    text =
        harness::streams::program_json(harness::streams::parse_program(fuzz::text_of(bytes), "program.json"));
  } catch (const harness::UsageError&) {
    return;
  }
  try {
    if (harness::streams::program_json(harness::streams::parse_program(text, "again.json")) != text)
      fuzz::broken("another program comes back from " + text);
  } catch (const harness::UsageError& e) {
    fuzz::broken(std::string("its own text is refused: ") + e.what());
  }
}
