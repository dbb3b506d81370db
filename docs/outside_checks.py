"""Totals of a mapping beside those of two public analytical tools.

``python docs/outside_checks.py`` prints the table of docs/outside_checks.md.

*GenZ* (arXiv 2406.01698; ``genz-llm`` 0.0.16) and *LLM-Viewer* (arXiv 2402.16363; its
``model_analyzer.py`` of 2024) add up operations and bytes of operators in closed forms, as the
mapper does. Their forms are written out here, of one sequence, weights, activations and cache in
INT8, one device; ``tests/sw_driver/test_outside_checks.py`` holds GenZ's against recorded output of
the tool and explains every difference to the last byte.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from hw.block import spec_from_dict
from sw_driver.architecture import Architecture, Mlp, load_architecture
from sw_driver.mapper.core import Core, core_of
from sw_driver.mapper.mapping import Choices, Mapping, map_workload
from sw_driver.mapper.workload import decode_workload, prefill_workload
from sw_driver.report import Table, fixed

MODELS = ("llama-2-7b", "llama-2-70b", "mixtral-8x7b")
TOKENS = 512
"""Tokens that a decoded token sees, itself included; tokens of a prompt."""

PEAK = 2 * 2048 * 500e6
"""Operations a second."""

BANDWIDTH = 25.6e9
BUFFER = 1 << 33
"""Room for any operand: both tools read each once."""


@dataclass(frozen=True)
class Totals:
    """Operations (a MAC is two), bytes of memory traffic, seconds."""

    operations: float
    bytes: float
    seconds: float


class _Sum:
    """Operators added up by ``max(operations / peak, bytes / bandwidth)``."""

    def __init__(self) -> None:
        self.operations = self.bytes = self.seconds = 0.0

    def add(self, times: int, operations: float, size: float) -> None:
        self.operations += times * operations
        self.bytes += times * size
        self.seconds += times * max(operations / PEAK, size / BANDWIDTH)

    @property
    def totals(self) -> Totals:
        return Totals(self.operations, self.bytes, self.seconds)


def mlp_of(arch: Architecture) -> Mlp:
    """The feed-forward part of a model whose layers are alike."""
    (group,) = arch.layer_groups
    return group.mlp


def genz(arch: Architecture, phase: str) -> Totals:
    """GenZ's forms.

    Of a decoding no activation leaves the chip but the router's and those of the logits. A prompt's
    attention is square, its embedding is a product with the whole table, and every token of it gets
    logits.
    """
    t = 1 if phase == "decode" else TOKENS
    d, heads, kv, dim = arch.hidden, arch.heads, arch.kv_heads, arch.head_dim
    mlp, found = mlp_of(arch), _Sum()

    def linear(times: int, rows: int, out: int, into: int, inside: bool = True) -> None:
        moved = 0 if phase == "decode" and inside else rows * (into + out)
        found.add(times, 2 * rows * out * into, out * into + moved)

    if phase == "prefill":
        linear(1, t, d, arch.vocab)
    linear(arch.layers, t, (heads + 2 * kv) * dim, d)
    # Scores stay on the chip: of the two products Q goes in and O comes out, K and V are read.
    moved = TOKENS * kv * dim + (0 if phase == "decode" else t * heads * dim)
    for _ in ("logit", "attend"):
        found.add(arch.layers, 2 * t * heads * TOKENS * dim, moved)
    linear(arch.layers, t, d, heads * dim)
    wide, rows = mlp.width, t
    if mlp.experts:
        linear(arch.layers, t, mlp.experts, d, inside=False)
        # Decoding: the active experts as one wide layer; else all of them, on a share of the rows.
        wide = mlp.width * (mlp.active if phase == "decode" else mlp.experts)
        rows = t if phase == "decode" else t * mlp.active // mlp.experts
    linear(arch.layers, rows, 2 * wide, d)
    linear(arch.layers, rows, d, wide)
    linear(1, t, arch.vocab, d, inside=False)
    return found.totals


def llm_viewer(arch: Architecture, phase: str) -> Totals:
    """LLM-Viewer's forms: every operand and result goes through memory, scores and what is not a
    product, too; ``lm_head`` counts one operation a MAC; a mixture is one expert.
    """
    t, seen = (1 if phase == "decode" else TOKENS), TOKENS
    d, heads, kv = arch.hidden, arch.heads, arch.kv_heads
    dim, wide, found = d // heads, mlp_of(arch).width, _Sum()
    narrow = d * kv // heads
    shapes = [(d, d), (d, narrow), (d, narrow), (d, d), (d, wide), (d, wide), (wide, d)]
    for into, out in shapes:
        found.add(arch.layers, 2 * t * into * out, into * out + t * (into + out))
    scores, cache = t * seen * heads, seen * dim * kv
    product = 2 * scores * dim
    if phase == "decode":
        found.add(arch.layers, product, d + scores + cache)
        found.add(arch.layers, product, scores + d + cache)
    else:
        found.add(arch.layers, product, scores + 2 * cache)
        found.add(arch.layers, product, scores + t * d + cache)
    found.add(arch.layers, 5 * scores, 2 * scores)
    for operations, moved in ((7, 2), (7, 2), (1, 2), (1, 2), (2, 3)):
        # Two norms, two additions, the activation function: all of them at the hidden size.
        found.add(arch.layers, operations * t * d, moved * t * d)
    found.add(1, d * arch.vocab, d * arch.vocab + d + arch.vocab)
    return found.totals


def core() -> Core:
    """A core of that peak without padding: one row, W8A8."""
    spec: dict[str, Any] = {
        "block": "mac_core",
        "name": "w8a8",
        "clock_mhz": 500.0,
        "tile": {"m": 1, "n": 64, "k": 32},
        "weights": {"encoding": "twos_complement", "bits": 8},
        "max_k": 32768,
        "memory": {"bandwidth_gb_s": 25.6},
    }
    return core_of(spec_from_dict(spec))  # type: ignore[arg-type]


def mapped(arch: Architecture, phase: str) -> Mapping:
    """The same work by the mapper."""
    if phase == "decode":
        work = decode_workload(arch, 1, context=TOKENS - 1)
    else:
        work = prefill_workload(arch, TOKENS)
    return map_workload(work, core(), Choices(buffer_bytes=BUFFER))


def ours(arch: Architecture, phase: str) -> Totals:
    """Totals of :func:`mapped`."""
    mapping = mapped(arch, phase)
    return Totals(2 * mapping.macs, mapping.bytes, mapping.seconds)


def table() -> Table:
    """Both phases of the models, by the three."""
    rows = []
    for name in MODELS:
        arch = load_architecture(name)
        for phase in ("decode", "prefill"):
            every = [count(arch, phase) for count in (ours, genz, llm_viewer)]
            cells = [fixed(item.operations / 1e9, 5) for item in every]
            cells += [fixed(item.bytes / 1e9, 5) for item in every]
            cells += [fixed(item.seconds * 1e3, 5) for item in every]
            rows.append((name, phase, *cells))
    columns = [
        f"{what} {who}" for what in ("Gop", "GB", "ms") for who in ("here", "GenZ", "Viewer")
    ]
    return Table(columns=("model", "phase", *columns), rows=rows)


if __name__ == "__main__":
    sys.stdout.write(f"{table()}\n")
