#include "harness/ranks/gpu_processes.h"

#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "harness/case.h"
#include "harness/ranks/nccl_ranks.h"
#include "optimized/gpu/runtime.h"

namespace moecheck::harness::ranks {
namespace {

constexpr const char* kRank = "MOECHECK_NCCL_RANK";  // "1/4": rank 1 of 4
constexpr const char* kId = "MOECHECK_NCCL_ID";      // of all ranks, and of rank 0 alone

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator)
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

// The GPU of each rank, in the driver's words.
std::vector<std::string> devices(int ranks) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  std::vector<std::string> list;
  if (visible != nullptr) list = split(visible, ',');
  for (int r = 0; visible == nullptr && r < ranks; ++r) list.push_back(std::to_string(r));
  if (list.size() < static_cast<std::size_t>(ranks) || list.front().empty())
    throw UsageError(fmt::format("--ranks {} with CUDA_VISIBLE_DEVICES={}: every rank needs a GPU of its own",
                                 ranks, visible == nullptr ? "" : visible));
  list.resize(static_cast<std::size_t>(ranks));
  return list;
}

std::vector<std::string> own_arguments() {
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  const std::string all((std::istreambuf_iterator<char>(in)), {});
  std::vector<std::string> arguments = split(all, '\0');
  arguments.pop_back();  // behind the last zero
  return arguments;
}

pid_t start_rank(const std::vector<std::string>& arguments,
                 const std::vector<std::string>& more_environment) {
  std::vector<char*> argv, environment;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  for (char** e = environ; *e != nullptr; ++e) {
    bool replaced = false;
    for (const std::string& m : more_environment)
      replaced = replaced || std::strncmp(*e, m.c_str(), m.find('=') + 1) == 0;
    if (!replaced) environment.push_back(*e);
  }
  for (const std::string& m : more_environment) environment.push_back(const_cast<char*>(m.c_str()));
  environment.push_back(nullptr);
  pid_t child = 0;
  const int error = posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, argv.data(), environment.data());
  if (error != 0) throw CommunicatorError(fmt::format("a rank cannot be started: {}", std::strerror(error)));
  return child;
}

// The exit code of all: of the first that fails, which ends the others, since they would wait for it.
int wait_for_all(std::vector<pid_t> children) {
  int result = 0;
  while (!children.empty()) {
    int status = 0;
    const pid_t ended = waitpid(-1, &status, 0);
    if (ended < 0 && errno == EINTR) continue;
    if (ended < 0) return 1;
    if (std::erase(children, ended) == 0) continue;
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    if (code == 0 || result != 0) continue;
    result = code;
    for (const pid_t child : children) kill(child, SIGTERM);
  }
  return result;
}

}  // namespace

int start_gpu_ranks(int ranks) {
  if (!has_device_kernels()) (void)make_device_compute();  // throws
  const std::vector<std::string> gpus = devices(ranks), arguments = own_arguments();
  const std::string id = make_nccl_id(), alone = make_nccl_id();
  std::vector<pid_t> children;
  try {
    for (int r = 0; r < ranks; ++r)
      children.push_back(start_rank(
          arguments, {fmt::format("{}={}/{}", kRank, r, ranks), fmt::format("{}={},{}", kId, id, alone),
                      "CUDA_VISIBLE_DEVICES=" + gpus[static_cast<std::size_t>(r)]}));
  } catch (...) {
    for (const pid_t child : children) kill(child, SIGTERM);  // they would wait for the missing one
    (void)wait_for_all(std::move(children));
    throw;
  }
  return wait_for_all(std::move(children));
}

std::optional<GpuRank> this_gpu_rank() {
  const char *rank = std::getenv(kRank), *id = std::getenv(kId);
  if (rank == nullptr || id == nullptr) return std::nullopt;
  const std::vector<std::string> parts = split(rank, '/');
  GpuRank me;
  if (parts.size() == 2) me = {std::atoi(parts[0].c_str()), std::atoi(parts[1].c_str()), id};
  if (parts.size() != 2 || me.rank < 0 || me.rank >= me.ranks)
    throw UsageError(fmt::format("{}={}: give RANK/RANKS, 0/2 for the first of two", kRank, rank));
  return me;
}

GpuRankParts join_gpu_ranks(const GpuRank& me, int buffers) {
  const std::vector<std::string> ids = split(me.id, ',');
  if (ids.size() != 2) throw UsageError(fmt::format("{} holds {} ids instead of 2", kId, ids.size()));
  GpuRankParts parts;
  try {
    parts.device = make_device_compute();
  } catch (const gpu::DeviceError& e) {
    throw UsageError(fmt::format("--communicator nccl: {}", e.what()));
  }
  parts.description = fmt::format("NCCL {}, {}", nccl_version(), parts.device.runtime->device());
  parts.communicator = make_nccl_communicator(ids[0], me.rank, me.ranks, parts.device, buffers);
  if (me.rank == 0) parts.alone = make_nccl_communicator(ids[1], 0, 1, parts.device, buffers);
  return parts;
}

}  // namespace moecheck::harness::ranks
