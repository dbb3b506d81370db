"""The base of every block's specification: frozen, keyword-only, validated, with a digest.

A specification is a pydantic model, so that its JSON Schema, its documentation and its command-line
description all come from the one declaration. Rules between fields are given by :meth:`rules`; they
are checked together with the types, and every broken rule is reported at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
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

    def __init__(self, **data: Any):
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
            path = tuple(item["loc"])
            missing = item["type"] == "missing"
            bad.add(path)
            value = None if missing else item["input"]
            problems.append(Problem(path, _rule_text(item), value))
        # Defaults stand in for the bad fields so that the rules between the others are checked too.
        repaired = _without(data, bad)
        if ("name",) in bad:
            repaired["name"] = "unnamed"
        if repaired != data:
            try:
                cls(**repaired)
            except SpecError as second:
                known = {problem.path for problem in problems}
                problems += [
                    problem
                    for problem in second.problems
                    if problem.path not in known
                    and not any(problem.path[: len(path)] == path for path in bad)
                ]
        return problems

    def canonical(self) -> str:
        """The specification as canonical JSON: sorted keys, every default written out."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """SHA-256 of :meth:`canonical`, as 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def _rule_text(item: Any) -> str:
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
