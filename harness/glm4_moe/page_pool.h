#pragma once
// Pages of the KV cache: who holds them, and which hold a prefix that another request may share.
//
// A full page is published under the page before it and its tokens; a request with the same prefix takes it instead of computing
// it. Pages that nobody holds stay published until room is needed, the least recently used first.
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <span>
#include <vector>

namespace moecheck::harness {

class PagePool {
 public:
  explicit PagePool(std::int64_t pages);

  std::int64_t size() const { return static_cast<std::int64_t>(pages_.size()); }
  std::int64_t held() const { return held_; }
  std::int64_t available() const { return size() - held_; }

  // A page for writing, held once; nothing when all are held.
  std::optional<std::int32_t> allocate();
  void release(std::int32_t page);

  // The published page with these tokens behind `previous` (nothing: a first page), now held once more.
  std::optional<std::int32_t> share(std::optional<std::int32_t> previous,
                                    std::span<const std::int32_t> tokens);
  // `page`, which is held, is full. Where an equal page is published already this one stays private.
  void publish(std::int32_t page, std::optional<std::int32_t> previous, std::span<const std::int32_t> tokens);

 private:
  // What a published page holds: the serial of the page before it and its tokens. Serials are never used twice, so a page whose
  // predecessor was overwritten cannot be found any more.
  struct Key {
    std::uint64_t previous;
    std::vector<std::int32_t> tokens;
    auto operator<=>(const Key&) const = default;
  };
  struct Page {
    std::int64_t holders = 0;
    std::uint64_t serial = 0;
    bool published = false;
    std::map<Key, std::int32_t>::iterator entry;
    std::list<std::int32_t>::iterator idle;  // in idle_ when nobody holds it
  };
  Page& at(std::int32_t page) { return pages_[static_cast<std::size_t>(page)]; }
  Key key(std::optional<std::int32_t> previous, std::span<const std::int32_t> tokens);

  std::vector<Page> pages_;
  std::map<Key, std::int32_t> published_;
  std::list<std::int32_t> idle_;  // least recently released first; unpublished ones at the front
  std::int64_t held_ = 0;
  std::uint64_t next_serial_ = 1;
};

}  // namespace moecheck::harness
