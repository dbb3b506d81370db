"""Behaviour of emitted Verilog: Verilated models as Python objects, benches, lint.

The two entries for programs are :func:`verilate` (a model that takes and returns numpy arrays) and
:func:`check_verilog` (a verdict on any Verilog text for a specification).
"""

from sim.compiled import Verdict, check_verilog
from sim.harness import Model, Run, verilate
from sim.stalls import Stall, Stalls

__all__ = ["Model", "Run", "Stall", "Stalls", "Verdict", "check_verilog", "verilate"]
