#pragma once
// Other requests beside the graded ones, so that answers are produced in large, changing batches: bugs that depend on the
// batch size show only there. The prompts are those of the task, each with words of its own in front: none is served from
// a prefix cache, and they are not graded.
#include <cstdint>
#include <string>

#include "harness/eval/evaluation.h"

namespace moecheck::harness::eval {

class Background {
 public:
  Background(const PromptSet& prompts, Settings settings, Target target, int concurrency);
  ~Background();

  void start(http::Client& client);
  void stop(http::Client& client);  // ends what is running
  // Runs the client until every request of the load has begun to answer, or the time is over; true: all have.
  bool warm_up(http::Client& client, double longest_s);

  struct Counts {
    std::int64_t finished = 0, failed = 0, tokens = 0;  // tokens: as the server counts them, else chunks
    double seconds = 0;
    std::string last_error;
  };
  Counts counts() const;

 private:
  struct Slot;
  void send(http::Client& client, Slot& slot);

  const PromptSet& prompts_;
  Settings settings_;
  Target target_;
  std::vector<Slot> slots_;
  Counts counts_;
  std::uint64_t sent_ = 0;
  http::Nanoseconds began_ = 0, ended_ = 0;
  bool stopping_ = false;
};

}  // namespace moecheck::harness::eval
