#pragma once
// The parts of the HTML report: small building blocks, and one function per section. Sections append to a
// string.
#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/put.h"
#include "harness/report/aggregate.h"
#include "harness/report/html.h"

namespace moecheck::harness::report {

extern const std::string_view kStyle;  // CSS

// `text` for HTML content and quoted attributes: printable and escaped.
std::string html(std::string_view text);

// Appends a name that is not in the list.
inline void add_new(std::vector<std::string>& names, const std::string& name) {
  if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
}

// How a verdict looks: colour is never the only sign, so each has a letter.
struct Look {
  std::string_view letter, css, meaning;
};
const Look& look(Verdict v);
std::string badge(Verdict v);  // the letter on its colour

// Opens a section with its title and one line that says how to read it (may hold HTML).
void open_section(std::string& out, std::string_view id, std::string_view title, std::string_view how);

// Failures of one implementation of one operator are of one kind when verdict, cause and output are the
// same: a hundred of one kind must not bury another.
struct Failure {
  const Record* record = nullptr;
  std::int64_t alike = 0;  // failures of this kind, on the first of them; 0 on the others
};

// What all sections read.
struct Page {
  std::span<const Record> records;
  HtmlOptions options;
  std::vector<Group> groups;
  std::vector<std::string> operators, implementations;  // in order of first appearance
  Tally tally;
  std::vector<Failure> failures;                        // by group; the first of each kind before all others
  std::map<const Record*, std::size_t> failure_number;  // from 1

  Page(std::span<const Record> records, const HtmlOptions& options);
};

bool has_waived(const Page& page);  // whether write_waived writes
std::string cell_id(const Page& page, const Group& group, const Cell& cell);
std::string configuration(const Cell& cell);       // "glm-4.7, vllm_cuda" as HTML
bool is_planted(std::string_view implementation);  // "NAME!FAULT"

void write_header(std::string& out, const Page& page);
void write_matrix(std::string& out, const Page& page);
void write_evidence(std::string& out, const Page& page);
void write_failures(std::string& out, const Page& page);
void write_headroom(std::string& out, const Page& page);
void write_clauses(std::string& out, const Page& page);
void write_kernels(std::string& out, const Page& page);  // nothing without kernels to choose from
void write_waived(std::string& out, const Page& page);  // nothing without waivers and waived failures
void write_open(std::string& out, const Page& page);
void write_checks(std::string& out, const Page& page);
void write_footer(std::string& out, const Page& page);

}  // namespace moecheck::harness::report
