#pragma once
// A folder of failing cases, one file each: replayed before anything new is drawn.
//
//   # moecheck corpus/1
//   # implementation: cpu!renorm_dropped
//   # verdict: FAIL
//   # check: elements of topk_weights
//   # cause: the weights of a row do not sum to 1
//   # found: gating tokens=33 seed=81234, case 17 of seed 7
//   # commit: 8b09913b0427
//   gating experts=2 topk=1 tokens=1 seed=1
//
// Files end in .case and are also files of case lines for `moecheck check --cases`. A file with a case line and nothing else is an
// entry too: a case worth replaying that a person put there. Tensors lie beside it, `NAME.inputs.safetensors` and so on. Other
// files are left alone.
#include <string>
#include <vector>

#include "harness/case.h"
#include "harness/fuzz/cause.h"
#include "harness/implementation.h"

namespace moecheck::harness {

struct CorpusEntry {
  Case c;
  Cause cause;        // its implementation is empty in a file without a header
  std::string found;  // the case as it was drawn, and where
  std::string commit;
};

std::string to_text(const CorpusEntry& entry);
// `what` names the source in messages. Throws UsageError.
CorpusEntry parse_corpus_entry(std::string_view text, const std::string& what);

class Corpus {
 public:
  // Makes the folder where there is none and reads it. Throws UsageError naming the file and what is wrong with it.
  explicit Corpus(std::string folder);

  const std::vector<CorpusEntry>& entries() const { return entries_; }  // as read, by file name
  // Writes the entry, or replaces the one of the same cause; whole or not at all. Gives its path.
  std::string store(const CorpusEntry& entry) const;
  // Writes inputs, what the reference expects and what the implementation gave beside the entry; the last is left out where the
  // implementation's process died. Gives the paths.
  std::vector<std::string> store_tensors(const CorpusEntry& entry,
                                         const Implementation& implementation) const;

 private:
  std::string path_of(const CorpusEntry& entry, std::string_view suffix) const;

  std::string folder_;
  std::vector<CorpusEntry> entries_;
};

}  // namespace moecheck::harness
