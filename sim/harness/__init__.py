"""Verilated models as Python objects: whole tensors in, whole tensors out, no VPI."""

from sim.harness.model import Model, Packed, Run, RunError, load, verilate

__all__ = ["Model", "Packed", "Run", "RunError", "load", "verilate"]
