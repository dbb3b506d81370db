"""Yosys and ABC, run as a process of their own: an error there can end the process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from rtl_gen.cache import cache_dir
from rtl_gen.errors import ToolError

_RUN = """
import sys
from pyosys import libyosys as ys
design = ys.Design()
for line in open(sys.argv[1], encoding="utf-8"):
    if line.strip():
        ys.run_pass(line.strip(), design)
"""
_LAST_WORDS = 3


def run(
    commands: Iterable[str], outputs: Sequence[str], *, folder: Path, timeout_s: float = 1800
) -> str:
    """Run commands in a folder, one a line; returns the log.

    Args:
        outputs: files in the folder that must be there afterwards.

    Raises:
        ToolError: the process failed or an output is missing.
    """
    script = folder / "script.ys"
    script.write_text("\n".join(commands) + "\n", encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RUN, script.name],
            capture_output=True,
            text=True,
            errors="replace",
            cwd=folder,
            check=False,
            timeout=timeout_s,
            env={**os.environ, "TMPDIR": str(folder)},
        )
    except subprocess.TimeoutExpired:
        raise ToolError("yosys", f"not done after {timeout_s:g} s") from None
    log = done.stdout + done.stderr
    missing = [name for name in outputs if not (folder / name).is_file()]
    if done.returncode or missing:
        digest = hashlib.sha256(script.read_bytes()).hexdigest()
        kept = cache_dir() / "logs" / f"yosys-{digest[:16]}.log"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(log, encoding="utf-8")
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR") or "Error" in line]
        words = " / ".join((errors or lines)[-_LAST_WORDS:]) or f"exit status {done.returncode}"
        if done.returncode < 0:
            words = f"killed by signal {-done.returncode}: {words}"
        raise ToolError("yosys", words, kept)
    return log


@cache
def versions() -> dict[str, str]:
    """Versions of the tools, for reports."""
    from importlib.metadata import version

    return {"pyosys": version("pyosys")}
