#include "optimized/gpu/specializations.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <tuple>

namespace moecheck::gpu {
namespace {

struct Registry {
  std::mutex mutex;
  std::deque<Specialization> all;
  std::map<std::string, std::map<std::string, std::uint64_t>> fallbacks;
};
// Made at the first use, so that static objects may register.
Registry& registry() {
  static Registry r;
  return r;
}

}  // namespace

Specialization& register_specialization(std::string_view op, std::string_view name) {
  Registry& r = registry();
  const std::scoped_lock lock(r.mutex);
  for (Specialization& s : r.all)
    if (s.op == op && s.name == name) return s;
  Specialization& s = r.all.emplace_back();
  s.op = op;
  s.name = name;
  return s;
}

std::vector<SpecializationUse> specializations() {
  Registry& r = registry();
  const std::scoped_lock lock(r.mutex);
  std::vector<SpecializationUse> list;
  for (const Specialization& s : r.all) list.push_back({s.op, s.name, s.executed});
  std::sort(list.begin(), list.end(),
            [](const auto& a, const auto& b) { return std::tie(a.op, a.name) < std::tie(b.op, b.name); });
  return list;
}

void note_fallback(std::string_view op, std::string_view reason) {
  Registry& r = registry();
  const std::scoped_lock lock(r.mutex);
  ++r.fallbacks[std::string(op)][std::string(reason)];
}

std::map<std::string, std::uint64_t> fallbacks(std::string_view op) {
  Registry& r = registry();
  const std::scoped_lock lock(r.mutex);
  return r.fallbacks[std::string(op)];
}

}  // namespace moecheck::gpu
