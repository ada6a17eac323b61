#include "harness/streams/overlap.h"

#include <algorithm>

namespace moecheck::harness::streams {
namespace {

using reference::StreamProgram;

double median(std::vector<double> all) {
  if (all.empty()) return 0;
  const auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
  std::nth_element(all.begin(), middle, all.end());
  return *middle;
}

void require(const Outcome& o) {
  if (!o.error.empty()) throw gpu::DeviceError(o.error);
}

// Kernels that meet in the places of two operations; probes elsewhere.
class Meeting final : public OperationBody {
 public:
  Meeting(gpu::Runtime& runtime, std::pair<int, int> pair, int patience)
      : runtime_(runtime), memory_(runtime, sizeof words_), pair_(pair), patience_(patience) {
    runtime.copy_in(memory_.data(), words_, sizeof words_);
  }
  void launch(const BoundOperation& op, const StreamKernels& kernels, gpu::Runtime& runtime) override {
    auto* const words = static_cast<std::uint32_t*>(memory_.data());
    const int mine = op.step == pair_.first ? 0 : op.step == pair_.second ? 1 : -1;
    if (mine < 0) return probe().launch(op, kernels, runtime);
    kernels.meet(words + mine, words + (1 - mine), words + 2 + mine, patience_, op.stream);
  }
  // After the run.
  bool met() {
    runtime_.copy_out(words_, memory_.data(), sizeof words_);
    return words_[2] == 1 && words_[3] == 1;
  }

 private:
  gpu::Runtime& runtime_;
  std::uint32_t words_[4] = {};
  gpu::Memory memory_;
  std::pair<int, int> pair_;
  int patience_;
};

}  // namespace

std::vector<PairOverlap> measure_overlap(const StreamProgram& program, StreamDevice& device,
                                         OperationBody& body, const OverlapOptions& options) {
  std::vector<PairOverlap> all;
  for (const auto& [a, b] : program.overlaps) {
    PairOverlap pair{a, b, false, 0, 0, 0};
    {
      // Once without looking: a kernel that is loaded at its first launch may wait for the device.
      Meeting warm(device.runtime(), {a, b}, 1);
      require(execute(program, device, warm));
      Meeting meeting(device.runtime(), {a, b}, options.patience);
      require(execute(program, device, meeting));
      pair.met = meeting.met();
    }
    std::vector<double> first, second, both;
    for (int i = 0; i < options.repeats; ++i) {
      const Outcome o = execute(program, device, body, {.time = true, .repeat = 3});
      require(o);
      const auto x = static_cast<std::size_t>(a), y = static_cast<std::size_t>(b);
      first.push_back(1e3 * (o.end[x] - o.begin[x]));
      second.push_back(1e3 * (o.end[y] - o.begin[y]));
      both.push_back(1e3 * std::max(0.0, std::min(o.end[x], o.end[y]) - std::max(o.begin[x], o.begin[y])));
    }
    pair.first_us = median(first);
    pair.second_us = median(second);
    pair.both_us = median(both);
    all.push_back(pair);
  }
  return all;
}

double time_program(const StreamProgram& program, StreamDevice& device, OperationBody& body, int repeats) {
  constexpr int kInARow = 20;
  std::vector<double> all;
  for (int i = 0; i < repeats; ++i) {
    const Outcome few = execute(program, device, body, {.time = true, .repeat = 2}),
                  many = execute(program, device, body, {.time = true, .repeat = 2 + kInARow});
    require(few);
    require(many);
    all.push_back(1e3 * (many.milliseconds - few.milliseconds) / kInARow);
  }
  return median(all);
}

}  // namespace moecheck::harness::streams
