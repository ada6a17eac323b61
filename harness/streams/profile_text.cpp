// What a profile says, for people: text, the lanes as SVG, and the program with its measured starts.
#include <fmt/format.h>

#include <algorithm>

#include "harness/json.h"
#include "harness/report/page.h"
#include "harness/streams/profile_import.h"
#include "harness/streams/program_json.h"
#include "harness/streams/text.h"
#include "harness/text.h"
#include "reference/index.h"

namespace moecheck::harness::streams {
namespace {

using reference::index;
using reference::StreamOrder;
using reference::StreamProgram;
using report::html;

constexpr std::size_t kShown = 24;

std::int64_t size(std::size_t n) { return static_cast<std::int64_t>(n); }

double percent(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

class Writer {
 public:
  Writer(const ImportedProgram& imported, const StreamOrder& order, const ProfileMeasures& m)
      : in_(imported), p_(imported.program), order_(order), m_(m), names_(p_, order) {}

  std::string run() {
    head();
    streams();
    waits();
    contradictions();
    out_ +=
        "unknown   which bytes an operation touches and how long they live: no race can be found, and no "
        "wait "
        "called needed or needless;\n"
        "          waits inside of libraries that were not traced, other threads of the host, order inside "
        "of "
        "graphs,\n"
        "          legacy streams (reports/stream_program.md, \"Programs from profiles\")\n";
    return std::move(out_);
  }

 private:
  const Activity& activity(int step) const {
    return in_.activities[index(in_.origins[index(step)].activity)];
  }
  std::string stream(int s) const { return printable(p_.streams[index(s)].name); }
  std::string stream_of(int step) const { return stream(p_.steps[index(step)].stream); }

  void head() {
    const auto used = std::count_if(m_.streams.begin(), m_.streams.end(),
                                    [](const StreamUse& s) { return s.operations > 0; });
    put(out_, "profile   {}: {} on {}, {} between streams, {:.2f} us\n", printable(p_.name),
        count(size(in_.activities.size()), "operation"), count(used, "stream"),
        count(size(m_.waits.size()), "wait"), m_.span);
    for (const std::string& n : in_.notes) put(out_, "note      {}\n", n);
  }

  void streams() {
    std::size_t shown = 0;
    for (std::size_t s = 0; s < m_.streams.size(); ++s)
      if (m_.streams[s].operations > 0 && ++shown <= 2 * kShown)
        put(out_, "stream    {:<20} {}, busy {:.2f} us ({:.1f}%)\n", stream(static_cast<int>(s)),
            count(m_.streams[s].operations, "operation"), m_.streams[s].busy,
            percent(m_.streams[s].busy, m_.span));
    if (shown > 2 * kShown) put(out_, "stream    ... and {} more\n", shown - 2 * kShown);
    put(out_, "overlap   {:.2f} us with two or more streams busy: {:.1f}% of the {:.2f} us in which one is\n",
        m_.several, percent(m_.several, m_.busy), m_.busy);
    for (std::size_t i = 0; i < m_.shared.size() && i < kShown; ++i)
      put(out_, "  {} and {}: {:.2f} us\n", stream(m_.shared[i].a), stream(m_.shared[i].b),
          m_.shared[i].time);
  }

  void waits() {
    std::vector<const WaitMeasure*> seen;
    std::size_t of[4] = {}, redundant = 0;
    double held = 0;
    for (const WaitMeasure& w : m_.waits) {
      ++of[static_cast<std::size_t>(w.effect)];
      held += w.held;
      redundant += w.redundant;
      if (w.effect != WaitEffect::kUnseen) seen.push_back(&w);
    }
    put(out_,
        "waits     {} held a stream, {:.2f} us in all; {} held it beside another; {} were over already and "
        "cost nothing; {} are redundant by the order of the rest\n",
        of[0], held, of[1], of[2], redundant);
    if (of[3] > 0)
      put(out_, "  of {} the profile does not show what is awaited, or what waits\n",
          count(size(of[3]), "wait"));
    if (seen.size() > kShown) {
      std::stable_sort(seen.begin(), seen.end(), [](const WaitMeasure* a, const WaitMeasure* b) {
        return a->held != b->held ? a->held > b->held : a->redundant > b->redundant;
      });
      put(out_, "  the {} that held longest\n", kShown);
      seen.resize(kShown);
    }
    for (const WaitMeasure* w : seen) wait(*w);
  }

  void wait(const WaitMeasure& w) {
    put(out_, "wait      {} for {} ({}{}), ahead of {}: ", stream_of(w.step), names_.step(w.awaited),
        stream_of(w.awaited), in_.origins[index(w.step)].assumed ? ", assumed" : "", names_.step(w.behind));
    const std::string gap = w.ahead < 0 ? "" : fmt::format(", in a gap of {:.2f} us", w.gap);
    if (w.effect == WaitEffect::kHeld)
      put(out_, "held {:.2f} us{}", w.held, gap);
    else if (w.effect == WaitEffect::kHeldBeside)
      put(out_, "not over yet, but another wait took longer{}", gap);
    else
      put(out_, "was over already, cost nothing");
    if (w.redundant) put(out_, "; redundant, its order is there already: {}", names_.path(w.path));
    out_ += '\n';
  }

  void contradictions() {
    if (m_.contradiction_count == 0) {
      out_ += "order     no operation ran against the program's order\n";
      return;
    }
    const bool assumed =
        std::any_of(in_.origins.begin(), in_.origins.end(), [](const StepOrigin& o) { return o.assumed; });
    put(out_,
        "order     {} ran against the program's order: the profile was misread, {}or does not tell the "
        "truth; "
        "believe no line above\n",
        count(m_.contradiction_count, "pair"), assumed ? "what is assumed is wrong, " : "");
    for (std::size_t i = 0; i < m_.contradictions.size() && i < kShown; ++i) {
      const Contradiction& c = m_.contradictions[i];
      put(out_, "  {} ({}) should be over before {} ({}), which {} {:.2f} us too early: {}\n",
          names_.step(c.first), stream_of(c.first), names_.step(c.second), stream_of(c.second),
          c.reversed ? "ran first, and began" : "began", c.by,
          names_.path(order_.path(order_.nodes_of(c.first).front(), order_.nodes_of(c.second).front())));
    }
  }

  const ImportedProgram& in_;
  const StreamProgram& p_;
  const StreamOrder& order_;
  const ProfileMeasures& m_;
  const NodeNames names_;
  std::string out_;
};

}  // namespace

std::string profile_text(const ImportedProgram& imported, const StreamOrder& order,
                         const ProfileMeasures& measures) {
  return Writer(imported, order, measures).run();
}

// program_json puts a step on each line behind "steps": its closing brace moves behind one more key.
std::string imported_json(const ImportedProgram& in) {
  const std::string text = program_json(in.program);
  std::string out;
  bool steps = false;
  std::size_t step = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size() - 1);
    std::string line = text.substr(at, end - at);
    at = end + 1;
    if (steps && line.starts_with("  {") && step < in.origins.size()) {
      const StepOrigin& o = in.origins[step++];
      if (o.activity >= 0)
        line.insert(line.rfind('}'),
                    ",\"x-start\":" + nlohmann::json(in.activities[index(o.activity)].start).dump());
      if (o.assumed) line.insert(line.rfind('}'), ",\"x-assumed\":true");
    }
    steps = steps || line.starts_with(" \"steps\": [");
    out += line + '\n';
  }
  return out;
}

std::string profile_svg(const ImportedProgram& in, const ProfileMeasures& m) {
  const StreamProgram& p = in.program;
  constexpr double kLeft = 150, kTop = 34, kLane = 44, kBox = 26, kWidth = 1400;
  std::vector<int> lane(p.streams.size(), -1);
  int lanes = 0;
  for (std::size_t s = 0; s < lane.size(); ++s)
    if (m.streams[s].operations > 0) lane[s] = lanes++;
  const double first = in.activities.front().start, unit = kWidth / std::max(m.span, 1e-3);
  const auto x = [&](double t) { return kLeft + (t - first) * unit; };
  const auto y = [&](int step) { return kTop + kLane * lane[index(p.steps[index(step)].stream)]; };
  const auto activity = [&](int step) -> const Activity& {
    return in.activities[index(in.origins[index(step)].activity)];
  };
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "height=\"{1:.0f}\" font-family=\"ui-monospace, monospace\" font-size=\"11\">\n<title>{2}</title>\n"
      "<style>rect.o{{fill:#dbe7f5;stroke:#33567f;stroke-width:.5}}path{{stroke:#888;fill:none}}"
      "path.h{{stroke:#a02c20;stroke-width:2}}text{{fill:#222}}</style>\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
      kLeft + kWidth + 20, kTop + kLane * lanes + 30, html(p.name));
  for (std::size_t s = 0; s < lane.size(); ++s)
    if (lane[s] >= 0)
      put(out, "<text x=\"8\" y=\"{:.1f}\">{}</text>\n", kTop + kLane * lane[s] + 17,
          html(p.streams[s].name));
  for (std::size_t i = 0; i < p.steps.size(); ++i) {
    if (in.origins[i].activity < 0) continue;
    const int step = static_cast<int>(i);
    const Activity& a = activity(step);
    const double width = std::max(0.5, (a.end - a.start) * unit);
    put(out,
        "<rect class=\"o\" x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{}\"><title>{}: {:.2f} to "
        "{:.2f} "
        "us</title></rect>\n",
        x(a.start), y(step), width, kBox, html(p.steps[i].name), a.start, a.end);
    if (width > 7 * static_cast<double>(p.steps[i].name.size()))
      put(out, "<text x=\"{:.2f}\" y=\"{:.1f}\">{}</text>\n", x(a.start) + 3, y(step) + 17,
          html(p.steps[i].name));
  }
  for (const WaitMeasure& w : m.waits) {
    if (w.effect == WaitEffect::kUnseen) continue;
    put(out, "<path{} d=\"M{:.2f},{:.1f}L{:.2f},{:.1f}\"><title>{}: {}</title></path>\n",
        w.effect == WaitEffect::kHeld ? " class=\"h\"" : "", x(activity(w.awaited).end),
        y(w.awaited) + kBox / 2, x(activity(w.behind).start), y(w.behind) + kBox / 2, name(w.effect),
        html(p.steps[index(w.awaited)].name + " -> " + p.steps[index(w.behind)].name));
  }
  put(out,
      "<text x=\"8\" y=\"{:.0f}\">measured, {:.2f} us; {:.2f} us with two or more streams busy. red: a wait "
      "that "
      "held its stream.</text>\n</svg>\n",
      kTop + kLane * lanes + 18, m.span, m.several);
  return out;
}

}  // namespace moecheck::harness::streams
