"""Exact solvers: one option for every layer, least total value, within budgets of integers.

This is the multiple-choice knapsack problem (OHQ, arXiv 2309.01945: one binary variable for each
layer and width). One additive budget is solved by dynamic programming over the totals that occur,
in which a Lagrangian bound removes what cannot lead to the optimum; several by HiGHS. An area
budget says which cores can be had together: the dynamic program is run for every largest set of
them that fits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from rtl_gen.errors import InputError, ToolError

Solver = Literal["auto", "dp", "milp"]

MAX_STATES = 1 << 22
"""Totals that the dynamic program may hold at a time."""

MAX_CORES = 16
"""Cores whose sets are enumerated."""

_OBJECTIVE = 1e4
"""What the objective is scaled to: HiGHS takes solutions that differ by 1e-6 for equal."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Items with options.

    Attributes:
        values: for each item what its options are worth, less is better, none negative.
        weights: by metric the same for what they take of a budget: integers, none negative.
        cores: the core of each option. areas: of every core; empty without an area budget.
        fixed: by metric what is taken whatever is chosen. needed: cores that are there anyway.
    """

    values: tuple[np.ndarray, ...]
    weights: Mapping[str, tuple[np.ndarray, ...]]
    cores: tuple[np.ndarray, ...]
    areas: tuple[float, ...] = ()
    fixed: Mapping[str, int] | None = None
    needed: frozenset[int] = frozenset()

    def taken(self, metric: str, chosen: Sequence[int]) -> int:
        """The total of a metric."""
        part = sum(
            int(options[at]) for options, at in zip(self.weights[metric], chosen, strict=True)
        )
        return part + (self.fixed or {}).get(metric, 0)

    def value(self, chosen: Sequence[int]) -> float:
        return math.fsum(
            float(options[at]) for options, at in zip(self.values, chosen, strict=True)
        )

    def used(self, chosen: Sequence[int]) -> frozenset[int]:
        """The cores that are used."""
        pairs = zip(self.cores, chosen, strict=True)
        return self.needed | frozenset(int(options[at]) for options, at in pairs)

    def area(self, chosen: Sequence[int]) -> float:
        return math.fsum(self.areas[core] for core in self.used(chosen))

    def least(self, metric: str) -> int:
        """The least total of a metric, other budgets aside."""
        return sum(int(options.min()) for options in self.weights[metric]) + (self.fixed or {}).get(
            metric, 0
        )


@dataclass(frozen=True, kw_only=True)
class Solution:
    """An allotment.

    Attributes:
        chosen: of every item the option.
        value: total. bound: no allotment within the budgets is below it.
        solver: ``dp`` or ``milp``. states: totals or nodes that were looked at.
    """

    chosen: tuple[int, ...]
    value: float
    bound: float
    solver: str
    states: int

    @property
    def gap(self) -> float:
        """How far, relatively, an optimum might be below: 0 for what is proven."""
        if self.value <= self.bound:
            return 0.0
        return (self.value - self.bound) / self.value


class InfeasibleError(InputError):
    """No allotment is within the budgets."""


def solve(
    problem: Problem,
    budgets: Mapping[str, int],
    *,
    area: float | None = None,
    solver: Solver = "auto",
) -> Solution:
    """The allotment of least value.

    Args:
        budgets: by metric the most that may be taken, ``fixed`` included.
        area: the most that the cores in use may have; None for any.
        solver: ``dp`` takes one budget at most besides the area; ``auto`` takes it where it can.

    Raises:
        InfeasibleError: there is none; with the least that is possible.
        InputError: the solver cannot take so many budgets, or SciPy is not installed.
        ToolError: HiGHS ended without a proven optimum.
    """
    if solver == "dp" and len(budgets) > 1:
        raise InputError(
            f"solver: dp must have at most one budget besides the area, got {', '.join(budgets)}"
        )
    _check(problem, budgets, area)
    if solver == "milp" or len(budgets) > 1:
        return _milp(problem, budgets, area)
    try:
        return _by_sets(problem, budgets, area)
    except _TooManyStatesError:
        if solver == "dp":
            raise InputError(
                f"solver: dp must hold at most {MAX_STATES} totals, this problem has more: use milp"
            ) from None
        return _milp(problem, budgets, area)


def _check(problem: Problem, budgets: Mapping[str, int], area: float | None) -> None:
    """What is impossible by itself.

    Raises:
        InfeasibleError: with a line for every budget that nothing can be within.
    """
    problems = []
    for metric, limit in budgets.items():
        least = problem.least(metric)
        if least > limit:
            problems.append(f"budget: {metric}: the least possible is {least:,}, got {limit:,}")
    if area is not None and not _sets(problem, area):
        least_area = min(
            math.fsum(problem.areas[core] for core in cores) for cores in _covers(problem)
        )
        problems.append(f"budget: area: the least possible is {least_area:,.1f}, got {area:,.1f}")
    if problems:
        raise InfeasibleError("\n".join(problems))


def _covers(problem: Problem) -> list[frozenset[int]]:
    """Every set of cores that has an option for each item."""
    count = len(problem.areas)
    if count > MAX_CORES:
        raise InputError(f"core: must be at most {MAX_CORES} with an area budget, got {count}")
    needs = {frozenset(options.tolist()) for options in problem.cores}
    return [
        frozenset(cores)
        for size in range(1, count + 1)
        for cores in itertools.combinations(range(count), size)
        if problem.needed <= set(cores) and all(need & set(cores) for need in needs)
    ]


def _sets(problem: Problem, area: float) -> list[frozenset[int]]:
    """The largest sets of cores that fit: what a smaller one allows a larger one allows, too."""
    fitting = [
        cores
        for cores in _covers(problem)
        if math.fsum(problem.areas[core] for core in cores) <= area
    ]
    return [cores for cores in fitting if not any(cores < other for other in fitting)]


def _by_sets(problem: Problem, budgets: Mapping[str, int], area: float | None) -> Solution:
    """The best of the dynamic programs of all sets of cores that fit."""
    sets: Sequence[frozenset[int] | None] = [None] if area is None else _sets(problem, area)
    found: Solution | None = None
    states = 0
    for cores in sets:
        kept = [
            np.arange(len(options))
            if cores is None
            else np.flatnonzero(np.isin(options, list(cores)))
            for options in problem.cores
        ]
        values = [each[at] for each, at in zip(problem.values, kept, strict=True)]
        if budgets:
            ((metric, limit),) = budgets.items()
            weights = [each[at] for each, at in zip(problem.weights[metric], kept, strict=True)]
            capacity = limit - (problem.fixed or {}).get(metric, 0)
        else:
            weights, capacity = [np.zeros(len(at), dtype=np.int64) for at in kept], 0
        result = dynamic(values, weights, capacity)
        if result is None:
            continue
        chosen, looked = result
        states += looked
        named = tuple(int(at[option]) for at, option in zip(kept, chosen, strict=True))
        value = problem.value(named)
        if found is None or value < found.value:
            found = Solution(chosen=named, value=value, bound=value, solver="dp", states=0)
    if found is None:
        raise InfeasibleError(_least_together(problem, budgets, area))
    return replace(found, states=states)


class _TooManyStatesError(Exception):
    """More totals than may be held."""


def dynamic(
    values: Sequence[np.ndarray], weights: Sequence[np.ndarray], capacity: int
) -> tuple[tuple[int, ...], int] | None:
    """One option of every item, least total value, total weight at most ``capacity``.

    Stage by stage all totals of weight that can still end within the capacity are kept, with the
    least value of each, unless a lighter one is worth no more. A total is dropped, too, where its
    value and the Lagrangian bound of the rest are above a known solution: with any multiplier
    ``λ ≥ 0``, ``Σ min(v + λ·w) − λ·capacity`` is a lower bound.

    Returns:
        The options and how many totals were kept in all; None if nothing fits.
    """
    count = len(values)
    least_after = np.zeros(count + 1, dtype=np.int64)
    for i in reversed(range(count)):
        least_after[i] = least_after[i + 1] + weights[i].min()
    if least_after[0] > capacity:
        return None
    factor, known = _relaxed(values, weights, capacity)
    bound_after = np.zeros(count + 1)
    for i in reversed(range(count)):
        bound_after[i] = bound_after[i + 1] + float((values[i] + factor * weights[i]).min())
    # Rounding of the sums must not drop the optimum.
    limit = known + 1e-9 * abs(known) + 1e-300
    totals, worth = np.zeros(1, dtype=np.int64), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    states = 0
    for i in range(count):
        total = (totals[:, None] + weights[i]).ravel()
        value = (worth[:, None] + values[i]).ravel()
        keep = total + least_after[i + 1] <= capacity
        keep &= value + factor * (total - capacity) + bound_after[i + 1] <= limit
        at = np.flatnonzero(keep)
        at = at[np.lexsort((value[at], total[at]))]
        # Of rising weight, only falling values.
        before = np.minimum.accumulate(np.concatenate([[np.inf], value[at][:-1]]))
        at = at[value[at] < before]
        if len(at) > MAX_STATES:
            raise _TooManyStatesError
        states += len(at)
        totals, worth = total[at], value[at]
        steps.append((at // len(values[i]), at % len(values[i])))
    here = int(np.argmin(worth))
    chosen = []
    for parents, options in reversed(steps):
        chosen.append(int(options[here]))
        here = int(parents[here])
    return tuple(reversed(chosen)), states


def _relaxed(
    values: Sequence[np.ndarray], weights: Sequence[np.ndarray], capacity: int
) -> tuple[float, float]:
    """A multiplier for the bound, and the value of a solution that fits.

    The linear relaxation: from every item's lightest option along its lower hull, the steepest
    steps first, as long as they fit. The first one that does not gives the multiplier.
    """
    room = capacity - sum(int(each.min()) for each in weights)
    steps: list[tuple[float, int, float, int]] = []
    value = 0.0
    for item, (v, w) in enumerate(zip(values, weights, strict=True)):
        order = np.lexsort((v, w))
        hull = [int(order[0])]
        for at in map(int, order[1:]):
            if v[at] >= v[hull[-1]]:
                continue
            while len(hull) > 1 and (v[hull[-2]] - v[hull[-1]]) * (w[at] - w[hull[-1]]) <= (
                v[hull[-1]] - v[at]
            ) * (w[hull[-1]] - w[hull[-2]]):
                hull.pop()
            hull.append(at)
        value += float(v[hull[0]])
        for a, b in itertools.pairwise(hull):
            weight = int(w[b] - w[a])
            steps.append((float(v[a] - v[b]) / weight, weight, float(v[a] - v[b]), item))
    steps.sort(key=lambda step: -step[0])
    factor = 0.0
    stopped: set[int] = set()
    for slope, weight, gain, item in steps:
        if item in stopped:
            continue
        if weight > room:
            factor = max(factor, slope)
            stopped.add(item)
            continue
        room -= weight
        value -= gain
    return factor, value


def _milp(problem: Problem, budgets: Mapping[str, int], area: float | None) -> Solution:
    """By HiGHS: a binary variable for each option, and one for each core that may be used."""
    flat = np.concatenate(problem.values)
    total = sum(float(options.max()) for options in problem.values)
    scale = _OBJECTIVE / total if total > 0 else 1.0
    found = _highs(problem, flat * scale, budgets, area)
    if found is None:
        raise InfeasibleError(_least_together(problem, budgets, area))
    chosen, bound, nodes = found
    value = problem.value(chosen)
    # The solver's sums are rounded; its bound is not above a solution that it has proven.
    return Solution(
        chosen=chosen, value=value, bound=min(bound / scale, value), solver="milp", states=nodes
    )


def _highs(
    problem: Problem, objective: np.ndarray, budgets: Mapping[str, int], area: float | None
) -> tuple[tuple[int, ...], float, int] | None:
    """Options, lower bound of the objective and nodes; None if nothing is within the budgets.

    HiGHS holds rows to within a millionth. What it finds is held against the integers, and if it
    is beyond them it is solved again with rows that much shorter; the bound stays the first one.
    """
    optimize, sparse = _scipy()
    sizes = [len(options) for options in problem.values]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    options = int(starts[-1])
    cores = np.concatenate(problem.cores)
    extra = len(problem.areas) if area is not None else 0
    rows, low, high = [], [], []
    for i, size in enumerate(sizes):
        row = np.zeros(options + extra)
        row[starts[i] : starts[i] + size] = 1
        rows.append(row)
        low.append(1.0)
        high.append(1.0)
    limits: dict[str, int] = {}
    for metric, limit in budgets.items():
        limits[metric] = limit - (problem.fixed or {}).get(metric, 0)
        row = np.zeros(options + extra)
        row[:options] = np.concatenate(problem.weights[metric]) / max(1, limits[metric])
        rows.append(row)
        low.append(-np.inf)
        high.append(1.0 if limits[metric] else 0.0)
    if area is not None:
        row = np.zeros(options + extra)
        row[options:] = np.array(problem.areas) / area
        rows.append(row)
        low.append(-np.inf)
        high.append(1.0)
        for core in range(extra):
            for i, size in enumerate(sizes):
                at = starts[i] + np.flatnonzero(cores[starts[i] : starts[i] + size] == core)
                row = np.zeros(options + extra)
                row[at], row[options + core] = 1, -1
                rows.append(row)
                low.append(-np.inf)
                high.append(0.0)
    matrix = sparse.csr_array(np.array(rows))
    lower, upper = np.array(low), np.array(high)
    least = np.zeros(options + extra)
    if extra:
        least[[options + core for core in problem.needed]] = 1
    bound = nodes = None
    for tighter in (0.0, 1e-7, 2e-6):
        budget_rows = slice(len(sizes), len(sizes) + len(budgets) + (area is not None))
        reach = upper.copy()
        reach[budget_rows] -= tighter
        result = optimize.milp(
            np.concatenate([objective, np.zeros(extra)]),
            integrality=np.ones(options + extra),
            bounds=optimize.Bounds(least, np.ones(options + extra)),
            constraints=optimize.LinearConstraint(matrix, lower, reach),
            options={"mip_rel_gap": 0.0},
        )
        if result.status == 2:
            return None
        if result.status != 0 or result.x is None:
            raise ToolError("HiGHS", str(result.message))
        if bound is None:
            bound = float(result.mip_dual_bound)
        nodes = int(result.mip_node_count or 0)
        chosen = tuple(
            int(np.argmax(result.x[starts[i] : starts[i] + size])) for i, size in enumerate(sizes)
        )
        fits = all(problem.taken(metric, chosen) <= limit for metric, limit in budgets.items())
        if fits and (area is None or problem.area(chosen) <= area):
            return chosen, bound, nodes
    raise ToolError("HiGHS", "its solutions are beyond the budgets by more than it is exact to")


def _least_together(problem: Problem, budgets: Mapping[str, int], area: float | None) -> str:
    """Of every budget the least that is possible within the others."""
    lines = []
    for metric, limit in budgets.items():
        others = {name: most for name, most in budgets.items() if name != metric}
        lightest = replace(
            problem,
            values=tuple(options.astype(np.float64) for options in problem.weights[metric]),
        )
        try:
            least = problem.taken(metric, solve(lightest, others, area=area).chosen)
        except InfeasibleError:
            continue  # what is left is impossible by itself
        lines.append(
            f"budget: {metric}: within the other budgets the least possible is {least:,}, got "
            f"{limit:,}"
        )
    return "\n".join(lines) or "budget: no allotment is within all budgets"


def _scipy() -> tuple[Any, Any]:
    """SciPy's optimizers and sparse arrays.

    Raises:
        InputError: it is not installed.
    """
    try:
        from scipy import optimize, sparse
    except ImportError:
        raise InputError(
            "budget: several at once need SciPy, which is not installed "
            "(pip install 'rtlgen[allot]')"
        ) from None
    return optimize, sparse
