"""The header of a safetensors file, by the standard library alone.

The file is data from outside: no size in it is believed before it is checked against the file's.
"""

from __future__ import annotations

import math
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

from rtl_gen.errors import InputError
from sw_driver.checkpoint.tensor import MAX_NAME, MAX_RANK, MAX_SIZE, Region, printable
from sw_driver.config_file import ConfigError, clipped, parse_json, shown

MAX_HEADER = 100 << 20
"""Longest header that the format allows, in bytes."""

MAX_PROBLEMS = 20
"""Lines after which a file is bad enough."""

SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
    "BOOL": 1, "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


def safetensors_regions(path: Path) -> dict[str, Region]:
    """Every tensor of a file by its name.

    Raises:
        ConfigError: with every problem of the header.
        InputError: the file cannot be read.
    """
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
    base, room = 8 + length, size - 8 - length
    problems: list[str] = []
    regions: dict[str, Region] = {}
    last = 0
    for name, item in data.items():
        if name == "__metadata__":
            continue
        region = _region(path, name, item, base)
        if isinstance(region, str):
            problems.append(region)
            ends = _naturals(item.get("data_offsets")) if isinstance(item, dict) else None
            last = max(last, ends[1] if ends and len(ends) == 2 else 0)
        else:
            regions[name] = region
            last = max(last, region.start + region.size - base)
    if last > room:
        raise ConfigError(
            file, [f"is cut off: its header tells of {base + last} bytes, got {size}"]
        )
    ordered = sorted(regions.items(), key=lambda entry: (entry[1].start, entry[1].size))
    for (before_name, before), (name, after) in pairwise(ordered):
        if before.start + before.size > after.start:
            problems.append(f"{name}: data_offsets must not overlap {before_name}")
    if problems:
        raise ConfigError(file, problems[:MAX_PROBLEMS])
    return regions


def _region(path: Path, name: str, item: Any, base: int) -> Region | str:
    """One tensor of the header, or what is wrong with it."""
    if not printable(name):
        return f"{clipped(name, MAX_NAME)}: must be a printable name of at most {MAX_NAME} letters"
    if not isinstance(item, dict):
        return f"{name}: must be an object, got {shown(item)}"
    dtype = item.get("dtype")
    shape, offsets = _naturals(item.get("shape")), _naturals(item.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in SIZES:
        return f"{name}: dtype must be one of {', '.join(SIZES)}, got {shown(dtype)}"
    if shape is None or len(shape) > MAX_RANK:
        got = shown(item.get("shape"))
        return f"{name}: shape must be a list of at most {MAX_RANK} sizes, got {got}"
    if math.prod(size or 1 for size in shape) >= MAX_SIZE:
        return f"{name}: shape must have less than {MAX_SIZE} elements, got {shape}"
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        plain = offsets is not None and len(offsets) == 2
        got = str(offsets) if plain else shown(item.get("data_offsets"))
        return f"{name}: data_offsets must be a begin and an end, got {got}"
    begin, end = offsets
    if math.prod(shape) * SIZES[dtype] != end - begin:
        return f"{name}: data_offsets must span {math.prod(shape) * SIZES[dtype]} " + (
            f"bytes, got {end - begin}"
        )
    return Region(path, dtype, tuple(shape), base + begin, end - begin)


def _naturals(value: object) -> list[int] | None:
    """A list of sizes, None if it is something else."""
    if not isinstance(value, list):
        return None
    for item in value:
        if type(item) is not int or not 0 <= item < MAX_SIZE:
            return None
    return value
