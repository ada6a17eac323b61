// The identities of load figures: see table_audit.h.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "harness/statistics/printed.h"
#include "harness/statistics/table_audit.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using enum Finding::Kind;

struct Bounds {
  double low = 0, high = 0;
};
Bounds of(const Printed& p, double unit = 1) { return {p.low() * unit, p.high() * unit}; }
Bounds operator*(Bounds a, Bounds b) { return {a.low * b.low, a.high * b.high}; }  // of numbers above 0
Bounds operator/(Bounds a, Bounds b) { return {a.low / b.high, a.high / b.low}; }
Bounds operator+(Bounds a, Bounds b) { return {a.low + b.low, a.high + b.high}; }
bool meet(Bounds a, Bounds b, double slack) {
  return a.low <= b.high * (1 + slack) && b.low <= a.high * (1 + slack);
}
double middle(Bounds a) { return 0.5 * (a.low + a.high); }

// ---- Tables of a sweep

enum class Quantity : std::uint8_t {
  kNone,
  kIsl,
  kOsl,
  kLengths,
  kConcurrency,
  kTtft,
  kTpot,
  kE2el,
  kRequests,
  kInput,
  kOutput,
  kTotal
};

Quantity quantity_of(const std::string& header) {
  const std::string h = lower(header);
  const auto has = [&](const char* word) { return h.find(word) != h.npos; };
  const bool rate = has("tok/s") || has("tokens/s") || has("token throughput") || has("tput") || has("tps");
  if (has("p99") || has("p50") || has("p90") || has("p95") || has("median") || has("user"))
    return Quantity::kNone;
  if (has("isl") && has("osl")) return Quantity::kLengths;
  if (has("isl") || h == "input len" || h == "input length") return Quantity::kIsl;
  if (has("osl") || h == "output len" || h == "output length") return Quantity::kOsl;
  if (h == "mc" || has("concur")) return Quantity::kConcurrency;
  const bool arms = has("\xE2\x86\x92") || has("->");  // a column of both arms names the difference too
  if (!arms && (has("\xCE\x94") || has("\xCE\xB4") || has("delta") || has("diff"))) return Quantity::kNone;
  if (has("ttft")) return Quantity::kTtft;
  if (has("tpot")) return Quantity::kTpot;
  if (has("e2el") || has("e2e lat")) return Quantity::kE2el;
  if (has("req/s") || has("requests/s") || has("request throughput")) return Quantity::kRequests;
  if (rate && has("total")) return Quantity::kTotal;
  if (h == "tok/s" || h == "tokens/s") return Quantity::kOutput;
  if (rate && (has("out") || has("gen") || has("decode"))) return Quantity::kOutput;
  if (rate && (has("input") || has("prefill"))) return Quantity::kInput;
  return Quantity::kNone;
}

// "17.76 → 14.36 (−19.2%)": the numbers of both arms and the difference they say.
struct Arms {
  std::vector<Printed> values;  // one or two
  std::optional<Printed> delta;
};

Arms arms_of(const std::string& cell) {
  Arms a;
  std::size_t at = 0;
  const auto arrow = [&] {
    for (const std::string_view sign : {"\xE2\x86\x92", "->", "=>"})
      if (const std::size_t found = cell.find(sign); found != cell.npos) return found;
    return cell.npos;
  }();
  const auto first = first_printed(cell);
  if (!first || first->percent) return a;
  a.values.push_back(*first);
  at = first->end;
  if (arrow != cell.npos && arrow >= at)
    if (const auto second = first_printed(cell, arrow + 2); second && !second->percent) {
      a.values.push_back(*second);
      at = second->end;
    }
  if (const std::size_t open = cell.find('(', at); open != cell.npos)
    if (const auto d = first_printed(cell, open); d && d->percent) a.delta = *d;
  return a;
}

struct Row {
  std::size_t line = 0;
  std::map<Quantity, Arms> cells;
};

void check_delta(std::size_t line, const std::string& header, const Arms& a, std::vector<Finding>& out) {
  if (a.values.size() < 2 || !a.delta || a.values[0].low() <= 0) return;
  const Bounds change = of(a.values[1]) / of(a.values[0]);
  const Bounds percent{100 * (change.low - 1), 100 * (change.high - 1)};
  const bool fits = percent.low <= a.delta->high() + 1e-9 && a.delta->low() - 1e-9 <= percent.high;
  if (!fits)
    out.push_back(
        {kContradicts, line,
         fmt::format("{}: {:g} to {:g} is {:+.1f}%, not {:+.{}f}%", printable(header, 60), a.values[0].value,
                     a.values[1].value, middle(percent), a.delta->value, a.delta->digits)});
}

// The number of an arm; a cell with one number holds for both.
std::optional<Bounds> value_of(const Row& row, Quantity q, std::size_t arm, double unit = 1) {
  const auto it = row.cells.find(q);
  if (it == row.cells.end() || it->second.values.empty()) return std::nullopt;
  const Bounds b = of(it->second.values[std::min(arm, it->second.values.size() - 1)], unit);
  if (b.low <= 0) return std::nullopt;
  return b;
}

// Sequence lengths and client counts are exact.
std::optional<double> exact(const Row& row, Quantity q) {
  const auto it = row.cells.find(q);
  if (it == row.cells.end() || it->second.values.empty() || it->second.values[0].value <= 0)
    return std::nullopt;
  return it->second.values[0].value;
}

void check_row(const Row& row, std::size_t arm, const std::string& label, std::vector<Finding>& out) {
  const auto isl = exact(row, Quantity::kIsl), osl = exact(row, Quantity::kOsl),
             mc = exact(row, Quantity::kConcurrency);
  const auto output = value_of(row, Quantity::kOutput, arm), total = value_of(row, Quantity::kTotal, arm);
  const auto ttft = value_of(row, Quantity::kTtft, arm, 1e-3),
             tpot = value_of(row, Quantity::kTpot, arm, 1e-3);
  const auto e2el = value_of(row, Quantity::kE2el, arm, 1e-3),
             requests = value_of(row, Quantity::kRequests, arm);
  std::string fits;
  const auto add = [&](bool good, std::string text) {
    if (good)
      fits += (fits.empty() ? "" : "; ") + text;
    else
      out.push_back({kContradicts, row.line, label + text});
  };
  if (isl && osl && output && total) {
    const double wanted = (*isl + *osl) / *osl;
    const Bounds ratio = *total / *output;
    add(meet(ratio, {wanted, wanted}, 0.01),
        fmt::format("total/output tok/s is {:.2f}, (ISL+OSL)/OSL {:.2f}", middle(ratio), wanted));
  }
  if (osl && output && requests)
    add(meet(*output / *requests, {*osl, *osl}, 0.02),
        fmt::format("output tok/s per req/s is {:.1f}, OSL {:g}", middle(*output / *requests), *osl));
  if (mc && e2el && requests) {
    const Bounds busy = *e2el * *requests;
    add(busy.low <= *mc * 1.01,
        fmt::format("E2EL times req/s keeps {:.2f} requests in flight, MC {:g}", middle(busy), *mc));
  }
  // Each answer takes TTFT + (OSL-1) TPOT, so MC clients can not make more than this; without TTFT the bound is weaker.
  if (mc && osl && output && tpot && *osl > 1) {
    const Bounds decode{(*osl - 1) * tpot->low, (*osl - 1) * tpot->high};
    const Bounds most = Bounds{*mc * *osl, *mc * *osl} / (ttft ? *ttft + decode : decode);
    add(output->low <= most.high * 1.05,
        fmt::format("output {:.1f} tok/s, at most {:.1f} from MC, OSL, {}TPOT", middle(*output), middle(most),
                    ttft ? "TTFT and " : ""));
    if (!ttft && output->low <= most.high) {
      const double implied = *mc * *osl / middle(*output) - middle(decode);
      if (implied > 0)
        fits += fmt::format("; leaves {:.0f} ms of TTFT and idling per request", 1e3 * implied);
    }
  }
  if (!fits.empty()) out.push_back({kFits, row.line, label + fits});
}

// ---- The block that bench serve prints

std::optional<Printed> field(const std::string& line, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const std::size_t at = line.find(name);
    if (at == line.npos || line.find_first_not_of(" >|") != at) continue;
    const std::size_t colon = line.find(':', at);
    if (colon == line.npos) continue;
    const auto p = first_printed(line, colon + 1);
    if (p) return p;
  }
  return std::nullopt;
}

struct Block {
  std::size_t line = 0;
  std::map<std::string, Printed> at;
  const Printed* find(const char* key) const {
    const auto it = at.find(key);
    return it == at.end() ? nullptr : &it->second;
  }
};

void check_block(const Block& b, std::vector<Finding>& out) {
  const Printed *duration = b.find("duration"), *requests = b.find("requests"), *input = b.find("input"),
                *output = b.find("output"), *rate = b.find("request rate"),
                *output_rate = b.find("output rate"), *total_rate = b.find("total rate"),
                *ttft = b.find("ttft"), *tpot = b.find("tpot"), *e2el = b.find("e2el"), *mc = b.find("mc");
  std::string fits;
  const auto add = [&](bool good, std::string text) {
    if (good)
      fits += (fits.empty() ? "" : "; ") + text;
    else
      out.push_back({kContradicts, b.line, text});
  };
  const auto product = [&](const Printed* r, const Printed* count, const char* what) {
    if (r == nullptr || duration == nullptr || count == nullptr) return;
    const Bounds made = of(*r) * of(*duration);
    add(made.low <= count->value && count->value <= made.high,
        fmt::format("{} {:g}/s over {:g} s is {:.0f}, counted {:.0f}", what, r->value, duration->value,
                    middle(made), count->value));
  };
  product(rate, requests, "requests");
  product(output_rate, output, "output tokens");
  if (total_rate != nullptr && duration != nullptr && input != nullptr && output != nullptr) {
    const Bounds made = of(*total_rate) * of(*duration);
    const double count = input->value + output->value;
    add(made.low <= count && count <= made.high,
        fmt::format("all tokens {:g}/s over {:g} s is {:.0f}, counted {:.0f}", total_rate->value,
                    duration->value, middle(made), count));
  }
  if (rate != nullptr && e2el != nullptr && mc != nullptr) {
    const Bounds busy = of(*e2el, 1e-3) * of(*rate);
    add(busy.low <= mc->value * 1.01,
        fmt::format("mean E2EL times request throughput keeps {:.2f} requests in flight, limit {:g}",
                    middle(busy), mc->value));
  }
  // Mean E2EL is mean TTFT plus decoding; with lengths that vary TPOT is no token-weighted mean, so only a wide miss counts.
  if (ttft != nullptr && tpot != nullptr && e2el != nullptr && output != nullptr && requests != nullptr &&
      requests->value > 0) {
    const double tokens = output->value / requests->value;
    const double made = ttft->value + (tokens - 1) * tpot->value;
    add(made <= 2 * e2el->high() && e2el->low() <= 2 * made,
        fmt::format("TTFT + (tokens-1) TPOT is {:.0f} ms, mean E2EL {:.0f} ms", made, e2el->value));
  }
  if (!fits.empty()) out.push_back({kFits, b.line, fits});
}

}  // namespace

void audit_throughput_tables(std::string_view text, std::vector<Finding>& findings) {
  for (const PastedTable& t : markdown_tables(text)) {
    std::vector<Quantity> columns;
    for (const std::string& h : t.header) columns.push_back(quantity_of(h));
    for (const TableRow& cells : t.rows) {
      Row row;
      row.line = cells.line;
      std::size_t arms = 1;
      for (std::size_t i = 0; i < std::min(columns.size(), cells.cells.size()); ++i) {
        const Arms a = arms_of(cells.cells[i]);
        check_delta(cells.line, t.header[i], a, findings);
        if (columns[i] == Quantity::kLengths) {
          const std::string& cell = cells.cells[i];
          const std::size_t slash = cell.find_first_of("/,:x");
          const auto isl = first_printed(cell);
          const auto osl =
              slash == cell.npos ? std::nullopt : printed_at(cell, cell.find_first_not_of(" ", slash + 1));
          if (isl && osl) row.cells[Quantity::kIsl] = {{*isl}, {}}, row.cells[Quantity::kOsl] = {{*osl}, {}};
        } else if (columns[i] != Quantity::kNone && !a.values.empty() && !row.cells.contains(columns[i])) {
          row.cells[columns[i]] = a;
          arms = std::max(arms, a.values.size());
        }
      }
      for (std::size_t arm = 0; arm < arms; ++arm)
        check_row(row, arm, arms == 1 ? "" : arm == 0 ? "first: " : "second: ", findings);
    }
  }
}

void audit_serving_blocks(std::string_view text, std::vector<Finding>& findings) {
  std::optional<Block> block;
  std::size_t number = 0;
  const std::vector<std::string> lines = plain_lines(text);
  const auto close = [&] {
    if (block) check_block(*block, findings);
    block.reset();
  };
  for (const std::string& line : lines) {
    ++number;
    if (line.find("serving benchmark result") != line.npos) {
      close();
      block = Block{number, {}};
      continue;
    }
    if (!block) continue;
    const auto take = [&](const char* key, std::initializer_list<const char*> names) {
      if (const auto p = field(line, names)) block->at.emplace(key, *p);
    };
    take("duration", {"benchmark duration"});
    take("requests", {"successful requests"});
    take("input", {"total input tokens"});
    take("output", {"total generated tokens:"});
    take("request rate", {"request throughput"});
    take("output rate", {"output token throughput"});
    take("total rate", {"total token throughput"});
    take("mc", {"maximum request concurrency", "max request concurrency"});
    take("ttft", {"mean ttft"});
    take("tpot", {"mean tpot"});
    take("e2el", {"mean e2el", "mean e2e latency"});
  }
  close();
}

}  // namespace moecheck::harness
