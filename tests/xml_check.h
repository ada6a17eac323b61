#pragma once
// Well-formedness of XML, enough to catch an unescaped byte: balanced tags, quoted attributes, known
// entities, legal characters.
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "harness/text.h"

namespace moecheck::harness {

// What is wrong with the text between tags; empty when nothing is.
inline std::string text_fault(std::string_view text) {
  std::string flat(text);
  for (char& c : flat)
    if (c == '\n') c = ' ';
  if (printable(flat) != flat) return "an illegal character in: " + printable(flat, 200);
  for (std::size_t at = flat.find('&'); at != std::string::npos; at = flat.find('&', at + 1)) {
    bool known = false;
    for (const char* entity : {"&amp;", "&lt;", "&gt;", "&quot;"})
      known = known || flat.compare(at, std::string_view(entity).size(), entity) == 0;
    if (!known) return "an unknown entity in: " + flat.substr(at, 20);
  }
  return {};
}

// Whether what lies between < and > is a name, attributes in double quotes, and a slash at one end or none.
inline bool is_tag(std::string_view inside) {
  constexpr std::string_view kName = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
  if (inside.starts_with('/'))
    return inside.size() > 1 && inside.find_first_not_of(kName, 1) == std::string_view::npos;
  if (inside.ends_with('/')) inside.remove_suffix(1);
  std::size_t at = inside.find_first_not_of(kName);
  if (at == 0 || inside.empty()) return false;
  while (at < inside.size()) {
    if (inside[at] != ' ') return false;
    const std::size_t equals = inside.find_first_not_of(kName, at + 1);
    if (equals == at + 1 || inside.substr(std::min(equals, inside.size())).substr(0, 2) != "=\"")
      return false;
    const std::size_t close = inside.find('"', equals + 2);
    if (close == std::string_view::npos ||
        inside.substr(equals, close - equals).find('<') != std::string_view::npos)
      return false;
    at = close + 1;
  }
  return true;
}

// What is wrong with an XML document; empty when nothing is.
inline std::string xml_fault(std::string_view xml) {
  std::vector<std::string> open;
  if (xml.starts_with("<?xml")) xml.remove_prefix(xml.find("?>") + 2);
  while (!xml.empty()) {
    const std::size_t begin = xml.find('<');
    if (auto fault = text_fault(xml.substr(0, begin)); !fault.empty()) return fault;
    if (begin == std::string_view::npos) break;
    const std::size_t end = xml.find('>', begin);
    if (end == std::string_view::npos) return "a tag that does not end";
    const std::string inside(xml.substr(begin + 1, end - begin - 1));
    if (auto fault = text_fault(inside); !fault.empty()) return fault;
    if (!is_tag(inside)) return "a tag out of shape: " + inside;
    const std::string name = inside.substr(0, inside.find(' '));
    if (name.starts_with('/')) {
      if (open.empty() || "/" + open.back() != name) return "unbalanced " + name;
      open.pop_back();
    } else if (!inside.ends_with('/')) {
      open.push_back(name);
    }
    xml.remove_prefix(end + 1);
  }
  return open.empty() ? "" : "unclosed " + open.back();
}

}  // namespace moecheck::harness
