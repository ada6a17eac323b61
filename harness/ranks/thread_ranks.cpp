#include "harness/ranks/thread_ranks.h"

#include <fmt/format.h>

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

namespace moecheck::harness::ranks {
namespace {

// Where the threads meet. What they post is read between two meetings, which order the accesses.
class MeetingPlace {
 public:
  MeetingPlace(int size, std::chrono::milliseconds patience)
      : at_(static_cast<std::size_t>(size)), ended_(static_cast<std::size_t>(size)), patience_(patience) {}

  // Returns when all ranks have come to `place`. Throws when one cannot come any more, or is elsewhere.
  void come(int rank, const std::string& place) { meet(rank, place, true); }
  // The same where all are on their way for certain. Without a limit: who gave up would take what he posted from under the others.
  void leave(int rank, const std::string& place) { meet(rank, place, false); }

  void failed(int rank, const std::string& why) {
    const std::lock_guard lock(mutex_);
    if (failure_.empty()) first_ = rank;
    fail(fmt::format("rank {} failed: {}", rank, why));
  }
  void ended(int rank) {
    const std::lock_guard lock(mutex_);
    ended_[static_cast<std::size_t>(rank)] = true;
    for (std::size_t r = 0; r < at_.size(); ++r)
      if (!at_[r].empty())
        fail(fmt::format("rank {} has ended, and rank {} waits for it at {}", rank, r, at_[r]));
  }
  int first() const { return first_; }

 private:
  void meet(int rank, const std::string& place, bool limited) {
    std::unique_lock lock(mutex_);
    check();
    for (std::size_t r = 0; r < ended_.size(); ++r)
      if (ended_[r]) fail(fmt::format("rank {} has ended, and rank {} waits for it at {}", r, rank, place));
    check();
    at_[static_cast<std::size_t>(rank)] = place;
    if (++arrived_ == at_.size()) {
      compare();
      check();
      arrived_ = 0;
      ++meetings_;
      at_.assign(at_.size(), "");
      changed_.notify_all();
      return;
    }
    const std::size_t now = meetings_;
    const auto done = [&] { return meetings_ != now || !failure_.empty(); };
    if (!limited)
      changed_.wait(lock, done);
    else if (!changed_.wait_for(lock, patience_, done))
      fail(nobody_came(rank, place));
    if (meetings_ == now) check();
  }
  void check() const {
    if (!failure_.empty()) throw CommunicatorError(failure_);
  }
  void fail(const std::string& why) {
    if (failure_.empty()) failure_ = why;
    changed_.notify_all();
  }
  void compare() {
    for (std::size_t r = 1; r < at_.size(); ++r)
      if (at_[r] != at_[0])
        fail(fmt::format(
            "the ranks do not do the same: rank 0 is at {}, rank {} at {}; every rank must issue the "
            "same transfers in the same order",
            at_[0], r, at_[r]));
  }
  std::string nobody_came(int rank, const std::string& place) const {
    std::string missing;
    for (std::size_t r = 0; r < at_.size(); ++r)
      if (at_[r].empty()) missing += fmt::format("{}rank {}", missing.empty() ? "" : ", ", r);
    return fmt::format("rank {} waited {} ms at {} for {}", rank, patience_.count(), place, missing);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> at_;  // where each rank waits, or ""
  std::vector<char> ended_;
  std::chrono::milliseconds patience_;
  std::size_t arrived_ = 0, meetings_ = 0;
  std::string failure_;
  int first_ = -1;
};

class ThreadCommunicator;
struct World {
  MeetingPlace place;
  std::vector<ThreadCommunicator*> ranks;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(int rank, int size, int buffers, World& world)
      : Communicator(rank, size, buffers), world_(world) {}
  std::string_view kind() const override { return "threads"; }

 protected:
  Buffer allocate(std::size_t bytes) override {
    Buffer b = host_buffer(bytes);
    std::memset(b.get(), 0xFF, bytes);  // NaN, and -1: what is read before the wait is seen
    return b;
  }
  std::vector<Header> exchange(const std::vector<Header>& mine) override {
    headers_ = &mine;
    world_.place.come(rank(), mine.front().name);
    std::vector<Header> theirs;
    for (const ThreadCommunicator* peer : world_.ranks)
      theirs.push_back((*peer->headers_)[static_cast<std::size_t>(rank())]);
    world_.place.leave(rank(), mine.front().name);
    return theirs;
  }
  void start(Transfer&) override {}
  void finish(Transfer& t) override {
    const std::string place = t.out.name + ", waiting";
    finishing_ = &t;
    world_.place.come(rank(), place);
    std::size_t row = 0;
    for (const ThreadCommunicator* peer : world_.ranks) {
      const Outgoing& out = peer->finishing_->out;
      std::size_t first = 0;
      for (std::size_t p = 0; p < static_cast<std::size_t>(rank()); ++p)
        first += static_cast<std::size_t>(out.counts[p]);
      const auto rows = static_cast<std::size_t>(out.counts[static_cast<std::size_t>(rank())]);
      for (std::size_t c = 0; c < out.columns.size(); ++c) {
        const std::size_t bytes = out.columns[c].row_bytes;
        if (rows * bytes != 0)
          std::memcpy(t.in.columns[c].rows.get() + row * bytes, out.columns[c].rows.get() + first * bytes,
                      rows * bytes);
      }
      row += rows;
    }
    world_.place.leave(rank(), place);
  }

 private:
  World& world_;
  const std::vector<Header>* headers_ = nullptr;
  const Transfer* finishing_ = nullptr;
};

}  // namespace

RankErrors run_thread_ranks(int size, const std::function<void(Communicator&)>& body, ThreadOptions options) {
  World world{{size, options.patience}, {}};
  std::vector<std::unique_ptr<ThreadCommunicator>> communicators;
  for (int r = 0; r < size; ++r) {
    communicators.push_back(std::make_unique<ThreadCommunicator>(r, size, options.buffers, world));
    world.ranks.push_back(communicators.back().get());
  }
  RankErrors errors{std::vector<std::string>(static_cast<std::size_t>(size)), -1};
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r)
    threads.emplace_back([&, r] {
      const auto failed = [&](const std::string& why) {
        errors.messages[static_cast<std::size_t>(r)] = why;
        world.place.failed(r, why);
      };
      try {
        body(*communicators[static_cast<std::size_t>(r)]);
        world.place.ended(r);
      } catch (const std::exception& e) {
        failed(e.what());
      } catch (...) {
        failed("an exception of unknown type");
      }
    });
  for (std::thread& t : threads) t.join();
  errors.first = world.place.first();
  for (std::size_t r = 0; errors.first < 0 && r < errors.messages.size(); ++r)
    if (!errors.messages[r].empty()) errors.first = static_cast<int>(r);
  return errors;
}

}  // namespace moecheck::harness::ranks
