// config.json of a checkpoint whose weights are not there: all of the configuration is read before they are missed.
#include "harness/case.h"
#include "harness/glm4_moe/checkpoint.h"
#include "scratch.h"
#include "target.h"

using namespace moecheck;

MOECHECK_FUZZ_TARGET(config_json) {
  static const fuzz::Scratch scratch("config");
  scratch.write("config.json", fuzz::text_of(bytes));
  try {
    (void)harness::load_glm4_moe(scratch.folder(), reference::DType::kF32);
    fuzz::broken("a checkpoint without weights was loaded");
  } catch (const harness::UsageError&) {
  }
}
