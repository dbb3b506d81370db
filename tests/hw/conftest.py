"""Combinational parts of ``hw.lib`` as functions of numpy arrays, by way of Verilator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring

from hw.block import Design
from hw.blocks.mac_core.spec import MacCoreSpec
from hw.lib.gemm_shell import component_streams, field_slice
from hw.lib.heap import LIBRARY
from hw.streams import Stream, StreamField
from rtl_gen.emit import design_verilog
from sim.harness.compile import RUN_SHORT, build
from sim.harness.model import Model

Build = Callable[[Module, Mapping[str, Value]], Mapping[str, Value]]
Function = Callable[..., Mapping[str, np.ndarray]]


class _Registered(wiring.Component):
    """What a function builds, between two streams, with a register behind it."""

    def __init__(self, build: Build, i: Stream, o: Stream):
        self.build, self.stream_i, self.stream_o = build, i, o
        super().__init__(component_streams((i, o)))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        values = {
            item.name: field_slice(self.stream_i, self.i.payload, item.name)
            for item in self.stream_i.fields
        }
        signed = {item.name for item in self.stream_i.fields if item.signed}
        made = self.build(
            m, {name: v.as_signed() if name in signed else v for name, v in values.items()}
        )
        held = Signal(self.stream_o.width, reset_less=True)
        m.d.comb += [self.i.ready.eq(~self.o.valid | self.o.ready), self.o.payload.eq(held)]
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(self.i.valid)
            m.d.sync += held.eq(Cat(*(made[item.name] for item in self.stream_o.fields)))
        return m


@pytest.fixture
def evaluate() -> Iterator[Callable[[Build, Mapping[str, int], Mapping[str, int]], Function]]:
    """``evaluate(build, inputs, outputs)``: the function of arrays that a piece of RTL computes.

    Widths are by name, negative for signed; ``build(m, values)`` returns the outputs' values.
    """
    with ExitStack() as models:

        def function(
            made: Build, inputs: Mapping[str, int], outputs: Mapping[str, int]
        ) -> Function:
            i, o = (
                Stream(
                    name=name,
                    direction=direction,
                    fields=tuple(
                        StreamField(name=field, width=abs(width), signed=width < 0)
                        for field, width in widths.items()
                    ),
                )
                for name, direction, widths in (("i", "in", inputs), ("o", "out", outputs))
            )
            verilog = design_verilog(Design(top=_Registered(made, i, o), library=LIBRARY), "dut")
            library = build(verilog, "dut", (i, o), effort=RUN_SHORT)
            # A model asks its specification nothing when it runs; this one only has the ports.
            model = models.enter_context(Model(MacCoreSpec(name="dut"), library, (i, o)))

            def call(**values: np.ndarray) -> Mapping[str, np.ndarray]:
                return model.run({"i": values}, {"o": len(next(iter(values.values())))}).outputs[
                    "o"
                ]

            return call

        yield function
