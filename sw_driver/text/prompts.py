"""What a model is run on: texts through its tokenizer, token numbers, or seeded ones."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rtl_gen.errors import InputError
from sw_driver.checkpoint import Checkpoint
from sw_driver.config_file import ConfigError, clipped
from sw_driver.forward import Decoder, Transformer
from sw_driver.text.bert import PACKAGED, Bert
from sw_driver.text.sentencepiece import gguf_tokenizer
from sw_driver.text.tokenizer import check_text
from sw_driver.text.wordpiece import WordPiece
from sw_driver.tiny.pairs import Pairs, load_pairs

DEFAULT_TEXT = (
    "Low-bit language models trade a little precision for a great deal of memory bandwidth."
)
SENTENCES = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "Table lookups replace multiplications in low-bit language models.",
    "Two men pushed carts through the woods.",
    "The memory wall limits how fast a token can be generated.",
)
"""What a whole model is run on, where nothing else is asked for."""

RANDOM_TOKENS = 16
MAX_TOKENIZER = 64 << 20
"""Largest ``tokenizer.json`` that is read, in bytes."""
MAX_TEXTS = 4096
MAX_TEXT_FILE = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Tokens of one input, and the text that they are of; None for tokens without one."""

    tokens: tuple[int, ...]
    text: str | None = None

    @property
    def name(self) -> str:
        """The text, or the first token numbers."""
        if self.text is not None:
            return self.text
        dots = ", …" if len(self.tokens) > 6 else ""
        return f"tokens {', '.join(map(str, self.tokens[:6]))}{dots}"


class Tokenizer(Protocol):
    """Text to token numbers, the special ones of a model included."""

    def encode(self, text: str) -> list[int]:
        """Numbers of a text."""


def load_transformer(model: Path | str | Transformer) -> Transformer:
    """A model to run: ``minilm``, a folder, a safetensors or a GGUF file, or one that is loaded.

    Raises:
        ConfigError: the checkpoint breaks a rule, or asks for what is not computed.
        InputError: there is no such file.
    """
    if isinstance(model, Transformer):
        return model
    path = Path(model)
    if str(model) == PACKAGED or (path.is_dir() and (path / "vocab.txt").is_file()):
        return Bert(model)
    if not path.exists():
        raise InputError(
            f"model: must be {PACKAGED} or a checkpoint with tensors (a folder, a safetensors or a "
            f"GGUF file), got {str(model)!r}"
        )
    checkpoint = Checkpoint(path)
    return Decoder(checkpoint) if checkpoint.architecture.causal else Transformer(checkpoint)


class HuggingFace:
    """A ``tokenizer.json``, read by the package ``tokenizers``.

    Raises:
        InputError: on construction: the file cannot be read as one, or the package is missing.
    """

    def __init__(self, file: Path):
        try:
            library: Any = importlib.import_module("tokenizers")
        except ImportError:
            raise InputError(
                f"{file}: needs the extra text to be read (pip install 'rtlgen[text]'); or give "
                "token numbers"
            ) from None
        if file.stat().st_size > MAX_TOKENIZER:
            raise ConfigError(str(file), [f"must be at most {MAX_TOKENIZER >> 20} MiB"])
        try:
            self._tokenizer = library.Tokenizer.from_file(str(file))
        except Exception as error:  # the package raises nothing narrower
            raise ConfigError(str(file), [f"is no tokenizer: {clipped(str(error), 120)}"]) from None

    def encode(self, text: str) -> list[int]:
        """Numbers of a text with what the file's post-processor adds."""
        return [int(number) for number in self._tokenizer.encode(text).ids]


class _Pairs:
    """Plain byte pairs, which need no package; nothing is added to a text."""

    def __init__(self, pairs: Pairs):
        self._pairs = pairs

    def encode(self, text: str) -> list[int]:
        """Numbers of a text."""
        found: list[int] = self._pairs.encode(text).tolist()
        return found


def tokenizer_of(model: Transformer) -> Tokenizer | None:
    """The tokenizer of a checkpoint; None if it has none that is read here.

    Raises:
        InputError: as :class:`HuggingFace`.
    """
    if isinstance(model, Bert):
        return _wordpiece(model)
    if model.checkpoint.kind == "gguf":
        return gguf_tokenizer(model.checkpoint)
    path = model.checkpoint.path
    folder = path if path.is_dir() else path.parent
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        return _Pairs(load_pairs(file))
    except InputError:
        return HuggingFace(file)


def _wordpiece(model: Bert) -> WordPiece:
    """The pieces of an encoder whose letters are lower case."""
    file = model.folder / "tokenizer_config.json"
    if file.is_file() and file.stat().st_size < MAX_TEXT_FILE:
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            told = {}
        if isinstance(told, dict) and told.get("do_lower_case") is False:
            rule = "do_lower_case: must be true for texts, the tokenizer here knows no other"
            raise ConfigError(str(file), [f"{rule}; give token numbers"])
    return model.tokenizer


def prompts_of(
    model: Transformer,
    texts: Sequence[str] | None = None,
    tokens: Sequence[Sequence[int]] | None = None,
    default: Sequence[str] = (DEFAULT_TEXT,),
) -> tuple[list[Prompt], str]:
    """What to run, and a note of where it is from, "" where that was asked for.

    Texts or token numbers as given; else the default texts; else, of a model without a tokenizer
    that is read here, random tokens of a fixed seed.

    Raises:
        InputError: both or an empty one are given, a token is not in the vocabulary, one is too
            long, or texts are given and there is no tokenizer.
    """
    if texts and tokens:
        raise InputError("text: give texts or tokens, not both")
    if tokens:
        found = [Prompt(tokens=tuple(numbers)) for numbers in tokens]
        return [_checked(model, prompt) for prompt in found], ""
    note = ""
    try:
        tokenizer = tokenizer_of(model)
    except InputError as error:
        if texts:
            raise
        tokenizer, note = None, f" ({str(error).splitlines()[0]})"
    if tokenizer is None:
        if texts:
            raise InputError(
                f"text: {model.checkpoint.path} has no tokenizer that is read here (vocab.txt, "
                "tokenizer.json, SentencePiece in a GGUF file); give token numbers"
            )
        count = min(RANDOM_TOKENS, model.architecture.max_positions)
        rng = np.random.default_rng(0)
        numbers = rng.integers(0, model.architecture.vocab, count)
        prompt = Prompt(tokens=tuple(int(number) for number in numbers))
        return [
            _checked(model, prompt)
        ], f"{count} random tokens of seed 0, no tokenizer that is read here{note}"
    every = list(texts or default)
    for text in every:
        check_text("text", text)
    if not all(text.strip() for text in every):
        raise InputError("text: must not be empty")
    found = [Prompt(text=text, tokens=tuple(tokenizer.encode(text))) for text in every]
    return [_checked(model, prompt) for prompt in found], ""


def _checked(model: Transformer, prompt: Prompt) -> Prompt:
    arch = model.architecture
    what = "text" if prompt.text is not None else "tokens"
    if not prompt.tokens:
        raise InputError(f"{what}: must give one token at least, got none of {prompt.name!r}")
    if len(prompt.tokens) > arch.max_positions:
        raise InputError(
            f"{what}: must be at most {arch.max_positions} tokens, got {len(prompt.tokens)}"
        )
    wrong = [token for token in prompt.tokens if not 0 <= token < arch.vocab]
    if wrong:
        raise InputError(f"{what}: tokens must lie in [0, {arch.vocab - 1}], got {wrong[0]}")
    return prompt


def texts_in(file: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        InputError: it cannot be read, is too large, or has none.
    """
    try:
        with file.open("rb") as handle:
            raw = handle.read(MAX_TEXT_FILE + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{file}: cannot be read, {reason}") from None
    if len(raw) > MAX_TEXT_FILE:
        raise InputError(f"{file}: must be at most {MAX_TEXT_FILE >> 20} MiB")
    try:
        lines = [line.strip() for line in raw.decode("utf-8").splitlines()]
    except UnicodeDecodeError:
        raise InputError(f"{file}: must be UTF-8 text") from None
    found = [line for line in lines if line]
    if not 1 <= len(found) <= MAX_TEXTS:
        raise InputError(f"{file}: must have 1 to {MAX_TEXTS} lines of text, got {len(found)}")
    return found


def token_numbers(text: str) -> list[int]:
    """``1,2,3`` as numbers.

    Raises:
        InputError: it is something else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"tokens: must be numbers with commas, got {clipped(text)!r}") from None
