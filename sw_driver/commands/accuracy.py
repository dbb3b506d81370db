"""The verb ``rtlgen accuracy``."""

from __future__ import annotations

from pathlib import Path

import click

from rtl_gen import console
from rtl_gen.errors import InputError
from sw_driver.commands.options import group_option, picture_option


@console.command()
@click.argument(
    "spec_files",
    metavar="SPEC.yaml...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
)
@click.option(
    "--model",
    metavar="DIR",
    default="minilm",
    show_default=True,
    help="Folder of a BERT checkpoint, or minilm for the packaged one.",
)
@click.option("--layer", metavar="N", type=int, default=0, show_default=True, help="Which layer.")
@click.option(
    "--weight-bits",
    metavar="BITS",
    type=int,
    multiple=True,
    help="Width of integer weights; may be repeated. Default: each core's widest up to 8.",
)
@click.option(
    "--activation-bits",
    metavar="BITS",
    type=int,
    multiple=True,
    help="Width of activations where jobs choose it; may be repeated. Default: the widest.",
)
@group_option("integer weights")
@click.option(
    "--hadamard",
    metavar="SIZE",
    type=int,
    default=16,
    show_default=True,
    help="Size of the blocks that are rotated.",
)
@click.option("--text", help="The sentence that the activations come from.")
@click.option("--rtl", is_flag=True, help="Run every product on the simulated RTL and compare.")
@picture_option("the errors")
@console.json_option
def accuracy(
    spec_files: tuple[Path, ...],
    model: str,
    layer: int,
    weight_bits: tuple[int, ...],
    activation_bits: tuple[int, ...],
    group: int,
    hadamard: int,
    text: str | None,
    rtl: bool,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Measure the error of cores' number formats on a real layer.

    Every projection of an encoder layer and the scores of its attention, quantized to what each
    core takes, against float32: plain, rotated by Hadamard blocks, with the elements of K sorted,
    and both.
    """
    from rtl_gen.errors import VerificationError
    from rtl_gen.specfile import load_specs
    from sw_driver.measure.accuracy import accuracy as measured
    from sw_driver.report import check_picture
    from sw_driver.runner.run import DEFAULT_TEXT

    if picture is not None:
        check_picture(picture)
    if text is not None and not text.strip():
        raise InputError("text: must not be empty")
    report = measured(
        load_specs(spec_files),
        model=model,
        layer=layer,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        group=group,
        hadamard=hadamard,
        text=DEFAULT_TEXT if text is None else text,
        rtl=rtl,
    )
    if picture is not None:
        report.save_picture(picture)
    click.echo(report.json() if as_json else str(report))
    if report.failures:
        raise VerificationError("\n".join(report.failures))
