"""What a text costs a language model: in float32, in a core's formats, with a cache in few bits.

A text of ``n`` tokens is read in windows: each begins with the model's first token, if it has one,
and no token sees beyond its window. Every token of the text is predicted once. With
``L = −Σ ln p(token | those before it)``, perplexity is ``exp(L / n)``, and bits per byte are
``L / (ln 2 · bytes of the text)``, which do not depend on the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hw.formats import BlockFormat
from rtl_gen.errors import InputError
from sw_driver.forward import Decoder, KvCache, Project
from sw_driver.language.quantized_caches import QuantizedCache
from sw_driver.runner.products import ProductFormat, product
from sw_driver.text.tokenizer import Tokenizer

BATCH = 2048
"""Tokens that go through the model at once."""

MAX_TEXT_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a text costs a model.

    Attributes:
        nats: ``−Σ ln p``. tokens: that were predicted. bytes: of the text.
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """Of a token."""
        return math.exp(min(self.nats / self.tokens, 700.0))

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


class Text:
    """A text as windows of tokens.

    Args:
        text: the text. tokenizer: of the model. start: the token before every window, or None.
        context: tokens of a window that the model sees, the first one included.

    Raises:
        InputError: there is nothing to predict.
    """

    def __init__(self, text: str, tokenizer: Tokenizer, start: int | None, context: int):
        tokens = tokenizer.encode(text)
        self.bytes = len(text.encode())
        first = [] if start is None else [start]
        if len(tokens) + len(first) < 2:
            raise InputError(f"text: must have a token to predict, got {len(tokens)} in all")
        self.rows = [
            np.concatenate([first, tokens[at : at + context]]).astype(np.int64)
            for at in range(0, len(tokens), context)
        ]
        # Without a token to begin with, the first of a window has nothing to be predicted from.
        self.rows = [row for row in self.rows if len(row) > 1]
        self.tokens = sum(len(row) - 1 for row in self.rows)

    def batches(self, most: int) -> Iterator[list[np.ndarray]]:
        """Windows by so many tokens at most, one window at least."""
        batch: list[np.ndarray] = []
        size = 0
        for row in self.rows:
            if batch and size + len(row) > most:
                yield batch
                batch, size = [], 0
            batch.append(row)
            size += len(row)
        yield batch


def score(
    decoder: Decoder,
    text: Text,
    project: Callable[[int | None], Project] | None = None,
    *,
    batch: int = BATCH,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Score:
    """What a text costs.

    Args:
        project: of a layer, or None for the head, what stands in for its projections.
        batch: tokens that go through the model at once, one window at least.
        advance: is told how many tokens are done.
    """
    nats = 0.0
    for rows in text.batches(batch):
        lengths = [len(row) - 1 for row in rows]
        x = decoder.embed(np.concatenate([row[:-1] for row in rows]).tolist())
        if decoder.architecture.positions:
            # Learned positions begin anew in every window.
            x = np.concatenate([decoder.embed(row[:-1].tolist()) for row in rows])
        for layer in range(decoder.architecture.layers):
            x = decoder.layer(layer, x, None if project is None else project(layer), None, lengths)
        logits = decoder.logits(x, None if project is None else project(None))
        nats += cross_entropy(logits, np.concatenate([row[1:] for row in rows]))
        advance(sum(lengths))
    return Score(nats=nats, tokens=text.tokens, bytes=text.bytes)


def score_with_cache(
    decoder: Decoder,
    text: Text,
    make: Callable[[], KvCache],
    *,
    advance: Callable[[int], None] = lambda tokens: None,
) -> tuple[Score, float]:
    """The same token by token, with a cache for every window; and its bits an element, at the ends
    of the windows."""
    nats = 0.0
    held = elements = 0
    arch = decoder.architecture
    for row in text.rows:
        cache = make()
        outputs = []
        for place, token in enumerate(row[:-1].tolist()):
            x = decoder.embed([token], place)
            for layer in range(arch.layers):
                project = None
                if isinstance(cache, QuantizedCache):
                    project = cache.projecting(layer, plain(decoder, layer))
                x = decoder.layer(layer, x, project, cache)
            outputs.append(x)
        nats += cross_entropy(decoder.logits(np.concatenate(outputs)), row[1:])
        if isinstance(cache, QuantizedCache):
            held += 8 * cache.bytes
        elements += arch.layers * (len(row) - 1) * 2 * arch.kv_heads * arch.head_dim
        advance(len(row) - 1)
    found = Score(nats=nats, tokens=text.tokens, bytes=text.bytes)
    return found, held / elements if held else 32.0


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    """``−Σ ln p`` of targets ``(T,)`` by logits ``(T, vocab)``, summed in double precision."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    chosen = wide[np.arange(len(targets)), targets]
    return float((np.log(np.exp(wide).sum(axis=1)) - chosen).sum())


def plain(decoder: Decoder, layer: int | None) -> Project:
    """The projections in float32."""

    def project(name: str, x: np.ndarray) -> np.ndarray:
        w, b = decoder.weight(layer, name)
        found: np.ndarray = x @ w.T
        return found if b is None else found + b

    return project


def in_format(
    decoder: Decoder, form: ProductFormat, *, head: bool = True
) -> Callable[[int | None], Project]:
    """The projections of every layer by a core's golden model, biases added in float32.

    Args:
        head: the product with the vocabulary, too; else it is float32.
    """

    def of_layer(layer: int | None) -> Project:
        def project(name: str, x: np.ndarray) -> np.ndarray:
            if name == "lm_head" and not head:
                return plain(decoder, layer)(name, x)
            w, b = decoder.weight(layer, name)
            try:
                found = product(form, x, w)
            except ValueError as error:
                where = name if layer is None else f"layer {layer}: {name}"
                raise InputError(f"{form.spec.name}: {where}: {error}") from None
            return found if b is None else found + b

        return project

    return of_layer


def batch_of(form: ProductFormat) -> int:
    """Tokens that go through the model at once: windows alone where a scale is of all of them."""
    a_format = form.spec.operand_formats[0]
    return 1 if isinstance(a_format, BlockFormat) and a_format.tensor_scale else BATCH


def read_text(file: Path) -> str:
    """A text file in UTF-8, of a bounded size.

    Raises:
        InputError: it cannot be read, is empty, too large, or no text.
    """
    try:
        with file.open("rb") as handle:
            raw = handle.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{file}: cannot be read, {reason}") from None
    if len(raw) > MAX_TEXT_BYTES:
        raise InputError(f"{file}: must be at most {MAX_TEXT_BYTES >> 20} MiB")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: must be UTF-8, byte {error.start} is not") from None
    if not text.strip():
        raise InputError(f"{file}: must not be empty")
    return text


def first_token(decoder: Decoder) -> int | None:
    """The token that begins a text, by the model's configuration; None if it names none."""
    told = (decoder.checkpoint.config or {}).get("bos_token_id")
    valid = isinstance(told, int) and not isinstance(told, bool)
    if told is None or not valid:
        return None
    if not 0 <= told < decoder.architecture.vocab:
        raise InputError(
            f"{decoder.checkpoint.config_file}: bos_token_id: must lie in "
            f"[0, {decoder.architecture.vocab - 1}], got {told}"
        )
    return int(told)


def score_data(found: Score) -> dict[str, Any]:
    """Plain data for JSON."""
    return {
        **asdict(found),
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte,
    }
