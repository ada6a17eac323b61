// The pull request report as one page.
#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "harness/report/page.h"
#include "harness/report/pr_plots.h"
#include "harness/report/pr_text.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using namespace report;

std::string_view tone(ComparisonVerdict v) {
  switch (v) {
    case ComparisonVerdict::kNoRegression:
    case ComparisonVerdict::kWorseWithinMargin:
      return "good";
    case ComparisonVerdict::kRegression:
    case ComparisonVerdict::kInvalidRun:
      return "bad";
    case ComparisonVerdict::kInconclusive:
      break;
  }
  return "";
}

void keys(std::string& out, const PrReport& r) {
  put(out,
      "<p class=\"note keys\"><span><i class=\"key a\"></i>{}</span><span><i class=\"key "
      "b\"></i>{}</span></p>\n",
      html(r.input.a.label), html(r.input.b.label));
}

void header(std::string& out, const PrReport& r) {
  put(out,
      "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
      "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
      "<meta name=viewport content=\"width=device-width, initial-scale=1\">\n<meta name=color-scheme "
      "content=\"light dark\">\n"
      "<title>{}</title>\n<style>{}{}</style>\n</head>\n<body>\n<main>\n<header>\n<p "
      "class=brand>moecheck<span>{}</span></p>\n",
      html(r.input.title), kStyle, kPlotStyle, html(r.input.title));
  if (r.accuracy)
    put(out, "<h1><span class={}>{}</span></h1>\n<p class=lede>{}</p>\n",
        tone(r.accuracy->verdict).empty() ? "open" : tone(r.accuracy->verdict),
        html(name(r.accuracy->verdict)), html(r.accuracy->reason));
  else
    put(out, "<h1>{}</h1>\n", html(sweep_text(r)));
  if (r.accuracy && !r.sweep.empty())
    put(out, "<p class=lede>Output throughput: {}.</p>\n", html(sweep_text(r)));
  out += "<nav>";
  if (r.accuracy) out += "<a href=#accuracy>Accuracy</a><a href=#flips>Flips</a>";
  if (!r.sweep.empty()) out += "<a href=#performance>Performance</a><a href=#latency>Latency</a>";
  out += "<a href=#how>Commands and environment</a></nav>\n</header>\n";
}

void accuracy_plots(std::string& out, const PrReport& r) {
  const Comparison& c = *r.accuracy;
  std::vector<Whisker> rows;
  for (const FilterComparison& f : c.filters)
    for (const auto& [arm, score, css] :
         {std::tuple(&r.input.a, &f.a, "a"), std::tuple(&r.input.b, &f.b, "b")})
      rows.push_back({fmt::format("{}", printable(css[0] == 'a' ? f.filter : arm->label, 17)), css,
                      score->mean, wilson(score->right, score->n),
                      fmt::format("{:.2f}%", 100 * score->mean)});
  const FilterComparison& p = c.filters[c.primary];
  out += "<div class=plots>\n";
  put_whiskers(out, "Accuracy", "with Wilson's 95% interval", rows);
  put_difference(out, "Difference",
                 fmt::format("of {}, with Tango's 95% interval; the zone begins at the margin of {:g} points",
                             p.filter, 100 * c.options.margin),
                 p.counts.difference(), p.verdict.interval, c.options.margin);
  put_shares(out, "Questions", fmt::format("by {}", p.filter),
             {{"right in both", "same", p.counts.both},
              {"right to wrong", "worse", p.counts.regressions},
              {"wrong to right", "fixed", p.counts.fixes},
              {"wrong in both", "none", p.counts.neither}});
  out += "</div>\n";
}

void accuracy_table(std::string& out, const PrReport& r) {
  const Comparison& c = *r.accuracy;
  put(out,
      "<div class=\"panel scroll\" style=\"margin-top:14px\"><table "
      "class=figures><thead><tr><th></th><th>{}</th><th>{}</th><th>difference, points</th>"
      "<th>worse, fixed</th><th>McNemar p</th><th>loss ruled out</th></tr></thead><tbody>\n",
      html(r.input.a.label), html(r.input.b.label));
  for (const FilterComparison& f : c.filters)
    put(out,
        "<tr><th>{}</th><td>{}</td><td>{}</td><td>{:+.2f}<small>{}</small></td><td>{}, "
        "{}</td><td>{}</td><td>{:.2f}</td></tr>\n",
        html(f.filter), accuracy_text(f.a), accuracy_text(f.b), 100 * f.counts.difference(),
        points_text(f.verdict.interval), f.counts.regressions, f.counts.fixes,
        p_value_text(f.verdict.two_sided_p), 100 * f.verdict.proven_margin);
  const auto row = [&](std::string_view what, std::int64_t a, std::int64_t b) {
    put(out, "<tr><th>{}</th><td>{}</td><td>{}</td><td></td><td></td><td></td><td></td></tr>\n", what, a, b);
  };
  row("failed", c.a.failed, c.b.failed);
  row("truncated", c.a.truncated, c.b.truncated);
  row("empty", c.a.empty, c.b.empty);
  row("run on", c.a.run_on, c.b.run_on);
  put(out, "</tbody></table></div>\n<ul class=statements><li>{:.1f}% of the texts are identical",
      100 * c.texts.share());
  if (c.texts.median_divergence >= 0)
    put(out, ", half of the others part before character {}", c.texts.median_divergence + 1);
  out += "</li>";
  if (c.noise)
    put(out, "<li>{} against itself: {} flips, {:.1f}% identical texts; more flips than that: p = {}</li>",
        html(r.input.a.label), c.noise->counts.discordant(), 100 * c.noise->texts.share(),
        p_value_text(c.noise->excess_p));
  out += "</ul>\n";
}

void accuracy_section(std::string& out, const PrReport& r) {
  const Comparison& c = *r.accuracy;
  const std::string hash = c.task_hash.empty() ? ""
                                               : fmt::format(", the same prompts (task hash <code>{}</code>)",
                                                             html(c.task_hash.substr(0, 16)));
  open_section(out, "accuracy", "Accuracy",
               fmt::format("{}, {}-shot: {} answered by both arms{}. Pairs decide, not the two scores.",
                           html(c.task), r.input.a.accuracy->num_fewshot, count(c.pairs, "question"), hash));
  keys(out, r);
  if (!c.filters.empty()) {
    accuracy_plots(out, r);
    accuracy_table(out, r);
  }
  out += "</section>\n";
}

void flips_section(std::string& out, const PrReport& r) {
  const Comparison& c = *r.accuracy;
  constexpr std::size_t kShown = 40;
  open_section(out, "flips", "Flips",
               "Questions that one arm answers and the other does not, and where the two texts part.");
  if (c.flips.empty()) {
    out += "<p class=note>None.</p></section>\n";
    return;
  }
  put(out,
      "<div class=\"panel scroll\"><table class=figures><thead><tr><th>question</th><th "
      "class=name>change</th><th class=name>{}</th><th class=name>{}</th></tr></thead><tbody>\n",
      html(r.input.a.label), html(r.input.b.label));
  for (std::size_t i = 0; i < std::min(kShown, c.flips.size()); ++i) {
    const Flip& f = c.flips[i];
    const std::string at =
        f.divergence < 0 ? "identical texts" : fmt::format("from character {}", f.divergence + 1);
    put(out,
        "<tr><th>{}</th><td class=name><span class={}>{} to {}</span><small>{}</small></td><td class=\"name "
        "left\">{}<small>{}</small></td><td class=\"name left\">{}<small>{}</small></td></tr>\n",
        f.doc_id, f.regression ? "worse" : "better", name(f.a_outcome), name(f.b_outcome), at,
        html(printable(f.a_extracted, 40)), html(printable(f.a_text, 120)),
        html(printable(f.b_extracted, 40)), html(printable(f.b_text, 120)));
  }
  out += "</tbody></table></div>\n";
  if (c.flips.size() > kShown)
    put(out, "<p class=note>and {} more, in the sample files</p>\n", c.flips.size() - kShown);
  out += "</section>\n";
}

std::string change_cell(const load::Change& c) {
  if (c.a == 0 && c.b == 0) return "<td class=zero>&ndash;</td>";
  const std::string_view css = c.meaning == load::Meaning::kBetter  ? " class=better"
                               : c.meaning == load::Meaning::kWorse ? " class=worse"
                                                                    : "";
  return fmt::format("<td>{} &rarr; {}<small><span{}>{}</span></small></td>", number_text(c.a),
                     number_text(c.b), css, html(change_text(c)));
}

void sweep_table(std::string& out, const PrReport& r) {
  out +=
      "<div class=\"panel scroll\"><table class=figures><thead><tr><th>ISL / "
      "OSL</th><th>concurrency</th><th>runs</th><th>output tok/s</th><th>mean TTFT (ms)</th>"
      "<th>mean TPOT (ms)</th><th>mean E2EL (ms)</th><th>acceptance length</th></tr></thead><tbody>\n";
  for (const load::SweepRow& x : r.sweep) {
    put(out, "<tr><th>{}</th><td>{}</td><td>{} + {}</td>{}{}{}{}", html(load_text(x)),
        html(concurrency_text(x)), x.runs_a, x.runs_b, change_cell(x.throughput), change_cell(x.ttft),
        change_cell(x.tpot), change_cell(x.e2el));
    if (x.acceptance_a && x.acceptance_b)
      put(out, "<td>{:.2f} &rarr; {:.2f}</td></tr>\n", *x.acceptance_a, *x.acceptance_b);
    else
      out += "<td class=zero>&ndash;</td></tr>\n";
  }
  out += "</tbody></table></div>\n";
}

using Traffic = std::tuple<std::string, std::int64_t, std::int64_t>;  // dataset, ISL, OSL

void throughput_plots(std::string& out, const PrReport& r) {
  std::map<Traffic, std::pair<Points, Points>> shapes;
  for (const bool second : {false, true})
    for (const load::SavedBench& b : (second ? r.input.b : r.input.a).benches) {
      if (!b.invalid.empty() || b.max_concurrency == 0) continue;
      auto& [left, right] = shapes[{b.dataset, b.input_len, b.output_len}];
      (second ? right : left).emplace_back(static_cast<double>(b.max_concurrency), b.output_throughput);
    }
  if (shapes.empty()) return;
  out += "<div class=plots style=\"margin-top:14px\">\n";
  for (const auto& [shape, points] : shapes)
    put_lines(out, "Output tok/s", fmt::format("ISL {}, OSL {}", std::get<1>(shape), std::get<2>(shape)),
              "requests at once", points.first, points.second);
  out += "</div>\n";
}

struct Pools {
  std::vector<double> ttft[2], gaps[2], e2el[2];
};

void latency_section(std::string& out, const PrReport& r) {
  std::map<std::tuple<std::string, double, std::int64_t, std::int64_t, std::int64_t>, Pools> points;
  for (const std::size_t arm : {0u, 1u})
    for (const load::SavedBench& b : (arm == 1 ? r.input.b : r.input.a).benches) {
      if (!b.invalid.empty()) continue;
      Pools& p = points[{b.dataset, b.request_rate, b.input_len, b.output_len, b.max_concurrency}];
      p.ttft[arm].insert(p.ttft[arm].end(), b.ttfts.begin(), b.ttfts.end());
      p.gaps[arm].insert(p.gaps[arm].end(), b.itls.begin(), b.itls.end());
      p.e2el[arm].insert(p.e2el[arm].end(), b.e2els.begin(), b.e2els.end());
    }
  open_section(out, "latency", "Latency",
               "Share of requests (of gaps, for ITL) within a time; all valid runs of a point together.");
  keys(out, r);
  out += "<div class=plots>\n";
  for (const auto& [key, p] : points) {
    const auto& [dataset, rate, input, output, at_once] = key;
    std::string at = fmt::format("{}, OSL {}", input > 0 ? fmt::format("ISL {}", input) : dataset, output);
    at += at_once > 0 ? fmt::format(", {} at once", at_once) : ", no limit";
    if (!std::isinf(rate)) at += fmt::format(", {:g} req/s", rate);
    put_cdf(out, "TTFT", at, p.ttft[0], p.ttft[1]);
    put_cdf(out, "ITL", at, p.gaps[0], p.gaps[1]);
    put_cdf(out, "E2EL", at, p.e2el[0], p.e2el[1]);
  }
  out += "</div>\n</section>\n";
}

void performance_section(std::string& out, const PrReport& r) {
  open_section(out, "performance", "Performance",
               "Means over runs, and the change with its 95% interval from repeats; in colour where it is "
               "beyond noise. One run per arm says nothing about noise.");
  keys(out, r);
  sweep_table(out, r);
  throughput_plots(out, r);
  out += "</section>\n";
}

void how_section(std::string& out, const PrReport& r) {
  open_section(out, "how", "Commands and environment", "From the result files.");
  const auto notes = cautions(r);
  if (!notes.empty()) {
    out += "<ul class=cautions>";
    for (const std::string& c : notes) put(out, "<li>{}</li>", html(c));
    out += "</ul>\n";
  }
  out += "<div class=cmds style=\"margin-top:16px\">\n";
  for (const Command& c : commands(r))
    put(out, "<p>{}{}</p><p class=cmd><code>{}</code></p>\n", html(c.arm),
        c.recorded ? "" : ", from what the result says was run", html(c.line));
  out += "</div>\n<dl class=env>";
  for (const Place& p : environments(r))
    put(out, "<div><dt>{}</dt><dd>{}</dd></div>", html(p.what), html(p.value));
  out += "</dl>\n</section>\n";
}

}  // namespace

std::string pr_html(const PrReport& r) {
  std::string out;
  header(out, r);
  if (r.accuracy) {
    accuracy_section(out, r);
    flips_section(out, r);
  }
  if (!r.sweep.empty()) {
    performance_section(out, r);
    latency_section(out, r);
  }
  how_section(out, r);
  out +=
      "<footer><p class=note>This page loads nothing and runs no "
      "script.</p></footer>\n</main>\n</body>\n</html>\n";
  return out;
}

}  // namespace moecheck::harness
