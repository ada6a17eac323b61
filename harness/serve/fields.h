#pragma once
// Members of a JSON request, each checked as it is taken; null counts as left out. Includes the JSON library: for
// .cpp files that read requests.
#include <fmt/format.h>

#include <optional>

#include "harness/json.h"
#include "harness/serve/request.h"
#include "harness/text.h"

namespace moecheck::harness::serve {

using Json = nlohmann::json;

[[noreturn]] inline void bad_field(const std::string& param, std::string message) {
  throw ApiFailure{{400, std::move(message), "invalid_request_error", param}};
}

class Fields {
 public:
  explicit Fields(const Json& object) : object_(object) {}

  const Json* find(const char* name) const {
    const auto it = object_.find(name);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  bool flag(const char* name, bool otherwise) const {
    const Json* j = find(name);
    if (j == nullptr) return otherwise;
    if (!j->is_boolean()) bad_field(name, fmt::format("'{}' must be true or false, not {}", name, text(*j)));
    return j->get<bool>();
  }
  std::int64_t integer(const char* name, std::int64_t otherwise, std::int64_t low, std::int64_t high) const {
    const Json* j = find(name);
    return j == nullptr ? otherwise : integer_of(*j, name, low, high);
  }
  double real(const char* name, double otherwise, double low, double high) const {
    const Json* j = find(name);
    if (j == nullptr) return otherwise;
    if (!j->is_number() || !(j->get<double>() >= low && j->get<double>() <= high))
      bad_field(name, fmt::format("'{}' must be a number from {} to {}, not {}", name, low, high, text(*j)));
    return j->get<double>();
  }
  std::string string(const char* name, std::string otherwise) const {
    const Json* j = find(name);
    if (j == nullptr) return otherwise;
    if (!j->is_string()) bad_field(name, fmt::format("'{}' must be a string, not {}", name, text(*j)));
    return j->get<std::string>();
  }

  static std::int64_t integer_of(const Json& j, const std::string& name, std::int64_t low,
                                 std::int64_t high) {
    const bool fits = j.is_number_unsigned() ? j.get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX)
                                             : j.is_number_integer();
    if (!fits || j.get<std::int64_t>() < low || j.get<std::int64_t>() > high)
      bad_field(name, fmt::format("'{}' must be an integer from {} to {}, not {}", name, low, high, text(j)));
    return j.get<std::int64_t>();
  }
  // A value as an error shows it: not all of a long one.
  static std::string text(const Json& j) {
    if (j.is_object() || j.is_array()) return j.is_array() ? "a list" : "an object";
    return printable(j.dump(-1, ' ', false, Json::error_handler_t::replace), 80);
  }

 private:
  const Json& object_;
};

// The body as an object, or an ApiFailure of status 400.
Json parse_object(std::string_view body);

}  // namespace moecheck::harness::serve
