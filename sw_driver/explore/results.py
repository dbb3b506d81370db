"""What an exploration found: a table, CSV and JSON files, a picture and a page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from hw.lazy import np
from rtl_gen import __version__
from rtl_gen.cache import new_file, new_folder
from rtl_gen.errors import InputError
from sw_driver import report as lay
from sw_driver.explore.measured import Measured
from sw_driver.explore.space import ERROR, SYNTHESIZED, SYNTHESIZED_OF_SYSTEM, Space
from sw_driver.explore.sweep import Choosing, Table
from sw_driver.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLE_ROWS = 40
"""Points of the front that are printed; the files have all of them."""

DRAWN = 20_000
"""Points behind the front in a picture at most."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A point of the front.

    Attributes:
        values: what varies. mapping: every choice. metrics: everything known.
        state: of its synthesis: ``done``, ``failed`` or ``none``. verified: whether its RTL passed,
            None if it was not tried. trouble: what went wrong.
    """

    id: str
    core: str
    block: str
    values: Mapping[str, Any]
    spec: Mapping[str, Any]
    mapping: Mapping[str, Any]
    metrics: Mapping[str, float]
    state: str
    verified: bool | None
    trouble: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ExploreReport(Report):
    """An exploration.

    Attributes:
        front: best first by the first objective. failures: what failed, a line or more each.
    """

    space: Space
    front: tuple[Found, ...]
    failures: tuple[str, ...]


def report_of(
    space: Space,
    table: Table,
    measured: Measured,
    choosing: Choosing | None,
    searched: Mapping[str, Any] | None,
) -> ExploreReport:
    """The report of points with everything that is known of them."""
    on = table.front()
    order = on[np.lexsort(_oriented(table)[on].T[::-1])] if len(on) else on
    found = tuple(_found(table, measured, int(index)) for index in order)
    catalogue = table.catalogue
    refused = [
        {"core": core, "rule": rule, "points": count}
        for (core, rule), count in catalogue.refused.most_common()
    ]
    failed = [
        {
            "id": task.label,
            "task": task.kind,
            "spec": task.facts["spec"],
            "error": words,
        }
        for task, words in measured.failed.values()
    ]
    counts = status_counts(table, measured)
    data = {
        "rtlgen": __version__,
        "space": space.name,
        "digest": space.digest,
        "method": space.search.method,
        "objectives": [asdict(item) for item in space.objectives],
        "constraints": [str(item) for item in space.constraints],
        "workloads": {name: work.name for name, work in space.workloads.items()},
        "points": {
            "mapped": len(table.points),
            "refused": sum(catalogue.refused.values()),
            "equal": catalogue.merged,
            **counts,
        },
        "designs": len(catalogue.designs),
        "technology": measured.technology,
        "area_unit": measured.unit,
        "effort": space.synthesis.effort,
        "companions": space.synthesis.companions,
        "choosing": None if choosing is None else asdict(choosing),
        "search": None if searched is None else dict(searched),
        "refused": refused,
        "failed": failed,
        "front": [item.as_dict() for item in found],
    }
    failures = [
        f"{item['task']} of {item['id']} failed: {item['error']}\n"
        f"  {json.dumps(item['spec'], sort_keys=True)}"
        for item in failed
    ]
    failures += [
        f"RTL of {item.id} failed: {item.trouble}\n  {json.dumps(item.spec, sort_keys=True)}"
        for item in found
        if item.verified is False
    ]
    return ExploreReport(
        title=f"{space.name}: {lay.count(len(found))} points on the front",
        facts=_facts(space, table, measured, counts),
        tables=_tables(space, found, measured, refused),
        notes=_notes(space, found, measured, choosing, searched),
        data=data,
        draw=(lambda figure: draw(figure, table, order, measured)) if len(found) else None,
        size=(6.0 * max(1, len(panels(space))) + 1.0, 5.2),
        space=space,
        front=found,
        failures=tuple(failures),
    )


def write(report: ExploreReport, out: Path, table: Table, measured: Measured) -> None:
    """Every file of a run, each whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    from sw_driver.explore.page import page

    try:
        rows = _csv_rows(table, measured)
        chosen = {item.id: index for index, item in enumerate(report.front)}
        of_front = sorted((row for row in rows[1:] if row[0] in chosen), key=lambda r: chosen[r[0]])
        _write(out / "points.csv", _csv(rows))
        _write(out / "front.csv", _csv([rows[0], *of_front]))
        _write(out / "explore.json", report.json() + "\n")
        _write(out / "index.html", page(report, table, measured))
        with new_folder(out / "specs") as folder:
            for item in report.front:
                text = yaml.safe_dump(dict(item.spec), sort_keys=False, allow_unicode=True)
                (folder / f"{item.id}.yaml").write_text(text, encoding="utf-8")
        if report.draw is not None:
            report.save_picture(out / "front.png")
        else:
            (out / "front.png").unlink(missing_ok=True)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{out}: cannot be written, {reason}") from None


def statuses(table: Table, measured: Measured) -> list[str]:
    """What became of every point."""
    on = set(table.front().tolist())
    feasible, known = table.feasible().tolist(), table.known().tolist()
    found = []
    for index, design in enumerate(table.points.design.tolist()):
        if index in on:
            found.append("front")
        elif table.refused[index]:
            found.append("refused")
        elif design in measured.failed:
            found.append("failed")
        elif not feasible[index]:
            found.append("infeasible")
        else:
            found.append("dominated" if known[index] else "not measured")
    return found


def status_counts(table: Table, measured: Measured) -> dict[str, int]:
    """How many points there are of each status."""
    found = dict.fromkeys(("front", "dominated", "infeasible", "not measured", "failed"), 0)
    for status in statuses(table, measured):
        if status in found:
            found[status] += 1
    return found


def kind_name(space: Space) -> str:
    """What bases are: heading of the column that says which."""
    return "system" if space.systems else "core"


def columns_of(space: Space, table: Table) -> tuple[list[str], list[str]]:
    """Names of what varies, and of the metrics, in the order of files."""
    varying: dict[str, None] = {}
    for base in space.bases:
        for path, among in base.fields.items():
            if len(among) > 1:
                varying[".".join(path)] = None
    varying |= {name: None for name, among in space.choices.items() if len(among) > 1}
    metrics = dict.fromkeys(space.metrics)
    hidden = hidden_metrics(space)
    for name, values in table.metrics.items():
        if name not in hidden and np.isfinite(np.asarray(values, dtype=np.float64)).any():
            metrics[name] = None
    return list(varying), list(metrics)


def hidden_metrics(space: Space) -> tuple[str, ...]:
    """Columns that are no metrics of the space."""
    if not space.systems:
        return ("met",)
    return (
        "met",
        "core_area",
        *(item for item in SYNTHESIZED if item not in SYNTHESIZED_OF_SYSTEM),
    )


def unit_of(metric: str, measured: Measured) -> str:
    """A metric with its unit, for a heading or an axis."""
    name = metric.rpartition(".")[2]
    area = measured.unit or "area"
    million = "mm²" if measured.unit == "µm²" else f"million {area}"
    units = {
        "seconds": "s",
        "tokens_per_second": "tokens/s",
        "area": area,
        "core_area": area,
        "area_per_mac": f"{area} for a MAC a cycle",
        "density": f"MAC/ns/{million}",
        "delay_ns": "ns",
        ERROR: "dB",
        "peak_macs": "MAC a cycle",
        "sram_kib": "KiB",
        "bandwidth_gb_s": "GB/s",
    }
    before = metric[: -len(name)]
    plain = {
        "sqnr_db": "SQNR",
        "delay_ns": "delay",
        "tokens_per_second": "throughput",
        "peak_macs": "peak",
        "sram_kib": "SRAM",
        "bandwidth_gb_s": "DRAM bandwidth",
        "area_per_mac": "area",
    }
    shown = before + plain.get(name, name.replace("_", " "))
    return f"{shown}, {units[name]}" if name in units else shown


def panels(space: Space) -> list[tuple[str, str]]:
    """Pairs of metrics that are drawn, x and y: each further objective against the first."""
    first, *others = [item.metric for item in space.objectives]
    if others:
        return [(first, other) for other in others]
    plain = "sram_kib" if space.systems else "peak_macs"
    if first == plain:
        plain = "bandwidth_gb_s" if space.systems else plain
    return [(first, "area" if space.needs_synthesis and first != "area" else plain)]


def cloud(table: Table, order: np.ndarray, most: int) -> np.ndarray:
    """Points behind the front: known, feasible, evenly taken if there are too many."""
    behind = table.known() & table.feasible()
    behind[order] = False
    places = np.flatnonzero(behind)
    if len(places) > most:
        places = places[np.linspace(0, len(places) - 1, most).astype(int)]
    return places


def logarithmic(values: np.ndarray) -> bool:
    """Whether an axis is better drawn by logarithms."""
    good = values[np.isfinite(values)]
    return bool(len(good)) and bool(good.min() > 0) and bool(good.max() / good.min() > 20)


def draw(figure: Figure, table: Table, order: np.ndarray, measured: Measured) -> None:
    """The front, by core, before everything else that is feasible."""
    space = table.space
    pairs = panels(space)
    axes = figure.subplots(1, len(pairs), squeeze=False)[0]
    behind = cloud(table, order, DRAWN)
    labels = [space.bases[_base(table, index)].label for index in order.tolist()]
    for axis, (x, y) in zip(axes, pairs, strict=True):
        _draw_pair(axis, table, behind, order, labels, x, y, measured)
    axes[0].legend(fontsize=8, frameon=False)


COLOURS = (lay.BLUE, lay.ORANGE, lay.GREEN, lay.RED, lay.PURPLE, lay.SKY, lay.YELLOW)
MARKERS = "osD^vP*"


def _draw_pair(
    axis: Axes,
    table: Table,
    behind: np.ndarray,
    order: np.ndarray,
    labels: Sequence[str],
    x: str,
    y: str,
    measured: Measured,
) -> None:
    from matplotlib.ticker import LogFormatter

    xs, ys = (np.asarray(table.metrics[name], dtype=np.float64) for name in (x, y))
    if len(behind):
        word = f"{len(behind):,} others"
        axis.scatter(
            xs[behind], ys[behind], s=8, color="#bbbbbb", alpha=0.6, label=word, linewidths=0
        )
    for number, label in enumerate(base.label for base in table.space.bases):
        at = order[[item == label for item in labels]]
        if len(at):
            axis.scatter(
                xs[at],
                ys[at],
                s=34,
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                label=label,
                edgecolors="white",
                linewidths=0.6,
                zorder=3,
            )
    if len(table.space.objectives) == 2:
        # What the front leaves out of reach: a staircase towards the worse side.
        sort = order[np.argsort(xs[order])]
        maximise = table.space.objectives[0].maximise
        where: Literal["pre", "post"] = "pre" if maximise else "post"
        axis.step(xs[sort], ys[sort], where=where, color="#444444", linewidth=0.8, zorder=2)
    shown = np.concatenate([behind, order])
    for values, scaled, along in (
        (xs[shown], axis.set_xscale, axis.xaxis),
        (ys[shown], axis.set_yscale, axis.yaxis),
    ):
        if logarithmic(values):
            scaled("log")
            # 20, 50 and 100 rather than powers of ten.
            along.set_major_formatter(LogFormatter())
            along.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    goals = {item.metric: " (more is better)" for item in table.space.objectives if item.maximise}
    axis.set_xlabel(unit_of(x, measured) + goals.get(x, ""))
    axis.set_ylabel(unit_of(y, measured) + goals.get(y, ""))
    axis.grid(True, which="major", color="#eeeeee", linewidth=0.8)
    axis.set_axisbelow(True)


def _oriented(table: Table) -> np.ndarray:
    from sw_driver.explore.points import oriented

    return oriented(table.space, table.metrics)


def _base(table: Table, index: int) -> int:
    return table.catalogue.designs[table.points.design[index]].base


def _found(table: Table, measured: Measured, index: int) -> Found:
    point = table.point(index)
    catalogue = table.catalogue
    design, choice = catalogue.designs[point[0]], catalogue.choices[point[1]]
    values = {name: float(column[index]) for name, column in table.metrics.items()}
    for name, column in table.points.metrics.items():
        if column.dtype == np.int64:
            values[name] = int(column[index])
    metrics = {name: value for name, value in values.items() if math.isfinite(value)}
    for name in hidden_metrics(table.space):
        metrics.pop(name, None)
    state = "none" if not math.isfinite(table.values["area"][index]) else "done"
    trouble = None
    if point[0] in measured.failed and measured.failed[point[0]][0].kind != "mapping":
        state, trouble = "failed", measured.failed[point[0]][1]
    verdict = measured.verdict(point[0])
    if verdict is not None and not verdict["passed"]:
        trouble = str(verdict["failure"])
    return Found(
        id=catalogue.point_id(point),
        core=table.space.bases[design.base].label,
        block=design.spec.block,
        values=catalogue.values(point),
        spec=design.plain,
        mapping={"activation_bits": design.activation_bits, **asdict(choice)},
        metrics=metrics,
        state=state,
        verified=None if verdict is None else bool(verdict["passed"]),
        trouble=trouble,
    )


def _facts(space: Space, table: Table, measured: Measured, counts: Mapping[str, int]) -> list[str]:
    goals = ", ".join(
        f"{'most' if item.maximise else 'least'} {item.metric}" for item in space.objectives
    )
    refused = sum(table.catalogue.refused.values())
    facts = [
        f"{goals}" + "".join(f"; {item}" for item in space.constraints),
        f"{len(table.points):,} points of {len(table.catalogue.designs):,} designs mapped, "
        f"{refused:,} refused; "
        + ", ".join(f"{value:,} {name}" for name, value in counts.items() if value),
    ]
    if space.systems:
        total = len(table.points) * len(space.workloads)
        facts.append(
            f"{lay.count(total)} schedules, one a point and workload; "
            f"{measured.scheduled:,} computed in this run"
        )
    if measured.chosen:
        where = measured.technology or "no result"
        units = ", with the units beside the core" if space.synthesis.companions else ""
        facts.append(
            f"{len(measured.chosen):,} designs measured of a budget of {space.synthesis.runs:,}: "
            f"{where}, effort {space.synthesis.effort}{units}; {measured.computed:,} results "
            "computed in this run"
        )
    return facts


def _tables(
    space: Space,
    found: Sequence[Found],
    measured: Measured,
    refused: Sequence[Mapping[str, Any]],
) -> list[lay.Table]:
    tables = []
    if found:
        names = list(dict.fromkeys(name for item in found for name in item.values))
        shown = dict.fromkeys(item.metric for item in space.objectives)
        shown |= dict.fromkeys(item.metric for item in space.constraints)
        if any(item.state == "done" for item in found):
            shown |= {"area": None, "delay_ns": None}
        several = len(space.bases) > 1
        columns = ("id", *((kind_name(space),) if several else ()), *names, *shown, "RTL")
        rows = [
            (
                item.id,
                *((item.core,) if several else ()),
                *(value_words(item.values.get(name, "–")) for name in names),
                *(number_words(item.metrics.get(name)) for name in shown),
                _verdict_words(item),
            )
            for item in found[:TABLE_ROWS]
        ]
        tables.append(lay.Table(columns=columns, rows=rows))
    if refused:
        rows = [
            (str(item["core"]), str(item["rule"]), lay.count(item["points"]))
            for item in refused[:12]
        ]
        title = "Combinations that a specification or the mapping refuses"
        tables.append(
            lay.Table(columns=(kind_name(space), "rule", "points"), rows=rows, title=title)
        )
    return tables


def value_words(value: Any) -> str:
    """A value of a field as a specification has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def number_words(value: float | None) -> str:
    """A metric with as many digits as matter."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return lay.count(value)
    return lay.fixed(value, 4) if 1e-6 < abs(value) < 1e15 or value == 0 else f"{value:.4g}"


def _verdict_words(item: Found) -> str:
    if item.state == "failed":
        return "synthesis failed"
    return {None: "–", True: "passed", False: "FAILED"}[item.verified]


def _notes(
    space: Space,
    found: Sequence[Found],
    measured: Measured,
    choosing: Choosing | None,
    searched: Mapping[str, Any] | None,
) -> list[str]:
    notes = []
    if len(found) > TABLE_ROWS:
        notes.append(f"{len(found) - TABLE_ROWS:,} more points of the front are in the files")
    if choosing is not None:
        if choosing.measured == choosing.designs:
            notes.append("every design within the constraints was measured: the front is exact")
        else:
            notes.append(_chosen_words(choosing))
    if searched is not None:
        end = "" if searched["stopped"] == "trials" else ", ended by the budget of measurements"
        notes.append(
            f"{searched['method']} of Optuna, seed {searched['seed']}, {searched['trials']:,} "
            f"trials{end}: points that were not tried may be better"
        )
    if not measured.chosen and not space.measured:
        notes.append("from the mapper alone: nothing was synthesized (synthesis.runs is 0)")
    elif not space.measured and any(item.state == "none" for item in found):
        notes.append("–: the budget of measurements did not reach")
    if any(name in SYNTHESIZED for name in space.metrics) and not space.synthesis.companions:
        notes.append(
            "areas are of all cores: SRAM, DRAM, vector units and units that scale are not in them"
            if space.systems
            else "areas are of cores alone: synthesis.companions charges what they need beside"
        )
    return notes


def _chosen_words(choosing: Choosing) -> str:
    words = (
        f"{choosing.measured:,} of {choosing.designs:,} designs were measured, chosen by an "
        "estimate that is fitted on those before and shown nowhere"
    )
    names = {"area": "area", "delay_ns": "delay", ERROR: "error"}
    parts = [
        f"{value:.1%} of {names[name]}" if name != ERROR else f"{value:.2f} dB"
        for name, value in choosing.errors.items()
    ]
    if parts:
        words += f" (its own error, each design left out in turn: {', '.join(parts)})"
    if choosing.stopped == "estimate":
        return words + "; of the others none would be on the front if that erred twice so much"
    return words + (
        "; the budget ended, and of what was not measured it puts on the front: "
        f"{choosing.likely:,}"
        if choosing.likely
        else "; the budget ended"
    )


def _csv_rows(table: Table, measured: Measured) -> list[list[str]]:
    """Every point, with a heading."""
    names, metrics = columns_of(table.space, table)
    rows = [["id", kind_name(table.space), "status", *names, *metrics]]
    columns = {name: table.metrics[name] for name in metrics}
    for index, status in enumerate(statuses(table, measured)):
        point = table.point(index)
        values = table.catalogue.values(point)
        row = [
            table.catalogue.point_id(point),
            table.space.bases[_base(table, index)].label,
            status,
        ]
        row += [value_words(values[name]) if name in values else "" for name in names]
        row += [_cell(columns[name][index]) for name in metrics]
        rows.append(row)
    return rows


def _cell(value: Any) -> str:
    if not math.isfinite(value):
        return ""
    return str(int(value)) if isinstance(value, np.integer) else repr(float(value))


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write(file: Path, text: str) -> None:
    with new_file(file) as work:
        work.write_text(text, encoding="utf-8", newline="")
