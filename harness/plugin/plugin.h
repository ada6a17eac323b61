#pragma once
// A user's shared object (moecheck_plugin.h) as an implementation: `--impl ./libmine.so`.
//
// The process that makes it never loads it: a library's constructors, its supports() and its run() may do anything. Its table is
// read in a child process; where `unsupported` and `run` are called in the process that made the implementation, each call gets
// a child of its own, and a lost one throws LostRun. In a worker (workers.h), which is contained already, they are plain calls.
#include <memory>
#include <string>
#include <string_view>

#include "harness/implementation.h"

namespace moecheck::harness {

struct PluginOptions {
  double probe_seconds = 60;  // to load the library and answer supports()
  double run_seconds = 600;   // of a run that the process that made the implementation asks for
};

// Whether a name for --impl is a path: it has a slash, or ends with .so or in .so.VERSION.
bool is_plugin_path(std::string_view name);

// Throws UsageError when the library cannot be used, a constructor that crashes or hangs included. The implementation's name is
// the file's, its argument() the path as given. Call it while this process has a single thread.
std::unique_ptr<Implementation> make_plugin(const std::string& path, const PluginOptions& options = {});

// The same, made once per path. UsageError for two files of one name: their records could not be told apart.
const Implementation& find_plugin(const std::string& path);

}  // namespace moecheck::harness
