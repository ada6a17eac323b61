#include "harness/serve/chat_template.h"

namespace moecheck::harness::serve {

std::string render_chat(const std::vector<ChatMessage>& messages) {
  std::string prompt;
  for (const ChatMessage& m : messages) {
    if (m.role == "assistant")
      prompt.append(" ").append(m.content).append("\n\n");
    else
      prompt += m.content;
  }
  return prompt;
}

}  // namespace moecheck::harness::serve
