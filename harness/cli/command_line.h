#pragma once
// The command line that this process was started with, for results: how to run it again.
#include <string>

namespace moecheck::harness {

// "moecheck eval --endpoint ...", each word quoted where a shell needs it. The value of --api-key stays out.
std::string this_command_line();

}  // namespace moecheck::harness
