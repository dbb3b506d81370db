"""Accumulators of floating cores against their reference, after every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring

from hw.block import Design
from hw.blocks.mac_core.spec import MacCoreSpec
from hw.formats.sums import Accumulator, Sums, Terms
from hw.lib.float_accumulator import Term, accumulate
from hw.lib.gemm_shell import component_streams, field_slice
from hw.lib.heap import LIBRARY
from hw.streams import Stream, StreamField
from rtl_gen.emit import design_verilog
from sim.harness.compile import RUN_SHORT, build
from sim.harness.model import Model


def _sums(kind: str, size: int, bias: int, codes: int = 512, steps: int = 16, **more: Any) -> Sums:
    special = {key: more.pop(key) for key in ("nan", "inf") if key in more}
    return Sums(
        accumulator=Accumulator(kind=kind, **more),
        terms=Terms(
            low=-(1 << (size - 1)),
            high=(1 << (size - 1)) - 1,
            codes=codes,
            bias=bias,
            steps=steps,
            **special,
        ),
    )


CASES = {
    "fp32": _sums("fp32", 21, -266, nan=True, inf=True),
    "fp32_narrow": _sums("fp32", 5, -254, codes=509, nan=True),
    "fp32_wide": _sums("fp32", 44, -272, nan=True),
    "fp32_small": _sums("fp32", 13, -18, codes=40),
    "fp32_one_digit": _sums("fp32", 9, -3, codes=4),
    "fp32_subnormal": _sums("fp32", 9, -190, codes=64),
    "fp32_other_place": _sums("fp32", 24, -259, codes=400, inf=True, nan=True),
    "fp32_third_place": _sums("fp32", 30, -261, codes=500),
    "running": _sums("running", 21, -266, nan=True),
    "running_few_codes": _sums("running", 12, -20, codes=30, guard=4, inf=True, nan=True),
    "running_one_code": _sums("running", 12, -20, codes=1, guard=0),
    "running_cut": _sums("running", 40, -272, guard=-17),
    "running_fp32": _sums("running", 21, -266, result="fp32", nan=True, inf=True),
    "running_fp32_low": _sums("running", 15, -240, codes=200, result="fp32", guard=5),
    "fixed": _sums("fixed", 21, -266, low=-40, bits=96, nan=True, inf=True),
    "fixed_whole": _sums("fixed", 16, -24, codes=50, low=-24, bits=96),
    "fixed_above": _sums("fixed", 16, -24, codes=50, low=-60, bits=128, nan=True),
}


class _Steps(wiring.Component):
    """Every step's sum, a step a cycle."""

    def __init__(self, sums: Sums, i: Stream, o: Stream):
        self.sums, self.stream_i, self.stream_o = sums, i, o
        super().__init__(component_streams((i, o)))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fields = {
            item.name: field_slice(self.stream_i, self.i.payload, item.name)
            for item in self.stream_i.fields
        }
        valid: Value = self.i.valid
        enable = valid

        def behind(value: Value, when: Value) -> Value:
            register = Signal(len(value))
            with m.If(when):
                m.d.sync += register.eq(value)
            return register

        def later(value: Value) -> Value:
            register = Signal()
            m.d.sync += register.eq(value)
            return register

        hold = fields["hold"]
        for _ in range(self.sums.ahead):
            hold, enable = behind(hold, enable), later(enable)
        done = later(enable)
        flags = {key: fields[key] for key in ("nan", "pinf", "ninf") if key in fields}
        made = accumulate(
            m,
            "dut",
            self.sums,
            Term(value=fields["value"], code=fields["code"], **flags),
            enable=enable,
            hold=hold,
            ahead=lambda value: behind(value, valid),
            tail=done,
        )
        for _ in range(self.sums.tail):
            done = later(done)
        m.d.comb += [
            self.i.ready.eq(1),
            self.o.valid.eq(done),
            self.o.payload.eq(Cat(*(made[item.name] for item in self.stream_o.fields))),
        ]
        return m


def _run(sums: Sums, steps: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    terms = sums.terms
    fields = [
        StreamField(name="value", width=terms.bits, signed=True),
        StreamField(name="code", width=terms.code_bits),
        StreamField(name="hold", width=1),
    ]
    fields += [StreamField(name="nan", width=1)] if terms.nan else []
    fields += [StreamField(name=key, width=1) for key in ("pinf", "ninf")] if terms.inf else []
    i = Stream(name="i", direction="in", fields=tuple(fields))
    o = Stream(name="o", direction="out", fields=sums.results(1, 1))
    verilog = design_verilog(Design(top=_Steps(sums, i, o), library=LIBRARY), "dut")
    library = build(verilog, "dut", (i, o), effort=RUN_SHORT)
    values = {item.name: steps[item.name] for item in fields}
    with Model(MacCoreSpec(name="dut"), library, (i, o)) as model:
        return model.run({"i": values}, {"o": len(steps["hold"])}).outputs["o"]


def _random(sums: Sums, rng: np.random.Generator, jobs: int) -> dict[str, np.ndarray]:
    """Steps of jobs, back to back: extremes, exponents near one another, sums that cancel."""
    terms = sums.terms
    values, codes, holds = [], [], []
    for _ in range(jobs):
        count = int(rng.integers(1, min(terms.steps, 9) + 1))
        base = int(rng.integers(terms.codes))
        spread = int(rng.choice([1, 4, 30, 80, terms.codes]))
        some = rng.integers(base - spread, base + spread + 1, size=count)
        if rng.random() < 0.3:
            some += np.arange(count) * int(rng.choice([-9, -24, 8, 23]))
        some = np.clip(some, 0, terms.codes - 1)
        kind = rng.integers(5)
        width = rng.integers(0, terms.bits, size=count)
        drawn = [int(rng.integers(0, 1 << 62)) % (1 << int(w)) for w in width]
        sign = rng.choice([-1, 1], size=count)
        row = [int(s) * d for s, d in zip(sign, drawn, strict=True)]
        if kind == 0:
            row = [int(rng.choice([terms.low, terms.high, 0, 1, -1])) for _ in row]
        if kind == 1:
            row = [
                -row[at - 1] + int(rng.integers(-1, 2)) if at % 2 else x for at, x in enumerate(row)
            ]
            some = np.repeat(some, 2)[:count]
        if kind == 2:
            row = [1 << int(w) if rng.random() < 0.5 else -(1 << int(w)) for w in width]
        values += [min(max(x, terms.low), terms.high) for x in row]
        codes += some.tolist()
        holds += [0] + [1] * (count - 1)
    total = len(holds)
    found = {"value": np.array(values), "code": np.array(codes), "hold": np.array(holds)}
    for key in ("nan", "pinf", "ninf"):
        there = terms.inf or (key == "nan" and terms.nan)
        found[key] = (rng.random(total) < 0.03).astype(np.int64) * there
    return found


def _prefixes(sums: Sums, steps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The reference's results after every step, prefixes of one length together."""
    starts = np.flatnonzero(steps["hold"] == 0)
    first = np.repeat(starts, np.diff([*starts, len(steps["hold"])]))
    at = np.arange(len(first))
    found: dict[str, np.ndarray] = {}
    for length in range(1, int((at - first).max()) + 2):
        (ends,) = np.nonzero(at - first == length - 1)
        index = ends - np.arange(length - 1, -1, -1)[:, None]
        flags = {key: steps[key][index][..., None].astype(bool) for key in ("nan", "pinf", "ninf")}
        made = sums.total(
            steps["value"][index][..., None], steps["code"][index][..., None], **flags
        )
        for key, array in made.items():
            array = array.reshape(len(ends), *array.shape[2:])
            whole = found.setdefault(key, np.zeros((len(first), *array.shape[1:]), np.int64))
            whole[ends] = array
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_step_is_the_references(name: str) -> None:
    sums = CASES[name]
    assert list(sums.rules(("accumulator",))) == []
    rng = np.random.default_rng(len(name))
    steps = _random(sums, rng, 4000)
    found, want = _run(sums, steps), _prefixes(sums, steps)
    assert set(found) == set(want)
    for key in want:
        got = found[key].reshape(want[key].shape)
        bad = np.flatnonzero((got != want[key]).reshape(len(got), -1).any(axis=1))
        assert not len(bad), (
            key,
            bad[:3],
            {k: v[bad[0] - 9 : bad[0] + 1] for k, v in steps.items()},
            got[bad[0]],
            want[key][bad[0]],
        )
