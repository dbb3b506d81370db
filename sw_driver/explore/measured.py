"""Measurements of points: what each needs, who does it, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hw.lazy import np
from rtl_gen.errors import InputError
from sw_driver.explore.journal import Journal
from sw_driver.explore.measure import Task, error_task, kept, synthesis_task, verify_task
from sw_driver.explore.points import Catalogue, Points
from sw_driver.explore.space import ERROR, Space
from sw_driver.explore.workers import Workers, unique
from sw_driver.measure.companions import companions, uncharged

Point = tuple[int, int]
"""Indices of a design and of a choice."""

Say = Callable[[str], None]
"""Takes a line about what has just happened."""


class Measured:
    """What is known of designs beyond the mapper.

    Args:
        journal: takes every result; None keeps them for as long as the run lasts.
        say: is told of every result.

    Attributes:
        failed: by design the task and the words of what went wrong.
        chosen: keys of the designs that were measured, in order: what the budget counts.
        technology, unit: of the syntheses, "" before the first one.
    """

    def __init__(
        self,
        space: Space,
        catalogue: Catalogue,
        workers: Workers,
        journal: Journal | None,
        say: Say,
    ):
        self.space = space
        self.catalogue = catalogue
        self.failed: dict[int, tuple[Task, str]] = {}
        self.chosen: dict[str, None] = {}
        self.technology = self.unit = ""
        self.computed = 0
        self._workers = workers
        self._journal = journal
        self._say = say
        self._results: dict[str, dict[str, Any]] = {}
        self._synthesis: dict[str, Task] = {}
        self._units: dict[Point, tuple[str, ...]] = {}
        self._errors: dict[Point, str] = {}
        self._verified: dict[int, str] = {}
        self._refused: dict[Point, str] = {}

    def left(self) -> int:
        """Designs that the budget has left."""
        return self.space.synthesis.runs - len(self.chosen)

    def affordable(self, designs: Sequence[int]) -> list[int]:
        """The first of some designs, as many as the budget has left."""
        found: list[int] = []
        fresh: dict[str, None] = {}
        for design in designs:
            key = self.catalogue.designs[design].key
            if key not in self.chosen:
                if len(fresh) >= self.left() and key not in fresh:
                    continue
                fresh[key] = None
            found.append(design)
        return found

    def measure(self, points: Sequence[Point], *, error: bool) -> None:
        """Synthesizes the designs of points, with the units beside them, and measures errors.

        Args:
            error: measure the error on a real layer, too.
        """
        tasks: list[Task] = []
        of_task: dict[str, list[Point]] = {}
        for point in points:
            for task in self._needs(point, error):
                tasks.append(task)
                of_task.setdefault(task.key, []).append(point)
            self.chosen[self.catalogue.designs[point[0]].key] = None
        self._do(tasks)
        for task in unique(tasks):
            words = self._results[task.key].get("error")
            if words is not None:
                for design, _ in of_task[task.key]:
                    self.failed.setdefault(design, (task, words))

    def verify(self, designs: Sequence[int]) -> None:
        """Tries the RTL of designs."""
        tasks = {
            design: verify_task(self.catalogue.designs[design], self._label(design))
            for design in designs
        }
        self._do(list(tasks.values()))
        for design, task in tasks.items():
            self._verified[design] = task.key

    def verdict(self, design: int) -> dict[str, Any] | None:
        """What the RTL's trial gave: ``passed`` and ``failure``; None if there was none."""
        key = self._verified.get(design)
        if key is None:
            return None
        found = self._results[key]
        if "error" in found:
            return {"passed": False, "failure": found["error"]}
        return found

    def refusal(self, point: Point) -> str | None:
        """Why a point has no units beside its core, None if it has or needs none."""
        if not self.space.synthesis.companions:
            return None
        if point not in self._refused:
            self._refused[point] = ""
            design, choice = self.catalogue.designs[point[0]], self.catalogue.choices[point[1]]
            bits = self.catalogue.weight_bits(point)
            missing = uncharged(design.spec, bits)
            if missing:
                words = f"synthesis.companions: there is no unit for {' and '.join(missing)} here"
                self._refused[point] = words
                return words
            try:
                units = companions(
                    design.spec,
                    bits=bits,
                    group=choice.group or 1,
                    activation_bits=design.activation_bits,
                )
            except InputError as error:
                self._refused[point] = str(error).splitlines()[0]
            else:
                tasks = [
                    self._synthesis_of(unit.spec.model_dump(), f"{unit.purpose} unit")
                    for unit in units
                ]
                self._units[point] = tuple(task.key for task in tasks)
                self._synthesis.update({task.key: task for task in tasks})
        return self._refused[point] or None

    def metrics(self, point: Point) -> dict[str, float] | None:
        """Measured metrics of a point; None if any of it is missing or failed."""
        design, _ = point
        own = self._result(self._synthesis_key(design))
        if own is None or self.refusal(point):
            return None
        parts = [own, *(self._result(key) for key in self._units.get(point, ()))]
        whole = [part for part in parts if part is not None]
        if len(whole) < len(parts):
            return None
        core = self.catalogue.designs[design].core
        found = _derived(
            area=sum(part["area"] for part in whole),
            delay_ns=max(part["delay_ns"] for part in whole),
            rate=core.peak_macs(self.catalogue.weight_bits(point)),
            clock_mhz=core.clock_mhz,
        )
        found["core_area"] = own["area"]
        found["met"] = float(all(part["met"] for part in whole))
        self.technology, self.unit = own["technology"], own["unit"]
        if point in self._errors:
            error = self._result(self._errors[point])
            if error is None:
                return None
            found[ERROR] = error[ERROR]
        elif self.space.needs_error:
            return None
        return found

    def estimated(
        self, points: Points, at: np.ndarray, area: np.ndarray, delay: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Metrics of synthesis that follow from areas and delays of points."""
        designs = self.catalogue.designs
        clock = np.array([designs[index].core.clock_mhz for index in points.design[at].tolist()])
        rate = points.metrics["peak_macs"][at]
        return _derived(area=area, delay_ns=delay, rate=rate, clock_mhz=clock)

    def _needs(self, point: Point, error: bool) -> list[Task]:
        """Tasks of a point that can have a place: none if it has no units beside it."""
        design, choice = self.catalogue.designs[point[0]], self.catalogue.choices[point[1]]
        label = self._label(point[0])
        if self.refusal(point):
            return []
        task = self._synthesis_of(design.hardware, label)
        self._synthesis[design.key] = task
        tasks = [task, *(self._synthesis[key] for key in self._units.get(point, ()))]
        if error:
            bits = self.catalogue.weight_bits(point)
            found = error_task(design, f"{label} at W{bits}", bits=bits, group=choice.group or 1)
            self._errors[point] = found.key
            tasks.append(found)
        return tasks

    def _synthesis_of(self, hardware: Mapping[str, Any], label: str) -> Task:
        return synthesis_task(
            hardware,
            label,
            liberty=self.space.liberty,
            effort=self.space.synthesis.effort,
        )

    def _synthesis_key(self, design: int) -> str:
        task = self._synthesis.get(self.catalogue.designs[design].key)
        return "" if task is None else task.key

    def _label(self, design: int) -> str:
        found = self.catalogue.designs[design]
        return f"{self.space.bases[found.base].label}-{found.key[:8]}"

    def _result(self, key: str) -> dict[str, Any] | None:
        found = self._results.get(key)
        return None if found is None or "error" in found else found

    def _do(self, tasks: Sequence[Task]) -> None:
        """What is not known yet: from this run, from its journal, or from the cache."""
        known = {} if self._journal is None else self._journal.results
        left = []
        for task in unique(tasks):
            if task.key in self._results:
                continue
            if task.key in known and "error" not in known[task.key]:
                self._results[task.key] = known[task.key]
            elif (found := kept(task)) is not None:
                self._record(task, found)
            else:
                left.append(task)
        count, total = 0, len(left)

        def done(task: Task, result: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            self.computed += 1
            self._record(task, result)
            self._say(f"{count}/{total} {task.kind} {task.label}: {_words(task, result)}")

        if left:
            self._workers.do(left, done)

    def _record(self, task: Task, result: Mapping[str, Any]) -> None:
        self._results[task.key] = dict(result)
        if self._journal is not None:
            self._journal.add(task.key, task.kind, result)


def _derived(*, area: Any, delay_ns: Any, rate: Any, clock_mhz: Any) -> dict[str, Any]:
    """Metrics of synthesis; density as MACs a ns for a million units of area (mm² of µm²)."""
    each = area / rate
    return {
        "area": area,
        "area_per_mac": each,
        "density": 1e6 / each * clock_mhz / 1000,
        "delay_ns": delay_ns,
    }


def _words(task: Task, result: Mapping[str, Any]) -> str:
    """A result in a few words."""
    seconds = f"({result['seconds']:.1f} s)"
    if "error" in result:
        last = str(result["error"]).strip().splitlines()[0]
        return f"FAILED {last} {seconds}"
    if task.kind == "synthesis":
        missed = "" if result["met"] else ", misses its clock"
        area = f"{result['area']:,.0f} {result['unit']}"
        return f"{area}, {result['delay_ns']:.3f} ns{missed} {seconds}"
    if task.kind == "sqnr":
        return f"{result[ERROR]:.1f} dB {seconds}"
    return f"{'passed' if result['passed'] else 'FAILED'} {seconds}"
