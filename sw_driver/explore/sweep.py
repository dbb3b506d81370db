"""A whole space: every point through the mapper, then measurements where the front may be.

Where an objective or a constraint has to be measured, designs are measured in rounds. The first is
spread over the space, each further one goes where an estimate fitted on what was measured so far
(:mod:`sw_driver.explore.estimate`) sees the front, and then where it would see it if it erred twice
its own error in a design's favour. Rounds do not depend on how many processes work, so that a run
that was killed goes on as it would have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hw.lazy import np
from sw_driver.explore.estimate import Fit, features, spread
from sw_driver.explore.measured import Measured, Point
from sw_driver.explore.points import Catalogue, Points, front, oriented, violations
from sw_driver.explore.space import ERROR, SYNTHESIZED, Space

SIGMAS = 2.0
"""How far in a design's favour the estimate is taken to err."""

FITTED = {"area": True, "delay_ns": True, ERROR: False}
"""What is estimated, and whether by its logarithm; the other metrics follow from these."""


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """How designs were chosen to be measured.

    Attributes:
        designs: that have a point within the constraints. measured: of them.
        errors: of the last estimate by metric, each design left out in turn: relative of areas and
            delays, dB of errors; empty if none was needed.
        stopped: why no more were measured: ``all``, ``budget`` or ``estimate``.
        likely: designs that the last estimate puts on the front and the budget left out.
    """

    designs: int
    measured: int
    errors: Mapping[str, float]
    stopped: str
    likely: int


class Table:
    """Points with everything that is known of them.

    Attributes:
        points: with the mapper's metrics. values: further columns, NaN where not measured.
        refused: points that have no units beside their core.
    """

    def __init__(self, space: Space, catalogue: Catalogue, points: Points):
        self.space = space
        self.catalogue = catalogue
        self.points = points
        count = len(points)
        names = (*SYNTHESIZED, ERROR, "core_area", "met")
        self.values: dict[str, np.ndarray] = {name: np.full(count, np.nan) for name in names}
        self.refused = np.zeros(count, dtype=bool)

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        return {**self.points.metrics, **self.values}

    def point(self, index: int) -> Point:
        return int(self.points.design[index]), int(self.points.choice[index])

    def read(self, measured: Measured, indices: Sequence[int]) -> None:
        """Takes what was measured of some points."""
        for index in indices:
            point = self.point(index)
            if (rule := measured.refusal(point)) is not None and not self.refused[index]:
                self.refused[index] = True
                base = self.catalogue.designs[point[0]].base
                self.catalogue.refuse(base, rule)
            found = measured.metrics(point)
            for name, value in (found or {}).items():
                self.values[name][index] = value

    def feasible(self, metrics: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """Points that keep every constraint; of a metric that is not known, by what is known."""
        metrics = self.metrics if metrics is None else metrics
        broken = violations(self.space, metrics, len(self.points))
        kept = ~(np.nan_to_num(broken, nan=0.0) > 0).any(axis=1) & ~self.refused
        if self.space.synthesis.meets_clock:
            kept &= metrics["met"] != 0.0  # NaN, not measured, is not 0
        return np.asarray(kept)

    def known(self) -> np.ndarray:
        """Points whose every objective and constraint has a value."""
        metrics = self.metrics
        result = np.ones(len(self.points), dtype=bool)
        for name in self.space.metrics:
            result &= np.isfinite(np.asarray(metrics[name], dtype=np.float64))
        if self.space.measured:
            result &= np.isfinite(self.values["met"])
        return result

    def front(self) -> np.ndarray:
        """Indices of the front: known, feasible, and nothing better."""
        allowed = self.known() & self.feasible()
        values = oriented(self.space, self.metrics)
        values[~allowed] = np.nan
        return np.flatnonzero(front(values))


def sweep(
    space: Space,
    catalogue: Catalogue,
    measured: Measured,
    say: Callable[[str], None],
) -> tuple[Table, Choosing | None]:
    """Every point, and measurements as far as the budget goes."""
    design, choice = catalogue.sweep()
    unfit = catalogue.settle(list(zip(design.tolist(), choice.tolist(), strict=True)))
    if unfit:
        for point, rule in unfit.items():
            catalogue.refuse(catalogue.designs[point[0]].base, rule)
        points = zip(design.tolist(), choice.tolist(), strict=True)
        kept = np.array([point not in unfit for point in points], dtype=bool)
        design, choice = design[kept], choice[kept]
    table = Table(space, catalogue, catalogue.evaluate(design, choice))
    say(
        f"{len(table.points):,} points of {len(catalogue.designs):,} designs mapped, "
        f"{sum(catalogue.refused.values()):,} refused"
    )
    if not space.measured or not len(table.points):
        return table, None
    return table, _measure_all(space, table, measured, say)


def _measure_all(
    space: Space, table: Table, measured: Measured, say: Callable[[str], None]
) -> Choosing:
    """Rounds of measurements until the budget or what is worth it ends."""
    worth = np.flatnonzero(table.feasible())
    places: dict[str, list[int]] = {}
    for index in worth.tolist():
        places.setdefault(table.catalogue.designs[table.points.design[index]].key, []).append(index)
    keys = list(places)
    if not keys:
        return Choosing(designs=0, measured=0, errors={}, stopped="all", likely=0)
    rows = [table.catalogue.values(table.point(index)) for index in worth.tolist()]
    for row, index in zip(rows, worth.tolist(), strict=True):
        base = table.catalogue.designs[table.points.design[index]].base
        row["core"] = space.bases[base].label
    found = features(rows)
    x = np.zeros((len(table.points), found.shape[1]))
    x[worth] = found
    number = {key: position for position, key in enumerate(keys)}
    group = np.full(len(table.points), -1)
    for key, indices in places.items():
        group[indices] = number[key]
    centre = np.array([x[indices].mean(axis=0) for indices in places.values()])

    done = np.zeros(len(keys), dtype=bool)
    errors: dict[str, float] = {}
    everything = len(keys) <= space.synthesis.runs
    likely, stopped, rounds = 0, "all", 0
    while not done.all():
        left = space.synthesis.runs - int(done.sum())
        if everything:
            chosen = [int(item) for item in np.flatnonzero(~done)]
        elif not done.any():
            chosen = _first(space, table, group, centre, min(left, space.synthesis.batch))
        else:
            chosen, likely, errors = _next(space, table, measured, x, group, done, rounds)
            if not chosen:
                stopped = "estimate"
                break
        if not left:
            stopped = "budget"
            break
        chosen = chosen[: min(left, max(space.synthesis.batch, left if everything else 0))]
        rounds += 1
        say(f"round {rounds}: measuring {len(chosen)} of {len(keys):,} designs")
        indices = [index for item in chosen for index in places[keys[item]]]
        measured.measure([table.point(index) for index in indices], error=space.needs_error)
        table.read(measured, indices)
        done[chosen] = True
    return Choosing(
        designs=len(keys),
        measured=int(done.sum()),
        errors=errors,
        stopped=stopped,
        likely=likely,
    )


def _first(
    space: Space, table: Table, group: np.ndarray, centre: np.ndarray, count: int
) -> list[int]:
    """The best by each objective that is known already, and designs far from one another."""
    chosen: list[int] = []
    for item in space.objectives:
        value = np.asarray(table.metrics[item.metric], dtype=np.float64)
        value = np.where(group >= 0, -value if item.maximise else value, np.nan)
        if np.isfinite(value).any():
            best = int(group[int(np.nanargmin(value))])
            if best not in chosen:
                chosen.append(best)
    chosen = (chosen or [0])[:count]
    return chosen + spread(centre, count - len(chosen), chosen)


def _next(
    space: Space,
    table: Table,
    measured: Measured,
    x: np.ndarray,
    group: np.ndarray,
    done: np.ndarray,
    rounds: int,
) -> tuple[list[int], int, dict[str, float]]:
    """Designs to measure next, how many of them are likely on the front, errors of the estimate."""
    open_ = (group >= 0) & ~done[np.maximum(group, 0)]
    ready = table.known() & (group >= 0)
    fits, errors = {}, {}
    for name, logarithm in FITTED.items():
        y = table.values[name][ready]
        if not len(y) or not np.isfinite(y).all():
            continue
        # Of the areas of several points of one design, which are equal, one would do as well.
        fit = Fit(x[ready], np.log(y) if logarithm else y, group[ready])
        fits[name] = fit
        if fit.error is not None:
            errors[name] = float(np.expm1(fit.error)) if logarithm else fit.error
    if "area" not in fits:
        # Nothing came out well so far: look elsewhere.
        where = [int(item) for item in np.flatnonzero(~done)]
        return where[: space.synthesis.batch], 0, {}
    at = np.flatnonzero(open_)
    found: list[int] = []
    likely = 0
    for sigmas in (0.0, SIGMAS):
        metrics = {name: np.array(value, dtype=float) for name, value in table.metrics.items()}
        shift = {name: sigmas * (fit.error or 0.0) for name, fit in fits.items()}
        area = np.exp(fits["area"](x[at]) - shift["area"])
        delay = np.exp(fits["delay_ns"](x[at]) - shift["delay_ns"])
        for name, value in measured.estimated(table.points, at, area, delay).items():
            metrics[name][at] = value
        if ERROR in fits:
            metrics[ERROR][at] = fits[ERROR](x[at]) + shift[ERROR]
        allowed = (ready | open_) & table.feasible(metrics)
        values = oriented(space, metrics)
        values[~allowed] = np.nan
        on = front(values) & open_
        designs = list(dict.fromkeys(int(item) for item in group[on] if item not in found))
        if not sigmas:
            likely = len(designs)
        if designs:
            # Along the front rather than at one end of it.
            rows = np.array([values[on & (group == item)][0] for item in designs])
            scale = np.nanstd(values[on | ready], axis=0)
            rows = rows / np.where(scale > 0, scale, 1.0)
            room = space.synthesis.batch - len(found)
            picked = [0, *spread(rows, room - 1, [0])] if room > 0 else []
            found += [designs[row] for row in picked]
        if len(found) >= space.synthesis.batch:
            break
    return found, likely, errors
