"""The verb ``rtlgen verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click

from rtl_gen import console


@console.command("verify")
@console.spec_argument
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=2,
    show_default=True,
    help="Number of random seeds.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31), default=0, show_default=True, help="The first of them."
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 10_000),
    default=12,
    show_default=True,
    help="Jobs in a scenario of the cocotb bench.",
)
@click.option(
    "--bench",
    type=click.Choice(["both", "cocotb", "compiled"]),
    default="both",
    show_default=True,
    help="Which benches run.",
)
@click.option(
    "--verilog",
    "verilog_file",
    metavar="FILE.v",
    type=click.Path(path_type=Path),
    help="Another text for this specification, an edited one, in place of what it emits.",
)
@click.option("--wave", is_flag=True, help="Leave a waveform (FST).")
@click.option(
    "-o",
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build"),
    show_default=True,
    help="Where the waveform goes.",
)
@console.json_option
def verify(
    spec_file: Path,
    seeds: int,
    seed: int,
    jobs: int,
    bench: str,
    verilog_file: Path | None,
    wave: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Hold the Verilog against its golden model and cycles.

    Lint with the shipped waivers, a cocotb bench under Verilator, and a larger set of vectors
    through a compiled model. A failure names the first element that differs, its inputs and its
    cycle.
    """
    from rtl_gen.errors import VerificationError
    from rtl_gen.specfile import load_spec
    from sim import verify as verification

    spec = load_spec(spec_file)
    report = verification.verify(
        spec,
        seeds=verification.seeds_from(seeds, seed),
        works=jobs,
        benches=cast(verification.Benches, bench),
        wave=out / f"{spec.name}.fst" if wave else None,
        verilog=None if verilog_file is None else _text(verilog_file),
    )
    if as_json:
        console.echo_json(report.as_dict())
    else:
        _print(report)
    if not report.passed:
        # With --json the report has said it already; the status and one line remain.
        raise VerificationError("\n".join(report.problems))


def _text(file: Path) -> str:
    """The text of a Verilog file.

    Raises:
        InputError: it cannot be read.
    """
    from rtl_gen.errors import InputError

    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{file}: cannot be read, {reason}") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: must be UTF-8 text, got byte 0x{error.object[error.start]:02x}"
        ) from None


def _print(report: Any) -> None:
    lint = ", ".join(
        f"{item.tool} {'accepts' if item.accepted else 'complains'}" for item in report.lint
    )
    click.echo(f"{report.spec.name}: lint: {lint}")
    if report.benches:
        _print_benches(report)
    click.echo(f"{report.spec.name}: {'passed' if report.passed else 'FAILED'}")


def _print_benches(report: Any) -> None:
    seeds = report.seeds
    span = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
    console.echo_table(
        [
            "bench",
            "scenarios",
            "jobs",
            "vectors",
            "cycles",
            "runs without stall",
            "cycles predicted",
            "observed",
        ],
        [
            [
                bench.name,
                bench.tally.scenarios,
                bench.tally.works,
                bench.tally.vectors,
                bench.tally.cycles,
                bench.tally.contracts,
                bench.tally.predicted,
                bench.tally.observed,
            ]
            for bench in report.benches
        ],
        title=f"{report.spec.name}, seeds {span}",
    )
    hit = len(report.points) - len(report.missed)
    click.echo(f"functional coverage: {hit} of {len(report.points)} points")
    if not any(bench.failure for bench in report.benches):  # which ends a bench early
        for point in report.missed:
            click.echo(f"  not hit: {point}")
    if report.wave is not None:
        click.echo(f"waveform: {report.wave}")
