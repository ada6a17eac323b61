"""Statistics of accuracy comparisons as scipy, statsmodels and mpmath compute them -> statistics.json.

Run: pip install scipy statsmodels mpmath; python3 datasets/golden/make_statistics.py
Tango's test, which neither package has, is done from its definition: the multinomial likelihood is maximised under
p01 - p10 = D by mpmath, without the closed form. The e-value is integrated numerically from its mixture.
"""

import json
import math
import pathlib
import random

import mpmath
import numpy
import scipy
import scipy.optimize
import scipy.stats
import statsmodels
import statsmodels.api
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

SEED = 20261122
mpmath.mp.dps = 40
random.seed(SEED)


def binomials():
    rows = []
    for n in (1, 2, 5, 20, 256, 1319, 20000):
        for p in (0.5, 0.95, 0.003):
            for k in sorted({0, 1, n // 3, n // 2, int(n * p), n - 1, n}):
                with mpmath.workdps(60):
                    P = mpmath.mpf(p)
                    lower = sum(mpmath.binomial(n, i) * P**i * (1 - P) ** (n - i) for i in range(k + 1)) if n <= 1319 else None
                    upper = sum(mpmath.binomial(n, i) * P**i * (1 - P) ** (n - i) for i in range(k, n + 1)) if n <= 1319 else None
                rows.append(
                    dict(
                        k=k,
                        n=n,
                        p=p,
                        log_pmf=float(mpmath.log(mpmath.binomial(n, k)) + k * mpmath.log(P) + (n - k) * mpmath.log(1 - P)),
                        cdf=float(lower) if lower is not None else float(scipy.stats.binom.cdf(k, n, p)),
                        upper=float(upper) if upper is not None else float(scipy.stats.binom.sf(k - 1, n, p)),
                        log_choose=float(mpmath.log(mpmath.binomial(n, k))),
                    )
                )
    return rows


def normals():
    rows = [dict(z=z, cdf=float(mpmath.ncdf(z)), upper=float(mpmath.ncdf(-z))) for z in (-9.0, -3.3, -1.0, 0.0, 0.4, 2.0, 7.5)]
    quantiles = [dict(p=p, z=float(scipy.stats.norm.ppf(p))) for p in (1e-12, 1e-4, 0.025, 0.05, 0.2, 0.5, 0.8, 0.95, 0.975, 0.9999)]
    return rows, quantiles


def intervals():
    rows = []
    for n in (1, 10, 256, 1319):
        for k in sorted({0, 1, n // 4, n // 2, int(0.95 * n), n - 1, n}):
            for alpha in (0.05, 0.1):
                w = proportion_confint(k, n, alpha, method="wilson")
                b = proportion_confint(k, n, alpha, method="beta")
                rows.append(dict(k=k, n=n, alpha=alpha, wilson=[float(x) for x in w], clopper_pearson=[float(x) for x in b]))
    return rows


def tango_z(n, n10, n01, D):
    """The score statistic, with p10 at its maximum likelihood under p01 = p10 + D."""
    D = mpmath.mpf(D)
    low, high = max(mpmath.mpf(0), -D), (1 - D) / 2

    def slope(q):  # of the log-likelihood, falling in q
        total = mpmath.mpf(0)
        if n10:
            total += n10 / q
        if n01:
            total += n01 / (q + D)
        return total - 2 * (n - n10 - n01) / (1 - 2 * q - D) if n > n10 + n01 else total

    a, b = low, high
    tiny = (high - low) * mpmath.mpf(10) ** -35
    if slope(low + tiny) <= 0:
        q = low
    elif n == n10 + n01 or slope(high - tiny) >= 0:
        q = high
    else:
        for _ in range(160):
            q = (a + b) / 2
            if slope(q) > 0:
                a = q
            else:
                b = q
    variance = n * (2 * q + D - D * D)
    return (n01 - n10 - n * D) / mpmath.sqrt(variance)


def tango_bound(n, n10, n01, z, low, high):
    a, b = mpmath.mpf(low), mpmath.mpf(high)
    for _ in range(70):
        m = (a + b) / 2
        if tango_z(n, n10, n01, m) > z:
            a = m
        else:
            b = m
    return float((a + b) / 2)


def pairs():
    cases = [(1319, 22, 18), (1319, 4, 0), (1319, 0, 4), (256, 3, 1), (256, 0, 0), (256, 10, 2), (40, 20, 20), (40, 30, 10)]
    cases += [(30, 30, 0), (1319, 631, 0), (1319, 40, 60), (5276, 120, 90), (10, 0, 1), (500, 0, 7)]
    rows = []
    for n, n10, n01 in cases:
        both = (n - n10 - n01) // 2
        table = [[both, n10], [n01, n - n10 - n01 - both]]
        m = n10 + n01
        d = numpy.array([-1] * n10 + [1] * n01 + [0] * (n - m), float)
        z = float(scipy.stats.norm.ppf(0.975))
        mean = mpmath.mpf(n01 - n10) / n
        rows.append(
            dict(
                n=n,
                regressions=n10,
                fixes=n01,
                standard_error=float(d.std(ddof=1) / math.sqrt(n)),
                two_sided=float(mcnemar(table, exact=True).pvalue) if m else 1.0,
                worse=float(scipy.stats.binomtest(n10, m, 0.5, alternative="greater").pvalue) if m else 1.0,
                z={str(D): float(tango_z(n, n10, n01, D)) for D in (-0.05, -0.02, -0.01, -0.002, 0.01)},
                interval=[
                    tango_bound(n, n10, n01, z, mpmath.mpf(-1) + mpmath.mpf(10) ** -12, mean),
                    tango_bound(n, n10, n01, -z, mean, mpmath.mpf(1) - mpmath.mpf(10) ** -12),
                ],
            )
        )
    return rows


def e_values():
    rows = []
    for n10, n01 in ((0, 0), (6, 0), (7, 0), (0, 6), (10, 4), (22, 18), (120, 60), (300, 300)):
        mixture = mpmath.quad(lambda t: 2 * t**n10 * (1 - t) ** n01 * mpmath.mpf(2) ** (n10 + n01), mpmath.linspace(0.5, 1, 33))
        rows.append(dict(regressions=n10, fixes=n01, log_e=float(mpmath.log(mixture))))
    return rows


def clusters():
    rows = []
    for _ in range(3):
        ids = [random.randrange(12) for _ in range(60)]
        values = [round(random.random() + 0.05 * i, 6) for i in ids]
        fit = statsmodels.api.OLS(values, numpy.ones(len(values))).fit(
            cov_type="cluster", cov_kwds=dict(groups=numpy.array(ids), use_correction=False)
        )
        rows.append(dict(values=values, cluster=ids, standard_error=float(fit.bse[0])))
    return rows


def holms():
    rows = []
    for p in ([0.01, 0.04, 0.03, 0.005], [0.5], [0.2, 0.2, 0.9], [0.03, 0.03]):
        rows.append(dict(p=p, adjusted=[float(x) for x in multipletests(p, method="holm")[1]]))
    return rows


def plans():
    ppf = scipy.stats.norm.ppf
    unpaired = [
        dict(p=p, n=n, d=float((ppf(0.975) + ppf(0.8)) * math.sqrt(2 * p * (1 - p) / n))) for p in (0.95, 0.9, 0.8) for n in (200, 1319)
    ]
    paired = []
    for psi in (0.01, 0.02, 0.03, 0.05, 0.1):
        for n in (200, 256, 500, 1000, 1319, 2638, 5276):

            def excess(d):
                return d * math.sqrt(n) - ppf(0.975) * math.sqrt(psi) - ppf(0.8) * math.sqrt(psi - d * d)

            paired.append(dict(psi=psi, n=n, d=float(scipy.optimize.brentq(excess, 0, psi, xtol=1e-15)) if excess(psi) > 0 else None))
    return dict(unpaired=unpaired, paired=paired)


def excesses():
    rows = []
    for x, n, y, m in ((40, 1319, 20, 1319), (20, 1319, 40, 1319), (5, 256, 0, 256), (0, 256, 0, 256), (631, 1319, 26, 1319)):
        p = scipy.stats.fisher_exact([[x, n - x], [y, m - y]], alternative="greater").pvalue
        rows.append(dict(flips=x, n=n, noise_flips=y, noise_n=m, p=float(p)))
    return rows


normal, quantile = normals()
golden = dict(
    versions=dict(scipy=scipy.__version__, statsmodels=statsmodels.__version__, mpmath=mpmath.__version__, numpy=numpy.__version__),
    seed=SEED,
    binomial=binomials(),
    normal=normal,
    normal_quantile=quantile,
    intervals=intervals(),
    pairs=pairs(),
    e_values=e_values(),
    clusters=clusters(),
    holm=holms(),
    plans=plans(),
    excess=excesses(),
)
path = pathlib.Path(__file__).parent / "statistics.json"
rows = []
for key, value in golden.items():
    if isinstance(value, list):
        body = ",\n  ".join(json.dumps(v) for v in value)
        rows.append(f' "{key}": [\n  {body}\n ]')
    else:
        rows.append(f' "{key}": {json.dumps(value)}')
path.write_text("{\n" + ",\n".join(rows) + "\n}\n")
print(path, path.stat().st_size, "bytes")
