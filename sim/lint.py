"""Whether other tools accept the emitted Verilog: Verilator's lint, Yosys, Icarus if installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hw.spec import BlockSpec
from rtl_gen import build
from rtl_gen.waivers import WAIVERS
from sim import toolchain

_YOSYS = """
import sys
from pyosys import libyosys as ys
design = ys.Design()
for command in (
    f"read_verilog {sys.argv[1]}",
    f"hierarchy -check -top {sys.argv[2]}",
    "proc",
    "check -assert",
):
    ys.run_pass(command, design)
print("all passes ran")
"""


@dataclass(frozen=True, kw_only=True)
class LintResult:
    """What one tool said.

    Attributes:
        tool: its name.
        accepted: without a complaint.
        words: its last lines if it complained, "" if not.
    """

    tool: str
    accepted: bool
    words: str = ""

    @property
    def refused(self) -> bool:
        """Whether Verilator found an error in the text, no mere warning: it compiles no model."""
        error = r"^%Error(?!: Exiting due to \d+ warning)"
        return self.tool == "verilator" and re.search(error, self.words, re.M) is not None


def lint(
    spec: BlockSpec, verilog: str | None = None, waivers: str | None = None
) -> tuple[LintResult, ...]:
    """``verilator --lint-only -Wall`` with the shipped waivers, Yosys, and Icarus where installed.

    Args:
        verilog: the text; what ``spec`` emits if None.
        waivers: Verilator control file; the shipped one if None.

    Raises:
        ToolMissingError: Verilator is not there.
    """
    text = build.verilog(spec) if verilog is None else verilog
    with tempfile.TemporaryDirectory(prefix="rtlgen-lint-") as name:
        folder = Path(name)
        design = folder / f"{spec.name}.v"
        design.write_text(text)
        control = folder / f"{spec.name}.vlt"
        control.write_text(WAIVERS if waivers is None else waivers)
        results = [_verilator(design, control, spec.name), _yosys(design, spec.name)]
        iverilog = shutil.which("iverilog")
        if iverilog is not None:
            command = [iverilog, "-Wall", "-g2005", "-t", "null", "-s", spec.name, str(design)]
            results.append(_result("icarus", _run(command, folder), folder, quiet=False))
    return tuple(results)


def _verilator(design: Path, control: Path, top: str) -> LintResult:
    command = [str(toolchain.verilator_binary()), "--lint-only", "-Wall", "--no-timing"]
    command += ["--top-module", top, str(control), str(design)]
    return _result("verilator", _run(command, design.parent), design.parent, quiet=True)


def _yosys(design: Path, top: str) -> LintResult:
    # In a process of its own: an error ends it, and a success is what it says at its end.
    done = _run([sys.executable, "-c", _YOSYS, str(design), top], design.parent)
    words = done.stdout.replace(f"{design.parent}/", "")
    finished = done.returncode == 0 and words.rstrip().endswith("all passes ran")
    accepted = finished and "Warning:" not in words
    return LintResult(tool="yosys", accepted=accepted, words="" if accepted else _last(words))


def _run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=toolchain.verilator_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def _result(
    tool: str, done: subprocess.CompletedProcess[str], folder: Path, *, quiet: bool
) -> LintResult:
    warned = "%Warning" in done.stdout or "%Error" in done.stdout if quiet else False
    accepted = done.returncode == 0 and not warned
    words = "" if accepted else _last(done.stdout.replace(f"{folder}/", ""))
    return LintResult(tool=tool, accepted=accepted, words=words)


def _last(text: str, lines: int = 12) -> str:
    complaints = [line for line in text.splitlines() if re.search("warning|error", line, re.I)]
    return "\n".join((complaints or text.strip().splitlines())[:lines])
