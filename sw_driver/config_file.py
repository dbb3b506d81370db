"""Reading a Hugging Face ``config.json``: plain data in, every broken rule out at once.

The file is data from outside: its size, depth and numbers are bounded, nothing in it is executed.
"""

from __future__ import annotations

import difflib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rtl_gen.errors import InputError

MAX_BYTES = 1 << 20
"""Largest file that is read; published ones are a few KiB."""

LARGEST = 1 << 31
"""Largest integer that any field may hold."""

MAX_REPEATED = 20
"""Names given twice that are said."""

_MISSING = object()


class ConfigError(InputError):
    """A model file that breaks one or more rules, one line each: ``file: field: rule, value``."""

    def __init__(self, file: str, problems: Sequence[str]):
        self.file = file
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{file}: {problem}" for problem in self.problems))


def read_json(path: Path, *, limit: int = MAX_BYTES) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ConfigError: it cannot be read, is too large, is no JSON object, or names a field twice.
    """
    try:
        with path.open("rb") as handle:
            # A read takes its whole length at once, whatever the file has.
            size = os.fstat(handle.fileno()).st_size
            raw = handle.read(min(limit, size) + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ConfigError(str(path), [f"cannot be read, {reason}"]) from None
    if len(raw) > limit:
        raise ConfigError(str(path), [f"must be at most {limit // 1024} KiB"])
    return parse_json(raw, str(path))


def parse_json(raw: bytes, file: str) -> dict[str, Any]:
    """The object in JSON text; ``file`` is what errors call it.

    Raises:
        ConfigError: as :func:`read_json`.
    """
    repeated: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            again = sorted(name for name, count in counts.items() if count > 1)
            repeated.extend(again[: MAX_REPEATED - len(repeated)])
        return result

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON number")

    try:
        data = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=collect, parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise ConfigError(
            file, [f"must be UTF-8 text, got byte 0x{raw[error.start]:02x}"]
        ) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise ConfigError(file, [f"is not JSON: {error.msg.lower()} at {place}"]) from None
    except RecursionError:
        raise ConfigError(file, ["is nested too deep"]) from None
    except ValueError as error:
        raise ConfigError(file, [f"is not JSON: {clipped(str(error))}"]) from None
    if not isinstance(data, dict):
        raise ConfigError(file, [f"(root): must be an object of fields, got {shown(data)}"])
    if repeated:
        raise ConfigError(file, [f"{clipped(name)}: must be given once" for name in repeated])
    return data


def shown(value: Any) -> str:
    """A value as a person would have written it, at most one short line of it."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return clipped(json.dumps(value, ensure_ascii=True))


def clipped(text: str, limit: int = 60) -> str:
    """A text of a file as a message shows it: printable, and no longer than ``limit``."""
    if len(text) <= limit and text.isprintable():
        return text
    text = "".join(letter if letter.isprintable() else "?" for letter in text[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class Fields:
    """Typed access to an object's fields that gathers every problem instead of stopping at one.

    A field that is missing or null takes its default; without a default it is a problem. What is
    returned in place of a bad value keeps the rules between the other fields checkable. ``read``
    holds the names that were asked for.
    """

    def __init__(self, data: dict[str, Any], file: str):
        self.data = data
        self.file = file
        self.problems: list[str] = []
        self.bad: set[str] = set()
        self.read: set[str] = set()

    def problem(self, field: str, rule: str, value: Any = _MISSING) -> None:
        """One broken rule."""
        self.bad.add(field)
        got = "" if value is _MISSING else f", got {shown(value)}"
        self.problems.append(f"{field}: {rule}{got}")

    def given(self, field: str) -> bool:
        """Whether the field has a value other than null."""
        return self.data.get(field) is not None

    def integer(
        self, field: str, default: int | None = None, *, low: int = 1, high: int = LARGEST
    ) -> int:
        """An integer in ``[low, high]``; required unless there is a default."""
        value = self._value(field)
        if value is None:
            if default is not None:
                return default
            self._missing(field)
            return low
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem(field, "must be an integer", value)
            return default if default is not None else low
        if not low <= value <= high:
            self.problem(field, f"must lie in [{low}, {high}]", value)
            return default if default is not None else low
        return value

    def fraction(self, field: str, default: float) -> float:
        """A number in (0, 1]."""
        value = self._value(field)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            self.problem(field, "must be a number above 0, at most 1", value)
            return default
        return float(value)

    def real(
        self,
        field: str,
        default: float | None = None,
        *,
        above: float = 0.0,
        most: float = 1e12,
    ) -> float:
        """A number above ``above``, at most ``most``; required unless there is a default."""
        value = self._value(field)
        if value is None:
            if default is None:
                self._missing(field)
            return most if default is None else default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.problem(field, "must be a number", value)
        elif not above < value <= most:
            self.problem(field, f"must be above {above:g}, at most {most:g}", value)
        else:
            return float(value)
        return most if default is None else default

    def flag(self, field: str, default: bool) -> bool:
        """True or false."""
        value = self._value(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(field, "must be true or false", value)
            return default
        return value

    def text(self, field: str, default: str) -> str:
        """A text."""
        value = self._value(field)
        if value is None:
            return default
        if not isinstance(value, str):
            self.problem(field, "must be a text", value)
            return default
        return value

    def items(self, field: str, length: int | None = None) -> list[Any] | None:
        """A list, None if it is not given."""
        value = self._value(field)
        if value is None:
            return None
        if not isinstance(value, list):
            self.problem(field, "must be a list", value)
            return None
        if length is not None and len(value) != length and "num_hidden_layers" not in self.bad:
            self.problem(field, f"must have one entry a layer, {length}", len(value))
            return None
        return value

    def finish(self) -> None:
        """Raises :class:`ConfigError` with everything that was found."""
        if self.problems:
            raise ConfigError(self.file, self.problems)

    def _value(self, field: str) -> Any:
        self.read.add(field)
        return self.data.get(field)

    def _missing(self, field: str) -> None:
        near = difflib.get_close_matches(field, self.data, n=1, cutoff=0.8)
        hint = f" (did you mean {clipped(near[0])} to be it?)" if near else ""
        self.problem(field, f"is required{hint}")
