#pragma once
// A user's shared object in this process: dlopen and its table (moecheck_plugin.h), checked.
//
// Loading runs the library's constructors, which may do anything: callers load in a child process, see plugin.h.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/plugin/moecheck_plugin.h"

namespace moecheck::harness {

struct PluginOperator {
  std::string name;
  std::int32_t device = MOECHECK_CPU;
  const char* (*supports)(const moecheck_case*) = nullptr;  // may be null: everything
  int (*run)(const moecheck_call*) = nullptr;
  std::vector<std::pair<std::string, std::string>> not_promised;  // clause, reason
};

struct PluginTable {
  std::string summary;
  std::vector<PluginOperator> operators;

  const PluginOperator* find(std::string_view op) const;
};

// What a table says, or UsageError when it breaks the header's rules; `path` is for messages.
PluginTable read_plugin_table(const moecheck_plugin* table, const std::string& path);

// Loads `path` and reads its table. Throws UsageError: no such file, libraries it needs are missing, not a shared object, no
// moecheck_plugin_v1, another ABI, unknown operators. It stays loaded.
PluginTable load_plugin(const std::string& path);

}  // namespace moecheck::harness
