"""What a checkpoint holds, as a report: its formats, and its tensors layer by layer or gathered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rtl_gen import __version__
from rtl_gen.errors import InputError
from sw_driver import report as lay
from sw_driver.architecture import Architecture, Storage
from sw_driver.checkpoint import Checkpoint, StoredTensor
from sw_driver.report import Report, Table

MAX_LISTED = 2000
"""Rows of the table of tensors; the JSON has all."""

_KINDS = {"folder": "Hugging Face folder", "safetensors": "safetensors file", "gguf": "GGUF file"}


def inspect_checkpoint(path: Path | str, *, every: bool = False) -> Report:
    """A report of a checkpoint.

    Args:
        every: list every tensor; without it those that differ in the number of a layer or an expert
            alone are one row.

    Raises:
        InputError: it cannot be read or breaks a rule; one line per problem. What cannot be mapped
            (an architecture that is not supported) is a note.
    """
    checkpoint = Checkpoint(path)
    tensors = list(checkpoint.tensors.values())
    notes = list(checkpoint.notes)
    arch: Architecture | None = None
    try:
        arch = checkpoint.architecture
    except InputError as error:
        notes += [f"cannot be mapped: {line}" for line in str(error).splitlines()[:5]]
    parameters, size = checkpoint.parameters, checkpoint.size
    noun = "file" if len(checkpoint.files) == 1 else "files"
    facts = [
        f"{_KINDS[checkpoint.kind]}, {len(checkpoint.files)} {noun}: {lay.count(len(tensors))} "
        f"tensors, {lay.count(parameters)} parameters, {lay.engineering(size, 'B')}, "
        f"{_bits(size, parameters)} bits a parameter"
    ]
    if arch is not None:
        facts.append(
            f"model: {arch.name} ({arch.family}), {lay.count(arch.parameters)} parameters in "
            f"{arch.layers} layers"
        )
        notes += [note for note in arch.notes if note not in notes]
    rows = [[tensor] for tensor in tensors] if every else _gathered(tensors)
    if len(rows) > MAX_LISTED:
        notes.append(f"{len(rows) - MAX_LISTED} more rows of tensors, all of them are in the JSON")
    return Report(
        title=checkpoint.path.name or str(checkpoint.path),
        facts=facts,
        tables=[_formats(tensors), _listed(rows[:MAX_LISTED], every)],
        notes=notes,
        data={
            "rtlgen": __version__,
            "path": str(checkpoint.path),
            "kind": checkpoint.kind,
            "files": [file.name for file in checkpoint.files],
            "parameters": parameters,
            "bytes": size,
            "architecture": None
            if arch is None
            else {
                "name": arch.name,
                "family": arch.family,
                "parameters": arch.parameters,
                "layers": arch.layers,
            },
            "tensors": [_as_dict(tensor) for tensor in tensors],
            "notes": notes,
        },
    )


def _formats(tensors: Sequence[StoredTensor]) -> Table:
    """A row for each format."""
    by_format: dict[Storage, list[StoredTensor]] = {}
    for tensor in tensors:
        by_format.setdefault(tensor.storage, []).append(tensor)
    rows = []
    for storage, items in sorted(
        by_format.items(), key=lambda entry: -sum(item.size for item in entry[1])
    ):
        parameters, size = (
            sum(item.parameters for item in items),
            sum(item.size for item in items),
        )
        rows.append(
            (
                storage.name,
                str(storage.bits or "-"),
                _group(storage),
                lay.count(len(items)),
                lay.count(parameters),
                lay.fixed(size / 1e6, 4),
                _bits(size, parameters),
            )
        )
    columns = ("format", "code bits", "group", "tensors", "parameters", "MB", "bits each")
    return Table(title="formats", columns=columns, rows=rows)


def _listed(rows: Sequence[Sequence[StoredTensor]], every: bool) -> Table:
    """A row for each tensor, or for tensors that are alike."""
    lines = []
    for items in rows:
        first = items[0]
        parameters, size = sum(item.parameters for item in items), sum(item.size for item in items)
        cells = (
            first.name if len(items) == 1 else _pattern(first.name),
            "×".join(map(str, first.shape)) or "1",
            first.storage.name,
            _group(first.storage),
            lay.count(parameters),
            _bits(size, parameters),
        )
        lines.append(cells if every else (*cells[:1], lay.count(len(items)), *cells[1:]))
    columns = ("tensor", "shape", "format", "group", "parameters", "bits each")
    return Table(
        title="tensors",
        columns=columns if every else (*columns[:1], "number", *columns[1:]),
        rows=lines,
    )


_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def _pattern(name: str) -> str:
    """A name with ``*`` for the numbers of layers and experts."""
    return _NUMBER.sub("*", name)


def _gathered(tensors: Sequence[StoredTensor]) -> list[list[StoredTensor]]:
    """Tensors that differ in numbers alone, in the order of their first."""
    found: dict[tuple[str, tuple[int, ...], Storage], list[StoredTensor]] = {}
    for tensor in tensors:
        key = (_pattern(tensor.name), tensor.shape, tensor.storage)
        found.setdefault(key, []).append(tensor)
    return list(found.values())


def _group(storage: Storage) -> str:
    if not storage.bits:
        return "-"
    return str(storage.group) if storage.group else "tensor" if storage.ternary else "row"


def _bits(size: int, parameters: int) -> str:
    return lay.fixed(8 * size / parameters, 4) if parameters else "-"


def _as_dict(tensor: StoredTensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "format": tensor.storage.name,
        "code_bits": tensor.storage.bits,
        "group": tensor.storage.group,
        "group_bits": tensor.storage.group_bits,
        "parameters": tensor.parameters,
        "bytes": tensor.size,
        "bits_per_weight": tensor.bits_per_weight,
        "file": next(iter(tensor.parts.values())).file.name,
    }
