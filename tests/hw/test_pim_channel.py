"""A channel: orders that are refused, the scheduler, and long streams of orders on the RTL."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hw.block import spec_from_dict
from hw.blocks.pim_channel import golden, orders, timing
from hw.blocks.pim_channel.golden import ChannelWork, Composer
from hw.blocks.pim_channel.orders import Decoder, Op, Order, Status
from hw.blocks.pim_channel.spec import PimChannelSpec
from hw.blocks.pim_channel.sweep import SWEEP
from hw.dram import Command
from hw.errors import SpecError
from hw.formats import BF16
from rtl_gen.emit import emit_verilog
from sim import check_verilog
from sim.dram_monitor import Trace, violations
from sim.harness.compile import RUN_SHORT
from sim.harness.model import load
from sim.stalls import Stall, Stalls, light
from sim.stimulus import Scenario, stimulus
from sim.watch import dram_trace, first_difference


def spec_of(**fields: Any) -> PimChannelSpec:
    spec = spec_from_dict({"block": "pim_channel", "name": "dut", **fields})
    assert isinstance(spec, PimChannelSpec)
    return spec


INT8 = {
    "arithmetic": {"block": "mac_core", "activations": {"bits": 8}, "weights": {"bits": 8}},
    "activation": {"segments": 16, "segment_log2": 12},
}


# Orders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        (Order(Op.READ, 15, 16383, 63), Status.DONE),
        (Order(0), Status.OPCODE),
        (Order(14), Status.OPCODE),
        (Order(31), Status.OPCODE),
        (Order(Op.ACTIVATE, function=3), Status.OPCODE),
        (Order(Op.READ, length=0), Status.LENGTH),
        (Order(Op.MAC_ALL, length=129), Status.LENGTH),
        (Order(Op.READ, 16), Status.BANK),
        (Order(Op.WRITE_ALL, 16), Status.DONE),
        (Order(Op.READ, 0, 16384), Status.PLACE),
        (Order(Op.READ, 0, 0, 64), Status.PLACE),
        (Order(Op.READ, 0, 16383, 63, 2), Status.PLACE),
        (Order(Op.ACTIVATE, 0, 16383, 63, function=2), Status.PLACE),
        (Order(Op.ACTIVATE, 0, 16384, 64, function=1), Status.DONE),
        (Order(Op.WRITE_BUFFER, word=64), Status.BUFFER),
        (Order(Op.WRITE_BUFFER, word=60, length=5), Status.BUFFER),
        (Order(Op.WRITE_BUFFER, word=60, length=4), Status.DONE),
        (Order(Op.READ_MAC, accumulator=2), Status.ACCUMULATOR),
        # The first rule is told.
        (Order(Op.MAC, 16, 16384, 64, 0, 64, 2), Status.LENGTH),
        (Order(Op.MAC, 16, 16384, 64, 1, 64, 2), Status.BANK),
        (Order(Op.MAC, 0, 16384, 64, 1, 64, 2), Status.PLACE),
        (Order(Op.MAC, 0, 0, 0, 1, 64, 2), Status.BUFFER),
    ],
)
def test_orders_are_refused_by_the_first_rule_they_break(order: Order, wanted: Status) -> None:
    assert Decoder(spec_of(unit=INT8)).status(order) is wanted


def test_what_a_channel_has_not_is_refused() -> None:
    spec = spec_of(unit={**INT8, "activation": {"segments": 0}}, elementwise={"format": "none"})
    decoder = Decoder(spec)
    for order in (Order(Op.MULTIPLY), Order(Op.ADD), Order(Op.ACTIVATE, function=2)):
        assert decoder.status(order) is Status.OPCODE
    assert decoder.status(Order(Op.ACTIVATE, function=1)) is Status.DONE


def test_activations_of_several_words_are_aligned() -> None:
    spec = spec_of(**SWEEP[3])
    assert spec.bank.operand_words == 4
    decoder = Decoder(spec)
    assert decoder.status(Order(Op.MAC, word=2)) is Status.BUFFER
    assert decoder.status(Order(Op.MAC, word=28)) is Status.DONE
    assert decoder.status(Order(Op.MAC, word=28, length=2)) is Status.BUFFER


# Reference ---------------------------------------------------------------------------------------


def rows_of(values: np.ndarray) -> np.ndarray:
    """INT8 elements as columns of 256 bits."""
    return values.astype("<i1").reshape(-1, 32).view("<u4").astype(np.int64)


def test_a_matrix_in_all_banks_is_multiplied() -> None:
    """y = relu(W x + b) of 16 rows a channel, K over two rows of the DRAM."""
    spec = spec_of(unit=INT8)
    rng = np.random.default_rng(3)
    k = 40 * 32
    w, x = rng.integers(-128, 128, size=(16, k)), rng.integers(-128, 128, size=k)
    bias = rng.integers(-3000, 3000, size=16)
    place = {"row": 7, "column": 50}
    data = [rows_of(x)]
    work = [Order(Op.WRITE_BUFFER, length=40)]
    for bank in range(16):
        work.append(Order(Op.WRITE, bank, length=40, **place))
        data.append(rows_of(w[bank]))
    work.append(Order(Op.WRITE_BIAS))
    data.append((bias & 0xFFFF).astype("<u2").view("<u4").astype(np.int64)[None])
    work += [
        Order(Op.MAC_ALL, length=40, keep=1, **place),
        Order(Op.ACTIVATE, function=orders.RELU),
        Order(Op.READ_MAC),
    ]
    out = golden.expected(spec, ChannelWork(orders=tuple(work), data=np.concatenate(data)))
    found = out["o_data"]["data"].reshape(-1).astype("<u4").view("<i4")
    np.testing.assert_array_equal(found, np.maximum(w @ x + bias, 0))
    assert out["o_status"]["status"].tolist() == [0] * len(work)


def test_elements_are_numpy_s_own() -> None:
    rng = np.random.default_rng(4)
    spec = spec_of(unit=INT8)
    a, b = (BF16.random_codes(rng, 16).astype("<u2") for _ in range(2))
    rows = [x.view("<u4").astype(np.int64) for x in (a, b)]
    for op, function in ((Op.MULTIPLY, np.multiply), (Op.ADD, np.add)):
        with np.errstate(all="ignore"):
            wanted = function(BF16.decode(a), BF16.decode(b))
        found = golden.combine(spec, op, *rows).astype("<u4").view("<u2")
        good = ~np.isnan(wanted)
        np.testing.assert_array_equal(found[good], BF16.encode(wanted[good]))
        assert (found[~good] == 0x7FC0).all()
    spec = spec_of(unit=INT8, elementwise={"format": "int8", "shift": 2})
    a, b = rng.integers(-128, 128, size=(2, 32))
    rows = [rows_of(x)[0] for x in (a, b)]
    for op, exact in ((Op.MULTIPLY, np.floor(a * b / 4)), (Op.ADD, a + b)):
        found = golden.combine(spec, op, *rows).astype("<u4").view("<i1")
        np.testing.assert_array_equal(found, np.clip(exact, -128, 127))


def test_what_is_read_was_written() -> None:
    spec = spec_of(unit=INT8)
    for order, words in (
        (Order(Op.READ, 3, 1, 2), "bank 3, column 66: is read before it is written"),
        (Order(Op.COPY_TO_BANK, word=5), "buffer word 5: is read before it is written"),
        (Order(Op.READ_MAC), "accumulator 0: is read before it is written"),
    ):
        work = ChannelWork(orders=(order,), data=np.zeros((0, 8)))
        with pytest.raises(ValueError, match=words):
            golden.expected(spec, work)


# The scheduler -----------------------------------------------------------------------------------


def random_orders(rng: np.random.Generator, count: int) -> np.ndarray:
    """Orders of anything, near one another."""
    most = (16, 18, 4, 66, 80, 40, 3, 2, 4)
    return np.stack([rng.integers(0, high, size=count) for high in most], axis=1)


@pytest.mark.parametrize("postpone", [0, 1, 8])
def test_schedules_of_aim_keep_the_table(postpone: int) -> None:
    spec = spec_of(unit=INT8, refresh_postpone=postpone)
    found = timing.schedule(spec, random_orders(np.random.default_rng(postpone), 3000))
    assert found.refreshes > 30
    assert set(found.status) == {int(status) for status in Status}
    trace = Trace(**found.trace())
    assert len(trace) > 10_000
    broken = violations(trace, spec.timing, spec.geometry, postpone=postpone)
    assert not broken, broken[0].text


def test_columns_of_a_row_are_nccd_apart_and_hit() -> None:
    spec = spec_of(unit=INT8)
    found = timing.schedule(spec, [Order(Op.MAC_ALL, length=64)] * 4)
    assert (found.activates, found.precharges, found.columns) == (1, 0, 256)
    trace = found.trace()
    columns = trace["cycle"][trace["command"] == Command.MACA]
    assert columns[0] == 4 + spec.timing.nRCDRDMAC
    assert set(np.diff(columns)) == {spec.timing.nCCDL}
    assert found.hit_rate == 1 - 1 / 256


def test_a_run_that_meets_a_refresh_is_cut_where_it_is_forced() -> None:
    spec = spec_of(unit=INT8, refresh_postpone=2)
    order = Order(Op.MAC_ALL, length=64)
    found = timing.schedule(spec, [order] * 400)
    trace = found.trace()
    refreshes = trace["cycle"][trace["command"] == Command.REF]
    assert found.refreshes == len(refreshes) > 5
    # Orders are short, so that each refresh finds the border of two; the first at its time.
    assert (refreshes - (np.arange(len(refreshes)) + 1) * spec.timing.nREFI < 700).all()
    # One order longer than nREFI is interrupted only when it has put off as many as it may.
    long = timing.schedule(
        spec_of(unit=INT8, refresh_postpone=2, geometry={"rows": 1024}),
        [Order(Op.WRITE_ALL, length=20000)],
    )
    trace = long.trace()
    first = int(trace["cycle"][trace["command"] == Command.REF][0])
    assert 3 * spec.timing.nREFI <= first < 3 * spec.timing.nREFI + 120


def test_a_decode_step_of_many_columns_is_stepped_over_by_runs() -> None:
    spec = spec_of(unit=INT8)
    one = [Order(Op.MAC_ALL, row=r, length=64, keep=int(r % 2)) for r in range(2000)]
    found = timing.schedule(spec, one)
    assert found.columns == 2000 * 64
    # Runs, not columns, make the cost: an activation, a precharge and a run or two a row.
    assert len(found.runs) < 5 * 2000


def test_stalls_of_orders_are_part_of_a_schedule() -> None:
    spec = spec_of(unit=INT8)
    work = [Order(Op.MAC_ALL, row=r, length=8) for r in range(5)]
    freely = timing.schedule(spec, work)
    late = timing.schedule(spec, work, accepted=[0, 1, 2, 9000, 9001])
    assert late.end[:3] == freely.end[:3]
    assert late.begin[3] >= 9002
    # In the meantime refreshes come when they are due.
    assert late.refreshes >= 2
    broken = violations(Trace(**late.trace()), spec.timing, spec.geometry, postpone=0)
    assert not broken


# Specifications ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"clock_mhz": 1000.0}, "clock_mhz: must be 2000, the DRAM's command clock of timing"),
        ({"timing": {"nRP": 40}}, r"timing.nRC: must be at least nRAS \+ nRP = 54 \+ 40 = 94"),
        ({"geometry": {"columns": 48}}, "geometry.columns: must be a power of two, got 48"),
        (
            {"geometry": {"groups": 8}},
            "geometry.banks: must be at most 16 with groups = 8: a bias of 16 bits for each",
        ),
        (
            {"buffer_words": 7, "unit": {**INT8, "arithmetic": {
                **INT8["arithmetic"], "weights": {"bits": 4}}}},
            "buffer_words: must be a multiple of the 2 words of a step's activations",
        ),
        ({"unit": {**INT8, "accumulators": 5}}, "unit.accumulators: must be a power of two"),
        ({"geometry": {"rows": 1 << 20}}, "geometry.rows: "),
    ],
)  # fmt: skip
def test_channels_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        spec_of(**{"unit": INT8, **fields})


# On the RTL --------------------------------------------------------------------------------------


def composed(spec: PimChannelSpec, seed: int, count: int, each: int) -> tuple[ChannelWork, ...]:
    rng = np.random.default_rng([seed, 0xD3A])
    works = []
    for _ in range(-(-count // each)):
        composer = Composer(spec, rng, illegal=0.3)
        while len(composer.orders) < each:
            composer.add()
        works.append(composer.work())
    return tuple(works)


def streams_of_orders(spec: PimChannelSpec, count: int, each: int) -> None:
    """Orders back to back, half of them under stalls: values, table, schedule, no hang."""
    half = count // 2
    scenarios = [
        Scenario(name="orders", works=composed(spec, 0, half, each)),
        Scenario(name="stalled", works=composed(spec, 1, half, each), stalls=light(), seed=1),
    ]
    total = sum(len(work.orders) for item in scenarios for work in item.works)
    assert total >= count
    statuses = {
        Decoder(spec).status(order)
        for item in scenarios
        for work in item.works
        for order in work.orders
    }
    assert statuses == set(Status)
    verdict = check_verilog(spec, emit_verilog(spec), scenarios=scenarios)
    assert verdict.passed, verdict.failure
    assert verdict.cycles > 4 * spec.timing.nREFI


def test_a_schedule_of_orders_that_come_late_is_the_rtl_s() -> None:
    """Stalls of i_cmd alone: with the cycles of its transfers every command is known."""
    spec = spec_of(**SWEEP[1])
    works = composed(spec, 7, 300, 100)
    stim = stimulus(spec, Scenario(name="late", works=works))
    held = Stalls(streams={"i_cmd": Stall(bits=(0, 0, 1, 1, 1, 0) + (1,) * 97)})
    with load(spec, emit_verilog(spec), effort=RUN_SHORT) as model:
        run = model.run(stim.inputs, stim.expect, stalls=held)
    given = [order for work in works for order in work.orders]
    accepted = run.input_cycles["i_cmd"].astype(int).tolist()
    assert len(accepted) == len(given)
    found = timing.schedule(spec, given, accepted=accepted, until=run.total_cycles - 1)
    assert found.cycles - 1 == run.last_output
    (item,) = golden.observed(spec)
    trace = dram_trace(item.unpack(run.packed["o_trace"]), run.output_cycles["o_trace"])
    assert found.refreshes > 50
    assert first_difference(trace, found.trace(), run.total_cycles) is None


@pytest.mark.slow
def test_random_orders_are_done_or_refused() -> None:
    streams_of_orders(spec_of(**SWEEP[1]), 2_000, 100)


@pytest.mark.nightly
@pytest.mark.parametrize("index", range(len(SWEEP)))
def test_a_hundred_thousand_random_orders_are_done_or_refused(index: int) -> None:
    streams_of_orders(spec_of(**SWEEP[index]), 100_000, 200)
