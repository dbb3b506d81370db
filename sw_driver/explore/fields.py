"""Fields of a base that vary, and the values that a SPACE.yaml gives them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from hw.errors import Problem
from hw.spec import Part, part_of, rule_text

MAX_VALUES = 1000
"""Values of one field."""

Scalar = str | int | float | bool | None
FieldPath = tuple[str, ...]


class Range(Part):
    """Numbers from one to another, both included, by a step or by a factor."""

    start: int | float = Field(alias="from")
    to: int | float
    step: int | float | None = Field(None, gt=0)
    factor: int | float | None = Field(None, gt=1)


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base specification.

    Attributes:
        label: what points of it are called: its name, made unique.
        data: the specification as plain data, without what only names or feeds it.
        fields: what varies, by path; entries of lists by number.
    """

    label: str
    data: Mapping[str, Any]
    fields: Mapping[FieldPath, tuple[Scalar, ...]]

    def with_values(self, values: Sequence[Scalar]) -> dict[str, Any]:
        """The data with a value of each of :attr:`fields`, in their order."""
        data = _copied(self.data)
        for path, value in zip(self.fields, values, strict=True):
            inner: Any = data
            for part in path[:-1]:
                if isinstance(inner, list):
                    inner = inner[int(part)]
                    continue
                below = inner.get(part)
                inner[part] = below if isinstance(below, (dict, list)) else {}
                inner = inner[part]
            inner[path[-1]] = value
        return data


def field_kind(
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


def values_of(
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
        problems += problems_of(error, place, Range)
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


def problems_of(
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
    """Nested mappings and lists copied, the values shared."""
    if isinstance(data, list):
        return [_copied(value) for value in data]
    return {key: _copied(value) for key, value in data.items()} if isinstance(data, dict) else data
