#pragma once
// A case: everything that decides what one check computes, as one line of text.
//
//   gating model=glm-4.7 policy=vllm_cuda tokens=4 dtype=bf16 data=realistic seed=7 edit=nan:0:3
//
// The first word is the operator, the rest are fields in any order. Defaults come from the operator's schema, then from
// `model=`, then from `policy=`, then from the fields written out. str() prints the shortest line that parses back to the same
// case: parse(str(c)) == c. The line is the CLI argument, the file format, the test name, the report key and the repro;
// tensors are always derived from it and never stored in it.
//
// A `model` fills in the fields it knows (experts, topk, hidden, ...), a `policy` the fields of one upstream implementation.
// `edit=KIND[:ROW[:COL]]` changes the generated data in one place; it may be repeated.
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reference/number_formats.h"

namespace moecheck::harness {

using reference::DType;

// What the user gave is wrong: bad line, file, shape or option. The message names the value and the remedy. Exit code 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class FieldKind : std::uint8_t { kInt, kReal, kChoice };

struct Value {
  std::int64_t i = 0;  // kInt, and the index of a kChoice
  double r = 0;        // kReal
  friend bool operator==(const Value&, const Value&) = default;
};

struct Field {
  std::string name;
  FieldKind kind = FieldKind::kInt;
  std::string doc;
  Value value;                       // the default
  double min = 0, max = 0;           // kInt, kReal
  std::vector<std::string> choices;  // kChoice
  bool shrinks = true;  // sizes toward min, everything else toward what the line need not mention
};

// Builders, so that a schema reads as a table.
Field int_field(std::string name, std::int64_t value, std::int64_t min, std::int64_t max, std::string doc);
Field flag_field(std::string name, bool value, std::string doc);
Field real_field(std::string name, double value, double min, double max, std::string doc);
Field choice_field(std::string name, std::vector<std::string> choices, std::string doc,
                   std::string_view value = "");
Field dtype_field(std::string name, std::vector<DType> dtypes, std::string doc);
Field fixed(Field f);  // never shrunk

// A named set of field values: a policy of one operator, or a model (see models.h).
struct Preset {
  std::string name, doc;
  std::vector<std::pair<std::string, std::string>> values;  // field, text; fields a schema lacks are skipped
};

struct EditKind {
  std::string name, doc;
  int positions = 1;  // how many numbers follow: row, or row and column
};

struct Schema {
  std::string name;  // the operator's
  std::vector<Field> fields;
  std::vector<Preset> policies;  // the first is the default
  std::vector<EditKind> edits;

  int find(std::string_view field) const;  // index, or -1
  const Preset* find_policy(std::string_view policy) const;
  const EditKind* find_edit(std::string_view kind) const;
};

struct Edit {
  std::string kind;
  std::int64_t row = 0, col = 0;
  friend bool operator==(const Edit&, const Edit&) = default;
};

class Case {
 public:
  explicit Case(const Schema& schema);

  const Schema& schema() const { return *schema_; }
  std::string_view operator_name() const { return schema_->name; }

  std::int64_t integer(std::string_view field) const;
  bool flag(std::string_view field) const { return integer(field) != 0; }
  double real(std::string_view field) const;
  std::string_view choice(std::string_view field) const;
  template <class Enum>
  Enum choice_as(std::string_view field) const {
    return static_cast<Enum>(integer(field));
  }
  DType dtype(std::string_view field) const;

  // Text in, as on the command line; throws UsageError. set("model", ...) and set("policy", ...) reset what they fill in.
  Case& set(std::string_view field, std::string_view text);
  Case& set(std::string_view field, std::int64_t value);
  Value value(int field) const { return values_[static_cast<std::size_t>(field)]; }
  void set_value(int field, Value value) { values_[static_cast<std::size_t>(field)] = value; }

  const std::string& model() const { return model_; }
  const std::string& policy() const { return policy_; }
  std::vector<Value> base()
      const;  // of every field: defaults + model + policy, what the line need not mention
  // Forgets the model's name and keeps its values: what shrinking does first.
  void drop_model() { model_.clear(); }
  std::uint64_t seed = 1;
  std::vector<Edit> edits;

  std::string str() const;
  friend bool operator==(const Case& a, const Case& b);

 private:
  friend Case parse_fields(const Schema&, const std::vector<std::string_view>&);
  const Schema* schema_;
  std::vector<Value> values_;
  std::string model_, policy_;
};

// Parses a line of a known operator (the registry's parse_case looks the operator up). Throws UsageError with the nearest
// known name for a misspelt one.
Case parse_case(const Schema& schema, std::string_view line);

// The word of `known` nearest to `word` by edit distance, for "did you mean".
std::string nearest(std::string_view word, const std::vector<std::string>& known);
std::vector<std::string_view> split_words(std::string_view text);

}  // namespace moecheck::harness
