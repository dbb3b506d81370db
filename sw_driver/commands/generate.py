"""The verb ``rtlgen generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rtl_gen import console
from sw_driver.commands.options import activation_bits_option, group_option


@console.command()
@console.spec_argument
@click.option(
    "--model",
    metavar="DIR",
    default="tiny",
    show_default=True,
    help="Folder of a decoder with its tokenizer.json, or tiny for the packaged one.",
)
@click.option("--prompt", metavar="TEXT", help="Text to go on from.")
@click.option(
    "--tokens", metavar="N", type=int, default=48, show_default=True, help="Tokens to write."
)
@click.option(
    "--weight-bits",
    metavar="BITS",
    type=int,
    help="Width of integer weights. Default: 4, or the widest of a core without.",
)
@activation_bits_option
@group_option("integer weights")
@click.option(
    "--temperature",
    metavar="T",
    type=float,
    default=0.0,
    show_default=True,
    help="Draw tokens from a softmax of this temperature; 0: take the most probable.",
)
@click.option(
    "--seed", metavar="N", type=int, default=0, show_default=True, help="Seed of the draws."
)
@click.option(
    "--on",
    type=click.Choice(["rtl", "golden", "float32"]),
    default="rtl",
    show_default=True,
    help="Where linear layers are computed; rtl and golden write the same text.",
)
@console.json_option
def generate(
    spec_file: Path,
    model: str,
    prompt: str | None,
    tokens: int,
    weight_bits: int | None,
    activation_bits: int | None,
    group: int,
    temperature: float,
    seed: int,
    on: str,
    as_json: bool,
) -> None:
    """Write text with every linear layer on the simulated RTL.

    The text appears as it is written; each product is compared bit for bit with the golden model,
    and the cycles of each operator with the mapper's.
    """
    from rtl_gen.errors import VerificationError
    from rtl_gen.specfile import load_spec
    from sw_driver.language.generate import DEFAULT_PROMPT, Sampling
    from sw_driver.language.generate import generate as generated

    given = DEFAULT_PROMPT if prompt is None else prompt
    where: Any = on

    def show(piece: bytes) -> None:
        # Bytes, as they come: a token may end within a letter.
        click.echo(piece, nl=False)

    shown = None if as_json else show
    report = generated(
        load_spec(spec_file),
        model=model,
        prompt=given,
        tokens=tokens,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        group=group,
        sampling=Sampling(temperature=temperature, seed=seed),
        on=where,
        show=shown,
    )
    if as_json:
        click.echo(report.json())
    else:
        click.echo(f"\n\n{report}")
    if report.failures:
        raise VerificationError("\n".join(report.failures))
