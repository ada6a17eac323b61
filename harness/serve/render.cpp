#include "harness/serve/render.h"

#include <fmt/format.h>

#include <algorithm>

#include "harness/fault.h"

namespace moecheck::harness::serve {
namespace {

const char* finish_reason(Ending e) {
  switch (e) {
    case Ending::kStop:
      return "\"stop\"";
    case Ending::kLength:
      return HARNESS_FAULT(kServeLengthIsStop) ? "\"stop\"" : "\"length\"";
    default:
      return "null";
  }
}

// JSON has no infinities: below this a probability is 0 for every purpose.
double shown(double logprob) { return logprob > -9999 ? logprob : -9999; }

std::int64_t characters(std::string_view bytes) {
  return std::count_if(bytes.begin(), bytes.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

template <class List, class Each>
void append_list(std::string& out, const List& list, Each each) {
  out += '[';
  bool first = true;
  for (const auto& item : list) {
    if (!first) out += ',';
    first = false;
    each(item);
  }
  out += ']';
}

}  // namespace

std::string token_text(const Tokenizer& tokenizer, TokenId id) {
  const std::string_view bytes = tokenizer.bytes(id);
  if (bytes.empty()) return fmt::format("token_id:{}", id);
  std::string text;
  Utf8Decoder decoder;
  decoder.add(bytes, text);
  decoder.finish(text);
  if (text == bytes) return text;
  text = "bytes:";
  for (const char c : bytes) text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return text;
}

Renderer::Renderer(RenderOptions options) : o_(std::move(options)), event_head_(head(true)) {}

std::string Renderer::head(bool event) const {
  const bool chat = o_.api == Api::kChat;
  std::string out = "{\"id\":";
  append_json_string(out, o_.id);
  out += !chat ? ",\"object\":\"text_completion\""
               : (event ? ",\"object\":\"chat.completion.chunk\"" : ",\"object\":\"chat.completion\"");
  out += fmt::format(",\"created\":{},\"model\":", o_.created);
  append_json_string(out, o_.model);
  out += ",\"system_fingerprint\":";
  append_json_string(out, o_.fingerprint);
  return out + ",\"choices\":[";
}

std::string Renderer::usage_json(const Usage& u) const {
  return fmt::format(
      "{{\"prompt_tokens\":{},\"completion_tokens\":{},\"total_tokens\":{},\"prompt_tokens_details\":{{"
      "\"cached_tokens\":{}}}}}",
      u.prompt_tokens, u.completion_tokens,
      (HARNESS_FAULT(kServeTotalWithoutPrompt) ? 0 : u.prompt_tokens) + u.completion_tokens, u.cached_tokens);
}

std::string Renderer::event(std::size_t index, const Delta& delta, const std::vector<TokenId>* prompt,
                            TextPosition& position, std::string_view usage) const {
  std::string out = event_head_;
  fmt::format_to(std::back_inserter(out), "{{\"index\":{},", index);
  out += o_.api == Api::kChat ? "\"delta\":{\"content\":" : "\"text\":";
  append_json_string(out, delta.text);
  if (o_.api == Api::kChat) out += '}';
  append_logprobs(out, delta, prompt, position);
  out.append(",\"finish_reason\":").append(finish_reason(delta.ending)).append("}]");
  if (!usage.empty()) out.append(",\"usage\":").append(usage);
  return out + "}";
}

std::string Renderer::role_event(std::size_t index, std::string_view usage) const {
  std::string out = event_head_ + fmt::format("{{\"index\":{},", index);
  out += o_.api == Api::kChat ? "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}" : "\"text\":\"\"";
  out += ",\"logprobs\":null,\"finish_reason\":null}]";
  if (!usage.empty()) out.append(",\"usage\":").append(usage);
  return out + "}";
}

std::string Renderer::usage_event(const Usage& usage) const {
  return event_head_ + "],\"usage\":" + usage_json(usage) + "}";
}

std::string Renderer::whole(const std::vector<Delta>& choices,
                            const std::vector<const std::vector<TokenId>*>& prompts,
                            std::string_view usage) const {
  std::string out = head(false);
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (i > 0) out += ',';
    fmt::format_to(std::back_inserter(out), "{{\"index\":{},", i);
    out += o_.api == Api::kChat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":";
    append_json_string(out, choices[i].text);
    if (o_.api == Api::kChat) out += ",\"refusal\":null}";
    TextPosition position;
    append_logprobs(out, choices[i], prompts[i], position);
    out.append(",\"finish_reason\":").append(finish_reason(choices[i].ending)).append("}");
  }
  out += "]";
  if (!usage.empty()) out.append(",\"usage\":").append(usage);
  return out + "}";
}

// ---- Logprobs

void Renderer::append_chat_token(std::string& out, TokenId id, double logprob) const {
  out += "{\"token\":";
  append_json_string(out, token_text(*o_.tokenizer, id));
  fmt::format_to(std::back_inserter(out), ",\"logprob\":{},\"bytes\":", shown(logprob));
  append_list(out, o_.tokenizer->bytes(id),
              [&](char c) { out += std::to_string(static_cast<unsigned char>(c)); });
}

void Renderer::append_logprobs(std::string& out, const Delta& delta, const std::vector<TokenId>* prompt,
                               TextPosition& position) const {
  out += ",\"logprobs\":";
  if (!o_.logprobs) {
    out += "null";
  } else if (o_.api == Api::kCompletions) {
    append_completion_logprobs(out, delta, prompt, position);
  } else {
    out += "{\"content\":";
    append_list(out, delta.logprobs, [&](const TokenLogprob& t) {
      append_chat_token(out, t.id, t.logprob);
      out += ",\"top_logprobs\":";
      append_list(out, t.top, [&](const auto& alternative) {
        append_chat_token(out, alternative.first, alternative.second);
        out += '}';
      });
      out += '}';
    });
    out += '}';
  }
}

// Four lists side by side. The first token of a prompt has no logprob: null, as OpenAI and vLLM give it.
void Renderer::append_completion_logprobs(std::string& out, const Delta& delta,
                                          const std::vector<TokenId>* prompt, TextPosition& position) const {
  std::vector<TokenLogprob> all;
  if (prompt != nullptr && !prompt->empty()) {
    all.push_back({(*prompt)[0], 1, {}});  // 1 is no logarithm of a probability: null below
    all.insert(all.end(), delta.prompt_logprobs.begin(), delta.prompt_logprobs.end());
  }
  all.insert(all.end(), delta.logprobs.begin(), delta.logprobs.end());

  out += "{\"text_offset\":";
  append_list(out, all, [&](const TokenLogprob& t) {
    out += std::to_string(position.characters);
    position.characters += characters(o_.tokenizer->bytes(t.id));
  });
  out += ",\"token_logprobs\":";
  append_list(out, all, [&](const TokenLogprob& t) {
    out += t.logprob > 0.5 ? std::string("null") : fmt::format("{}", shown(t.logprob));
  });
  out += ",\"tokens\":";
  append_list(out, all,
              [&](const TokenLogprob& t) { append_json_string(out, token_text(*o_.tokenizer, t.id)); });
  out += ",\"top_logprobs\":";
  append_list(out, all, [&](const TokenLogprob& t) {
    if (t.logprob > 0.5) {
      out += "null";
      return;
    }
    out += '{';
    append_json_string(out, token_text(*o_.tokenizer, t.id));
    fmt::format_to(std::back_inserter(out), ":{}", shown(t.logprob));
    for (const auto& [id, logprob] : t.top) {
      if (id == t.id) continue;
      out += ',';
      append_json_string(out, token_text(*o_.tokenizer, id));
      fmt::format_to(std::back_inserter(out), ":{}", shown(logprob));
    }
    out += '}';
  });
  out += '}';
}

}  // namespace moecheck::harness::serve
