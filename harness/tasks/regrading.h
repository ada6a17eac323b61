#pragma once
// How other projects read a number out of a completion: see Rule in scoring.h. All of them drop commas first.
#include <string>
#include <string_view>

namespace moecheck::harness {

std::string last_number(std::string_view text);  // last -?[0-9]+(\.[0-9]+)?
std::string last_integer(
    std::string_view text);  // last \d+, then ast.literal_eval: kInvalidText where that fails
std::string last_literal(std::string_view text);  // last -?\d+\.?\d*, then ast.literal_eval

// Decimal numbers as extracted by last_number: equal in value, exactly. False where either is none.
bool same_decimal(std::string_view a, std::string_view b);
// Python's == of two literals: integers exactly, else as doubles. False where either is none.
bool same_literal(std::string_view a, std::string_view b);

}  // namespace moecheck::harness
