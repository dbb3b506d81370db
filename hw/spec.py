"""The base of every block's specification: frozen, keyword-only, validated, with a digest.

A specification is a pydantic model, so that its JSON Schema, its documentation and its command-line
description all come from the one declaration. Rules between fields are given by :meth:`rules`; they
are checked together with the types, and every broken rule is reported at once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hw.errors import Problem, SpecError

NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_]{0,63}$"


class Part(BaseModel):
    """A group of fields inside a specification."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class Memory(Part):
    """The memory that feeds the core; used by the mapper only, it changes no hardware."""

    bandwidth_gb_s: float = Field(
        25.6, gt=0, le=100_000, description="sustained DRAM bandwidth, 1e9 bytes per second"
    )


class BlockSpec(Part):
    """Fields that every block has. Subclasses narrow ``block`` to a literal.

    Raises:
        SpecError: on construction, with every broken rule.
    """

    block: str = Field(description="which generator: see `rtlgen list`")
    name: str = Field(
        pattern=NAME_PATTERN, description="name of the top module and of the output folder"
    )
    clock_mhz: float = Field(
        500.0, gt=0, le=10_000, description="clock for the timing constraint and for seconds, MHz"
    )

    def __init__(self, /, **data: Any):
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise SpecError(self._problems(error, data)) from None
        broken = tuple(self.rules())
        if broken:
            raise SpecError(broken)

    def rules(self) -> Iterator[Problem]:
        """Rules between fields, each one that is broken as a :class:`Problem`."""
        return iter(())

    @classmethod
    def _problems(cls, error: ValidationError, data: dict[str, Any]) -> list[Problem]:
        """Every type error, and every rule between the fields whose types are right."""
        problems = []
        bad: set[tuple[str | int, ...]] = set()
        for item in error.errors(include_url=False):
            path = _field_path(cls, item["loc"])
            missing = item["type"] == "missing"
            # An entry of a list that is wrong leaves the list out of the rules between fields.
            bad.add(tuple(itertools.takewhile(lambda step: isinstance(step, str), path)))
            value = None if missing else item["input"]
            problems.append(Problem(path, rule_text(item), value))
        problems += cls._between(_without(data, bad), bad)
        return problems

    @classmethod
    def _between(cls, data: dict[str, Any], bad: set[tuple[str | int, ...]]) -> list[Problem]:
        """Rules that the fields other than the bad ones break among themselves.

        Defaults stand in for the bad fields, then in turn the other values that each could have: a
        rule that some right value would satisfy is no news.
        """
        if ("name",) in bad:
            data = {**data, "name": "unnamed"}
        tried = [data]
        for path in bad:
            tried += [_with(data, path, value) for value in _stand_ins(cls, path)]
        found: list[list[Problem]] = []
        for candidate in tried:
            try:
                cls(**candidate)
            except SpecError as error:
                found.append(list(error.problems))
            else:
                return []
        always = set.intersection(*({problem.path for problem in one} for one in found))
        return [
            problem
            for problem in found[0]
            if problem.path in always and not any(problem.path[: len(path)] == path for path in bad)
        ]

    def canonical(self) -> str:
        """The specification as canonical JSON: sorted keys, every default written out."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """SHA-256 of :meth:`canonical`, as 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def part_of(annotation: Any) -> type[BaseModel] | None:
    """The group of fields that an annotation stands for, None if it does not."""
    candidates = (annotation, *typing.get_args(annotation))
    return next(
        (item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)),
        None,
    )


def _field_path(model: type[BaseModel], place: Iterable[str | int]) -> tuple[str | int, ...]:
    """A place of pydantic's less the names of alternatives that it appends for a union."""
    path: tuple[str | int, ...] = ()
    inside: type[BaseModel] | None = model
    for step in place:
        if isinstance(step, str):
            if inside is None:
                break
            field = inside.model_fields.get(step)
            inside = part_of(field.annotation) if field is not None else None
        path = (*path, step)
    return path


def _stand_ins(model: type[BaseModel], path: tuple[str | int, ...]) -> list[Any]:
    """Values that a field may have: every one of a choice, else its bounds."""
    field = None
    inside: type[BaseModel] | None = model
    for step in path:
        field = inside.model_fields.get(str(step)) if inside is not None else None
        inside = part_of(field.annotation) if field is not None else None
    if field is None or inside is not None:
        return []
    found: list[Any] = []
    for kind in (field.annotation, *typing.get_args(field.annotation)):
        if typing.get_origin(kind) is typing.Literal:
            found += typing.get_args(kind)
        elif kind is bool:
            found += [True, False]
    bounds = (getattr(rule, name, None) for rule in field.metadata for name in ("ge", "le"))
    return found + [bound for bound in bounds if bound is not None]


def _with(data: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """``data`` with a value at a path of mappings."""
    first, *rest = path
    if rest:
        inner = data.get(str(first))
        value = _with(inner if isinstance(inner, dict) else {}, tuple(rest), value)
    return {**data, str(first): value}


def rule_text(item: Any) -> str:
    """What pydantic found, in the words of this project's rules."""
    kind = item["type"]
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return "unknown field"
    message = item["msg"]
    return message[0].lower() + message[1:]


def _without(data: Any, bad: set[tuple[str | int, ...]]) -> Any:
    """``data`` less the entries at the paths in ``bad``."""
    if not isinstance(data, dict):
        return data
    kept = {}
    for key, value in data.items():
        below = {path[1:] for path in bad if path[:1] == (key,)}
        if () in below:
            continue
        kept[key] = _without(value, below) if below else value
    return kept
