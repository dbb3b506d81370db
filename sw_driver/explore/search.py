"""A search by Optuna: several objectives, any storage, the same course whether killed or not.

Trials are asked for in batches and told in their order. Trial ``n`` is sampled by a generator that
is seeded with ``n``, from the trials told before its batch, so that a run that was killed anywhere
and goes on asks for what it would have asked for. What a trial's batch had begun is finished first.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.lazy import np
from rtl_gen.errors import InputError, ToolError
from sw_driver.explore.fields import Scalar
from sw_driver.explore.journal import STUDY, cut_torn_line
from sw_driver.explore.measured import Measured, Point
from sw_driver.explore.points import Catalogue, oriented, violations
from sw_driver.explore.space import Space
from sw_driver.explore.sweep import Table

if TYPE_CHECKING:
    import optuna

REFUSED = "refused"


def search(
    space: Space,
    catalogue: Catalogue,
    measured: Measured,
    say: Callable[[str], None],
    *,
    trials: int,
    folder: Path | None,
    run: str,
    storage: str | None,
) -> tuple[Table, dict[str, Any]]:
    """Trials until there are so many or the budget of measurements ends.

    Args:
        folder: of the run, for the journal of the study. run: its name, of which the study has a
            part: a storage may serve many runs. storage: an Optuna storage by URL instead.

    Returns:
        The points tried, and what is to be said of the search.

    Raises:
        ToolError: Optuna is not installed. InputError: the storage cannot serve, or the budget does
            not reach for one batch.
    """
    try:
        import optuna
    except ImportError:
        raise ToolError(
            "optuna", "a search needs the extra explore: pip install 'rtlgen[explore]'"
        ) from None
    with _quiet(optuna):
        study = _study(optuna, space, folder, run, storage)
        return _Search(optuna, study, space, catalogue, measured, say).run(trials)


class _Search:
    def __init__(
        self,
        optuna_: Any,
        study: optuna.Study,
        space: Space,
        catalogue: Catalogue,
        measured: Measured,
        say: Callable[[str], None],
    ):
        self._optuna = optuna_
        self._study = study
        self._space = space
        self._catalogue = catalogue
        self._measured = measured
        self._say = say
        self._distributions = _distributions(optuna_, space)
        self._points: dict[Point, None] = {}

    def run(self, trials: int) -> tuple[Table, dict[str, Any]]:
        told: list[Point] = []
        for trial in self._trials():
            # What was told before: refusals are counted again, results come from the journal.
            if trial.state.is_finished() and trial.params:
                point = self._point(trial.params)
                if not isinstance(point, str):
                    told.append(point)
        unfit = self._unfit(told)
        self._points = {point: None for point in told if point not in unfit}
        if self._space.measured:
            self._measure(self._worth(list(self._points)))
        stopped = "trials"
        while (count := self._batch(trials)) != 0:
            if count is None:
                stopped = "budget"
                break
        finished = sum(trial.state.is_finished() for trial in self._trials())
        return self._table(list(self._points)), {
            "method": self._space.search.method,
            "study": self._study.study_name,
            "trials": finished,
            "seed": self._space.search.seed,
            "stopped": stopped,
        }

    def _trials(self) -> list[Any]:
        return list(self._study.get_trials(deepcopy=False))

    def _batch(self, trials: int) -> int | None:
        """Asks for the rest of a batch, does all of it and tells it.

        Returns:
            How many trials it was; None if the budget of measurements does not reach.
        """
        size = self._space.search.batch
        before = self._trials()
        numbers = [trial.number for trial in before if not trial.state.is_finished()]
        count = len(before)
        begun = bool(numbers or count % size)
        end = min(trials, -(-count // size) * size if begun else count + size)
        for number in range(count, end):
            self._study.sampler = self._sampler(number)
            numbers.append(self._study.ask().number)
        asked: dict[int, Any] = {}
        found: dict[int, Point | str] = {}
        ids = {trial.number: trial._trial_id for trial in self._trials()}
        for number in numbers:
            # A trial that was killed while it was asked for gets the rest of its parameters.
            self._study.sampler = self._sampler(number)
            asked[number] = self._optuna.trial.Trial(self._study, ids[number])
            found[number] = self._point(self._suggested(asked[number]))
        unfit = self._unfit([item for item in found.values() if not isinstance(item, str)])
        for number, item in found.items():
            if not isinstance(item, str) and item in unfit:
                found[number] = unfit[item]
        points = list(
            dict.fromkeys(point for point in found.values() if not isinstance(point, str))
        )
        if self._space.measured:
            worth = self._worth(points)
            if len(self._measured.affordable([item[0] for item in worth])) < len(worth):
                if not self._points:
                    keys = {self._catalogue.designs[item[0]].key for item in worth}
                    raise InputError(
                        f"synthesis.runs: must be at least {len(keys)} for the first batch of "
                        f"trials, got {self._space.synthesis.runs}"
                    )
                return None  # the batch stays as it is, for a run with a larger budget
            self._measure(worth)
        self._points.update(dict.fromkeys(points))
        if found:
            self._tell(found, asked, points)
            refused = sum(isinstance(item, str) for item in found.values())
            done = max(numbers) + 1
            self._say(f"{done:,} of {trials:,} trials, {refused} of the last {len(found)} refused")
        return len(found)

    def _suggested(self, trial: Any) -> dict[str, Any]:
        """A trial's parameters, sampled unless they were before."""
        found: dict[str, Any] = {}
        for name, item in self._distributions.items():
            if isinstance(item, self._optuna.distributions.IntDistribution):
                found[name] = trial.suggest_int(name, item.low, item.high, step=item.step)
            else:
                found[name] = trial.suggest_categorical(name, item.choices)
        return found

    def _tell(
        self, found: dict[int, Point | str], asked: dict[int, Any], points: list[Point]
    ) -> None:
        """Values of a batch in the order of their trials."""
        table = self._table(points)
        values = oriented(self._space, table.metrics) if points else np.zeros((0, 0))
        broken = violations(self._space, table.metrics, len(points))
        known, feasible = table.known(), table.feasible()
        place = {point: index for index, point in enumerate(points)}
        signs = [-1.0 if item.maximise else 1.0 for item in self._space.objectives]
        for number in sorted(found):
            point = found[number]
            trial = asked[number]
            if isinstance(point, str):
                trial.set_user_attr(REFUSED, point)
                far: dict[str, float] = {REFUSED: 1e3}
                row = [math.inf] * len(signs)
            else:
                index = place[point]
                trial.set_user_attr("point", self._catalogue.point_id(point))
                far = {
                    str(item): float(np.nan_to_num(broken[index, column], nan=0.0))
                    for column, item in enumerate(self._space.constraints)
                }
                # What cannot be measured, or was not because it keeps no constraint, is no point.
                bad = not known[index] or not feasible[index]
                far[REFUSED] = 1.0 if bad and max(far.values(), default=0.0) <= 0 else 0.0
                row = values[index].tolist()
            for name, value in far.items():
                if name not in trial.constraints:
                    trial.set_constraint(name, value)
            # Optuna has no "unknown": a point that has no value is as bad as can be, and barred.
            told = [
                sign * value if math.isfinite(value) else sign * math.inf
                for sign, value in zip(signs, row, strict=True)
            ]
            self._study.sampler = self._sampler(number)
            self._study.tell(number, told)

    def _point(self, params: dict[str, Any]) -> Point | str:
        """The point of a trial's parameters, or the rule that it breaks."""
        space = self._space
        labels = [base.label for base in space.bases]
        index = labels.index(params["core"]) if len(labels) > 1 else 0
        base = space.bases[index]
        values = tuple(
            params.get(f"{base.label}.{'.'.join(path)}", among[0])
            for path, among in base.fields.items()
        )
        chosen: dict[str, Scalar] = {
            name: params.get(f"mapping.{name}", among[0]) for name, among in space.choices.items()
        }
        width: Any = chosen.pop("activation_bits", None)
        design = self._catalogue.design(index, values, width)
        choice = design if isinstance(design, str) else self._catalogue.choice(design, chosen)
        if isinstance(design, str) or isinstance(choice, str):
            self._catalogue.refuse(index, str(choice))
            return str(choice)
        return design, choice

    def _unfit(self, points: list[Point]) -> dict[Point, str]:
        """Points that turn out to have no mapping, counted as refused, with the rule."""
        unfit = dict(self._catalogue.settle(list(dict.fromkeys(points))))
        for point in points:
            if point in unfit:
                base = self._catalogue.designs[point[0]].base
                self._catalogue.refuse(base, unfit[point])
        return unfit

    def _worth(self, points: list[Point]) -> list[Point]:
        """Points that keep the constraints that are known without measuring them."""
        kept = self._table(points).feasible().tolist()
        return [point for point, good in zip(points, kept, strict=True) if good]

    def _measure(self, points: list[Point]) -> None:
        self._measured.measure(points, error=self._space.needs_error)

    def _table(self, points: list[Point]) -> Table:
        design = np.array([item[0] for item in points], dtype=np.int64)
        choice = np.array([item[1] for item in points], dtype=np.int64)
        table = Table(self._space, self._catalogue, self._catalogue.evaluate(design, choice))
        if self._space.measured:
            table.read(self._measured, range(len(points)))
        return table

    def _sampler(self, number: int) -> Any:
        samplers = self._optuna.samplers
        # Of one seed and consecutive numbers the generators are unrelated.
        seed = int(np.random.SeedSequence([self._space.search.seed, number]).generate_state(1)[0])
        method = self._space.search.method
        if method == "nsga2":
            return samplers.NSGAIISampler(population_size=self._space.search.batch, seed=seed)
        if method == "tpe":
            return samplers.TPESampler(seed=seed, multivariate=True)
        return samplers.RandomSampler(seed=seed)


def _distributions(optuna_: Any, space: Space) -> dict[str, Any]:
    """What varies, as Optuna's parameters; fields of every core are always asked for.

    A core's fields say nothing while another core is tried, but crossing parents needs all of them.
    """
    made = optuna_.distributions
    found: dict[str, Any] = {}
    if len(space.bases) > 1:
        labels = tuple(base.label for base in space.bases)
        found["core"] = made.CategoricalDistribution(labels)
    named = [
        (f"{base.label}.{'.'.join(path)}", among)
        for base in space.bases
        for path, among in base.fields.items()
    ]
    named += [(f"mapping.{name}", among) for name, among in space.choices.items()]
    for name, among in named:
        if len(among) == 1:
            continue
        steps = {b - a for a, b in itertools.pairwise(among) if type(a) is int and type(b) is int}
        even = len(steps) == 1 and all(type(item) is int for item in among) and min(steps) > 0
        if even:
            low, high = among[0], among[-1]
            found[name] = made.IntDistribution(low, high, step=next(iter(steps)))
        else:
            found[name] = made.CategoricalDistribution(among)
    return found


def _study(
    optuna_: Any, space: Space, folder: Path | None, run: str, storage: str | None
) -> optuna.Study:
    """The study of a space, new or as it was left."""
    place: Any = None
    if storage is not None:
        try:
            place = optuna_.storages.get_storage(storage)
        except Exception as error:
            # Every storage has errors of its own.
            words = str(error).strip().splitlines()
            raise InputError(
                f"--storage: cannot be used: {words[0] if words else type(error).__name__}"
            ) from None
    elif folder is not None:
        file = folder / STUDY
        cut_torn_line(file)
        journal = optuna_.storages.journal
        # The folder is locked already; Optuna's own lock would outlive a process that is killed.
        backend = journal.JournalFileBackend(str(file), lock_obj=_NoLock())
        place = optuna_.storages.JournalStorage(backend)
    directions = ["maximize" if item.maximise else "minimize" for item in space.objectives]
    study: optuna.Study = optuna_.create_study(
        storage=place,
        study_name=f"{space.name}-{space.digest[:8]}-{run[:8]}",
        directions=directions,
        load_if_exists=True,
    )
    study.set_metric_names([item.metric for item in space.objectives])
    return study


class _NoLock:
    """For a file that only the holder of its folder's lock writes."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return


@contextmanager
def _quiet(optuna_: Any) -> Iterator[None]:
    """Without a line for every trial, and without notes that parts are experimental."""
    before = optuna_.logging.get_verbosity()
    optuna_.logging.set_verbosity(optuna_.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna_.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna_.logging.set_verbosity(before)
