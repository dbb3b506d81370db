"""Density of both cores over one flow: ``python -m flows.bench [--liberty FILE]``.

Every row is a specification under ``hw/configs/density`` at its own clock; then plain ``*`` and
``+`` of the same shapes, see :mod:`flows.baseline`; then, for each precision, the most throughput
per area over pipeline depths (a specification field) of the serial K64 shapes at a fast clock.
Ratios are against the multiplier array of the same weight width and clock in the same run.
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
DEPTHS = ((1, "speed"), (2, "area"))
PEAK_CLOCK_MHZ = 1000.0
# Plain trees: weight bits, and whether ternary; with and without a register before the accumulator.
PLAIN = {
    "W1": (1, False),
    "W2": (2, False),
    "W4": (4, False),
    "W8": (8, False),
    "ternary": (2, True),
}
PLAIN_CLOCK = 2.0
# Forms of the serial K16 specification, at its clock.
FORMS: dict[str, dict[str, Any]] = {
    "full, groups of 1": {"table": {"group": 1, "form": "full"}},
    "full, groups of 2": {},
    "full, groups of 3": {"table": {"group": 3, "form": "full"}},
    "full, groups of 4": {"table": {"group": 4, "form": "full"}},
    "symmetric, groups of 2": {"table": {"group": 2, "form": "symmetric"}},
    "symmetric, groups of 3": {"table": {"group": 3, "form": "symmetric"}},
    "symmetric, groups of 4": {"table": {"group": 4, "form": "symmetric"}},
    "int8 entries, groups of 4": {"table": {"group": 4, "form": "full", "entries": "int8"}},
    "two's complement": {"weights": {"encoding": "twos_complement", "max_bits": 4}},
    "bipolar": {"weights": {"encoding": "bipolar", "max_bits": 4}},
    "bipolar, symmetric": {
        "weights": {"encoding": "bipolar", "max_bits": 4},
        "table": {"group": 2, "form": "symmetric"},
    },
    "max_bits 8": {"weights": {"encoding": "unsigned", "max_bits": 8}},
    "K 8": {"tile": {"m": 2, "n": 64, "k": 8}},
    "K 32": {"tile": {"m": 2, "n": 64, "k": 32}},
    "M 1": {"tile": {"m": 1, "n": 64, "k": 16}},
    "M 4": {"tile": {"m": 4, "n": 64, "k": 16}},
    "INT4 activations": {"activations": {"bits": 4}},
    "INT16 activations": {"activations": {"bits": 16}},
    "addend": {"addend": True},
}


@click.command()
@click.option("--liberty", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--effort", type=click.Choice(["fast", "normal", "high"]), default="normal")
@click.option("--only", metavar="TEXT", default="", help="Rows whose name holds this.")
@click.option("--forms", "forms_only", is_flag=True, help="Forms of one specification instead.")
@click.option("--peaks/--no-peaks", default=True, help="Throughput density as well.")
@console.json_option
def main(
    liberty: Path | None, effort: str, only: str, forms_only: bool, peaks: bool, as_json: bool
) -> None:
    """Area per MAC at a clock, and the most throughput per area, of both cores."""
    if forms_only:
        with console.exit_status():
            rows = list(forms(liberty, effort, only, progress=not as_json))
        if as_json:
            console.echo_json({"forms": rows})
        else:
            _print("forms of lut_serial_k16 at its clock", rows)
        return
    with console.exit_status():
        rows = list(clocked(liberty, effort, only, progress=not as_json))
        rows += plain(liberty, effort, only, progress=not as_json)
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
            yield _row(load_spec(path), path.stem, liberty, effort, progress)


def forms(
    liberty: Path | None, effort: str, only: str, *, progress: bool
) -> Iterator[dict[str, Any]]:
    """One row a variation of the serial K16 specification."""
    from hw.block import spec_from_dict
    from rtl_gen.specfile import load_spec

    file = files("hw").joinpath("configs", "density", "lut_serial_k16.yaml")
    base = load_spec(Path(str(file))).model_dump()
    for name, fields in FORMS.items():
        if only in name:
            spec = spec_from_dict({**base, **fields, "name": "lut_form"})
            yield _row(spec, name, liberty, effort, progress)


def plain(
    liberty: Path | None, effort: str, only: str, *, progress: bool
) -> Iterator[dict[str, Any]]:
    """One row a precision: the smaller of the plain trees that meet the clock."""
    from flows.baseline import plain_gemm
    from flows.command import synthesize_verilog

    m, n, k, activation_bits, max_k = 2, 64, 16, 8, 4096
    for label, (bits, ternary) in PLAIN.items():
        name = f"plain_{label.lower()}"
        if only not in name:
            continue
        found = []
        for registers in (0, 1):
            text = plain_gemm(
                name,
                weight_bits=bits,
                ternary=ternary,
                activation_bits=activation_bits,
                m=m,
                n=n,
                k=k,
                accumulator_bits=activation_bits + bits + (max_k - 1).bit_length(),
                registers=registers,
            )
            report = synthesize_verilog(
                text,
                name,
                liberty=liberty,
                clock_ns=PLAIN_CLOCK,
                effort=effort,
                progress=progress,
            )
            found.append(_figures(name, report, m * n * k))
        yield min(found, key=lambda row: (not row["met"], row["area"]))


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
                            "pipeline": {"front": 1, "heap": heap, "placement": placement},
                            "max_k": 4096,
                            "clock_mhz": PEAK_CLOCK_MHZ,
                            **fields,
                        }
                    ),
                    f"{name} heap {heap}",
                    liberty,
                    effort,
                    progress,
                )
                for heap, placement in DEPTHS
            ]
            done[key] = max(found, key=lambda row: float(row["throughput"]))
        best = dict(done[key])
        heap = best["name"].split()[-1]
        best["name"] = f"{name} (heap {heap})"
        best["throughput"] = float(best["throughput"]) / bits
        yield best


def _row(spec: Any, name: str, liberty: Path | None, effort: str, progress: bool) -> dict[str, Any]:
    from flows.command import synthesize_spec

    report = synthesize_spec(spec, liberty=liberty, effort=effort, progress=progress)
    return _figures(name, report, spec.tile.m * spec.tile.n * spec.tile.k)


def _figures(name: str, report: Any, macs: int) -> dict[str, Any]:
    return {
        "name": name,
        "clock_ns": report.clock_ns,
        "delay_ns": report.delay_ns,
        "met": report.met,
        "area": report.area,
        "area_unit": report.area_unit,
        "area_per_mac": report.area / macs,
        "throughput": macs / report.area / report.delay_ns * 1e6,
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
    twin = base.get(row["name"].replace("lut_", "mac_").replace("plain_", "mac_"))
    return f"{row['area_per_mac'] / twin:.2f}" if twin else ""


if __name__ == "__main__":
    main()
