"""Reading specification files: YAML in, a validated specification out, every error with its place.

The reader takes the parser's events itself, so that every value keeps its place and nothing in a
file is executed or expanded: tags, anchors and aliases are refused, size and depth are bounded.
Plain scalars follow the core schema of YAML 1.2 (``no`` is a text, ``1e3`` a number).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from hw.block import block, spec_from_dict
from hw.errors import Problem, SpecError
from hw.spec import BlockSpec, part_of
from rtl_gen.errors import FileProblem, InputError, SpecFileError
from rtl_gen.reserved import name_problems

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "SpecFileError",
    "load_as",
    "load_spec",
    "load_specs",
    "read_spec",
    "read_text",
    "read_yaml",
]

MAX_BYTES = 256 * 1024
"""Largest file that is read; a specification is about one KiB."""

MAX_DEPTH = 16
"""Deepest nesting of mappings and lists."""

PathParts = tuple[str | int, ...]


Spec = TypeVar("Spec", bound=BlockSpec)
T = TypeVar("T")


def load_spec(path: Path | str) -> BlockSpec:
    """The specification in a YAML file.

    Args:
        path: a UTF-8 file with one mapping; ``block`` says which generator it is for.

    Raises:
        SpecFileError: as :func:`read_spec`; the file cannot be read.
    """
    return read_spec(read_text(path), str(path))


def load_as(kind: type[Spec], path: Path | str) -> Spec:
    """What a YAML file says as a specification of a kind that is no block.

    Raises:
        SpecFileError: as :func:`load_spec`.
    """
    return read_yaml(read_text(path), str(path), lambda data: kind(**data), kind)


def read_text(path: Path | str) -> str:
    """The text of a specification file.

    Raises:
        SpecFileError: it cannot be read, is too large, or is no UTF-8.
    """
    path = Path(path)
    try:
        with path.open("rb") as handle:
            raw = handle.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SpecFileError(path, f"cannot be read, {reason.lower()}") from None
    if len(raw) > MAX_BYTES:
        raise SpecFileError(path, f"must be at most {MAX_BYTES // 1024} KiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        found = raw[error.start]
        raise SpecFileError(
            path, [FileProblem(line, column, f"must be UTF-8 text, got byte 0x{found:02x}")]
        ) from None
    return text


def load_specs(paths: Iterable[Path | str]) -> list[BlockSpec]:
    """The specifications in several files.

    Raises:
        InputError: with every error of every file; two specifications of one name.
    """
    problems: list[str] = []
    found: dict[str, tuple[Path | str, BlockSpec]] = {}
    for path in paths:
        try:
            spec = load_spec(path)
        except InputError as error:
            problems.append(str(error))
            continue
        first, _ = found.setdefault(spec.name, (path, spec))
        if first is not path:
            problems.append(f"{path}: name: must differ from that in {first}, got {spec.name!r}")
    if problems:
        raise InputError("\n".join(problems))
    return [spec for _, spec in found.values()]


def read_spec(text: str, file: str = "<spec>") -> BlockSpec:
    """The specification in a YAML text; ``file`` is what errors call it.

    Raises:
        SpecFileError: with every error, one line each, ``file:line:column: field: rule, value`` in
            the order of the file. A missing field points at the mapping it belongs in.
    """
    return read_yaml(text, file, spec_from_dict, None)


def read_yaml(
    text: str, file: str, make: Callable[[dict[str, Any]], T], kind: type[BaseModel] | None
) -> T:
    """What ``make`` makes of the mapping in a YAML text.

    Args:
        file: what errors call it.
        make: from plain data; raises :class:`hw.errors.SpecError` with every broken rule.
        kind: the class that the data is of, whose fields are suggested for unknown ones; None for
            a specification whose ``block`` says it. Of specifications the name is a module's.

    Raises:
        SpecFileError: as :func:`read_spec`.
    """
    tree = _Tree(text, file)
    if not isinstance(tree.data, dict):
        line, column = tree.values.get((), (1, 1))
        given = "nothing" if tree.data is None else _shown(tree.data)
        text = f"(root): must be a mapping of fields, got {given}"
        raise SpecFileError(file, [*tree.problems, FileProblem(line, column, text)])
    problems = list(tree.problems)
    found: list[Problem] = []
    try:
        made = make(tree.data)
    except SpecError as error:
        found += error.problems
    hardware = kind is None or issubclass(kind, BlockSpec)
    if hardware and isinstance(name := tree.data.get("name"), str):
        found += name_problems(name)
    problems += _placed(tree, found, kind or _model(tree.data))
    if problems:
        raise SpecFileError(file, problems)
    return made


class _Tree:
    """A YAML text as plain data, with the place of every key and value.

    Attributes:
        data: dicts, lists, texts, numbers, booleans and None.
        keys: place of each mapping key by path.
        values: place of each value by path.
        refused: paths whose value was not taken; what a schema says of them is no news.
        problems: what is wrong whatever the schema.
    """

    def __init__(self, text: str, file: str):
        self.keys: dict[PathParts, tuple[int, int]] = {}
        self.values: dict[PathParts, tuple[int, int]] = {}
        self.refused: set[PathParts] = set()
        self.problems: list[FileProblem] = []
        self.data: Any = None
        try:
            self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
            self._document()
        except yaml.reader.ReaderError as error:
            before = text[: error.position]
            place = (before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1)
            found = f"character U+{ord(text[error.position]):04X}"
            raise SpecFileError(
                file, [FileProblem(*place, f"must be printable text, got {found}")]
            ) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            words = ", ".join(part for part in (error.context, error.problem) if part)
            line, column = _place(mark) if mark else (1, 1)
            raise SpecFileError(
                file, [*self.problems, FileProblem(line, column, f"is not YAML: {words}")]
            ) from None
        except _DepthError as error:
            line, column = error.place
            rule = f"must be nested at most {MAX_DEPTH} levels deep"
            raise SpecFileError(file, [FileProblem(line, column, rule)]) from None

    def _document(self) -> None:
        next(self._events)  # the stream starts
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return
        self.data = self._value(next(self._events), ())
        next(self._events)  # the document ends
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._problem(event, (), "must be one document")

    def _problem(self, event: Any, path: PathParts, text: str) -> None:
        field = ".".join(str(part) for part in path) or "(root)"
        self.problems.append(FileProblem(*_place(event.start_mark), f"{field}: {text}"))

    def _value(self, event: Any, path: PathParts) -> Any:
        self.values[path] = _place(event.start_mark)
        if len(path) > MAX_DEPTH:
            raise _DepthError(_place(event.start_mark))
        if isinstance(event, yaml.AliasEvent):
            self._problem(event, path, f"aliases are not allowed, got '*{event.anchor}'")
            self.refused.add(path)
            return None
        if event.anchor is not None:
            self._problem(event, path, f"anchors are not allowed, got '&{event.anchor}'")
        if event.tag is not None:
            self._problem(event, path, f"tags are not allowed, got {_clipped(event.tag)}")
            self.refused.add(path)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._value(event, (*path, len(items))))
            return items
        if event.style is not None:
            return event.value
        return self._plain(event, path)

    def _mapping(self, path: PathParts) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            plain = isinstance(event, yaml.ScalarEvent) and event.tag is None
            if not plain or not event.value:
                self._problem(event, path, "names of fields must be plain texts")
                self._skip(event)
                self._skip(next(self._events))
                continue
            name = event.value
            here = (*path, name)
            if here in self.keys:
                first = self.keys[here][0]
                self._problem(event, here, f"must be given once, first given on line {first}")
                self._skip(next(self._events))
                continue
            self.keys[here] = _place(event.start_mark)
            result[name] = self._value(next(self._events), here)
        return result

    def _skip(self, event: Any) -> None:
        """Past a value that is not taken."""
        depth = 0
        while True:
            if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                depth += 1
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                depth -= 1
            if depth == 0:
                return
            event = next(self._events)

    def _plain(self, event: Any, path: PathParts) -> Any:
        """A plain scalar by the core schema of YAML 1.2."""
        text = event.value
        if text in ("", "~", "null", "Null", "NULL"):
            return None
        if text in ("true", "True", "TRUE"):
            return True
        if text in ("false", "False", "FALSE"):
            return False
        if re.fullmatch(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", text):
            try:
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            except ValueError:  # Python refuses thousands of digits
                self._problem(event, path, f"must be a shorter number, got {_clipped(text)}")
                self.refused.add(path)
                return None
        if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
            return float(text)
        if re.fullmatch(r"[-+]?\.(inf|Inf|INF)", text):
            return float("-inf" if text[0] == "-" else "inf")
        if text in (".nan", ".NaN", ".NAN"):
            return float("nan")
        return text


class _DepthError(Exception):
    def __init__(self, place: tuple[int, int]):
        super().__init__()
        self.place = place


def _place(mark: Any) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1


def _placed(
    tree: _Tree, problems: Iterable[Problem], model: type[BaseModel] | None
) -> list[FileProblem]:
    """Problems of a specification at their places in the file, in one wording."""
    gathered: dict[PathParts, tuple[list[str], Any]] = {}
    for problem in problems:
        path = problem.path
        if any(path[: len(refused)] == refused for refused in tree.refused):
            continue
        rules, _ = gathered.setdefault(path, ([], problem.value))
        rule = _worded(problem.rule)
        if rule not in rules:
            rules.append(rule)
    placed = []
    for path, (rules, value) in gathered.items():
        # Alternatives of a union come as one problem each.
        rule = rules[0] + "".join(f", or {other.removeprefix('must be ')}" for other in rules[1:])
        missing = rule == "is required"
        unknown = rule == "unknown field"
        if unknown:
            rule += _suggestion(model, path)
        place = tree.keys.get(path) if unknown else tree.values.get(path)
        given = place is not None
        above = path
        while place is None:
            above = above[:-1]
            place = tree.values.get(above, (1, 1) if not above else None)
        text = f"{Problem(path, rule).field}: {rule}"
        if not missing:
            text += f", got {_shown(value)}" + ("" if given else " (the default)")
        placed.append(FileProblem(*place, text))
    return placed


def _model(data: Any) -> type[BaseModel] | None:
    """The specification class that data is meant for, None if that cannot be told."""
    try:
        return block(data["block"]).spec
    except (KeyError, SpecError):
        return None


def _worded(rule: str) -> str:
    """A rule of pydantic in the words of the others."""
    if re.fullmatch(r"input should be a valid dictionary or instance of \w+", rule):
        return "must be a mapping of fields"
    return (
        rule.replace("input should be a valid ", "must be a ")
        .replace("input should be ", "must be ")
        .replace("must be a integer", "must be an integer")
        .replace("string should ", "must ")
    )


def _suggestion(model: type[BaseModel] | None, path: PathParts) -> str:
    """The nearest name of a field, if one is near."""
    for part in path[:-1]:
        field = model.model_fields.get(str(part)) if model is not None else None
        model = part_of(field.annotation) if field is not None else None
    near = difflib.get_close_matches(str(path[-1]), model.model_fields if model else (), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _shown(value: Any) -> str:
    """A value as a person would have written it, at most one short line of it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return _clipped(value)


def _clipped(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
