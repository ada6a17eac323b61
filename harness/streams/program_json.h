#pragma once
// Stream programs as JSON, schema moecheck.stream_program/1: reports/stream_program.md describes every key.
#include <string>
#include <string_view>

#include "reference/stream_program.h"

namespace moecheck::harness::streams {

inline constexpr const char* kProgramSchema = "moecheck.stream_program/1";

// One step a line; reading it gives the program back, with events and graphs in the order in which steps name them.
std::string program_json(const reference::StreamProgram& program);

// Throws UsageError, which names `path`, the key and the remedy, for text that is no program and for programs that mean nothing
// (reference::refusal). Keys that the schema lacks are refused, but for those that begin with "x-".
reference::StreamProgram parse_program(std::string_view text, const std::string& path);
reference::StreamProgram read_program(const std::string& path);

}  // namespace moecheck::harness::streams
