"""An estimate of what was not measured, fitted on what was: only ever used to choose what is next.

Ridge regression of a logarithm on logarithms of numbers and on choices, one by one: areas are close
to products of their factors. Its error is that of leaving each design out in turn, which is
reported with the run. No estimate is ever shown as a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hw.lazy import np

RIDGE = 1e-3
"""Weight of the coefficients' squares, features of unit spread."""


FEW = 8
"""A number of at most so many values has a column for each besides its logarithm."""

FINE = 0.5
"""Scale of such columns, and of those of one core alone: they take what the others leave."""


def features(rows: Sequence[Mapping[str, Any]], core: str = "core") -> np.ndarray:
    """Points as ``(points, features)`` of zero mean.

    Positive numbers are taken by their logarithm; what is no number, or not positive throughout, by
    a column for each of its values. A name that a row lacks is a value of its own. All of it once
    for all cores and once for each: ``core`` names what tells them apart.
    """
    whole = _columns([{n: v for n, v in row.items() if n != core} for row in rows])
    cores = [row.get(core) for row in rows]
    distinct = list(dict.fromkeys(cores))
    if len(distinct) == 1:
        return whole
    parts = [whole, _columns([{core: name} for name in cores])]
    for name in distinct:
        own = np.array([item == name for item in cores])
        inside = np.where(own[:, None], whole - whole[own].mean(axis=0), 0.0)
        parts.append(FINE * inside[:, inside.std(axis=0) > 1e-12])
    return np.concatenate(parts, axis=1)


def _columns(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Columns of zero mean, those of logarithms and of what is no number of unit spread."""
    columns: list[np.ndarray] = []
    fine: list[bool] = []
    names = dict.fromkeys(name for row in rows for name in row)
    for name in names:
        values = [row.get(name) for row in rows]
        given = [value for value in values if value is not None]
        numeric = given and all(
            isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
            for value in given
        )
        if numeric:
            logs = np.array([0.0 if value is None else np.log2(value) for value in values])
            here = np.array([value is not None for value in values])
            columns.append(np.where(here, logs - logs[here].mean(), 0.0))
            fine.append(False)
            if not 2 < len(set(given)) <= FEW and here.all():
                continue
        keys = [(type(value).__name__, repr(value)) for value in values]
        among = list(dict.fromkeys(keys))
        columns += [np.array([key == value for key in keys], dtype=float) for value in among]
        fine += [bool(numeric)] * len(among)
    if not columns:
        return np.zeros((len(rows), 0))
    table = np.stack(columns, axis=1)
    table = table - table.mean(axis=0)
    spread = table.std(axis=0)
    scale = np.where(fine, FINE, 1.0)
    kept = spread > 1e-12
    return table[:, kept] / spread[kept] * scale[kept]


class Fit:
    """A fit of ``y`` on features.

    Args:
        x: ``(measured, features)``. y: ``(measured,)``.
        groups: ``(measured,)``, what is left out together: several points of one design say no more
            of another design than one of them.

    Attributes:
        error: root of the mean square error when each group is left out; None of fewer than three.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, groups: np.ndarray):
        self._coefficients = _solved(x, y)
        self.error: float | None = None
        distinct = np.unique(groups)
        if len(distinct) >= 3:
            out = []
            for group in distinct:
                kept = groups != group
                found = _solved(x[kept], y[kept])
                out.append(y[~kept] - found[0] - x[~kept] @ found[1:])
            self.error = float(np.sqrt(np.mean(np.concatenate(out) ** 2)))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Estimates of ``(points, features)``."""
        return self._coefficients[0] + x @ self._coefficients[1:]


def _solved(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean and coefficients of a ridge regression."""
    ones = np.concatenate([np.ones((len(x), 1)), x], axis=1)
    weight = RIDGE * len(x) * np.eye(ones.shape[1])
    weight[0, 0] = 1e-12  # the mean is not drawn to 0
    return np.linalg.solve(ones.T @ ones + weight, ones.T @ y)


def spread(x: np.ndarray, count: int, taken: Sequence[int]) -> list[int]:
    """Rows far from one another and from those taken: each next one is the farthest.

    Args:
        x: ``(points, features)``. taken: rows that are chosen already, at least one of them.
    """
    found: list[int] = []
    if not len(x):
        return found
    distance = np.full(len(x), np.inf)
    for row in taken:
        distance = np.minimum(distance, ((x - x[row]) ** 2).sum(axis=1))
    while len(found) < count:
        row = int(np.argmax(distance))
        if distance[row] <= 1e-12:
            break
        found.append(row)
        distance = np.minimum(distance, ((x - x[row]) ** 2).sum(axis=1))
    return found
