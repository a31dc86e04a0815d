"""What a sweep of Sinkhorn does beside its two soft minima: steps, the annealing of epsilon, over-relaxation, stopping.

The rules are those of the loop in torch (`barrow.solvers.ascent`), one program a block of atoms or a problem, and all
decisions stay on the device: a problem that has stopped costs a launch one look at its flag.
"""

import triton
import triton.language as tl

from barrow.ops.triton.tile import LN2, LOG2E

HOLD = tl.constexpr(0.05)  # epsilon: a level is settled when potentials move less than this share of it in a sweep
LONGEST = tl.constexpr(40)  # sweeps at most on a level
LAST = tl.constexpr(16)  # times the final epsilon: levels below are passed quickly
SETTLED = tl.constexpr(4)  # sweeps at the final epsilon before a problem may stop
PERIOD = tl.constexpr(8)  # sweeps between two judgements of the over-relaxation
SERVED = tl.constexpr(40.0)  # rho: where the potential of an atom that nothing leads to ends
ATOMS = tl.constexpr(256)  # in a block


@triton.jit
def _soft(found, b, i, inside, n, pieces, eps, WHOLE: tl.constexpr):
    """The soft minimum from the pieces of the columns."""
    found += b * pieces * n + i
    if WHOLE:
        return tl.load(found, mask=inside, other=0.0)
    else:
        top = tl.load(found, mask=inside, other=0.0)
        for k in range(1, pieces):
            top = tl.maximum(top, tl.load(found + k * n, mask=inside, other=0.0))
        base = tl.where(top == float("-inf"), 0.0, top)
        total = tl.zeros_like(top)
        for k in range(pieces):
            total += tl.exp2(tl.load(found + k * n, mask=inside, other=0.0) - base)
        return -(eps * LN2) * (tl.log2(total) + base)


@triton.jit
def _step(soft, ratio, eps, per_rho):
    """The new potential, rho / (rho + epsilon) (soft + epsilon log(a / r)), finite whatever the soft minimum is."""
    want = (soft + eps * ratio) / (1 + eps * per_rho)
    ceiling = tl.where(per_rho > 0, (1 / per_rho) * SERVED, 0.0)
    return tl.where(soft == float("inf"), ceiling, want)


@triton.jit
def right_kernel(
    found, g, next_g, ratio, epsilon, target, omega, constant, per_rho, active, m, srb, pieces, WHOLE: tl.constexpr
):  # fmt: skip
    """The step of g, into next_g: the left side may still have to see g as it was."""
    blocks = tl.cdiv(m, ATOMS)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    if tl.load(active + b) != 0:
        j = (tl.program_id(0) % blocks) * ATOMS + tl.arange(0, ATOMS)
        inside = j < m
        eps = tl.load(epsilon + b)
        last = tl.load(target + b)
        lift = tl.load(constant + b)
        length = tl.where((eps > last) & (eps <= last * LAST), 0.5, tl.load(omega + b))
        soft = _soft(found, b, j, inside, m, pieces, eps, WHOLE) - lift
        want = _step(soft, tl.load(ratio + b * srb + j, mask=inside, other=0.0), eps, tl.load(per_rho + 1))
        old = tl.load(g + b * m + j, mask=inside, other=0.0) - lift
        tl.store(next_g + b * m + j, old + length * (want - old), mask=inside)


@triton.jit
def left_kernel(
    found, f, g, next_g, ratio, a, epsilon, target, omega, constant, per_rho, active, moved, n, m, srb, pieces,
    WHOLE: tl.constexpr, SYMMETRIC: tl.constexpr,
):  # fmt: skip
    """The step of f, how far each block moved, and g made final. In symmetric problems, half a step of the only f."""
    blocks = tl.cdiv(n, ATOMS)
    both = blocks
    if not SYMMETRIC:
        both += tl.cdiv(m, ATOMS)
    b = (tl.program_id(0) // both).to(tl.int64)
    block = tl.program_id(0) % both
    i = block * ATOMS + tl.arange(0, ATOMS)
    if tl.load(active + b) != 0:
        if block < blocks:
            inside = i < n
            eps = tl.load(epsilon + b)
            soft = _soft(found, b, i, inside, n, pieces, eps, WHOLE)
            before = tl.load(f + b * n + i, mask=inside, other=0.0)
            log_ratio = tl.load(ratio + b * srb + i, mask=inside, other=0.0)
            old = before
            if SYMMETRIC:
                length = 0.5
            else:
                last = tl.load(target + b)
                lift = tl.load(constant + b)
                together = (eps > last) & (eps <= last * LAST)
                length = tl.where(together, 0.5, tl.load(omega + b))
                soft += tl.where(together, lift, 0.0)
                old += lift
            new = old + length * (_step(soft, log_ratio, eps, tl.load(per_rho)) - old)
            tl.store(f + b * n + i, new, mask=inside)
            mass = tl.load(a + b * n + i, mask=inside, other=0.0)
            tl.store(moved + b * blocks + block, tl.sum(tl.where(mass > 0, mass * tl.abs(new - before), 0.0), 0))
        else:
            j = i - blocks * ATOMS
            if not SYMMETRIC:
                tl.store(g + b * m + j, tl.load(next_g + b * m + j, mask=j < m, other=0.0), mask=j < m)


@triton.jit
def constant_kernel(f, g, log_a, log_b, per_rho, active, constant, n, m):
    """The constant that, added to f and taken from g, raises the dual of an unbalanced problem most."""
    b = tl.program_id(0).to(tl.int64)
    if tl.load(active + b) != 0:
        per_a = tl.load(per_rho)
        per_b = tl.load(per_rho + 1)
        left = _log_mass(log_a + b * n, f + b * n, n, per_a)
        right = _log_mass(log_b + b * m, g + b * m, m, per_b)
        tl.store(constant + b, (left - right) / (per_a + per_b))


@triton.jit
def _log_mass(log_w, h, n, per_rho):
    """The logarithm of sum_i w_i exp(-h_i / rho)."""
    k = tl.arange(0, ATOMS)
    top = per_rho * 0 + float("-inf")
    for start in range(0, n, ATOMS):
        i = start + k
        e = tl.load(log_w + i, mask=i < n, other=float("-inf")) - tl.load(h + i, mask=i < n, other=0.0) * per_rho
        top = tl.maximum(top, tl.max(e, 0))
    base = tl.where(top == float("-inf"), 0.0, top)
    total = base * 0
    for start in range(0, n, ATOMS):
        i = start + k
        e = tl.load(log_w + i, mask=i < n, other=float("-inf")) - tl.load(h + i, mask=i < n, other=0.0) * per_rho
        total += tl.sum(tl.exp2((e - base) * LOG2E), 0)
    return tl.log2(total) * LN2 + base


@triton.jit
def control_kernel(
    epsilon, target, omega, mark, level, age, steps, limit, goal, mass, moves, moved, active, together, blocks,
    SYMMETRIC: tl.constexpr,
):  # fmt: skip
    """One problem's decisions after a sweep: how far off f was, its next epsilon, its omega, whether it goes on."""
    b = tl.program_id(0).to(tl.int64)
    if tl.load(active + b) != 0:
        eps = tl.load(epsilon + b)
        last = tl.load(target + b)
        k = tl.arange(0, ATOMS)
        total = eps * 0
        for start in range(0, blocks, ATOMS):
            total += tl.sum(tl.load(moves + b * blocks + start + k, mask=start + k < blocks, other=0.0), 0)
        change = total / (eps * tl.load(mass + b))

        now = tl.load(age + b)
        now = tl.where(eps > last, 0, now + 1)
        stayed = tl.load(level + b) + 1
        leave = (change <= HOLD) | (stayed >= LONGEST) | (eps <= last * LAST)
        eps = tl.where(leave, tl.maximum(eps / 2, last), eps)
        tl.store(epsilon + b, eps)
        tl.store(together + b, ((eps > last) & (eps <= last * LAST)).to(tl.int32))
        tl.store(level + b, tl.where(leave, 0, stayed))
        tl.store(age + b, now)

        length = 0.5  # of the step of f
        if not SYMMETRIC:
            length = tl.load(omega + b)
            # An observed decay gives the slowest mode, and that a better omega: see solvers/ascent.py.
            before = tl.load(omega + b)
            due = (now > 0) & (now % PERIOD == 0)
            rate = tl.exp2(tl.log2(change / tl.load(mark + b)) / PERIOD)
            root = rate + before - 1
            theta = root * root / (rate * before * before)
            theta = tl.minimum(tl.maximum(theta, 0.0), 1 - 1e-6)
            best = 2 / (1 + tl.sqrt(1 - theta))
            learned = due & (rate < 1) & (rate > before - 1)
            after = tl.where(learned, tl.maximum(best, before), tl.where(due & (rate >= 1), 1.0, before))
            tl.store(omega + b, after)
            if due:
                tl.store(mark + b, tl.where(after == before, change, float("nan")))

        count = tl.load(steps + b) + 1
        tl.store(steps + b, count)
        away = change / length
        tl.store(moved + b, away)
        rest = (now >= SETTLED) & (away <= tl.load(goal + b))
        tl.store(active + b, tl.where(rest | (count >= tl.load(limit + b)), 0, 1))
