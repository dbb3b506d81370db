"""SPACE.yaml: what is explored, read with the machinery of specifications.

A space names base specifications of GEMM cores, or of systems, with fields that vary, choices of
the mapping, workloads, objectives, constraints and budgets. Every mistake has its place in the
file: a value that a field can never have is one; a combination that a specification refuses is
counted later.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from hw.block import spec_from_dict
from hw.errors import Problem, SpecError
from hw.gemm import GemmSpec
from hw.spec import NAME_PATTERN, Part
from rtl_gen.cache import digest
from rtl_gen.errors import InputError
from rtl_gen.specfile import load_spec, read_text, read_yaml
from sw_driver.checkpoint import load_model
from sw_driver.explore.fields import Base, FieldPath, Scalar, field_kind, problems_of, values_of
from sw_driver.explore.system_base import system_base
from sw_driver.mapper.phases import workloads_of
from sw_driver.mapper.workload import Workload

MAX_POINTS = 200_000
"""Points that a sweep goes through; a larger space is for a search."""

MAX_SYSTEM_POINTS = 20_000
"""The same of systems, of which every point is a search of schedules."""

TOTALS = ("cycles", "seconds", "bytes")
OF_WORKLOAD = ("cycles", "seconds", "tokens_per_second", "bytes", "utilisation")
OF_CORE = ("peak_macs", "bits_per_weight")
SYNTHESIZED = ("area", "area_per_mac", "density", "delay_ns")
ERROR = "sqnr_db"
OF_SYSTEM = ("sram_kib", "bandwidth_gb_s", "cores")
"""What a system has."""
BUSY = "dram_utilisation"
"""Of a workload on a system, beside :data:`OF_WORKLOAD`: share of cycles the channel is held."""
SYNTHESIZED_OF_SYSTEM = ("area", "delay_ns")


class CoreFile(Part):
    """A base specification and the fields of it that vary."""

    base: Any = Field(description="path of a specification beside this file, or one written out")
    fields: dict[str, Any] = Field(
        default_factory=dict, description="by dotted name: a value, a list, or a range"
    )


class SystemFile(Part):
    """A base system and the fields of it that vary."""

    base: Any = Field(description="path of a system beside this file, or a shipped name")
    fields: dict[str, Any] = Field(
        default_factory=dict,
        description="by dotted name, entries of lists by number: a value, a list, or a range",
    )


class WorkloadFile(Part):
    """One phase of one model."""

    model: str = Field(description="shipped name, config.json or checkpoint")
    prefill: int | None = Field(None, ge=1, description="tokens of a prompt, all at once")
    decode: int | None = Field(None, ge=1, description="tokens generated one by one")
    context: int | None = Field(None, ge=0, description="tokens before the decoded ones")
    batch: int = Field(1, ge=1, description="sequences")


class Bounds(Part):
    """What a metric must lie in."""

    min: float | None = Field(None, description="at least")
    max: float | None = Field(None, description="at most")


class SearchFile(Part):
    """How points are chosen."""

    method: Literal["sweep", "nsga2", "tpe", "random"] = Field(
        "sweep", description="every point, or a search of Optuna's"
    )
    trials: int = Field(200, ge=1, le=1_000_000, description="points that a search tries")
    batch: int = Field(
        32, ge=2, le=10_000, description="points asked for at once; a generation of nsga2"
    )
    seed: int = Field(0, ge=0, le=1 << 31, description="of the search")


class SynthesisFile(Part):
    """Synthesis in the loop."""

    runs: int = Field(0, ge=0, le=100_000, description="designs that are measured at most")
    batch: int = Field(8, ge=1, le=10_000, description="designs measured between two estimates")
    effort: Literal["fast", "normal", "high"] = Field("fast", description="see rtlgen synth")
    liberty: str | None = Field(None, description="cell library; the embedded technology if null")
    companions: bool = Field(
        False, description="charge the units that scale results and quantize activations, too"
    )
    meets_clock: bool = Field(True, description="what misses its clock is left out")


Goal = Literal["minimise", "maximise", "minimize", "maximize"]


class SpaceFile(Part):
    """A whole SPACE.yaml."""

    name: str = Field(pattern=NAME_PATTERN, description="of the exploration")
    cores: list[CoreFile] | None = Field(None, min_length=1, max_length=100)
    systems: list[SystemFile] | None = Field(None, min_length=1, max_length=100)
    mapping: dict[str, Any] = Field(
        default_factory=dict, description="choices of the mapping: values, lists or ranges"
    )
    workloads: dict[str, WorkloadFile] = Field(default_factory=dict)
    objectives: dict[str, Goal] = Field(min_length=1, max_length=4)
    constraints: dict[str, Bounds] = Field(default_factory=dict)
    search: SearchFile = Field(default_factory=SearchFile)
    synthesis: SynthesisFile = Field(default_factory=SynthesisFile)
    verify: bool = Field(True, description="try the RTL of the front's designs")


MAPPING: Mapping[str, Any] = {
    "weight_bits": Annotated[int, Field(ge=1, le=16)],
    "activation_bits": Annotated[int, Field(ge=1, le=16)],
    "kv_bits": Annotated[int, Field(ge=1, le=16)] | None,
    "group": Annotated[int, Field(ge=1, le=1 << 20)] | None,
    "buffer_kib": Annotated[int, Field(ge=0, le=1 << 30)],
    "output_bits": Annotated[int, Field(ge=1, le=64)] | None,
}
"""Choices of the mapping and what they may be, as `rtlgen map` has them."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A metric and whether it is to be large."""

    metric: str
    maximise: bool


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A metric and the interval that it must lie in."""

    metric: str
    least: float = -math.inf
    most: float = math.inf

    def __str__(self) -> str:
        low = f"{self.least:g} ≤ " if self.least > -math.inf else ""
        high = f" ≤ {self.most:g}" if self.most < math.inf else ""
        return f"{low}{self.metric}{high}"


@dataclass(frozen=True, kw_only=True)
class Space:
    """A validated space.

    Attributes:
        systems: whether its bases are systems, not cores.
        bases: base specifications. choices: mapping choices by name, what varies and what does not.
        workloads: by name.
        search, synthesis, verify: as in the file, ``synthesis.liberty`` a path that is there.
    """

    name: str
    systems: bool
    bases: tuple[Base, ...]
    choices: Mapping[str, tuple[Scalar, ...]]
    workloads: Mapping[str, Workload]
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    search: SearchFile
    synthesis: SynthesisFile
    verify: bool
    plain: Mapping[str, Any]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that objectives and constraints name, in order."""
        objectives = [item.metric for item in self.objectives]
        return tuple(dict.fromkeys([*objectives, *(item.metric for item in self.constraints)]))

    @property
    def needs_synthesis(self) -> bool:
        """Whether a point's place cannot be told without synthesizing it."""
        return any(metric in SYNTHESIZED for metric in self.metrics)

    @property
    def needs_error(self) -> bool:
        return ERROR in self.metrics

    @property
    def measured(self) -> bool:
        """Whether some objective or constraint has to be measured."""
        return self.needs_synthesis or self.needs_error

    @property
    def liberty(self) -> Path | None:
        return None if self.synthesis.liberty is None else Path(self.synthesis.liberty)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that says which points there are and which are good, without budgets."""
        return digest(self.plain)

    def sizes(self) -> list[int]:
        """Combinations of each base's fields, before any is refused."""
        return [math.prod(map(len, base.fields.values())) for base in self.bases]

    def combinations(self) -> Iterator[dict[str, Scalar]]:
        """Every combination of mapping choices."""
        for values in itertools.product(*self.choices.values()):
            yield dict(zip(self.choices, values, strict=True))

    @property
    def points(self) -> int:
        """Points before any is refused."""
        return sum(self.sizes()) * math.prod(map(len, self.choices.values()))


def load_space(path: Path | str) -> Space:
    """The space in a YAML file.

    Raises:
        SpecFileError: every mistake with its place; of a base specification in its own file, too.
    """
    path = Path(path)
    return read_space(read_text(path), str(path), path.parent)


def read_space(text: str, file: str = "<space>", folder: Path | None = None) -> Space:
    """The space in a YAML text.

    Args:
        file: what errors call it. folder: what paths in it are relative to; here if None.

    Raises:
        SpecFileError: as :func:`load_space`.
    """
    here = Path() if folder is None else folder
    return read_yaml(text, file, lambda data: space_from_dict(data, here), SpaceFile)


def space_from_dict(data: Mapping[str, Any], folder: Path) -> Space:
    """The space in plain data.

    Raises:
        SpecError: with every problem.
    """
    problems: list[Problem] = []
    if "cores" not in data and "systems" not in data:
        problems.append(Problem(("cores",), "is required", None))
    try:
        read = SpaceFile.model_validate(data)
    except ValidationError as error:
        raise SpecError([*problems, *problems_of(error, (), SpaceFile)]) from None
    problems += _kind_problems(read)
    bases = [
        base
        for index, core in enumerate(read.cores or ())
        if (base := _base(core, ("cores", index), folder, problems)) is not None
    ]
    bases += [
        base
        for index, item in enumerate(read.systems or ())
        if (base := system_base(item.base, item.fields, ("systems", index), folder, problems))
        is not None
    ]
    choices = _choices(read.mapping, problems, _choices_of(read))
    workloads = {
        name: work
        for name, item in read.workloads.items()
        if (work := _workload(name, item, folder, problems)) is not None
    }
    problems += _metric_problems(read)
    constraints = tuple(
        Constraint(
            metric=metric,
            least=-math.inf if item.min is None else item.min,
            most=math.inf if item.max is None else item.max,
        )
        for metric, item in read.constraints.items()
    )
    liberty = None
    if read.synthesis.liberty is not None:
        liberty = folder / Path(read.synthesis.liberty).expanduser()
        if not liberty.is_file():
            rule = "must be a file, is not there"
            problems.append(Problem(("synthesis", "liberty"), rule, read.synthesis.liberty))
    problems += _need_problems(read)
    if problems:
        raise SpecError(problems)
    space = Space(
        name=read.name,
        systems=read.systems is not None,
        bases=_labelled(bases),
        choices=choices,
        workloads=workloads,
        objectives=tuple(
            Objective(metric=metric, maximise=goal.startswith("max"))
            for metric, goal in read.objectives.items()
        ),
        constraints=constraints,
        search=read.search,
        synthesis=read.synthesis.model_copy(
            update={"liberty": None if liberty is None else str(liberty)}
        ),
        verify=read.verify,
        plain=_identity(read, bases, choices, liberty),
    )
    most = MAX_SYSTEM_POINTS if space.systems else MAX_POINTS
    if read.search.method == "sweep" and space.points > most:
        of = " of systems" if space.systems else ""
        rule = f"must be a search for more than {most:,} points{of}, here {space.points:,}"
        raise SpecError([Problem(("search", "method"), rule, "sweep")])
    return space


def of_workload(systems: bool) -> tuple[str, ...]:
    """Metrics of a workload on cores or on systems."""
    return (*OF_WORKLOAD, BUSY) if systems else OF_WORKLOAD


def known_metrics(workloads: Sequence[str], systems: bool = False) -> tuple[str, ...]:
    """Names that objectives and constraints may have."""
    names = of_workload(systems)
    of_each = [f"{work}.{name}" for work in workloads for name in names]
    single = names[2:3] + names[4:] if len(workloads) == 1 else ()
    totals = TOTALS if workloads else ()
    if systems:
        return (*totals, *single, *of_each, *OF_SYSTEM, *SYNTHESIZED_OF_SYSTEM)
    return (*totals, *single, *of_each, *OF_CORE, *SYNTHESIZED, ERROR)


def _metric_problems(read: SpaceFile) -> Iterator[Problem]:
    """Names of metrics that there are not, bounds that hold nothing."""
    known = known_metrics(tuple(read.workloads), read.systems is not None)
    names = of_workload(read.systems is not None)
    for section, named in (("objectives", read.objectives), ("constraints", read.constraints)):
        for metric, value in named.items():
            if metric in known:
                continue
            near = difflib.get_close_matches(metric, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else f": {', '.join(known)}"
            if metric in names and read.workloads:
                hint = f" alone: of which workload? {', '.join(read.workloads)}"
            elif metric in names:
                hint = " without workloads"
            shown = value if isinstance(value, str) else None
            yield Problem((section, metric), f"is no metric{hint}", shown)
    for metric, bounds in read.constraints.items():
        if bounds.min is None and bounds.max is None:
            yield Problem(("constraints", metric), "must have min or max", bounds.model_dump())
        elif bounds.min is not None and bounds.max is not None and bounds.min > bounds.max:
            rule = f"must be at least min = {bounds.min:g}"
            yield Problem(("constraints", metric, "max"), rule, bounds.max)


def _need_problems(read: SpaceFile) -> Iterator[Problem]:
    """What metrics need that is not there."""
    named = [*read.objectives, *read.constraints]
    of_synthesis = [metric for metric in named if metric in (*SYNTHESIZED, ERROR)]
    if of_synthesis and not read.synthesis.runs:
        rule = f"must be at least 1 for {of_synthesis[0]}"
        yield Problem(("synthesis", "runs"), rule, read.synthesis.runs)
    wanting = [ERROR] if ERROR in named else []
    if read.synthesis.companions:
        wanting.append("synthesis.companions")
    group = read.mapping.get("group")
    if wanting and (group is None or (isinstance(group, list) and None in group)):
        rule = f"must be numbers for {' and '.join(wanting)}"
        yield Problem(("mapping", "group"), rule, group)


def _kind_problems(read: SpaceFile) -> Iterator[Problem]:
    """Whether there are cores or systems, and what a space of systems must and cannot have."""
    if read.systems is None:
        return
    if read.cores is not None:
        rule = "must not be given beside cores: their metrics differ, explore them one by one"
        yield Problem(("systems",), rule, [])
    if not read.workloads:
        yield Problem(("workloads",), "must have at least one for systems", read.workloads)
    if read.synthesis.companions:
        rule = "must be false for systems, whose units beside the cores have no area here"
        yield Problem(("synthesis", "companions"), rule, True)


def _choices_of(read: SpaceFile) -> tuple[str, ...]:
    """Choices of the mapping: a system says its buffers itself."""
    return tuple(name for name in MAPPING if read.systems is None or name != "buffer_kib")


def _base(
    core: CoreFile, at: tuple[str | int, ...], folder: Path, problems: list[Problem]
) -> Base | None:
    """A base with its fields; None if the specification itself is wrong."""
    spec: Any = None
    if isinstance(core.base, str):
        path = folder / Path(core.base).expanduser()
        try:
            spec = load_spec(path)
        except InputError as error:
            rule = f"must be a specification that can be read: {str(error).splitlines()[0]}"
            problems.append(Problem((*at, "base"), rule, core.base))
    elif isinstance(core.base, Mapping):
        try:
            spec = spec_from_dict(core.base)
        except SpecError as error:
            problems += [
                Problem((*at, "base", *item.path), item.rule, item.value) for item in error.problems
            ]
    else:
        rule = "must be a path or a specification"
        problems.append(Problem((*at, "base"), rule, core.base))
    if spec is None:
        return None
    if not isinstance(spec, GemmSpec):
        rule = f"must be a GEMM core, is {spec.block}"
        problems.append(Problem((*at, "base"), rule, core.base))
        return None
    fields: dict[FieldPath, tuple[Scalar, ...]] = {}
    for name, given in core.fields.items():
        place = (*at, "fields", name)
        kind = field_kind(type(spec), name, place, problems)
        values = values_of(given, kind, place, problems)
        if kind is not None and values:
            fields[tuple(name.split("."))] = values
    return Base(label=spec.name, data=spec.model_dump(), fields=fields)


def _choices(
    given: Mapping[str, Any], problems: list[Problem], among: Sequence[str]
) -> dict[str, tuple[Scalar, ...]]:
    """Mapping choices by name; those that are not given are left to the mapper."""
    found = {}
    for name, value in given.items():
        if name not in among:
            near = difflib.get_close_matches(name, among, n=1)
            hint = f" (did you mean {near[0]}?)" if near else f": {', '.join(among)}"
            if name in MAPPING:
                hint = " on systems, whose sram says it"
            problems.append(Problem(("mapping", name), f"is no choice of the mapping{hint}", value))
            continue
        values = values_of(value, MAPPING[name], ("mapping", name), problems)
        if values:
            found[name] = values
    return found


def _workload(
    name: str, item: WorkloadFile, folder: Path, problems: list[Problem]
) -> Workload | None:
    """One phase of one model."""
    at = ("workloads", name)
    if "." in name or not name:
        problems.append(Problem(at, "must have a name without points", name))
        return None
    if (item.prefill is None) == (item.decode is None):
        problems.append(Problem(at, "must have either prefill or decode", item.model_dump()))
        return None
    beside = folder / item.model
    model = beside if beside.exists() else item.model
    try:
        arch = load_model(model)
    except InputError as error:
        rule = f"must be a model that can be read: {str(error).splitlines()[0]}"
        problems.append(Problem((*at, "model"), rule, item.model))
        return None
    try:
        (work,) = workloads_of(
            arch,
            prefill=item.prefill,
            decode=item.decode,
            context=item.context,
            batch=item.batch,
        )
    except InputError as error:
        for line in str(error).splitlines():
            # "decode: rule", or "model: decode: rule".
            words = line.split(": ")
            field = next((word for word in words[:2] if word in WorkloadFile.model_fields), None)
            if field is None:
                problems.append(Problem(at, line, item.model_dump()))
                continue
            rule = line.partition(f"{field}: ")[2]
            problems.append(Problem((*at, field), rule, getattr(item, field)))
        return None
    return work


def _labelled(bases: Sequence[Base]) -> tuple[Base, ...]:
    """Bases with labels that differ."""
    found: list[Base] = []
    taken: set[str] = set()
    for base in bases:
        label, number = base.label, 1
        while label in taken:
            number += 1
            label = f"{base.label}_{number}"
        taken.add(label)
        found.append(Base(label=label, data=base.data, fields=base.fields))
    return tuple(found)


def _identity(
    read: SpaceFile,
    bases: Sequence[Base],
    choices: Mapping[str, tuple[Scalar, ...]],
    liberty: Path | None,
) -> dict[str, Any]:
    """What makes a space this one: everything but budgets, files by what is in them."""
    import hashlib

    plain = read.model_dump(mode="json")
    kind, other = ("cores", "systems") if read.systems is None else ("systems", "cores")
    del plain[other]
    plain[kind] = [
        {
            "base": base.data,
            "fields": {".".join(path): list(values) for path, values in base.fields.items()},
        }
        for base in bases
    ]
    plain["mapping"] = {name: list(values) for name, values in choices.items()}
    for section, budget in (("synthesis", "runs"), ("search", "trials")):
        del plain[section][budget]
    if liberty is not None and liberty.is_file():
        plain["synthesis"]["liberty"] = hashlib.sha256(liberty.read_bytes()).hexdigest()
    return json.loads(json.dumps(plain))
