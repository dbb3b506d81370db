"""The header of a GGUF file, versions 2 and 3, by the standard library alone.

Vocabularies and other lists of text are skipped, string by string, in a window of the file: a
header costs no more memory than its tensor table. The file is data from outside: every count and
length is checked against what is left of the file before anything is made of it. Source: the GGUF
specification of the `ggml` project.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from rtl_gen.errors import InputError
from sw_driver.checkpoint.ggml import GGML_TYPES, GgmlType
from sw_driver.checkpoint.tensor import MAX_NAME, MAX_SIZE, Region, printable
from sw_driver.config_file import ConfigError, clipped

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_PROBLEMS = 20
MAX_TENSORS = 1 << 20
MAX_FIELDS = 1 << 16
MAX_TEXTS = 1 << 24
"""Strings that are skipped in one file; the largest vocabularies have half a million."""

MAX_DIMENSIONS = 4
MAX_KEPT_TEXT = 1 << 12
MAX_KEPT_ITEMS = 1 << 12
MAX_NESTING = 4
MAX_PARTS = 1 << 10
"""Files that a model may be split into."""

_WINDOW = 1 << 18
_TEXT, _ARRAY = 8, 9
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_WIDTHS = {kind: struct.calcsize(form) for kind, form in _SCALARS.items()}

Value = int | float | bool | str | tuple[int | float | bool, ...]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A list that was not kept: its length, the number of its elements' type, and its place."""

    kind: int
    length: int
    start: int = field(default=0, compare=False)


@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """What a file says of itself.

    Attributes:
        fields: metadata by key; long texts and lists of texts are :class:`Skipped`.
        tensors: by name, the type and where it lies; shapes are in the order of numpy.
    """

    version: int
    fields: dict[str, Value | Skipped]
    tensors: dict[str, tuple[GgmlType, Region]]


class _Cursor:
    """Reads a file from its beginning in windows; every length is checked against its end."""

    def __init__(self, handle: BinaryIO, size: int, file: str):
        self.handle, self.size, self.file = handle, size, file
        self.window = b""
        self.start = 0
        self.at = 0

    @property
    def place(self) -> int:
        """Position in the file."""
        return self.start + self.at

    @property
    def left(self) -> int:
        return self.size - self.place

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if self.at + count > len(self.window):
            self._turn(count)
        piece = self.window[self.at : self.at + count]
        self.at += count
        return piece

    def skip(self, count: int) -> None:
        """Goes on without reading."""
        if count > self.left:
            raise self.cut(count)
        self.at += count

    def cut(self, count: int) -> ConfigError:
        return ConfigError(
            self.file,
            [f"is cut off: {count} bytes are missing at byte {self.place}, which has {self.left}"],
        )

    def number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(value)

    def text(self, what: str, limit: int) -> str:
        """A short string: of a key or a name."""
        length = self.number("<Q")
        if length > limit:
            rule = f"must be at most {limit} bytes, got {length}"
            raise ConfigError(self.file, [f"{what} at byte {self.place}: {rule}"])
        raw = self.take(length)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            rule = f"must be UTF-8 text, got byte 0x{raw[error.start]:02x}"
            raise ConfigError(
                self.file, [f"{what} at byte {self.place - length}: {rule}"]
            ) from None

    def skip_texts(self, count: int) -> None:
        """Goes past so many strings, looking at nothing but their lengths."""
        unpack = struct.Struct("<Q").unpack_from
        while count:
            if self.at + 8 > len(self.window):
                self._turn(8)
            window, at, last = self.window, self.at, len(self.window) - 8
            while count and at <= last:
                at += 8 + unpack(window, at)[0]
                count -= 1
            if self.start + at > self.size:
                raise self.cut(self.start + at - self.size)
            self.at = at

    def _turn(self, count: int) -> None:
        """Brings the window to the place, ``count`` bytes of it at least."""
        if count > self.left:
            raise self.cut(count)
        self.start, self.at = self.place, 0
        self.handle.seek(self.start)
        self.window = self.handle.read(max(count, _WINDOW))
        if len(self.window) < count:
            raise self.cut(count)


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does."""
    try:
        with path.open("rb") as handle:
            return handle.read(4) == MAGIC
    except OSError:
        return False


def gguf_header(path: Path) -> GgufHeader:
    """The header of a file.

    Raises:
        ConfigError: with every problem of the tensor table, or the first one before it.
        InputError: the file cannot be read.
    """
    file = str(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            return _header(_Cursor(handle, size, file), path)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{file}: cannot be read, {reason}") from None


def _header(cursor: _Cursor, path: Path) -> GgufHeader:
    file = cursor.file
    if cursor.size < 24 or cursor.take(4) != MAGIC:
        raise ConfigError(file, ["is no GGUF file: must begin with GGUF and a header of 24 bytes"])
    version = cursor.number("<I")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        hint = " (of a big-endian file)" if swapped in VERSIONS else ""
        rule = f"version: must be one of {', '.join(map(str, VERSIONS))}"
        raise ConfigError(file, [f"{rule}, got {version}{hint}"])
    tensors, count = cursor.number("<Q"), cursor.number("<Q")
    problems = []
    # The least that one takes: a name, dimensions, type and offset; a key, a type and a value.
    for name, got, most in (
        ("tensor_count", tensors, min(MAX_TENSORS, cursor.left // 32)),
        ("metadata_kv_count", count, min(MAX_FIELDS, cursor.left // 13)),
    ):
        if got > most:
            problems.append(f"{name}: must be at most {most} in {cursor.size} bytes, got {got}")
    if problems:
        raise ConfigError(file, problems)
    fields: dict[str, Value | Skipped] = {}
    texts = [MAX_TEXTS]
    for _ in range(count):
        key = cursor.text("key", 1 << 16)
        if not printable(key):
            raise ConfigError(file, [f"{clipped(key)}: must be a printable key"])
        if key in fields:
            raise ConfigError(file, [f"{clipped(key)}: must be given once"])
        fields[key] = _value(cursor, key, cursor.number("<I"), texts)
    return GgufHeader(
        version=version, fields=fields, tensors=_tensors(cursor, path, tensors, fields)
    )


def _value(
    cursor: _Cursor, key: str, kind: int, texts: list[int], depth: int = 0
) -> Value | Skipped:
    """A value, kept if it is short; ``texts`` counts down the strings that may be skipped."""
    if kind in _SCALARS:
        (value,) = struct.unpack(_SCALARS[kind], cursor.take(_WIDTHS[kind]))
        kept: Value = value
        return kept
    if kind == _TEXT:
        length = cursor.number("<Q")
        if length > MAX_KEPT_TEXT:
            cursor.skip(length)
            return Skipped(kind=kind, length=length)
        return cursor.take(length).decode("utf-8", "replace")
    if kind != _ARRAY:
        raise ConfigError(cursor.file, [f"{clipped(key)}: type must be 0 to 12, got {kind}"])
    inner, length = cursor.number("<I"), cursor.number("<Q")
    if inner in _SCALARS:
        width = _WIDTHS[inner]
        if length * width > cursor.left:
            raise _too_long(cursor, key, length, width)
        if length > MAX_KEPT_ITEMS:
            start = cursor.place
            cursor.skip(length * width)
            return Skipped(kind=inner, length=length, start=start)
        form = _SCALARS[inner][1]
        return tuple(struct.unpack(f"<{length}{form}", cursor.take(length * width)))
    if inner not in (_TEXT, _ARRAY):
        raise ConfigError(cursor.file, [f"{clipped(key)}: type must be 0 to 12, got {inner}"])
    least = 8 if inner == _TEXT else 12
    if length * least > cursor.left:
        raise _too_long(cursor, key, length, least)
    texts[0] -= length
    if texts[0] < 0:
        rule = f"must not bring the texts and lists of the file above {MAX_TEXTS}"
        raise ConfigError(cursor.file, [f"{clipped(key)}: {rule}, got {length}"])
    start = cursor.place
    if inner == _TEXT:
        cursor.skip_texts(length)
    elif depth == MAX_NESTING:
        raise ConfigError(cursor.file, [f"{clipped(key)}: is nested too deep"])
    else:
        for _ in range(length):
            _value(cursor, key, _ARRAY, texts, depth + 1)
    return Skipped(kind=inner, length=length, start=start)


def listed_texts(path: Path, told: Skipped, limit: int) -> list[str]:
    """The texts of a list that a header skipped, of at most ``limit`` bytes each.

    Raises:
        ConfigError: it is no list of texts, one is too long or no UTF-8.
        InputError: the file cannot be read.
    """
    with _list(path, told, (_TEXT,)) as cursor:
        return [cursor.text("text", limit) for _ in range(told.length)]


def listed_numbers(path: Path, told: Skipped) -> list[float]:
    """The numbers of a list that a header skipped.

    Raises:
        ConfigError, InputError: as :func:`listed_texts`.
    """
    with _list(path, told, tuple(_SCALARS)) as cursor:
        form, width = _SCALARS[told.kind][1], _WIDTHS[told.kind]
        return list(struct.unpack(f"<{told.length}{form}", cursor.take(told.length * width)))


@contextmanager
def _list(path: Path, told: Skipped, kinds: tuple[int, ...]) -> Iterator[_Cursor]:
    """The file at the place of a list."""
    if told.kind not in kinds:
        raise ConfigError(str(path), [f"a list must be of type {kinds[0]}, got {told.kind}"])
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            cursor = _Cursor(handle, size, str(path))
            cursor.skip(told.start)
            yield cursor
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{path}: cannot be read, {reason}") from None


def _too_long(cursor: _Cursor, key: str, length: int, width: int) -> ConfigError:
    rule = f"must have at most {cursor.left // width} items in what is left of the file"
    return ConfigError(cursor.file, [f"{clipped(key)}: {rule}, got {length}"])


def _tensors(
    cursor: _Cursor, path: Path, count: int, fields: dict[str, Value | Skipped]
) -> dict[str, tuple[GgmlType, Region]]:
    file = cursor.file
    alignment = fields.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise ConfigError(file, [f"general.alignment: must be a power of two, got {alignment!r}"])
    problems: list[str] = []
    table: list[tuple[str, GgmlType, tuple[int, ...], int]] = []
    names: set[str] = set()
    for _ in range(count):
        name = cursor.text("name of a tensor", 1 << 12)
        rank = cursor.number("<I")
        if not 1 <= rank <= MAX_DIMENSIONS:
            # Where the next tensor begins cannot be known.
            rule = f"must have 1 to {MAX_DIMENSIONS} dimensions, got {rank}"
            raise ConfigError(file, [*problems, f"{clipped(name, MAX_NAME)}: {rule}"])
        sizes = struct.unpack(f"<{rank}Q", cursor.take(8 * rank))
        kind, offset = cursor.number("<I"), cursor.number("<Q")
        entry = _checked(name, sizes, kind, offset, alignment, names)
        names.add(name)
        if isinstance(entry, str):
            problems.append(f"{clipped(name, MAX_NAME)}: {entry}")
            if len(problems) == MAX_PROBLEMS:
                break
        else:
            table.append((name, entry, sizes[::-1], offset))
    if problems:
        raise ConfigError(file, problems)
    base = -(-cursor.place // alignment) * alignment
    found: dict[str, tuple[GgmlType, Region]] = {}
    for name, kind_of, shape, offset in table:
        size = math.prod(shape) // kind_of.block * kind_of.size
        found[name] = (kind_of, Region(path, kind_of.name, shape, base + offset, size))
    ordered = sorted(found.items(), key=lambda entry: (entry[1][1].start, entry[1][1].size))
    for (before_name, (_, before)), (name, (_, after)) in pairwise(ordered):
        if before.start + before.size > after.start:
            problems.append(f"{name}: must not overlap {before_name}")
    last = max((region.start + region.size for _, region in found.values()), default=0)
    if last > cursor.size:
        problems = [f"is cut off: its header tells of {last} bytes, got {cursor.size}"]
    if problems:
        raise ConfigError(file, problems[:MAX_PROBLEMS])
    return found


def _checked(
    name: str, sizes: tuple[int, ...], kind: int, offset: int, alignment: int, names: set[str]
) -> GgmlType | str:
    """The type of a tensor of the table, or what is wrong with it."""
    if not printable(name):
        return f"must be a printable name of at most {MAX_NAME} letters"
    if name in names:
        return "must be given once"
    found = GGML_TYPES.get(kind)
    if found is None:
        return f"type must be one of {', '.join(map(str, GGML_TYPES))}, got {kind}"
    if not all(1 <= size < MAX_SIZE for size in sizes):
        return f"dimensions must lie in [1, {MAX_SIZE}), got {list(sizes)}"
    if sizes[0] % found.block:
        return f"rows must be a multiple of {found.block} elements for {found.name}, got {sizes[0]}"
    if offset % alignment:
        return f"offset must be a multiple of {alignment}, got {offset}"
    return found


def part_files(path: Path, header: GgufHeader) -> list[Path]:
    """All files of a model that is split, this one first.

    Raises:
        ConfigError: the name or the count is not that of a part.
    """
    count = header.fields.get("split.count", 1)
    if type(count) is not int or count <= 1:
        return [path]
    if count > MAX_PARTS:
        raise ConfigError(str(path), [f"split.count: must be at most {MAX_PARTS}, got {count}"])
    named = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.gguf", path.name)
    if named is None or int(named[3]) != count:
        rule = f"must be named …-00001-of-{count:05}.gguf, as split.count = {count} says"
        raise ConfigError(str(path), [f"split.count: its file {rule}"])
    parts = [path.with_name(f"{named[1]}-{n:05}-of-{named[3]}.gguf") for n in range(1, count + 1)]
    return [path, *(part for part in parts if part.name != path.name)]
