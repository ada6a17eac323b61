#!/usr/bin/env python3
"""Tables of what scripts/gpu.sh wrote: scripts/gpu_report.py reports/gpu > reports/gpu/tables.md"""
import json
import pathlib
import sys

READ = 3.05e12  # bytes per second: an H100's read bandwidth, which floors of MoE blocks are counted with
# Targets, in microseconds by case, or fraction of copy bandwidth, or times the floor.
MICROSECONDS = {("deepseek-v3", 8192): 12, ("glm-4.7", 8192): 9, ("kimi-k2", 8192): 14}
SMALL_GATING, CACHE_FRACTION, BLOCK_TIMES = 3.5, 0.85, 1.10


def fields(case):
    operator, *words = case.split()
    return operator, dict(w.split("=", 1) for w in words)


def target(r):
    """The target as text, and whether it is met; None without one."""
    operator, f = fields(r["case"])
    us = r["median_seconds"] * 1e6
    tokens = int(r["tokens"])
    if operator == "gating":
        limit = MICROSECONDS.get((f.get("model"), tokens), SMALL_GATING if tokens <= 128 else None)
        return limit and (f"{limit} us", us <= limit)
    if operator == "indexer_cache" and tokens == 262144:
        return f"{CACHE_FRACTION:.0%} of copy", r["fraction_of_copy_bandwidth"] >= CACHE_FRACTION
    if operator == "moe_block":
        limit = BLOCK_TIMES * r["bytes"] / READ * 1e6
        return f"{limit:.1f} us ({BLOCK_TIMES} x reading)", us <= limit
    return None


def times_reading(r):
    return "" if r["bytes"] < 5e6 else f"{r['median_seconds'] / (r['bytes'] / READ):.2f}"


def bench(folder):
    data = json.loads((folder / "bench.json").read_text())
    print(f"{data['device']}; commit {data['commit']}; {data['compiler']}\n")
    print("| case | median | moved | of copy bandwidth | times reading at 3.05 TB/s | target | verdict |")
    print("|---|---|---|---|---|---|---|")
    for r in data["results"]:
        goal = target(r)
        print(f"| `{r['case']}` | {r['median_seconds'] * 1e6:.1f} us | {r['bytes'] / 1e6:.2f} MB "
              f"| {r['fraction_of_copy_bandwidth']:.0%} | {times_reading(r)} "
              f"| {'' if not goal else goal[0] + (': met' if goal[1] else ': **missed**')} | {r['verdict']} |")


def suites(folder):
    print("| suite | operator | implementation | checks | verdicts | elements | largest error / bound |")
    print("|---|---|---|---|---|---|---|")
    for suite in ("quick", "models", "adversarial"):
        for g in json.loads((folder / f"suite_{suite}.json").read_text())["checks"]:
            verdicts = ", ".join(f"{n} {v}" for v, n in g["verdicts"].items())
            print(f"| {suite} | `{g['operator']}` | {g['implementation']} | {sum(g['verdicts'].values())} | {verdicts} "
                  f"| {g['elements']:,} | {g.get('error_over_bound', 0):.1%} |")
    print("\nKernels that ran in these suites, and those that never did:\n")
    ran, known = {}, set()
    for suite in ("quick", "models", "adversarial"):
        for k in json.loads((folder / f"suite_{suite}.json").read_text())["kernels"]:
            for name, n in k["ran"].items():
                ran[name] = ran.get(name, 0) + n
            known |= set(k["ran"]) | set(k["never"])
    never = sorted(known - set(ran))
    print(f"{len(ran)} of {len(known)} ran. Never: {'; '.join(never) if never else 'none'}.")


def sanitizers(folder):
    runs = json.loads((folder / "sanitizers.json").read_text())["runs"]
    print("| tool | said | checks | by operator |")
    print("|---|---|---|---|")
    for r in runs:
        print(f"| {r['tool']} | {r['summary']}, exit code {r['exit_code']} | {sum(r['checks'].values())} "
              f"| {', '.join(f'{o} {n}' for o, n in r['checks'].items())} |")


def main():
    folder = pathlib.Path(sys.argv[1])
    for title, part, needs in (("Speed", bench, "bench.json"), ("Suites", suites, "suite_adversarial.json"),
                               ("compute-sanitizer over the quick suite", sanitizers, "sanitizers.json")):
        if (folder / needs).exists():
            print(f"## {title}\n")
            part(folder)
            print()


main()
