#pragma once
// Plug-ins that the build made for tests (tests/plugins, examples/plugin), and how they are told to behave.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "harness/operator.h"
#include "harness/plugin/plugin.h"
#include "harness/runner.h"

namespace moecheck::harness {

inline std::string plugin_path(const std::string& name) { return MOECHECK_PLUGIN_DIR "/lib" + name + ".so"; }

// What tests/plugins/behaviours.cpp does while this lives; child processes inherit it.
class Behaviour {
 public:
  explicit Behaviour(const std::string& name) { setenv("MOECHECK_TEST_BEHAVIOUR", name.c_str(), 1); }
  ~Behaviour() { unsetenv("MOECHECK_TEST_BEHAVIOUR"); }
  Behaviour(const Behaviour&) = delete;
  Behaviour& operator=(const Behaviour&) = delete;
};

inline const std::string kGate = "gating policy=sglang_fused experts=16 topk=2 tokens=";

// As `moecheck check` runs it: in a worker.
inline std::vector<Record> checked_in_workers(const Implementation& impl,
                                              const std::vector<std::string>& lines, double timeout = 20,
                                              bool shrink = false) {
  std::vector<Case> cases;
  for (const std::string& line : lines) cases.push_back(parse_case(line));
  const Implementation* one[] = {&impl};
  CampaignOptions options;
  options.timeout_seconds = timeout;
  options.shrink = shrink;
  return run_campaign(cases, one, options);
}

// As a caller in the process that made it.
inline Record checked_here(const Implementation& impl, const std::string& line) {
  const Implementation* one[] = {&impl};
  return check_case(parse_case(line), one, {}).front();
}

inline const ClauseResult* clause_of(const Record& r, std::string_view name) {
  for (const ClauseResult& c : r.result.clauses)
    if (c.name == name) return &c;
  return nullptr;
}

}  // namespace moecheck::harness
