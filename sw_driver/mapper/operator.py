"""The operators of a workload: what is multiplied with what, how often, and in what order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from sw_driver.architecture import Storage
from sw_driver.mapper import cost
from sw_driver.mapper.cost import Line, Rising


@dataclass(frozen=True, kw_only=True)
class Linear:
    """``O[m, n] = A[m, k]·W[n, k]ᵀ`` on parameters.

    Attributes:
        name: the projection.
        runs: how often it happens in the phase, each after what it depends on.
        instances: independent GEMMs of this shape in one run (experts).
        written: ``(heads, channels)`` of what each row of the result becomes in the KV cache (or,
            of keys and values that are expanded from latents for one phase, beside it): vectors at
            the cache's width, with a scale each. Nothing for results that go elsewhere.
        bias: whether a bias vector is read.
        ternary: the checkpoint's weights are {−1, 0, +1}.
        role: the parameter tensors that it multiplies with.
        storage: how the checkpoint stores them, where it was read.
        ragged: ``(rows, GEMMs in the phase)`` of experts that do not get the same; ``m`` is then
            the rows of all GEMMs of a run together. Numbers of GEMMs are expectations where they
            are floats. Nothing where every GEMM has ``m`` rows.
        rising: how the rows grow from step to step; each of its steps is ``runs / steps`` runs, and
            ``m`` are the rows of the first one. None where all runs are alike.
        remade: keys or values that are computed again from cached inputs (XQuant): A is the cache,
            which ``v`` takes as it passes for ``k``, and the result goes to attention on the chip.
    """

    name: str
    runs: int
    instances: int
    m: int
    n: int
    k: int
    written: tuple[tuple[int, int], ...] = ()
    bias: bool = False
    ternary: bool = False
    role: str = ""
    storage: Storage | None = None
    ragged: tuple[tuple[int, float], ...] = ()
    rising: Rising | None = None
    remade: bool = False

    @property
    def gemms(self) -> int:
        """GEMMs in the phase; of expectations the nearest whole number."""
        if self.ragged:
            return round(sum(count for _, count in self.ragged))
        return self.runs * self.instances

    @cached_property
    def total_rows(self) -> int:
        """Rows of A over all GEMMs of the phase."""
        rows = self.runs * self.m
        if self.rising is not None:
            rows = self.runs // self.rising.steps * self.rising.over(self.m, 1)
        return self.instances * rows

    @property
    def macs(self) -> int:
        return self.total_rows * self.n * self.k

    @property
    def to_cache(self) -> bool:
        """Whether the result goes to the KV cache."""
        return bool(self.written)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One product of attention in ``layers`` layers, on the KV cache of every sequence and KV head.

    ``scores``: ``S = Q·Kᵀ`` (N is the number of visible tokens, K is ``head_dim``); ``values``:
    ``O = P·V`` (N is ``head_dim``, K is the number of visible tokens). A's rows are the queries of
    one KV head: ``tokens`` new ones times ``group`` query heads, token by token.

    Attributes:
        instances: sequences times KV heads; heads: KV heads.
        hidden: channels of the layer's input, of which a cache of inputs keeps a vector a token.
        tokens: new tokens of a step; step ``s`` comes after ``past + s·tokens`` tokens.
        rise: tokens that a step really adds, where they are not ``tokens`` (of those that are
            verified some are rejected): step ``s`` comes after ``past + rise.at(s)``.
        serial: the tokens of a step come one after another, each in a run of its own.
        window: tokens that a query sees at most, itself included; None for all.
        causal: a query sees itself and what is before it; else all ``tokens``.
    """

    name: str
    kind: Literal["scores", "values"]
    layers: int
    instances: int
    group: int
    head_dim: int
    tokens: int
    past: int
    steps: int
    window: int | None
    causal: bool
    heads: int = 1
    hidden: int = 0
    rise: Line | None = None
    serial: bool = False

    @property
    def line(self) -> Line:
        """How the tokens before a step grow."""
        return self.rise or Line(self.tokens)

    @property
    def runs(self) -> int:
        return self.layers * self.steps * (self.tokens if self.serial else 1)

    @property
    def rows(self) -> int:
        """Rows of A in one run of one instance."""
        return self.group * (1 if self.serial else self.tokens)

    @property
    def last(self) -> int:
        """Tokens that the last query may see, without a window."""
        return self.past + self.line.at(self.steps - 1) + self.tokens

    @cached_property
    def visible(self) -> int:
        """Pairs of a new token and a token that it sees, over all steps, of one query head."""
        if not self.causal:
            return self.steps * self.tokens * (self.past + self.tokens)
        if self.rise is None:
            return _visible(self.past, self.tokens * self.steps, self.window)
        return int(
            cost.spans(
                1,
                1,
                group=1,
                tokens=self.tokens,
                past=self.past,
                steps=self.steps,
                window=self.window or cost.NO_WINDOW,
                causal=True,
                rise=self.rise,
                serial=True,
            )
        )

    @property
    def macs(self) -> int:
        return self.layers * self.instances * self.group * self.head_dim * self.visible


def _visible(past: int, tokens: int, window: int | None) -> int:
    """``Σ min(past + t + 1, window)`` over ``tokens`` tokens."""
    growing = tokens if window is None else max(0, min(tokens, window - past))
    total = growing * past + growing * (growing + 1) // 2
    return total if window is None else total + (tokens - growing) * window


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """Vectors gathered from a table of 16-bit parameters: memory traffic without a product."""

    name: str
    vectors: int
    width: int


@dataclass(frozen=True, kw_only=True)
class VectorWork:
    """Elements that go through something other than a matrix product in the whole phase."""

    name: str
    elements: int


Operator = Linear | Attention
