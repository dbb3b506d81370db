"""The PIM mapping: right numbers on reference channels, its cycles on the RTL, and its size."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hw.blocks.pim_bank import golden as bank
from hw.blocks.pim_channel import golden, timing
from hw.dram import Command
from hw.formats import BF16
from rtl_gen.emit import emit_verilog
from rtl_gen.errors import InputError
from rtl_gen.specfile import load_as
from sim.dram_monitor import Trace, violations
from sim.harness.compile import RUN_SHORT
from sim.harness.model import load
from sim.stalls import Stall, Stalls
from sim.stimulus import Scenario, stimulus
from sim.watch import dram_trace, first_difference
from sw_driver.architecture import Architecture, load_architecture, parse_architecture
from sw_driver.commands.pim import pim
from sw_driver.pim.placement import Keys, Matrix, Values, place
from sw_driver.pim.report import tokens_of
from sw_driver.pim.run import EPSILON, PimRun, Record, Weights, random_weights
from sw_driver.pim.step import DecodeModel, best_splits, traffic
from sw_driver.pim.system import SYSTEMS, PimSystem, load_system

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


UNIT = {
    "arithmetic": {
        "block": "fp_core",
        "activations": {"format": "bf16"},
        "weights": {"format": "bf16"},
        "pipeline": {"heap": 1},
        "max_k": 64,
    },
    "activation": {"segments": 0},
}
SHAPE = {"groups": 2, "banks": 2, "rows": 64, "columns": 8, "column_bits": 64}

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, int], int]] = {
    # System, model, splits, tokens. Three rows of values, of which the buffer takes two at a time.
    "plain": ({}, {"n_layer": 1}, {}, 18),
    "K over channels": ({}, {}, {"qkv": 2, "o": 2, "up": 2, "down": 2, "lm_head": 2}, 9),
    # Groups of values in several batches, whose rows are opened again, the last not full.
    "one accumulator": (
        {"channel": {"unit": {**UNIT, "accumulators": 1}}},
        {"n_layer": 1, "n_positions": 36},
        {"down": 2},
        10,
    ),
    # A head of two and a half groups, which is no whole number of steps either.
    "odd heads": (
        {},
        {"n_embd": 20, "n_head": 2, "n_inner": 33, "vocab_size": 30, "n_layer": 1},
        {"up": 2},
        9,
    ),
    "three channels": (
        {"channels": 3, "channel": {"refresh_postpone": 0, "geometry": {**SHAPE, "banks": 1}}},
        {"n_layer": 1},
        {"o": 3},
        9,
    ),
    "untied": ({}, {"tie_word_embeddings": False, "n_layer": 1}, {}, 3),
}


def quick_dot(spec: Any, operand: np.ndarray, column: np.ndarray) -> int:
    """A dot product in float64, in place of the reference's: where only places matter."""
    x, w = (BF16.decode(item.astype("<u4").view("<u2")).reshape(-1) for item in (operand, column))
    return int(np.float32(x @ w).view(np.uint32))


@cache
def quick_run(variant: str) -> tuple[PimRun, list[np.ndarray], list[int]]:
    """A run whose numbers are not those of the units to the bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank, "dot", quick_dot)
        return run_of(variant)


def run_of(variant: str, tokens: int | None = None) -> tuple[PimRun, list[np.ndarray], list[int]]:
    """A run, the logits of every token, and the tokens."""
    fields, model, splits, usual = VARIANTS[variant]
    tokens = tokens or usual
    placed = place(small_model(**model), small_system(**fields), splits=splits)
    run = PimRun(placed, random_weights(placed, 3))
    ids = [(11 * index + 5) % placed.architecture.vocab for index in range(tokens)]
    return run, [run.step(count + 1, ids[count])[0] for count in range(tokens)], ids


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_the_model(variant: str) -> None:
    """Every matrix, key and value lies where the orders look for it, whatever the mapping."""
    run, logits, ids = quick_run(variant)
    for count, found in enumerate(logits, 1):
        wanted = decoder(run.placement.architecture, run.weights, ids[:count])
        assert np.corrcoef(found, wanted)[0, 1] > 0.999
        assert np.abs(found - wanted).max() < 0.06 * np.abs(wanted).max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_command_is_the_scheduler_s(variant: str) -> None:
    run, _, _ = quick_run(variant)
    spec = run.system.dram
    for channel, record in enumerate(run.records):
        plain = timing.schedule(spec, record.orders, accepted=record.offered)
        found = run.model.runs(channel)
        np.testing.assert_array_equal(_trace(found), _trace(np.array(plain.runs)))
        assert run.model.lines[channel].last == plain.cycles - 1
        trace = Trace(**dataclasses.replace(plain, runs=plain.runs).trace())
        assert not violations(trace, spec.timing, spec.geometry, postpone=spec.refresh_postpone)
        assert plain.refreshes > 10


def _trace(runs: np.ndarray) -> np.ndarray:
    """Commands with cycle, bank, row of activations, and column; runs may be cut anywhere."""
    index = np.repeat(np.arange(len(runs)), runs[:, 5])
    within = np.arange(len(index)) - np.repeat(np.cumsum(runs[:, 5]) - runs[:, 5], runs[:, 5])
    rows = np.where(np.isin(runs[index, 1], (Command.ACT, Command.ACTA)), runs[index, 3], 0)
    cycle, column = runs[index, 0] + within * runs[index, 6], runs[index, 4] + within
    return np.stack([cycle, runs[index, 1], runs[index, 2], rows, column], axis=1)


def on_rtl(run: PimRun) -> None:
    """Every channel's orders on the RTL: the data, and every command in its cycle."""
    spec = run.system.dram
    given = []
    with load(spec, emit_verilog(spec), effort=RUN_SHORT) as model:
        for record in run.records:
            work = record.work(spec.geometry.column_bits // 32)
            stim = stimulus(spec, Scenario(name="steps", works=(work,)))
            found = model.run(stim.inputs, stim.expect, stalls=offering(run, record))
            early = found.input_cycles["i_cmd"].astype(int) < np.array(record.offered)
            assert not early.any()
            wanted = golden.expected(spec, work)
            for item in golden.streams(spec):
                if item.direction == "out":
                    out = item.unpack(found.packed[item.name])
                    for name, values in wanted[item.name].items():
                        np.testing.assert_array_equal(out[name], values)
            (port,) = golden.observed(spec)
            cycles = found.output_cycles["o_trace"]
            trace = dram_trace(port.unpack(found.packed["o_trace"]), cycles)
            until = found.total_cycles - 1
            plain = timing.schedule(spec, record.orders, accepted=record.offered, until=until)
            assert first_difference(trace, plain.trace(), found.total_cycles) is None
            assert found.last_output == plain.cycles - 1
            given.append(found.output_cycles["o_data"].astype(int))
    nothing_comes_before_its_cause(run, given)


def nothing_comes_before_its_cause(run: PimRun, given: list[np.ndarray]) -> None:
    """Operators are offered when the RTL's last results, the link and the vector units allow.

    Args:
        given: by channel the cycle of every beat of o_data.
    """
    system, arch = run.system, run.placement.architecture
    regions = {**run.placement.layer, **run.placement.shared}
    link, ffn = system.link_cycles, arch.layer_groups[0].mlp.width
    last: dict[tuple[int, str, int | None], int] = {}
    begins: dict[tuple[int, str, int | None], int] = {}
    for record, cycles in zip(run.records, given, strict=True):
        beat = 0
        for step, offer in record.offers:
            beat += offer.phase.words_out
            key = (step, offer.name, offer.layer)
            if offer.phase.words_out:
                last[key] = max(last.get(key, 0), int(cycles[beat - 1]))
            # A channel waits for its own columns, where it has read some.
            if offer.name == "values read":
                read = int(cycles[beat - 1]) if offer.phase.words_out else 0
            elif offer.name == "values written":
                assert offer.offered >= read + 1 + 2 * link
            begins[key] = offer.offered

    def took(*jobs: tuple[Any, int, int]) -> int:
        return sum(system.commands(system.vector_cycles(*job)) for job in jobs)

    def sums(name: str) -> int:
        region = regions[name]
        assert isinstance(region, Matrix)
        return took(("reduce", region.partials, region.n)) if region.partials > 1 else 0

    residual = took(("add", 1, arch.hidden))
    norm = took(("layer_norm", 1, arch.hidden))
    activation = took(("gelu_tanh", 1, ffn))
    for step in range(1, run.tokens + 1):
        for layer in range(arch.layers):
            softmax = took(("softmax", arch.heads, step))
            for cause, effect, between in (
                ("qkv", "scores", sums("qkv")),
                ("scores", "attend", softmax),
                ("attend", "o", 0),
                ("o", "up", sums("o") + residual + norm),
                ("up", "down", sums("up") + activation),
            ):
                wanted = last[step, cause, layer] + 1 + 2 * link + between
                assert begins[step, effect, layer] == wanted, (step, layer, effect)
            # Parameters may come later than the sum.
            after = ("qkv", layer + 1) if layer + 1 < arch.layers else ("lm_head", None)
            assert begins[step, *after] >= last[step, "down", layer] + 1 + 2 * link + (
                sums("down") + residual + norm
            )


@pytest.mark.slow
def test_decode_steps_run_on_the_rtl() -> None:
    run, _, _ = run_of("plain", 9)
    on_rtl(run)


@pytest.mark.nightly
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "plain"])
def test_decode_steps_of_other_mappings_run_on_the_rtl(variant: str) -> None:
    run, _, _ = run_of(variant, 20)
    on_rtl(run)


@pytest.mark.nightly
def test_decode_steps_run_on_a_whole_channel_s_rtl() -> None:
    """AiM's table, 16 banks, columns of 256 bits; two layers of 64."""
    geometry = {"groups": 4, "banks": 4, "rows": 64, "columns": 16, "column_bits": 256}
    system = small_system(
        {"timing": {}, "geometry": geometry, "buffer_words": 16, "read_depth": 32},
        clock_mhz=500.0,
        vector_unit={"functions": FUNCTIONS, "lanes": 8, "max_length": 128},
        link_cycles=16,
    )
    arch = small_model(n_embd=64, n_layer=2, n_head=4, n_positions=48, n_inner=128, vocab_size=100)
    placed = place(arch, system, splits=best_splits(arch, system))
    run = PimRun(placed, random_weights(placed, 1))
    for count in range(1, 6):
        run.step(count, 17 * count % arch.vocab)
    assert min(line.refreshes for line in run.model.lines) > 5
    on_rtl(run)


# Where things lie --------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_keys_and_values_have_cells_of_their_own(variant: str) -> None:
    fields, model, _, _ = VARIANTS[variant]
    placed = place(small_model(**model), small_system(**fields))
    arch = placed.architecture
    for region in (placed.layer["keys"], placed.layer["values"]):
        assert isinstance(region, Keys | Values)
        cells = {
            region.locate(token, head, d)
            for token in range(placed.context)
            for head in range(arch.heads)
            for d in range(arch.head_dim)
        }
        assert len(cells) == placed.context * arch.heads * arch.head_dim
        assert max(cell.row for cell in cells) < region.rows
        assert max(cell.column for cell in cells) < placed.system.dram.geometry.columns
        assert max(cell.lane for cell in cells) < placed.system.step


def test_a_token_s_keys_lie_in_one_row_and_an_output_s_values_too() -> None:
    """GPT-2 medium: 16 heads of 64 fill a row of 2 KB; a channel's heads share rows of values."""
    placed = place(load_architecture("gpt2-medium"), load_system("pim_gpt"))
    keys, values = placed.layer["keys"], placed.layer["values"]
    assert isinstance(keys, Keys)
    assert isinstance(values, Values)
    cells = {keys.locate(300, head, d)[:3] for head in range(16) for d in range(64)}
    assert len(cells) == 1
    assert keys.rows == 1024 // 128
    # Two heads a channel, four groups each: eight columns of 16 tokens in a row.
    (batch,) = values.batches(3)
    assert (batch.groups, batch.heads, batch.blocks) == (range(24, 32), range(6, 8), 8)
    assert {values.locate(token, 6, 17)[:3] for token in range(128)} == {(3, 1, 0)}
    assert values.locate(128, 6, 17).row == 1


def test_every_row_of_every_bank_has_one_owner() -> None:
    placed = place(load_architecture("gpt2"), load_system("pim_gpt"))
    blocks = list(placed.blocks())
    assert len(blocks) == (12 * 7 + 3) * 8 * 16
    taken = np.zeros((8, 16, placed.rows), dtype=int)
    for block in blocks:
        rows = slice(block.first_row, block.first_row + block.rows)
        taken[block.channel, block.bank, rows] += 1
    assert (taken == 1).all()
    (line,) = (b for b in blocks if (b.region, b.layer, b.channel, b.bank) == ("qkv", 2, 7, 15))
    # 144 groups over 8 channels: outputs 126·16 + 15 and on.
    assert line.contents == "outputs 2031 to 2303 by 16, K 0 to 767"


def test_regions_that_meet_are_found() -> None:
    placed = place(small_model(), small_system())
    starts = {**placed.starts, "values": placed.starts["values"] - 1}
    with pytest.raises(ValueError, match="values begins in row"):
        dataclasses.replace(placed, starts=starts).check()


def test_a_model_larger_than_the_memory_is_refused_with_the_numbers() -> None:
    system = small_system({"geometry": {**SHAPE, "rows": 40}})
    with pytest.raises(InputError) as caught:
        place(small_model(), system)
    text = str(caught.value)
    assert "small: must fit into small: needs 64 rows of every bank" in text
    assert "has 40 rows, 0.000 GB" in text
    assert "with 24 tokens of context" in text


@pytest.mark.parametrize(
    ("model", "fields", "words"),
    [
        ("llama-2-7b", {}, "gated layers and experts need products of vectors"),
        ("bert-base-uncased", {}, "must be a decoder with a head"),
        ("deepseek-v2-lite", {}, "not latents that stand for them"),
        ("opt-125m", {}, "activation relu: the vector unit has it not"),
        ("phi-2", {}, "a layer must have two norms"),
        ("gpt2", {}, "vector_unit.max_length: must be at least 1024"),
    ],
)
def test_models_that_these_units_cannot_do_are_refused(
    model: str, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        place(load_architecture(model), small_system(**fields))


def test_a_head_must_fit_into_the_buffer() -> None:
    with pytest.raises(InputError, match="must hold a head of 8 elements, holds 4"):
        place(small_model(), small_system({"buffer_words": 1}))


# Whole models ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_rows_are_hit(name: str) -> None:
    arch, system = load_architecture(name), load_system("pim_gpt")
    model = DecodeModel(place(arch, system, splits=best_splits(arch, system)))
    for tokens in (1, 521, 1024):
        step = model.step(tokens)
        assert step.hit_rate > 0.98
        assert step.bank_hit_rate > 0.98
        # Everything that is not hidden follows on what was before it.
        assert sum(step.spent().values()) == step.cycles
        # Refreshes: one each nREFI of each channel, but for what a step's borders cut.
        share = step.refreshes * system.dram.timing.nREFI / system.channels
        assert share == pytest.approx(step.cycles, rel=0.02)


def test_columns_are_those_of_the_weights() -> None:
    """Of what a step does to banks, all but a percent is there to multiply each weight once."""
    arch, system = load_architecture("gpt2-medium"), load_system("pim_gpt")
    placed = place(arch, system)
    step = DecodeModel(placed).step(1)
    matrices = [item for item in placed.layer.values() if isinstance(item, Matrix)]
    weights = 24 * sum(item.n * item.k for item in matrices) + 50257 * 1024
    least = weights / system.step
    assert least <= step.bank_columns <= 1.01 * least


def test_bytes_are_those_of_the_parameters() -> None:
    arch, system = load_architecture("gpt2"), load_system("pim_gpt")
    placed = place(arch, system)
    model = DecodeModel(placed)
    found = traffic(placed, model.step(100))
    # Every parameter but the positions that are not asked for, and the row of the embedding.
    assert found.weights == 2 * (arch.parameters - 1024 * 768) + 2 * 2 * 768
    assert found.cache == 100 * 12 * 2 * 768 * 2
    assert found.ratio == (found.weights + found.cache) / found.ports
    # One more token: a key in one channel, and 16 columns a group of values in and out.
    assert found.ports < found.weights / 80


def test_a_wider_link_and_slower_units_cost_time() -> None:
    arch = small_model()

    def cycles(**fields: Any) -> int:
        return DecodeModel(place(arch, small_system(**fields))).step(9).cycles

    plain = cycles()
    # There and back for six operators of both layers and the head, back for the embedding.
    trips = 200 * (2 * (2 * 6 + 1) + 1)
    assert 0.95 * trips < cycles(link_cycles=203) - plain < 1.2 * trips
    assert cycles(clock_mhz=500.0) > plain
    assert cycles(vector_units=1) > plain
    quick = {**QUICK, "nRFC": 40}
    assert cycles(channel={"timing": quick}) > plain


def test_splits_are_the_quickest() -> None:
    arch, system = load_architecture("gpt2"), load_system("pim_gpt")
    best = best_splits(arch, system)
    assert best == {"qkv": 1, "o": 1, "up": 1, "down": 2, "lm_head": 1}

    def cycles(splits: dict[str, int]) -> int:
        return DecodeModel(place(arch, system, splits=splits)).step(1).cycles

    least = cycles(best)
    for name, split in (("qkv", 2), ("up", 8), ("down", 1), ("down", 4), ("lm_head", 2)):
        assert least < cycles({**best, name: split}), name


def test_tokens_out_of_range_are_refused() -> None:
    model = DecodeModel(place(small_model(), small_system(), context=10))
    for tokens, token, words in (
        (0, 0, r"tokens: must lie in \[1, 10\], got 0"),
        (11, 0, r"tokens: must lie in \[1, 10\], got 11"),
        (5, 37, r"token: must lie in \[0, 36\], got 37"),
    ):
        with pytest.raises(InputError, match=words):
            model.step(tokens, token=token)
    with pytest.raises(InputError, match=r"context: must lie in \[1, 24\], got 25"):
        place(small_model(), small_system(), context=25)
    assert list(tokens_of("3:9:3")) == [3, 6, 9]
    for text in ("0", "3:2", "1:", "1:4:0", "x", ""):
        with pytest.raises(InputError, match="tokens: must be"):
            tokens_of(text)


# Systems -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("channels: 8", "channels: 0", ":5:11: channels: must be greater than or equal to 1"),
        ("channels: 8", "chanels: 8", ":5:1: chanels: unknown field (did you mean channels?)"),
        ("tck_ns: 0.5", "tck_ns: x", ":8:20: channel.timing.tck_ns: must be a "),
        ("tck_ns: 0.5", "nRP: 80", ":8:11: channel.timing.nRC: must be at least nRAS + nRP = 54 +"),
        (
            "buffer_words: 64",
            "bufer_words: 64",
            ":22:16: channel.bufer_words: must be a field of pim_channel (did you mean buffer_wo",
        ),
        (
            "buffer_words: 64",
            "clock_mhz: 64",
            "channel.clock_mhz: follows from channel.timing.tck_ns",
        ),
        ("lanes: 64", "lanes: 63", "vector_unit.lanes: must be a power of two, got 63"),
        ("lanes: 64", "name: v", "vector_unit.name: is the system's own, got 'v'"),
        ("[softmax, ", "[", "vector_unit.functions: must have softmax for a decode step"),
        ("block: pim_system", "block: lut_core", ":2:8: block: must be 'pim_system'"),
    ],
)
def test_systems_are_refused_at_the_line(tmp_path: Path, old: str, new: str, wanted: str) -> None:
    text = (SYSTEMS / "pim_gpt.yaml").read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "s.yaml"
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_as(PimSystem, file)
    assert wanted in str(caught.value)


def test_units_of_several_passes_are_refused() -> None:
    unit = {
        "arithmetic": {
            "block": "bitserial_core",
            "activations": {"encoding": "twos_complement", "max_bits": 3},
            "weights": {"encoding": "bipolar", "max_bits": 2},
            "max_k": 256,
        },
        "activation": {"segments": 0},
    }
    with pytest.raises(ValueError, match="must take a K step in one pass"):
        small_system({"unit": unit})


def test_fewer_bits_take_less_time_and_room() -> None:
    """The bank's arithmetic is any core that fits: INT8 in place of BF16 halves the columns."""
    unit = {
        "arithmetic": {"block": "mac_core", "activations": {"bits": 8}, "weights": {"bits": 8}},
        "activation": {"segments": 0},
        "accumulators": 16,
    }
    arch, wide = load_architecture("gpt2"), load_system("pim_gpt")
    given = {**wide.channel, "unit": unit}
    narrow = PimSystem(**{**wide.model_dump(), "channel": given})
    assert (narrow.step, narrow.weight_bits) == (32, 8)
    rows = [place(arch, system).layer_rows for system in (wide, narrow)]
    assert rows[1] < 0.6 * rows[0]
    cycles = [DecodeModel(place(arch, system)).step(8).cycles for system in (wide, narrow)]
    assert cycles[1] < 0.7 * cycles[0]
    weights = random_weights(place(small_model(), small_system()), 0)
    placed = place(arch, narrow)
    with pytest.raises(InputError, match="must be bf16 or fp16 throughout"):
        PimRun(placed, weights)


def test_shipped_system_is_found_by_name_alone(tmp_path: Path) -> None:
    assert load_system("pim_gpt").digest == load_system(SYSTEMS / "pim_gpt.yaml").digest
    with pytest.raises(InputError, match="must be a YAML file or a shipped name, got 'pim_gtp'"):
        load_system("pim_gtp")
    with pytest.raises(InputError, match="cannot be read"):
        load_system(tmp_path / "none.yaml")


# The command -------------------------------------------------------------------------------------


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    places, commands = tmp_path / "places.csv", tmp_path / "commands.csv"
    arguments = ["gpt2", "--tokens", "1:3"]
    files = ["--placement", str(places), "--commands", str(commands)]
    result = CliRunner().invoke(pim, [*arguments, *files, "--picture", str(tmp_path / "p.svg")])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "gpt2 on pim_gpt"
    assert "1,142 of 16,384 rows of every bank with 1,024 tokens of context" in result.output
    assert "process factor 1" in result.output
    assert (tmp_path / "p.svg").read_text(encoding="utf-8").startswith("<?xml")
    with places.open(newline="", encoding="utf-8") as file:
        assert sum(1 for _ in csv.DictReader(file)) == (12 * 7 + 3) * 128
    data = json.loads(CliRunner().invoke(pim, [*arguments, "--json"]).output)
    last = data["steps"][-1]
    assert [step["tokens"] for step in data["steps"]] == [1, 2, 3]
    assert data["seconds"] == pytest.approx(sum(step["seconds"] for step in data["steps"]))
    assert sum(item["seconds"] for item in data["operators"]) == pytest.approx(data["seconds"])
    found: dict[str, int] = {}
    with commands.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            assert 0 <= int(row["cycle"]) <= last["command_clocks"] + 1000
            found[row["command"]] = found.get(row["command"], 0) + int(row["count"])
    assert found["ACT"] + found["ACTA"] == last["activates"]
    assert found["PRE"] + found["PREA"] == last["precharges"]
    assert found["REF"] == last["refreshes"]
    columns = ("RD", "WR", "MACA")
    assert sum(found[name] for name in columns) == last["column_commands"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["gpt2", "--tokens", "0:4"], "tokens: must be FIRST:LAST:STEP with 1 <= FIRST"),
        (["gpt2", "--tokens", "9", "--context", "8"], "must be at most the context of 8"),
        (["gpt2", "--tokens", "1", "--system", "none.yaml"], "none.yaml: cannot be read"),
        (["gpt9", "--tokens", "1"], "model: must be a config.json or a shipped name"),
        (["llama-2-7b", "--tokens", "1"], "positions must be learned vectors"),
        (["gpt2", "--tokens", "1", "--picture", "x.txt"], "x.txt: must end in"),
    ],
)
def test_the_command_refuses(arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(pim, arguments)
    assert result.exit_code == 2
    assert text in result.output


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    arguments = ["gpt2", "--tokens", "1", "--placement", str(tmp_path / "file/x.csv")]
    result = CliRunner().invoke(pim, arguments)
    assert result.exit_code == 2
    assert "x.csv: cannot be written" in result.output
