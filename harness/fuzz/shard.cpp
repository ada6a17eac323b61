#include "harness/fuzz/shard.h"

#include <fmt/format.h>

#include <charconv>

#include "harness/case.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

int number(std::string_view text) {  // -1 for what is none
  int n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  return error != std::errc() || end != text.data() + text.size() ? -1 : n;
}

// The variables that each starter sets. `first`: what the first index is, where it need not be 0.
struct Starter {
  const char *index, *count, *first;
};
constexpr Starter kStarters[] = {
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", nullptr},
    {"PMI_RANK", "PMI_SIZE", nullptr},
    {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"},
    {"SLURM_PROCID", "SLURM_NTASKS", nullptr},
    {"JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", nullptr},
};

}  // namespace

Shard parse_shard(std::string_view text) {
  const std::size_t slash = text.find('/');
  const int index = number(text.substr(0, slash));
  const int count = slash == std::string_view::npos ? -1 : number(text.substr(slash + 1));
  if (index < 0 || index >= count)
    throw UsageError(
        fmt::format("--shard {}: write I/N, I from 0 to N-1: 0/4, 1/4, 2/4, 3/4", printable(text)));
  return {index, count, "--shard"};
}

Shard shard_of_environment(const std::function<const char*(const char*)>& variable) {
  for (const Starter& s : kStarters) {
    const char* index_text = variable(s.index);
    if (index_text == nullptr) continue;
    const char* count_text = variable(s.count);
    const char* first_text = s.first == nullptr ? nullptr : variable(s.first);
    const int first = first_text == nullptr ? 0 : number(first_text);
    const int index = number(index_text) - first, count = count_text == nullptr ? -1 : number(count_text);
    if (first < 0 || index < 0 || index >= count)
      throw UsageError(fmt::format(
          "{}={} says that this is one of many, and {} is {}: give --shard I/N, or --shard 0/1 for one alone",
          s.index, printable(index_text), s.count,
          count_text == nullptr ? "not set" : printable(count_text)));
    return {index, count, s.index};
  }
  return {};
}

std::string path_of_shard(const std::string& path, const Shard& shard) {
  if (shard.count == 1 || path.empty()) return path;
  const std::size_t slash = path.rfind('/');
  std::size_t dot = path.rfind('.');
  if (dot == std::string::npos || (slash != std::string::npos && dot < slash) || dot == slash + 1)
    dot = path.size();
  return fmt::format("{}.{}-of-{}{}", path.substr(0, dot), shard.index, shard.count, path.substr(dot));
}

}  // namespace moecheck::harness
