"""Errors of the flows, each with the exit status that a command gives it."""

from __future__ import annotations

from pathlib import Path

from rtl_gen.errors import InputError, ToolError


class LibertyError(InputError):
    """A Liberty file that cannot serve: ``file: rule, value``. Exit status 2."""

    def __init__(self, file: str | Path, rule: str):
        self.file, self.rule = str(file), rule
        super().__init__(f"{file}: {rule}")


class FlowError(ToolError):
    """A tool failed; the text names it, its last words and where its log lies. Exit status 1."""
