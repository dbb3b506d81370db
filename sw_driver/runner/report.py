"""What a run on the RTL has to say: tables, plain data and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rtl_gen import __version__
from sw_driver import report as lay
from sw_driver.forward import Transformer
from sw_driver.mapper.core import Core
from sw_driver.quantize import Clip
from sw_driver.report import Report, Table
from sw_driver.runner.linear import ProjectionRun, width_name
from sw_driver.text.prompts import Prompt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_FAILURES = 20
SHOWN_INPUTS = 12
"""Inputs whose figures are listed; the data has all of them."""


@dataclass(frozen=True, kw_only=True)
class RunReport(Report):
    """A report of layers that were run.

    Attributes:
        runs: every projection at every width. layer_cosine: of the layer's output, by the width
            that was asked for, 0 for weights as stored.
        failures: what differed, one line each; empty if the RTL is right.
    """

    runs: tuple[ProjectionRun, ...]
    layer_cosine: Mapping[int, float]
    failures: tuple[str, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """A whole model on the RTL against float32, at one width.

    Attributes:
        asked: the width, 0 for weights as stored.
        vectors: ``(inputs, hidden)``: sentence embeddings, of a decoder the last tokens' states.
        cosines: of every input's vector to float32. states: of all tokens' states at once.
        logits: cosines of the last tokens' logits. same_token: whether the next token is the same.
        pooled: cosines of the pooler's outputs.
    """

    asked: int
    vectors: np.ndarray
    cosines: tuple[float, ...]
    states: float
    logits: tuple[float, ...] = ()
    same_token: tuple[bool, ...] = ()
    pooled: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelReport(Report):
    """A report of a whole model.

    Attributes:
        runs: every projection of every layer. measured: by width. failures: as of a layer.
    """

    runs: tuple[ProjectionRun, ...]
    measured: tuple[Similarity, ...]
    failures: tuple[str, ...] = field(default=())

    @property
    def cycles(self) -> int:
        """Cycles of the core in all."""
        return sum(item.cycles for item in self.runs)


def failures_of(runs: Sequence[ProjectionRun]) -> list[str]:
    """What differed from the reference or the prediction, one line each."""
    failures = []
    for item in runs:
        if item.mismatches:
            failures.append(
                f"{item.where}: {item.mismatches} of {item.results} results differ, "
                f"{item.first_mismatch}"
            )
        if item.scale_cycles != item.scale_predicted:
            failures.append(
                f"{item.where}: {item.scale_cycles} cycles of the scales observed, "
                f"{item.scale_predicted} by the timing model"
            )
        wrong = [pair for pair in item.instance_cycles if pair[0] != pair[1]]
        if not item.cycles == item.predicted == item.mapped:
            failures.append(
                f"{item.where}: {item.cycles} cycles observed, {item.predicted} by the timing "
                f"model, {item.mapped} by the mapper"
            )
        elif wrong:
            failures.append(
                f"{item.where}: {wrong[0][0]} cycles observed of an instance, {wrong[0][1]} by the "
                "timing model"
            )
    return failures


def layer_report(
    core: Core,
    model: Transformer,
    layer: int,
    group: int,
    clip: Clip,
    inputs: Sequence[Prompt],
    note: str,
    runs: Sequence[ProjectionRun],
    layer_cosine: Mapping[int, float],
) -> RunReport:
    """The report of one layer."""
    failures = failures_of(runs)
    rows = [
        (
            f"W{item.weight_bits}",
            item.name,
            "×".join(map(str, item.shape)),
            item.scheme,
            lay.count(item.jobs),
            lay.count(item.predicted),
            lay.count(item.cycles),
            "yes" if item.mismatches == 0 else f"no, {item.mismatches}",
            f"{item.cosine:.5f}",
            f"{item.sqnr_db:.1f}",
        )
        for item in runs
    ]
    columns = (
        "width", "projection", "M×N×K", "quantizer", "jobs", "cycles predicted", "observed",
        "bit-exact", "cosine", "SQNR dB",
    )  # fmt: skip
    table = Table(
        columns=("layer output", "cosine", "cycles", f"µs at {core.clock_mhz:g} MHz"),
        rows=[
            (
                width_name(asked),
                f"{value:.5f}",
                lay.count(_cycles(runs, asked)),
                lay.fixed(_cycles(runs, asked) / core.clock_mhz, 4),
            )
            for asked, value in layer_cosine.items()
        ],
    )
    notes = [
        _between(runs, model),
        "cosine, SQNR: a projection's output against float32 of the same input; layer: its output "
        "against an all-float32 layer",
    ]
    if note:
        notes.append(note)
    return RunReport(
        title=f"{model.architecture.name}, layer {layer}, on {core.name} (RTL)",
        facts=[
            _core_fact(core, runs, group, clip),
            *_input_facts(inputs),
            _totals(runs),
        ],
        tables=[Table(columns=columns, rows=rows), table],
        notes=notes,
        data={
            **_data(core, model, group, clip, inputs, note, runs, failures),
            "layer": layer,
            "layer_cosine": {str(asked): value for asked, value in layer_cosine.items()},
            "projections": [_plain(item) for item in runs],
        },
        draw=lambda figure: draw_runs(figure, runs, layer_cosine),
        size=(10.0, 4.2),
        runs=tuple(runs),
        layer_cosine=dict(layer_cosine),
        failures=tuple(failures[:MAX_FAILURES]),
    )


def model_report(
    core: Core,
    model: Transformer,
    group: int,
    clip: Clip,
    inputs: Sequence[Prompt],
    note: str,
    runs: Sequence[ProjectionRun],
    measured: Sequence[Similarity],
    plain: np.ndarray,
    seconds: float,
    instances: int,
) -> ModelReport:
    """The report of a whole model; ``plain`` are the vectors of the float32 pass."""
    failures = failures_of(runs)
    arch = model.architecture
    what = "state" if arch.causal else "embedding"
    columns = ["", f"{what}: least cosine", "mean", "all tokens"]
    if arch.causal:
        columns += ["logits: least cosine", "same next token"]
    elif any(item.pooled for item in measured):
        columns += ["pooler: least cosine"]
    columns += ["cycles", f"ms at {core.clock_mhz:g} MHz", "bit-exact"]
    rows = []
    for item in measured:
        mine = [run for run in runs if run.asked == item.asked]
        wrong = sum(run.mismatches for run in mine)
        cycles = _cycles(runs, item.asked)
        row = [
            width_name(item.asked),
            f"{min(item.cosines):.5f}",
            f"{np.mean(item.cosines):.5f}",
            f"{item.states:.5f}",
        ]
        if arch.causal:
            row += [f"{min(item.logits):.5f}", f"{sum(item.same_token)} of {len(inputs)}"]
        elif any(one.pooled for one in measured):
            row.append(f"{min(item.pooled):.5f}")
        row += [
            lay.count(cycles),
            lay.fixed(cycles / core.clock_mhz / 1e3, 4),
            "yes" if not wrong else f"no, {wrong}",
        ]
        rows.append(row)
    tables = [Table(columns=columns, rows=rows), _each(inputs, measured, arch.causal)]
    if len(inputs) > 1 and not arch.causal:
        tables.append(_pairs(inputs, measured, plain))
    tables.append(_layers(runs, measured))
    notes = [
        _between(runs, model),
        f"cosine: of a sentence's {what} on the RTL to that of an all-float32 pass; projections: "
        "the least cosine of an output to float32 of the same input",
    ]
    if arch.causal and not any(item.name == "lm_head" for item in runs):
        notes.append("the head over the vocabulary is float32")
    if note:
        notes.append(note)
    return ModelReport(
        title=f"{arch.name}, all {arch.layers} layers, on {core.name} (RTL)",
        facts=[
            _core_fact(core, runs, group, clip),
            *_input_facts(inputs),
            f"{_totals(runs)} of {instances} {'instance' if instances == 1 else 'instances'}, "
            f"{seconds:.1f} s in all",
        ],
        tables=tables,
        notes=notes,
        data={
            **_data(core, model, group, clip, inputs, note, runs, failures),
            "instances": instances,
            "widths": [
                {
                    "weight_bits": item.asked,
                    "cycles": _cycles(runs, item.asked),
                    "cosine": list(item.cosines),
                    "cosine_of_tokens": item.states,
                    "logits_cosine": list(item.logits),
                    "same_next_token": list(item.same_token),
                    "pooler_cosine": list(item.pooled),
                    "similarity": _gram(item.vectors).tolist(),
                }
                for item in measured
            ],
            "similarity": _gram(plain).tolist(),
            "projections": [_plain(item) for item in runs],
        },
        draw=lambda figure: _draw_model(figure, runs, measured, plain),
        size=(10.0, 4.2),
        runs=tuple(runs),
        measured=tuple(measured),
        failures=tuple(failures[:MAX_FAILURES]),
    )


def _each(inputs: Sequence[Prompt], measured: Sequence[Similarity], causal: bool) -> Table:
    """Every input's cosines."""
    what = "last token" if causal else "sentence"
    shown = list(enumerate(inputs))[:SHOWN_INPUTS]
    rows = [
        (
            str(number + 1),
            _short(prompt.name),
            str(len(prompt.tokens)),
            *(f"{item.cosines[number]:.5f}" for item in measured),
        )
        for number, prompt in shown
    ]
    return Table(
        columns=("", what, "tokens", *(width_name(item.asked) for item in measured)),
        rows=rows,
    )


def _pairs(inputs: Sequence[Prompt], measured: Sequence[Similarity], plain: np.ndarray) -> Table:
    """How alike sentences are in float32 and on the RTL: the most alike pairs first."""
    count = len(inputs)
    exact = _gram(plain)
    pairs = sorted(
        ((a, b) for a in range(count) for b in range(a + 1, count)), key=lambda at: -exact[at]
    )
    grams = [_gram(item.vectors) for item in measured]
    rows = [
        (
            f"{a + 1} and {b + 1}",
            f"{exact[a, b]:.4f}",
            *(f"{gram[a, b]:.4f}" for gram in grams),
        )
        for a, b in pairs[:SHOWN_INPUTS]
    ]
    worst = [
        "largest difference of all pairs",
        "",
        *(f"{max(abs(gram[at] - exact[at]) for at in pairs):.4f}" for gram in grams),
    ]
    return Table(
        columns=("similarity of", "float32", *(width_name(item.asked) for item in measured)),
        rows=rows,
        footer=[worst],
    )


def _layers(runs: Sequence[ProjectionRun], measured: Sequence[Similarity]) -> Table:
    """Cycles, exactness and the worst projection of every layer."""
    rows = []
    for item in measured:
        mine = [run for run in runs if run.asked == item.asked]
        for layer in dict.fromkeys(run.layer for run in mine):
            part = [run for run in mine if run.layer == layer]
            worst = min(part, key=lambda run: run.cosine)
            predicted = sum(run.predicted for run in part)
            rows.append(
                (
                    width_name(item.asked),
                    "–" if layer is None else str(layer),
                    str(len(part)),
                    lay.count(predicted),
                    lay.count(sum(run.cycles for run in part)),
                    "yes" if all(run.mismatches == 0 for run in part) else "no",
                    f"{worst.cosine:.5f}",
                    worst.name,
                )
            )
    columns = (
        "width", "layer", "projections", "cycles predicted", "observed", "bit-exact",
        "least cosine", "of",
    )  # fmt: skip
    return Table(columns=columns, rows=rows)


def _gram(vectors: np.ndarray) -> np.ndarray:
    """Cosines between vectors."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit = wide / np.where(lengths == 0, 1, lengths)
    gram: np.ndarray = unit @ unit.T
    return gram


def _short(text: str, limit: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _core_fact(core: Core, runs: Sequence[ProjectionRun], group: int, clip: Clip) -> str:
    return (
        f"core: {core.name} ({core.block}), {core.m} × {core.n} × {core.k} a step, "
        f"{core.clock_mhz:g} MHz; {_operands(core, runs, group, clip)}"
    )


def _operands(core: Core, runs: Sequence[ProjectionRun], group: int, clip: Clip) -> str:
    """What the operands are, in words."""
    if core.own_scales:
        return f"activations {core.activation_name}, weights {core.encoding}"
    token = " per token" if core.activation_name.startswith("INT") else ""
    stored = all(item.scheme.endswith("as stored") for item in runs)
    groups = "weights as stored" if stored else f"groups of {group} along K"
    if clip == "mse" and not stored:
        groups += ", clipped where the squared error is least"
    return f"activations {core.activation_name}{token}, {groups}"


def _input_facts(inputs: Sequence[Prompt]) -> list[str]:
    if len(inputs) == 1:
        (prompt,) = inputs
        what = f"text: {prompt.text!r}" if prompt.text is not None else prompt.name
        return [f"{what}, {lay.count(len(prompt.tokens))} tokens"]
    tokens = sum(len(prompt.tokens) for prompt in inputs)
    return [f"{len(inputs)} inputs, {lay.count(tokens)} tokens"]


def _totals(runs: Sequence[ProjectionRun]) -> str:
    results = sum(item.results for item in runs)
    wrong = sum(item.mismatches for item in runs)
    cycles = sum(item.cycles for item in runs)
    seconds = sum(item.seconds for item in runs)
    return (
        f"{lay.count(results)} results, {lay.count(wrong)} of them wrong; {lay.count(cycles)} "
        f"cycles simulated in {seconds:.2f} s"
    )


def _between(runs: Sequence[ProjectionRun], model: Transformer) -> str:
    """What is not on the RTL."""
    where = "attention, norms and activation function"
    if any(group.mlp.experts for group in model.architecture.layer_groups):
        where = "the router, attention, norms and activation function"
    if any(item.scale_cycles for item in runs):
        scaled = lay.count(sum(item.scale_cycles for item in runs))
        return (
            f"groups are scaled and summed, bias included, by scale_accumulate on RTL, "
            f"{scaled} cycles as predicted beside the core; {where} are float32 in software"
        )
    return (
        "scales of integers and the sum over their groups, each of which is its own set of "
        f"jobs, tensor scales, bias, {where} are float32 in software"
    )


def _data(
    core: Core,
    model: Transformer,
    group: int,
    clip: Clip,
    inputs: Sequence[Prompt],
    note: str,
    runs: Sequence[ProjectionRun],
    failures: Sequence[str],
) -> dict[str, Any]:
    """Plain data that both reports have."""
    return {
        "rtlgen": __version__,
        "spec": core.name,
        "spec_digest": core.digest,
        "model": model.architecture.name,
        "group": group,
        "clip": clip,
        "text": inputs[0].text if len(inputs) == 1 else None,
        "inputs": [{"text": item.text, "tokens": list(item.tokens)} for item in inputs],
        "tokens": sum(len(item.tokens) for item in inputs),
        "note": note,
        "cycles": sum(item.cycles for item in runs),
        "bit_exact": not any(item.mismatches for item in runs),
        "cycles_exact": all(item.cycles_exact for item in runs),
        "failures": list(failures),
    }


def _plain(item: ProjectionRun) -> dict[str, Any]:
    """A projection as JSON holds it: no infinity, no tuples."""
    sqnr = item.sqnr_db if math.isfinite(item.sqnr_db) else None
    pairs = [list(pair) for pair in item.instance_cycles]
    return {
        **asdict(item),
        "shape": list(item.shape),
        "sqnr_db": sqnr,
        "instance_cycles": pairs,
    }


def _cycles(runs: Sequence[ProjectionRun], asked: int) -> int:
    return sum(item.cycles for item in runs if item.asked == asked)


# Pictures ------------------------------------------------------------------------------


def draw_runs(
    figure: Figure, runs: Sequence[ProjectionRun], layer_cosine: Mapping[int, float]
) -> None:
    """Cycles and cosine of every projection, by width."""
    left, right = figure.subplots(1, 2)
    draw_cycles(left, runs)
    draw_cosines(right, runs, layer_cosine)


def draw_cycles(axes: Any, runs: Sequence[ProjectionRun]) -> None:
    """Observed cycles of every projection, bars by width."""
    _bars(axes, runs, lambda item: item.cycles / 1e3)
    axes.set_title("cycles on RTL, thousands")
    axes.legend(frameon=False)


def draw_cosines(
    axes: Any, runs: Sequence[ProjectionRun], layer_cosine: Mapping[int, float]
) -> None:
    """Cosine to float32 of every projection and of the layer."""
    names = _bars(axes, runs, lambda item: item.cosine, layer_cosine)
    axes.set_xticks(range(len(names)), names, **_turned(names))
    least = min([item.cosine for item in runs] + list(layer_cosine.values()))
    floor = least - (1 - least) * 0.5 - 0.005
    axes.set_ylim(max(0.0 if least >= 0 else -1.0, floor), 1.0)
    axes.set_title("cosine to float32")


_COLOURS = (lay.SKY, lay.ORANGE, lay.BLUE, lay.GREEN, lay.PURPLE, lay.RED, lay.GREY, lay.YELLOW)


def _turned(names: Sequence[str]) -> dict[str, Any]:
    """How names are written that are too long or too many to stand side by side."""
    if len(names) <= 8 and max(map(len, names)) <= 6:
        return {}
    return {"rotation": 90, "fontsize": 7}


def _bars(
    axes: Any,
    runs: Sequence[ProjectionRun],
    value: Any,
    whole: Mapping[int, float] | None = None,
) -> list[str]:
    names = list(dict.fromkeys(item.name for item in runs))
    widths = list(dict.fromkeys(item.asked for item in runs))
    bar = 0.8 / len(widths)
    for index, asked in enumerate(widths):
        by_name = {item.name: value(item) for item in runs if item.asked == asked}
        places = [place for place, name in enumerate(names) if name in by_name]
        heights = [by_name[names[place]] for place in places]
        if whole is not None:
            places.append(len(names))
            heights.append(whole[asked])
        at = [place + (index - (len(widths) - 1) / 2) * bar for place in places]
        colour = _COLOURS[index % len(_COLOURS)]
        axes.bar(at, heights, bar, label=width_name(asked), color=colour)
    if whole is not None:
        names.append("layer")
    axes.set_xticks(range(len(names)), names, **_turned(names))
    return names


def _draw_model(
    figure: Figure,
    runs: Sequence[ProjectionRun],
    measured: Sequence[Similarity],
    plain: np.ndarray,
) -> None:
    """Cosines of the projections along the layers; similarities of inputs on RTL and in float32."""
    left, right = figure.subplots(1, 2)
    for index, item in enumerate(measured):
        mine = [run for run in runs if run.asked == item.asked and run.layer is not None]
        layers = sorted({run.layer for run in mine if run.layer is not None})
        least = [min(run.cosine for run in mine if run.layer == layer) for layer in layers]
        colour = _COLOURS[index % len(_COLOURS)]
        left.plot(layers, least, marker="o", color=colour, label=width_name(item.asked))
    left.set_title("least cosine of a layer's projections to float32")
    left.set_xlabel("layer")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(frameon=False)
    exact = _gram(plain)
    upper = np.triu_indices(len(exact), 1)
    if len(upper[0]):
        for index, item in enumerate(measured):
            colour = _COLOURS[index % len(_COLOURS)]
            gram = _gram(item.vectors)
            right.scatter(exact[upper], gram[upper], s=14, color=colour)
        low = min(float(exact[upper].min()), 0.0)
        right.plot([low, 1], [low, 1], color=lay.GREY, linewidth=0.8)
        right.set_title("similarity of pairs of inputs")
        right.set_xlabel("float32")
        right.set_ylabel("on RTL")
        return
    names = [width_name(item.asked) for item in measured]
    right.bar(names, [item.cosines[0] for item in measured], color=lay.BLUE)
    right.set_ylim(min([0.9, *(item.cosines[0] for item in measured)]), 1)
    right.set_title("cosine of the input's vector to float32")
