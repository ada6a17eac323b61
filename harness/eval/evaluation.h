#pragma once
// Asking the questions of a task, all of them, of one or two servers: concurrent, retried, journaled, graded as they come.
//
// With two arms both get the same questions in the same order, interleaved in time: neither may lead the other by more than
// the concurrency. The order is a fixed shuffle by seed, so that the score so far estimates the score of the whole.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "harness/eval/journal.h"
#include "harness/http/openai.h"
#include "harness/http/retry.h"
#include "harness/tasks/sample.h"
#include "harness/tasks/task.h"

namespace moecheck::harness::eval {

struct Settings {
  bool stream = false;   // lm_eval does not; a stream tells the time to the first token
  int concurrency = 32;  // requests in flight per arm; one that waits for its retry counts as in flight
  http::RetryPolicy retry;
  http::Limits limits;  // of each attempt
  int max_gen_toks = 256;
  std::int64_t request_seed = 1234;  // sent with every request, as lm_eval does
  std::string extra_body;            // a JSON object merged over each request
  std::uint64_t seed = 1234;         // of the order and of the jitter of retries
};

struct Target {
  http::Endpoint endpoint;
  std::string model;
};

enum class State : std::uint8_t { kWaiting, kRunning, kAnswered, kFailed };

// One server's side of the evaluation; read it in ticks.
struct Arm {
  Target target;
  std::unique_ptr<Journal> journal;  // may be null: nothing is kept
  std::vector<Sample> samples;       // by place in the prompt set; answered or failed ones are filled in
  std::vector<State> states;

  std::int64_t answered = 0, failed = 0;  // on disk, where there is a journal
  std::int64_t resumed = 0;               // of the answered ones, those that the journal brought
  std::int64_t right = 0;                 // by the task's first filter
  std::int64_t retries = 0;
  std::map<std::string, std::int64_t> errors;  // of all attempts, by name(ErrorKind)

  // Of the run's own making.
  std::size_t next = 0;  // place in the order
  int running = 0;
  std::int64_t failed_in_a_row = 0, answered_now = 0;
  std::string last_error;
  std::vector<http::Client::Id> ids;  // of the request or the timer that is running for a question
};

enum class End : std::uint8_t {
  kComplete,   // every question was answered or has failed for good
  kStopped,    // the tick said so
  kNoAnswers,  // an arm did nothing but fail, too often in a row or to the end: Arm::last_error
};

class Evaluation {
 public:
  // The prompts and data must outlive this.
  Evaluation(const PromptSet& prompts, const Dataset& data, Settings settings, std::vector<Target> targets);
  ~Evaluation();

  // What stands in a journal's header for that arm.
  RunSettings run_settings(std::size_t arm) const;
  // Takes over what the journal holds; failed questions will be asked again. Throws UsageError when a sample in it is not
  // of these prompts.
  void attach(std::size_t arm, std::unique_ptr<Journal> journal);

  // Called about four times a second and at the end, when all that the arms count is on disk. False: end now, and leave
  // what is running unasked. The client is there for whoever adds load of his own.
  using Tick = std::function<bool()>;
  End run(http::Client& client, const Tick& tick);

  const std::vector<Arm>& arms() const { return arms_; }
  std::size_t questions() const { return prompts_.prompts.size(); }
  const std::string& filter() const { return prompts_.task->filters.front().name; }  // whose score is shown
  const std::vector<std::size_t>& order() const { return order_; }  // places in the prompt set
  // How many questions, from the start of the order, every arm has answered or failed: pairs complete without choice.
  std::size_t complete_prefix() const;
  // The arm as a run to write: what was answered or has failed, in document order. With a `prefix` only the questions that
  // come first in the order: equal ones in both arms of a run that was stopped.
  Run run_of_arm(std::size_t arm, std::size_t prefix = SIZE_MAX) const;
  const Settings& settings() const { return settings_; }

 private:
  void pump(http::Client& client);
  bool may_start(const Arm& arm) const;
  void ask(http::Client& client, Arm& arm, std::size_t question, int attempt);
  void take(http::Client& client, Arm& arm, std::size_t question, int attempt, http::Generation&& got,
            http::Nanoseconds first_text);
  bool retry(http::Client& client, Arm& arm, std::size_t question, int attempt, const http::Error& error);
  void record(Arm& arm, std::size_t question);
  void sync();
  std::string body_of(const Arm& arm, std::size_t question) const;
  bool settled(const Arm& arm) const;

  const PromptSet& prompts_;
  const Dataset& data_;
  Settings settings_;
  std::vector<Arm> arms_;
  std::vector<std::size_t> order_;
  bool stopping_ = false, hopeless_ = false;
  double started_unix_ = 0, seconds_ = 0;
};

// The requests' API of a prompt set.
http::Api request_api(Api api);

}  // namespace moecheck::harness::eval
