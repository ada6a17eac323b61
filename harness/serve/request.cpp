#include "harness/serve/request.h"

#include <algorithm>

#include "harness/serve/chat_template.h"
#include "harness/serve/fields.h"

namespace moecheck::harness::serve {
namespace {

constexpr std::int64_t kMaxN = 128;
constexpr std::size_t kMaxStops = 16, kMaxStopBytes = 1024;
constexpr std::int64_t kMaxLogprobs = 20;
constexpr std::int64_t kManyTokens = std::int64_t{1} << 31;

// Fields that would change the answer and that are not supported: refused, unless they ask for nothing.
struct Neutral {
  const char* name;
  const char* value;  // as JSON; beside it null, [] and {} are always fine
};
constexpr Neutral kNotSupported[] = {
    {"suffix", "\"\""},
    {"logit_bias", "{}"},
    {"presence_penalty", "0"},
    {"frequency_penalty", "0"},
    {"repetition_penalty", "1"},
    {"length_penalty", "1"},
    {"min_p", "0"},
    {"min_tokens", "0"},
    {"use_beam_search", "false"},
    {"stop_token_ids", "[]"},
    {"include_stop_str_in_output", "false"},
    {"prompt_logprobs", "null"},
    {"truncate_prompt_tokens", "null"},
    {"prompt_embeds", "null"},
    {"tools", "[]"},
    {"functions", "[]"},
    {"audio", "null"},
    {"guided_json", "null"},
    {"guided_regex", "null"},
    {"guided_choice", "null"},
    {"guided_grammar", "null"},
    {"structured_outputs", "null"},
    {"continue_final_message", "false"},
};

void refuse_unsupported(const Fields& f) {
  for (const Neutral& n : kNotSupported) {
    const Json* j = f.find(n.name);
    if (j == nullptr || ((j->is_array() || j->is_object()) && j->empty()) || *j == Json::parse(n.value))
      continue;
    bad_field(n.name, fmt::format("'{}' is not supported by this server: leave it out", n.name));
  }
  if (const Json* format = f.find("response_format"))
    if (!format->is_object() || format->value("type", Json()) != "text")
      bad_field("response_format", "of 'response_format' {\"type\": \"text\"} is supported");
}

void require_model(const Fields& f, const RequestLimits& limits, std::string& model) {
  model = f.string("model", limits.models.front());
  if (std::find(limits.models.begin(), limits.models.end(), model) != limits.models.end()) return;
  throw ApiFailure{{404, fmt::format("The model `{}` does not exist.", printable(model, 200)),
                    "invalid_request_error", "model", "model_not_found"}};
}

std::vector<TokenId> ids_of(const Json& list, const char* name, const RequestLimits& limits) {
  std::vector<TokenId> ids;
  ids.reserve(list.size());
  for (const Json& j : list)
    ids.push_back(static_cast<TokenId>(Fields::integer_of(j, name, 0, limits.tokenizer->vocabulary() - 1)));
  return ids;
}

// A string, a list of strings, a list of token ids, or a list of such lists.
std::vector<std::vector<TokenId>> prompts_of(const Fields& f, const RequestLimits& limits) {
  const Json* prompt = f.find("prompt");
  if (prompt == nullptr) bad_field("prompt", "'prompt' is needed: a string, a list of strings or token ids");
  if (prompt->is_string()) return {limits.tokenizer->encode(prompt->get_ref<const std::string&>())};
  if (!prompt->is_array() || prompt->empty())
    bad_field("prompt",
              "'prompt' must be a string, a list of strings or token ids, not " + Fields::text(*prompt));
  if (prompt->front().is_number()) return {ids_of(*prompt, "prompt", limits)};
  if (prompt->size() > static_cast<std::size_t>(limits.max_sequences))
    bad_field("prompt", fmt::format("'prompt' has {} entries: at most {} are taken at once", prompt->size(),
                                    limits.max_sequences));
  std::vector<std::vector<TokenId>> prompts;
  for (const Json& one : *prompt) {
    if (one.is_string() && prompt->front().is_string())
      prompts.push_back(limits.tokenizer->encode(one.get_ref<const std::string&>()));
    else if (one.is_array() && prompt->front().is_array())
      prompts.push_back(ids_of(one, "prompt", limits));
    else
      bad_field("prompt",
                "the entries of 'prompt' must be all strings, all integers, or all lists of integers");
  }
  return prompts;
}

std::string content_of(const Json& message) {
  const auto it = message.find("content");
  if (it == message.end() || it->is_null()) {
    if (message.value("role", Json()) == "assistant") return {};
    bad_field("messages", "a message needs 'content'");
  }
  if (it->is_string()) return it->get<std::string>();
  if (!it->is_array())
    bad_field("messages", "'content' must be a string or a list of parts, not " + Fields::text(*it));
  std::string text;
  for (const Json& part : *it) {
    if (!part.is_object() || part.value("type", Json()) != "text" || !part.contains("text") ||
        !part["text"].is_string())
      bad_field("messages", "of the parts of 'content' {\"type\": \"text\", \"text\": ...} is supported");
    text += part["text"].get<std::string>();
  }
  return text;
}

std::string chat_prompt(const Fields& f) {
  const Json* messages = f.find("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty())
    bad_field("messages", "'messages' is needed: a list of {\"role\", \"content\"}");
  std::vector<ChatMessage> turns;
  for (const Json& m : *messages) {
    const Json role = m.is_object() ? m.value("role", Json()) : Json();
    if (role != "system" && role != "developer" && role != "user" && role != "assistant")
      bad_field("messages", "a message's 'role' must be system, developer, user or assistant, not " +
                                (role.is_null() ? std::string("left out") : Fields::text(role)));
    turns.push_back({role.get<std::string>(), content_of(m)});
  }
  return render_chat(turns);
}

std::vector<std::string> stops_of(const Fields& f) {
  const Json* j = f.find("stop");
  if (j == nullptr) return {};
  const Json list = j->is_array() ? *j : Json::array({*j});
  if (list.size() > kMaxStops)
    bad_field("stop", fmt::format("'stop' has {} entries: at most {} are taken", list.size(), kMaxStops));
  std::vector<std::string> stops;
  for (const Json& one : list) {
    if (!one.is_string())
      bad_field("stop", "'stop' must be a string or a list of strings, not " + Fields::text(one));
    const auto& text = one.get_ref<const std::string&>();
    if (text.size() > kMaxStopBytes)
      bad_field("stop", fmt::format("a stop string is {} bytes long: at most {} are taken", text.size(),
                                    kMaxStopBytes));
    if (!text.empty()) stops.push_back(text);  // an empty one, as clients send it, stops nothing
  }
  return stops;
}

void read_sampling(const Fields& f, const RequestLimits& limits, GenerationSpec& spec) {
  spec.sampling.temperature = f.real("temperature", limits.default_temperature, 0, 2);
  spec.sampling.top_p = f.real("top_p", 1, 0, 1);
  if (spec.sampling.top_p <= 0) bad_field("top_p", "'top_p' must be above 0");
  spec.sampling.top_k = std::max<std::int64_t>(f.integer("top_k", 0, -1, kManyTokens), 0);
  spec.seeded = f.find("seed") != nullptr;
  spec.sampling.seed = static_cast<std::uint64_t>(f.integer("seed", 0, INT64_MIN, INT64_MAX));
  spec.ignore_eos = f.flag("ignore_eos", false);
  spec.stop = stops_of(f);
}

void read_logprobs(const Fields& f, GenerationSpec& spec) {
  if (spec.api == Api::kCompletions) {
    spec.logprobs = static_cast<int>(f.integer("logprobs", -1, 0, kMaxLogprobs));
    return;
  }
  const bool wanted = f.flag("logprobs", false);
  const std::int64_t top = f.integer("top_logprobs", 0, 0, kMaxLogprobs);
  if (top > 0 && !wanted) bad_field("top_logprobs", "'top_logprobs' needs 'logprobs': true");
  if (wanted) spec.logprobs = static_cast<int>(top);
}

void read_stream(const Fields& f, GenerationSpec& spec) {
  spec.stream = f.flag("stream", false);
  const Json* options = f.find("stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) bad_field("stream_options", "'stream_options' must be an object");
  if (!spec.stream) bad_field("stream_options", "'stream_options' needs 'stream': true");
  const Fields o(*options);
  spec.include_usage = o.flag("include_usage", false);
  spec.continuous_usage = o.flag("continuous_usage_stats", false);
}

std::int64_t wanted_tokens(const Fields& f, const GenerationSpec& spec) {  // -1: as many as fit
  const std::int64_t least = spec.echo ? 0 : 1;
  if (spec.api == Api::kCompletions) return f.integer("max_tokens", 16, least, kManyTokens);
  const std::int64_t old_name = f.integer("max_tokens", -1, least, kManyTokens);
  return f.integer("max_completion_tokens", old_name, least, kManyTokens);
}

// Every prompt and its answer fit into the model, and there are not too many of them.
void check_lengths(const Fields& f, const RequestLimits& limits, GenerationSpec& spec) {
  const std::int64_t wanted = wanted_tokens(f, spec);
  const char* param = spec.api == Api::kChat ? "messages" : "prompt";
  for (const auto& prompt : spec.prompts) {
    const auto length = static_cast<std::int64_t>(prompt.size());
    if (length == 0) bad_field(param, "a prompt must have at least one token");
    const std::int64_t tokens =
        wanted < 0 ? std::max<std::int64_t>(limits.max_model_len - length, 1) : wanted;
    if (length + tokens > limits.max_model_len)
      throw ApiFailure{
          {400,
           fmt::format("This model's maximum context length is {} tokens. However, you requested {} "
                       "tokens ({} in the {}, {} in the completion). Please reduce the length of the {} "
                       "or completion.",
                       limits.max_model_len, length + tokens, length, param, tokens, param),
           "invalid_request_error", param, "context_length_exceeded"}};
    spec.max_tokens.push_back(tokens);
  }
  if (static_cast<std::int64_t>(spec.prompts.size()) * spec.n > limits.max_sequences)
    bad_field("n", fmt::format("{} prompts with n={} are more than the {} sequences one request may have",
                               spec.prompts.size(), spec.n, limits.max_sequences));
}

}  // namespace

Json parse_object(std::string_view body) {
  Json j = Json::parse(body, nullptr, false);
  if (j.is_discarded()) bad_field("", "the body is not valid JSON");
  if (!j.is_object()) bad_field("", "the body must be a JSON object, not " + Fields::text(j));
  return j;
}

GenerationSpec parse_generation(Api api, std::string_view body, const RequestLimits& limits) {
  const Json object = parse_object(body);
  const Fields f(object);
  GenerationSpec spec;
  spec.api = api;
  require_model(f, limits, spec.model);
  refuse_unsupported(f);
  spec.n = f.integer("n", 1, 1, kMaxN);
  if (f.integer("best_of", spec.n, 1, kMaxN) != spec.n)
    bad_field("best_of", "'best_of' other than 'n' is not supported by this server: leave it out");
  spec.echo = f.flag("echo", false);
  if (api == Api::kChat && spec.echo) bad_field("echo", "'echo' is supported for completions only");
  read_sampling(f, limits, spec);
  read_logprobs(f, spec);
  read_stream(f, spec);
  if (api == Api::kChat)
    spec.prompts.push_back(limits.tokenizer->encode(chat_prompt(f)));
  else
    spec.prompts = prompts_of(f, limits);
  check_lengths(f, limits, spec);
  return spec;
}

std::vector<TokenId> parse_tokenize(std::string_view body, const RequestLimits& limits, bool& with_texts) {
  const Json object = parse_object(body);
  const Fields f(object);
  std::string model;
  require_model(f, limits, model);
  with_texts = f.flag("return_token_strs", false);
  if (f.find("messages") != nullptr) return limits.tokenizer->encode(chat_prompt(f));
  if (f.find("prompt") == nullptr) bad_field("prompt", "'prompt' or 'messages' is needed");
  return limits.tokenizer->encode(f.string("prompt", ""));
}

std::vector<TokenId> parse_detokenize(std::string_view body, const RequestLimits& limits) {
  const Json object = parse_object(body);
  const Fields f(object);
  std::string model;
  require_model(f, limits, model);
  const Json* tokens = f.find("tokens");
  if (tokens == nullptr || !tokens->is_array())
    bad_field("tokens", "'tokens' is needed: a list of token ids");
  return ids_of(*tokens, "tokens", limits);
}

}  // namespace moecheck::harness::serve
