"""The mapper beside what was written elsewhere: hand rooflines, closed formulas, public tools."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from hw.block import spec_from_dict
from sw_driver.architecture import Architecture, load_architecture
from sw_driver.mapper.core import Core, core_of
from sw_driver.mapper.mapping import Choices, Mapping, map_workload
from sw_driver.mapper.workload import decode_workload, prefill_workload

# name: layers, hidden, heads, kv heads, head size, intermediate, vocabulary, experts, active;
# from the models' cards, not from this repository.
CARDS: dict[str, tuple[int, ...]] = {
    "llama-2-7b": (32, 4096, 32, 32, 128, 11008, 32000, 0, 0),
    "llama-2-13b": (40, 5120, 40, 40, 128, 13824, 32000, 0, 0),
    "llama-2-70b": (80, 8192, 64, 8, 128, 28672, 32000, 0, 0),
    "llama-3-8b": (32, 4096, 32, 8, 128, 14336, 128256, 0, 0),
    "mistral-7b-v0.3": (32, 4096, 32, 8, 128, 14336, 32768, 0, 0),
    "qwen3-8b": (36, 4096, 32, 8, 128, 12288, 151936, 0, 0),
    "phi-4": (40, 5120, 40, 10, 128, 17920, 100352, 0, 0),
    "mixtral-8x7b": (32, 4096, 32, 8, 128, 14336, 32000, 8, 2),
    "qwen3-30b-a3b": (48, 2048, 32, 4, 128, 768, 151936, 128, 8),
}


def core(**more: Any) -> Core:
    settings: dict[str, Any] = {
        "block": "mac_core",
        "name": "c",
        "clock_mhz": 1000.0,
        "tile": {"m": 8, "n": 64, "k": 32},
        "weights": {"encoding": "twos_complement", "bits": 4},
        "max_k": 65536,
        "memory": {"bandwidth_gb_s": 10.0},
    }
    return core_of(spec_from_dict({**settings, **more}))  # type: ignore[arg-type]


def weights_of(name: str, touched: int = 0) -> int:
    """Weights that a step reads, of so many experts a layer."""
    layers, d, heads, kv, dim, wide, vocabulary, experts, _ = CARDS[name]
    layer = d * dim * (2 * heads + 2 * kv)
    layer += touched * 3 * d * wide + d * experts if experts else 3 * d * wide
    return layers * layer + d * vocabulary


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize(("batch", "seen"), [(1, 1024), (4, 2000)])
def test_decoding_that_bandwidth_binds_is_the_hand_roofline(
    name: str, batch: int, seen: int
) -> None:
    """Bytes of the weights and of the cache over the bandwidth, within 1 %."""
    layers, *_, kv, dim, _, _, experts, active = CARDS[name]
    work = decode_workload(load_architecture(name), 1, context=seen - 1, batch=batch)
    mapping = map_workload(work, core())
    touched = min(experts, batch * active)
    # A vector of the cache is so many codes of 4 bits and a scale of 16.
    vectors = batch * layers * 2 * kv
    stored = dim * 4 + 16
    seconds = (weights_of(name, touched) * 4 + vectors * seen * stored) / 8 / 10e9
    assert all(item.bound == "memory" for item in mapping.operators)
    assert mapping.seconds == pytest.approx(seconds, rel=0.01)
    # And of many steps, over which the cache grows.
    work = decode_workload(load_architecture(name), 64, context=seen - 1, batch=batch)
    grown = 64 * weights_of(name, touched) * 4 + vectors * (64 * seen + 63 * 64 // 2) * stored
    assert map_workload(work, core()).seconds == pytest.approx(grown / 8 / 10e9, rel=0.01)


@pytest.mark.parametrize("name", [name for name in CARDS if name != "qwen3-30b-a3b"])
@pytest.mark.parametrize("tokens", [1, 77, 512])
def test_cycles_of_a_prefill_are_closed_formulas(name: str, tokens: int) -> None:
    """Tiles of 8 × 64 × 32, a cycle each, and two cycles of latency for each product and layer."""
    layers, d, heads, kv, dim, wide, vocabulary, experts, active = CARDS[name]

    def product(m: int, n: int, k: int) -> int:
        return math.ceil(m / 8) * math.ceil(n / 64) * math.ceil(k / 32)

    layer = product(tokens, heads * dim, d) + 2 * product(tokens, kv * dim, d)
    layer += product(tokens, d, heads * dim)
    products = 4 + 2
    if experts:
        assigned = tokens * active
        each, more = divmod(assigned, min(experts, assigned))
        counts = [(each + 1, more), (each, min(experts, assigned) - more)]
        for rows, times in counts:
            layer += times * (2 * product(rows, wide, d) + product(rows, d, wide))
            products += 3 * bool(times)
        layer += product(tokens, experts, d)
        products += 1
    else:
        layer += 2 * product(tokens, wide, d) + product(tokens, d, wide)
        products += 3
    group = heads // kv
    rows = [(token, head) for token in range(tokens) for head in range(group)]
    for first in range(0, len(rows), 8):
        seen = rows[min(first + 8, len(rows)) - 1][0] + 1
        layer += kv * math.ceil(seen / 64) * math.ceil(dim / 32)
        layer += kv * math.ceil(dim / 64) * math.ceil(seen / 32)
    latency = core().latency
    cycles = layers * (layer + products * latency) + product(1, vocabulary, d) + latency
    mapping = map_workload(prefill_workload(load_architecture(name), tokens), core())
    assert mapping.cycles == cycles


# Output of genz-llm 0.0.16 for one sequence in int8: operations, bytes of memory time, latency in
# ms, at 1.024 of its flops, 25.6e9 / 2^30 of off-chip and 1e12 of on-chip bandwidth;
# docs/outside_checks.md has the commands.
GENZ = {
    ("llama-2-7b", "decode"): (13482590208, 6741331200, 263.3333),
    ("llama-2-7b", "prefill"): (7037303914496, 8121483264, 3436.1836),
    ("llama-2-70b", "decode"): (138768547840, 68797111552, 2687.3872),
    ("llama-2-70b", "prefill"): (71317931950080, 75391827968, 34823.2090),
    ("mixtral-8x7b", "decode"): (25765609472, 12782308864, 499.3089),
    ("mixtral-8x7b", "prefill"): (13326209777664, 48719331328, 6509.0816),
}


@pytest.fixture(scope="module")
def tools(root: Path) -> Any:
    """docs/outside_checks.py."""
    spec = importlib.util.spec_from_file_location("outside_checks", root / "docs/outside_checks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["outside_checks"] = module
    spec.loader.exec_module(module)
    return module


def sums(mapping: Mapping) -> dict[str, int]:
    names = ("weight_bytes", "scale_bytes", "activation_bytes", "output_bytes")
    return {name: sum(getattr(item, name) for item in mapping.operators) for name in names}


def lookups(mapping: Mapping) -> int:
    return sum(item.bytes for item in mapping.operators if item.kind == "lookup")


@pytest.mark.parametrize(("name", "phase"), GENZ)
def test_genz_s_forms_give_its_output(tools: Any, name: str, phase: str) -> None:
    found = tools.genz(load_architecture(name), phase)
    operations, size, milliseconds = GENZ[name, phase]
    assert found.operations == operations
    # Its memory time has the on-chip traffic in it, at next to nothing.
    assert found.bytes == pytest.approx(size, rel=1e-7)
    assert found.seconds * 1e3 == pytest.approx(milliseconds, rel=1e-6)


def square(arch: Architecture, tokens: int) -> int:
    """Operations of pairs of tokens of which one comes after the other, in both products."""
    pairs = tokens * tokens - tokens * (tokens + 1) // 2
    return arch.layers * 2 * 2 * arch.heads * arch.head_dim * pairs


@pytest.mark.parametrize("name", ["llama-2-7b", "llama-2-70b", "mixtral-8x7b"])
def test_differences_to_genz_are_explained(tools: Any, name: str) -> None:
    arch = load_architecture(name)
    mlp, d, v, t = tools.mlp_of(arch), arch.hidden, arch.vocab, tools.TOKENS
    theirs, mapping = tools.genz(arch, "decode"), tools.mapped(arch, "decode")
    parts = sums(mapping)
    router = arch.layers * (d + mlp.experts) if mlp.experts else 0
    assert theirs.operations == 2 * mapping.macs
    # Weights and cache are all that it reads, but for the router and the logits.
    assert parts["weight_bytes"] - lookups(mapping) == theirs.bytes - router - (d + v)
    theirs, mapping = tools.genz(arch, "prefill"), tools.mapped(arch, "prefill")
    table, logits = 2 * t * v * d, 2 * (t - 1) * v * d
    assert theirs.operations - 2 * mapping.macs == table + logits + square(arch, t)
    more = v * d + t * (v + d) - lookups(mapping)  # the table as a product's weights
    more += (t - 1) * (v + d)  # logits of every token
    # Rows that q, k and v share, and gate and up, are read for each here; scales; and the scales
    # of keys and values that are written.
    less = arch.layers * 2 * t * d + sums(mapping)["scale_bytes"]
    less += arch.layers * 2 * t * arch.kv_heads * 2
    if mlp.experts:
        # Rows of an expert's input and output: one expert's there, all assignments here.
        each = t * mlp.active // mlp.experts
        less += arch.layers * (3 * t * mlp.active - 2 * each) * d
    else:
        less += arch.layers * t * d
    assert theirs.bytes - mapping.bytes == more - less


@pytest.mark.parametrize("name", ["llama-2-7b", "llama-2-70b", "mixtral-8x7b"])
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_differences_to_llm_viewer_are_explained(tools: Any, name: str, phase: str) -> None:
    arch = load_architecture(name)
    mlp, d, v, seen = tools.mlp_of(arch), arch.hidden, arch.vocab, tools.TOKENS
    t = 1 if phase == "decode" else seen
    theirs, mapping = tools.llm_viewer(arch, phase), tools.mapped(arch, phase)
    parts = sums(mapping)
    scores = t * seen * arch.heads
    operations = arch.layers * (5 * scores + 18 * t * d) - d * v
    operations += square(arch, t) if phase == "prefill" else 0
    # Scores go out and in, and so they do around the softmax; vectors eleven times.
    size = arch.layers * (4 * scores + 11 * t * d)
    size -= parts["scale_bytes"] + lookups(mapping) + arch.layers * 2 * t * arch.kv_heads * 2
    if phase == "prefill":
        # Of Q·Kᵀ the keys are charged twice, the queries not at all.
        size += arch.layers * t * (arch.kv_heads - arch.heads) * arch.head_dim
    if mlp.experts:
        operations -= arch.layers * 2 * t * d * ((mlp.active - 1) * 3 * mlp.width + mlp.experts)
        touched = min(mlp.experts, t * mlp.active)
        size -= arch.layers * (touched - 1) * 3 * d * mlp.width
        size -= arch.layers * t * (mlp.active - 1) * 3 * (d + mlp.width)
        size -= arch.layers * (d * mlp.experts + t * (d + mlp.experts))
    assert theirs.operations - 2 * mapping.macs == operations
    assert theirs.bytes - mapping.bytes == size


def test_the_table_of_the_page_is_what_is_computed(tools: Any, root: Path) -> None:
    page = (root / "docs/outside_checks.md").read_text(encoding="utf-8")
    for row in tools.table().rows:
        assert " | ".join(row) in page


def test_a_buffer_that_is_small_costs_more_than_any_tool_says(tools: Any) -> None:
    """What neither tool has: operands that are read again."""
    arch = load_architecture("llama-2-7b")
    work = prefill_workload(arch, tools.TOKENS)
    small = map_workload(work, tools.core(), Choices(buffer_bytes=1 << 19))
    assert small.bytes > 1.5 * tools.mapped(arch, "prefill").bytes
