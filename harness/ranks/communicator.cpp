#include "harness/ranks/communicator.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <numeric>

namespace moecheck::harness::ranks {

Buffer host_buffer(std::size_t bytes) {
  constexpr std::align_val_t kAlignment{64};
  return Buffer(static_cast<std::byte*>(::operator new(std::max<std::size_t>(bytes, 1), kAlignment)),
                [](std::byte* p) { ::operator delete(p, kAlignment); });
}

std::int64_t Incoming::rows() const { return std::accumulate(counts.begin(), counts.end(), std::int64_t{0}); }

Communicator::Communicator(int rank, int size, int buffers) : rank_(rank), size_(size), buffers_(buffers) {}

// Tells all peers, and compares what they tell.
std::vector<Communicator::Header> Communicator::agree(std::string_view name, const Outgoing& outgoing) {
  Header header;
  if (name.size() >= sizeof header.name || outgoing.columns.size() > std::size(header.row_bytes))
    throw CommunicatorError(
        fmt::format("{}: a transfer's name has up to {} bytes, and its rows up to {} columns", name,
                    sizeof header.name - 1, std::size(header.row_bytes)));
  name.copy(header.name, name.size());
  for (std::size_t c = 0; c < outgoing.columns.size(); ++c)
    header.row_bytes[c] = outgoing.columns[c].row_bytes;
  std::vector<Header> mine(static_cast<std::size_t>(size_), header);
  for (std::size_t p = 0; p < outgoing.counts.size(); ++p) mine[p].rows = outgoing.counts[p];
  std::vector<Header> theirs = exchange(mine);
  for (std::size_t p = 0; p < theirs.size(); ++p) {
    Header& h = theirs[p];
    h.name[sizeof h.name - 1] = 0;
    if (std::strcmp(h.name, header.name) != 0)
      throw CommunicatorError(fmt::format(
          "the ranks do not do the same: rank {} is at {}, rank {} at {}; every rank must issue the "
          "same transfers in the same order",
          rank_, header.name, p, h.name));
    if (!std::equal(std::begin(h.row_bytes), std::end(h.row_bytes), std::begin(header.row_bytes)) ||
        h.rows < 0)
      throw CommunicatorError(fmt::format("{}: rank {} sends {} rows of {} bytes, rank {} rows of {} bytes",
                                          header.name, p, h.rows, fmt::join(h.row_bytes, "+"), rank_,
                                          fmt::join(header.row_bytes, "+")));
  }
  return theirs;
}

void Communicator::issue(Outgoing outgoing) {
  if (outgoing.counts.size() != static_cast<std::size_t>(size_))
    throw CommunicatorError(
        fmt::format("{}: {} counts for {} ranks", outgoing.name, outgoing.counts.size(), size_));
  if (outstanding() >= buffers_) {
    std::string others;
    for (const auto& t : under_way_) others += fmt::format("{}{}", others.empty() ? "" : ", ", t->out.name);
    throw CommunicatorError(fmt::format(
        "rank {} issues {} while {} {} under way, of at most {} at once: upstream one more than there are "
        "buffers for hangs; wait for one first",
        rank_, outgoing.name, others, under_way_.size() == 1 ? "is" : "are", buffers_));
  }
  const std::vector<Header> theirs = agree(outgoing.name, outgoing);
  auto transfer = std::make_unique<Transfer>();
  for (const Header& h : theirs) transfer->in.counts.push_back(h.rows);
  const auto rows = static_cast<std::size_t>(transfer->in.rows());
  for (const Column& c : outgoing.columns)
    transfer->in.columns.push_back({c.row_bytes, allocate(rows * c.row_bytes)});
  transfer->out = std::move(outgoing);
  start(*transfer);
  under_way_.push_back(std::move(transfer));
  most_ = std::max(most_, outstanding());
}

Incoming Communicator::wait(std::string_view name) {
  const auto found =
      std::find_if(under_way_.begin(), under_way_.end(), [&](const auto& t) { return t->out.name == name; });
  if (found == under_way_.end())
    throw CommunicatorError(
        fmt::format("rank {} waits for {}, which it has not issued: issue() comes first", rank_, name));
  finish(**found);
  Incoming in = std::move((*found)->in);
  under_way_.erase(found);
  return in;
}

void Communicator::barrier(std::string_view name) { (void)agree(name, {}); }

}  // namespace moecheck::harness::ranks
