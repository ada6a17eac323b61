#include "harness/runner.h"

#include <fmt/format.h>

#include <set>

#include "harness/fault.h"
#include "harness/float_environment.h"
#include "harness/relation.h"
#include "harness/stopwatch.h"

namespace moecheck::harness {
namespace {

// Relations copy and rerun inputs: they are asked where that is cheap.
constexpr std::size_t kRelationBytes = 8u << 20;

// One implementation on one case.
class Check {
 public:
  Check(const Operator& op, const Implementation& impl, const Case& c, const TensorSet& inputs,
        const Expected& expected, const CheckOptions& options)
      : op_(op), impl_(impl), c_(c), inputs_(inputs), expected_(expected), options_(options) {}

  void run(Record& record) {
    Judgement& j = record.result;
    TensorSet outputs(op_.outputs(c_));
    op_.reset_outputs(c_, inputs_, outputs);
    const std::uint64_t before = options_.clauses ? checksum(inputs_) : 0;
    const Stopwatch watch;
    const bool kept = run(inputs_, outputs, {options_.threads});
    record.run_seconds = watch.seconds();

    op_.judge(c_, inputs_, expected_, outputs, j);
    if (j.failed > 0 && j.cause.empty()) j.cause = op_.likely_cause(c_, inputs_, expected_, outputs);
    guards(j, outputs);
    if (options_.clauses) {
      clause(j, "float_environment_kept",
             kept ? "" : "the floating-point control word was changed and not restored");
      clause(j, "inputs_unchanged",
             (HARNESS_FAULT(kRunnerInputsUnchecked) || checksum(inputs_) == before) &&
                     first_broken_guard(inputs_).empty()
                 ? ""
                 : "an input changed");
      op_.blank_unspecified(c_, inputs_, outputs);
      common(j, outputs);
    }
    // A wrong output breaks relations too, and says no more by it.
    if (options_.relations && (j.failed == 0 || options_.relations_of_wrong_outputs) &&
        inputs_.bytes() <= kRelationBytes)
      relations(j, outputs);
    if (is_failure(j.verdict)) second_opinion(j);
  }

 private:
  // Whether the floating-point environment was kept; it is restored either way.
  bool run(const TensorSet& inputs, TensorSet& outputs, RunOptions with) {
    const FloatEnvironment environment;
    impl_.run(c_, inputs, outputs, with);
    return HARNESS_FAULT(kRunnerFloatModeUnchecked) || !environment.changed();
  }

  void clause(Judgement& j, std::string_view name, const std::string& broken) {
    if (broken.empty()) {
      j.clauses.push_back({std::string(name), Verdict::kPass, {}});
      return;
    }
    j.clauses.push_back({std::string(name), Verdict::kFail, broken});
    j.raise(Verdict::kFail, fmt::format("clause {} is broken: {}", name, broken));
  }

  void guards(Judgement& j, const TensorSet& outputs) {
    std::ptrdiff_t where = 0;
    const std::string name = HARNESS_FAULT(kRunnerGuardsUnchecked) ? "" : first_broken_guard(outputs, &where);
    clause(j, "writes_inside_outputs",
           name.empty()
               ? ""
               : fmt::format("{} was written at byte {} of {}", name, where, outputs.at(name).bytes()));
  }

  // Runs again under `with` and compares bytes; asked only where the implementation promises the clause.
  void rerun(Judgement& j, const TensorSet& outputs, std::string_view name, std::uint8_t poison,
             RunOptions with, const TensorSet& inputs, std::size_t misalign) {
    if (const auto why = impl_.not_promised_for(c_, name)) {
      j.clauses.push_back({std::string(name), Verdict::kSkip, "not promised: " + *why});
      return;
    }
    TensorSet again(op_.outputs(c_), misalign);
    op_.reset_outputs(c_, inputs, again, HARNESS_FAULT(kRunnerSamePoison) ? 0xFF : poison);
    run(inputs, again, with);
    op_.blank_unspecified(c_, inputs, again);
    std::int64_t element = 0;
    const std::string differs =
        first_difference(again, HARNESS_FAULT(kRunnerComparesWithItself) ? again : outputs, &element);
    if (differs.empty()) {
      clause(j, name, "");
      return;
    }
    const double first = outputs.at(differs).view().at(element),
                 second = again.at(differs).view().at(element);
    clause(j, name, fmt::format("{}: element {} was {} and became {}", differs, element, first, second));
  }

  void common(Judgement& j, const TensorSet& outputs) {
    const RunOptions same{options_.threads};
    rerun(j, outputs, "deterministic", 0x5A, same, inputs_, 0);
    rerun(j, outputs, "thread_independent", 0x5A,
          {HARNESS_FAULT(kRunnerSameThreads) ? options_.threads
           : options_.threads == 1           ? 3
                                             : 1},
          inputs_, 0);
    if (inputs_.bytes() > kRelationBytes) return;
    const std::size_t kOtherAddress =
        HARNESS_FAULT(kRunnerSameAddresses) ? 0 : 16;  // the alignment that every contract asks for
    TensorSet moved;
    for (const Tensor& t : inputs_.tensors()) {
      Tensor copy(t.name(), t.dtype(), t.shape(), kOtherAddress);
      std::copy(t.data(), t.data() + t.bytes(), copy.data());
      moved.add(std::move(copy));
    }
    rerun(j, outputs, "address_independent", 0x5A, same, moved, kOtherAddress);
  }

  void relations(Judgement& j, TensorSet& outputs) {
    op_.blank_unspecified(c_, inputs_, outputs);
    const Trial trial{op_, impl_, c_, inputs_, outputs, {options_.threads}};
    for (const Relation& r : op_.relations()) {
      if (const auto why = impl_.not_promised_for(c_, r.name)) {
        j.clauses.push_back({std::string(r.name), Verdict::kSkip, "not promised: " + *why});
        continue;
      }
      try {
        r.check(trial);
        clause(j, r.name, "");
      } catch (const NotApplicable& e) {
        j.clauses.push_back({std::string(r.name), Verdict::kSkip, e.what()});
      } catch (const UsageError& e) {  // a changed field is out of its range
        j.clauses.push_back(
            {std::string(r.name), Verdict::kSkip, fmt::format("there is no such case: {}", e.what())});
      } catch (const Broken& e) {
        clause(j, r.name, e.what());
      }
    }
  }

  // A failure is the implementation's only if the reference passes its own judge.
  void second_opinion(Judgement& j) {
    TensorSet own(op_.outputs(c_));
    op_.reset_outputs(c_, inputs_, own);
    op_.reference_outputs(c_, inputs_, expected_, own);
    Judgement self;
    op_.judge(c_, inputs_, expected_, own, self);
    if (self.failed > 0 && !HARNESS_FAULT(kRunnerReferenceNeverWrong))
      j.raise(Verdict::kOracle,
              "the reference fails its own judge (" + self.reason + "): please report this case as a bug");
  }

  const Operator& op_;
  const Implementation& impl_;
  const Case& c_;
  const TensorSet& inputs_;
  const Expected& expected_;
  const CheckOptions& options_;
};

}  // namespace

namespace {

// What the kernels did since `before`. Those that did nothing are named by the first record of a process alone.
KernelUse since_then(const Implementation& impl, const std::string& op, const KernelUse& before) {
  static std::set<std::pair<std::string, std::string>> named;
  KernelUse use = impl.kernel_use(op);
  for (const auto& [name, n] : before.executed) use.executed[name] -= n;
  for (const auto& [reason, n] : before.fallbacks) use.fallbacks[reason] -= n;
  const auto nothing = [](const auto& entry) { return entry.second == 0; };
  std::erase_if(use.fallbacks, nothing);
  if (!named.emplace(impl.name(), op).second) std::erase_if(use.executed, nothing);
  return use;
}

}  // namespace

Record blank_record(const Case& c, std::string_view implementation) {
  Record r;
  r.case_line = c.str();
  r.operator_name = c.operator_name();
  r.implementation = implementation;
  r.model = c.model();
  r.policy = c.policy();
  if (c.schema().find("data") >= 0) r.tier = c.choice("data");
  r.env = environment();
  return r;
}

Record skipped_record(const Case& c, std::string_view implementation, Verdict verdict, std::string why) {
  Record r = blank_record(c, implementation);
  r.result.verdict = verdict;
  r.result.reason = std::move(why);
  return r;
}

Record blank_record(const Case& c, const Implementation& implementation) {
  Record r = blank_record(c, implementation.name());
  if (implementation.argument() != implementation.name()) r.argument = implementation.argument();
  return r;
}

Record skipped_record(const Case& c, const Implementation& implementation, Verdict verdict, std::string why) {
  Record r = skipped_record(c, implementation.name(), verdict, std::move(why));
  r.argument = blank_record(c, implementation).argument;
  return r;
}

Record lost_record(const Case& c, const Implementation& implementation, const std::string& how,
                   bool timeout) {
  return skipped_record(c, implementation, timeout ? Verdict::kTimeout : Verdict::kCrash,
                        timeout ? how : "the process that ran it ended with " + how);
}

std::vector<Record> check_case(const Case& c, std::span<const Implementation* const> implementations,
                               const CheckOptions& options) {
  std::vector<Record> records;
  const Operator& op = operator_of(c);
  const auto refusal = op.refusal(c);
  std::optional<TensorSet> inputs;
  std::unique_ptr<Expected> expected;
  double shared_seconds = 0;
  for (const Implementation* impl : implementations) {
    const auto why = refusal ? refusal : impl->unsupported(c);
    if (why) {
      records.push_back(skipped_record(c, *impl, Verdict::kSkip, *why));
      continue;
    }
    const Stopwatch watch;
    if (!inputs) {
      inputs.emplace(op.inputs(c));
      op.generate(c, *inputs);
      expected = op.reference(c, *inputs);
      shared_seconds = watch.seconds();
    }
    Record record = blank_record(c, *impl);
    const KernelUse before = impl->kernel_use(record.operator_name);
    try {
      Check(op, *impl, c, *inputs, *expected, options).run(record);
    } catch (const LostRun& e) {
      record = lost_record(c, *impl, e.what(), e.timeout);
    } catch (const RunFailed& e) {
      record.result.raise(Verdict::kFail, e.what());
    } catch (const std::exception& e) {
      record.result.raise(HARNESS_FAULT(kRunnerExceptionsPass) ? Verdict::kSkip : Verdict::kFail,
                          fmt::format("it threw: {}", e.what()));
    }
    record.kernels = since_then(*impl, record.operator_name, before);
    record.seconds = watch.seconds() + (records.empty() ? 0 : shared_seconds);
    records.push_back(std::move(record));
  }
  return records;
}

Record judge_outputs(const Case& c, const TensorSet& inputs, const TensorSet& outputs,
                     std::string_view implementation) {
  const Operator& op = operator_of(c);
  const Stopwatch watch;
  Record record = blank_record(c, implementation);
  const std::unique_ptr<Expected> expected = op.reference(c, inputs);
  op.judge(c, inputs, *expected, outputs, record.result);
  if (record.result.failed > 0 && record.result.cause.empty())
    record.result.cause = op.likely_cause(c, inputs, *expected, outputs);
  record.seconds = watch.seconds();
  return record;
}

}  // namespace moecheck::harness
