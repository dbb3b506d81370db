"""Points of a space of systems: each scheduled by the system's mapping, in whatever processes work.

A point is a system with a choice of the mapping. Systems are validated here, once each; schedules
are tasks like syntheses (:func:`sw_driver.explore.measure.mapping_task`), kept by content, a task a
point and workload.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.errors import SpecError
from hw.lazy import np
from rtl_gen.cache import digest
from rtl_gen.errors import InputError
from sw_driver.explore.fields import Scalar
from sw_driver.explore.measure import Task, mapping_task, workload_key
from sw_driver.explore.points import BUFFER_KIB, Catalogue, Choice, CorePart, Points, choice_of
from sw_driver.explore.space import OF_SYSTEM, TOTALS, Space, of_workload
from sw_driver.system.spec import System, SystemSpec, resolve

if TYPE_CHECKING:
    from sw_driver.explore.measured import Measured

Point = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class SystemDesign:
    """A system of the space.

    Attributes:
        base: index of the base. values: of the base's fields, in their order.
        activation_bits: width of the activations, None for the cores' widest.
        system: with its cores; none of them is in a file.
    """

    base: int
    values: tuple[Scalar, ...]
    activation_bits: int | None
    system: System

    @property
    def spec(self) -> SystemSpec:
        return self.system.spec

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The system as plain data, for files and tasks: it names no file."""
        return self.spec.model_dump(mode="json")

    @cached_property
    def cores(self) -> tuple[CorePart, ...]:
        """The kinds of cores."""
        found = []
        for kind in self.system.kinds:
            hardware = kind.spec().model_dump()
            del hardware["memory"]
            key = digest(hardware)
            label = f"{kind.core.name}-{key[:8]}"
            found.append(CorePart(hardware=hardware, key=key, label=label, count=kind.count))
        return tuple(found)

    @cached_property
    def key(self) -> str:
        """SHA-256 of its kinds of cores: systems of one key take the same syntheses."""
        return digest({"cores": sorted({part.key for part in self.cores})})

    @property
    def clock_mhz(self) -> float:
        return self.spec.clock_mhz

    def metrics(self) -> dict[str, float]:
        """What the system has, by the names of :data:`OF_SYSTEM`."""
        sizes = self.spec.sram
        sram = sizes.activations_kib + sizes.weights_kib + sizes.results_kib + sizes.shared_kib
        return {
            "sram_kib": sram,
            "bandwidth_gb_s": self.spec.dram.bandwidth_gb_s,
            "cores": sum(kind.count for kind in self.system.kinds),
        }


class SystemCatalogue(Catalogue):
    """Systems and choices as they are met. Before points are settled it is told by whom."""

    designs: list[Any]

    def __init__(self, space: Space):
        super().__init__(space)
        self._by: Measured | None = None
        self._found: dict[Point, dict[str, dict[str, Any]] | None] = {}
        self._unfit: dict[Point, str] = {}
        self._work_keys = {name: workload_key(work) for name, work in space.workloads.items()}

    def scheduled_by(self, measured: Measured) -> None:
        """Who has tasks done and keeps their results."""
        self._by = measured

    def design(
        self, base: int, values: tuple[Scalar, ...], activation_bits: int | None
    ) -> int | str:
        """The index of a system, or the rule that it breaks."""
        key = (base, *((type(value), value) for value in values), activation_bits)
        if key not in self._designs:
            try:
                spec = SystemSpec(**self.space.bases[base].with_values(values))
                system = resolve(spec, Path(), "", activation_bits)
            except SpecError as error:
                first = error.problems[0]
                self._designs[key] = f"{first.field}: {first.rule}"
            except InputError as error:
                self._designs[key] = str(error).splitlines()[0].removeprefix(": ")
            else:
                self._designs[key] = len(self.designs)
                self.designs.append(
                    SystemDesign(
                        base=base, values=values, activation_bits=activation_bits, system=system
                    )
                )
        return self._designs[key]

    def choice(self, design: int, chosen: Mapping[str, Scalar]) -> int | str:
        """The index of a choice; whether a system takes it, its mapping says."""
        kinds = self.designs[design].system.kinds
        given: Mapping[str, Any] = chosen
        if len(kinds) == 1:
            made = choice_of(kinds[0].core, given)
        else:
            made = Choice(
                weight_bits=given.get("weight_bits"),
                group=given.get("group"),
                kv_bits=given.get("kv_bits"),
                buffer_kib=BUFFER_KIB,
                output_bits=given.get("output_bits"),
            )
        index = self._choices.setdefault(made, len(self.choices))
        if index == len(self.choices):
            self.choices.append(made)
        return index

    def settle(self, points: Sequence[Point]) -> Mapping[Point, str]:
        """Schedules every workload of points; those that their system refuses, and why."""
        if self._by is None:
            raise RuntimeError("scheduled_by must be called first")
        new = [item for item in dict.fromkeys(points) if item not in self._found]
        works = list(self.space.workloads)
        tasks = [self._task(point, work) for point, work in itertools.product(new, works)]
        results = iter(zip(tasks, self._by.schedule(tasks), strict=True))
        for point in new:
            found: dict[str, dict[str, Any]] | None = {}
            for work in works:
                task, result = next(results)
                if "error" in result:
                    self._by.failed.setdefault(point[0], (task, str(result["error"])))
                    found = None
                elif "refused" in result:
                    self._unfit.setdefault(point, str(result["refused"]))
                elif found is not None:
                    found[work] = result["metrics"]
            self._found[point] = None if point in self._unfit else found
        return {point: self._unfit[point] for point in points if point in self._unfit}

    def evaluate(self, design: np.ndarray, choice: np.ndarray) -> Points:
        """Metrics of points that were settled; NaN where a mapping failed."""
        points = list(zip(design.tolist(), choice.tolist(), strict=True))
        works = tuple(self.space.workloads)
        metrics: dict[str, np.ndarray] = {}
        own = [self.designs[item].metrics() for item, _ in points]
        for name in OF_SYSTEM:
            whole = name == "cores"
            column = [item[name] for item in own]
            metrics[name] = np.array(column, dtype=np.int64 if whole else np.float64)
        found = [self._found[point] for point in points]
        for work, name in itertools.product(works, of_workload(True)):
            values = [np.nan if item is None else item[work][name] for item in found]
            whole = name in ("cycles", "bytes") and None not in found
            metrics[f"{work}.{name}"] = np.array(values, dtype=np.int64 if whole else np.float64)
        if len(works) > 1:
            for name in TOTALS:
                metrics[name] = np.sum([metrics[f"{work}.{name}"] for work in works], axis=0)
        for name in self.space.metrics:
            if name in of_workload(True) and len(works) == 1:
                metrics[name] = metrics[f"{works[0]}.{name}"]
        return Points(design=design, choice=choice, metrics=metrics)

    def rates(self, points: Points, at: np.ndarray) -> np.ndarray:
        """Cores of different kinds have no rate in common: one stands for it, in no metric."""
        return np.ones(len(at))

    def rate(self, point: Point) -> float:
        return 1.0

    def point_id(self, point: Point) -> str:
        """A name of a point that is the same in every run: label and eight digits."""
        design = self.designs[point[0]]
        facts = {
            "spec": design.spec.canonical(),
            "activation_bits": design.activation_bits,
            "choice": repr(self.choices[point[1]]),
        }
        return f"{self.space.bases[design.base].label}-{digest(facts)[:8]}"

    def _task(self, point: Point, work: str) -> Task:
        design = self.designs[point[0]]
        return mapping_task(
            design.plain,
            asdict(self.choices[point[1]]),
            self.space.workloads[work],
            f"{self.point_id(point)} {work}",
            activation_bits=design.activation_bits,
            work_key=self._work_keys[work],
        )
