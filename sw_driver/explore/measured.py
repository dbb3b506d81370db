"""Measurements of points: what each needs, who does it, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hw.lazy import np
from rtl_gen.errors import InputError
from sw_driver.explore.journal import Journal
from sw_driver.explore.measure import Task, error_task, kept, synthesis_task, verify_task
from sw_driver.explore.points import Catalogue, CorePart, Points
from sw_driver.explore.space import ERROR, Space
from sw_driver.explore.workers import Workers, unique
from sw_driver.runner.companions import companions, uncharged

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
        computed: results that were not known before this run. scheduled: those of them that are
            mappings on systems.
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
        self.computed = self.scheduled = 0
        self._workers = workers
        self._journal = journal
        self._say = say
        self._results: dict[str, dict[str, Any]] = {}
        self._synthesis: dict[str, Task] = {}
        self._units: dict[Point, tuple[str, ...]] = {}
        self._errors: dict[Point, str] = {}
        self._verified: dict[int, tuple[str, ...]] = {}
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
            design: [
                verify_task(part.hardware, self._label(design, part))
                for part in self.catalogue.designs[design].cores
            ]
            for design in designs
        }
        self._do([task for of_design in tasks.values() for task in of_design])
        for design, of_design in tasks.items():
            self._verified[design] = tuple(task.key for task in of_design)

    def verdict(self, design: int) -> dict[str, Any] | None:
        """What the RTL's trial gave: ``passed`` and ``failure``; None if there was none."""
        keys = self._verified.get(design)
        if keys is None:
            return None
        found: dict[str, Any] = {}
        for key in keys:
            found = self._results[key]
            if "error" in found:
                return {"passed": False, "failure": found["error"]}
            if not found["passed"]:
                return found
        return found

    def schedule(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        """Results of mappings on systems, in order: ``metrics``, ``refused``, or ``error``."""
        before = self.computed
        self._do(tasks)
        self.scheduled += self.computed - before
        return [self._results[task.key] for task in tasks]

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
        if self.refusal(point):
            return None
        cores = self.catalogue.designs[design].cores
        own = [(part.count, self._result(self._synthesis_key(part))) for part in cores]
        units = [(1, self._result(key)) for key in self._units.get(point, ())]
        parts = [(count, part) for count, part in (*own, *units) if part is not None]
        if len(parts) < len(own) + len(units):
            return None
        whole = [part for _, part in parts]
        found = _derived(
            area=sum(count * part["area"] for count, part in parts),
            delay_ns=max(part["delay_ns"] for part in whole),
            rate=self.catalogue.rate(point),
            clock_mhz=self.catalogue.designs[design].clock_mhz,
        )
        found["core_area"] = sum(count * part["area"] for count, part in parts[: len(own)])
        found["met"] = float(all(part["met"] for part in whole))
        self.technology, self.unit = whole[0]["technology"], whole[0]["unit"]
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
        clock = np.array([designs[index].clock_mhz for index in points.design[at].tolist()])
        rate = self.catalogue.rates(points, at)
        return _derived(area=area, delay_ns=delay, rate=rate, clock_mhz=clock)

    def _needs(self, point: Point, error: bool) -> list[Task]:
        """Tasks of a point that can have a place: none if it has no units beside it."""
        design, choice = self.catalogue.designs[point[0]], self.catalogue.choices[point[1]]
        if self.refusal(point):
            return []
        tasks = []
        for part in design.cores:
            if part.key not in self._synthesis:
                label = self._label(point[0], part)
                self._synthesis[part.key] = self._synthesis_of(part.hardware, label)
            tasks.append(self._synthesis[part.key])
        tasks += [self._synthesis[key] for key in self._units.get(point, ())]
        if error:
            label = self._label(point[0])
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

    def _synthesis_key(self, part: CorePart) -> str:
        task = self._synthesis.get(part.key)
        return "" if task is None else task.key

    def _label(self, design: int, part: CorePart | None = None) -> str:
        found = self.catalogue.designs[design]
        if part is not None and part.label:
            return part.label
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
            # Schedules are many and short: about twenty lines for all of them.
            quiet = task.kind == "mapping" and "error" not in result
            if not quiet or count == total or count % max(1, total // 20) == 0:
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
    if task.kind == "mapping":
        if "refused" in result:
            return f"refused {seconds}"
        return f"{result['metrics']['tokens_per_second']:.4g} tokens/s {seconds}"
    if task.kind == "sqnr":
        return f"{result[ERROR]:.1f} dB {seconds}"
    return f"{'passed' if result['passed'] else 'FAILED'} {seconds}"
