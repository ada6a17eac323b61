#include "harness/http/completion_json.h"

#include <array>
#include <limits>

#include "harness/http/json_scan.h"
#include "harness/json.h"
#include "harness/text.h"

namespace moecheck::harness::http {
namespace {

// One step of the way to a value: a key, or a place in a list.
enum Step : std::uint8_t {
  kOther = 1,
  kFirst,  // item 0 of a list
  kLater,
  kChoices,
  kText,
  kDelta,
  kMessage,
  kContent,
  kReasoning,
  kFinish,
  kTokenIds,
  kLogprobs,
  kTokens,
  kTokenLogprobs,
  kToken,
  kLogprob,
  kUsage,
  kPrompt,
  kCompletion,
  kDetails,
  kCached,
  kError,
  kObject,
  kModel,
};

struct Name {
  std::string_view text;
  Step step;
};

constexpr std::array<Name, 22> kNames{{
    {"choices", kChoices},
    {"text", kText},
    {"delta", kDelta},
    {"message", kMessage},
    {"content", kContent},
    {"reasoning_content", kReasoning},
    {"reasoning", kReasoning},
    {"finish_reason", kFinish},
    {"token_ids", kTokenIds},
    {"logprobs", kLogprobs},
    {"tokens", kTokens},
    {"token_logprobs", kTokenLogprobs},
    {"token", kToken},
    {"logprob", kLogprob},
    {"usage", kUsage},
    {"prompt_tokens", kPrompt},
    {"completion_tokens", kCompletion},
    {"prompt_tokens_details", kDetails},
    {"cached_tokens", kCached},
    {"error", kError},
    {"object", kObject},
    {"model", kModel},
}};

Step step_of(std::string_view key) {
  for (const Name& n : kNames)
    if (n.text.size() == key.size() && n.text[0] == key[0] && n.text == key) return n.step;
  return kOther;
}

// The whole way in one number, a byte per step: "choices[0].text" is way(kChoices, kFirst, kText).
template <class... Steps>
constexpr std::uint64_t way(Steps... steps) {
  std::uint64_t all = 0;
  ((all = all << 8 | static_cast<std::uint64_t>(steps)), ...);
  return all;
}

constexpr auto kChoicesWay = way(kChoices), kChoiceWay = way(kChoices, kFirst);
constexpr auto kTextWay = way(kChoices, kFirst, kText);
constexpr auto kDeltaWay = way(kChoices, kFirst, kDelta), kMessageWay = way(kChoices, kFirst, kMessage);
constexpr auto kDeltaTextWay = way(kChoices, kFirst, kDelta, kContent);
constexpr auto kMessageTextWay = way(kChoices, kFirst, kMessage, kContent);
constexpr auto kDeltaThoughtWay = way(kChoices, kFirst, kDelta, kReasoning);
constexpr auto kMessageThoughtWay = way(kChoices, kFirst, kMessage, kReasoning);
constexpr auto kFinishWay = way(kChoices, kFirst, kFinish);
constexpr auto kIdsWay = way(kChoices, kFirst, kTokenIds);
constexpr auto kTokensWay = way(kChoices, kFirst, kLogprobs, kTokens);
constexpr auto kTokenLogprobsWay = way(kChoices, kFirst, kLogprobs, kTokenLogprobs);
constexpr auto kPairsWay = way(kChoices, kFirst, kLogprobs, kContent);
constexpr auto kUsageWay = way(kUsage), kPromptWay = way(kUsage, kPrompt);
constexpr auto kCompletionWay = way(kUsage, kCompletion);
constexpr auto kCachedWay = way(kUsage, kDetails, kCached);

enum class Type { kBool, kNumber, kString, kObject, kList };

// Takes what is of interest out of a scan. What lies more than 8 steps deep is not.
class Collector final : public JsonEvents {
 public:
  explicit Collector(CompletionFields& fields) : out_(fields) {}

  bool null() override {
    begin();
    if (in_list(kTokenLogprobsWay)) logprobs_.push_back(std::numeric_limits<double>::quiet_NaN());
    return end();
  }
  bool boolean(bool) override {
    begin(Type::kBool);
    return end();
  }
  bool number(double v, std::int64_t integer) override;
  bool string(std::string_view v) override;
  bool key(std::string_view k) override {
    step(step_of(k));
    return true;
  }
  bool open(bool list) override {
    begin(list ? Type::kList : Type::kObject);
    if (list) {
      out_.choices |= way_now() == kChoicesWay;
      out_.token_ids_given |= way_now() == kIdsWay;
    } else {
      top_is_object_ |= depth_ == 0;
      out_.delta_given |= way_now() == kDeltaWay;
      out_.message_given |= way_now() == kMessageWay;
      out_.error |= way_now() == way(kError);
    }
    lists_ = (lists_ & ~(std::uint64_t{1} << depth_)) | std::uint64_t{list} << depth_;
    if (++depth_ <= kKept) way_ = way_ << 8 | (list ? kFirst : kOther);
    return true;
  }
  bool close() override {
    if (depth_-- <= kKept) way_ >>= 8;
    return end();
  }

  // Tokens and their logprobs come as two lists in completions, as pairs in chat.
  JsonKind finish() {
    for (std::size_t i = 0; i < tokens_.size(); ++i)
      out_.logprobs.push_back({std::move(tokens_[i]), i < logprobs_.size()
                                                          ? logprobs_[i]
                                                          : std::numeric_limits<double>::quiet_NaN()});
    return top_is_object_ ? JsonKind::kObject : JsonKind::kNotObject;
  }

 private:
  static constexpr int kKept = 8;

  void begin() { out_.choice |= way_now() == kChoiceWay; }
  void begin(Type type) {
    begin();
    check(type);
  }
  void check(Type type);
  bool end() {
    if (list_now()) step(kLater);
    return true;
  }
  void step(Step s) {
    if (depth_ <= kKept) way_ = (way_ & ~std::uint64_t{0xFF}) | s;
  }
  bool list_now() const { return depth_ > 0 && (lists_ >> (depth_ - 1) & 1) != 0; }
  std::uint64_t way_now() const { return depth_ <= kKept ? way_ : ~std::uint64_t{0}; }
  bool in_list(std::uint64_t list) const { return list_now() && depth_ <= kKept && way_ >> 8 == list; }
  // choices[0].logprobs.content[any].what
  bool of_pair(Step what) const {
    return depth_ == 6 && way_ >> 16 == kPairsWay && (way_ & 0xFF) == static_cast<std::uint64_t>(what);
  }

  CompletionFields& out_;
  std::vector<std::string> tokens_;
  std::vector<double> logprobs_;
  std::uint64_t way_ = 0, lists_ = 0;
  int depth_ = 0;
  bool top_is_object_ = false;
};

void Collector::check(Type type) {
  const auto want = [&](Type right, std::string_view field) {
    if (type != right && out_.wrong_type.empty()) out_.wrong_type = field;
  };
  switch (way_now()) {
    case kChoicesWay:
      return want(Type::kList, "choices");
    case kChoiceWay:
      return want(Type::kObject, "choices[0]");
    case kTextWay:
      return want(Type::kString, "choices[0].text");
    case kDeltaWay:
      return want(Type::kObject, "choices[0].delta");
    case kMessageWay:
      return want(Type::kObject, "choices[0].message");
    case kDeltaTextWay:
      return want(Type::kString, "choices[0].delta.content");
    case kMessageTextWay:
      return want(Type::kString, "choices[0].message.content");
    case kFinishWay:
      return want(Type::kString, "choices[0].finish_reason");
    case kUsageWay:
      return want(Type::kObject, "usage");
    case kPromptWay:
      return want(Type::kNumber, "usage.prompt_tokens");
    case kCompletionWay:
      return want(Type::kNumber, "usage.completion_tokens");
    default:
      return;
  }
}

bool Collector::string(std::string_view v) {
  begin(Type::kString);
  switch (way_now()) {
    case kTextWay:
      out_.text_given = true;
      [[fallthrough]];
    case kDeltaTextWay:
    case kMessageTextWay:
      out_.text.assign(v);
      break;
    case kDeltaThoughtWay:  // under its old and its new name at once, by some servers
    case kMessageThoughtWay:
      out_.reasoning.assign(v);
      break;
    case kFinishWay:
      out_.finish_reason.assign(v);
      break;
    case way(kModel):
      out_.model.assign(v);
      break;
    case way(kObject):
      out_.error |= v == "error";
      break;
    case way(kError):
      out_.error = true;
      break;
    default:
      if (in_list(kTokensWay) || of_pair(kToken)) tokens_.emplace_back(v);
  }
  return end();
}

bool Collector::number(double v, std::int64_t integer) {
  begin(Type::kNumber);
  switch (way_now()) {
    case kPromptWay:
      out_.usage.prompt_tokens = integer;
      break;
    case kCompletionWay:
      out_.usage.completion_tokens = integer;
      break;
    case kCachedWay:
      out_.usage.cached_tokens = integer;
      break;
    default:
      if (in_list(kIdsWay))
        out_.token_ids.push_back(static_cast<std::int32_t>(integer));
      else if (in_list(kTokenLogprobsWay) || of_pair(kLogprob))
        logprobs_.push_back(v);
  }
  return end();
}

std::string text_of(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return {};
  return printable(found->is_string() ? found->get<std::string>() : found->dump(), kMessageBytes);
}

}  // namespace

void CompletionFields::clear() {
  choices = choice = text_given = delta_given = message_given = error = token_ids_given = false;
  wrong_type = {};
  text.clear();
  reasoning.clear();
  finish_reason.clear();
  model.clear();
  usage = {};
  token_ids.clear();
  logprobs.clear();
}

JsonKind read_completion(std::string_view json, CompletionFields& fields) {
  fields.clear();
  Collector collector(fields);
  if (!scan_json(json, collector)) return JsonKind::kInvalid;
  return collector.finish();
}

void take_error_object(Error& error, std::string_view raw) {
  const auto json = nlohmann::json::parse(raw, nullptr, false);
  const nlohmann::json* object = &json;
  if (json.is_object() && json.contains("error")) object = &json["error"];
  if (object->is_object()) {
    error.message = text_of(*object, "message");
    error.type = text_of(*object, "type");
    error.code = text_of(*object, "code");
    if (error.message.empty()) error.message = text_of(*object, "detail");
  } else if (object->is_string()) {
    error.message = printable(object->get<std::string>(), kMessageBytes);
  }
  if (error.message.empty()) error.message = printable(raw, kMessageBytes);
}

}  // namespace moecheck::harness::http
