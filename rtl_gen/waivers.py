"""Verilator's lint rules that correct output of Amaranth and Yosys breaks, each with its reason.

A rule stands here only while some shipped configuration needs it; the tests remove them one by one.
"""

from __future__ import annotations

REASONS = {
    "DECLFILENAME": (
        "One file holds the whole block, so that it can be taken along as it is; its\n"
        "submodules cannot all bear the file's name."
    ),
    "UNUSEDSIGNAL": (
        "Every expression becomes a wire of its full width; the carry of a sum, or a\n"
        "clock that reaches a purely combinational part, may have no reader."
    ),
    "WIDTHEXPAND": (
        "Operands of different widths are extended by the rules of the language, which\n"
        "are Amaranth's too; no bit is lost by it."
    ),
}
"""Rule to reason, lines of at most 88 characters."""


def waiver_file(pattern: str) -> str:
    """A Verilator control file that waives :data:`REASONS` in the files that match ``pattern``."""
    lines = ["`verilator_config"]
    for rule, reason in REASONS.items():
        lines.append("")
        lines += [f"// {line}" for line in reason.splitlines()]
        lines.append(f'lint_off -rule {rule} -file "{pattern}"')
    return "\n".join(lines) + "\n"


WAIVERS = waiver_file("*")
"""The same for any file: what simulation compiles with."""
