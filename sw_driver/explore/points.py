"""Points of a space and what the mapper says of them, many at once.

A point is a design (a specification, and the width of activations where jobs choose it) with a
choice of the mapping. Designs are validated one by one, once each; cycles, bytes and seconds of all
points come from :func:`sw_driver.mapper.many.evaluate_points` on arrays.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hw.block import spec_from_dict
from hw.errors import SpecError
from hw.lazy import np
from rtl_gen.cache import digest
from rtl_gen.errors import InputError
from sw_driver.explore.fields import Scalar
from sw_driver.explore.space import OF_CORE, OF_WORKLOAD, TOTALS, Space
from sw_driver.mapper.cache_format import SCALE_BITS
from sw_driver.mapper.core import Core, core_of
from sw_driver.mapper.many import evaluate_points
from sw_driver.mapper.mapping import Choices, check_choices

if TYPE_CHECKING:
    from hw.gemm import GemmSpec

BUFFER_KIB = 2048


@dataclass(frozen=True, kw_only=True)
class CorePart:
    """Cores of one kind in a design, all of one piece of Verilog.

    Attributes:
        hardware: their specification as plain data less what changes no hardware.
        key: SHA-256 of it. label: what messages call it.
    """

    hardware: Mapping[str, Any]
    key: str
    label: str
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Design:
    """A specification of the space.

    Attributes:
        base: index of the base. values: of the base's fields, in their order.
        activation_bits: width of the activations, None for the core's widest.
    """

    base: int
    values: tuple[Scalar, ...]
    activation_bits: int | None
    spec: GemmSpec
    core: Core

    @cached_property
    def hardware(self) -> dict[str, Any]:
        """The specification as plain data less what changes no hardware."""
        data = self.spec.model_dump()
        del data["memory"]
        return data

    @cached_property
    def key(self) -> str:
        """SHA-256 of :attr:`hardware`: designs of one key are one piece of Verilog and clock."""
        return digest(self.hardware)

    @property
    def clock_mhz(self) -> float:
        return self.core.clock_mhz

    @property
    def plain(self) -> dict[str, Any]:
        """The specification as plain data, for files."""
        return self.spec.model_dump()

    @property
    def cores(self) -> tuple[CorePart, ...]:
        """What is synthesized and tried."""
        return (CorePart(hardware=self.hardware, key=self.key, label=""),)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Choices of the mapping as a point has them, what does not apply to its core left out."""

    weight_bits: int | None
    group: int | None
    kv_bits: int | None
    buffer_kib: int
    output_bits: int | None

    def choices(self) -> Choices:
        return Choices(
            weight_bits=self.weight_bits,
            group=self.group,
            kv_bits=self.kv_bits,
            buffer_bytes=self.buffer_kib * 1024,
            output_bits=self.output_bits,
        )


@dataclass(frozen=True, kw_only=True)
class Points:
    """Points as columns, ``(points,)`` each.

    Attributes:
        design, choice: indices into the catalogue's lists.
        metrics: what the mapper says, by name.
    """

    design: np.ndarray
    choice: np.ndarray
    metrics: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.design)


class Catalogue:
    """The designs and choices of a space as they are met, and what was refused.

    Attributes:
        designs, choices: what there is, in the order met.
        refused: points by core and broken rule. merged: points that equal others, because a choice
            does not apply to their core.
    """

    def __init__(self, space: Space):
        self.space = space
        self.designs: list[Design] = []
        self.choices: list[Choice] = []
        self.refused: Counter[tuple[str, str]] = Counter()
        self.merged = 0
        self._designs: dict[tuple[Any, ...], int | str] = {}
        self._choices: dict[Choice, int] = {}
        self._fitting: dict[tuple[Any, ...], int | str] = {}

    def design(
        self, base: int, values: tuple[Scalar, ...], activation_bits: int | None
    ) -> int | str:
        """The index of a design, or the rule that it breaks."""
        # 1 and True are one key in Python, and different values of a field.
        key = (base, *((type(value), value) for value in values), activation_bits)
        if key not in self._designs:
            try:
                spec: Any = spec_from_dict(self.space.bases[base].with_values(values))
                core = core_of(spec, activation_bits)
            except SpecError as error:
                first = error.problems[0]
                self._designs[key] = f"{first.field}: {first.rule}"
            except InputError as error:
                self._designs[key] = str(error).splitlines()[0]
            else:
                self._designs[key] = len(self.designs)
                self.designs.append(
                    Design(
                        base=base,
                        values=values,
                        activation_bits=activation_bits,
                        spec=spec,
                        core=core,
                    )
                )
        return self._designs[key]

    def choice(self, design: int, chosen: Mapping[str, Scalar]) -> int | str:
        """The index of a choice on a design, or the rule that it breaks."""
        core = self.designs[design].core
        # What a choice is checked against: cores alike in it are checked once.
        kind = (
            *(core.name, core.min_weight_bits, core.max_weight_bits, core.own_scales),
            *(core.encoding, core.weight_format, core.zero_point),
        )
        key = (kind, tuple(chosen.items()))
        if key not in self._fitting:
            made = choice_of(core, chosen)
            try:
                check_choices(core, made.choices(), list(self.space.workloads.values()))
            except InputError as error:
                self._fitting[key] = str(error).splitlines()[0]
            else:
                self._fitting[key] = self._choices.setdefault(made, len(self.choices))
                if self._fitting[key] == len(self.choices):
                    self.choices.append(made)
        return self._fitting[key]

    def settle(self, points: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], str]:
        """Maps points if that is work for others; those that cannot be mapped, and why."""
        return {}

    def rates(self, points: Points, at: np.ndarray) -> np.ndarray:
        """MACs a cycle of points."""
        return np.asarray(points.metrics["peak_macs"][at])

    def rate(self, point: tuple[int, int]) -> float:
        """MACs a cycle of a point."""
        return self.designs[point[0]].core.peak_macs(self.weight_bits(point))

    def refuse(self, base: int, rule: str, points: int = 1) -> None:
        """Points that there are not, with the rule that they break."""
        self.refused[self.space.bases[base].label, rule] += points

    def sweep(self) -> tuple[np.ndarray, np.ndarray]:
        """Every point of the space: its designs and choices, each once."""
        space = self.space
        combinations = list(space.combinations())
        by_width: dict[int | None, list[dict[str, Scalar]]] = {}
        for combination in combinations:
            rest = dict(combination)
            width: Any = rest.pop("activation_bits", None)
            by_width.setdefault(width, []).append(rest)
        designs, choices = [], []
        for index, base in enumerate(space.bases):
            for values in itertools.product(*base.fields.values()):
                for width, rest_of in by_width.items():
                    design = self.design(index, values, width)
                    if isinstance(design, str):
                        self.refuse(index, design, len(rest_of))
                        continue
                    found = [self.choice(design, rest) for rest in rest_of]
                    for refusal in found:
                        if isinstance(refusal, str):
                            self.refuse(index, refusal)
                    kept = {item for item in found if isinstance(item, int)}
                    self.merged += sum(isinstance(item, int) for item in found) - len(kept)
                    designs += [design] * len(kept)
                    choices += sorted(kept)
        return np.array(designs, dtype=np.int64), np.array(choices, dtype=np.int64)

    def evaluate(self, design: np.ndarray, choice: np.ndarray) -> Points:
        """What the mapper says of points, every choice's designs at once."""
        names = tuple(self.space.workloads)
        metrics: dict[str, np.ndarray] = {}
        count = len(design)
        for name in OF_CORE:
            metrics[name] = np.zeros(count)
        for work, name in itertools.product(names, OF_WORKLOAD):
            whole = name in ("cycles", "bytes")
            metrics[f"{work}.{name}"] = np.zeros(count, dtype=np.int64 if whole else np.float64)
        used, core = np.unique(design, return_inverse=True)
        cores = [self.designs[index].core for index in used.tolist()]
        if count:
            for name, values in zip(OF_CORE, self._of_cores(cores, core, choice), strict=True):
                metrics[name] = values
        if names and count:
            found = evaluate_points(
                cores,
                [item.choices() for item in self.choices],
                list(self.space.workloads.values()),
                core=core,
                choice=choice,
            )
            for column, work in enumerate(names):
                for name in OF_WORKLOAD:
                    metrics[f"{work}.{name}"] = getattr(found, name)[:, column]
        if len(names) > 1:
            for name in TOTALS:
                metrics[name] = np.sum([metrics[f"{work}.{name}"] for work in names], axis=0)
        for name in self.space.metrics:
            # Of one workload its metrics need no more of a name than the objective gives them.
            if name in OF_WORKLOAD and len(names) == 1:
                metrics[name] = metrics[f"{names[0]}.{name}"]
        return Points(design=design, choice=choice, metrics=metrics)

    def _of_cores(
        self, cores: Sequence[Core], core: np.ndarray, choice: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """MACs a cycle, and bits that a weight takes with its share of a scale."""
        deepest = max(core.max_weight_bits for core in cores)
        at_width = np.array(
            [
                [
                    (item.job_cycles[bits][1], item.step_bits[bits] / item.k)
                    for bits in (min(width, item.max_weight_bits - 1) for width in range(deepest))
                ]
                for item in cores
            ]
        )
        facts = np.array(
            [
                (item.m * item.n * item.k, item.max_weight_bits, item.own_scales, item.zero_point)
                for item in cores
            ]
        )[core]
        asked = np.array([(item.weight_bits or 0, item.group or 0) for item in self.choices])
        bits = np.where(asked[choice, 0] > 0, asked[choice, 0], facts[:, 1])
        group = asked[choice, 1]
        cycles, stored = at_width[core, bits - 1].T
        scales = np.where(
            (facts[:, 2] == 0) & (group > 0),
            (SCALE_BITS + facts[:, 3] * bits) / np.maximum(group, 1),
            0.0,
        )
        return facts[:, 0] / cycles, stored + scales

    def weight_bits(self, point: tuple[int, int]) -> int:
        """The width of a point's weights: as chosen, else the core's widest."""
        design, choice = point
        return self.choices[choice].weight_bits or self.designs[design].core.max_weight_bits

    def values(self, point: tuple[int, int]) -> dict[str, Scalar]:
        """A point's fields and choices by name, those of them that vary."""
        design, choice = self.designs[point[0]], self.choices[point[1]]
        fields = self.space.bases[design.base].fields
        named: dict[str, Scalar] = {
            ".".join(path): value
            for (path, among), value in zip(fields.items(), design.values, strict=True)
            if len(among) > 1
        }
        for name, among in self.space.choices.items():
            if len(among) > 1:
                named[name] = (
                    design.activation_bits if name == "activation_bits" else getattr(choice, name)
                )
        return named

    def point_id(self, point: tuple[int, int]) -> str:
        """A name of a point that is the same in every run: label and eight digits."""
        design, choice = self.designs[point[0]], self.choices[point[1]]
        facts = {
            "spec": design.spec.canonical(),
            "activation_bits": design.activation_bits,
            "choice": repr(choice),
        }
        return f"{self.space.bases[design.base].label}-{digest(facts)[:8]}"


def choice_of(core: Core, chosen: Mapping[str, Any]) -> Choice:
    """A choice as a core takes it: a format has its own width, and says where its scales are."""
    bits = chosen.get("weight_bits")
    buffer = chosen.get("buffer_kib")
    return Choice(
        weight_bits=core.max_weight_bits if len(core.widths) == 1 and bits else bits,
        group=None if core.own_scales else chosen.get("group"),
        kv_bits=chosen.get("kv_bits"),
        buffer_kib=BUFFER_KIB if buffer is None else buffer,
        output_bits=chosen.get("output_bits"),
    )


def front(values: np.ndarray) -> np.ndarray:
    """Which rows of ``(points, objectives)`` no other row is better than, everything minimised.

    A row is off the front if another is no larger in any column and smaller in one; equal rows are
    on it together. Rows with a value that is not finite are off it.
    """
    good = np.isfinite(values).all(axis=1)
    places = np.flatnonzero(good)
    # In this order no row can be dominated by a later one.
    order = places[np.lexsort(values[places].T[::-1])]
    left, kept = order, []
    rows = values[order]
    while len(left):
        first = rows[0]
        same = (rows == first).all(axis=1)
        kept.append(left[same])
        # What is smaller than the first somewhere may stay.
        stays = (rows < first).any(axis=1)
        left, rows = left[stays], rows[stays]
    result = np.zeros(len(values), dtype=bool)
    if kept:
        result[np.concatenate(kept)] = True
    return result


def oriented(space: Space, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    """Objectives as ``(points, objectives)`` to minimise."""
    return np.stack(
        [
            np.asarray(metrics[item.metric], dtype=np.float64) * (-1 if item.maximise else 1)
            for item in space.objectives
        ],
        axis=1,
    )


def violations(space: Space, metrics: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """How far each constraint is broken, ``(points, constraints)``, relative to its bound.

    At most 0 where it holds, NaN where its metric is not known.
    """
    result = np.zeros((count, len(space.constraints)))
    for index, item in enumerate(space.constraints):
        value = np.asarray(metrics[item.metric], dtype=np.float64)
        parts = []
        for bound, over in ((item.least, item.least - value), (item.most, value - item.most)):
            if math.isfinite(bound):
                parts.append(over / (abs(bound) or 1.0))
        result[:, index] = np.max(parts, axis=0)
    return result
