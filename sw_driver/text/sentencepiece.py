"""Tokens of a text by the vocabulary of a GGUF file, in the way of SentencePiece's BPE.

Letters are joined, the pair with the best score first, as long as what they give is a piece of the
vocabulary (Kudo and Richardson, arXiv 1808.06226; `llama.cpp`, tokenizer ``llama``). What is no
piece is given byte by byte. Words that stand for control tokens are text like any other.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rtl_gen.errors import InputError
from sw_driver.checkpoint import Checkpoint
from sw_driver.checkpoint.gguf_file import Skipped, listed_numbers, listed_texts
from sw_driver.config_file import ConfigError, shown

MAX_PIECE = 1 << 12
"""Bytes of the longest piece."""
MAX_PIECES = 1 << 21

_NORMAL, _USER, _BYTE = 1, 4, 6
_KEY = "tokenizer.ggml"


class SentencePiece:
    """A tokenizer out of pieces and their scores.

    Args:
        pieces, scores, kinds: by token number; kinds as GGUF files number them.
        first: token before every text, None for none.
        spaced: a space is put before a text, and behind every piece that somebody added.
        unknown: token of what is neither a piece nor a byte.
    """

    def __init__(
        self,
        pieces: Sequence[str],
        scores: Sequence[float],
        kinds: Sequence[float],
        *,
        first: int | None,
        spaced: bool,
        unknown: int,
    ):
        self.numbers: dict[str, int] = {}
        self.bytes: dict[int, int] = {}
        for number, (piece, kind) in enumerate(zip(pieces, kinds, strict=True)):
            if kind in (_NORMAL, _USER):
                self.numbers.setdefault(piece, number)
            elif kind == _BYTE and len(piece) == 6:
                self.bytes[int(piece[3:5], 16)] = number
        # Pieces that somebody added are found first, the longest ones before the others.
        added = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == _USER]
        longest = sorted(filter(None, added), key=len, reverse=True)
        self._added = re.compile("|".join(map(re.escape, longest))) if longest else None
        self.scores = scores
        self.first, self.spaced, self.unknown = first, spaced, unknown

    def encode(self, text: str) -> list[int]:
        """Numbers of the pieces of a text."""
        found = [] if self.first is None else [self.first]
        place = 0
        for match in self._added.finditer(text) if self._added else ():
            found += self._encoded(text[place : match.start()])
            found.append(self.numbers[match[0]])
            place = match.end()
        return found + self._encoded(text[place:])

    def _encoded(self, text: str) -> list[int]:
        """Text between the pieces that somebody added."""
        found: list[int] = []
        if self.spaced and text:
            text = f" {text}"
        for piece in self._joined(text.replace(" ", "▁")):
            if piece in self.numbers:
                found.append(self.numbers[piece])
            else:
                found += [self.bytes.get(byte, self.unknown) for byte in piece.encode("utf-8")]
        return found

    def _joined(self, text: str) -> list[str]:
        """Letters, joined to pieces."""
        parts: list[str] = list(text)
        after = [*range(1, len(parts)), -1] if parts else []
        before = list(range(-1, len(parts) - 1))
        waiting: list[tuple[float, int, int, str]] = []

        def offer(left: int) -> None:
            right = after[left]
            if right >= 0:
                both = parts[left] + parts[right]
                number = self.numbers.get(both)
                if number is not None:
                    heapq.heappush(waiting, (-self.scores[number], left, right, both))

        for at in range(len(parts)):
            offer(at)
        while waiting:
            _, left, right, both = heapq.heappop(waiting)
            # A pair whose parts have been joined elsewhere is no pair any more.
            if not parts[left] or not parts[right] or parts[left] + parts[right] != both:
                continue
            parts[left], parts[right] = both, ""
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            offer(left)
            if before[left] >= 0:
                offer(before[left])
        return [part for part in parts if part]


def gguf_tokenizer(checkpoint: Checkpoint) -> SentencePiece | None:
    """The tokenizer of a GGUF file; None if it has none, or one of another kind.

    Raises:
        ConfigError: its lists do not fit one another.
        InputError: the file cannot be read.
    """
    header = checkpoint.header
    if header is None or header.fields.get(f"{_KEY}.model") != "llama":
        return None
    fields: Mapping[str, Any] = header.fields
    file = checkpoint.config_file
    told = fields.get(f"{_KEY}.tokens")
    if not isinstance(told, Skipped) or told.length > MAX_PIECES:
        raise ConfigError(str(file), [f"{_KEY}.tokens: must be at most {MAX_PIECES} texts"])
    pieces = listed_texts(file, told, MAX_PIECE)

    def numbers(name: str) -> Sequence[float]:
        value = fields.get(f"{_KEY}.{name}")
        found = listed_numbers(file, value) if isinstance(value, Skipped) else value
        if not isinstance(found, (list, tuple)) or len(found) != len(pieces):
            rule = f"must have a number for each of the {len(pieces)} tokens"
            raise ConfigError(str(file), [f"{_KEY}.{name}: {rule}"])
        return found

    def token(name: str) -> int | None:
        value = fields.get(f"{_KEY}.{name}")
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < len(pieces):
            rule = f"must lie in [0, {len(pieces) - 1}]"
            raise ConfigError(str(file), [f"{_KEY}.{name}: {rule}, got {shown(value)}"])
        return value

    begin = token("bos_token_id") if fields.get(f"{_KEY}.add_bos_token", True) else None
    unknown = token("unknown_token_id")
    try:
        return SentencePiece(
            pieces,
            numbers("scores"),
            numbers("token_type"),
            first=begin,
            spaced=bool(fields.get(f"{_KEY}.add_space_prefix", True)),
            unknown=0 if unknown is None else unknown,
        )
    except ValueError:
        raise InputError(f"{file}: {_KEY}.tokens: bytes must be written as <0x1F>") from None
