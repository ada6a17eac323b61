#pragma once
// JUnit XML: how CI systems show records.
//
// One testsuite per operator and implementation, one testcase per record, named by its case line. FAIL,
// SUSPECT, MISTRUSTED and ORACLE are <failure>, CRASH and TIMEOUT <error>, both with the console's text;
// SKIP and WAIVED are <skipped> with their reason.
#include <span>
#include <string>

#include "harness/record.h"

namespace moecheck::harness {

std::string junit_xml(std::span<const Record> records);  // well-formed whatever bytes the records hold
// Appears whole or not at all; throws UsageError.
void write_junit(const std::string& path, std::span<const Record> records);

}  // namespace moecheck::harness
