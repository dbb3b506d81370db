"""The part that runs in a process of its own: cocotb's runner changes the environment it runs in.

``python -m sim.cocotb_runner build|test JOB.json``; started by :mod:`sim.cocotb_run`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any


def build(job: dict[str, Any]) -> None:
    """Compile the simulator into ``build_dir``."""
    from cocotb_tools.runner import get_runner

    get_runner("verilator").build(
        sources=[Path(source) for source in job["sources"]],
        hdl_toplevel=job["top"],
        build_args=job["args"],
        build_dir=job["build_dir"],
        waves=job["trace"],
        always=True,
    )


def test(job: dict[str, Any]) -> None:
    """Run the bench in a simulator that was built before."""
    from cocotb_tools.runner import get_runner

    args = ["--trace-file", job["trace"]] if job["trace"] else []
    get_runner("verilator").test(
        test_module="sim.bench",
        hdl_toplevel=job["top"],
        hdl_toplevel_lang="verilog",
        build_dir=job["build_dir"],
        test_dir=job["test_dir"],
        results_xml=job["results"],
        waves=bool(job["trace"]),
        test_args=args,
    )


def main() -> None:
    """Entry of the process."""
    kind, file = sys.argv[1:]
    job = json.loads(Path(file).read_text())
    try:
        (build if kind == "build" else test)(job)
    except (RuntimeError, subprocess.CalledProcessError) as error:
        # What the tool itself said stands before this, and is what its caller shows.
        raise SystemExit(f"cocotb: {error}") from None


if __name__ == "__main__":
    if shutil.which("verilator") is None:
        raise SystemExit("verilator: not on PATH")
    main()
