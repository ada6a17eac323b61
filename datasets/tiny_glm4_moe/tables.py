"""Markdown tables of evaluate.py's results, and a check of them against the canary's targets."""


def percent(x):
    return f"{100 * x:.1f}"


def p_value(p):
    return "1" if p >= 0.995 else f"{p:.2f}" if p >= 0.01 else f"{p:.0e}"


def cell(row, shots):
    x = row[f"{shots}shot"]
    return f"{percent(x['accuracy'])} (-{x['lost']} +{x['gained']}, p {p_value(x['p'])})"


def label(row):
    return row["title"] + ("" if row["kind"] in ("right", "control") else " *" if not row["trained"] else "")


def markdown(result):
    models = result["models"]
    names = list(models)
    lines = ["| " + " | ".join(["", *[h for n in names for h in (f"{n} 0-shot", "5-shot", "perplexity", "MTP acceptance")]]) + " |",
             "|---" * (1 + 4 * len(names)) + "|"]
    keys = [(r["kind"], r["name"]) for r in models[names[0]]["rows"] if r["kind"] in ("right", "control", "all")]
    for key in keys:
        cells = []
        for n in names:
            r = next(r for r in models[n]["rows"] if (r["kind"], r["name"]) == key)
            cells += [cell(r, 0), cell(r, 5), f"{min(r['perplexity'], 9999):.4g}", percent(r["acceptance"])]
        lines.append(f"| {label(r)} | " + " | ".join(cells) + " |")
    for n in names:
        rows = [r for r in models[n]["rows"] if r["kind"] == "single"]
        layers = sorted({r["layer"] for r in rows})
        lines += ["", f"A fault in one layer of {n} only: accuracy 0-shot by layer (~: not visible, p >= 0.01); MTP: acceptance with "
                  "the fault in the MTP layer only.", "", "| | " + " | ".join(map(str, layers)) + " | MTP |",
                  "|---" * (len(layers) + 2) + "|"]
        mtp = {r["name"]: r for r in models[n]["rows"] if r["kind"] == "mtp"}
        singles = {}
        for r in rows:
            singles.setdefault(r["name"], {})[r["layer"]] = r
        for name in dict.fromkeys([*singles, *mtp]):
            per = singles.get(name, {})
            first = next(iter(per.values())) if per else mtp[name]
            cells = ["" if i not in per else percent(per[i]["0shot"]["accuracy"]) + ("~" if per[i]["0shot"]["p"] >= 0.01 else "")
                     for i in layers]
            lines.append(f"| {label(first)} | " + " | ".join([*cells, percent(mtp[name]["acceptance"]) if name in mtp else ""]) + " |")
    return "\n".join(lines)


def summary(result):
    """The targets each model misses, as text."""
    out = []
    for name, m in result["models"].items():
        rows = m["rows"]
        right = rows[0]
        out.append(f"{name}: full {m['full']}, acceptance {percent(right['acceptance'])}")
        for r in rows:
            where = f"{r['kind']} {r['name']}" + (f"@{r['layer']}" if "layer" in r else "")
            if r["kind"] == "control":
                for s in (0, 5):
                    gap = abs(r[f"{s}shot"]["accuracy"] - right[f"{s}shot"]["accuracy"])
                    if gap > 0.02:
                        out.append(f"  {where}: {s}-shot off by {percent(gap)}")
            elif r["kind"] == "all":
                limit = 0.05 if r["trained"] else 1.0
                if r["0shot"]["accuracy"] > limit or r["0shot"]["p"] >= 0.01 or r["5shot"]["p"] >= 0.01:
                    out.append(f"  {where} ({'trained' if r['trained'] else 'untrained'}): {cell(r, 0)} 5-shot {cell(r, 5)}")
            elif r["kind"] == "single" and r["0shot"]["p"] >= 0.01:
                out.append(f"  {where}: {cell(r, 0)}")
            elif r["kind"] == "mtp" and right["acceptance"] - r["acceptance"] < 0.2:
                out.append(f"  {where}: acceptance {percent(r['acceptance'])}")
    return "\n".join(out)
