"""The cache of elaborations, simulators and syntheses: folders named by what made them.

An entry appears whole, by renaming a finished temporary folder into its place, so a reader never
sees half of one. One process makes an entry; others that want the same one wait for it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rtl_gen.errors import InputError

VARIABLE = "RTLGEN_CACHE"


def cache_dir() -> Path:
    """The cache's folder, created if it is not there: ``$RTLGEN_CACHE``, else the user's own.

    The user's own is ``$XDG_CACHE_HOME/rtlgen`` or ``~/.cache/rtlgen``, on macOS
    ``~/Library/Caches/rtlgen``, on Windows ``%LOCALAPPDATA%\\rtlgen``.

    Raises:
        InputError: there cannot be such a folder.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        path = Path(chosen).expanduser()
    elif sys.platform == "darwin":
        path = Path.home() / "Library" / "Caches" / "rtlgen"
    elif sys.platform == "win32":
        path = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "rtlgen"
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rtlgen"
    path = path.absolute()
    with _usable(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """A cache that cannot be written is for its owner to mend."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(
            f"{path}: the cache cannot be written, {reason}; {VARIABLE} names another folder"
        ) from None


def digest(facts: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, as 64 hexadecimal digits: the key of a cache entry."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def source_digest(*packages: str) -> str:
    """SHA-256 over every source file of some packages (``"hw"``, ``"rtl_gen"``).

    An entry whose key holds it is never served to sources that would make another.
    """
    total = hashlib.sha256()
    for package in sorted(packages):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"no package named {package!r}", name=package)
        root = Path(next(iter(spec.submodule_search_locations)))
        for file in sorted(root.rglob("*")):
            if "__pycache__" in file.parts or not file.is_file():
                continue
            name = f"{package}/{file.relative_to(root).as_posix()}"
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            total.update(f"{name} {content}\n".encode())
    return total.hexdigest()


@cache
def tool_versions(*names: str) -> Mapping[str, str]:
    """Versions of installed distributions by name, for keys, manifests and reports."""
    return {name: version(name) for name in names}


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that becomes it when the block ends well.

    ``target`` is replaced if it is there. When the block raises, or the process is interrupted in
    it, nothing is left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        # mkdtemp's 0700 is for secrets; these are ordinary files under the user's umask.
        work.chmod(0o777 & ~_umask())
        yield work
        _move_over(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that becomes it when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent
    )
    os.close(handle)
    work = Path(name)
    try:
        work.chmod(0o666 & ~_umask())
        yield work
        work.replace(target)
    except BaseException:
        work.unlink(missing_ok=True)
        raise


def folder(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The cache entry of that kind and key; ``make`` fills a new folder if there is none.

    Args:
        kind: what it holds (``"verilog"``, ``"verilated"``): one folder of the cache.
        key: from :func:`digest`.
        make: called with an empty folder that will be renamed, so nothing in it may depend on its
            own path. If it raises, nothing is kept.

    Raises:
        InputError: the cache cannot be written.
    """
    target = cache_dir() / kind / key
    if target.is_dir():
        return target
    with ExitStack() as stack:
        with _usable(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            alone = stack.enter_context(_locked(target.parent / f".{key}.lock"))
        if not target.is_dir():
            if alone:
                # What a process that was killed has left of this entry.
                for stale in target.parent.glob(f".{key}.*"):
                    if stale.is_dir():
                        shutil.rmtree(stale, ignore_errors=True)
            with new_folder(target) as work:
                make(work)
    return target


@contextmanager
def _locked(file: Path) -> Iterator[bool]:
    """One process at a time; the lock goes with its process, so none is left by a crash.

    Yields whether there is such a lock on this platform; without it work is done twice at worst.
    """
    try:
        import fcntl
    except ImportError:
        yield False
        return
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield True


def _move_over(work: Path, target: Path) -> None:
    """Rename a folder over another; one that has content cannot be replaced in one step."""
    try:
        work.rename(target)
        return
    except OSError:
        if not target.is_dir():
            raise
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    old.rmdir()
    try:
        target.rename(old)
        work.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


@cache
def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
