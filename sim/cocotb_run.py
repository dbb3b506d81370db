"""Runs the cocotb bench: builds the simulator once per design, starts it, reads its results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw.spec import BlockSpec
from rtl_gen.cache import cache_dir, digest, folder, tool_versions
from rtl_gen.console import Progress
from rtl_gen.errors import ToolError
from rtl_gen.manifest import CLOCK_PORT, RESET_PORT, StreamPorts
from sim import source, toolchain
from sim.compiled import Tally
from sim.harness import compile as harness_compile
from sim.stimulus import Failure


@dataclass(frozen=True, kw_only=True)
class CocotbResult:
    """What the cocotb bench found.

    Attributes:
        failure: the first thing that was wrong, or None.
        tally: what was tried.
        seconds: wall-clock time spent in the clock loop, packing not counted.
        wave: the waveform, if one was asked for.
        log: the simulator's output.
    """

    failure: Failure | None
    tally: Tally
    seconds: float
    wave: Path | None
    log: Path


def run(
    spec: BlockSpec,
    verilog: str,
    *,
    seeds: Sequence[int] = (0,),
    works: int = 12,
    large: int = 2,
    exhaustive_jobs: int = 600,
    wave: Path | None = None,
    speed_cycles: int | None = None,
    fast: bool = False,
    progress: bool = True,
) -> CocotbResult:
    """The bench against a Verilog text.

    Args:
        verilog: the text under test; its top module is ``spec.name``.
        seeds, works, large: size of the verification; see :func:`sim.stimulus.scenarios`.
        exhaustive_jobs: largest number of jobs for which every operand is tried.
        wave: file that receives the FST.
        speed_cycles: instead, one run of at least so many cycles, to be timed.
        fast: see :func:`build`.

    Raises:
        ToolMissingError, ToolError: a tool is missing or failed, or left no results.
    """
    with Progress(f"compiling the cocotb bench of {spec.name}", enabled=progress) as shown:
        simulator = build(spec, verilog, trace=wave is not None, fast=fast)
        with tempfile.TemporaryDirectory(prefix="rtlgen-bench-") as name:
            work = Path(name)
            request = {
                "kind": "verify" if speed_cycles is None else "speed",
                "spec": spec.model_dump(mode="json"),
                "seeds": list(seeds),
                "works": works,
                "large": large,
                "exhaustive_jobs": exhaustive_jobs,
                "cycles": speed_cycles,
                "report": str(work / "report.json"),
                "progress": str(work / "progress"),
            }
            (work / "request.json").write_text(json.dumps(request))
            shown.describe(f"cocotb: {spec.name}, seeds {', '.join(map(str, seeds))}")
            log = cache_dir() / "logs" / f"cocotb-{spec.digest[:16]}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            status = _simulate(spec, simulator, work, log, wave, shown)
            return _result(work, log, wave, status)


def build(spec: BlockSpec, verilog: str, *, trace: bool, fast: bool = False) -> Path:
    """The folder with the simulator of a text, from the cache if it was built before.

    Args:
        trace: with support for FST waveforms.
        fast: with the optimisation that Verilator's makefile asks for. It costs more time than it
            saves in a verification of some thousand cycles that Python drives.

    Raises:
        ToolMissingError: make, perl, g++ or Verilator is not there.
        ToolError: one of them failed.
    """
    for name in ("g++", "make", "perl"):
        toolchain.tool(name)
    toolchain.verilator_home()
    verilog, top = source.testbench(spec, verilog)
    sharing = harness_compile.repeated_modules(verilog)
    control = control_file(spec, sharing, top)
    key = digest(
        {
            "verilog": verilog,
            "control": control,
            "trace": trace,
            "fast": fast,
            "tools": [toolchain.versions(), dict(tool_versions("cocotb")), sys.executable],
            "form": 2,
        }
    )

    def make(place: Path) -> None:
        # Built elsewhere: what Verilator and make leave beside the simulator is not kept.
        with tempfile.TemporaryDirectory(prefix="rtlgen-cocotb-") as name:
            work = Path(name)
            (work / "design.v").write_text(verilog)
            (work / "control.vlt").write_text(control)
            job = {
                "top": top,
                "sources": [str(work / "control.vlt"), str(work / "design.v")],
                "args": _build_args(trace, work, shared=bool(sharing)),
                "trace": trace,
                "build_dir": str(work / "build"),
            }
            (work / "build.json").write_text(json.dumps(job))
            toolchain.run(
                [sys.executable, "-m", "sim.cocotb_runner", "build", str(work / "build.json")],
                "verilator",
                cwd=work,
                keep=key[:16],
                # The compiler's own temporary files go with the folder, whatever ends it.
                extra={**_environment(fast), "TMPDIR": str(work)},
            )
            (work / "build" / top).rename(place / top)

    return folder("cocotb", key, make)


def control_file(spec: BlockSpec, sharing: str, top: str | None = None) -> str:
    """A Verilator control file that shows the bench the ports of the top module and nothing else.

    Args:
        top: the top module; ``spec.name`` if None.

    cocotb's runner makes every wire of a design public. That keeps Verilator from optimising, and
    of a large core compiles for a quarter of an hour into a table of names that nobody looks up.
    """
    ports = [CLOCK_PORT, RESET_PORT]
    names = [stream.name for stream in (*source.streams(spec), *source.observed(spec))]
    ports += [f"{name}__{kind}" for name in names for kind in StreamPorts.model_fields]
    lines = [sharing.rstrip("\n") or "`verilator_config"]
    lines += [f'public_flat_rw -module "{top or spec.name}" -var "{port}"' for port in ports]
    return "\n".join([*lines, ""])


def _build_args(trace: bool, work: Path, *, shared: bool) -> list[str]:
    args = ["-O3", "--x-assign", "unique", "--x-initial", "unique", "--timescale", "1ns/1ps"]
    args.append("--no-public-flat-rw")  # see `control_file`
    args.append("-Wno-fatal")  # as in sim.harness.compile: warnings are for sim.lint
    # A unit of its own for the precompiled header fails on larger designs.
    args += ["--output-split", "0"] if not shared else ["--output-split", "20000"]
    if shared:
        args.append("-fno-dfg")
    if trace:
        args.append("--trace-fst")
        args += ["-CFLAGS", f"-I{harness_compile.fst_folder()}"]
        # Verilator's makefile asks for libraries whose functions those headers hold already.
        for name in ("liblz4.a", "libz.a"):
            (work / name).write_bytes(b"!<arch>\n")
        args += ["-LDFLAGS", f"-L{work}"]
    return args


def _environment(fast: bool = False) -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    # Without the first the rule for Verilator's precompiled header names a file that is not there;
    # the second because its makefile calls "python", which many systems do not have.
    flags = ["CFG_CXXFLAGS_PCH_I=-include", f"PYTHON3={sys.executable}"]
    flags += [] if fast else ["OPT_FAST=-O0"]
    return {"PYTHONPATH": path, "MAKEFLAGS": " ".join(flags)}


def _simulate(
    spec: BlockSpec, simulator: Path, work: Path, log: Path, wave: Path | None, shown: Progress
) -> int:
    job = {
        "top": source.top(spec),
        "build_dir": str(simulator),
        "test_dir": str(work),
        "results": str(work / "results.xml"),
        "trace": str(wave) if wave is not None else None,
    }
    (work / "test.json").write_text(json.dumps(job))
    env = {**toolchain.verilator_environment(), **_environment()}
    env["RTLGEN_BENCH"] = str(work / "request.json")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sim.cocotb_runner", "test", str(work / "test.json")],
            cwd=work,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None:
                time.sleep(0.05)
                _show(work / "progress", shown)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return int(process.returncode)


def _show(progress: Path, shown: Progress) -> None:
    try:
        done, total = map(int, progress.read_text().split())
    except (OSError, ValueError):
        return
    shown.update(done=done, total=total)


def _result(work: Path, log: Path, wave: Path | None, status: int) -> CocotbResult:
    report_file, results = work / "report.json", work / "results.xml"
    if not report_file.exists() or not results.exists():
        words = "\n".join(log.read_text(errors="replace").strip().splitlines()[-8:])
        raise ToolError("cocotb", f"ended with status {status} and no results\n{words}", log)
    report: dict[str, Any] = json.loads(report_file.read_text())
    failed = _failures(results)
    found = report["failure"]
    if bool(failed) != (found is not None):
        # The results file has the last word: an error outside the checks is no success.
        raise ToolError("cocotb", f"results and report disagree: {failed} failed", log)
    tally = Tally(**{**report["tally"], "coverage": set(report["tally"]["coverage"])})
    return CocotbResult(
        failure=None if found is None else Failure.from_dict(found),
        tally=tally,
        seconds=report["seconds"],
        wave=wave,
        log=log,
    )


def _failures(results: Path) -> int:
    from cocotb_tools.check_results import get_results

    total, failed = get_results(results)
    if total == 0:
        raise ToolError("cocotb", "the simulator ran no test")
    return int(failed)
