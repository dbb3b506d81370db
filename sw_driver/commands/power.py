"""The verb ``rtlgen power``."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import click

from rtl_gen import console
from sw_driver.commands.options import activation_bits_option

_FILE = click.Path(path_type=Path, dir_okay=False)


@console.command("power")
@console.spec_argument
@click.option(
    "--liberty",
    metavar="FILE",
    type=_FILE,
    required=True,
    help="Cell library with energies (.lib or .lib.gz).",
)
@click.option(
    "--clock",
    "clock_ns",
    metavar="NS",
    type=click.FloatRange(min=0, min_open=True),
    help="Clock period to meet and to run at; the specification's by default.",
)
@click.option(
    "--weight-bits",
    metavar="BITS",
    type=int,
    multiple=True,
    help="Width of weights of a GEMM core; may be repeated. Default: its narrowest and widest.",
)
@activation_bits_option
@click.option(
    "--cycles",
    metavar="N",
    type=click.IntRange(16, 1_000_000),
    default=1000,
    show_default=True,
    help="Clock cycles to simulate, at least.",
)
@click.option("--seed", metavar="N", type=int, default=0, show_default=True, help="Of the data.")
@click.option(
    "--effort",
    type=click.Choice(["fast", "normal", "high"]),
    default="normal",
    show_default=True,
    help="How many recipes synthesis tries.",
)
@click.option(
    "--wire-cap",
    metavar="FF",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Wire capacitance for every pin a net reaches, fF.",
)
@click.option("-o", "--out", metavar="FILE", type=_FILE, help="Write the report as JSON as well.")
@console.json_option
def power(
    spec_file: Path,
    liberty: Path,
    clock_ns: float | None,
    weight_bits: tuple[int, ...],
    activation_bits: int | None,
    cycles: int,
    seed: int,
    effort: str,
    wire_cap: float,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure the power of the mapped netlist, running.

    The netlist is simulated gate by gate, with Gaussian operands quantized to what the core takes
    (other blocks: random works), no stream stalling; every change of a net is counted.
    """
    from rtl_gen.specfile import load_spec
    from sw_driver.measure.power import measure_power

    spec = load_spec(spec_file)
    with nullcontext() if out is None else console.output_file(out) as file:
        report = measure_power(
            spec,
            liberty,
            clock_ns=clock_ns,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            cycles=cycles,
            seed=seed,
            effort=effort,
            wire_cap=wire_cap,
            progress=True,
        )
        if file is not None:
            text = json.dumps(report.data, indent=2, ensure_ascii=False)
            file.write_text(text + "\n", encoding="utf-8")
    click.echo(report.json() if as_json else str(report))
