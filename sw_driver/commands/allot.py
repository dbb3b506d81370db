"""The verb ``rtlgen allot``."""

from __future__ import annotations

from pathlib import Path

import click

from rtl_gen import console
from rtl_gen.errors import InputError
from sw_driver.commands.options import group_option, picture_option, widths_behind


@console.command()
@click.argument("model")
@click.option(
    "--core",
    "core_files",
    metavar="SPEC.yaml[@BITS,…]",
    required=True,
    multiple=True,
    help="A core that layers may have; may be repeated. The first one does attention.",
)
@click.option(
    "--budget",
    "budgets",
    metavar="METRIC=AMOUNT",
    multiple=True,
    help="At most so many cycles, bytes, size, seconds or area; 0.6x: of the reference.",
)
@click.option("--prefill", metavar="N", type=int, help="Tokens of a prompt, all at once.")
@click.option("--decode", metavar="N", type=int, help="Tokens generated one by one.")
@click.option("--context", metavar="L", type=int, help="Tokens before the decoded ones.")
@click.option("--batch", metavar="B", type=int, default=1, show_default=True, help="Sequences.")
@click.option(
    "--weight-bits",
    metavar="BITS",
    type=int,
    multiple=True,
    help="Width of integer weights; may be repeated. Default: 2, 3, 4, 6 and 8.",
)
@group_option("integers")
@click.option(
    "--buffer-kib",
    metavar="KIB",
    type=click.IntRange(0, 1 << 30),
    default=2048,
    show_default=True,
    help="On-chip operand buffer beside the core.",
)
@click.option("--text", "texts", multiple=True, help="A sentence to calibrate on; may be repeated.")
@click.option(
    "--rows",
    metavar="N",
    type=int,
    default=512,
    show_default=True,
    help="Rows of a layer that are measured where there are no activations.",
)
@click.option(
    "--sensitivity",
    type=click.Choice(["auto", "model", "layer", "weights"]),
    default="auto",
    show_default=True,
    help="Whose error: the model's with one layer quantized, the layer's own, or its weights'; by "
    "default the first that a model is small enough for.",
)
@click.option(
    "--area",
    "areas",
    metavar="FILE.json",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Areas of the cores: output of `rtlgen synth --json` or `rtlgen compare --json`.",
)
@click.option(
    "--efficiency",
    metavar="BETA",
    type=float,
    default=0.0,
    show_default=True,
    help="Weight of cycles in the objective, beside the error.",
)
@click.option(
    "--solver",
    type=click.Choice(["auto", "dp", "milp"]),
    default="auto",
    show_default=True,
    help="Dynamic programming for one budget, HiGHS (SciPy) for several.",
)
@click.option(
    "--points", type=int, default=12, show_default=True, help="Points of the curve of budgets."
)
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Run an encoder with what was chosen, on texts that nothing was chosen on.",
)
@picture_option("the curve and the bits")
@console.json_option
def allot(
    model: str,
    core_files: tuple[str, ...],
    budgets: tuple[str, ...],
    prefill: int | None,
    decode: int | None,
    context: int | None,
    batch: int,
    weight_bits: tuple[int, ...],
    group: int,
    buffer_kib: int,
    texts: tuple[str, ...],
    rows: int,
    sensitivity: str,
    areas: tuple[Path, ...],
    efficiency: float,
    solver: str,
    points: int,
    check: bool,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Choose bits and core of each layer: the proven best in budgets.

    MODEL is minilm, a folder of a BERT encoder (errors are measured on real activations), or
    another checkpoint (errors of the weights alone). Cycles, bytes and memory are the
    mapper's, of all phases; the allotment of least summed error within the budgets is exact.
    """
    from rtl_gen.specfile import load_specs
    from sw_driver.allot.allotment import allot as allotted
    from sw_driver.allot.allotment import parse_budget
    from sw_driver.report import check_picture

    if picture is not None:
        check_picture(picture)
    if any(not text.strip() for text in texts):
        raise InputError("text: must not be empty")
    asked = widths_behind(core_files)
    wanted = [parse_budget(text) for text in budgets]
    specs = load_specs(asked)
    report = allotted(
        model,
        specs,
        budgets=wanted,
        widths=weight_bits,
        widths_of={spec.name: bits for spec, bits in zip(specs, asked.values(), strict=True)},
        prefill=prefill,
        decode=decode,
        context=context,
        batch=batch,
        group=group,
        buffer_bytes=buffer_kib * 1024,
        texts=texts,
        rows=rows,
        sensitivity=sensitivity,  # type: ignore[arg-type]
        areas=areas,
        efficiency=efficiency,
        solver=solver,  # type: ignore[arg-type]
        points=points,
        check=check,
    )
    if picture is not None:
        report.save_picture(picture)
    click.echo(report.json() if as_json else str(report))
