"""The verb ``rtlgen pim``."""

from __future__ import annotations

from pathlib import Path

import click

from rtl_gen import console
from sw_driver.commands.options import picture_option


@console.command()
@click.argument("model")
@click.option(
    "--system",
    metavar="SYSTEM.yaml",
    default="pim_gpt",
    show_default=True,
    help="The PIM system: a YAML file, or the name of a shipped one.",
)
@click.option(
    "--tokens",
    metavar="FIRST:LAST[:STEP]",
    default="1:1024",
    show_default=True,
    help="Tokens in the cache with the new one.",
)
@click.option(
    "--context",
    metavar="L",
    type=int,
    help="Tokens that space is reserved for (default: the model's positions).",
)
@click.option(
    "--placement",
    metavar="FILE.csv",
    type=click.Path(path_type=Path),
    help="Write what lies in which channel, bank and rows.",
)
@click.option(
    "--commands",
    metavar="FILE.csv",
    type=click.Path(path_type=Path),
    help="Write every command of the last token with its cycle.",
)
@picture_option("times over tokens")
@console.json_option
def pim(
    model: str,
    system: str,
    tokens: str,
    context: int | None,
    placement: Path | None,
    commands: Path | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Decode a model in memory: latency, row hits, bytes.

    MODEL is a Hugging Face config.json, the folder of one, or the name of a shipped one (gpt2-xl,
    gpt3-small, ...). Every command of every channel is scheduled, token after token from reset.
    """
    from sw_driver.pim.report import pim_model
    from sw_driver.report import check_picture

    if picture is not None:
        check_picture(picture)
    report = pim_model(
        model,
        system,
        tokens=tokens,
        context=context,
        placement_file=placement,
        commands_file=commands,
    )
    if picture is not None:
        report.save_picture(picture)
    click.echo(report.json() if as_json else str(report))
