"""The verb ``rtlgen run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rtl_gen import console
from rtl_gen.errors import InputError
from sw_driver.commands.options import activation_bits_option, group_option, picture_option


@console.command()
@console.spec_argument
@click.option(
    "--model",
    metavar="CHECKPOINT",
    default="minilm",
    show_default=True,
    help="A checkpoint: a folder, a safetensors or a GGUF file, or minilm for the packaged one.",
)
@click.option(
    "--layer",
    "--layers",
    "layer",
    metavar="N|all",
    default="0",
    show_default=True,
    help="Which layer, or all of them.",
)
@click.option(
    "--weight-bits",
    metavar="BITS",
    type=int,
    multiple=True,
    help="Width that weights are quantized to; may be repeated. Default: as the checkpoint stores "
    "them; floats at 1, 2 and 4 bits (2 and 4 for all layers) as far as the core has them.",
)
@activation_bits_option
@group_option("weights that are quantized here")
@click.option(
    "--clip",
    type=click.Choice(["absmax", "mse"]),
    default="absmax",
    show_default=True,
    help="Codes of weights that are quantized here span a group, or err least in the square.",
)
@click.option(
    "--text",
    multiple=True,
    help="A text that the activations come from; may be repeated.",
)
@click.option(
    "--text-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Texts, one a line.",
)
@click.option(
    "--tokens",
    metavar="1,2,3",
    multiple=True,
    help="Token numbers in the place of a text; may be repeated.",
)
@click.option(
    "--jobs",
    metavar="N",
    type=int,
    help="Instances of the core that share the work. Default: one for each core of this machine.",
)
@click.option(
    "--scales",
    type=click.Choice(["software", "rtl"]),
    default="software",
    show_default=True,
    help="Where the groups of integers are scaled and summed: in float32, or by scale_accumulate.",
)
@picture_option("cycles and similarities")
@console.json_option
def run(
    spec_file: Path,
    model: str,
    layer: str,
    weight_bits: tuple[int, ...],
    activation_bits: int | None,
    group: int,
    clip: str,
    text: tuple[str, ...],
    text_file: Path | None,
    tokens: tuple[str, ...],
    jobs: int | None,
    scales: str,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Run a layer or a model with real weights on the simulated RTL.

    The projections are packed, as the checkpoint stores them or quantized, and sent with a text's
    activations through the Verilated core. Results are compared bit for bit with the reference,
    and by cosine with float32.
    """
    from rtl_gen.errors import VerificationError
    from rtl_gen.specfile import load_spec
    from sw_driver.report import check_picture
    from sw_driver.runner.run import check_layers, run_layer, run_model
    from sw_driver.text.prompts import texts_in, token_numbers

    if picture is not None:
        check_picture(picture)
    number = check_layers(layer)
    if not all(item.strip() for item in text):
        raise InputError("text: must not be empty")
    if text_file is not None and text:
        raise InputError("--text-file: give texts or a file of them, not both")
    texts = list(text) if text_file is None else texts_in(text_file)
    numbers = [token_numbers(item) for item in tokens]
    spec = load_spec(spec_file)
    settings: dict[str, Any] = {
        "model": model,
        "weight_bits": weight_bits or None,
        "activation_bits": activation_bits,
        "group": group,
        "text": texts or None,
        "tokens": numbers or None,
        "hardware_scales": scales == "rtl",
        "clip": clip,
        "jobs": jobs,
    }
    report: Any
    if number is None:
        report = run_model(spec, **settings)
    else:
        report = run_layer(spec, layer=number, **settings)
    if picture is not None:
        report.save_picture(picture)
    click.echo(report.json() if as_json else str(report))
    if report.failures:
        raise VerificationError("\n".join(report.failures))
