"""Errors about what a person wrote: one problem is a field, the rule it breaks and its value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One broken rule. ``path`` leads to the field (``("tile", "m")``), root first."""

    path: tuple[str | int, ...]
    rule: str
    value: Any = None

    @property
    def field(self) -> str:
        return ".".join(str(part) for part in self.path) or "(root)"

    def __str__(self) -> str:
        return f"{self.field}: {self.rule}, got {self.value!r}"


class SpecError(ValueError):
    """A specification that breaks one or more rules; ``problems`` holds every one of them."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
