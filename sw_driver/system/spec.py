"""A system: kinds of cores, their buffers, one DRAM channel, and units for the rest.

The description is a YAML file like a block's, read by the same reader, so that every error comes
with its line. Cores are specifications of GEMM cores, in files of their own or written out; what
``vector_unit`` and ``scale_accumulate`` say are fields of the blocks of these names, whose own
rules hold.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hw.block import block, spec_from_dict
from hw.errors import Problem, SpecError
from hw.gemm import GemmSpec
from hw.spec import BlockSpec, Part
from rtl_gen.errors import InputError, SpecFileError
from rtl_gen.specfile import load_as, load_spec
from sw_driver.config_file import ConfigError
from sw_driver.mapper.core import Core, core_of, load_core
from sw_driver.system.schedule import Channel, Sram

if TYPE_CHECKING:
    from sw_driver.mapper.report import Area

SYSTEMS = Path(__file__).resolve().parent.parent / "systems"

OWN = ("block", "name", "clock_mhz")
"""Fields of a part that are the system's own."""
SCALED = ("tile", "partial_bits", "partial_exponent_bits", "max_groups")
"""Fields of ``scale_accumulate`` that follow from the core that it stands behind."""


class CoreEntry(Part):
    """Cores of one kind."""

    spec: str | dict[str, Any] = Field(
        description="file of the core's specification, relative to this one, or its fields"
    )
    count: int = Field(1, ge=1, le=4096, description="how many of them")
    operators: tuple[str, ...] = Field(
        (),
        strict=False,
        description="operators that run on them, and on no other kind that does not name them; "
        "none for all that no other kind names",
    )
    synth_report: str | None = Field(
        None, description="JSON of `rtlgen synth` for the core's area, relative to this file"
    )


class SramSizes(Part):
    """On-chip buffers of the whole system: three, or one for all."""

    activations_kib: float = Field(0, ge=0, le=1 << 30, description="for blocks of A, KiB")
    weights_kib: float = Field(0, ge=0, le=1 << 30, description="for blocks of W, KiB")
    results_kib: float = Field(0, ge=0, le=1 << 30, description="for blocks of results, KiB")
    shared_kib: float = Field(0, ge=0, le=1 << 30, description="for all of them instead, KiB")


class Dram(Part):
    """The DRAM behind the one DMA channel."""

    bandwidth_gb_s: float = Field(25.6, ge=0.001, le=100_000, description="sustained, 1e9 bytes/s")
    latency_ns: float = Field(
        100, ge=0, le=1_000_000, description="from the end of a read on the channel to its data"
    )
    burst_bytes: int = Field(64, ge=1, le=65536, description="transfers are whole bursts")
    capacity_gib: float | None = Field(
        None, gt=0, le=1 << 20, description="memory there is, GiB; not checked if not given"
    )


class SystemSpec(BlockSpec):
    """Cores, buffers, DRAM, vector units."""

    block: Literal["system"] = "system"
    clock_mhz: float = Field(500.0, gt=0, le=10_000, description="clock of everything, MHz")
    cores: tuple[CoreEntry, ...] = Field(
        (), max_length=16, strict=False, description="kinds of cores, at least one"
    )
    sram: SramSizes = Field(default_factory=SramSizes, description="on-chip buffers")
    dram: Dram = Field(default_factory=Dram, description="DRAM and its channel")
    vector_units: int = Field(1, ge=1, le=4096, description="vector units; rows are shared out")
    vector_unit: dict[str, Any] | None = Field(
        None, description="fields of vector_unit; without them its work is not charged"
    )
    scale_accumulate: dict[str, Any] | None = Field(
        None,
        description="fields of scale_accumulate, one unit behind every core whose results are "
        "scaled outside; without them that is not charged",
    )

    @cached_property
    def channel(self) -> Channel:
        """The DRAM channel in cycles of this clock."""
        clock, rate = Fraction(str(self.clock_mhz)), Fraction(str(self.dram.bandwidth_gb_s))
        burst = self.dram.burst_bytes * clock / (rate * 1000)
        latency = math.ceil(Fraction(str(self.dram.latency_ns)) * clock / 1000)
        return Channel(self.dram.burst_bytes, burst.numerator, burst.denominator, latency)

    @cached_property
    def buffers(self) -> Sram:
        """The buffers in bytes."""
        sizes = self.sram
        return Sram(
            activations=int(sizes.activations_kib * 1024),
            weights=int(sizes.weights_kib * 1024),
            results=int(sizes.results_kib * 1024),
            shared=int(sizes.shared_kib * 1024),
        )

    @cached_property
    def vector(self) -> Any:
        """A vector unit's specification, None if there is none."""
        if self.vector_unit is None:
            return None
        fields = {**self.vector_unit, "clock_mhz": self.clock_mhz}
        return spec_from_dict({**fields, "block": "vector_unit", "name": f"{self.name}_vector"})

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        if not self.cores:
            yield Problem(("cores",), "must have at least one kind of core", [])
        yield from self._sram_rules()
        for number, entry in enumerate(self.cores):
            if not isinstance(entry.spec, str):
                yield from self._core_rules(number, entry.spec)
        if self.vector_unit is not None:
            yield from self._vector_rules(self.vector_unit)
        for name in (*OWN, *SCALED):
            if name in (self.scale_accumulate or {}):
                rule = "follows from the core" if name in SCALED else "is the system's own"
                yield Problem(("scale_accumulate", name), rule, (self.scale_accumulate or {})[name])

    def _sram_rules(self) -> Iterator[Problem]:
        sizes = self.sram
        three = {name: getattr(sizes, name) for name in SramSizes.model_fields if name[0] != "s"}
        if sizes.shared_kib:
            for name, value in three.items():
                if value:
                    rule = f"must be 0 with shared_kib = {sizes.shared_kib:g}, which is for all"
                    yield Problem(("sram", name), rule, value)
        elif not all(three.values()):
            for name, value in three.items():
                if not value:
                    yield Problem(("sram", name), "must be above 0, or shared_kib be given", value)

    def _core_rules(self, number: int, given: Mapping[str, Any]) -> Iterator[Problem]:
        """What a core that is written out breaks of its own rules."""
        place = ("cores", number, "spec")
        fields = {"name": f"{self.name}_core{number}", "clock_mhz": self.clock_mhz, **given}
        if "block" not in given:
            yield Problem((*place, "block"), "is required", None)
            return
        try:
            spec = spec_from_dict(fields)
        except SpecError as error:
            yield from (
                Problem((*place, *item.path), item.rule, item.value) for item in error.problems
            )
            return
        if not isinstance(spec, GemmSpec):
            yield Problem((*place, "block"), "must be a GEMM core", given["block"])

    def _vector_rules(self, given: Mapping[str, Any]) -> Iterator[Problem]:
        own = [name for name in OWN if name in given]
        for name in own:
            yield Problem(("vector_unit", name), "is the system's own", given[name])
        if own:
            return
        try:
            _ = self.vector
        except SpecError as error:
            names = block("vector_unit").spec.model_fields
            for item in error.problems:
                rule = item.rule
                if rule == "unknown field" and len(item.path) == 1:
                    near = difflib.get_close_matches(str(item.path[0]), names, n=1)
                    rule = "must be a field of vector_unit"
                    rule += f" (did you mean {near[0]}?)" if near else ""
                yield Problem(("vector_unit", *item.path), rule, item.value)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Cores of one kind in a system.

    Attributes:
        core: as the mapper sees it. operators: names that it takes, see :class:`CoreEntry`.
        area: of one of them, from a synthesis; None without a report.
        scale: the unit behind each of them that scales and adds results; None if there is none.
        file, fields: where the specification is: one of the two is None.
    """

    core: Core
    count: int
    operators: tuple[str, ...]
    area: Area | None
    scale: Any
    file: Path | None
    fields: Mapping[str, Any] | None

    def spec(self) -> GemmSpec:
        """The core's specification."""
        found = load_spec(self.file) if self.file else spec_from_dict(dict(self.fields or {}))
        assert isinstance(found, GemmSpec)  # noqa: S101  (as its :class:`Core` was made)
        return found


@dataclass(frozen=True, kw_only=True)
class System:
    """A system with its cores."""

    spec: SystemSpec
    kinds: tuple[Kind, ...]

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def clock(self) -> float:
        """Cycles a second."""
        return self.spec.clock_mhz * 1e6

    @property
    def bandwidth(self) -> float:
        """Bytes a second."""
        return self.spec.dram.bandwidth_gb_s * 1e9


def shipped_systems() -> tuple[str, ...]:
    """Names of the systems of this kind that come with this package."""
    found = []
    for file in sorted(SYSTEMS.glob("*.yaml")):
        lines = file.read_text(encoding="utf-8").splitlines()
        if "block: system" in lines:
            found.append(file.stem)
    return tuple(found)


def load_system(system: str | Path, activation_bits: int | None = None) -> System:
    """A system by the name of a shipped one, or by its YAML file.

    Args:
        activation_bits: width of activations, for cores whose jobs choose it; the widest if None.

    Raises:
        InputError: there is none of that name; a file is malformed, one line per problem.
    """
    path = Path(system)
    if not path.is_file():
        name = str(system)
        if name in shipped_systems():
            path = SYSTEMS / f"{name}.yaml"
        elif path.suffix not in (".yaml", ".yml") and len(path.parts) == 1:
            shipped = ", ".join(shipped_systems())
            raise InputError(
                f"system: must be a YAML file or a shipped name, got {name!r}; shipped: {shipped}"
            )
    return resolve(load_as(SystemSpec, path), path.parent, str(path), activation_bits)


def resolve(
    spec: SystemSpec,
    folder: Path,
    file: str = "<system>",
    activation_bits: int | None = None,
) -> System:
    """A system with the files that it names.

    Args:
        folder: that paths are relative to. file: what errors call the system.

    Raises:
        InputError: a file is malformed, or a core does not fit the system; one line per problem.
    """
    problems: list[str] = []
    kinds: list[Kind] = []
    for number, entry in enumerate(spec.cores):
        try:
            kinds.append(_kind(spec, number, entry, folder, activation_bits))
        except SpecError as error:
            problems += [f"{file}: scale_accumulate.{item}" for item in error.problems]
        except (SpecFileError, ConfigError) as error:
            problems.append(str(error))
        except InputError as error:
            problems += [f"{file}: cores.{number}.spec: {line}" for line in str(error).splitlines()]
    names = [kind.core.name for kind in kinds]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(f"{file}: cores: names of kinds must differ, got {name} twice")
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
    return System(spec=spec, kinds=tuple(kinds))


def _kind(
    spec: SystemSpec, number: int, entry: CoreEntry, folder: Path, activation_bits: int | None
) -> Kind:
    where = fields = None
    if isinstance(entry.spec, str):
        where = folder / entry.spec
        core = load_core(where, _width(where, activation_bits))
    else:
        fields = {
            "name": f"{spec.name}_core{number}", "clock_mhz": spec.clock_mhz, **entry.spec
        }  # fmt: skip
        found = spec_from_dict(fields)
        assert isinstance(found, GemmSpec)  # noqa: S101  (a rule of :class:`SystemSpec`)
        chosen = len(found.activation_bits) > 1
        core = core_of(found, activation_bits if chosen else None)
    if core.clock_mhz < spec.clock_mhz:
        raise InputError(
            f"must be of a core for the system's clock of {spec.clock_mhz:g} MHz or more, got "
            f"{core.name} for {core.clock_mhz:g} MHz"
        )
    area = None
    if entry.synth_report is not None:
        from sw_driver.mapper.report import read_area

        area = read_area(folder / entry.synth_report, core)
    return Kind(
        core=core,
        count=entry.count,
        operators=entry.operators,
        area=area,
        scale=_scale(spec, core),
        file=where,
        fields=fields,
    )


def _width(path: Path, activation_bits: int | None) -> int | None:
    """The chosen width where the core in a file has a choice, else None."""
    if activation_bits is None:
        return None
    found = load_spec(path)
    chosen = isinstance(found, GemmSpec) and len(found.activation_bits) > 1
    return activation_bits if chosen else None


def _scale(spec: SystemSpec, core: Core) -> Any:
    """The unit behind a core, None where there is none or the core applies its scales itself."""
    if spec.scale_accumulate is None or core.own_scales:
        return None
    return spec_from_dict(
        {
            **spec.scale_accumulate,
            "block": "scale_accumulate",
            "name": f"{core.name}_scales",
            "clock_mhz": spec.clock_mhz,
            "tile": {"m": core.m, "n": core.n},
            "partial_bits": core.result_bits,
            "max_groups": 65536,
        }
    )
