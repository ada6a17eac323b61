#include "harness/glm4_moe/page_pool.h"

#include "harness/fault.h"

namespace moecheck::harness {

PagePool::PagePool(std::int64_t pages) : pages_(static_cast<std::size_t>(pages)) {
  for (std::int64_t p = 0; p < pages; ++p)
    at(static_cast<std::int32_t>(p)).idle = idle_.insert(idle_.end(), static_cast<std::int32_t>(p));
}

std::optional<std::int32_t> PagePool::allocate() {
  if (idle_.empty()) return std::nullopt;
  const std::int32_t page = idle_.front();
  idle_.pop_front();
  Page& p = at(page);
  if (p.published) published_.erase(p.entry);
  p.published = false;
  p.holders = 1;
  p.serial = next_serial_++;
  ++held_;
  return page;
}

void PagePool::release(std::int32_t page) {
  Page& p = at(page);
  if (--p.holders > 0 && !HARNESS_FAULT(kServePageReusedWhileShared)) return;
  --held_;
  p.idle = idle_.insert(p.published ? idle_.end() : idle_.begin(), page);
}

PagePool::Key PagePool::key(std::optional<std::int32_t> previous, std::span<const std::int32_t> tokens) {
  return {previous && !HARNESS_FAULT(kServePrefixOfAnyPage) ? at(*previous).serial : 0,
          {tokens.begin(), tokens.end()}};
}

std::optional<std::int32_t> PagePool::share(std::optional<std::int32_t> previous,
                                            std::span<const std::int32_t> tokens) {
  const auto found = published_.find(key(previous, tokens));
  if (found == published_.end()) return std::nullopt;
  Page& p = at(found->second);
  if (p.holders++ == 0) {
    idle_.erase(p.idle);
    ++held_;
  }
  return found->second;
}

void PagePool::publish(std::int32_t page, std::optional<std::int32_t> previous,
                       std::span<const std::int32_t> tokens) {
  Page& p = at(page);
  if (p.published || (previous && !at(*previous).published)) return;
  const auto [entry, added] = published_.emplace(key(previous, tokens), page);
  if (!added) return;
  p.entry = entry;
  p.published = true;
}

}  // namespace moecheck::harness
