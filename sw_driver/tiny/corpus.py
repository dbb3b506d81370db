"""The text that the small model learns from: documentation that comes with Python itself.

Documentation strings of the standard library's modules, classes and functions, and the topics that
``help()`` shows, both read out of the sources by :mod:`ast`; nothing is imported or executed.
Everything is in a fixed order. Sources are held out whole, by name, for evaluation, less the pieces
of which a paragraph stands in the rest as well.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HELD_OUT = (
    "calendar.py",
    "concurrent/",
    "configparser.py",
    "fractions.py",
    "heapq.py",
    "shutil.py",
    "tempfile.py",
    "zipfile.py",
)
"""Sources that no step of the training sees; a name that ends in a slash is a folder."""

TOPICS = "pydoc_data/topics.py"
"""The module that is one dictionary of texts: Python's reference, section by section."""

TOPICS_HELD_OUT = ("exceptions", "import", "string-methods", "with")
"""Its sections that are held out."""

EVALUATION_BYTES = 16384
"""Length of the evaluation text that is kept beside the weights, at most."""

_LEFT_OUT = (
    "test/", "site-packages/", "dist-packages/", "idlelib/", "lib2to3/", "turtledemo/",
    "pydoc_data/", "this.py", "_sysconfigdata",
)  # fmt: skip
"""Tests and programs, whose strings are notes rather than documentation; and what differs from
one installation to the next."""

_LEAST = 60
"""Shorter strings say little: ``Return a string.``"""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Texts to learn from and texts held out, each a piece of documentation.

    Attributes:
        train, held_out: in a fixed order, every piece once.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of everything; two Pythons of one version give the same."""
        made = hashlib.sha256()
        for part in (self.train, self.held_out):
            for text in part:
                made.update(text.encode() + b"\0")
            made.update(b"\1")
        return made.hexdigest()

    def evaluation(self) -> str:
        """Every n-th piece that is held out, long ones cut: :data:`EVALUATION_BYTES` at most."""
        # Every n-th piece, so that each source has its share.
        total = sum(len(text) + 2 for text in self.held_out)
        step = max(1, total // EVALUATION_BYTES)
        chosen: list[str] = []
        size = 0
        for text in self.held_out[::step]:
            if len(text.encode()) > EVALUATION_BYTES // 4:
                text = text[: text.rfind("\n\n", 0, EVALUATION_BYTES // 8)]
            size += len(text.encode()) + 2
            if size > EVALUATION_BYTES:
                break
            chosen.append(text)
        return "\n\n".join(chosen) + "\n"


def collect(library: Path | None = None) -> Corpus:
    """The corpus of a standard library; by default that of the running Python.

    Raises:
        FileNotFoundError: the folder holds no sources.
    """
    root = Path(sysconfig.get_paths()["stdlib"]) if library is None else library
    train: list[str] = []
    held_out: list[str] = []
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py"), key=lambda item: item.relative_to(root).as_posix()):
        name = path.relative_to(root).as_posix()
        if name.startswith(_LEFT_OUT) or "/test" in name or "/_vendor/" in name:
            continue
        for text in _docstrings(path):
            if len(text) < _LEAST or text in seen:
                continue
            seen.add(text)
            (held_out if name.startswith(HELD_OUT) else train).append(text)
    for topic, text in _topics(root / TOPICS):
        if text not in seen:
            seen.add(text)
            (held_out if topic in TOPICS_HELD_OUT else train).append(text)
    # What is said twice, as sections that others contain, is not held out.
    known = {paragraph for text in train for paragraph in _paragraphs(text)}
    held_out = [text for text in held_out if known.isdisjoint(_paragraphs(text))]
    if not train or not held_out:
        raise FileNotFoundError(f"{root}: holds no sources of the standard library")
    return Corpus(train=tuple(train), held_out=tuple(held_out))


def _paragraphs(text: str) -> list[str]:
    """The longer paragraphs of a text, whatever their lines and indents."""
    found = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return [part for part in found if len(part) >= _LEAST]


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # a source that is wrong on purpose
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield _plain(text)


def _topics(path: Path) -> Iterator[tuple[str, str]]:
    """The entries of the dictionary of topics, by name."""
    if not path.is_file():
        return
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    yield str(key.value), _plain(str(value.value))


_QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": "--", "–": "-", "…": "..."})


def _plain(text: str) -> str:
    """ASCII, without spaces at the ends of lines, and rulers no longer than eight."""
    text = text.translate(_QUOTES).expandtabs(4)
    text = text.encode("ascii", "ignore").decode()
    text = "".join(c for c in text if c == "\n" or " " <= c <= "~")
    text = re.sub(r"([^\w\s])\1{8,}", lambda found: found[1] * 8, text)
    text = re.sub(r"[ ]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
