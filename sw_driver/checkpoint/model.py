"""A checkpoint: an architecture and tensors, whatever kind of files it is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtl_gen.errors import InputError
from sw_driver.architecture import (
    Architecture,
    load_architecture,
    parse_architecture,
    without_unused_note,
)
from sw_driver.checkpoint.gguf_file import GgufHeader, gguf_header, is_gguf, part_files
from sw_driver.checkpoint.metadata import gguf_architecture
from sw_driver.checkpoint.packed import Packing, is_float, packing_of, stored_tensors
from sw_driver.checkpoint.roles import storage_of
from sw_driver.checkpoint.safetensors_file import safetensors_regions
from sw_driver.checkpoint.tensor import FLOATS, Region, StoredTensor
from sw_driver.config_file import ConfigError, clipped, read_json, shown

if TYPE_CHECKING:
    import numpy as np

    from sw_driver.checkpoint.weights import GroupedWeights

MAX_INDEX = 64 << 20
"""Largest index of shards, in bytes."""

MAX_SHARDS = 1 << 12
MAX_PROBLEMS = 20

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_PACKED = (".qweight", ".qzeros", ".g_idx")


class Checkpoint:
    """Tensors on disk, and the architecture that they belong to.

    Only headers are read, by the standard library; numpy is imported when a tensor is.

    Args:
        path: a Hugging Face folder (``config.json``, one or more safetensors files), a safetensors
            file, or a GGUF file (any part of one that is split).

    Attributes:
        kind: ``folder``, ``safetensors`` or ``gguf``.
        tensors: by the names that models give them; packed ones under the name of their weight.
        files: what they were read from.

    Raises:
        ConfigError: on construction, with every problem of a header, an index or a packed tensor.
        InputError: there is no such file.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.files: tuple[Path, ...]
        self.notes: tuple[str, ...] = ()
        self._header: GgufHeader | None = None
        self._header_file = self.path
        self._config: Path | None = None
        if self.path.is_dir():
            self.kind = "folder"
            regions = self._folder()
        elif is_gguf(self.path) or self.path.suffix == ".gguf":
            self.kind = "gguf"
            self.tensors: Mapping[str, StoredTensor] = self._gguf()
            return
        else:
            self.kind = "safetensors"
            self.files = (self.path,)
            regions = safetensors_regions(self.path)
        packing = self._packing(regions)
        if not packing.known:
            self.notes += (
                f"quantization_config.quant_method {shown(packing.method)} is not read: its "
                "tensors are listed as they are",
            )
        found, problems = stored_tensors(regions, packing)
        if problems:
            raise ConfigError(str(self.path), problems)
        self.tensors = found

    @cached_property
    def architecture(self) -> Architecture:
        """The model, with the formats that its operators are stored in.

        Raises:
            ConfigError: there is no architecture, it is not supported, or the tensors are not its.
            InputError: as :func:`sw_driver.architecture.load_architecture`.
        """
        if self._header is not None:
            regions = {name: tensor.parts["weight"] for name, tensor in self.tensors.items()}
            found = gguf_architecture(self._header, regions, self.path)
        elif self._config is not None:
            found = self._from_config(self._config)
        else:
            raise ConfigError(
                str(self.path),
                ["has no architecture: it needs a config.json in its folder, or to be a GGUF file"],
            )
        storage = storage_of(found, self.tensors, str(self.path))
        notes = (*without_unused_note(found.notes), *self.notes)
        return replace(found, storage=storage, notes=notes)

    @property
    def config(self) -> dict[str, Any] | None:
        """The fields of its ``config.json``; None for a GGUF file, or where there is none.

        Raises:
            ConfigError: as :func:`sw_driver.config_file.read_json`.
        """
        return None if self._config is None else read_json(self._config)

    @property
    def config_file(self) -> Path:
        """The file that says what the model is, for errors about it."""
        return self._header_file if self._config is None else self._config

    @property
    def header(self) -> GgufHeader | None:
        """The header of a GGUF file."""
        return self._header

    @property
    def parameters(self) -> int:
        """Elements of all tensors, integers that are no weights left out."""
        return sum(
            tensor.parameters
            for tensor in self.tensors.values()
            if tensor.storage.bits or tensor.storage.name not in _NO_WEIGHTS
        )

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size for tensor in self.tensors.values())

    def check(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """That tensors are there, have their shapes and hold floats.

        Raises:
            ConfigError: with a line for each that is not so.
        """
        problems = []
        for name, shape in wanted.items():
            tensor = self.tensors.get(name)
            if tensor is None:
                problems.append(f"{name}: is required")
            elif tensor.shape != shape:
                problems.append(f"{name}: shape must be {list(shape)}, got {list(tensor.shape)}")
            elif not is_float(tensor) and not tensor.storage.bits and tensor.layout != "fp8":
                among = ", ".join(FLOATS)
                problems.append(f"{name}: dtype must be one of {among}, got {tensor.storage.name}")
        if problems:
            raise ConfigError(str(self._place(wanted)), problems)

    def floats(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """A tensor as ``float32``: floats as they are, codes dequantized.

        Raises:
            ConfigError: it is not there, has another shape, is of a format that is not read, or
                holds what no finite ``float32`` is.
        """
        tensor = self._tensor(name, shape)
        from sw_driver.checkpoint.decode import rows_of

        return self.rows(name, 0, rows_of(tensor)).reshape(tensor.shape)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows of a tensor as ``float32`` ``(stop − start, K)``; a stack's follow one another.

        Raises:
            ConfigError: as :meth:`floats`, or there are no such rows.
        """
        tensor = self._tensor(name)
        from sw_driver.checkpoint.decode import float_rows, weight_rows

        self._span(tensor, start, stop)
        if tensor.storage.bits:
            return weight_rows(tensor, start, stop).dequantized()
        return float_rows(tensor, start, stop)

    def weights(self, name: str, start: int = 0, stop: int | None = None) -> GroupedWeights:
        """Rows of a tensor of codes as they are stored, all of them by default.

        Raises:
            ConfigError: as :meth:`rows`, or it is stored as floats.
        """
        tensor = self._tensor(name)
        from sw_driver.checkpoint.decode import rows_of, weight_rows

        stop = rows_of(tensor) if stop is None else stop
        self._span(tensor, start, stop)
        return weight_rows(tensor, start, stop)

    def ternary(self, name: str) -> GroupedWeights:
        """A matrix of a model that is trained ternary, from floats as its layers quantize them.

        Raises:
            ConfigError: as :meth:`floats`, or it is no matrix.
        """
        tensor = self._tensor(name)
        if len(tensor.shape) != 2 or not tensor.parameters:
            rule = f"{name}: must be a matrix, got shape {list(tensor.shape)}"
            raise ConfigError(str(self._place([name])), [rule])
        from sw_driver.checkpoint.weights import absmean_ternary

        return self.weights(name) if tensor.storage.ternary else absmean_ternary(self.floats(name))

    def _tensor(self, name: str, shape: tuple[int, ...] | None = None) -> StoredTensor:
        tensor = self.tensors.get(name)
        self.check({name: tensor.shape if tensor and shape is None else shape or ()})
        if tensor is None:
            raise ConfigError(str(self.path), [f"{name}: is required"])
        return tensor

    def _span(self, tensor: StoredTensor, start: int, stop: int) -> None:
        from sw_driver.checkpoint.decode import rows_of

        rows = rows_of(tensor)
        none = bool(tensor.storage.bits) and start == stop
        if not 0 <= start <= stop <= rows or none:
            rule = f"{tensor.name}: rows must lie in [0, {rows}], got {start} to {stop}"
            raise ConfigError(str(self._place([tensor.name])), [rule])

    def _place(self, names: Iterable[str]) -> Path:
        """The file to name in an error: the tensor's where it is known, the only one, or all."""
        for name in names:
            tensor = self.tensors.get(name)
            if tensor is not None:
                return next(iter(tensor.parts.values())).file
        return self.files[0] if len(self.files) == 1 else self.path

    def _from_config(self, config: Path) -> Architecture:
        data = read_json(config)
        if config.name != "config.json":
            return load_architecture(config)
        return parse_architecture(data, str(config), self._name())

    def _name(self) -> str:
        folder = self.path if self.kind == "folder" else self.path.parent
        return folder.name or folder.resolve().name or "model"

    def _gguf(self) -> dict[str, StoredTensor]:
        header = gguf_header(self.path)
        self._header = header
        found: dict[str, StoredTensor] = {}
        problems = []
        self.files = tuple(part_files(self.path, header))
        for file in self.files:
            part = header if file == self.path else gguf_header(file)
            if (
                file != self.path
                and "general.architecture" in part.fields
                and ("general.architecture" not in header.fields)
            ):
                # What the model is stands in the first part.
                self._header = header = part
                self._header_file = file
            for name, (kind, region) in part.tensors.items():
                if name in found:
                    problems.append(f"{file.name}: {name}: must be given once, in one part")
                found[name] = StoredTensor(
                    name=name,
                    shape=region.shape,
                    storage=kind.storage,
                    layout="ggml",
                    parts={"weight": region},
                )
        if problems:
            raise ConfigError(str(self.path), problems[:MAX_PROBLEMS])
        return found

    def _packing(self, regions: Mapping[str, Region]) -> Packing:
        folder = self.path if self.kind == "folder" else self.path.parent
        config = folder / "config.json"
        self._config = config if config.is_file() else None
        if self._config is not None:
            told = read_json(config).get("quantization_config")
            if told is not None:
                return packing_of(told, str(config), "quantization_config.")
        if any(name.endswith(_PACKED) for name in regions):
            for name, method in (("quantize_config.json", "gptq"), ("quant_config.json", "awq")):
                file = folder / name
                if file.is_file():
                    return packing_of({"quant_method": method, **read_json(file)}, str(file))
        return Packing()

    def _folder(self) -> dict[str, Region]:
        """The tensors of every safetensors file of a folder."""
        index = self.path / _INDEX
        if index.is_file():
            return self._indexed(index)
        if (self.path / _SINGLE).is_file():
            self.files = (self.path / _SINGLE,)
            return safetensors_regions(self.files[0])
        names = sorted(item.name for item in _entries(self.path) if item.suffix == ".safetensors")
        if not names:
            others = [
                item.name for item in _entries(self.path) if item.suffix in (".bin", ".pt", ".pth")
            ]
            hint = f"; {others[0]} is not read, it is a program" if others else ""
            raise ConfigError(
                str(self.path), [f"must hold a safetensors file or {_INDEX}, holds none{hint}"]
            )
        if len(names) > MAX_SHARDS:
            raise ConfigError(
                str(self.path), [f"must hold at most {MAX_SHARDS} files, got {len(names)}"]
            )
        self._complete(names)
        self.files = tuple(self.path / name for name in names)
        found: dict[str, Region] = {}
        problems = []
        for file in self.files:
            for name, region in safetensors_regions(file).items():
                if name in found:
                    problems.append(f"{file.name}: {name}: must be given once, in one file")
                found[name] = region
        if problems:
            raise ConfigError(str(self.path), problems[:MAX_PROBLEMS])
        return found

    def _complete(self, names: list[str]) -> None:
        """That numbered files are all there and of one set."""
        numbered = [match for name in names if (match := _NUMBERED.fullmatch(name))]
        if not numbered:
            if len(names) > 1:
                rule = f"must hold one safetensors file, {_SINGLE}, or {_INDEX}"
                raise ConfigError(str(self.path), [f"{rule}, got {len(names)} files"])
            return
        wanted = int(numbered[0][3])
        form = f"{numbered[0][1]}-{{:05}}-of-{numbered[0][3]}.safetensors"
        if wanted > MAX_SHARDS:
            raise ConfigError(
                str(self.path), [f"{names[0]}: must be of at most {MAX_SHARDS}, got {wanted}"]
            )
        expected = {form.format(number) for number in range(1, wanted + 1)}
        problems = [f"{name}: is missing" for name in sorted(expected - set(names))]
        problems += [f"{name}: is of no one set" for name in sorted(set(names) - expected)]
        if problems:
            raise ConfigError(str(self.path), problems[:MAX_PROBLEMS])

    def _indexed(self, index: Path) -> dict[str, Region]:
        """The tensors that an index names, each from its shard."""
        file = str(index)
        listed = read_json(index, limit=MAX_INDEX).get("weight_map")
        if not isinstance(listed, dict):
            raise ConfigError(
                file, [f"weight_map: must be an object of files, got {shown(listed)}"]
            )
        problems = []
        shards: dict[str, str] = {}
        for name, shard in listed.items():
            if isinstance(shard, str) and shard in shards:
                # One text for all that name it.
                listed[name] = shards[shard]
                continue
            if not isinstance(shard, str) or not _plain_name(shard):
                where = f"weight_map.{clipped(name, 200)}"
                rule = "must be the name of a safetensors file in the same folder"
                problems.append(f"{where}: {rule}, got {shown(shard)}")
                if len(problems) == MAX_PROBLEMS:
                    break
                continue
            shards[shard] = shard
        if len(shards) > MAX_SHARDS:
            problems.append(f"weight_map: must name at most {MAX_SHARDS} files, got {len(shards)}")
        if problems:
            raise ConfigError(file, problems)
        self.files = tuple(self.path / shard for shard in shards)
        found: dict[str, Region] = {}
        unlisted = 0
        for shard in self.files:
            for name, region in _shard(shard, problems).items():
                if listed.get(name) == shard.name:
                    found[name] = region
                else:
                    unlisted += 1
        missing = [name for name in listed if name not in found]
        if not problems:
            problems += [
                f"weight_map.{clipped(name, 200)}: is not in {listed[name]}"
                for name in missing[:MAX_PROBLEMS]
            ]
        if problems:
            raise ConfigError(file, problems[:MAX_PROBLEMS])
        if unlisted:
            self.notes += (f"{unlisted} tensors of its files are not in {_INDEX} and not read",)
        return found


_NO_WEIGHTS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")


def _shard(shard: Path, problems: list[str]) -> dict[str, Region]:
    """The tensors of a shard; what is wrong with it joins the problems."""
    try:
        return safetensors_regions(shard)
    except ConfigError as error:
        problems += [f"{shard.name}: {problem}" for problem in error.problems]
    except InputError as error:
        problems.append(f"{shard.name}: {str(error).removeprefix(f'{shard}: ')}")
    return {}


def _plain_name(name: str) -> bool:
    """Whether a name is that of a file in a folder and nothing else: no path, no way out of it."""
    good = name.endswith(".safetensors") and len(name) <= 255 and name.isprintable()
    return good and not set(name) & {"/", "\\", ":"} and not name.startswith(".")


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{folder}: cannot be read, {reason}") from None


def load_model(model: str | Path) -> Architecture:
    """A model by a shipped name, a ``config.json``, or a checkpoint with the formats that it holds.

    A folder with nothing but a ``config.json`` is its configuration alone.

    Raises:
        ConfigError: the files break a rule; one line per problem.
        InputError: there is no such file and no such name.
    """
    path = Path(model)
    if str(model) and path.is_dir():
        if holds_tensors(path):
            return Checkpoint(path).architecture
        parts = [item for item in _entries(path) if item.suffix == ".gguf"]
        if parts and not (path / "config.json").is_file():
            if len(parts) > 1 and len({_set_of(item) for item in parts}) > 1:
                names = ", ".join(sorted(item.name for item in parts)[:5])
                raise InputError(f"{path}: holds several models, name one of {names}")
            return Checkpoint(sorted(parts)[0]).architecture
    elif path.is_file() and (path.suffix in (".gguf", ".safetensors") or is_gguf(path)):
        return Checkpoint(path).architecture
    elif path.suffix in (".gguf", ".safetensors"):
        raise ConfigError(str(path), ["cannot be read, no such file or directory"])
    return load_architecture(model)


def holds_tensors(folder: Path) -> bool:
    """Whether a folder has safetensors files or an index of some."""
    return any(item.suffix == ".safetensors" or item.name == _INDEX for item in _entries(folder))


def holds_index(folder: Path) -> bool:
    """Whether a folder has an index of shards."""
    return (folder / _INDEX).is_file()


def _set_of(part: Path) -> Any:
    """What the parts of one model have in common."""
    named = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.gguf", part.name)
    return (named[1], named[2]) if named else part.name
