// What is wrong, in words.
#include <cstring>
#include <string_view>

#include "optimized/gpu/host/engine.h"

namespace moecheck::gpu::host {

std::string text(Dim3 d) {
  return std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z);
}

// The file's name alone: directories differ from build to build.
std::string text(Site site) {
  if (site.file == nullptr) return "?";
  const char* slash = std::strrchr(site.file, '/');
  return std::string(slash != nullptr ? slash + 1 : site.file) + ":" + std::to_string(site.line);
}

std::string_view name(WaveOp op) {
  switch (op) {
    case WaveOp::kShfl:
      return "shfl";
    case WaveOp::kShflUp:
      return "shfl_up";
    case WaveOp::kShflDown:
      return "shfl_down";
    case WaveOp::kShflXor:
      return "shfl_xor";
    case WaveOp::kBallot:
      return "ballot";
    case WaveOp::kReduceMax:
      return "wave_max";
    case WaveOp::kReduceMin:
      return "wave_min";
    case WaveOp::kBarrier:
      return "wave_barrier";
    case WaveOp::kTileBF16:
      return "tile_bf16";
    case WaveOp::kTileFP8:
      return "tile_fp8";
  }
  return "?";
}

std::string text(Order order, std::uint64_t seed) {
  if (order == Order::kSeeded) return "seed" + std::to_string(seed);
  return order == Order::kForward ? "forward" : "reverse";
}

std::string Engine::in_block(const Block& block) const {
  return " [block " + text(block.index) + ", wave width " + std::to_string(options.wave) + "]";
}

namespace {
std::string where(const Thread& t) {
  switch (t.state) {
    case State::kReady:
      return "can go on";
    case State::kAtBarrier:
      return "block_barrier at " + text(t.site);
    case State::kInWaveOp:
      return std::string(name(t.op->op)) + " at " + text(t.site);
    case State::kPaused:
      return "spinning at " + text(t.site);
    case State::kFinished:
      return "finished";
  }
  return "?";
}
}  // namespace

std::string Engine::thread_ranges(const Block& block) const {
  std::string all;
  for (std::uint32_t first = 0; first < block.count;) {
    const std::string here = where(threads_[block.first + first]);
    std::uint32_t last = first;
    while (last + 1 < block.count && where(threads_[block.first + last + 1]) == here) ++last;
    all += "\n    thread" +
           (first == last ? " " + std::to_string(first)
                          : "s " + std::to_string(first) + ".." + std::to_string(last)) +
           ": " + here;
    first = last + 1;
  }
  return all;
}

// Nobody can go on. The first block that is not done stands for all.
std::string Engine::stuck() const {
  const Block* first = nullptr;
  std::uint64_t others = 0;
  for (const auto& b : blocks_) {
    if (b->count == 0 || b->live == 0) continue;
    if (first == nullptr)
      first = b.get();
    else
      ++others;
  }
  if (first == nullptr) return "deadlock";
  std::string what = paused_ > 0
                         ? "livelock: every thread that still runs spins, and nobody makes progress"
                         : "deadlock: a wave operation or barrier is not reached by every thread it names";
  what += in_block(*first) + thread_ranges(*first);
  if (others > 0) what += "\n    and " + std::to_string(others) + " more blocks";
  if (paused_ > 0 && !launch_.all_resident && launch_.grid.count() > 1)
    what +=
        "\n    blocks run one after the other: if it waits for another block, launch with all blocks "
        "resident";
  return what;
}

}  // namespace moecheck::gpu::host
