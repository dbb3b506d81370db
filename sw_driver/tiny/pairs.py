"""Byte pairs: text to tokens and back.

A token is a byte or two tokens side by side (Sennrich et al., "Neural machine translation of rare
words with subword units", ACL 2016, Algorithm 1), here of bytes and across words, so that any text
has tokens and a line's indent or ``" of the "`` may be one. In a file the form is that of Hugging
Face's ``tokenizer.json`` with a ``BPE`` model and a ``ByteLevel`` pre-tokenizer without its
pattern.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rtl_gen.errors import InputError

BYTES = 256

MAX_FILE_BYTES = 1 << 20
"""Larger vocabularies are for a library that is made for them."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A vocabulary: 256 bytes, then one token a merge, in the order of the merges.

    Attributes:
        merges: ``(left, right)`` tokens of token ``256 + index``.
    """

    merges: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """Tokens in all."""
        return BYTES + len(self.merges)

    @cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes of every token."""
        found = [bytes([value]) for value in range(BYTES)]
        for left, right in self.merges:
            found.append(found[left] + found[right])
        return tuple(found)

    def encode(self, text: str) -> np.ndarray:
        """Tokens of a text, ``int64``.

        Merges are applied one after the other to the whole text: a merge makes pairs of later
        merges only, so that this is the order of the algorithm.
        """
        tokens = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)
        for number, (left, right) in enumerate(self.merges):
            tokens = _merged(tokens, left, right, BYTES + number)
        return tokens

    def decode(self, tokens: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of tokens; a token beyond the vocabulary is an ``IndexError``."""
        return b"".join(self.pieces[int(token)] for token in tokens)

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        names = ["".join(map(_LETTERS.__getitem__, piece)) for piece in self.pieces]
        model = {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: index for index, name in enumerate(names)},
            "merges": [[names[left], names[right]] for left, right in self.merges],
        }
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        form: dict[str, Any] = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {**level, "use_regex": False},
            "post_processor": None,
            "decoder": {**level, "use_regex": False},
            "model": model,
        }
        path.write_text(json.dumps(form, separators=(",", ":")) + "\n", encoding="utf-8")


def train_pairs(texts: tuple[str, ...], size: int) -> Pairs:
    """The vocabulary of ``size`` tokens whose merges are, one by one, of the most frequent pair.

    Of pairs that are as frequent the first in order of their tokens counts. No pair spans texts.

    Raises:
        ValueError: the texts have fewer pairs.
    """
    end = -1
    parts = [
        np.frombuffer(text.encode() + b"\0", dtype=np.uint8).astype(np.int64) for text in texts
    ]
    for part in parts:
        part[-1] = end
    tokens = np.concatenate(parts)
    merges: list[tuple[int, int]] = []
    while BYTES + len(merges) < size:
        left, right = tokens[:-1], tokens[1:]
        inside = (left != end) & (right != end)
        counts = np.bincount(left[inside] * size + right[inside], minlength=size * size)
        best = int(np.argmax(counts))
        if counts[best] < 2:
            raise ValueError(f"size: the texts have pairs for {BYTES + len(merges)}, got {size}")
        merges.append(divmod(best, size))
        tokens = _merged(tokens, *merges[-1], BYTES + len(merges) - 1)
    return Pairs(merges=tuple(merges))


def load_pairs(path: Path) -> Pairs:
    """The vocabulary of a ``tokenizer.json`` of the form above.

    Raises:
        InputError: the file cannot be read, or has another form.
    """
    try:
        with path.open("rb") as handle:
            raw = handle.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise InputError(
            f"{path}: must be at most {MAX_FILE_BYTES} bytes to be read without a library"
        )
    try:
        form: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON: {error}") from None
    return _parsed(path, form)


def _parsed(path: Path, form: Any) -> Pairs:
    level = form.get("pre_tokenizer") if isinstance(form, dict) else None
    model = form.get("model") if isinstance(form, dict) else None
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise InputError(f"{path}: model: must be of type BPE")
    level = level if isinstance(level, dict) else {}
    plain = level.get("type") == "ByteLevel" and not level.get("use_regex", True)
    if not plain or level.get("add_prefix_space", True):
        raise InputError(f"{path}: pre_tokenizer: must be ByteLevel without pattern or prefix")
    for name in ("normalizer", "post_processor", "added_tokens"):
        if form.get(name):
            raise InputError(f"{path}: {name}: must be empty")
    vocabulary, listed = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not isinstance(listed, list):
        raise InputError(f"{path}: model: must have vocab and merges")
    names = list(_LETTERS)
    merges: list[tuple[int, int]] = []
    index = {name: number for number, name in enumerate(names)}
    for number, entry in enumerate(listed):
        pair = entry.split(" ") if isinstance(entry, str) else entry
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair)
        ):
            raise InputError(f"{path}: model.merges[{number}]: must be two tokens")
        left, right = pair
        if left not in index or right not in index or left + right in index:
            raise InputError(f"{path}: model.merges[{number}]: must make a new token of known ones")
        merges.append((index[left], index[right]))
        index[left + right] = BYTES + number
    if vocabulary != index:
        raise InputError(f"{path}: model.vocab: must be 256 bytes and a token a merge, in order")
    return Pairs(merges=tuple(merges))


def _merged(tokens: np.ndarray, left: int, right: int, made: int) -> np.ndarray:
    """Every ``left, right`` replaced, from the left, pairs not overlapping."""
    at = np.flatnonzero((tokens[:-1] == left) & (tokens[1:] == right))
    if not len(at):
        return tokens
    if left == right:
        # Of a run of neighbouring hits every other one counts.
        starts = np.concatenate([[True], np.diff(at) > 1])
        first = at[starts][np.cumsum(starts) - 1]
        at = at[(at - first) % 2 == 0]
    result = tokens.copy()
    result[at] = made
    keep = np.ones(len(tokens), dtype=bool)
    keep[at + 1] = False
    return result[keep]


def _letters() -> tuple[str, ...]:
    """The printable letter that stands for each byte in files of byte pairs (GPT-2's choice)."""
    plain = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    found, further = [], 0
    for value in range(BYTES):
        found.append(chr(value) if value in plain else chr(256 + further))
        further += value not in plain
    return tuple(found)


_LETTERS = _letters()
