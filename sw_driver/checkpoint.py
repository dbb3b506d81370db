"""Tensors of a safetensors file: the header by the standard library, the data by numpy.

The file is data from outside: no size in it is believed before it is checked against the file's.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from rtl_gen.errors import InputError
from sw_driver.config_file import ConfigError, parse_json, shown

MAX_HEADER = 100 << 20
"""Longest header that the format allows, in bytes."""

MAX_RANK = 8

_SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
    "BOOL": 1, "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Where a tensor lies: ``start`` is a position in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


class Checkpoint:
    """A safetensors file.

    Raises:
        ConfigError: on construction, with every problem of the header.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.entries: Mapping[str, TensorEntry] = _entries(self.path)

    def check(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """That tensors are there, have their shapes and hold floats.

        Raises:
            ConfigError: with a line for each that is not so.
        """
        problems = []
        for name, shape in wanted.items():
            entry = self.entries.get(name)
            if entry is None:
                problems.append(f"{name}: is required")
            elif entry.shape != shape:
                problems.append(f"{name}: shape must be {list(shape)}, got {list(entry.shape)}")
            elif entry.dtype not in (*_FLOATS, "BF16"):
                among = ", ".join([*_FLOATS, "BF16"])
                problems.append(f"{name}: dtype must be one of {among}, got {entry.dtype}")
        if problems:
            raise ConfigError(str(self.path), problems)

    def floats(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor as ``float32``.

        Raises:
            ConfigError: it is not there, has another shape, does not hold floats, or holds some
                that are not finite.
        """
        self.check({name: shape})
        entry = self.entries[name]
        with self.path.open("rb") as handle:
            handle.seek(entry.start)
            raw = handle.read(entry.size)
        if len(raw) != entry.size:
            raise ConfigError(str(self.path), [f"{name}: ends before its data does"])
        if entry.dtype == "BF16":
            bits = np.frombuffer(raw, dtype="<u2").astype(np.uint32) << 16
            values = bits.view(np.float32)
        else:
            wide = np.frombuffer(raw, dtype=_FLOATS[entry.dtype])
            with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
                values = wide.astype(np.float32)
        if not np.isfinite(values).all():
            index = np.unravel_index(int(np.argmin(np.isfinite(values))), shape)
            where = "".join(f"[{int(i)}]" for i in index)
            raise ConfigError(
                str(self.path),
                [f"{name}{where}: must be a finite float32, got {values[~np.isfinite(values)][0]}"],
            )
        return values.reshape(shape)


def _entries(path: Path) -> dict[str, TensorEntry]:
    file = str(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            head = handle.read(8)
            if len(head) < 8:
                raise ConfigError(file, ["is no safetensors file: shorter than its first field"])
            (length,) = struct.unpack("<Q", head)
            if length > MAX_HEADER or 8 + length > size:
                limit = min(MAX_HEADER, size - 8)
                rule = f"is no safetensors file: header must be at most {limit} bytes, got {length}"
                raise ConfigError(file, [rule])
            raw = handle.read(length)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{file}: cannot be read, {reason}") from None
    data = parse_json(raw, file)
    room = size - 8 - length
    ends = [item.get("data_offsets") for item in data.values() if isinstance(item, dict)]
    last = max(
        (offsets[1] for offsets in map(_naturals, ends) if offsets and len(offsets) == 2), default=0
    )
    if last > room:
        whole = 8 + length + last
        raise ConfigError(file, [f"is cut off: its header tells of {whole} bytes, got {size}"])
    problems: list[str] = []
    entries = {}
    for name, item in data.items():
        if name == "__metadata__":
            continue
        entry = _entry(name, item, 8 + length)
        if isinstance(entry, str):
            problems.append(entry)
        else:
            entries[name] = entry
    ordered = sorted(entries.values(), key=lambda entry: entry.start)
    for before, after in pairwise(ordered):
        if before.start + before.size > after.start:
            problems.append(f"{after.name}: data_offsets must not overlap {before.name}")
    if problems:
        raise ConfigError(file, problems[:20])
    return entries


def _entry(name: str, item: object, base: int) -> TensorEntry | str:
    """One tensor of the header, or what is wrong with it."""
    if not isinstance(item, dict):
        return f"{name}: must be an object, got {shown(item)}"
    dtype = item.get("dtype")
    shape, offsets = _naturals(item.get("shape")), _naturals(item.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in _SIZES:
        return f"{name}: dtype must be one of {', '.join(_SIZES)}, got {shown(dtype)}"
    if shape is None or len(shape) > MAX_RANK:
        got = shown(item.get("shape"))
        return f"{name}: shape must be a list of at most {MAX_RANK} sizes, got {got}"
    if offsets is None or len(offsets) != 2:
        got = shown(item.get("data_offsets"))
        return f"{name}: data_offsets must be a begin and an end, got {got}"
    begin, end = offsets
    if begin > end:
        return f"{name}: data_offsets must be a begin and an end, got [{begin}, {end}]"
    if math.prod(shape) * _SIZES[dtype] != end - begin:
        return f"{name}: data_offsets must span {math.prod(shape) * _SIZES[dtype]} bytes, " + (
            f"got {end - begin}"
        )
    return TensorEntry(
        name=name, dtype=dtype, shape=tuple(shape), start=base + begin, size=end - begin
    )


def _naturals(value: object) -> list[int] | None:
    """A list of sizes, None if it is something else."""
    if not isinstance(value, list):
        return None
    plain = [item for item in value if isinstance(item, int) and not isinstance(item, bool)]
    return plain if len(plain) == len(value) and all(0 <= n < 1 << 48 for n in plain) else None
