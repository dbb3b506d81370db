"""SPACE.yaml: what is explored, read with the machinery of specifications.

A space names base specifications of GEMM cores with fields that vary, choices of the mapping,
workloads, objectives, constraints and budgets. Every mistake has its place in the file: a value
that a field can never have is one; a combination that a specification refuses is counted later.
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

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from hw.block import spec_from_dict
from hw.errors import Problem, SpecError
from hw.gemm import GemmSpec
from hw.spec import NAME_PATTERN, Part, part_of, rule_text
from rtl_gen.cache import digest
from rtl_gen.errors import InputError
from rtl_gen.specfile import load_spec, read_text, read_yaml
from sw_driver.checkpoint import load_model
from sw_driver.mapper.phases import workloads_of
from sw_driver.mapper.workload import Workload

MAX_VALUES = 1000
"""Values of one field."""

MAX_POINTS = 200_000
"""Points that a sweep goes through; a larger space is for a search."""

Scalar = str | int | float | bool | None
FieldPath = tuple[str, ...]

TOTALS = ("cycles", "seconds", "bytes")
OF_WORKLOAD = ("cycles", "seconds", "tokens_per_second", "bytes", "utilisation")
OF_CORE = ("peak_macs", "bits_per_weight")
SYNTHESIZED = ("area", "area_per_mac", "density", "delay_ns")
ERROR = "sqnr_db"


class CoreFile(Part):
    """A base specification and the fields of it that vary."""

    base: Any = Field(description="path of a specification beside this file, or one written out")
    fields: dict[str, Any] = Field(
        default_factory=dict, description="by dotted name: a value, a list, or a range"
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
    cores: list[CoreFile] = Field(min_length=1, max_length=100)
    mapping: dict[str, Any] = Field(
        default_factory=dict, description="choices of the mapping: values, lists or ranges"
    )
    workloads: dict[str, WorkloadFile] = Field(default_factory=dict)
    objectives: dict[str, Goal] = Field(min_length=1, max_length=4)
    constraints: dict[str, Bounds] = Field(default_factory=dict)
    search: SearchFile = Field(default_factory=SearchFile)
    synthesis: SynthesisFile = Field(default_factory=SynthesisFile)
    verify: bool = Field(True, description="try the RTL of the front's designs")


class Range(Part):
    """Numbers from one to another, both included, by a step or by a factor."""

    start: int | float = Field(alias="from")
    to: int | float
    step: int | float | None = Field(None, gt=0)
    factor: int | float | None = Field(None, gt=1)


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
class Base:
    """A base specification.

    Attributes:
        label: what points of it are called: its name, made unique.
        data: the specification as plain data, without what only names or feeds it.
        fields: what varies, by path.
    """

    label: str
    data: Mapping[str, Any]
    fields: Mapping[FieldPath, tuple[Scalar, ...]]

    def with_values(self, values: Sequence[Scalar]) -> dict[str, Any]:
        """The data with a value of each of :attr:`fields`, in their order."""
        data = _copied(self.data)
        for path, value in zip(self.fields, values, strict=True):
            inner = data
            for part in path[:-1]:
                below = inner.get(part)
                inner[part] = below if isinstance(below, dict) else {}
                inner = inner[part]
            inner[path[-1]] = value
        return data


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
        bases: base specifications. choices: mapping choices by name, what varies and what does not.
        workloads: by name.
        search, synthesis, verify: as in the file, ``synthesis.liberty`` a path that is there.
    """

    name: str
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
    try:
        read = SpaceFile.model_validate(data)
    except ValidationError as error:
        raise SpecError(_problems(error, (), SpaceFile)) from None
    problems: list[Problem] = []
    bases = [
        base
        for index, core in enumerate(read.cores)
        if (base := _base(core, ("cores", index), folder, problems)) is not None
    ]
    choices = _choices(read.mapping, problems)
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
    if read.search.method == "sweep" and space.points > MAX_POINTS:
        rule = f"must be a search for more than {MAX_POINTS:,} points, here {space.points:,}"
        raise SpecError([Problem(("search", "method"), rule, "sweep")])
    return space


def known_metrics(workloads: Sequence[str]) -> tuple[str, ...]:
    """Names that objectives and constraints may have."""
    of_each = [f"{work}.{name}" for work in workloads for name in OF_WORKLOAD]
    single = OF_WORKLOAD[2:3] + OF_WORKLOAD[4:] if len(workloads) == 1 else ()
    totals = TOTALS if workloads else ()
    return (*totals, *single, *of_each, *OF_CORE, *SYNTHESIZED, ERROR)


def _metric_problems(read: SpaceFile) -> Iterator[Problem]:
    """Names of metrics that there are not, bounds that hold nothing."""
    known = known_metrics(tuple(read.workloads))
    for section, named in (("objectives", read.objectives), ("constraints", read.constraints)):
        for metric, value in named.items():
            if metric in known:
                continue
            near = difflib.get_close_matches(metric, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else f": {', '.join(known)}"
            if metric in OF_WORKLOAD and read.workloads:
                hint = f" alone: of which workload? {', '.join(read.workloads)}"
            elif metric in OF_WORKLOAD:
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
        kind = _field_kind(type(spec), name, place, problems)
        values = _values(given, kind, place, problems)
        if kind is not None and values:
            fields[tuple(name.split("."))] = values
    return Base(label=spec.name, data=spec.model_dump(), fields=fields)


def _field_kind(
    model: type[BaseModel], name: str, place: tuple[str | int, ...], problems: list[Problem]
) -> Any:
    """The annotation of a field by its dotted name; None, and a problem, if there is none."""
    if name in ("block", "name"):
        problems.append(Problem(place, f"must not vary: another {name} is another base", name))
        return None
    inside: type[BaseModel] | None = model
    parts = name.split(".")
    for position, part in enumerate(parts):
        field = inside.model_fields.get(part) if inside is not None else None
        if field is None or inside is None:
            known = () if inside is None else tuple(inside.model_fields)
            near = difflib.get_close_matches(part, known, n=1)
            above = ".".join(parts[:position])
            prefix = f"{above}." if above else ""
            hint = f" (did you mean {prefix}{near[0]}?)" if near else ""
            problems.append(Problem(place, f"is no field of {block_name(model)}{hint}", name))
            return None
        below = part_of(field.annotation)
        if position == len(parts) - 1:
            if below is not None:
                inner = ", ".join(f"{name}.{item}" for item in below.model_fields)
                problems.append(Problem(place, f"must be one of its fields: {inner}", name))
                return None
            return Annotated[field.annotation, field] if field.metadata else field.annotation
        inside = below
    return None


def block_name(model: type[BaseModel]) -> str:
    """The block that a specification class is of."""
    return str(model.model_fields["block"].default)


def _values(
    given: Any, kind: Any, place: tuple[str | int, ...], problems: list[Problem]
) -> tuple[Scalar, ...]:
    """The values of a field: one, a list of them, or a range; empty, and a problem, if wrong."""
    before = len(problems)
    items: list[tuple[tuple[str | int, ...], Any]]
    if isinstance(given, Mapping):
        items = [(place, value) for value in _ranged(given, place, problems)]
    elif isinstance(given, list):
        items = [((*place, index), value) for index, value in enumerate(given)]
        if not items:
            problems.append(Problem(place, "must hold at least one value", given))
    else:
        items = [(place, given)]
    if len(items) > MAX_VALUES:
        problems.append(Problem(place, f"must hold at most {MAX_VALUES} values", len(items)))
        return ()
    seen: set[tuple[type, Any]] = set()
    adapter = None if kind is None else TypeAdapter(kind)
    for path, value in items:
        if isinstance(value, (list, Mapping)):
            problems.append(Problem(path, "must be a single value", value))
            continue
        if (type(value), value) in seen:
            problems.append(Problem(path, "must be given once", value))
        seen.add((type(value), value))
        if adapter is None:
            continue
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError as error:
            rules = [rule_text(item) for item in error.errors(include_url=False)]
            problems += [Problem(path, rule, value) for rule in dict.fromkeys(rules)]
    return tuple(value for _, value in items) if len(problems) == before else ()


def _ranged(
    given: Mapping[str, Any], place: tuple[str | int, ...], problems: list[Problem]
) -> list[Scalar]:
    """Values of a range, as integers where all of its numbers are."""
    try:
        found = Range.model_validate(dict(given))
    except ValidationError as error:
        problems += _problems(error, place, Range)
        return []
    if (found.step is None) == (found.factor is None):
        problems.append(Problem(place, "must have either step or factor", dict(given)))
        return []
    if found.to < found.start:
        problems.append(Problem((*place, "to"), f"must be at least {found.start:g}", found.to))
        return []
    if found.factor is not None and found.start <= 0:
        problems.append(Problem((*place, "from"), "must be above 0 with a factor", found.start))
        return []
    values: list[Scalar] = []
    for index in range(MAX_VALUES + 1):
        value = (
            found.start + index * found.step
            if found.step is not None
            else found.start * (found.factor or 1) ** index
        )
        # Rounding of 0.1 + 0.2 and the like must not lose the end.
        if value > found.to * (1 + 1e-12):
            break
        values.append(value)
    return values


def _choices(given: Mapping[str, Any], problems: list[Problem]) -> dict[str, tuple[Scalar, ...]]:
    """Mapping choices by name; those that are not given are left to the mapper."""
    found = {}
    for name, value in given.items():
        if name not in MAPPING:
            near = difflib.get_close_matches(name, MAPPING, n=1)
            hint = f" (did you mean {near[0]}?)" if near else f": {', '.join(MAPPING)}"
            problems.append(Problem(("mapping", name), f"is no choice of the mapping{hint}", value))
            continue
        values = _values(value, MAPPING[name], ("mapping", name), problems)
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
    plain["cores"] = [
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


def _problems(
    error: ValidationError, above: tuple[str | int, ...], model: type[BaseModel]
) -> list[Problem]:
    """What pydantic found, as problems at their places."""
    found = []
    for item in error.errors(include_url=False):
        path = _given(item["loc"])
        missing = item["type"] == "missing"
        found.append(Problem((*above, *path), rule_text(item), None if missing else item["input"]))
    return found


def _given(place: Sequence[str | int]) -> tuple[str | int, ...]:
    """A place without the names of a union's alternatives, which are those of types."""
    return tuple(part for part in place if part not in ("int", "float", "str", "bool"))


def _copied(data: Any) -> Any:
    """Nested mappings copied, the values shared."""
    return {key: _copied(value) for key, value in data.items()} if isinstance(data, dict) else data
