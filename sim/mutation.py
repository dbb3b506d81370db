"""Breaks the RTL on purpose and shows that the checks notice every time.

``python -m sim.mutation [--core lut_core|mac_core|all] [--name PART] [--list] [--json] [--jobs N]``

A mutant is one change in the text of one module of the generator, elaborated in a process of its
own, so that golden model, packing and checks stay as they are. The Verilog that comes out is tried
by ``sim.check_verilog`` at its quick effort, as are the unchanged designs of the same
specifications, which have to pass. Anything else fails the run: a mutant that survives, one that
does not apply to the sources any more, one that does not elaborate or whose text is the same, and
one that is noticed only because Verilator refuses it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from hw.block import spec_from_dict
from hw.spec import BlockSpec
from rtl_gen import console

CORES = ("lut_core", "mac_core")


def _shape(m: int, n: int, k: int) -> dict[str, int]:
    return {"m": m, "n": n, "k": k}


_UNSIGNED = {"encoding": "unsigned", "max_bits": 2}
_TWOS = {"encoding": "twos_complement"}

SPECS: dict[str, dict[str, dict[str, Any]]] = {
    "lut_core": {
        # Serial planes, zero points, addend, both registers: most of the control has its say here.
        "serial": {
            "tile": _shape(2, 2, 3),
            "activations": {"bits": 3},
            "weights": _UNSIGNED,
            "pipeline": {"front": 1, "heap": 1},
            "addend": True,
            "max_k": 9,
        },
        "planes_2": {
            "tile": _shape(2, 2, 3),
            "activations": {"bits": 3},
            "weights": {"encoding": "unsigned", "max_bits": 3},
            "planes": 2,
            "max_k": 9,
        },
        "twos": {
            "tile": _shape(1, 2, 3),
            "activations": {"bits": 3},
            "weights": {**_TWOS, "max_bits": 3},
            "table": {"group": 3},
            "max_k": 9,
        },
        "twos_parallel": {
            "tile": _shape(1, 2, 3),
            "activations": {"bits": 3},
            "weights": {**_TWOS, "max_bits": 3},
            "planes": "parallel",
            "max_k": 9,
        },
        "bipolar": {
            "tile": _shape(2, 2, 3),
            "activations": {"bits": 3, "signed": False},
            "weights": {"encoding": "bipolar", "max_bits": 2},
            "pipeline": {"front": 0, "heap": 1},
            "max_k": 9,
        },
        "symmetric": {
            "tile": _shape(2, 2, 3),
            "activations": {"bits": 3},
            "weights": {"encoding": "unsigned", "max_bits": 3},
            "table": {"form": "symmetric"},
            "planes": 2,
            "addend": True,
            "max_k": 9,
        },
        "symmetric_twos": {
            "tile": _shape(1, 2, 3),
            "activations": {"bits": 3},
            "weights": {**_TWOS, "max_bits": 2},
            "table": {"form": "symmetric"},
            "max_k": 9,
        },
        "ternary": {
            "tile": _shape(2, 2, 4),
            "activations": {"bits": 3},
            "weights": {"encoding": "ternary"},
            "addend": True,
            "max_k": 12,
        },
        "base3": {
            "tile": _shape(1, 2, 6),
            "activations": {"bits": 3},
            "weights": {"encoding": "ternary", "packing": "base3"},
            "max_k": 12,
        },
        "int8": {
            "tile": _shape(1, 2, 4),
            "activations": {"bits": 8},
            "weights": _UNSIGNED,
            "table": {"group": 2, "entries": "int8"},
            "max_k": 8,
        },
        "port": {
            "tile": _shape(2, 2, 4),
            "activations": {"bits": 3},
            "weights": _UNSIGNED,
            "table": {"form": "symmetric", "source": "port"},
            "max_k": 8,
        },
    },
    "mac_core": {
        # Recoded activations, zero points, addend, both registers.
        "zero": {
            "tile": _shape(2, 2, 3),
            "activations": {"bits": 4},
            "weights": {"encoding": "unsigned", "bits": 3},
            "pipeline": {"front": 1, "heap": 1},
            "addend": True,
            "max_k": 9,
        },
        # Recoded weights, of an even and of an odd number of bits.
        "twos": {
            "tile": _shape(2, 2, 3),
            "activations": {"bits": 6},
            "weights": {"bits": 4},
            "pipeline": {"front": 0, "heap": 2},
            "max_k": 9,
        },
        "odd": {
            "tile": _shape(2, 2, 2),
            "activations": {"bits": 7},
            "weights": {"bits": 3},
            "max_k": 6,
        },
        "bipolar": {
            "tile": _shape(1, 2, 3),
            "activations": {"bits": 3, "signed": False},
            "weights": {"encoding": "bipolar", "bits": 2},
            "max_k": 9,
        },
    },
}
"""Small specifications that together reach every form that a mutant needs."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One way to be wrong.

    Attributes:
        core: the core that it is tried on, and ``spec`` the name of its specification.
        module: the module of the generator that is changed.
        old, new: its text before and after; ``old`` occurs once in the module.
        also: further such pairs, without which the first makes no difference.
    """

    name: str
    what: str
    core: str
    spec: str
    module: str
    old: str
    new: str
    also: tuple[tuple[str, str], ...] = ()


SHELL, ACCUMULATOR, HEAP = "hw.lib.gemm_shell", "hw.lib.accumulator", "hw.lib.heap"
CUTS, BOOTH = "hw.lib.cuts", "hw.lib.booth"
LUT, FRONT, PLAN = (f"hw.blocks.lut_core.{name}" for name in ("rtl", "front", "plan"))
MAC = "hw.blocks.mac_core.rtl"

BOTH = {"lut_core": "serial", "mac_core": "zero"}
LUT_ONLY = {"lut_core": "serial"}


def _on_lut(spec: str) -> dict[str, str]:
    return {"lut_core": spec}


def _on_mac(spec: str) -> dict[str, str]:
    return {"mac_core": spec}


def _both(statement: str, condition: str) -> str:
    """``x.eq(y)`` as ``x.eq((y) & condition)``."""
    target, value = statement.split(".eq(", 1)
    return f"{target}.eq(({value} & {condition})"


# name, module, where, what is wrong, before, after.
_Entry = tuple[str, str, Mapping[str, str], str, str, str]

_STAGES = "valid[i] & (~valid[i + 1] | move[i + 1])"
_LEGS = "hold.replicate(width) & y"
_ADDEND_FLAG = '"addend": first_step & last_pass & accumulate'
_JOB_READY = "self.i_job.ready.eq(~active | finish)"
_A_READY = "operand.ready.eq(~a_full | a_move)"
_W_READY = "weights.ready.eq(~w_full | fire)"
_C_READY = 'self.i_c.ready.eq(valid[cuts] & out_free & final["addend"])'
_O_VALID = 'm.d.sync += out.valid.eq((move[cuts] & final["last"]) | (out.valid & ~out.ready))'
_WORD = "word = results[n].word_select(row, spec.result_bits)"
_STAGED = 'staged = [{name: Signal(name=f"{name}_{i}") for name in control}'
_Z_LINE = "negate = {p: z[p] if z is not None else self.first for p in plan.negated}"

_CONTROL: tuple[_Entry, ...] = (
    ("k_steps_short", SHELL, BOTH, "a job has one step too few",
     " steps_left.eq(steps_in),", " steps_left.eq(steps_in - 1),"),
    ("k_steps_later_pass", SHELL, LUT_ONLY, "later passes have one step too many",
     "k_steps_m1.eq(steps_in),", "k_steps_m1.eq(steps_in + 1),"),
    ("passes_long", SHELL, LUT_ONLY, "narrow weights make a pass too many",
     "passes_left.eq(value // planes)", "passes_left.eq((value + planes) // planes)"),
    ("passes_short", SHELL, LUT_ONLY, "the widest weights make a pass too few",
     "passes_left.eq(spec.max_passes - 1)", "passes_left.eq(spec.max_passes - 2)"),
    ("last_pass_always", SHELL, LUT_ONLY, "every pass counts as the last",
     "last_pass.eq(~passes_left.any())", "last_pass.eq(1)"),
    ("first_pass_stays", SHELL, LUT_ONLY, "every pass counts as the first",
     "first_pass.eq(0),", "first_pass.eq(1),"),
    ("first_step_lost", SHELL, LUT_ONLY, "only the first pass has a first step",
     "first_step.eq(last_step)", "first_step.eq(0)"),
    ("job_ready_late", SHELL, BOTH, "a bubble between jobs",
     _JOB_READY, "self.i_job.ready.eq(~active)"),
    ("job_ready_early", SHELL, BOTH, "a job is taken while another runs",
     _JOB_READY, "self.i_job.ready.eq(1)"),
    ("job_never_ends", SHELL, BOTH, "a finished job stays active",
     "with m.If(finish):", "with m.If(Const(0)):"),
    ("a_accept_while_full", SHELL, BOTH, "activations are taken into a full register",
     _A_READY, "operand.ready.eq(1)"),
    ("a_ready_late", SHELL, BOTH, "a bubble between steps of activations",
     _A_READY, "operand.ready.eq(~a_full)"),
    ("a_load_without_ready", SHELL, BOTH, "activations are loaded without ready",
     "a_load.eq(operand.valid & operand.ready)", "a_load.eq(operand.valid)"),
    ("a_used_twice", SHELL, BOTH, "the activations' register never empties",
     "a_full.eq(a_load | (a_full & ~a_move))", "a_full.eq(a_load | a_full)"),
    ("w_accept_while_full", SHELL, BOTH, "weights are taken into a full register",
     _W_READY, "weights.ready.eq(1)"),
    ("w_load_without_ready", SHELL, BOTH, "weights are loaded without ready",
     "w_load.eq(weights.valid & weights.ready)", "w_load.eq(weights.valid)"),
    ("w_load_without_valid", SHELL, BOTH, "weights are loaded without valid",
     "w_load.eq(weights.valid & weights.ready)", "w_load.eq(weights.ready)"),
    ("w_used_twice", SHELL, BOTH, "the weights' register never empties",
     "w_full.eq(w_load | (w_full & ~fire))", "w_full.eq(w_load | w_full)"),
    ("job_waits_for_a", SHELL, BOTH, "a job is taken only beside activations",
     _JOB_READY, _both(_JOB_READY, "operand.valid")),
    ("job_waits_for_o", SHELL, BOTH, "a job is taken only while results are",
     _JOB_READY, _both(_JOB_READY, "out.ready")),
    ("a_waits_for_job", SHELL, BOTH, "activations are not taken before their job is there",
     _A_READY, _both(_A_READY, "(active | self.i_job.valid)")),
    ("a_waits_for_w", SHELL, BOTH, "activations are taken only beside weights",
     _A_READY, _both(_A_READY, "weights.valid")),
    ("w_waits_for_job", SHELL, BOTH, "weights are not taken before their job is",
     _W_READY, _both(_W_READY, "active")),
    ("w_waits_for_a", SHELL, BOTH, "weights are taken only beside activations",
     _W_READY, _both(_W_READY, "operand.valid")),
    ("fire_without_w", SHELL, BOTH, "a step fires without weights",
     "valid[0].eq(active & f_full & w_full)", "valid[0].eq(active & f_full)"),
    ("fire_without_a", SHELL, BOTH, "a step fires without activations",
     "valid[0].eq(active & f_full & w_full)", "valid[0].eq(active & w_full)"),
    ("fire_without_job", SHELL, BOTH, "a step fires without a job",
     "valid[0].eq(active & f_full & w_full)", "valid[0].eq(f_full & w_full)"),
    ("payload_changes", SHELL, BOTH, "a stalled result is overwritten",
     "out_free.eq(~out.valid | out.ready)", "out_free.eq(1)"),
    ("out_free_late", SHELL, BOTH, "a bubble behind every result",
     "out_free.eq(~out.valid | out.ready)", "out_free.eq(~out.valid)"),
    ("stage_overrun", SHELL, BOTH, "a stage moves on although the next is full",
     _STAGES, "valid[i]"),
    ("stage_bubble", SHELL, BOTH, "a stage waits until the next is empty",
     _STAGES, "valid[i] & ~valid[i + 1]"),
    ("stage_repeats", SHELL, BOTH, "a stage never empties",
     "valid[i + 1].eq(move[i] | (valid[i + 1] & ~move[i + 1]))",
     "valid[i + 1].eq(move[i] | valid[i + 1])"),
    ("control_not_held", SHELL, BOTH, "a stalled step takes on the next one's control",
     "with m.If(move[i]):\n                m.d.sync += [staged",
     "with m.If(Const(1)):\n                m.d.sync += [staged"),
    ("hold_swapped", SHELL, BOTH, "hold and clear are swapped",
     '"hold": ~first_step,', '"hold": first_step,'),
    ("shift_first_pass", SHELL, LUT_ONLY, "the sum is doubled in the first pass",
     '"shift": first_step & ~first_pass,', '"shift": first_step & first_pass,'),
    ("shift_every_step", SHELL, LUT_ONLY, "the sum is doubled in every step of a later pass",
     '"shift": first_step & ~first_pass,', '"shift": ~first_pass,'),
    ("result_every_pass", SHELL, LUT_ONLY, "every pass gives a result",
     '"last": last_step & last_pass,', '"last": last_step,'),
    ("result_every_step", SHELL, BOTH, "every step of the last pass gives a result",
     '"last": last_step & last_pass,', '"last": last_pass,'),
    ("addend_every_pass", SHELL, LUT_ONLY, "the addend is taken in every pass",
     _ADDEND_FLAG, '"addend": first_step & accumulate'),
    ("addend_every_step", SHELL, BOTH, "the addend is taken in every step",
     _ADDEND_FLAG, '"addend": last_pass & accumulate'),
    ("addend_always", SHELL, BOTH, "jobs without an addend take one",
     _ADDEND_FLAG, '"addend": first_step & last_pass'),
    ("addend_never", SHELL, BOTH, "no addend is ever taken",
     _ADDEND_FLAG, '"addend": Const(0)'),
    ("addend_lost_in_stall", SHELL, BOTH, "the addend is accepted while its step stalls",
     _C_READY, 'self.i_c.ready.eq(valid[cuts] & final["addend"])'),
    ("addend_ready_always", SHELL, BOTH, "i_c is ready in steps that take none",
     _C_READY, "self.i_c.ready.eq(valid[cuts] & out_free)"),
    ("addend_not_awaited", SHELL, BOTH, "a step does not wait for its addend",
     '(~final["addend"] | self.i_c.valid)', "1"),
    ("result_dropped", SHELL, BOTH, "a result that is not taken at once is dropped",
     _O_VALID, 'm.d.sync += out.valid.eq(move[cuts] & final["last"])'),
    ("result_repeated", SHELL, BOTH, "a result stays valid for ever",
     _O_VALID, 'm.d.sync += out.valid.eq((move[cuts] & final["last"]) | out.valid)'),
    ("reset_forgets_result", SHELL, BOTH, "o.valid survives a reset",
     _O_VALID,
     "kept = Signal(reset_less=True)\n        m.d.comb += out.valid.eq(kept)\n"
     '        m.d.sync += kept.eq((move[cuts] & final["last"]) | (out.valid & ~out.ready))'),
    ("reset_forgets_job", SHELL, BOTH, "a job survives a reset",
     "active = Signal()", "active = Signal(reset_less=True)"),
    ("reset_forgets_a", SHELL, BOTH, "activations survive a reset",
     "a_full = Signal()", "a_full = Signal(reset_less=True)"),
    ("reset_forgets_f", SHELL, BOTH, "the front register survives a reset",
     "f_full = Signal()", "f_full = Signal(reset_less=True)"),
    ("reset_forgets_w", SHELL, BOTH, "weights survive a reset",
     "w_full = Signal()", "w_full = Signal(reset_less=True)"),
    ("reset_forgets_stage", SHELL, BOTH, "a step in the heap's registers survives a reset",
     'Signal(name=f"valid_{i}")', 'Signal(name=f"valid_{i}", reset_less=True)'),
    ("columns_swapped", SHELL, BOTH, "the columns come out in reverse",
     _WORD, _WORD.replace("[n]", "[tile.n - 1 - n]")),
    ("rows_swapped", SHELL, BOTH, "the rows come out in reverse",
     _WORD, _WORD.replace("(row", "(tile.m - 1 - row")),
    ("one_weight_for_all", SHELL, BOTH, "every column has the first one's weights",
     "n * bits : (n + 1) * bits", "0:bits"),
    ("addend_transposed", SHELL, BOTH, "the addend is read transposed",
     "addend.word_select(row * tile.n + n,", "addend.word_select(n * tile.m + row,"),
    ("cut_enable_stuck", SHELL, BOTH, "the heap's registers load in every cycle",
     'slices["i_cut_en"] = Cat(*move[:cuts])', 'slices["i_cut_en"] = Const((1 << cuts) - 1, cuts)'),
)  # fmt: skip

# A step that survives a reset without what the accumulators are to do with it gives no result and
# takes no addend, and has left before the next one comes: that is not wrong.
_ALSO: Mapping[str, tuple[tuple[str, str], ...]] = {
    "reset_forgets_stage": ((_STAGED, _STAGED.replace('_{i}"', '_{i}", reset_less=True')),),
}

_ARITHMETIC: tuple[_Entry, ...] = (
    ("offset_by_one", ACCUMULATOR, BOTH, "the constant of a step's sum is off by one",
     "return 2 ** (bits - 1) - 1", "return 2 ** (bits - 1)"),
    ("window_narrow", ACCUMULATOR, {"lut_core": "serial", "mac_core": "odd"},
     "a step's sum has one bit too few", "    return bits\n", "    return bits - 1\n"),
    ("accumulator_narrow", ACCUMULATOR, BOTH, "the accumulator has one bit too few",
     "m.d.comb += y.eq(~state)", "m.d.comb += y.eq(Cat(~state[:-1], ~state[-2]))"),
    ("accumulator_not_held", ACCUMULATOR, BOTH, "the accumulator loads in every cycle",
     "with m.If(enable):", "with m.If(Const(1)):"),
    ("hold_ignored", ACCUMULATOR, BOTH, "a job starts from the last one's sum",
     _LEGS, "y"),
    ("carry_dropped", ACCUMULATOR, BOTH, "the carry of a step's sum is dropped",
     "i_ci=carry,", "i_ci=Const(0, 1),"),
    ("sign_wrong", ACCUMULATOR, BOTH, "a step's sign reaches the upper half inverted",
     "i_up=step[split],", "i_up=~step[split],"),
    ("upper_carry_dropped", ACCUMULATOR, BOTH, "no carry into the upper half",
     "i_ci=over,", "i_ci=Const(0, 1),"),
    ("shift_missing", ACCUMULATOR, LUT_ONLY, "the sum is not doubled between passes",
     "Cat(Const(0, planes), y[: width - planes])", "y"),
    ("shift_one_for_two", ACCUMULATOR, _on_lut("planes_2"), "two planes a pass, one doubling",
     "Cat(Const(0, planes), y[: width - planes])", "Cat(Const(0, 1), y[: width - 1])"),
    ("addend_not_gated", ACCUMULATOR, {"mac_core": "zero"}, "whatever i_c carries is added",
     "legs = legs | (take.replicate(width) & addend)", "legs = legs | addend"),
    ("addend_not_gated_2", ACCUMULATOR, LUT_ONLY, "whatever i_c carries is added",
     "taken.eq(~(take.replicate(width) & addend))", "taken.eq(~addend)"),
    ("addend_less_one", ACCUMULATOR, LUT_ONLY, "the addend is one too small or too large",
     "i_ci=Const(1, 1),", "i_ci=Const(0, 1),"),
    ("full_adder_carry", HEAP, BOTH, "a full adder's carry misses a case",
     "assign co = (a & b) | (c & (a ^ b));", "assign co = (a & b) | (a & c);"),
    ("adder_ignores_carry", HEAP, BOTH, "the carry-propagate adder ignores its carry",
     "{1'b0, b} + {{(WIDTH){1'b0}}, ci};", "{1'b0, b};"),
    ("step_up_ignored", HEAP, BOTH, "the upper half takes every sum as positive",
     "{(WIDTH){~up}}", "{(WIDTH){1'b0}}"),
    ("step_carry", HEAP, BOTH, "the upper half ignores its carry",
     "wire [WIDTH:0] sum = {1'b0, a} + {1'b0, {(WIDTH){~up}}} + {{(WIDTH){1'b0}}, ci};",
     "wire [WIDTH:0] sum = {1'b0, a} + {1'b0, {(WIDTH){~up}}};"),
    ("half_adder_carry", HEAP, {"lut_core": "symmetric", "mac_core": "odd"},
     "a half adder has no carry",
     "self.m.d.comb += carry.eq(values[0] & values[1])", "self.m.d.comb += carry.eq(0)"),
    ("constant_carry", HEAP, {"lut_core": "serial", "mac_core": "odd"},
     "two bits and a constant one carry too seldom",
     "carry.eq(values[0] | values[1])", "carry.eq(values[0] & values[1])"),
    ("sign_constant", HEAP, {"lut_core": "symmetric", "mac_core": "zero"},
     "the constants of sign extensions are missing",
     "self.const -= 1 << (top + lsb)", "self.const -= 0"),
    ("negation_constant", HEAP, LUT_ONLY, "negated terms are off by one",
     "self.const -= ((1 << top) - 1) << lsb", "self.const -= 1 << (top + lsb)"),
    ("sign_not_inverted", HEAP, BOTH, "sign extension of a term is wrong",
     "inverted = (i == top) ^ negative", "inverted = negative"),
    ("late_bit_uncut", HEAP, BOTH, "a bit goes past the registers that its partners go through",
     "values = [self.cuts.to(bit.value, bit.stage, stage) for bit in bits]",
     "values = [bit.value for bit in bits]"),
    ("cut_not_held", CUTS, BOTH, "a register in the heap is not held in a stall",
     "with self.m.If(self.enable[index]):", "with self.m.If(1):"),
    ("cut_missing", CUTS, {"lut_core": "bipolar", "mac_core": "twos"},
     "the last register of every bit is missing",
     "for index in range(stage, target):", "for index in range(stage, target - 1):"),
)  # fmt: skip

_LUT: tuple[_Entry, ...] = (
    ("weights_not_held", LUT, LUT_ONLY, "weights are loaded in every cycle",
     "with m.If(self.w_load):", "with m.If(Const(1)):"),
    ("operand_not_held", FRONT, LUT_ONLY, "activations are loaded in every cycle",
     "with m.If(self.a_load):", "with m.If(1):"),
    ("front_not_held", FRONT, LUT_ONLY, "the front register is loaded in every cycle",
     "with m.If(self.f_load):", "with m.If(1):"),
    ("sign_plane_positive", LUT, _on_lut("twos"), "the sign plane is never negated",
     _Z_LINE, _Z_LINE.replace("self.first", "Const(0)")),
    ("all_planes_negative", LUT, _on_lut("twos"), "every plane is negated",
     _Z_LINE, _Z_LINE.replace("self.first", "Const(1)")),
    ("sign_plane_fixed", LUT, _on_lut("twos_parallel"), "the sign plane counts positive",
     "fixed=plane in plan.fixed", "fixed=False"),
    ("zero_of_other_plane", LUT, _on_lut("planes_2"), "a plane has the other one's zero point",
     _Z_LINE, _Z_LINE.replace("z[p]", "z[plan.planes - 1 - p]")),
    ("zero_carry_missing", LUT, LUT_ONLY, "the carry of a negated plane is wrong",
     "positive.eq(~negate[0])", "positive.eq(1)"),
    ("zero_bit_missing", LUT, _on_lut("planes_2"), "the carry of one of several planes is missing",
     "heap.add_bit(~negate[plane], plane)", "heap.add_bit(Const(0, 1), plane)"),
    ("zero_constant", LUT, _on_lut("planes_2"), "the constant of a negated plane is doubled",
     "heap.const -= 1 << (bits - 1 + plane)", "heap.const -= 1 << (bits + plane)"),
    ("plane_weight", LUT, _on_lut("twos_parallel"), "every plane counts once",
     "self._add_terms(\n                    m, heap, row, plane, plane, selects[plane]",
     "self._add_terms(\n                    m, heap, row, plane, 0, selects[plane]"),
    ("plane_weight_negated", LUT, _on_lut("planes_2"), "every negated plane counts once",
     "heap.add_bit(bit.value, plane + column,", "heap.add_bit(bit.value, column,"),
    ("plane_order", LUT, _on_lut("planes_2"), "the planes of a beat are read in reverse",
     "w[lane * plan.planes + plane]", "w[lane * plan.planes + plan.planes - 1 - plane]"),
    ("pattern_order", LUT, LUT_ONLY, "a table is indexed by its lanes in reverse",
     "index >> k & 1", "index >> (len(bits) - 1 - k) & 1"),
    ("pattern_shifted", LUT, LUT_ONLY, "every entry answers to its neighbour's index",
     "first = 0 if plan.folded else 1", "first = 0"),
    ("fold_sign", LUT, _on_lut("symmetric"), "the sign of folded entries is inverted",
     "negative = bits.pop()", "negative = ~bits.pop()"),
    ("fold_bit_missing", LUT, _on_lut("symmetric"), "a folded term is its one's complement",
     "heap.add_bit(positive, lsb, time=1.0)", "heap.add_bit(Const(0, 1), lsb, time=1.0)"),
    ("corrections_swapped", LUT, _on_lut("symmetric"), "zero points 0 and 1 are swapped",
     "(one & gate) | (zero & ~gate)", "(zero & gate) | (one & ~gate)"),
    ("correction_of_other_plane", LUT, _on_lut("symmetric"), "all planes are corrected alike",
     "gate = z[plane].replicate(width)", "gate = z[0].replicate(width)"),
    ("correction_first_pass", PLAN, _on_lut("symmetric_twos"),
     "the first pass is corrected like the others",
     '"row_first": (rest + 2 * top, 0)', '"row_first": (rest, 0)'),
    ("doubled_result", LUT, _on_lut("symmetric"), "the doubled result is not halved",
     "y = y[1:]", "y = y[:-1]"),
    ("doubled_addend", LUT, _on_lut("symmetric"), "the addend is not doubled",
     "Cat(0, value) if self.plan.doubled", "Cat(value, value[-1]) if self.plan.doubled"),
    ("pass_kinds_swapped", SHELL, _on_lut("bipolar"), "first and last pass are swapped",
     "{0: middle, 1: first, 2: last, 3: only}", "{0: middle, 1: last, 2: first, 3: only}"),
    ("parity_carry_dropped", SHELL, _on_lut("bipolar"), "the parity's carry is dropped",
     "carry.eq(before & step & last_pass.replicate(rows))", "carry.eq(0)"),
    ("parity_carry_always", SHELL, _on_lut("bipolar"), "the parity carries in every pass",
     "carry.eq(before & step & last_pass.replicate(rows))", "carry.eq(before & step)"),
    ("parity_not_cleared", SHELL, _on_lut("bipolar"), "a job starts with the last one's parity",
     "before.eq(running & (~first_step).replicate(rows))", "before.eq(running)"),
    ("parity_early", SHELL, _on_lut("bipolar"), "the parity overtakes the sum in a stall",
     "register = Signal(rows, name=f\"parity_{i}\")\n            with m.If(move[i]):",
     "register = Signal(rows, name=f\"parity_{i}\")\n            with m.If(Const(1)):"),
    ("parity_of_other_row", LUT, _on_lut("bipolar"), "every row has the first one's carry",
     "heap.add(self.carry[row],", "heap.add(self.carry[0],"),
    ("half_rounded_up", PLAN, _on_lut("bipolar"), "half the sum is rounded up",
     "value = value - (total >> 1)", "value = value - ((total + 1) >> 1)"),
    ("ternary_sign", LUT, _on_lut("ternary"), "the sign is the top lane's even if that is zero",
     "(present[lane] & negative[lane]) | (~present[lane] & chosen)", "negative[lane]"),
    ("ternary_pattern", LUT, _on_lut("ternary"), "equal and different signs are swapped",
     "differs if value < 0 else ~differs", "~differs if value < 0 else differs"),
    ("ternary_presence", LUT, _on_lut("ternary"), "an entry without a lane ignores that lane",
     "present[lane] if value else ~present[lane]", "present[lane] if value else Const(1, 1)"),
    ("base3_order", LUT, _on_lut("base3"), "the trits of a byte are read in reverse",
     "byte // 3**i % 3 - 1", "byte // 3 ** (4 - i) % 3 - 1"),
    ("one_table_for_all", LUT, LUT_ONLY, "every group looks into the first table",
     "position += len(lines)", "position += 0"),
    ("one_row_of_tables", LUT, LUT_ONLY, "every row looks into the first row's tables",
     "position = row * count", "position = 0"),
    ("entry_coefficient", FRONT, LUT_ONLY, "sums of an entry become differences",
     "value = right + left if sign > 0 else right - left", "value = right - left"),
    ("entry_coefficient_minus", FRONT, _on_lut("symmetric"), "differences of an entry become sums",
     "value = right + left if sign > 0 else right - left", "value = right + left"),
    ("sum_of_wrong_entries", FRONT, _on_lut("symmetric"), "the sum takes the first entries",
     "last.append(entries[position - 1])", "last.append(entries[position - len(pattern)])"),
    ("rounding_missing", FRONT, _on_lut("int8"), "entries are cut instead of rounded",
     "shifted.eq(((wide >> self.shift) + 1) >> 1)", "shifted.eq((wide >> self.shift) >> 1)"),
    ("clip_high", FRONT, _on_lut("int8"), "the largest entry wraps",
     "self.m.If(shifted > 127)", "self.m.If(shifted > 128)"),
    ("clip_low", FRONT, _on_lut("int8"), "the smallest entry is clipped by one too much",
     "result.eq(-128)", "result.eq(-127)"),
    ("clip_low_late", FRONT, _on_lut("int8"), "an entry just below the smallest wraps",
     "self.m.Elif(shifted < -128)", "self.m.Elif(shifted < -129)"),
    ("clip_high_value", FRONT, _on_lut("int8"), "the largest entry is clipped by one too much",
     "result.eq(127)", "result.eq(126)"),
    ("shift_ignored", FRONT, _on_lut("int8"), "entries are not shifted",
     "shifted.eq(((wide >> self.shift) + 1) >> 1)", "shifted.eq((wide + 1) >> 1)"),
    ("port_row_of_tables", FRONT, _on_lut("port"), "every row gets the first row's tables",
     "t.word_select(row * count + i, width)", "t.word_select(i, width)"),
    ("port_row_of_sums", FRONT, _on_lut("port"), "every row gets the first row's sum",
     "s.word_select(row, golden.sum_bits(spec))", "s.word_select(0, golden.sum_bits(spec))"),
    ("lane_order", FRONT, LUT_ONLY, "the lanes of the activations are read in reverse",
     "a.word_select(row * k + lane, bits)", "a.word_select(row * k + k - 1 - lane, bits)"),
    ("activation_sign", FRONT, LUT_ONLY, "signed activations are taken as unsigned",
     "value.as_signed() if spec.activations.signed else value", "value"),
)  # fmt: skip

_MAC: tuple[_Entry, ...] = (
    ("weights_not_held", MAC, _on_mac("zero"), "weights are loaded in every cycle",
     "with m.If(self.w_load):", "with m.If(Const(1)):"),
    ("operand_not_held", MAC, _on_mac("zero"), "activations are loaded in every cycle",
     "with m.If(self.a_load):", "with m.If(Const(1)):"),
    ("front_not_held", MAC, _on_mac("zero"), "the front register is loaded in every cycle",
     "with m.If(self.f_load):", "with m.If(Const(1)):"),
    ("booth_one", BOOTH, _on_mac("zero"), "a digit of one where there is none",
     "one.eq(low ^ below)", "one.eq(low | below)"),
    ("booth_two_positive", BOOTH, _on_mac("zero"), "the digit +2 is missing",
     "(high & ~low & ~below) | (~high & low & below)", "(high & ~low & ~below)"),
    ("booth_two_negative", BOOTH, _on_mac("zero"), "the digit −2 is missing",
     "(high & ~low & ~below) | (~high & low & below)", "(~high & low & below)"),
    ("booth_two_first", BOOTH, _on_mac("zero"), "the first digit −1 is −3",
     "two.eq(0 if alike else high & ~low)", "two.eq(0 if alike else high)"),
    ("booth_below", BOOTH, _on_mac("twos"), "digits overlap at the wrong bit",
     "below = high", "below = low"),
    ("booth_odd_sign", BOOTH, _on_mac("odd"), "an odd number of bits is not sign-extended",
     "bits.append(bits[-1])", "bits.append(Signal())"),
    ("booth_lines_swapped", BOOTH, _on_mac("zero"), "one and two are swapped at the port",
     "Digit(value[3 * i], value[3 * i + 1], value[3 * i + 2])",
     "Digit(value[3 * i + 1], value[3 * i], value[3 * i + 2])"),
    ("digit_position", MAC, _on_mac("twos"), "digits are worth twice the last one, not four times",
     "heap.add(term, lsb=2 * index, signed=True,", "heap.add(term, lsb=index, signed=True,"),
    ("digit_bit_position", MAC, _on_mac("twos"), "the correction of a digit is misplaced",
     "heap.add_bit(positive, 2 * index,", "heap.add_bit(positive, index,"),
    ("digit_sign", MAC, _on_mac("twos"), "every product has the wrong sign",
     "positive.eq(~digit.negative)", "positive.eq(digit.negative)"),
    ("double_missing", MAC, _on_mac("twos"), "a digit of two counts once",
     "doubled = Cat(Const(0, 1), value)", "doubled = wide"),
    ("product_sign", MAC, _on_mac("twos"), "partial products are not sign-extended",
     "wide = Cat(value, value[-1])", "wide = Cat(value, Const(0, 1))"),
    ("zero_point_sign", MAC, _on_mac("zero"), "the zero point is subtracted twice over",
     "booth.Digit(digit.one, digit.two, ~digit.negative)",
     "booth.Digit(digit.one, digit.two, digit.negative)"),
    ("zero_point_signed", MAC, _on_mac("zero"), "large zero points are taken as negative",
     'Cat(held["z"], Const(0, 1))', 'held["z"]'),
    ("weight_signed", MAC, _on_mac("zero"), "large unsigned weights are taken as negative",
     "return Cat(code, Const(0, 1))", "return Cat(code, code[-1])"),
    ("bipolar_top", MAC, _on_mac("bipolar"), "the top bit of bipolar weights is not inverted",
     "Cat(Const(1, 1), code[:-1], ~code[-1])", "Cat(Const(1, 1), code[:-1], code[-1])"),
    ("bipolar_even", MAC, _on_mac("bipolar"), "bipolar weights are even",
     "Cat(Const(1, 1), code[:-1], ~code[-1])", "Cat(Const(0, 1), code[:-1], ~code[-1])"),
    ("activation_signed", MAC, _on_mac("bipolar"), "large unsigned activations become negative",
     "else Cat(lane, Const(0, 1))", "else Cat(lane, lane[-1])"),
    ("lane_order", MAC, _on_mac("twos"), "the lanes of the weights are read in reverse",
     'held["w"].word_select(lane, spec', 'held["w"].word_select(k - 1 - lane, spec'),
    ("one_row_of_a", MAC, _on_mac("twos"), "every row has the first one's activations",
     "self.a.word_select(row * k + lane, plan.a_bits)", "self.a.word_select(lane, plan.a_bits)"),
    ("one_row_of_digits", MAC, _on_mac("zero"), "every row has the first one's digits",
     "self.digits.word_select(row * k + lane, 3 * count)",
     "self.digits.word_select(lane, 3 * count)"),
    ("one_row_of_sums", MAC, _on_mac("zero"), "every row has the first one's sum",
     "self.total.word_select(row, plan.sum_bits)", "self.total.word_select(0, plan.sum_bits)"),
    ("one_row_of_addends", MAC, _on_mac("zero"), "every row has the first one's addend",
     "self.c.word_select(row, spec.result_bits)", "self.c.word_select(0, spec.result_bits)"),
    ("sum_narrow", MAC, _on_mac("zero"), "the sum of the activations has one bit too few",
     "self.sum_bits = self.a_bits + (spec.tile.k - 1).bit_length()",
     "self.sum_bits = self.a_bits + (spec.tile.k - 1).bit_length() - 1"),
    ("sum_misses_lane", MAC, _on_mac("zero"), "the sum of the activations misses a lane",
     "lanes[row * k : (row + 1) * k]", "lanes[row * k : (row + 1) * k - 1]"),
    ("step_constant", MAC, _on_mac("twos"), "the constant of a step's sum is missing",
     "heap.const += offset(width)", "heap.const += 0"),
)  # fmt: skip


def mutants() -> tuple[Mutant, ...]:
    """Every mutant of every core, each name once a core."""
    found = []
    for name, module, where, what, old, new in (*_CONTROL, *_ARITHMETIC, *_LUT, *_MAC):
        for core, spec in where.items():
            found.append(
                Mutant(
                    name=name,
                    what=what,
                    core=core,
                    spec=spec,
                    module=module,
                    old=old,
                    new=new,
                    also=_ALSO.get(name, ()),
                )
            )
    return tuple(found)


def specification(core: str, name: str) -> BlockSpec:
    """One of :data:`SPECS`."""
    return spec_from_dict({"block": core, "name": f"mutant_{name}", **SPECS[core][name]})


class MutantError(RuntimeError):
    """A mutant that is none: it does not apply, does not elaborate, or changes nothing."""


def mutated_source(mutant: Mutant) -> str:
    """The text of the mutant's module with the change in it.

    Raises:
        MutantError: a text before does not occur exactly once.
    """
    found = importlib.util.find_spec(mutant.module)
    if found is None or found.origin is None:
        raise MutantError(f"{mutant.module}: no such module")
    text = Path(found.origin).read_text()
    for old, new in ((mutant.old, mutant.new), *mutant.also):
        count = text.count(old)
        if count != 1:
            raise MutantError(f"{mutant.module}: {count} places instead of one have {old!r}")
        text = text.replace(old, new)
    return text


# The changed module is loaded from its text in a process that does nothing but elaborate.
_EMIT = """
import importlib.abc, importlib.util, json, sys
target, text, data, out = sys.argv[1:]

class Loader(importlib.abc.Loader):
    def exec_module(self, module):
        exec(compile(open(text).read(), target, "exec"), module.__dict__)

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, found=None):
        if name == target:
            return importlib.util.spec_from_loader(name, Loader())

sys.meta_path.insert(0, Finder())
from hw.block import spec_from_dict
from rtl_gen.emit import emit_verilog
with open(out, "w") as file:
    file.write(emit_verilog(spec_from_dict(json.loads(data))))
"""


def mutated_verilog(mutant: Mutant) -> str:
    """The Verilog of a mutant.

    Raises:
        MutantError: it does not apply or does not elaborate.
    """
    spec = specification(mutant.core, mutant.spec)
    with tempfile.TemporaryDirectory(prefix="rtlgen-mutant-") as folder:
        text, out = Path(folder, "module.py"), Path(folder, "mutant.v")
        text.write_text(mutated_source(mutant))
        data = json.dumps(spec.model_dump(mode="json"))
        done = subprocess.run(
            [sys.executable, "-c", _EMIT, mutant.module, str(text), data, str(out)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not out.exists():
            words = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise MutantError(f"does not elaborate: {' '.join(words)}")
        return out.read_text()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a mutant, or of an unchanged design.

    Attributes:
        status: ``caught``, ``survived`` or ``invalid``; of an unchanged design ``passed`` or
            ``failed``.
        kind: of the failure that caught it, see ``sim.stimulus.Failure``.
        words: where it was caught, or why it is invalid.
        seconds: elaboration, compilation and check.
    """

    core: str
    spec: str
    name: str
    what: str
    status: str
    kind: str
    words: str
    seconds: float

    @property
    def good(self) -> bool:
        return self.status in ("caught", "passed")


@functools.cache
def original_verilog(core: str, name: str) -> str:
    """The Verilog of an unchanged design."""
    from rtl_gen.emit import emit_verilog

    return emit_verilog(specification(core, name))


def try_original(core: str, name: str) -> Outcome:
    """Hold an unchanged design against the checks that the mutants get."""
    from sim.compiled import check_verilog

    began = time.perf_counter()
    verdict = check_verilog(specification(core, name), original_verilog(core, name))
    failure = verdict.failure
    return Outcome(
        core=core,
        spec=name,
        name="(unchanged)",
        what="the design as it is",
        status="passed" if verdict.passed else "failed",
        kind=failure.kind if failure else "",
        words=failure.text
        if failure
        else f"{verdict.scenarios} scenarios, {verdict.works} jobs, {verdict.cycles} cycles",
        seconds=time.perf_counter() - began,
    )


def try_mutant(mutant: Mutant) -> Outcome:
    """Elaborate a mutant and hold it against the checks."""
    from sim.compiled import check_verilog

    began = time.perf_counter()
    status, kind, words = "survived", "", "nothing noticed it"
    try:
        text = mutated_verilog(mutant)
        if text == original_verilog(mutant.core, mutant.spec):
            raise MutantError("the emitted Verilog is unchanged")
        failure = check_verilog(specification(mutant.core, mutant.spec), text).failure
        if failure is not None:
            # A text that does not even compile shows nothing about the checks.
            status = "invalid" if failure.kind == "build" else "caught"
            lines = failure.text.splitlines()
            errors = [line for line in lines if line.startswith("%Error")]
            kind, words = failure.kind, (errors or lines)[0]
    except MutantError as error:
        status, words = "invalid", str(error)
    return Outcome(
        core=mutant.core,
        spec=mutant.spec,
        name=mutant.name,
        what=mutant.what,
        status=status,
        kind=kind,
        words=words,
        seconds=time.perf_counter() - began,
    )


def outcomes(chosen: Sequence[Mutant], *, jobs: int) -> Iterator[Outcome]:
    """Outcomes of the unchanged designs first, then of the mutants, as they are known."""
    originals = dict.fromkeys((mutant.core, mutant.spec) for mutant in chosen)
    # Processes of their own: a broken model may take its process with it.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(try_original, *pair) for pair in originals]):
            yield future.result()
        for future in as_completed([pool.submit(try_mutant, mutant) for mutant in chosen]):
            yield future.result()


@console.command("mutation")
@click.option(
    "--core",
    type=click.Choice([*CORES, "all"]),
    default="all",
    show_default=True,
    help="Whose RTL is broken.",
)
@click.option("--name", "part", default="", help="Only mutants whose name contains this.")
@click.option("--list", "only_list", is_flag=True, help="List the mutants and stop.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=os.cpu_count() or 1,
    show_default="processors",
    help="Mutants at once.",
)
@console.json_option
def mutation(core: str, part: str, only_list: bool, jobs: int, as_json: bool) -> None:
    """Break the RTL on purpose; every mutant has to be caught."""
    from rtl_gen.errors import InputError, VerificationError

    chosen = [m for m in mutants() if core in (m.core, "all") and part in m.name]
    if not chosen:
        raise InputError(f"--name: no mutant has {part!r} in its name")
    if only_list:
        rows = [[m.core, m.name, m.spec, m.module, m.what] for m in chosen]
        console.echo_table(["core", "mutant", "specification", "module", "what is wrong"], rows)
        return
    began = time.perf_counter()
    found: list[Outcome] = []
    with console.Progress("trying mutants", total=len(chosen), enabled=not as_json) as progress:
        for outcome in outcomes(chosen, jobs=jobs):
            found.append(outcome)
            progress.advance()
    place = {(mutant.core, mutant.name): number for number, mutant in enumerate(chosen)}
    found.sort(key=lambda item: (item.core, place.get((item.core, item.name), -1), item.spec))
    bad = [item for item in found if not item.good]
    counts = _counts(found)
    seconds = time.perf_counter() - began
    if as_json:
        console.echo_json(
            {
                "counts": counts,
                "seconds": round(seconds, 1),
                "outcomes": [vars(item) for item in found],
            }
        )
    else:
        console.echo_table(
            ["core", "mutant", "specification", "what is wrong", "outcome", "by", "where"],
            [[i.core, i.name, i.spec, i.what, i.status, i.kind, _place(i)] for i in found],
        )
        for name, count in counts.items():
            kinds = Counter(i.kind for i in found if i.core == name and i.status == "caught")
            by = ", ".join(f"{kind} {number}" for kind, number in kinds.most_common())
            click.echo(
                f"{name}: {count['caught']} of {count['mutants']} mutants caught"
                f"{f' (by {by})' if by else ''}, "
                f"{count['passed']} of {count['designs']} unchanged designs passed"
            )
        click.echo(f"{seconds:.0f} s")
    if bad:
        raise VerificationError(
            "\n".join(f"{i.core}: {i.name} ({i.spec}): {i.status}: {i.words}" for i in bad)
        )


def _counts(found: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for item in found:
        entry = counts.setdefault(item.core, {"mutants": 0, "caught": 0, "designs": 0, "passed": 0})
        original = item.name == "(unchanged)"
        entry["designs" if original else "mutants"] += 1
        entry["passed" if original else "caught"] += item.good
    return counts


def _place(outcome: Outcome) -> str:
    """The scenario that caught it; all words where something is not as it should be."""
    if outcome.status == "caught":
        return outcome.words.split(": ")[0]
    return outcome.words


if __name__ == "__main__":
    mutation()
