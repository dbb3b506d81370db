"""Verilated models as Python objects: whole tensors in, whole tensors out, no VPI."""

from sim.harness.beats import Packed, Run
from sim.harness.model import Model, RunError, load, verilate

__all__ = ["Model", "Packed", "Run", "RunError", "load", "verilate"]
