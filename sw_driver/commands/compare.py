"""The verb ``rtlgen compare``."""

from __future__ import annotations

from pathlib import Path

import click

from rtl_gen import console
from sw_driver.commands.options import group_option, picture_option, widths_behind


@console.command()
@click.argument(
    "spec_files",
    metavar="SPEC.yaml[@BITS,…]...",
    nargs=-1,
    required=True,
)
@click.option(
    "--model",
    default="llama-2-7b",
    show_default=True,
    help="Model to map: a config.json, its folder, or the name of a shipped one.",
)
@click.option("--prefill", metavar="N", type=int, help="Tokens of a prompt, all at once.")
@click.option("--decode", metavar="N", type=int, help="Tokens generated one by one.")
@click.option("--context", metavar="L", type=int, help="Tokens before the decoded ones.")
@click.option(
    "--weight-bits",
    metavar="BITS",
    type=int,
    multiple=True,
    help="Width of integer weights; may be repeated. Default: 1, 2, 4, 6 and 8.",
)
@group_option("integers", default=128)
@click.option(
    "--liberty",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Cell library (.lib or .lib.gz); the embedded technology without one.",
)
@click.option(
    "--effort",
    type=click.Choice(["fast", "normal", "high"]),
    default="normal",
    show_default=True,
    help="How many recipes synthesis tries.",
)
@click.option(
    "--accuracy/--no-accuracy",
    "measure",
    default=True,
    show_default=True,
    help="Measure the error on a real layer.",
)
@picture_option("areas and errors")
@click.option(
    "-o", "--out", metavar="FILE", type=click.Path(path_type=Path), help="Write the JSON as well."
)
@console.json_option
def compare(
    spec_files: tuple[str, ...],
    model: str,
    prefill: int | None,
    decode: int | None,
    context: int | None,
    weight_bits: tuple[int, ...],
    group: int,
    liberty: Path | None,
    effort: str,
    measure: bool,
    picture: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare cores: area, everything charged, cycles, bits and error.

    Every core goes through the same synthesis, with the units that scale its results and quantize
    its activations beside it, the same mapping of a model and the same real layer. A core is listed
    at the widths of --weight-bits, or at those behind its @: lut_core.yaml@2,4.
    """
    from contextlib import nullcontext

    from rtl_gen.specfile import load_specs
    from sw_driver.measure.compare import compare as compared
    from sw_driver.report import check_picture

    if picture is not None:
        check_picture(picture)
    asked = widths_behind(spec_files)
    specs = load_specs(asked)
    with nullcontext() if out is None else console.output_file(out) as file:
        report = compared(
            specs,
            model=model,
            prefill=prefill,
            decode=decode,
            context=context,
            weight_bits=weight_bits,
            widths={
                spec.name: bits for spec, bits in zip(specs, asked.values(), strict=True) if bits
            },
            group=group,
            liberty=liberty,
            effort=effort,
            measure=measure,
        )
        if file is not None:
            file.write_text(report.json() + "\n", encoding="utf-8")
    if picture is not None:
        report.save_picture(picture)
    click.echo(report.json() if as_json else str(report))
