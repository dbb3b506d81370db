"""The page of an exploration: one HTML file that refers to nothing outside of itself."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from string import Template
from typing import TYPE_CHECKING

from hw.lazy import np
from sw_driver.explore.results import (
    COLOURS,
    cloud,
    kind_name,
    logarithmic,
    number_words,
    panels,
    unit_of,
    value_words,
)

if TYPE_CHECKING:
    from sw_driver.explore.measured import Measured
    from sw_driver.explore.results import ExploreReport
    from sw_driver.explore.sweep import Table

DRAWN = 2_000
"""Points behind the front on the page at most."""

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 620, 420, 84, 52, 16, 18


def page(report: ExploreReport, table: Table, measured: Measured) -> str:
    """The page as text."""
    names = list(dict.fromkeys(name for item in report.front for name in item.values))
    metrics = list(dict.fromkeys(name for item in report.front for name in item.metrics))
    wanted = list(table.space.metrics)
    metrics = [*wanted, *(name for name in metrics if name not in wanted)]
    head = "".join(
        f'<th scope="col"><button type="button">{html.escape(text)}</button></th>'
        for text in (
            "id",
            kind_name(table.space),
            *names,
            *(unit_of(name, measured) for name in metrics),
            "RTL",
        )
    )
    rows = []
    for item in report.front:
        verdict = {None: "–", True: "passed", False: "FAILED"}[item.verified]
        if item.state == "failed":
            verdict = "synthesis failed"
        cells = [_cell(item.id), _cell(item.core)]
        cells += [
            _cell(value_words(item.values[name]), item.values[name])
            if name in item.values
            else _cell("–", None)
            for name in names
        ]
        cells += [
            _cell(number_words(item.metrics.get(name)), item.metrics.get(name)) for name in metrics
        ]
        rows.append(
            f'<tr id="row-{html.escape(item.id)}" data-point="{html.escape(item.id)}">'
            f"{''.join(cells)}{_cell(verdict)}</tr>"
        )
    order = _order(report, table)
    drawings = [
        _drawing(report, table, measured, order, x, y) for x, y in panels(table.space) if len(order)
    ]
    others = "".join(
        f"<h2>{html.escape(item.title)}</h2><table><thead><tr>"
        + "".join(f"<th>{html.escape(name)}</th>" for name in item.columns)
        + "</tr></thead><tbody>"
        + "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in item.rows
        )
        + "</tbody></table>"
        for item in report.tables
        if item.title
    )
    specs = {item.id: {"spec": item.spec, "mapping": item.mapping} for item in report.front}
    return Template(_PAGE).substitute(
        title=html.escape(report.title),
        facts="".join(f"<p>{html.escape(line)}</p>" for line in report.facts),
        drawings="".join(drawings),
        head=head,
        rows="\n".join(rows),
        notes="".join(f"<li>{html.escape(line)}</li>" for line in report.notes),
        failures="".join(f"<pre>{html.escape(text)}</pre>" for text in report.failures),
        others=others,
        specs=_script_json(specs),
    )


def _order(report: ExploreReport, table: Table) -> np.ndarray:
    """Indices of the front in the report's order."""
    at = {table.catalogue.point_id(table.point(index)): index for index in table.front().tolist()}
    return np.array([at[item.id] for item in report.front], dtype=np.int64)


def _cell(text: str, value: object = None) -> str:
    """A cell; numbers carry themselves for sorting."""
    key = ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        key = f' class="n" data-v="{value!r}"'
    return f"<td{key}>{html.escape(text)}</td>"


def _script_json(data: object) -> str:
    """JSON that cannot end the element that it is in."""
    text = json.dumps(data, ensure_ascii=True, sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _drawing(
    report: ExploreReport,
    table: Table,
    measured: Measured,
    order: np.ndarray,
    x: str,
    y: str,
) -> str:
    """A scatter diagram as inline SVG."""
    xs, ys = (np.asarray(table.metrics[name], dtype=np.float64) for name in (x, y))
    behind = cloud(table, order, DRAWN)
    # One objective is drawn against what the mapper knows, or what was measured of the point.
    order = order[np.isfinite(xs[order]) & np.isfinite(ys[order])]
    shown = np.concatenate([behind, order])
    shown = shown[np.isfinite(xs[shown]) & np.isfinite(ys[shown])]
    if not len(shown):
        return ""
    across, down = _Scale(xs[shown], LEFT, WIDTH - RIGHT), _Scale(ys[shown], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(unit_of(y, measured))} against '
        f'{html.escape(unit_of(x, measured))}">'
    ]
    for value in across.ticks():
        at = across(value)
        parts.append(f'<line class="g" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text x="{at}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_tick(value)}</text>'
        )
    for value in down.ticks():
        at = down(value)
        parts.append(f'<line class="g" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{_tick(value)}</text>')
    parts += [
        f'<circle class="o" cx="{across(xs[index])}" cy="{down(ys[index])}" r="2"/>'
        for index in behind.tolist()
        if np.isfinite(xs[index]) and np.isfinite(ys[index])
    ]
    labels = [base.label for base in table.space.bases]
    by_id = {item.id: item for item in report.front}
    for index in order.tolist():
        found = by_id[table.catalogue.point_id(table.point(index))]
        colour = COLOURS[labels.index(found.core) % len(COLOURS)]
        what = ", ".join(f"{name} {value_words(value)}" for name, value in found.values.items())
        parts.append(
            f'<circle class="f" data-point="{html.escape(found.id)}" fill="{colour}" '
            f'cx="{across(xs[index])}" cy="{down(ys[index])}" r="5">'
            f"<title>{html.escape(f'{found.id}: {what}')}</title></circle>"
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">'
        f"{html.escape(unit_of(x, measured))}</text>"
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(unit_of(y, measured))}</text></svg>"
    )
    return f"<figure>{''.join(parts)}{_legend(labels, len(behind))}</figure>"


def _legend(labels: Sequence[str], behind: int) -> str:
    items = [
        f'<span><i style="background:{COLOURS[number % len(COLOURS)]}"></i>{html.escape(label)}'
        "</span>"
        for number, label in enumerate(labels)
    ]
    if behind:
        items.append(f'<span><i style="background:#bbb"></i>{behind:,} others</span>')
    return f"<figcaption>{''.join(items)}</figcaption>"


def _tick(value: float) -> str:
    """A round value on an axis."""
    return f"{value:,.6g}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3g}"


class _Scale:
    """From a value to a place on an axis, by logarithms where values span far."""

    def __init__(self, values: np.ndarray, start: float, end: float):
        self._log = logarithmic(values)
        low, high = float(values.min()), float(values.max())
        if self._log:
            low, high = float(np.log10(low)), float(np.log10(high))
        margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
        self._low, self._high = low - margin, high + margin
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        at = float(np.log10(value)) if self._log else float(value)
        share = (at - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 1)

    def ticks(self) -> list[float]:
        """Round values on the axis, about five."""
        if self._log:
            decades = range(int(np.floor(self._low)), int(np.ceil(self._high)) + 1)
            steps = (1,) if len(decades) > 4 else (1, 2, 5)
            found = [step * 10.0**power for power in decades for step in steps]
            return [value for value in found if self._low <= np.log10(value) <= self._high]
        span = self._high - self._low
        unit = 10.0 ** np.floor(np.log10(span / 5))
        unit = next(unit * step for step in (1, 2, 5, 10) if span / (unit * step) <= 6)
        first = int(np.ceil(self._low / unit))
        last = int(np.floor(self._high / unit))
        return [float(round(number * unit, 12)) for number in range(first, last + 1)]


_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }
h1 { font-size: 1.4em; margin-bottom: .3em; } h2 { font-size: 1.05em; margin-top: 1.6em; }
p { margin: .2em 0; }
figure { display: inline-block; margin: 1em 1em 0 0; width: min(620px, 100%); }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: #444; }
.g { stroke: #eee; } .o { fill: #bbb; } .f { stroke: #fff; cursor: pointer; }
.f.on { stroke: #000; stroke-width: 2; }
figcaption span { margin-right: 1.2em; } figcaption i { display: inline-block; width: .8em;
height: .8em; border-radius: 50%; margin-right: .35em; }
.wide { overflow-x: auto; margin-top: 1em; }
table { border-collapse: collapse; white-space: nowrap; }
th, td { padding: .25em .7em; border-bottom: 1px solid #e4e4e4; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
th button { font: inherit; font-weight: 600; border: 0; background: none; cursor: pointer;
padding: 0; } th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
tbody tr[data-point] { cursor: pointer; } tr.on { background: #eef5fb; }
pre { background: #f6f6f6; padding: .8em; overflow-x: auto; }
</style>
</head>
<body>
<h1>$title</h1>
$facts
$drawings
<div class="wide"><table id="front"><thead><tr>$head</tr></thead><tbody>
$rows
</tbody></table></div>
<div id="chosen"></div>
<ul>$notes</ul>
$failures
$others
<script type="application/json" id="specs">$specs</script>
<script>
"use strict";
(function () {
  var table = document.getElementById("front"), body = table.tBodies[0];
  var specs = JSON.parse(document.getElementById("specs").textContent);
  var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
  function key(row, column) {
    var cell = row.cells[column], value = cell.getAttribute("data-v");
    return value === null ? cell.textContent : Number(value);
  }
  heads.forEach(function (head, column) {
    head.firstChild.addEventListener("click", function () {
      var up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      var rows = Array.prototype.slice.call(body.rows);
      rows.sort(function (one, two) {
        var a = key(one, column), b = key(two, column);
        // Texts behind numbers, whichever way: they stand for what a point has not.
        if (typeof a !== typeof b) { return typeof a === "number" ? -1 : 1; }
        var order = a < b ? -1 : a > b ? 1 : 0;
        return up ? order : -order;
      });
      rows.forEach(function (row) { body.appendChild(row); });
    });
  });
  function choose(point) {
    document.querySelectorAll(".on").forEach(function (item) { item.classList.remove("on"); });
    document.querySelectorAll("[data-point]").forEach(function (item) {
      if (item.getAttribute("data-point") === point) { item.classList.add("on"); }
    });
    var place = document.getElementById("chosen"), text = document.createElement("pre");
    text.textContent = point + "\\n" + JSON.stringify(specs[point], null, 1);
    place.replaceChildren(text);
  }
  document.querySelectorAll("[data-point]").forEach(function (item) {
    item.addEventListener("click", function () { choose(item.getAttribute("data-point")); });
  });
}());
</script>
</body>
</html>
"""
