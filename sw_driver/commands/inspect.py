"""The verb ``rtlgen inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from rtl_gen import console


@console.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--all", "every", is_flag=True, help="List every tensor, layer by layer.")
@console.json_option
def inspect(path: Path, every: bool, as_json: bool) -> None:
    """List what a checkpoint holds: tensors, formats, bits a weight.

    PATH is a Hugging Face folder with its safetensors files (plain, GPTQ, AWQ, BitNet or FP8), a
    safetensors file, or a GGUF file. Only headers are read.
    """
    from sw_driver.checkpoint.inspect_report import inspect_checkpoint

    report = inspect_checkpoint(path, every=every)
    click.echo(report.json() if as_json else str(report))
