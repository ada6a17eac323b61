// Compiled twice: see decoder.h.
#include "harness/glm4_moe/decoder.h"

#include <stdexcept>
#include <string>

#include "optimized/cpu/glm4_moe.h"
#include "optimized/fault.h"

namespace moecheck::harness {
namespace {

namespace cpu = MOECHECK_OPTIMIZED;
static_assert(kPageTokens == cpu::kPage);

class CpuDecoder final : public Decoder {
 public:
  CpuDecoder(const reference::Glm4MoeConfig& config, const reference::Glm4MoeWeights& weights,
             const DecoderOptions& options, cpu::Fault fault)
      : fault_(fault),
        scope_(fault),
        model_(config, weights, options.dtype, options.moe, {options.threads}),
        cache_(model_.attention_shape(), model_.cache_layers(), options.pages) {
    scope_.end();
  }

  void forward(std::span<const std::int32_t> ids, const DecoderRows& rows, float* hidden) override {
    const Scope scope(fault_);
    model_.forward(ids, {rows.positions, rows.page_tables}, cache_, hidden);
  }
  void draft(std::span<const std::int32_t> next_ids, const float* hidden, const DecoderRows& rows,
             float* out) override {
    const Scope scope(fault_);
    model_.draft(next_ids, hidden, {rows.positions, rows.page_tables}, cache_, out);
  }
  void logits(const float* hidden, std::int64_t n, bool of_draft, float* out) const override {
    model_.logits(hidden, n, of_draft, out);
  }
  void set_trace(DecoderTrace trace) override { model_.set_trace(std::move(trace)); }

 private:
  // The fault is on while the model works, and only then: the process may run other code of the same build.
  struct Scope {
    explicit Scope(cpu::Fault f) : on(f != cpu::Fault::kNone) { set(f); }
    ~Scope() { end(); }
    void end() {
      if (on) set(cpu::Fault::kNone);
      on = false;
    }
    static void set([[maybe_unused]] cpu::Fault f) {
#ifdef MOECHECK_FAULTS
      cpu::set_fault(f);
#endif
    }
    bool on;
  };

  cpu::Fault fault_;
  Scope scope_;  // also while the tables are made
  cpu::Glm4Moe model_;
  cpu::KvCache cache_;
};

}  // namespace

#ifdef MOECHECK_FAULTS
std::unique_ptr<Decoder> make_faulty_decoder(const reference::Glm4MoeConfig& config,
                                             const reference::Glm4MoeWeights& weights,
                                             const DecoderOptions& options, std::string_view fault) {
  for (const cpu::FaultInfo& f : cpu::faults())
    if (f.name == fault) return std::make_unique<CpuDecoder>(config, weights, options, f.id);
  throw std::logic_error("there is no fault '" + std::string(fault) + "'");
}
#else
std::unique_ptr<Decoder> make_decoder(const reference::Glm4MoeConfig& config,
                                      const reference::Glm4MoeWeights& weights,
                                      const DecoderOptions& options) {
  return std::make_unique<CpuDecoder>(config, weights, options, cpu::Fault::kNone);
}
#endif

}  // namespace moecheck::harness
