"""The main job on the shipped core: build, verify, synthesize, map two models, run a real layer.

``python -m sw_driver.demo`` leaves the build, the reports and a picture below ``build/``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hw.gemm import GemmSpec
from rtl_gen import console
from rtl_gen.build import BuildResult, build
from rtl_gen.cache import cache_dir, new_file
from rtl_gen.errors import InputError, VerificationError
from rtl_gen.specfile import load_spec
from sw_driver import report as lay
from sw_driver.mapper.core import Core, core_of
from sw_driver.mapper.report import MapReport, draw_mapping, map_model, phase_title
from sw_driver.report import Table, save_picture
from sw_driver.runner.run import RunReport, draw_cosines, draw_cycles, run_layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flows import SynthReport

SPEC = Path(__file__).resolve().parent.parent / "hw" / "configs" / "lut_core.yaml"
MODELS = ("llama-2-7b", "bitnet-b1.58-3b")
PREFILL, DECODE = 512, 128
STEPS = 5


@contextmanager
def _step(number: int, what: str) -> Iterator[None]:
    """One step of the demonstration, with its time."""
    click.echo(f"[{number}/{STEPS}] {what} …")
    started = time.monotonic()
    yield
    click.echo(f"      {time.monotonic() - started:.1f} s")


def synthesis(built: BuildResult, spec: GemmSpec, report_file: Path) -> SynthReport:
    """Synthesis at the specification's clock in the embedded technology, kept as JSON."""
    from flows import synthesize

    with console.Progress(f"synthesizing {spec.name}") as shown:

        def progress(label: str, done: int, total: int) -> None:
            shown.update(done=done, total=total)

        result = synthesize(
            built.verilog,
            spec.name,
            clock_ns=1000 / spec.clock_mhz,
            cache_dir=cache_dir(),
            progress=progress,
        )
    text = json.dumps(result.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    _keep(report_file, text + "\n")
    return result


def _keep(file: Path, text: str) -> None:
    """A text in a file that appears whole."""
    with new_file(file) as work:
        work.write_text(text, encoding="utf-8")


def demonstrate(spec_file: Path, out: Path) -> Path:
    """Everything, into ``out``.

    Returns:
        The picture.

    Raises:
        InputError, VerificationError, ToolError: a step failed; the later ones are not begun.
    """
    from sim.verify import verify

    spec = load_spec(spec_file)
    if not isinstance(spec, GemmSpec):
        raise InputError(f"{spec_file}: block: must be a GEMM core, got {spec.block!r}")
    core = core_of(spec)
    place = out / "demo"
    with _step(1, f"build {spec_file.name}"):
        built = build(spec, out)
        lines = built.verilog.read_text(encoding="utf-8").count("\n")
        click.echo(f"      {built.verilog}, {lines:,} lines, design {built.manifest.digest[:16]}")
    with _step(2, "verify the Verilog under Verilator"):
        verdict = verify(spec)
        if not verdict.passed:
            raise VerificationError("\n".join(verdict.problems))
        works = sum(bench.tally.works for bench in verdict.benches)
        vectors = sum(bench.tally.vectors for bench in verdict.benches)
        predicted = sum(bench.tally.predicted for bench in verdict.benches)
        observed = sum(bench.tally.observed for bench in verdict.benches)
        hit = len(verdict.points) - len(verdict.missed)
        click.echo(
            f"      {works:,} jobs, {vectors:,} vectors, coverage {hit} of {len(verdict.points)} "
            f"points, {predicted:,} cycles predicted, {observed:,} observed"
        )
    synth_file = place / "synth.json"
    with _step(3, "synthesize it, everything included"):
        area = synthesis(built, spec, synth_file)
        click.echo(
            f"      {area.area:,.0f} {area.area_unit} in {area.technology}, {area.delay_ns:.2f} ns"
        )
    with _step(4, f"map {' and '.join(MODELS)}"):
        maps = [
            map_model(name, core, prefill=PREFILL, decode=DECODE, synth_report=synth_file)
            for name in MODELS
        ]
        for item in maps:
            _keep(place / f"{item.mappings[0].workload.name}.txt", f"{item}\n")
            for mapping in item.mappings:
                click.echo(
                    f"      {mapping.workload.name}, {phase_title(mapping)}: "
                    f"{lay.fixed(mapping.tokens_per_second, 4)} tokens/s"
                )
    with _step(5, "run a real layer of all-MiniLM-L6-v2 on the RTL"):
        layer = run_layer(spec)
        _keep(place / "layer.txt", f"{layer}\n")
        if layer.failures:
            raise VerificationError("\n".join(layer.failures))
        results = sum(item.results for item in layer.runs)
        cycles = sum(item.cycles for item in layer.runs)
        click.echo(
            f"      {len(layer.runs)} projections, {results:,} results, all bit-exact, {cycles:,} "
            "cycles as predicted"
        )
    click.echo(f"\n{summary(core, area, maps, layer)}\n")
    return save_picture(
        place / "demo.png",
        lambda figure: draw(figure, core, area, maps, layer),
        (14.0, 8.0),
    )


def summary(core: Core, area: SynthReport, maps: Sequence[MapReport], layer: RunReport) -> Table:
    """The result on one page."""
    unit = area.area_unit
    per_mac = area.area / (core.m * core.n * core.k)
    rows = [
        ("area, everything included", f"{area.area:,.0f}", unit),
        ("area per one-bit MAC a cycle", f"{per_mac:.1f}", unit),
        ("critical delay", f"{area.delay_ns:.2f}", "ns"),
    ]
    for item in maps:
        for mapping in item.mappings:
            work = mapping.workload
            bits = mapping.operators[0].bits
            rows.append(
                (
                    f"{work.name} W{bits}, {work.phase}",
                    lay.fixed(mapping.tokens_per_second, 4),
                    "tokens/s",
                )
            )
    for bits, value in layer.layer_cosine.items():
        cycles = sum(item.cycles for item in layer.runs if item.weight_bits == bits)
        rows.append((f"MiniLM layer on RTL, W{bits}", f"{cycles:,}", "cycles"))
        rows.append((f"MiniLM layer on RTL, W{bits}", f"{value:.4f}", "cosine to float32"))
    results = sum(item.results for item in layer.runs)
    wrong = sum(item.mismatches for item in layer.runs)
    rows.append(("results that differ from the reference", f"{wrong:,}", f"of {results:,}"))
    return Table(title=f"{core.name}: result", columns=("", "value", "unit"), rows=rows)


def draw(
    figure: Figure, core: Core, area: SynthReport, maps: Sequence[MapReport], layer: RunReport
) -> None:
    """Area, times of both models, and the layer on the RTL."""
    figure.suptitle(
        f"{core.name}: {core.m} × {core.n} × {core.k} a step, {core.clock_mhz:g} MHz, "
        f"{core.bandwidth_gb_s:g} GB/s",
        fontweight="bold",
        x=0.01,
        ha="left",
    )
    panels = figure.subplots(2, 3)
    _draw_area(panels[0, 0], area)
    for axes, item in zip(panels[0, 1:], maps, strict=True):
        mapping = item.mappings[-1]
        draw_mapping(axes, mapping)
        axes.tick_params(axis="x", rotation=45)
        axes.set_title(
            f"{mapping.workload.name} W{mapping.operators[0].bits}, {mapping.workload.phase}: "
            f"{lay.fixed(mapping.tokens_per_second, 3)} tokens/s"
        )
    panels[0, 1].legend(frameon=False, loc="upper left")
    _draw_rates(panels[1, 0], maps)
    draw_cycles(panels[1, 1], layer.runs)
    panels[1, 1].set_title("MiniLM layer: thousands of cycles on RTL")
    draw_cosines(panels[1, 2], layer.runs, layer.layer_cosine)
    panels[1, 2].set_title("MiniLM layer: cosine to float32")


def _draw_area(axes: Any, area: SynthReport) -> None:
    """Area by module, the largest on top."""
    by_module: dict[str, float] = {}
    for item in area.by_block:
        label = item.module.removeprefix(f"{area.top}_") if item.module != area.top else "top"
        by_module[label] = by_module.get(label, 0.0) + item.area
    parts = sorted(by_module.items(), key=lambda pair: pair[1])
    shown = [
        *([("others", sum(size for _, size in parts[:-6]))] if len(parts) > 6 else []),
        *parts[-6:],
    ]
    axes.barh([name for name, _ in shown], [size / 1e3 for _, size in shown], color=lay.GREEN)
    for place, (_, size) in enumerate(shown):
        axes.text(size / 1e3, place, f" {size / area.area:.1%}", va="center", fontsize=8)
    axes.margins(x=0.18)
    unit = "thousand NAND2 equivalents" if area.area_unit == "NAND2" else f"10³ {area.area_unit}"
    axes.set_xlabel(unit)
    axes.set_title(f"area by module: {area.area:,.0f} {area.area_unit}")


def _draw_rates(axes: Any, maps: Sequence[MapReport]) -> None:
    """Tokens per second of every model and phase."""
    names, values, colours = [], [], []
    for item, colour in zip(maps, (lay.BLUE, lay.ORANGE), strict=True):
        for mapping in item.mappings:
            names.append(f"{mapping.workload.name}\n{mapping.workload.phase}")
            values.append(mapping.tokens_per_second)
            colours.append(colour)
    axes.bar(names, values, color=colours)
    for place, value in enumerate(values):
        axes.text(place, value, lay.fixed(value, 3), ha="center", va="bottom", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.margins(y=0.15)
    axes.set_title("tokens per second")


@console.command()
@click.option(
    "-o",
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("build"),
    show_default=True,
    help="Where everything goes.",
)
def main(out: Path) -> None:
    """Build, verify, synthesize, map and run the shipped lut_core."""
    started = time.monotonic()
    picture = demonstrate(SPEC, out)
    click.echo(f"picture: {picture}, full reports beside it")
    click.echo(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
