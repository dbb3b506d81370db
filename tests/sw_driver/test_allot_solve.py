"""The exact solvers against every allotment there is, one by one."""

from __future__ import annotations

import builtins
import itertools
import math
from typing import Any

import numpy as np
import pytest

from rtl_gen.errors import InputError
from sw_driver.allot import solve as solving
from sw_driver.allot.solve import InfeasibleError, Problem, dynamic, solve

pytest.importorskip("scipy", reason="the extra allot is not installed")


def problem(seed: int, items: int = 5, cores: int = 3) -> Problem:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, items)
    # Few different weights, so that many totals tie; now and then huge ones.
    scale = int(rng.choice([1, 7, 10**9]))
    return Problem(
        values=tuple(np.round(rng.random(size) * 8) / 4 for size in sizes),
        weights={
            name: tuple(rng.integers(0, 9, size) * scale for size in sizes)
            for name in ("cycles", "bytes")
        },
        cores=tuple(rng.integers(0, cores, size) for size in sizes),
        areas=tuple(float(area) for area in rng.integers(1, 20, cores)),
        fixed={"cycles": int(rng.integers(0, 5)) * scale},
        needed=frozenset({0} if seed % 2 else ()),
    )


def every(some: Problem) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(options)) for options in some.values)))


def least(some: Problem, budgets: dict[str, int], area: float | None) -> float | None:
    """By brute force."""
    fitting = [
        some.value(chosen)
        for chosen in every(some)
        if all(some.taken(name, chosen) <= limit for name, limit in budgets.items())
        and (area is None or some.area(chosen) <= area)
    ]
    return min(fitting, default=None)


def between(some: Problem, metric: str, share: float) -> int:
    totals = [some.taken(metric, chosen) for chosen in every(some)]
    return int(min(totals) + share * (max(totals) - min(totals)))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("names", [(), ("cycles",), ("cycles", "bytes")])
@pytest.mark.parametrize("with_area", [False, True])
def test_solvers_agree_with_brute_force(seed: int, names: tuple[str, ...], with_area: bool) -> None:
    some = problem(seed)
    share = (seed % 5) / 4
    budgets = {name: between(some, name, share) for name in names}
    area = float(sum(some.areas) * (0.3 + 0.6 * (seed % 3) / 2)) if with_area else None
    wanted = least(some, budgets, area)
    for solver in ("dp", "milp") if len(names) < 2 else ("milp", "auto"):
        if wanted is None:
            with pytest.raises(InfeasibleError, match="least possible is"):
                solve(some, budgets, area=area, solver=solver)  # type: ignore[arg-type]
            continue
        found = solve(some, budgets, area=area, solver=solver)  # type: ignore[arg-type]
        assert found.value == pytest.approx(wanted, abs=1e-12)
        assert found.value == some.value(found.chosen)
        assert all(some.taken(name, found.chosen) <= limit for name, limit in budgets.items())
        assert area is None or some.area(found.chosen) <= area
        assert found.bound <= found.value
        assert found.gap <= 1e-9


def test_the_infeasible_is_told_the_least_that_is_not() -> None:
    some = problem(3)
    lightest = some.least("cycles")
    with pytest.raises(InfeasibleError) as error:
        solve(some, {"cycles": lightest - 1})
    assert f"cycles: the least possible is {lightest:,}, got {lightest - 1:,}" in str(error.value)
    assert some.taken("cycles", solve(some, {"cycles": lightest}).chosen) == lightest
    with pytest.raises(InfeasibleError, match=r"area: the least possible is [\d,.]+, got 0.5"):
        solve(some, {}, area=0.5)
    # Each alone is possible, both are not: of either the least within the other is told.
    two = Problem(
        values=(np.array([0.0, 1.0]),),
        weights={"cycles": (np.array([5, 2]),), "bytes": (np.array([1, 9]),)},
        cores=(np.array([0, 0]),),
    )
    with pytest.raises(InfeasibleError) as error:
        solve(two, {"cycles": 4, "bytes": 8})
    assert str(error.value).splitlines() == [
        "budget: cycles: within the other budgets the least possible is 5, got 4",
        "budget: bytes: within the other budgets the least possible is 9, got 8",
    ]


def test_large_problems_are_exact_and_pruned() -> None:
    rng = np.random.default_rng(11)
    bits = np.arange(1, 9)
    shapes = rng.choice([3_538_944, 9_437_184, 12_976_128], 300)
    values = [rng.lognormal() * 4.0**-bits for _ in shapes]
    weights = [shape * bits + 12_345 for shape in shapes]
    capacity = int(sum(weight[3] for weight in weights))
    found = dynamic(values, weights, capacity)
    assert found is not None
    chosen, states = found
    some = Problem(
        values=tuple(values),
        weights={"cycles": tuple(weights)},
        cores=tuple(np.zeros(8, dtype=np.int64) for _ in values),
    )
    assert some.taken("cycles", chosen) <= capacity
    assert states < 300 * 2000
    other = solve(some, {"cycles": capacity}, solver="milp")
    assert some.value(chosen) == pytest.approx(other.value, rel=1e-9)
    assert some.value(chosen) < some.value([3] * 300)


def test_what_a_solver_cannot_take(monkeypatch: pytest.MonkeyPatch) -> None:
    some = problem(1)
    roomy = {"cycles": 10**12, "bytes": 10**12}
    with pytest.raises(InputError, match="solver: dp must have at most one budget"):
        solve(some, roomy, solver="dp")
    monkeypatch.setattr(solving, "MAX_STATES", 1)
    tight = {"cycles": between(problem(0), "cycles", 0.4)}
    rng = np.random.default_rng(2)
    wide = Problem(
        values=tuple(rng.random(4) for _ in range(6)),
        weights={"cycles": tuple(rng.integers(0, 1000, 4) for _ in range(6))},
        cores=tuple(np.zeros(4, dtype=np.int64) for _ in range(6)),
    )
    tight = {"cycles": between(wide, "cycles", 0.5)}
    with pytest.raises(InputError, match="solver: dp must hold at most 1 totals"):
        solve(wide, tight, solver="dp")
    assert solve(wide, tight).solver == "milp"
    assert math.isclose(solve(wide, tight).value, least(wide, tight, None) or 0)
    plain = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return plain(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"need SciPy.*pip install 'rtlgen\[allot\]'"):
        solve(some, roomy)
