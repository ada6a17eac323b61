// moecheck plan: how many questions show what.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>

#include "harness/cli/cli.h"
#include "harness/json.h"
#include "harness/statistics/paired.h"
#include "harness/statistics/planning.h"
#include "harness/tasks/files.h"
#include "harness/tasks/python_text.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;

struct PlanArguments {
  double margin = 1.0, discordance = 0.03, accuracy = 0.95, alpha = 0.05, power = 0.8;
  std::vector<std::int64_t> questions{256, 1319};
  std::string json;
};

PairedCounts without_flips(std::int64_t n) {
  PairedCounts c;
  c.both = n;
  return c;
}

// The fewest regressions in a row, no fix between them, at which a watched run may stop.
int stopping_run(double alpha) {
  int m = 1;
  while (log_e_value(m, 0) < -std::log(alpha)) ++m;
  return m;
}

std::vector<double> shares(const PlanArguments& a) {
  std::vector<double> list{0.01, 0.02, 0.03, 0.05, 0.10};
  if (std::find(list.begin(), list.end(), a.discordance) == list.end()) list.push_back(a.discordance);
  std::sort(list.begin(), list.end());
  return list;
}

std::string points_text(double points) { return fmt::format("{:g} point{}", points, points == 1 ? "" : "s"); }

Json plan_json(const PlanArguments& a) {
  Json j;
  j["margin_points"] = a.margin;
  j["discordance"] = a.discordance;
  j["alpha"] = a.alpha;
  j["power"] = a.power;
  j["questions_needed"] = questions_for_margin(a.discordance, a.margin / 100, a.alpha, a.power);
  for (const double psi : shares(a))
    j["questions_by_discordance"].push_back(
        {{"discordance", psi}, {"questions", questions_for_margin(psi, a.margin / 100, a.alpha, a.power)}});
  for (const std::int64_t n : a.questions) {
    const auto m = static_cast<double>(n);
    const auto paired = paired_detectable(a.discordance, m, a.alpha, a.power);
    j["at"].push_back(
        {{"questions", n},
         {"provable_margin_points", 100 * provable_margin(a.discordance, m, a.alpha, a.power)},
         {"provable_margin_without_flips_points", 100 * proven_margin(without_flips(n), a.alpha)},
         {"paired_detectable_points", paired ? Json(100 * *paired) : Json(nullptr)},
         {"unpaired_detectable_points", 100 * unpaired_detectable(a.accuracy, m, a.alpha, a.power)},
         {"noise_sd_points", 100 * noise_sd(a.discordance, m)}});
  }
  j["regressions_in_a_row_that_stop"] = stopping_run(a.alpha);
  return j;
}

int plan(const PlanArguments& a) {
  if (!a.json.empty()) write_text(a.json, python_json(plan_json(a), 1) + "\n");
  if (a.json == "-") return kExitFine;
  const double margin = a.margin / 100;
  fmt::print("To rule out a loss of {} (error {:g}% one-sided, power {:g}%, no true difference):\n", a.margin,
             100 * a.alpha, 100 * a.power);
  fmt::print("  {:>14}  {:>9}\n", "flips, share", "questions");
  for (const double psi : shares(a))
    fmt::print("  {:>13.1f}%  {:>9}{}\n", 100 * psi,
               grouped(questions_for_margin(psi, margin, a.alpha, a.power)),
               psi == a.discordance ? "  <-" : "");
  for (const std::int64_t n : a.questions) {
    const auto m = static_cast<double>(n);
    const double provable = provable_margin(a.discordance, m, a.alpha, a.power);
    const auto paired = paired_detectable(a.discordance, m, a.alpha, a.power);
    fmt::print("\n{} questions, {:g}% of them flipping between two runs:\n", grouped(n), 100 * a.discordance);
    fmt::print("  {} rule out a loss of {}; {:.2f} is what they rule out ({:.2f} if not one flips)\n",
               provable <= margin ? "can" : "can NOT", points_text(a.margin), 100 * provable,
               100 * proven_margin(without_flips(n), a.alpha));
    if (paired)
      fmt::print("  find a true difference of {:.2f} points (McNemar, two-sided)\n", 100 * *paired);
    else
      fmt::print(
          "  find no true difference reliably: even if every flip were a regression, there are too few\n");
    fmt::print("  two runs compared by their scores alone find {:.2f} points (accuracy {:g}%)\n",
               100 * unpaired_detectable(a.accuracy, m, a.alpha, a.power), 100 * a.accuracy);
    fmt::print("  noise alone moves the difference by {:.2f} points (standard deviation)\n",
               100 * noise_sd(a.discordance, m));
  }
  fmt::print(
      "\nA broken kernel shows sooner: a watched run may stop at {} regressions without a fix between them.\n"
      "The share of flips is measured by running A twice: moecheck compare A A_AGAIN.\n",
      stopping_run(a.alpha));
  return kExitFine;
}

}  // namespace

void add_plan(CLI::App& app, Action& action) {
  auto a = std::make_shared<PlanArguments>();
  CLI::App* sub =
      app.add_subcommand("plan", "How many questions an accuracy comparison needs, and what n can not show");
  sub->add_option("--margin", a->margin, "Loss in points that would matter")
      ->check(CLI::Range(0.01, 100.0))
      ->capture_default_str()
      ->type_name("POINTS");
  sub->add_option("--discordance", a->discordance, "Share of questions that flip between two runs")
      ->check(CLI::Range(0.0001, 1.0))
      ->capture_default_str()
      ->type_name("SHARE");
  sub->add_option("--questions", a->questions, "Sample sizes to tell about")
      ->check(CLI::Range(2, 100000000))
      ->capture_default_str()
      ->type_name("N");
  sub->add_option("--accuracy", a->accuracy, "Accuracy expected, for unpaired runs")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str()
      ->type_name("SHARE");
  sub->add_option("--alpha", a->alpha, "Error rate")->check(CLI::Range(1e-6, 0.5))->capture_default_str();
  sub->add_option("--power", a->power, "Chance to find it")
      ->check(CLI::Range(0.5, 0.999))
      ->capture_default_str();
  sub->add_option("--json", a->json, "Write the numbers; - is standard output")->type_name("FILE|-");
  sub->callback([a, &action] { action = [a] { return plan(*a); }; });
}

}  // namespace moecheck::harness
