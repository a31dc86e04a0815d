"""Values from peers on small fixed inputs, stored with the versions that made them.

    python tests/golden/make_golden.py        # needs POT==0.9.7.post1 and SciPy; the tests read the JSON only

Each peer's conventions are translated here, once: POT's value of an entropic problem is <C, P> + reg KL(P | c), so its
plan is taken and our equation is written out on it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import ot
import scipy
import scipy.stats

HERE = Path(__file__).parent


def measures(rng: np.random.Generator, n: int, m: int, d: int, mass: float = 1.0) -> dict[str, np.ndarray]:
    a, b = rng.dirichlet(np.ones(n)), mass * rng.dirichlet(np.ones(m))
    # Few digits, so that the JSON is the input and not a rounding of it; the last weight takes the rest.
    a, b = a.round(4), b.round(4)
    a[-1], b[-1] = 1 - a[:-1].sum(), mass - b[:-1].sum()
    return {"x": rng.normal(size=(n, d)).round(3), "y": rng.normal(size=(m, d)).round(3) + 0.5, "a": a, "b": b}


def ground(x: np.ndarray, y: np.ndarray, p: float) -> np.ndarray:
    return np.linalg.norm(x[:, None] - y[None], axis=-1) ** p


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(scipy.special.kl_div(p, q).sum())


def equation(
    C: np.ndarray, P: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float, rho: float, r: np.ndarray, s: np.ndarray
) -> float:
    """Our objective at somebody's plan."""
    value = float((C * P).sum()) + epsilon * kl(P, np.outer(r, s))
    if math.isfinite(rho):
        value += rho * kl(P.sum(1), a) + rho * kl(P.sum(0), b)
    return value


def exact() -> list[dict]:
    cases = []
    for seed, (n, m, d, p) in enumerate([(6, 6, 2, 1), (7, 5, 3, 2), (1, 8, 2, 2), (10, 12, 4, 1.5), (15, 15, 1, 2)]):
        q = measures(np.random.default_rng(seed), n, m, d)
        value = ot.emd2(q["a"], q["b"], ground(q["x"], q["y"], p))
        cases.append({**q, "p": p, "value": float(value)})
    return cases


def entropic() -> list[dict]:
    cases = []
    for seed, epsilon in enumerate([0.05, 0.5, 5.0]):
        q = measures(np.random.default_rng(10 + seed), 6, 8, 2)
        C = ground(q["x"], q["y"], 2)
        P = ot.sinkhorn(q["a"], q["b"], C, epsilon, method="sinkhorn_log", numItermax=200_000, stopThr=1e-14)
        # What POT calls sinkhorn2 is <C, P>: a number of its own, not the minimum of any one objective.
        linear = ot.sinkhorn2(q["a"], q["b"], C, epsilon, method="sinkhorn_log", numItermax=200_000, stopThr=1e-14)
        value = equation(C, P, q["a"], q["b"], epsilon, math.inf, q["a"], q["b"])
        solved = ot.solve(C, q["a"], q["b"], reg=epsilon, max_iter=200_000, tol=1e-14).value
        assert abs(solved - value) <= 1e-8 * abs(value), "POT's reg, reg_type KL and c = a x b are our epsilon"
        cases.append({**q, "p": 2, "epsilon": epsilon, "value": value, "linear": float(linear)})
    return cases


def unbalanced() -> list[dict]:
    cases = []
    for seed, (epsilon, rho, mass) in enumerate([(0.1, 1.0, 1.0), (1.0, 0.2, 2.0), (0.5, 10.0, 0.5)]):
        q = measures(np.random.default_rng(20 + seed), 6, 8, 2, mass)
        C = ground(q["x"], q["y"], 2)
        P = ot.unbalanced.sinkhorn_unbalanced(
            q["a"], q["b"], C, epsilon, rho, reg_type="kl", numItermax=200_000, stopThr=1e-14
        )
        value = equation(C, P, q["a"], q["b"], epsilon, rho, q["a"], q["b"])
        cases.append({**q, "p": 2, "epsilon": epsilon, "rho": rho, "value": value, "plan": P})
    return cases


def line() -> list[dict]:
    cases = []
    for seed in range(3):
        q = measures(np.random.default_rng(30 + seed), 9, 7, 1)
        u, v = q["x"][:, 0], q["y"][:, 0]
        w1 = scipy.stats.wasserstein_distance(u, v, q["a"], q["b"])
        energy = scipy.stats.energy_distance(u, v, q["a"], q["b"])  # its square is twice the integral of the CDFs' gap
        higher = {str(p): float(ot.wasserstein_1d(u, v, q["a"], q["b"], p=p)) for p in (2, 3)}
        cases.append({"u": u, "v": v, "a": q["a"], "b": q["b"], "w1": w1, "energy": energy, "power": higher})
    return cases


def main() -> None:
    versions = {"POT": ot.__version__, "scipy": scipy.__version__, "numpy": np.__version__}
    for make in (exact, entropic, unbalanced, line):
        stored = {"made by": "tests/golden/make_golden.py", "versions": versions, "cases": make()}
        text = json.dumps(stored, indent=1, default=lambda t: t.tolist() if hasattr(t, "tolist") else float(t))
        (HERE / f"{make.__name__}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
