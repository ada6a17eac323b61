#include "harness/fuzz/corpus.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include "harness/atomic_file.h"
#include "harness/operator.h"
#include "harness/safetensors.h"
#include "harness/text.h"
#include "harness/workers.h"

namespace moecheck::harness {
namespace {
namespace fs = std::filesystem;

constexpr std::string_view kFirstLine = "# moecheck corpus/1";
constexpr std::string_view kSuffix = ".case";
constexpr double kRunSeconds = 60;

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r");
  return first == std::string_view::npos ? std::string_view()
                                         : text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

// "# key: value" of the header, where it is one of ours.
void read_header(std::string_view line, CorpusEntry& entry, const std::string& what) {
  const std::string_view text = trimmed(line.substr(1));
  if (text.starts_with("moecheck corpus/") && line != kFirstLine)
    throw UsageError(fmt::format("{}: it is of another format ({}): use the moecheck that wrote it", what,
                                 printable(text, 80)));
  const std::size_t colon = text.find(": ");
  if (colon == std::string_view::npos) return;
  const std::string_view key = text.substr(0, colon), value = trimmed(text.substr(colon + 2));
  if (key == "implementation") entry.cause.implementation = value;
  if (key == "check") entry.cause.check = value;
  if (key == "cause") entry.cause.diagnosis = value;
  if (key == "found") entry.found = value;
  if (key == "commit") entry.commit = value;
  if (key == "verdict" && !parse_verdict(value, entry.cause.verdict))
    throw UsageError(
        fmt::format("{}: verdict {} is none: remove the file, or write FAIL", what, printable(value, 80)));
}

// What the implementation gives, run in a process of its own; nothing when that dies.
std::optional<TensorSet> outputs_of(const Case& c, const Implementation& implementation,
                                    const TensorSet& inputs) {
  const Operator& op = operator_of(c);
  TensorSet outputs(op.outputs(c));
  bool alive = false;
  WorkerCallbacks callbacks;
  callbacks.work = [&](std::size_t) {
    op.reset_outputs(c, inputs, outputs);
    implementation.run(c, inputs, outputs, {});
    std::string bytes;
    for (const Tensor& t : outputs.tensors())
      bytes.append(reinterpret_cast<const char*>(t.data()), t.bytes());
    return bytes;
  };
  callbacks.done = [&](std::size_t, std::string bytes) {
    const char* from = bytes.data();
    for (Tensor& t : outputs.tensors()) {
      std::copy_n(from, t.bytes(), reinterpret_cast<char*>(t.data()));
      from += t.bytes();
    }
    alive = true;
  };
  callbacks.lost = [](std::size_t, std::string, bool) {};
  run_in_workers(1, {1, kRunSeconds}, callbacks);
  if (!alive) return std::nullopt;
  return outputs;
}

}  // namespace

std::string to_text(const CorpusEntry& e) {
  std::string text = fmt::format("{}\n", kFirstLine);
  const auto put = [&](std::string_view key, std::string_view value) {
    if (!value.empty()) text += fmt::format("# {}: {}\n", key, printable(value));
  };
  put("implementation", e.cause.implementation);
  put("verdict", name(e.cause.verdict));
  put("check", e.cause.check);
  put("cause", e.cause.diagnosis);
  put("found", e.found);
  put("commit", e.commit);
  return text + e.c.str() + "\n";
}

CorpusEntry parse_corpus_entry(std::string_view text, const std::string& what) {
  std::optional<CorpusEntry> entry;
  CorpusEntry header{Case(operators().front()->schema()), {}, {}, {}};
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = trimmed(text.substr(at, end - at));
    at = end + 1;
    if (line.empty()) continue;
    if (line.front() == '#') {
      read_header(line, header, what);
      continue;
    }
    if (entry)
      throw UsageError(
          fmt::format("{}: it has two case lines: an entry of a corpus is one, give each a file", what));
    try {
      entry.emplace(CorpusEntry{parse_case(line), {}, {}, {}});
    } catch (const UsageError& e) {
      throw UsageError(
          fmt::format("{}: {}: correct the line or remove the file", what, printable(e.what(), 400)));
    }
  }
  if (!entry) throw UsageError(fmt::format("{}: it holds no case line: remove the file", what));
  header.c = entry->c;
  header.cause.operator_name = entry->c.operator_name();
  return header;
}

Corpus::Corpus(std::string folder) : folder_(std::move(folder)) {
  std::error_code error;
  fs::create_directories(folder_, error);
  std::vector<std::string> paths;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error))
    if (it->path().extension() == kSuffix && it->path().filename().string().front() != '.')
      paths.push_back(it->path().string());
  if (error)
    throw UsageError(fmt::format("--corpus {}: the folder cannot be used: {}: name another one",
                                 printable(folder_), error.message()));
  std::sort(paths.begin(), paths.end());
  for (const std::string& path : paths) {
    std::ifstream in(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(in), {}};
    if (!in) throw UsageError(fmt::format("{}: cannot be read: check its permissions", printable(path)));
    entries_.push_back(parse_corpus_entry(text, printable(path)));
  }
}

std::string Corpus::path_of(const CorpusEntry& entry, std::string_view suffix) const {
  return (fs::path(folder_) / fmt::format("{}{}", entry.cause.id(), suffix)).string();
}

std::string Corpus::store(const CorpusEntry& entry) const {
  const std::string path = path_of(entry, kSuffix);
  write_file(path, to_text(entry));
  return path;
}

std::vector<std::string> Corpus::store_tensors(const CorpusEntry& entry,
                                               const Implementation& implementation) const {
  const Case& c = entry.c;
  const Operator& op = operator_of(c);
  TensorSet inputs(op.inputs(c));
  op.generate(c, inputs);
  TensorSet expected(op.outputs(c));
  op.reset_outputs(c, inputs, expected);
  op.reference_outputs(c, inputs, *op.reference(c, inputs), expected);
  std::vector<std::string> paths;
  const auto write = [&](std::string_view what, const TensorSet& tensors) {
    paths.push_back(path_of(entry, fmt::format(".{}.safetensors", what)));
    write_safetensors(paths.back(), tensors,
                      {{"case", c.str()}, {"implementation", entry.cause.implementation}});
  };
  write("inputs", inputs);
  write("expected", expected);
  if (const auto outputs = outputs_of(c, implementation, inputs)) write("outputs", *outputs);
  return paths;
}

}  // namespace moecheck::harness
