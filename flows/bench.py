"""Density of both cores over one flow: ``python -m flows.bench [--liberty FILE]``.

Every row is a specification under ``hw/configs/density`` at its own clock. Then, for each
precision, the most throughput per area over pipeline depths (a specification field) of the K64
shapes. Ratios are against the multiplier array of the same weight width in the same run.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from rtl_gen import console

# Precision: specification fields, and weight bits a MAC is divided by where planes are serial.
PEAKS: dict[str, tuple[dict[str, Any], int]] = {
    "W1": ({"weights": {"encoding": "unsigned", "max_bits": 4}}, 1),
    "W2": ({"weights": {"encoding": "unsigned", "max_bits": 4}}, 2),
    "W4": ({"weights": {"encoding": "unsigned", "max_bits": 4}}, 4),
    "W8": ({"weights": {"encoding": "unsigned", "max_bits": 8}}, 8),
    "ternary": (
        {"weights": {"encoding": "ternary"}, "table": {"group": 2, "form": "symmetric"}},
        1,
    ),
}
DEPTHS = (1, 2)


@click.command()
@click.option("--liberty", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--effort", type=click.Choice(["fast", "normal", "high"]), default="normal")
@click.option("--only", metavar="TEXT", default="", help="Rows whose name holds this.")
@click.option("--peaks/--no-peaks", default=True, help="Throughput density as well.")
@console.json_option
def main(liberty: Path | None, effort: str, only: str, peaks: bool, as_json: bool) -> None:
    """Area per MAC at a clock, and the most throughput per area, of both cores."""
    with console.exit_status():
        rows = list(clocked(liberty, effort, only, progress=not as_json))
        best = list(densest(liberty, effort, only, progress=not as_json)) if peaks else []
    if as_json:
        console.echo_json({"clocked": rows, "densest": best})
        return
    _print("area per MAC and cycle at the clock", rows)
    if best:
        _print("most throughput per area over pipeline depths", best)


def clocked(
    liberty: Path | None, effort: str, only: str, *, progress: bool
) -> Iterator[dict[str, Any]]:
    """One row a shipped density specification."""
    from rtl_gen.specfile import load_spec

    folder = Path(str(files("hw").joinpath("configs", "density")))
    for path in sorted(folder.glob("*.yaml")):
        if only in path.stem:
            yield _row(load_spec(path), path.stem, liberty, effort, "clock", progress)


def densest(
    liberty: Path | None, effort: str, only: str, *, progress: bool
) -> Iterator[dict[str, Any]]:
    """One row a precision: the best pipeline depth of the K64 tile with planes serial."""
    from hw.block import spec_from_dict

    done: dict[str, dict[str, Any]] = {}
    for name, (fields, bits) in PEAKS.items():
        if only not in name:
            continue
        key = repr(fields)
        if key not in done:
            found = [
                _row(
                    spec_from_dict(
                        {
                            "block": "lut_core",
                            "name": "lut_peak",
                            "tile": {"m": 2, "n": 64, "k": 64},
                            "pipeline": {"front": 1, "heap": heap},
                            "max_k": 4096,
                            **fields,
                        }
                    ),
                    f"{name} heap {heap}",
                    liberty,
                    effort,
                    "density",
                    progress,
                )
                for heap in DEPTHS
            ]
            done[key] = max(found, key=lambda row: float(row["throughput"]))
        best = dict(done[key])
        heap = best["name"].split()[-1]
        best["name"] = f"{name} (heap {heap})"
        best["throughput"] = float(best["throughput"]) / bits
        yield best


def _row(
    spec: Any, name: str, liberty: Path | None, effort: str, objective: str, progress: bool
) -> dict[str, Any]:
    from flows.command import per_mac, synthesize_spec

    report = synthesize_spec(
        spec, liberty=liberty, objective=objective, effort=effort, progress=progress
    )
    figures = per_mac(spec, report)
    return {
        "name": name,
        "clock_ns": report.clock_ns,
        "delay_ns": report.delay_ns,
        "met": report.met,
        "area": report.area,
        "area_unit": report.area_unit,
        "area_per_mac": figures["area_per_mac"],
        "throughput": figures["macs_per_cycle"] / report.area / report.delay_ns * 1e6,
        "recipes": dict(report.recipes),
    }


def _print(title: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    unit = rows[0]["area_unit"]
    base = {row["name"]: row["area_per_mac"] for row in rows if row["name"].startswith("mac_")}
    click.echo(f"\n{title} ({unit})")
    console.echo_table(
        ["specification", "clock ns", "delay ns", f"{unit} per MAC", "to mac_core", "MAC/ns/mm²"],
        [
            [
                row["name"],
                "" if row["clock_ns"] is None else f"{row['clock_ns']:.2f}",
                f"{row['delay_ns']:.3f}" + ("" if row["met"] in (True, None) else " missed"),
                f"{row['area_per_mac']:.2f}",
                _ratio(row, base),
                f"{row['throughput']:,.0f}" if unit != "NAND2" else "",
            ]
            for row in rows
        ],
    )


def _ratio(row: dict[str, Any], base: dict[str, float]) -> str:
    """Area against the multiplier array of the same width and clock."""
    twin = base.get(row["name"].replace("lut_", "mac_"))
    return f"{row['area_per_mac'] / twin:.2f}" if twin else ""


if __name__ == "__main__":
    main()
