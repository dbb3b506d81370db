"""A model's decode steps on a PIM system, as a report."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.blocks.pim_channel.phases import Pace
from hw.dram import Command
from rtl_gen import __version__
from rtl_gen.cache import new_file
from rtl_gen.errors import InputError
from sw_driver import report as lay
from sw_driver.architecture import Architecture, load_architecture
from sw_driver.pim.placement import Matrix, Placement, place
from sw_driver.pim.step import DecodeModel, Step, Traffic, best_splits, traffic
from sw_driver.pim.system import PimSystem, load_system
from sw_driver.report import Report, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LINES = 14
"""Tokens that the printed table shows; JSON has all of them."""


@dataclass(frozen=True, kw_only=True)
class PimReport(Report):
    """A report of decode steps.

    Attributes:
        placement: the model in the system. steps: of the tokens that were asked for.
    """

    placement: Placement
    steps: tuple[Step, ...]


def tokens_of(text: str) -> range:
    """``8``, ``1:1024`` or ``1:1024:16``: tokens in the cache, both ends counted.

    Raises:
        InputError: it is none of these.
    """
    found = re.fullmatch(r"(\d{1,7})(?::(\d{1,7}))?(?::(\d{1,7}))?", text)
    if found is None:
        raise InputError(f"tokens: must be N, FIRST:LAST or FIRST:LAST:STEP, got {text!r}")
    first = int(found[1])
    last = int(found[2] or first)
    step = int(found[3] or 1)
    if not 1 <= first <= last or step < 1:
        raise InputError(
            f"tokens: must be FIRST:LAST:STEP with 1 <= FIRST <= LAST and STEP >= 1, got {text!r}"
        )
    return range(first, last + 1, step)


def pim_model(
    model: str | Path | Architecture,
    system: str | Path | PimSystem,
    *,
    tokens: str | range = "1:1024",
    context: int | None = None,
    placement_file: Path | None = None,
    commands_file: Path | None = None,
) -> PimReport:
    """Decode steps of a model on a system, one after another from reset.

    Args:
        model: name of a shipped configuration, path of a ``config.json`` or of its folder.
        system: name of a shipped system, or path of its YAML file.
        tokens: see :func:`tokens_of`; tokens that are left out are not modelled.
        context: tokens that space is reserved for; the model's positions if None.
        placement_file: CSV that receives the table of what lies where.
        commands_file: CSV that receives every command of the last step, as runs.

    Raises:
        InputError: model, system or numbers are wrong, or the model does not fit; a line each.
    """
    arch = model if isinstance(model, Architecture) else load_architecture(model)
    system = system if isinstance(system, PimSystem) else load_system(system)
    asked = tokens_of(tokens) if isinstance(tokens, str) else tokens
    placed = place(arch, system, context=context)
    if asked[-1] > placed.context:
        raise InputError(
            f"{arch.name}: tokens: must be at most the context of {placed.context} that space is "
            f"reserved for, got {asked[-1]}"
        )
    pace = Pace(system.dram)
    splits = best_splits(arch, system, pace)
    placed = place(arch, system, context=context, splits=splits)
    decode = DecodeModel(placed, pace=pace)
    if placement_file is not None:
        _write(placement_file, _placement_lines(placed))
    steps = []
    for count in asked:
        if commands_file is not None and count == asked[-1]:
            decode.keep_from_here()
        steps.append(decode.step(count))
    if commands_file is not None:
        _write(commands_file, _command_lines(decode, steps[-1].begin))
    return report_of(placed, steps)


def _write(path: Path, lines: Iterator[Sequence[object]]) -> None:
    try:
        with new_file(path) as work, work.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{path}: cannot be written, {reason}") from None


def _placement_lines(placed: Placement) -> Iterator[Sequence[object]]:
    yield ("region", "layer", "channel", "bank", "first_row", "rows", "contents")
    for block in placed.blocks():
        layer = "" if block.layer is None else block.layer
        yield (
            block.region,
            layer,
            block.channel,
            block.bank,
            block.first_row,
            block.rows,
            block.contents,
        )


def _command_lines(decode: DecodeModel, begin: int) -> Iterator[Sequence[object]]:
    """Runs of the last step; its first cycle is 0."""
    yield ("channel", "cycle", "command", "bank", "row", "column", "count", "interval")
    names = {int(command): command.name for command in Command}
    for channel in range(decode.system.channels):
        for run in decode.runs(channel).tolist():
            yield (channel, run[0] - begin, names[run[1]], *run[2:])


def report_of(placed: Placement, steps: Sequence[Step]) -> PimReport:
    """Steps as a report."""
    arch, system = placed.architecture, placed.system
    moved = [traffic(placed, step) for step in steps]
    period = system.dram.timing.tck_ns * 1e-9
    total = sum(step.cycles for step in steps)
    geometry, timing = system.dram.geometry, system.dram.timing
    spent = _spent(steps)
    facts = [
        f"system: {system.channels} channels of {geometry.total_banks} banks, "
        f"{system.capacity / 1e9:.3f} GB, {system.step} × {system.weight_bits}-bit weights "
        f"({system.dram.bank.core.block}) a bank and column, command clock "
        f"{system.command_mhz:g} MHz, process factor {system.dram.process_factor:g}",
        f"vector units: {system.vector_units} of {system.vector.lanes} lanes at "
        f"{system.clock_mhz:g} MHz, {system.link_cycles} command clocks away",
        f"model: {lay.count(arch.parameters)} parameters; {lay.count(placed.rows)} of "
        f"{lay.count(geometry.rows)} rows of every bank with {lay.count(placed.context)} tokens "
        "of context",
        "channels that share K: "
        + ", ".join(f"{name} {matrix.split}" for name, matrix in _matrices(placed).items()),
    ]
    notes = [
        f"latencies are of channels and vector units; refreshes every {timing.nREFI} command "
        "clocks are in them; choosing the next token from the logits is not",
        "seconds are of the given clocks: whether units reach them, synthesis tells",
        "rows hit: commands to columns that found their row open; a command to all banks counts "
        "once",
        "vector share: of the time, what channels wait for vector units",
        "bytes: on the channels' ports, and of a processor that reads every weight and the cache",
    ]
    if system.weight_bits < 8:
        notes.append(f"keys and values have the weights' {system.weight_bits} bits")
    if not system.dram.bank.fp32:
        notes.append("scales of integer results are applied on the way, in no time")
    footer = [_total_line(steps, moved, period)]
    table = Table(
        title="decode",
        columns=(
            "tokens", "ms", "rows hit", "vector share", "refreshes", "MB on ports",
            "MB of a processor", "ratio",
        ),
        rows=[_line(steps[index], moved[index], period) for index in _shown(len(steps))],
        footer=footer,
    )  # fmt: skip
    operators = Table(
        title="where the time goes, all tokens together",
        columns=("operator", "where", "ms", "share"),
        rows=[
            (name, where, lay.fixed(count * period * 1e3, 4), f"{count / total:.1%}")
            for (where, name), count in spent
        ],
    )
    return PimReport(
        title=f"{arch.name} on {system.name}",
        facts=facts,
        tables=[table, operators],
        notes=notes,
        data={
            "rtlgen": __version__,
            "model": {"name": arch.name, "family": arch.family, "parameters": arch.parameters},
            "system": {
                "name": system.name,
                "digest": system.digest,
                "capacity_bytes": system.capacity,
                "process_factor": system.dram.process_factor,
            },
            "placement": {
                "context": placed.context,
                "rows": placed.rows,
                "rows_of_a_bank": geometry.rows,
                "layer_rows": placed.layer_rows,
                "regions": [
                    {"name": name, "first_row": placed.starts[name], "rows": region.rows}
                    for name, region in {**placed.layer, **placed.shared}.items()
                ],
                "splits": {name: matrix.split for name, matrix in _matrices(placed).items()},
            },
            "seconds": total * period,
            "row_hit_rate": _hit_rate(steps),
            "vector_share": _vector_share(steps),
            "operators": [
                {"name": name, "where": where, "seconds": count * period}
                for (where, name), count in spent
            ],
            "steps": [
                _data(step, bytes_, period) for step, bytes_ in zip(steps, moved, strict=True)
            ],
            "notes": notes,
        },
        draw=lambda figure: draw_steps(figure, placed, steps),
        size=(11.0, 6.4),
        placement=placed,
        steps=tuple(steps),
    )


def _matrices(placed: Placement) -> dict[str, Matrix]:
    regions = {**placed.layer, **placed.shared}
    return {name: item for name, item in regions.items() if isinstance(item, Matrix)}


def _spent(steps: Sequence[Step]) -> list[tuple[tuple[str, str], int]]:
    """Command clocks by place and operator, most first."""
    found: dict[tuple[str, str], int] = {}
    for step in steps:
        for key, count in step.spent().items():
            found[key] = found.get(key, 0) + count
    return sorted(found.items(), key=lambda item: -item[1])


def _hit_rate(steps: Sequence[Step]) -> float:
    return 1 - sum(s.activates for s in steps) / sum(s.column_commands for s in steps)


def _vector_share(steps: Sequence[Step]) -> float:
    return sum(s.vector_share * s.cycles for s in steps) / sum(s.cycles for s in steps)


def _shown(count: int) -> list[int]:
    """Indices of the tokens that are printed: all, or ends and doublings between."""
    if count <= MOST_LINES:
        return list(range(count))
    found, at = {0, count - 1}, 1
    while at < count:
        found.add(at - 1)
        at *= 2
    return sorted(found)


def _line(step: Step, moved: Traffic, period: float) -> tuple[str, ...]:
    return (
        str(step.tokens),
        lay.fixed(step.cycles * period * 1e3, 4),
        f"{step.hit_rate:.2%}",
        f"{step.vector_share:.1%}",
        lay.count(step.refreshes),
        lay.fixed(moved.ports / 1e6, 4),
        lay.fixed((moved.weights + moved.cache) / 1e6, 4),
        lay.fixed(moved.ratio, 3),
    )


def _total_line(steps: Sequence[Step], moved: Sequence[Traffic], period: float) -> tuple[str, ...]:
    ports = sum(item.ports for item in moved)
    processor = sum(item.weights + item.cache for item in moved)
    return (
        "all",
        lay.fixed(sum(step.cycles for step in steps) * period * 1e3, 4),
        f"{_hit_rate(steps):.2%}",
        f"{_vector_share(steps):.1%}",
        lay.count(sum(step.refreshes for step in steps)),
        lay.fixed(ports / 1e6, 4),
        lay.fixed(processor / 1e6, 4),
        lay.fixed(processor / ports, 3),
    )


def _data(step: Step, moved: Traffic, period: float) -> dict[str, Any]:
    return {
        "tokens": step.tokens,
        "command_clocks": step.cycles,
        "seconds": step.cycles * period,
        "row_hit_rate": step.hit_rate,
        "bank_row_hit_rate": step.bank_hit_rate,
        "vector_share": step.vector_share,
        "activates": step.activates,
        "precharges": step.precharges,
        "refreshes": step.refreshes,
        "column_commands": step.column_commands,
        "port_bytes": moved.ports,
        "processor_bytes": moved.weights + moved.cache,
    }


def draw_steps(figure: Figure, placed: Placement, steps: Sequence[Step]) -> None:
    """Time of a token by operator over the tokens before it, and the share of rows hit."""
    period = placed.system.dram.timing.tck_ns * 1e-6
    figure.suptitle(
        f"{placed.architecture.name} on {placed.system.name}",
        fontweight="bold",
        x=0.01,
        ha="left",
    )
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    kinds = {
        "matrices": (("channels",), ("qkv", "o", "up", "down", "lm_head"), lay.BLUE),
        "scores and values": (("channels",), ("scores", "attend"), lay.SKY),
        "other reads": (("channels",), ("embedding", "parameters"), lay.GREY),
        "softmax": (("vector",), ("softmax",), lay.ORANGE),
        "other vector work": (
            ("vector",), ("norm", "activation", "partial sums", "residual"), lay.YELLOW,
        ),
    }  # fmt: skip
    places = [step.tokens for step in steps]
    spent = [step.spent() for step in steps]
    rows = [
        [
            sum(item.get((where, name), 0) for where in wheres for name in names) * period
            for item in spent
        ]
        for wheres, names, _ in kinds.values()
    ]
    colours = [colour for _, _, colour in kinds.values()]
    if len(places) > 1:
        above.stackplot(places, rows, labels=list(kinds), colors=colours, linewidth=0)
    else:
        bottom = 0.0
        for name, row, colour in zip(kinds, rows, colours, strict=True):
            above.bar(places, row, 0.4, bottom=bottom, label=name, color=colour)
            bottom += row[0]
    above.set_ylabel("ms a token")
    above.set_ylim(bottom=0)
    handles, labels = above.get_legend_handles_labels()
    above.legend(handles[::-1], labels[::-1], frameon=False, loc="upper left", ncols=3)
    above.margins(x=0, y=0.25)
    marker = "o" if len(places) == 1 else ""
    below.plot(places, [100 * step.hit_rate for step in steps], color=lay.GREEN, marker=marker)
    below.set_ylabel("rows hit, %")
    below.set_xlabel("tokens in the cache")


__all__ = ["PimReport", "draw_steps", "pim_model", "report_of", "tokens_of"]
