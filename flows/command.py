"""The verb ``rtlgen synth``."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from rtl_gen import console

_FILE = click.Path(path_type=Path, dir_okay=False)


@console.command("synth")
@console.spec_argument
@click.option(
    "--liberty",
    metavar="FILE",
    type=_FILE,
    help="Cell library (.lib or .lib.gz): areas in its unit, delays in ns.",
)
@click.option(
    "--target",
    type=click.Choice(["ecp5", "ice40", "xilinx"]),
    help="An FPGA family instead of cells: LUTs, registers, block RAM, DSP.",
)
@click.option(
    "--clock",
    "clock_ns",
    metavar="NS",
    type=click.FloatRange(min=0, min_open=True),
    help="Clock period to meet; the specification's by default.",
)
@click.option(
    "--objective",
    type=click.Choice(["clock", "area", "density"]),
    default="clock",
    show_default=True,
    help="Least area that meets the clock, least area, or most throughput per area.",
)
@click.option(
    "--effort",
    type=click.Choice(["fast", "normal", "high"]),
    default="normal",
    show_default=True,
    help="How many recipes are tried.",
)
@click.option(
    "--wire-cap",
    metavar="FF",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Wire capacitance for every pin a net reaches, fF.",
)
@click.option(
    "--netlist",
    metavar="FILE",
    type=_FILE,
    help="Write the mapped Verilog; -DRTLGEN_CELLS turns on the models of its cells.",
)
@click.option("-o", "--out", metavar="FILE", type=_FILE, help="Write the report as JSON as well.")
@console.json_option
def synth(
    spec_file: Path,
    liberty: Path | None,
    target: str | None,
    clock_ns: float | None,
    objective: str,
    effort: str,
    wire_cap: float,
    netlist: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Area by sub-block, cells, flip-flops and critical delay.

    Without an option it uses an embedded technology that needs no file and reports NAND2
    equivalents. Every design goes through the same recipes and the best of each module is kept.
    """
    from rtl_gen.errors import InputError
    from rtl_gen.specfile import load_spec

    if target is not None and liberty is not None:
        raise InputError("--target: an FPGA family has no Liberty file; give one of the two")
    if target is not None and netlist is not None:
        raise InputError("--netlist: an FPGA family has no cell netlist; give one of the two")
    if objective != "clock" and clock_ns is not None:
        raise InputError(f"--clock: the objective {objective} has no clock to meet")
    spec = load_spec(spec_file)
    with (
        nullcontext() if out is None else console.output_file(out) as file,
        nullcontext() if netlist is None else console.output_file(netlist) as mapped,
    ):
        if target is not None:
            report = _fpga(spec, target)
        else:
            report = synthesize_spec(
                spec,
                liberty=liberty,
                clock_ns=clock_ns,
                objective=objective,
                effort=effort,
                wire_cap=wire_cap,
                netlist=mapped,
                progress=True,
            )
        further = {**per_mac(spec, report), **in_process(spec, report)}
        data = {"spec_digest": spec.digest, **further, **report.as_dict()}
        if file is not None:
            text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False)
            file.write_text(text + "\n", encoding="utf-8")
    if as_json:
        console.echo_json(data)
        return
    click.echo(report.table())
    for name, value in further.items():
        click.echo(f"  {name.replace('_', ' ')}: {value:,.2f}")


def synthesize_spec(
    spec: Any,
    *,
    liberty: Path | None = None,
    clock_ns: float | None = None,
    objective: str = "clock",
    effort: str = "normal",
    wire_cap: float = 0.0,
    netlist: Path | None = None,
    progress: bool = False,
) -> Any:
    """Synthesize what a specification builds.

    Args:
        spec: any block's specification.
        liberty: cell library by path; the embedded technology if None.
        clock_ns: period to meet with the objective ``clock``; the specification's if None.
        objective: ``clock``, ``area`` or ``density``.
        effort, wire_cap: see :func:`flows.synthesis.synthesize`.
        netlist: file for the mapped Verilog.
        progress: show progress on standard error.

    Raises:
        LibertyError, FlowError: see :func:`flows.synthesis.synthesize`.
    """
    from rtl_gen.build import verilog

    if objective == "clock" and clock_ns is None:
        clock_ns = 1000.0 / spec.clock_mhz
    return synthesize_verilog(
        verilog(spec),
        spec.name,
        liberty=liberty,
        clock_ns=clock_ns if objective == "clock" else None,
        objective="density" if objective == "density" else "area",
        effort=effort,
        wire_cap=wire_cap,
        netlist=netlist,
        progress=progress,
    )


def synthesize_verilog(text: str, top: str, *, netlist: Path | None = None, **options: Any) -> Any:
    """Synthesize Verilog text.

    Args:
        netlist: file for the mapped Verilog.
        text, top, options: as of :func:`implement_verilog`, which raises what this does.
    """
    from flows.technology import write_whole

    found = implement_verilog(text, top, **options)
    if netlist is not None:
        write_whole(netlist, found.verilog())
    return found.report


def implement_verilog(
    text: str,
    top: str,
    *,
    liberty: Path | None = None,
    clock_ns: float | None = None,
    objective: str = "area",
    effort: str = "normal",
    wire_cap: float = 0.0,
    progress: bool = False,
) -> Any:
    """Verilog text in cells; arguments as of :func:`flows.synthesis.implement`.

    Raises:
        LibertyError, FlowError: see :func:`flows.synthesis.implement`.
    """
    import tempfile

    from flows.synthesis import implement
    from flows.technology import Technology
    from rtl_gen.cache import cache_dir

    technology = Technology.embedded() if liberty is None else Technology.liberty(liberty)
    with tempfile.TemporaryDirectory(prefix="rtlgen-synth-") as folder:
        source = Path(folder, "design.v")
        source.write_text(text)
        with console.Progress(f"synthesizing {top}", None, enabled=progress) as shown:
            return implement(
                source,
                top,
                technology=technology,
                clock_ns=clock_ns,
                objective=objective,
                effort=effort,
                cache_dir=cache_dir(),
                wire_cap_per_fanout=wire_cap,
                progress=lambda label, done, total: shown.update(
                    done=done, total=total, description=label
                ),
            )


def per_mac(spec: Any, report: Any) -> dict[str, float]:
    """Area and throughput per multiply-accumulate, for GEMM cores mapped onto cells.

    A MAC is one activation times all weight planes that a beat carries: with planes serial a
    one-bit MAC. Of a core whose steps take several cycles (``own_control``) it is a MAC a cycle of
    its widest job. Throughput density is MACs per ns and mm² at the report's own delay.
    """
    from hw.gemm import GemmSpec, Job

    if not isinstance(spec, GemmSpec) or not hasattr(report, "area"):
        return {}
    macs: float = spec.tile.m * spec.tile.n * spec.tile.k
    if spec.own_control:
        macs /= spec.step_cycles(Job(k_steps=1, weight_bits=spec.max_weight_bits))
    found = {"macs_per_cycle": float(macs), "area_per_mac": report.area / macs}
    if report.area_unit != "NAND2" and report.delay_ns > 0:
        found["macs_per_ns_mm2"] = 1e6 * macs / report.area / report.delay_ns
    return found


def in_process(spec: Any, report: Any) -> dict[str, float]:
    """Area in another process than the library's, for blocks that stand in one.

    Logic beside a DRAM bank is made in the DRAM's process; ``process_factor`` of its specification
    is what that takes for an area of the library, and is shown with the product, never hidden.
    """
    factor = getattr(spec, "process_factor", None)
    if factor is None or not hasattr(report, "area"):
        return {}
    return {"process_factor": factor, "area_in_process": factor * report.area}


def _fpga(spec: Any, target: str) -> Any:
    import tempfile

    from flows.fpga import fpga
    from rtl_gen.build import verilog

    with tempfile.TemporaryDirectory(prefix="rtlgen-synth-") as folder:
        source = Path(folder, f"{spec.name}.v")
        source.write_text(verilog(spec))
        with console.Progress(f"synthesizing {spec.name} for {target}"):
            return fpga(source, spec.name, target=target)
