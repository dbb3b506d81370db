"""Which step of which pass of a job is next: the counters of a GEMM core's control.

The shell says when a job is loaded and when a step fires; a sequencer says what kind of step it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from amaranth.hdl import Module, Signal, Value

from hw.gemm import GemmSpec


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The step at hand.

    Attributes:
        first_step, last_step: of the pass; first_pass, last_pass: of the job.
        hold, shift: what the accumulators do: keep their sum, or double it; neither starts a job.
        idle: high where the step takes no operands, None if all do.
        lines: what columns are told besides, by name, a bit each.
    """

    first_step: Value
    last_step: Value
    first_pass: Value
    last_pass: Value
    hold: Value
    shift: Value
    idle: Value | None = None
    lines: Mapping[str, Value] = field(default_factory=dict)


class Sequencer(Protocol):
    """Order of a job's passes; ``lines`` names what :attr:`Steps.lines` will hold."""

    lines: tuple[str, ...]

    def elaborate(self, m: Module, job: Callable[[str], Value], load: Value, fire: Value) -> Steps:
        """Make the counters. ``job`` gives a field of the descriptor that ``load`` takes."""


class PlanePasses:
    """Passes over the planes of the weights, most significant first, counted.

    Args:
        first: whether columns are told that a step is in a job's first pass, as ``first``.
    """

    def __init__(self, spec: GemmSpec, *, first: bool = False):
        self.spec = spec
        self.lines: tuple[str, ...] = ("first",) if first else ()

    def elaborate(self, m: Module, job: Callable[[str], Value], load: Value, fire: Value) -> Steps:
        """Counters run down, so that "last" is a comparison with zero."""
        spec = self.spec
        steps_left = Signal(range(max(2, spec.max_k_steps)))
        k_steps_m1 = Signal.like(steps_left)
        passes_left = Signal(range(max(2, spec.max_passes)))
        first_step = Signal()
        first_pass = Signal()
        last_step = Signal()
        last_pass = Signal()
        m.d.comb += [last_step.eq(~steps_left.any()), last_pass.eq(~passes_left.any())]
        with m.If(fire):
            m.d.sync += [first_step.eq(last_step), steps_left.eq(steps_left - 1)]
            with m.If(last_step):
                m.d.sync += [
                    steps_left.eq(k_steps_m1),
                    passes_left.eq(passes_left - 1),
                    first_pass.eq(0),
                ]
        with m.If(load):
            m.d.sync += [
                steps_left.eq(job("k_steps_m1")),
                k_steps_m1.eq(job("k_steps_m1")),
                passes_left.eq(0),
                first_step.eq(1),
                first_pass.eq(1),
            ]
            if spec.max_passes > 1:
                planes = spec.planes_per_cycle
                with m.Switch(job("weight_bits_m1")):
                    for value in range(spec.max_weight_bits - 1):
                        with m.Case(value):
                            m.d.sync += passes_left.eq(value // planes)
                    with m.Default():
                        m.d.sync += passes_left.eq(spec.max_passes - 1)
        return Steps(
            first_step=first_step,
            last_step=last_step,
            first_pass=first_pass,
            last_pass=last_pass,
            hold=~first_step,
            shift=first_step & ~first_pass,
            lines=dict.fromkeys(self.lines, first_pass),
        )
