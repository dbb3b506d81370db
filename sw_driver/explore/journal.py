"""The journal of a run: every result on a line of its own, on the disk before more builds on it.

A run that is killed leaves at worst half a line at the end, which is cut off when it goes on.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rtl_gen.errors import InputError

RESULTS = "results.jsonl"
STUDY = "study.jsonl"
LOCK = ".lock"


class Journal:
    """The results in an output folder, by task key. Use as a context manager.

    Args:
        folder: of the run; created. digest: of the space; another space's journal is refused.
        resume: whether results that are there are taken up.

    Attributes:
        results: by task key. run: a name of the run that no other one has.

    Raises:
        InputError: on entry, if the folder cannot be written, is in use, holds a run and
            ``resume`` is not set, or holds one of another space.
    """

    def __init__(self, folder: Path, digest: str, *, resume: bool):
        self.folder = folder
        self.results: dict[str, dict[str, Any]] = {}
        self.run = uuid.uuid4().hex
        self._digest = digest
        self._resume = resume
        self._lock: Any = None
        self._file: Any = None

    def __enter__(self) -> Journal:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Opened for as long as the run lasts: the lock goes with the process.
            self._lock = (self.folder / LOCK).open("w")
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise InputError(f"{self.folder}: cannot be written, {reason}") from None
        try:
            self._hold()
            self._read()
            self._file = (self.folder / RESULTS).open("a", encoding="utf-8")
            if not self._begun:
                self._write({"space": self._digest, "run": self.run})
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._lock.close()

    def add(self, key: str, kind: str, result: Mapping[str, Any]) -> None:
        """A result, on the disk when this returns."""
        self.results[key] = dict(result)
        self._write({"key": key, "kind": kind, "result": dict(result)})

    def _hold(self) -> None:
        try:
            import fcntl
        except ImportError:
            return  # no such lock on this platform
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{self.folder}: is in use by another run") from None

    def _read(self) -> None:
        file = self.folder / RESULTS
        self._begun = False
        cut_torn_line(file)
        for number, line in enumerate(_lines(file), 1):
            try:
                entry = json.loads(line)
                if number == 1:
                    found, self.run = entry["space"], str(entry["run"])
                    self._begun = True
                    continue
                self.results[entry["key"]] = dict(entry["result"])
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{file}:{number}: is no line of a run's journal") from None
        if not self._begun:
            return
        if not self._resume:
            raise InputError(
                f"{self.folder}: holds a run; go on with --resume, or choose another folder"
            )
        if found != self._digest:
            raise InputError(
                f"{self.folder}: holds a run of another space; only budgets (synthesis.runs, "
                "search.trials) may change when a run goes on"
            )

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry, separators=(",", ":"), ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def cut_torn_line(file: Path) -> None:
    """Takes off what a killed process has left of its last line."""
    try:
        with file.open("r+b") as handle:
            raw = handle.read()
            end = raw.rfind(b"\n") + 1
            if end < len(raw):
                handle.truncate(end)
    except FileNotFoundError:
        pass


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8") as handle:
            yield from handle
    except FileNotFoundError:
        return
