// Communicators: who gets which rows, and that a rank which fails, leaves or does something else is named to all others, none of
// which waits for it.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>

#include "harness/ranks/batch_state.h"
#include "harness/ranks/thread_ranks.h"

namespace moecheck::harness::ranks {
namespace {

using Ints = std::vector<std::int32_t>;

Buffer buffer_of(const Ints& values) {
  Buffer b = host_buffer(values.size() * 4);
  if (!values.empty()) std::memcpy(b.get(), values.data(), values.size() * 4);
  return b;
}

Ints ints_of(const Incoming& in, std::size_t column) {
  Ints values(static_cast<std::size_t>(in.rows()));
  if (!values.empty()) std::memcpy(values.data(), in.columns[column].rows.get(), values.size() * 4);
  return values;
}

// One row for each peer.
Outgoing one_each(Communicator& c, const std::string& name) {
  return {name,
          std::vector<std::int64_t>(static_cast<std::size_t>(c.size()), 1),
          {{4, buffer_of(Ints(static_cast<std::size_t>(c.size()), c.rank()))}}};
}

void expect_all(const RankErrors& errors, std::initializer_list<const char*> words) {
  for (std::size_t r = 0; r < errors.messages.size(); ++r)
    for (const char* word : words)
      EXPECT_NE(errors.messages[r].find(word), std::string::npos)
          << "rank " << r << " lacks '" << word << "': " << errors.messages[r];
}

ThreadOptions impatient() { return {.patience = std::chrono::milliseconds(50)}; }

// Rank r sends n(r, p) rows to rank p; row i is a number that names all three.
RC_GTEST_PROP(Communicator, EveryRowArrivesOnceAndInOrder, ()) {
  const int size = *rc::gen::inRange(1, 6), transfers = *rc::gen::inRange(1, 4);
  const auto counts =
      *rc::gen::container<std::vector<int>>(static_cast<std::size_t>(size * size), rc::gen::inRange(0, 4));
  const auto rows = [&](int from, int to) { return counts[static_cast<std::size_t>(from * size + to)]; };
  const auto number = [](int t, int from, int to, int i) { return ((t * 10 + from) * 10 + to) * 10 + i; };
  const RankErrors errors = run_thread_ranks(size, [&](Communicator& c) {
    for (int t = 0; t < transfers; ++t) {
      Outgoing out{"transfer", {}, {}};
      Ints sent, negated, expected;
      for (int p = 0; p < size; ++p) {
        out.counts.push_back(rows(c.rank(), p));
        for (int i = 0; i < rows(c.rank(), p); ++i) sent.push_back(number(t, c.rank(), p, i));
        for (int i = 0; i < rows(p, c.rank()); ++i) expected.push_back(number(t, p, c.rank(), i));
      }
      for (const std::int32_t s : sent) negated.push_back(-s);
      out.columns = {{4, buffer_of(sent)}, {4, buffer_of(negated)}};
      c.issue(out);
      const Incoming in = c.wait("transfer");
      if (ints_of(in, 0) != expected) throw std::runtime_error("other rows");
      for (std::int32_t& e : expected) e = -e;
      if (ints_of(in, 1) != expected) throw std::runtime_error("other rows in the second column");
    }
  });
  RC_ASSERT(errors.first == -1);
}

TEST(Communicator, CountsWhatIsUnderWay) {
  const RankErrors errors = run_thread_ranks(2, [](Communicator& c) {
    c.start_count();
    c.issue(one_each(c, "A"));
    c.issue(one_each(c, "B"));
    if (c.outstanding() != 2) throw std::runtime_error("not 2 under way");
    (void)c.wait("B");  // not the oldest
    (void)c.wait("A");
    if (c.outstanding() != 0 || c.most_outstanding() != 2) throw std::runtime_error("not 0 and 2");
    c.start_count();
    c.issue(one_each(c, "A"));
    (void)c.wait("A");
    if (c.most_outstanding() != 1) throw std::runtime_error("not 1");
    c.barrier();
  });
  EXPECT_EQ(errors.first, -1) << errors.messages[0];
}

TEST(Communicator, ThirdTransferIsAnErrorInsteadOfAHang) {
  const RankErrors errors = run_thread_ranks(2, [](Communicator& c) {
    for (const char* name : {"A", "B", "C"}) c.issue(one_each(c, name));
  });
  expect_all(errors, {"issues C while A, B are under way", "at most 2", "wait for one first"});
}

TEST(Communicator, RowsLeaveAtTheLastMoment) {
  const RankErrors errors = run_thread_ranks(2, [](Communicator& c) {
    const Outgoing out = one_each(c, "A");
    c.issue(out);
    std::memset(out.columns[0].rows.get(), 0x11, 8);  // too early
    if (ints_of(c.wait("A"), 0) != Ints{0x11111111, 0x11111111}) throw std::runtime_error("sent at issue");
  });
  EXPECT_EQ(errors.first, -1) << errors.messages[0];
}

TEST(Communicator, OtherOperationsAreNamedOnAllRanks) {
  const RankErrors names = run_thread_ranks(
      3, [](Communicator& c) { c.issue(one_each(c, c.rank() == 0 ? "A0.dispatch" : "A0.combine")); });
  expect_all(names, {"rank 0 is at A0.dispatch", "rank 1 at A0.combine"});
  const RankErrors kinds = run_thread_ranks(2, [](Communicator& c) {
    c.issue(one_each(c, "A"));
    if (c.rank() == 0)
      (void)c.wait("A");
    else
      c.issue(one_each(c, "B"));
  });
  expect_all(kinds, {"rank 0 is at A, waiting", "rank 1 at B"});
  const RankErrors sizes = run_thread_ranks(2, [](Communicator& c) {
    Outgoing out = one_each(c, "A");
    out.columns[0].row_bytes = c.rank() == 0 ? 4 : 2;
    c.issue(out);
  });
  expect_all(sizes, {"A: rank", "rows of"});
}

TEST(Communicator, FailedRankIsNamedToTheOthers) {
  const RankErrors errors = run_thread_ranks(3, [](Communicator& c) {
    if (c.rank() == 1) throw std::runtime_error("out of patience");
    c.issue(one_each(c, "A0.dispatch"));
  });
  EXPECT_EQ(errors.first, 1);
  EXPECT_EQ(errors.messages[1], "out of patience");
  for (const int r : {0, 2})
    EXPECT_EQ(errors.messages[static_cast<std::size_t>(r)], "rank 1 failed: out of patience");
}

TEST(Communicator, RankThatHasEndedIsNamed) {
  const RankErrors errors = run_thread_ranks(3, [](Communicator& c) {
    c.issue(one_each(c, "A0.dispatch"));
    (void)c.wait("A0.dispatch");
    if (c.rank() == 2) return;
    c.issue(one_each(c, "A0.combine"));
  });
  EXPECT_EQ(errors.messages[2], "");
  for (const std::size_t r : {0u, 1u})
    EXPECT_NE(errors.messages[r].find("rank 2 has ended"), std::string::npos) << errors.messages[r];
}

TEST(Communicator, RankThatNeverComesIsNamed) {
  const RankErrors errors = run_thread_ranks(
      2,
      [](Communicator& c) {
        if (c.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(300));
        c.barrier();
      },
      impatient());
  expect_all(errors, {"rank 0 waited 50 ms at barrier for rank 1"});
}

TEST(Communicator, RefusesWhatIsNoTransfer) {
  const auto message = [](const std::function<void(Communicator&)>& body) {
    return run_thread_ranks(1, body).messages[0];
  };
  EXPECT_NE(message([](Communicator& c) { (void)c.wait("A"); }).find("which it has not issued"),
            std::string::npos);
  EXPECT_NE(message([](Communicator& c) {
              c.issue({"A", {1, 2}, {}});
            }).find("2 counts for 1 ranks"),
            std::string::npos);
  EXPECT_NE(message([](Communicator& c) {
              c.issue({"A", {-1}, {}});
            }).find("sends -1 rows"),
            std::string::npos);
  EXPECT_NE(message([](Communicator& c) { c.barrier(std::string(48, 'x')); }).find("up to 47 bytes"),
            std::string::npos);
}

// ---- what the operations of a batch hand to each other

std::string state_error(const std::function<void(BatchState&)>& use) {
  BatchState state("A");
  state.begin("A0.prep");
  state.put("residual", 1);
  state.begin("A0.post");
  try {
    use(state);
  } catch (const StateError& e) {
    return e.what();
  }
  return "";
}

TEST(BatchState, HoldsWhatIsPutUntilItIsTaken) {
  EXPECT_EQ(state_error([](BatchState& s) {
              EXPECT_EQ(s.at<int>("residual"), 1);
              s.require_only({"residual", "topk"});
              EXPECT_EQ(s.take<int>("residual"), 1);
              EXPECT_FALSE(s.has("residual"));
              s.put("residual", 2);
              EXPECT_EQ(s.at<int>("residual"), 2);
            }),
            "");
}

TEST(BatchState, NamesKeyAndOperations) {
  EXPECT_EQ(state_error([](BatchState& s) { s.put("residual", 2); }),
            "batch A: A0.post sets residual, which A0.prep has set and nothing has taken");
  EXPECT_EQ(state_error([](BatchState& s) { (void)s.at<int>("topk"); }),
            "batch A: A0.post reads topk, which is not set");
  EXPECT_EQ(state_error([](BatchState& s) { s.require_only({"topk"}); }),
            "batch A: A0.post ends the layer, but residual of A0.prep is left");
}

}  // namespace
}  // namespace moecheck::harness::ranks
