"""Flows: Verilog to area by sub-block, cells, flip-flops and critical delay.

``synthesize`` maps onto a cell library (the embedded one, or any Liberty file), ``fpga`` onto the
logic cells of an FPGA family. Importing this package loads no tool.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.errors import FlowError, LibertyError
    from flows.fpga import FpgaReport, fpga
    from flows.report import BlockArea, SynthReport, Trial
    from flows.synthesis import synthesize
    from flows.technology import Technology

_WHERE = {
    "BlockArea": "flows.report",
    "FlowError": "flows.errors",
    "FpgaReport": "flows.fpga",
    "LibertyError": "flows.errors",
    "SynthReport": "flows.report",
    "Technology": "flows.technology",
    "Trial": "flows.report",
    "fpga": "flows.fpga",
    "synthesize": "flows.synthesis",
}

__all__ = [
    "BlockArea",
    "FlowError",
    "FpgaReport",
    "LibertyError",
    "SynthReport",
    "Technology",
    "Trial",
    "fpga",
    "synthesize",
]


def __getattr__(name: str) -> Any:
    """Names load their module at first use: numpy is not needed to ask for help."""
    if name not in _WHERE:
        raise AttributeError(f"module 'flows' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value
