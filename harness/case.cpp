#include "harness/case.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "harness/fault.h"
#include "harness/models.h"

namespace moecheck::harness {
namespace {

std::string joined(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, ", "));
}

template <class T>
bool parse_number(std::string_view text, T& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

std::string bounds(const Field& f) { return fmt::format("from {} to {}", f.min, f.max); }

Value parse_value(const Schema& schema, const Field& f, std::string_view text) {
  Value v;
  switch (f.kind) {
    case FieldKind::kInt:
      if (!parse_number(text, v.i))
        throw UsageError(fmt::format("{}: {}={} is not a whole number: write one {}", schema.name, f.name,
                                     text, bounds(f)));
      if (static_cast<double>(v.i) < f.min || static_cast<double>(v.i) > f.max)
        throw UsageError(
            fmt::format("{}: {}={} is out of range: it goes {}", schema.name, f.name, text, bounds(f)));
      return v;
    case FieldKind::kReal:
      if (!parse_number(text, v.r) || !std::isfinite(v.r))
        throw UsageError(
            fmt::format("{}: {}={} is not a number: write one {}", schema.name, f.name, text, bounds(f)));
      if (!HARNESS_FAULT(kCaseOutOfRangeAllowed) && (v.r < f.min || v.r > f.max))
        throw UsageError(
            fmt::format("{}: {}={} is out of range: it goes {}", schema.name, f.name, text, bounds(f)));
      return v;
    case FieldKind::kChoice:
      break;
  }
  const auto at = std::find(f.choices.begin(), f.choices.end(), text);
  if (at == f.choices.end())
    throw UsageError(fmt::format("{}: {}={} is not one of {}; did you mean {}?", schema.name, f.name, text,
                                 joined(f.choices), nearest(text, f.choices)));
  v.i = at - f.choices.begin();
  return v;
}

std::string print_value(const Field& f, const Value& v) {
  switch (f.kind) {
    case FieldKind::kInt:
      return fmt::format("{}", v.i);
    case FieldKind::kReal:
      return HARNESS_FAULT(kCasePrintsSixDigits) ? fmt::format("{:g}", v.r) : fmt::format("{}", v.r);
    case FieldKind::kChoice:
      break;
  }
  return f.choices[static_cast<std::size_t>(v.i)];
}

void apply(const Schema& schema, const Preset& preset, std::vector<Value>& values) {
  for (const auto& [field, text] : preset.values)
    if (const int i = schema.find(field); i >= 0)
      values[static_cast<std::size_t>(i)] =
          parse_value(schema, schema.fields[static_cast<std::size_t>(i)], text);
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

Edit parse_edit(const Schema& schema, std::string_view text) {
  std::vector<std::string_view> parts;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t colon = std::min(text.find(':', at), text.size());
    parts.push_back(text.substr(at, colon - at));
    at = colon + 1;
  }
  const EditKind* kind = schema.find_edit(parts[0]);
  if (kind == nullptr) {
    std::vector<std::string> known;
    for (const EditKind& k : schema.edits) known.push_back(k.name);
    throw UsageError(fmt::format("{}: edit={} is not an edit of this operator: it has {}", schema.name,
                                 parts[0], known.empty() ? "none" : joined(known)));
  }
  Edit edit{std::string(parts[0])};
  std::int64_t* numbers[] = {&edit.row, &edit.col};
  const bool enough = static_cast<int>(parts.size()) == kind->positions + 1;
  bool good = enough;
  for (std::size_t i = 1; good && i < parts.size(); ++i)
    good = parse_number(parts[i], *numbers[i - 1]) && *numbers[i - 1] >= 0;
  if (!good)
    throw UsageError(fmt::format("{}: edit={} needs {}: write {}{}", schema.name, text,
                                 kind->positions == 0 ? "no position" : "non-negative positions", kind->name,
                                 kind->positions == 0   ? ""
                                 : kind->positions == 1 ? ":ROW"
                                                        : ":ROW:COL"));
  return edit;
}

}  // namespace

Field int_field(std::string name, std::int64_t value, std::int64_t min, std::int64_t max, std::string doc) {
  Field f;
  f.name = std::move(name);
  f.kind = FieldKind::kInt;
  f.doc = std::move(doc);
  f.value.i = value;
  f.min = static_cast<double>(min);
  f.max = static_cast<double>(max);
  return f;
}

Field flag_field(std::string name, bool value, std::string doc) {
  return int_field(std::move(name), value, 0, 1, std::move(doc));
}

Field real_field(std::string name, double value, double min, double max, std::string doc) {
  Field f;
  f.name = std::move(name);
  f.kind = FieldKind::kReal;
  f.doc = std::move(doc);
  f.value.r = value;
  f.min = min;
  f.max = max;
  return f;
}

Field choice_field(std::string name, std::vector<std::string> choices, std::string doc,
                   std::string_view value) {
  Field f;
  f.name = std::move(name);
  f.kind = FieldKind::kChoice;
  f.doc = std::move(doc);
  f.choices = std::move(choices);
  if (!value.empty()) f.value.i = std::find(f.choices.begin(), f.choices.end(), value) - f.choices.begin();
  return f;
}

Field dtype_field(std::string name, std::vector<DType> dtypes, std::string doc) {
  std::vector<std::string> names;
  for (const DType d : dtypes) names.emplace_back(reference::name(d));
  return choice_field(std::move(name), std::move(names), std::move(doc));
}

Field fixed(Field f) {
  f.shrinks = false;
  return f;
}

int Schema::find(std::string_view field) const {
  for (std::size_t i = 0; i < fields.size(); ++i)
    if (fields[i].name == field) return static_cast<int>(i);
  return -1;
}

const Preset* Schema::find_policy(std::string_view policy) const {
  for (const Preset& p : policies)
    if (p.name == policy) return &p;
  return nullptr;
}

const EditKind* Schema::find_edit(std::string_view kind) const {
  for (const EditKind& k : edits)
    if (k.name == kind) return &k;
  return nullptr;
}

Case::Case(const Schema& schema) : schema_(&schema) {
  if (!schema.policies.empty()) policy_ = schema.policies.front().name;
  values_ = base();
}

std::vector<Value> Case::base() const {
  std::vector<Value> values;
  values.reserve(schema_->fields.size());
  for (const Field& f : schema_->fields) values.push_back(f.value);
  if (!model_.empty()) apply(*schema_, find_model(model_)->preset, values);
  if (const Preset* policy = schema_->find_policy(policy_)) apply(*schema_, *policy, values);
  return values;
}

namespace {
[[noreturn]] void no_field(const Schema& schema, std::string_view field) {
  throw std::logic_error(fmt::format("operator {} has no field '{}'", schema.name, field));
}
}  // namespace

std::int64_t Case::integer(std::string_view field) const {
  const int i = schema_->find(field);
  if (i < 0) no_field(*schema_, field);
  return value(i).i;
}

double Case::real(std::string_view field) const {
  const int i = schema_->find(field);
  if (i < 0) no_field(*schema_, field);
  return value(i).r;
}

std::string_view Case::choice(std::string_view field) const {
  const int i = schema_->find(field);
  if (i < 0) no_field(*schema_, field);
  return schema_->fields[static_cast<std::size_t>(i)].choices[static_cast<std::size_t>(value(i).i)];
}

DType Case::dtype(std::string_view field) const {
  DType d{};
  if (!reference::parse_dtype(choice(field), d)) no_field(*schema_, field);
  return d;
}

Case& Case::set(std::string_view field, std::int64_t value) {
  return set(field, std::string_view(fmt::format("{}", value)));
}

Case& Case::set(std::string_view field, std::string_view text) {
  if (field == "model") {
    if (find_model(text) == nullptr)
      throw UsageError(fmt::format("model={} is not known: did you mean {}? `moecheck list models` shows all",
                                   text, nearest(text, model_names())));
    model_ = text;
    values_ = base();
    return *this;
  }
  if (field == "policy") {
    if (schema_->find_policy(text) == nullptr) {
      std::vector<std::string> known;
      for (const Preset& p : schema_->policies) known.push_back(p.name);
      throw UsageError(fmt::format(
          "{}: policy={} is not known: {}", schema_->name, text,
          known.empty()
              ? "this operator has no policies"
              : fmt::format("did you mean {}? `moecheck list policies` shows all", nearest(text, known))));
    }
    policy_ = text;
    if (!HARNESS_FAULT(kCasePolicyKeepsFields)) values_ = base();
    return *this;
  }
  if (field == "seed") {
    if (!parse_number(text, seed))
      throw UsageError(fmt::format("seed={} is not a non-negative whole number", text));
    return *this;
  }
  if (field == "edit") {
    edits.push_back(parse_edit(*schema_, text));
    return *this;
  }
  const int i = schema_->find(field);
  if (i < 0) {
    std::vector<std::string> known{"model", "policy", "seed", "edit"};
    for (const Field& f : schema_->fields) known.push_back(f.name);
    throw UsageError(fmt::format("{} has no field '{}': did you mean {}? `moecheck list operators` shows all",
                                 schema_->name, field, nearest(field, known)));
  }
  values_[static_cast<std::size_t>(i)] =
      parse_value(*schema_, schema_->fields[static_cast<std::size_t>(i)], text);
  return *this;
}

std::string Case::str() const {
  std::string line = schema_->name;
  if (!model_.empty()) line += " model=" + model_;
  if (!policy_.empty() && policy_ != schema_->policies.front().name) line += " policy=" + policy_;
  const std::vector<Value> defaults = base();
  for (std::size_t i = 0; i < values_.size(); ++i)
    if (!(values_[i] == defaults[i]))
      line += fmt::format(" {}={}", schema_->fields[i].name, print_value(schema_->fields[i], values_[i]));
  if (!HARNESS_FAULT(kCasePrintsNoSeed)) line += fmt::format(" seed={}", seed);
  for (const Edit& e : edits) {
    const EditKind* kind = schema_->find_edit(e.kind);
    line += " edit=" + e.kind;
    if (kind->positions > 0) line += fmt::format(":{}", e.row);
    if (kind->positions > 1 && !HARNESS_FAULT(kCasePrintsNoColumn)) line += fmt::format(":{}", e.col);
  }
  return line;
}

bool operator==(const Case& a, const Case& b) {
  return a.schema_ == b.schema_ && a.values_ == b.values_ && a.model_ == b.model_ && a.policy_ == b.policy_ &&
         a.seed == b.seed && a.edits == b.edits;
}

Case parse_fields(const Schema& schema, const std::vector<std::string_view>& words) {
  Case c(schema);
  // Presets first, whatever the order on the line: they fill in what the other fields then override.
  for (const std::string_view first : {"model", "policy", ""}) {
    std::vector<std::string_view> seen;
    for (const std::string_view word : words) {
      const std::size_t equals = word.find('=');
      if (equals == std::string_view::npos || equals == 0)
        throw UsageError(fmt::format("{}: '{}' is not a field: write name=value", schema.name, word));
      const std::string_view field = word.substr(0, equals);
      const bool preset = field == "model" || field == "policy";
      if (first.empty() ? preset : field != first) continue;
      if (!HARNESS_FAULT(kCaseTwiceAllowed) && field != "edit" &&
          std::find(seen.begin(), seen.end(), field) != seen.end())
        throw UsageError(fmt::format("{}: {} is given twice", schema.name, field));
      seen.push_back(field);
      c.set(field, word.substr(equals + 1));
    }
  }
  return c;
}

Case parse_case(const Schema& schema, std::string_view line) {
  std::vector<std::string_view> words = split_words(line);
  if (words.empty() || words[0] != schema.name)
    throw UsageError(
        fmt::format("'{}' is not a case of {}: it starts with the operator's name", line, schema.name));
  words.erase(words.begin());
  return parse_fields(schema, words);
}

std::string nearest(std::string_view word, const std::vector<std::string>& known) {
  const auto best =
      std::min_element(known.begin(), known.end(), [&](const std::string& a, const std::string& b) {
        return edit_distance(word, a) < edit_distance(word, b);
      });
  return best == known.end() ? std::string() : *best;
}

std::vector<std::string_view> split_words(std::string_view text) {
  std::vector<std::string_view> words;
  for (std::size_t at = 0; at < text.size();) {
    at = text.find_first_not_of(" \t\r\n", at);
    if (at == std::string_view::npos) break;
    const std::size_t end = std::min(text.find_first_of(" \t\r\n", at), text.size());
    words.push_back(text.substr(at, end - at));
    at = end;
  }
  return words;
}

}  // namespace moecheck::harness
