"""Text to the tokens of a checkpoint and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rtl_gen.errors import InputError
from sw_driver.tiny.pairs import load_pairs

FILE = "tokenizer.json"


class Tokenizer(Protocol):
    """What a vocabulary does."""

    @property
    def size(self) -> int:
        """Tokens in all."""

    def encode(self, text: str) -> np.ndarray:
        """Tokens of a text, ``int64``, none added before or after it."""

    def decode(self, tokens: Sequence[int] | np.ndarray) -> bytes:
        """The text of tokens; a piece of it may end within a letter."""


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder.

    Plain byte pairs are read here, every other kind by the package ``tokenizers``, if it is there.

    Raises:
        InputError: there is no ``tokenizer.json``, it is malformed, or needs the package.
    """
    file = folder / FILE
    if not file.is_file():
        raise InputError(f"{file}: is required, it says what the tokens are")
    try:
        return load_pairs(file)
    except InputError as error:
        try:
            import tokenizers
        except ImportError:
            raise InputError(
                f"{error}; other tokenizers need the extra text (pip install 'rtlgen[text]')"
            ) from None
    try:
        return _Foreign(tokenizers.Tokenizer.from_file(str(file)))
    except Exception as error:  # it raises nothing narrower
        raise InputError(f"{file}: {error}") from None


def check_text(field: str, text: str) -> None:
    """Refuse what no tokenizer can take: bytes of a command line that were no UTF-8.

    Python keeps such bytes as lone surrogates, which cannot be encoded again.

    Raises:
        InputError: naming ``field`` and the first wrong letter.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{field}: must be UTF-8, letter {error.start} is not") from None


class _Foreign:
    """A tokenizer of the package ``tokenizers``."""

    def __init__(self, inner: Any):
        self._inner = inner

    @property
    def size(self) -> int:
        return int(self._inner.get_vocab_size())

    def encode(self, text: str) -> np.ndarray:
        return np.array(self._inner.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> bytes:
        text: str = self._inner.decode([int(token) for token in tokens])
        return text.encode()
