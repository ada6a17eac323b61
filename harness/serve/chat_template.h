#pragma once
#include <string>
#include <vector>

namespace moecheck::harness::serve {

struct ChatMessage {
  std::string role, content;
};

// Turns become one prompt: what a system or user says stands as it is, what the assistant said gets a space before and
// an empty line after. So lm_eval's shots as turns ("Question: ..\nAnswer:", then the bare answer) give the very
// prompt that they give as one text.
std::string render_chat(const std::vector<ChatMessage>& messages);

}  // namespace moecheck::harness::serve
