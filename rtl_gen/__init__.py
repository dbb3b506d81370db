"""Specification to Verilog and manifest, and the ``rtlgen`` command."""

__version__ = "0.1.0"
