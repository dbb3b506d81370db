"""Yosys and ABC for the flows: the driver of ``rtl_gen.yosys`` with the flows' own error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from flows.errors import FlowError
from rtl_gen import yosys
from rtl_gen.errors import ToolError
from rtl_gen.yosys import versions

__all__ = ["run", "versions"]


def run(
    commands: Iterable[str], outputs: Sequence[str], *, folder: Path, timeout_s: float = 1800
) -> str:
    """As ``rtl_gen.yosys.run``.

    Raises:
        FlowError: the process failed or an output is missing.
    """
    try:
        return yosys.run(commands, outputs, folder=folder, timeout_s=timeout_s)
    except ToolError as error:
        raise FlowError(error.tool, error.words, error.log) from None
