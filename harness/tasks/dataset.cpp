// Reading GSM8K's files, and naming them by their hashes.
#include <fmt/format.h>

#include <filesystem>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/tasks/files.h"
#include "harness/tasks/python_text.h"
#include "harness/tasks/sha256.h"
#include "harness/tasks/task.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;

// openai/grade-school-math, grade_school_math/data: 1,319 and 7,473 problems.
constexpr std::string_view kTestSha = "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14";
constexpr std::string_view kTrainSha = "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465";

Document document(const Json& row) {
  const auto text = [&](const char* key) -> const std::string& {
    const auto at = row.find(key);
    if (at == row.end() || !at->is_string()) throw UsageError(fmt::format("there is no text \"{}\"", key));
    return at->get_ref<const std::string&>();
  };
  if (!row.is_object()) throw UsageError("it is no JSON object");
  return {text("question"), text("answer"), python_json(row, 2)};
}

std::vector<Document> documents(const std::string& path, std::string_view text) {
  std::vector<Document> list;
  constexpr std::string_view kForm = R"(every line is {"question": ..., "answer": ...}, as in GSM8K's files)";
  each_line(
      path, text,
      [&](std::string_view line, std::size_t) {
        const Json row = parse_json(line);
        try {
          list.push_back(document(row));
        } catch (const UsageError& e) {
          throw UsageError(fmt::format("{}; {}", e.what(), kForm));
        }
      },
      kForm);
  return list;
}

}  // namespace

Dataset read_dataset(const std::string& directory) {
  Dataset d;
  d.directory = directory;
  const std::string test_path = directory + "/test.jsonl", train_path = directory + "/train.jsonl";
  if (!std::filesystem::exists(test_path))
    throw UsageError(fmt::format(
        "{} does not exist: --data needs a folder with test.jsonl and train.jsonl, GSM8K's own (openai/"
        "grade-school-math, grade_school_math/data) or datasets/word_problems",
        printable(test_path)));
  const std::string test = read_text(test_path);
  d.test_sha256 = sha256_hex(test);
  d.test = documents(test_path, test);
  if (d.test.empty()) throw UsageError(fmt::format("{} holds no problems", printable(test_path)));
  if (std::filesystem::exists(train_path)) {
    const std::string train = read_text(train_path);
    d.train_sha256 = sha256_hex(train);
    d.train = documents(train_path, train);
  }
  d.is_gsm8k = d.test_sha256 == kTestSha && (d.train_sha256 == kTrainSha || d.train_sha256.empty());
  d.name = d.is_gsm8k ? "GSM8K (main)"
                      : fmt::format("test {}{}", d.test_sha256.substr(0, 12),
                                    d.train_sha256.empty() ? "" : ", train " + d.train_sha256.substr(0, 12));
  return d;
}

}  // namespace moecheck::harness
