"""How long every format takes for a 4096 × 4096 matrix: ``python -m sw_driver.quantize.speed``.

Processor time of one thread, the best of some runs; float32 in, codes and scales out, and back.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import numpy as np

from hw.formats import BLOCK_FORMATS, FP8_E4M3, FP8_E5M2, bfp
from sw_driver.quantize.blocks import encode, quantize_blocks
from sw_driver.quantize.integers import SCHEMES, Group, quantize_activations
from sw_driver.quantize.treatments import Treatment
from sw_driver.report import Table

Case = tuple[str, Callable[[], Any]]


def cases(x: np.ndarray, group: int) -> list[Case]:
    """Every format, and every way to a scale, by name."""
    found: list[Case] = []
    widths = {
        "asymmetric": (2, 4, 8), "symmetric": (2, 4, 8), "bipolar": (1, 4, 8), "ternary": (2,),
    }  # fmt: skip
    among: tuple[Group, ...] = ("tensor", "channel", group)
    for scheme, quantize in SCHEMES.items():
        for bits, each, clip in itertools.product(widths[scheme], among, ("absmax", "mse")):
            name = f"{scheme} {bits} bits, {clip}, {each}"
            found.append((name, partial(quantize, x, bits, each, clip=clip)))
    found.append(("activations 8 bits, token", partial(quantize_activations, x)))
    more = (bfp(block=64, mantissa_bits=4), bfp(block=128, mantissa_bits=8))
    for form in (*BLOCK_FORMATS.values(), *more):
        found.append((form.name, partial(quantize_blocks, x, form)))
    for narrow in (FP8_E4M3, FP8_E5M2):
        found.append((narrow.name, partial(encode, x, narrow)))
    for treatment in (Treatment(name="hadamard", hadamard=16), Treatment(name="sort", sort=True)):
        found.append((f"treatment {treatment.name}", partial(treatment.apply, x[:1], x)))
    return found


def milliseconds(work: Callable[[], Any], times: int) -> float:
    """Least processor time of some runs."""
    least = float("inf")
    for _ in range(times):
        start = time.process_time()
        work()
        least = min(least, time.process_time() - start)
    return least * 1e3


@click.command()
@click.option("--size", default=4096, show_default=True, help="Rows and columns.")
@click.option("--group", default=128, show_default=True, help="Elements that share a scale.")
@click.option(
    "--times", default=3, show_default=True, help="Runs of each, of which the best counts."
)
@click.option("--format", "wanted", default="", help="Only formats whose name has this in it.")
def main(size: int, group: int, times: int, wanted: str) -> None:
    """Measure the quantizers."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((size, size), dtype=np.float32) * np.float32(0.02)
    rows = []
    for name, work in cases(x, group):
        if wanted not in name:
            continue
        made = work()
        back = getattr(made, "dequantized", None)
        rows.append(
            (
                name,
                f"{milliseconds(work, times):.1f}",
                "–" if back is None else f"{milliseconds(back, times):.1f}",
            )
        )
    click.echo(Table(columns=("format", "ms", "back, ms"), rows=rows))


if __name__ == "__main__":
    main()
