// Prompts, and the hashes that prove them.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "harness/case.h"
#include "harness/fault.h"
#include "harness/tasks/python_random.h"
#include "harness/tasks/python_text.h"
#include "harness/tasks/sha256.h"
#include "harness/tasks/task.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

// The documents that shots come from, and the ones of each document in turn.
class ShotSampler {
 public:
  ShotSampler(const Task& task, const Dataset& data, int k, std::uint64_t seed)
      : task_(task), k_(k), random_(seed) {
    pool_ = task.shots == Shots::kFixed ? &task.fixed_shots : task.shots_from_test ? &data.test : &data.train;
    if (k == 0) return;
    if (pool_->empty())
      throw UsageError(
          fmt::format("{}/train.jsonl is missing or empty: {} shots of {} are drawn from it; give it or "
                      "--num-fewshot 0",
                      printable(data.directory), k, task.name));
    const std::size_t most = pool_->size() - (task.shots_from_test ? 1 : 0);
    if (static_cast<std::size_t>(k) > most)
      throw UsageError(
          fmt::format("--num-fewshot {} is more than the {} that there are for {}", k, most, task.name));
  }

  const Document& shot(std::int32_t row) const { return (*pool_)[static_cast<std::size_t>(row)]; }

  std::vector<std::int32_t> next(const Document& doc) {
    if (k_ == 0) return {};
    const auto n = static_cast<std::int32_t>(pool_->size());
    if (task_.shots == Shots::kFixed) return first(n);
    if (!task_.shots_from_test) return random_.sample(n, k_);
    // The document itself may be drawn: one more than needed, without it.
    std::vector<std::int32_t> rows = random_.sample(n, k_ + 1);
    std::erase_if(rows, [&](std::int32_t r) {
      return shot(r).json == doc.json && !HARNESS_FAULT(kPromptsQuestionAmongShots);
    });
    if (rows.size() < static_cast<std::size_t>(k_)) {
      // It stands in the file more than once, and was drawn more than once: lm_eval draws again from the others.
      std::vector<std::int32_t> others;
      for (std::int32_t r = 0; r < n; ++r)
        if (shot(r).json != doc.json) others.push_back(r);
      if (others.size() < static_cast<std::size_t>(k_))
        throw UsageError(
            fmt::format("--num-fewshot {} is more than the {} other problems there are", k_, others.size()));
      rows.clear();
      for (const std::int32_t at : random_.sample(static_cast<std::int32_t>(others.size()), k_))
        rows.push_back(others[static_cast<std::size_t>(at)]);
    }
    rows.resize(static_cast<std::size_t>(k_));
    return rows;
  }

 private:
  std::vector<std::int32_t> first(std::int32_t n) const {
    std::vector<std::int32_t> rows(static_cast<std::size_t>(std::min(k_, n)));
    std::iota(rows.begin(), rows.end(), 0);
    return rows;
  }

  const Task& task_;
  int k_;
  const std::vector<Document>* pool_ = nullptr;
  PythonRandom random_;
};

std::string target_of(const Task& task, const std::string& answer) {
  if (task.target == Target::kWhole) return answer;
  const std::size_t at = answer.rfind("####");
  if (HARNESS_FAULT(kPromptsTargetNotStripped) && at != answer.npos) return answer.substr(at + 4);
  return std::string(
      python_strip(at == answer.npos ? std::string_view(answer) : std::string_view(answer).substr(at + 4)));
}

struct Turn {
  Message message;
  std::string delimiter;  // after it, in plain text
};

// The turns of one prompt: what lm_eval's fewshot_context builds.
std::vector<Turn> turns(const Task& task, const PromptOptions& options, const Document& doc,
                        const ShotSampler& shots, const std::vector<std::int32_t>& rows) {
  std::vector<Turn> list;
  const auto question = [&](const Document& d) {
    return task.question_prefix + d.question + task.question_suffix;
  };
  if (!options.system_instruction.empty() && !HARNESS_FAULT(kPromptsSystemDropped))
    list.push_back({{"system", options.system_instruction}, ""});
  for (const std::int32_t row : rows) {
    const Document& shot = shots.shot(row);
    const std::string answer = task.shots == Shots::kFixed ? shot.answer : target_of(task, shot.answer);
    list.push_back({{"user", question(shot)}, answer.empty() ? "" : task.target_delimiter});
    if (!answer.empty())
      list.push_back({{"assistant", answer},
                      HARNESS_FAULT(kPromptsOneNewline) ? std::string("\n") : task.fewshot_delimiter});
  }
  list.push_back({{"user", question(doc)}, ""});
  return list;
}

std::string plain_text(const std::vector<Turn>& turns, std::size_t from = 0) {
  std::string text;
  for (std::size_t i = from; i < turns.size(); ++i) text += turns[i].message.content + turns[i].delimiter;
  return text;
}

std::vector<Message> chat(const std::vector<Turn>& turns, bool multiturn) {
  std::vector<Message> messages;
  if (multiturn) {
    for (const Turn& t : turns) messages.push_back(t.message);
    return messages;
  }
  const std::size_t first = turns[0].message.role == "system" ? 1 : 0;
  if (first == 1) messages.push_back(turns[0].message);
  messages.push_back({"user", plain_text(turns, first)});
  return messages;
}

// json.dumps(messages, ensure_ascii=False)
std::string messages_json(const std::vector<Message>& messages) {
  std::string out = "[";
  for (const Message& m : messages) {
    if (out.size() > 1) out += ", ";
    out +=
        "{\"role\": " + python_json_string(m.role) + ", \"content\": " + python_json_string(m.content) + "}";
  }
  return out + "]";
}

}  // namespace

std::string task_hash(const std::vector<std::string>& row_hashes, std::size_t filters) {
  Sha256 sha;
  for (std::size_t f = 0; f < filters; ++f)
    for (const std::string& row : row_hashes) sha.add(row);
  return sha.hex();
}

PromptSet make_prompts(const Task& task, const Dataset& data, const PromptOptions& given) {
  PromptSet set;
  set.task = &task;
  set.options = given;
  PromptOptions& o = set.options;
  if (o.num_fewshot < 0 || task.num_fewshot == 0) o.num_fewshot = task.num_fewshot;
  const auto documents = static_cast<std::int64_t>(data.test.size());
  if (o.limit <= 0 || o.limit > documents) o.limit = documents;
  ShotSampler shots(task, data, o.num_fewshot, o.fewshot_seed);
  std::vector<std::string> row_hashes;
  for (std::int64_t id = 0; id < o.limit; ++id) {
    const Document& doc = data.test[static_cast<std::size_t>(id)];
    Prompt p;
    p.doc_id = id;
    p.shots = shots.next(doc);
    if (HARNESS_FAULT(kPromptsShotsReversed)) std::reverse(p.shots.begin(), p.shots.end());
    const std::vector<Turn> list = turns(task, o, doc, shots, p.shots);
    if (o.api == Api::kChat) {
      p.messages = chat(list, o.fewshot_as_multiturn);
      p.text = messages_json(p.messages);
    } else {
      p.text = plain_text(list);
    }
    p.target = target_of(task, doc.answer);
    p.doc_hash = sha256_hex(doc.json);
    p.prompt_hash = sha256_hex(p.text);
    p.target_hash = sha256_hex(p.target);
    row_hashes.push_back(p.doc_hash + p.prompt_hash + p.target_hash);
    set.prompts.push_back(std::move(p));
  }
  set.task_hash = task_hash(row_hashes, task.filters.size());
  return set;
}

}  // namespace moecheck::harness
