"""Small PIM systems and models for tests, and a decoder in plain numpy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from hw.blocks.pim_channel import timing
from sim.stalls import Stall, Stalls
from sw_driver.architecture import Architecture, parse_architecture
from sw_driver.pim_run import EPSILON, PimRun, Record, Weights
from sw_driver.pim_system import PimSystem

QUICK = {
    "nRCDRD": 4,
    "nRCDRDMAC": 6,
    "nRCDRDAF": 9,
    "nRCDRDCP": 7,
    "nRCDWR": 3,
    "nRP": 3,
    "nRAS": 6,
    "nRC": 10,
    "nCL": 5,
    "nCCDS": 1,
    "nCCDL": 2,
    "nWR": 4,
    "nRTP": 2,
    "nRRD": 2,
    "nRFC": 20,
    "nREFI": 150,
}
"""A table that is quick to simulate, so that refreshes come often."""

FUNCTIONS = ["softmax", "layer_norm", "gelu_tanh", "add", "reduce"]


def small_system(channel: dict[str, Any] | None = None, **fields: Any) -> PimSystem:
    """Two channels of four banks of 64 rows of 8 columns of 4 BF16 elements."""
    given = {
        "timing": QUICK,
        "geometry": {"groups": 2, "banks": 2, "rows": 64, "columns": 8, "column_bits": 64},
        "unit": {
            "arithmetic": {
                "block": "fp_core",
                "activations": {"format": "bf16"},
                "weights": {"format": "bf16"},
                "pipeline": {"heap": 1},
                "max_k": 64,
            },
            "accumulators": 4,
            "activation": {"segments": 0},
        },
        "buffer_words": 8,
        "elementwise": {"format": "none"},
        "read_depth": 4,
        **(channel or {}),
    }
    defaults: dict[str, Any] = {
        "name": "small",
        "channels": 2,
        "link_cycles": 3,
        "vector_unit": {"functions": FUNCTIONS, "lanes": 4, "max_length": 64},
    }
    return PimSystem(**{**defaults, "channel": given, **fields})


def small_model(**fields: Any) -> Architecture:
    """Two layers of three heads of 8, 24 positions."""
    data = {
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 3,
        "n_positions": 24,
        "n_inner": 40,
        "vocab_size": 37,
    }
    return parse_architecture({**data, **fields}, "config.json", "small")


def decoder(arch: Architecture, weights: Weights, tokens: list[int]) -> np.ndarray:
    """Logits of the last of some tokens, in float64: GPT-2 as it is written."""

    def norm(x: np.ndarray, gain: np.ndarray, bias: np.ndarray) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        root = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
        return centred / root * gain + bias

    def linear(name: str, layer: int, x: np.ndarray) -> np.ndarray:
        return x @ weights.matrices[name][layer].T + weights.biases[name][layer]

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    count = len(tokens)
    x = weights.embedding[tokens] + weights.positions[:count]
    hidden = np.triu(np.full((count, count), -np.inf), 1)
    for layer in range(arch.layers):
        first, second = weights.norms[layer]
        qkv = linear("qkv", layer, norm(x, *first)).reshape(count, 3, arch.heads, arch.head_dim)
        q, k, v = qkv.transpose(1, 2, 0, 3)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(arch.head_dim) + hidden
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        x = x + linear("o", layer, (shares @ v).transpose(1, 0, 2).reshape(count, -1))
        x = x + linear("down", layer, gelu(linear("up", layer, norm(x, *second))))
    found: np.ndarray = norm(x, *weights.final)[-1] @ weights.embedding.T
    return found


def offering(run: PimRun, record: Record) -> Stalls:
    """Stalls that keep ``i_cmd`` from offering an order before the cycle of the record.

    A phase's orders are offered from its first cycle on until its last one stands at the port: that
    is when the order two before it has ended.
    """
    plain = timing.schedule(run.system.dram, record.orders, accepted=record.offered)
    offered = np.array(record.offered)
    borders = [0, *(np.flatnonzero(np.diff(offered)) + 1).tolist(), len(offered)]
    bits = np.ones(plain.cycles + 64, dtype=int)
    for first, last in itertools.pairwise(borders):
        count = last - first
        begin = int(offered[first])
        end = begin + count if count < 3 else plain.end[last - 3] + 1
        bits[begin:end] = 0
    return Stalls(streams={"i_cmd": Stall(bits=tuple(bits.tolist()))})
