"""Technologies: a Liberty file by path, or the embedded generic library that needs none."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flows.errors import LibertyError

if TYPE_CHECKING:
    from flows.liberty import Library

_EMBEDDED = Path(__file__).parent / "data" / "generic.lib"
_READER = 5
"""Counts changes of the Liberty reader: kept readings of another version are not used."""


@dataclass(frozen=True)
class Technology:
    """A cell library and how its figures are called.

    Attributes:
        name: for reports.
        path: the Liberty file.
        area_unit: ``µm²``, or ``NAND2`` for areas in two-input NAND equivalents.
        time_note: what a nanosecond of this technology is, for reports.
    """

    name: str
    path: Path
    area_unit: str
    time_note: str = "NLDM tables, zero wire load unless stated"

    @classmethod
    def embedded(cls) -> Technology:
        """The generic library: NAND2 equivalents, and a linear delay with a nominal τ of 5 ps.

        Delays are logical effort: ``τ · (parasitic + effort · load / input)``; with τ = 5 ps an
        inverter of fan-out four takes 25 ps. They compare designs; they predict no process.
        """
        return cls(
            "generic", _EMBEDDED, "NAND2", "logical effort at a nominal τ = 5 ps (FO4 = 25 ps)"
        )

    @classmethod
    def liberty(cls, path: str | Path) -> Technology:
        """A Liberty file, plain or gzipped, with areas in µm².

        Raises:
            LibertyError: there is no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise LibertyError(path, "must be a Liberty file, does not exist")
        return cls(path.name.removesuffix(".gz").removesuffix(".lib"), path, "µm²")

    @cached_property
    def _text(self) -> str:
        from flows import liberty

        return liberty.text_of(self.path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the Liberty text."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    def library(self, cache_dir: Path | None = None) -> Library:
        """The parsed library; with a ``cache_dir`` its short form is kept there.

        Raises:
            LibertyError: not Liberty, or it lacks a needed function.
        """
        if "_library" not in self.__dict__:
            self.__dict__["_library"] = self._read(cache_dir)
        found: Library = self.__dict__["_library"]
        return found

    def _read(self, cache_dir: Path | None) -> Library:
        from flows import liberty

        kept = cache_dir / "liberty" / f"{self.digest}-{_READER}.lib" if cache_dir else None
        if kept and kept.is_file():
            return liberty.parse(kept.read_text(encoding="utf-8"), self.path)
        library = liberty.parse(self._text, self.path)
        if kept:
            write_whole(kept, liberty.write(library))
        # Read back what is kept, so that a run with a cache and one without see equal numbers.
        return liberty.parse(liberty.write(library), self.path)

    @cached_property
    def short_text(self) -> str:
        """The Liberty text that mapping tools read."""
        from flows import liberty

        return liberty.write(self.library())


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).replace(path)
