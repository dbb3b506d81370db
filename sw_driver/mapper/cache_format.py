"""Formats of the KV cache beyond integers per token: what they store, in bits.

*KIVI* (arXiv 2402.02750, algorithm 1) and *XQuant* (arXiv 2508.10395, section 3) as
:mod:`sw_driver.quantize.cache` quantizes them; floats as they are. Plain integers: a mapping and
a quantizer count by the same functions, and neither needs the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rtl_gen.errors import InputError
from sw_driver.mapper.cost import Ints, Line, ceil_div, spans

SCALE_BITS = 16
"""Width of a scale."""

PLAIN_BITS = 16
"""Width of what is kept as it is."""

FLOATS = {"fp16": 16, "bf16": 16, "fp8_e4m3": 8, "fp8_e5m2": 8}


@dataclass(frozen=True, kw_only=True)
class CacheFormat:
    """How a cache is quantized.

    Attributes:
        bits: width of codes, 1 to 8.
        group: elements that share a scale and a zero point: of keys tokens, else channels of a
            vector, of which a last group may be shorter.
        window: latest tokens in full precision, a multiple of ``group`` for keys; 0 for none.

    ``ValueError`` if a field breaks its rule.
    """

    bits: int = 2
    group: int = 32
    window: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits: must lie in [1, 8], got {self.bits}")
        if self.group < 1:
            raise ValueError(f"group: must be positive, got {self.group}")
        if self.window < 0:
            raise ValueError(f"window: must not be negative, got {self.window}")

    def check_keys(self) -> None:
        """``ValueError`` if keys cannot be quantized by whole windows of whole groups."""
        if self.window % self.group or not self.window:
            raise ValueError(
                f"window: must be a multiple of the group of {self.group} tokens for keys, got "
                f"{self.window}"
            )

    def vector_bits(self, elements: int) -> int:
        """Bits of elements in a row that are quantized together."""
        groups = ceil_div(elements, self.group)
        return int(elements * self.bits + groups * (SCALE_BITS + self.bits))

    def per_channel_bits(self, codes: int, groups: int, plain: int, channels: int) -> int:
        """Bits of vectors that are quantized channel by channel, in groups of them.

        The numbers may be sums over several caches.
        """
        scales = groups * (SCALE_BITS + self.bits)
        return channels * (codes * self.bits + scales + plain * PLAIN_BITS)

    def per_token_bits(self, quantized: int, plain: int, channels: int) -> int:
        """Bits of vectors that are quantized one by one."""
        return quantized * self.vector_bits(channels) + plain * channels * PLAIN_BITS

    def plain_keys(self, tokens: int) -> int:
        """Of so many tokens those whose keys are kept as they are."""
        return tokens % self.window

    def plain_values(self, tokens: int) -> int:
        """Of so many tokens those whose values, or inputs, are kept as they are."""
        return min(tokens, self.window)


@dataclass(frozen=True, kw_only=True)
class CacheScheme:
    """What a cache keeps.

    Attributes:
        kind: floats, KIVI's keys and values, or XQuant's inputs.
        name: as it was asked for, or of the floating format.
        bits: width of an element that is not kept as it is.
        form: of codes; None for floats.
    """

    kind: Literal["float", "kivi", "xquant"]
    name: str
    bits: int
    form: CacheFormat | None = None

    @property
    def codes(self) -> CacheFormat:
        """The form; ``ValueError`` for floats."""
        if self.form is None:
            raise ValueError(f"{self.name}: has no codes")
        return self.form

    def token_layer_bytes(self, tokens: int, cached: tuple[tuple[int, int], ...]) -> int:
        """Bytes of a sequence's cache in a layer.

        Args:
            cached: ``(heads, channels)`` of the vectors of a token: keys and values, or an input.
        """
        if self.kind == "float":
            return ceil_div(tokens * sum(h * d for h, d in cached) * self.bits, 8)
        form = self.codes
        plain = form.plain_values(tokens)
        values = sum(
            ceil_div(heads * form.per_token_bits(tokens - plain, plain, channels), 8)
            for heads, channels in cached[-1:]
        )
        if self.kind == "xquant":
            return int(values)
        heads, channels = cached[0]
        plain = form.plain_keys(tokens)
        codes = tokens - plain
        keys = heads * form.per_channel_bits(codes, codes // form.group, plain, channels)
        return int(ceil_div(keys, 8) + values)


def parse_cache(text: str) -> tuple[int | None, CacheScheme | None]:
    """``int4``, ``fp16``, ``bf16``, ``fp8``, ``kivi:2`` or ``xquant:2``: bits, or a scheme.

    Of the last two, ``,group=32`` and ``,window=128`` may follow; those are the defaults of KIVI.
    XQuant has a group of 128 and no window unless asked.

    Raises:
        InputError: the text is none of these, or a number is out of range.
    """
    rule = "must be int1 to int16, fp16, bf16, fp8, fp8_e5m2, kivi:BITS or xquant:BITS"
    found = re.fullmatch(r"int(\d{1,2})", text)
    if found:
        bits = int(found[1])
        if not 1 <= bits <= 16:
            raise InputError(f"kv: {rule}, got {text!r}")
        return bits, None
    name = "fp8_e4m3" if text == "fp8" else text
    if name in FLOATS:
        return None, CacheScheme(kind="float", name=name, bits=FLOATS[name])
    found = re.fullmatch(r"(kivi|xquant):(\d{1,3})((?:,(?:group|window)=\d{1,9})*)", text)
    if not found:
        behind = "the last two with ,group=G,window=W behind them if wanted"
        raise InputError(f"kv: {rule}, {behind}, got {text!r:.80}")
    kind: Any = found[1]
    fields = {"group": 32, "window": 128} if kind == "kivi" else {"group": 128, "window": 0}
    asked = re.findall(r"(\w+)=(\d+)", found[3])
    if len(asked) > len(dict(asked)):
        raise InputError(f"kv: {text}: must give group and window once each")
    fields.update((key, int(value)) for key, value in asked)
    try:
        form = CacheFormat(bits=int(found[2]), **fields)
        if kind == "kivi":
            form.check_keys()
    except ValueError as error:
        raise InputError(f"kv: {text}: {error}") from None
    return None, CacheScheme(kind=kind, name=text, bits=form.bits, form=form)


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The tokens of one sequence's cache over the steps of a phase: ``past + line.at(s) + new``.

    What a step sees is what the cache holds once the step's new tokens are in it.
    """

    past: int
    new: int
    steps: int
    line: Line

    @property
    def seen(self) -> int:
        """``Σ tokens`` over the steps."""
        return int(self.line.over(self.steps, self.past + self.new, 1))

    def plain_keys(self, form: CacheFormat) -> int:
        """``Σ form.plain_keys(tokens)``."""
        window = form.window
        whole = self.line.over(self.steps, self.past + self.new - window + 1, window)
        return int(self.seen - window * whole)

    def plain_values(self, form: CacheFormat) -> int:
        """``Σ form.plain_values(tokens)``."""
        if not form.window:
            return 0
        return int(
            spans(
                1,
                1,
                group=1,
                tokens=1,
                past=self.past + self.new - 1,
                steps=self.steps,
                window=form.window,
                causal=True,
                rise=self.line,
            )
        )

    def before(self, step: int) -> int:
        """Tokens before a step; after the last one those that stay."""
        return self.past + self.line.at(step)


class Seen(NamedTuple):
    """Vectors that are read: codes, groups of codes along the tokens, and what is as it was."""

    codes: int
    groups: int
    plain: int


def seen_by_blocks(form: CacheFormat, growth: Growth, ends: list[int], *, keys: bool) -> Seen:
    """What blocks of rows see of keys, or of values, over all steps.

    Args:
        ends: of each block the new tokens up to its last one.
    """
    if ends == [growth.new] or growth.new == 1:
        plain = growth.plain_keys(form) if keys else growth.plain_values(form)
        codes = growth.seen - plain
        return Seen(*(len(ends) * value for value in (codes, codes // form.group, plain)))
    codes = groups = plain = 0
    for step in range(growth.steps):
        before = growth.before(step)
        held = before + growth.new
        edge = held - (form.plain_keys(held) if keys else form.plain_values(held))
        for end in ends:
            inside = min(before + end, edge)
            codes += inside
            groups += ceil_div(inside, form.group)
            plain += before + end - inside
    return Seen(codes, groups, plain)


def written_plain(form: CacheFormat, growth: Growth, *, keys: bool) -> int:
    """New vectors that are still as they are after the step that they come in, over all steps."""
    if not keys:
        # The latest `window` tokens are plain, so of the new ones as many as go into it.
        return growth.steps * min(growth.new, form.window)
    window, first = form.window, growth.past + growth.new

    def whole(start: int) -> Ints:
        """``Σ floor((start + line.at(s)) / window)``."""
        return growth.line.over(growth.steps, start - window + 1, window)

    # Σ min(new, tokens mod window): one for each t up to `new` that the remainder reaches.
    reach = range(1, min(growth.new, window - 1) + 1)
    return int(sum(whole(first + window - t) - whole(first) for t in reach))
