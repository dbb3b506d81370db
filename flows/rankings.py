"""Published rankings of hardware, measured: ``python -m flows.rankings [--liberty FILE]``.

Each ranking states areas relative to a base. Here both sides go through the same synthesis at the
same clock, everything in: ports, scales, accumulators, control. Agreement is of the order, and the
ratio is printed beside the published one.

Sources: "INT v.s. FP" (arXiv 2510.25602), gate model, area at equal throughput relative to MXFP8;
"FP8 versus INT8 for efficient deep learning inference" (arXiv 2303.17951), gate counts of a
multiplication and accumulation relative to INT8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from rtl_gen import console


@dataclass(frozen=True)
class Ranking:
    """Designs, and what was published of their areas.

    Attributes:
        base: the name of the design that the others are relative to.
        designs: by name a shipped density specification, or the fields of one.
        published: by name the area relative to the base.
    """

    title: str
    base: str
    designs: Mapping[str, str | Mapping[str, Any]]
    published: Mapping[str, float]


FP32 = {"kind": "fp32"}
FIXED = {"kind": "fixed", "low": -18, "bits": 49}
"""E4M3: 37 bits of a product and 12 for 4096 of them, exact."""


def _single(form: str, k: int, accumulator: Mapping[str, Any], heap: int) -> dict[str, Any]:
    if form == "int8":
        return {
            "block": "mac_core",
            "name": f"int8_k{k}",
            "tile": {"m": 2, "n": 16, "k": k},
            "weights": {"encoding": "twos_complement", "bits": 8},
            "pipeline": {"front": 1, "heap": heap},
        }
    return {
        "block": "fp_core",
        "name": f"{form}_{accumulator['kind']}_k{k}",
        "tile": {"m": 2, "n": 16, "k": k},
        "activations": {"format": form},
        "weights": {"format": form},
        "window": "exact",
        "accumulator": accumulator,
        "pipeline": {"front": 0, "heap": heap},
    }


SINGLES = {"fp8_e4m3, fixed": 1.53, "fp8_e4m3, FP32": 2.83}

RANKINGS = (
    Ranking(
        "block formats; published: relative to MXFP8",
        "mxfp8_e4m3",
        {
            "mxfp8_e4m3": "mx_fp8_e4m3",
            "mxint8": "mx_int8",
            "nvfp4": "mx_nvfp4",
            "nvint4": "mx_nvint4",
            "mxfp6_e2m3": "mx_fp6_e2m3",
            "mxint6": "mx_int6",
            "mxfp4": "mx_fp4",
            "mxint4": "mx_int4",
        },
        {"mxint8": 0.79, "nvfp4": 0.54, "nvint4": 0.38},
    ),
    *(
        Ranking(
            f"single formats, {'one product' if k == 1 else f'{k} products'} a step; published: "
            "one product, relative to INT8",
            "int8",
            {
                "int8": _single("int8", k, {}, 0 if k == 1 else 1),
                "fp8_e4m3, fixed": _single("fp8_e4m3", k, FIXED, 2),
                "fp8_e4m3, FP32": _single("fp8_e4m3", k, FP32, 2),
            },
            SINGLES,
        )
        for k in (1, 16)
    ),
)


@click.command()
@click.option("--liberty", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--effort", type=click.Choice(["fast", "normal", "high"]), default="normal")
@click.option("--only", metavar="TEXT", default="", help="Rankings whose title holds this.")
@console.json_option
def main(liberty: Path | None, effort: str, only: str, as_json: bool) -> None:
    """Areas of number formats relative to one another, beside the published ones."""
    with console.exit_status():
        found = [
            (ranking, list(rows(ranking, liberty, effort, progress=not as_json)))
            for ranking in RANKINGS
            if only in ranking.title
        ]
    if as_json:
        console.echo_json({ranking.title: measured for ranking, measured in found})
        return
    for ranking, measured in found:
        click.echo(f"\n{ranking.title} ({measured[0]['area_unit']})")
        console.echo_table(
            ["format", "delay ns", f"{measured[0]['area_unit']} per MAC", "ratio", "published"],
            [
                [
                    row["name"],
                    f"{row['delay_ns']:.3f}" + ("" if row["met"] else " missed"),
                    f"{row['area_per_mac']:.1f}",
                    f"{row['ratio']:.2f}",
                    "" if row["published"] is None else f"{row['published']:.2f}",
                ]
                for row in measured
            ],
        )


def rows(
    ranking: Ranking, liberty: Path | None, effort: str, *, progress: bool
) -> Iterator[dict[str, Any]]:
    """One row a design, the base first."""
    from flows.areas import synthesis

    base = None
    for name in [ranking.base, *(other for other in ranking.designs if other != ranking.base)]:
        spec = _spec(ranking.designs[name])
        report = synthesis(spec, liberty=liberty, effort=effort, progress=progress)
        each = report.area / (spec.tile.m * spec.tile.n * spec.tile.k)
        base = each if base is None else base
        yield {
            "name": name,
            "delay_ns": report.delay_ns,
            "met": report.met,
            "area_unit": report.unit,
            "area_per_mac": each,
            "ratio": each / base,
            "published": ranking.published.get(name),
        }


def _spec(design: str | Mapping[str, Any]) -> Any:
    from hw.block import spec_from_dict
    from rtl_gen.specfile import load_spec

    if isinstance(design, str):
        file = files("hw").joinpath("configs", "density", f"{design}.yaml")
        return load_spec(Path(str(file)))
    return spec_from_dict({"max_k": 4096, "clock_mhz": 500.0, **design})


if __name__ == "__main__":
    main()
