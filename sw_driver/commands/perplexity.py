"""The verb ``rtlgen perplexity``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rtl_gen import console
from rtl_gen.errors import InputError
from sw_driver.commands.options import activation_bits_option, group_option, picture_option


@console.command()
@click.argument("spec_files", metavar="[SPEC.yaml[@BITS,…]]...", nargs=-1)
@click.option(
    "--model",
    metavar="DIR",
    default="tiny",
    show_default=True,
    help="Folder of a decoder with its tokenizer.json, or tiny for the packaged one.",
)
@click.option(
    "--weight-bits",
    metavar="BITS",
    type=int,
    multiple=True,
    help="Width of integer weights; may be repeated. Default: each core's widest up to 8.",
)
@activation_bits_option
@group_option("integer weights")
@click.option(
    "--clip",
    type=click.Choice(["absmax", "mse", "exact"]),
    default="absmax",
    show_default=True,
    help="What a scale of integer weights spans.",
)
@click.option(
    "--hadamard",
    metavar="SIZE",
    type=int,
    default=0,
    show_default=True,
    help="Rotate both operands of every product in blocks of this size; 0: not.",
)
@click.option(
    "--float-head", is_flag=True, help="Leave the product with the vocabulary in float32."
)
@click.option(
    "--grouped-activations",
    is_flag=True,
    help="Give integer activations a scale for each group instead of one a token.",
)
@click.option(
    "--kv",
    "caches",
    metavar="FORMAT",
    multiple=True,
    help="Measure a cache, too: int, kivi or xquant with bits, as int8, kivi2:32+64 (group, latest "
    "tokens that stay plain); may be repeated.",
)
@click.option(
    "--text-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Text to read, UTF-8. Default: documentation that the packaged model has not seen.",
)
@click.option("--context", metavar="N", type=int, help="Tokens of a window. Default: 256 at most.")
@picture_option("perplexity against bits a weight")
@click.option(
    "-o", "--out", metavar="FILE", type=click.Path(path_type=Path), help="Write the JSON as well."
)
@console.json_option
def perplexity(
    spec_files: tuple[str, ...],
    model: str,
    weight_bits: tuple[int, ...],
    activation_bits: int | None,
    group: int,
    clip: str,
    hadamard: int,
    float_head: bool,
    grouped_activations: bool,
    caches: tuple[str, ...],
    text_file: Path | None,
    context: int | None,
    picture: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Perplexity of a language model in the formats of cores.

    Every linear layer, the product with the vocabulary included, goes through the golden model of
    each core, at the widths of --weight-bits or at those behind its @ (lut_core.yaml@2,4); float32
    is measured beside them.
    """
    from contextlib import nullcontext

    from rtl_gen.specfile import load_specs
    from sw_driver.commands.options import widths_behind
    from sw_driver.language.perplexity import Wanted
    from sw_driver.language.perplexity import perplexity as measured
    from sw_driver.language.quantized_caches import parse_cache
    from sw_driver.report import check_picture

    if picture is not None:
        check_picture(picture)
        if not spec_files:
            raise InputError("picture: needs a SPEC.yaml to draw")
    kinds = [parse_cache(text) for text in caches]
    asked = widths_behind(spec_files)
    specs = load_specs(asked) if asked else []
    chosen: Any = clip
    with nullcontext() if out is None else console.output_file(out) as file:
        report = measured(
            specs,
            model=model,
            widths={
                spec.name: bits for spec, bits in zip(specs, asked.values(), strict=True) if bits
            },
            weight_bits=weight_bits,
            wanted=Wanted(
                group=group,
                activation_bits=activation_bits,
                clip=chosen,
                hadamard=hadamard,
                head=not float_head,
                grouped=grouped_activations,
            ),
            caches=kinds,
            text_file=text_file,
            context=context,
        )
        if file is not None:
            file.write_text(report.json() + "\n", encoding="utf-8")
    if picture is not None:
        report.save_picture(picture)
    click.echo(report.json() if as_json else str(report))
