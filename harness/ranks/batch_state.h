#pragma once
// What the operations of one batch hand to each other, by name. As upstream (sglang operations.py, _StateDict) a name that is set
// is not set again, and at the end of a layer nothing is left but what the next one needs: two ways in which operations in a wrong
// order show themselves. Throws StateError naming the batch, the key and the operation.
#include <any>
#include <functional>
#include <initializer_list>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace moecheck::harness::ranks {

class StateError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class BatchState {
 public:
  explicit BatchState(std::string batch) : batch_(std::move(batch)) {}

  void begin(std::string operation) { operation_ = std::move(operation); }  // for messages: "A1.output"
  template <class T>
  void put(const std::string& key, T value) {
    const auto [it, fresh] = all_.emplace(key, Entry{std::move(value), operation_});
    if (!fresh) fail("sets " + key + ", which " + it->second.by + " has set and nothing has taken");
  }
  bool has(std::string_view key) const { return all_.contains(key); }
  template <class T>
  const T& at(std::string_view key) const {
    const auto it = all_.find(key);
    if (it == all_.end()) fail("reads " + std::string(key) + ", which is not set");
    return std::any_cast<const T&>(it->second.value);
  }
  template <class T>
  T take(std::string_view key) {
    T value = at<T>(key);
    all_.erase(all_.find(key));
    return value;
  }
  void require_only(std::initializer_list<std::string_view> keys) const {
    for (const auto& [key, entry] : all_) {
      bool expected = false;
      for (const std::string_view k : keys) expected = expected || k == key;
      if (!expected) fail("ends the layer, but " + key + " of " + entry.by + " is left");
    }
  }

 private:
  struct Entry {
    std::any value;
    std::string by;
  };
  [[noreturn]] void fail(const std::string& what) const {
    throw StateError("batch " + batch_ + ": " + operation_ + " " + what);
  }

  std::string batch_, operation_ = "the caller";
  std::map<std::string, Entry, std::less<>> all_;
};

}  // namespace moecheck::harness::ranks
