"""WordPiece tokens of a text, as BERT's uncased models take them.

Lower case, accents dropped, punctuation and Chinese characters apart, then the longest pieces of
the vocabulary from left to right (Wu et al., arXiv 1609.08144; Devlin et al., arXiv 1810.04805).
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from sw_driver.config_file import ConfigError

MAX_BYTES = 16 << 20
MAX_WORD = 100
"""Letters of the longest word that is cut into pieces."""

_CHINESE = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip

_CONTROL = ("Cc", "Cf", "Co", "Cs")
"""Categories of characters that are dropped; one that is not assigned is a letter like any."""


class WordPiece:
    """A tokenizer from a ``vocab.txt``: one piece a line, its number the line's.

    Raises:
        ConfigError: on construction: the file cannot be read or lacks a special token.
    """

    def __init__(self, path: Path):
        try:
            with path.open("rb") as handle:
                raw = handle.read(MAX_BYTES + 1)
            if len(raw) > MAX_BYTES:
                raise ConfigError(str(path), [f"must be at most {MAX_BYTES >> 20} MiB"])
            lines = raw.decode("utf-8").split("\n")
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise ConfigError(str(path), [f"cannot be read, {reason}"]) from None
        except UnicodeDecodeError:
            raise ConfigError(str(path), ["must be UTF-8 text"]) from None
        if lines and not lines[-1]:
            lines.pop()
        self.pieces = {line.rstrip("\r"): number for number, line in enumerate(lines)}
        missing = [name for name in ("[UNK]", "[CLS]", "[SEP]") if name not in self.pieces]
        if missing:
            raise ConfigError(str(path), [f"{name}: is required" for name in missing])

    def encode(self, text: str) -> list[int]:
        """Numbers of the pieces of a text between ``[CLS]`` and ``[SEP]``."""
        numbers = [self.pieces["[CLS]"]]
        for word in words(text):
            numbers += self._pieces_of(word)
        return [*numbers, self.pieces["[SEP]"]]

    def _pieces_of(self, word: str) -> list[int]:
        unknown = [self.pieces["[UNK]"]]
        if len(word) > MAX_WORD:
            return unknown
        found = []
        start = 0
        while start < len(word):
            for stop in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:stop]
                if piece in self.pieces:
                    found.append(self.pieces[piece])
                    start = stop
                    break
            else:
                return unknown
        return found


def words(text: str) -> list[str]:
    """Words and single marks of a text."""
    spaced = []
    for letter in text:
        code = ord(letter)
        if letter.isspace() or unicodedata.category(letter) == "Zs":
            spaced.append(" ")
        elif code in (0, 0xFFFD) or unicodedata.category(letter) in _CONTROL:
            continue
        elif any(low <= code <= high for low, high in _CHINESE):
            spaced.append(f" {letter} ")
        else:
            spaced.append(letter)
    found: list[str] = []
    for word in "".join(spaced).split():
        # Letter by letter: a word's last Greek sigma stays the plain one.
        lower = "".join(letter.lower() for letter in word)
        plain = unicodedata.normalize("NFD", lower)
        run = ""
        for letter in plain:
            if unicodedata.category(letter) == "Mn":
                continue
            if _is_mark(letter):
                found += [run, letter] if run else [letter]
                run = ""
            else:
                run += letter
        if run:
            found.append(run)
    return found


def _is_mark(letter: str) -> bool:
    """Punctuation, every ASCII sign that is no letter or digit included."""
    if letter.isascii():
        return not letter.isalnum() and letter.isprintable() and letter != " "
    return unicodedata.category(letter)[0] == "P"
