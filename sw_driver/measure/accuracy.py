"""What a core's number formats cost in accuracy, measured on a real layer.

The projections of an encoder layer and the scores of its attention are computed as a core computes
them, every operand quantized to what the core takes: by its reference, or on the simulated RTL,
which has to agree bit for bit. Two treatments change a product's operands and not its value,
:mod:`sw_driver.quantize.treatments`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hw.gemm import GemmSpec
from rtl_gen import __version__
from rtl_gen.console import Progress
from rtl_gen.errors import InputError
from sim.harness import Model, verilate
from sw_driver import report as lay
from sw_driver.mapper.core import core_of
from sw_driver.quantize.treatments import Treatment, treatments
from sw_driver.report import Report, Table
from sw_driver.runner.operands import prepare, reference
from sw_driver.runner.run import DEFAULT_GROUP, DEFAULT_TEXT, LayerRunner, cosine, sqnr_db
from sw_driver.text.bert import PROJECTIONS, Bert
from sw_driver.text.tokenizer import check_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = "scores"


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A core at one width of weights under one treatment.

    Attributes:
        weight_bits_each, activation_bits_each: memory an element takes, scales included.
        sqnr_db: of every product's output against float32, by name: the projections, each with the
            layer's float32 activations going in, and the attention's scores.
        layer_sqnr_db, layer_cosine: of the layer's output, projections one after another.
        results, mismatches: compared with the reference on RTL; 0 where no RTL ran.
    """

    spec: str
    block: str
    formats: str
    weight_bits: int
    treatment: str
    weight_bits_each: float
    activation_bits_each: float
    sqnr_db: Mapping[str, float]
    layer_sqnr_db: float
    layer_cosine: float
    results: int
    mismatches: int
    cycles: int

    @property
    def key(self) -> str:
        """What the treatments of one measurement have in common."""
        return f"{self.spec} {self.formats}"

    @property
    def projections_db(self) -> float:
        """Mean over the projections, in dB."""
        return float(np.mean([value for name, value in self.sqnr_db.items() if name != SCORES]))

    @property
    def scores_db(self) -> float:
        return self.sqnr_db[SCORES]


@dataclass(frozen=True, kw_only=True)
class AccuracyReport(Report):
    """Every core, width and treatment; ``failures``: what differed on RTL."""

    rows: tuple[Accuracy, ...]
    failures: tuple[str, ...]


class _Products:
    """Products of a core by its reference, or on RTL."""

    def __init__(
        self,
        spec: GemmSpec,
        model: Model | None,
        *,
        bits: int,
        group: int,
        activation_bits: int | None,
        grouped: bool,
    ):
        self.grouped = grouped
        self.spec, self.bits, self.group = spec, bits, group
        self.activation_bits = activation_bits
        self.runner = None
        if model is not None:
            self.runner = LayerRunner(spec, model, group=group, activation_bits=activation_bits)
        self.results = self.mismatches = self.cycles = 0
        self.failures: list[str] = []
        self.quantizer = ""

    def __call__(self, name: str, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        if self.runner is None:
            made = prepare(
                self.spec,
                x,
                w,
                bits=self.bits,
                group=self.group,
                activation_bits=self.activation_bits,
                grouped=self.grouped,
            )
            self.quantizer = made.quantizer
            return made.finish([reference(self.spec, plan) for plan in made.plans])
        output, run = self.runner.linear(name, x, w, None, self.bits)
        self.quantizer = run.scheme
        self.results += run.results
        self.mismatches += run.mismatches
        self.cycles += run.cycles
        if not run.exact:
            self.failures.append(
                f"{self.spec.name} W{self.bits}: {name}: {run.mismatches} of {run.results} results "
                f"differ, {run.cycles} cycles, {run.predicted} predicted, {run.mapped} mapped: "
                f"{run.first_mismatch}"
            )
        return output


def measure(
    spec: GemmSpec,
    bert: Bert,
    *,
    bits: int,
    group: int,
    layer: int,
    text: str,
    treated: Iterable[Treatment],
    activation_bits: int | None = None,
    grouped: bool = False,
    model: Model | None = None,
) -> tuple[list[Accuracy], list[str]]:
    """One core at one width of weights under some treatments; and what differed on RTL.

    Args:
        activation_bits: width of the activations, where jobs choose it; the widest if None.
        grouped: integer activations have a scale for each group instead of one a token.
        model: the Verilated core, with a scale a token; None for the reference alone.

    Raises:
        ValueError: an operand does not fit the core.
    """
    core = core_of(spec, activation_bits)
    arch = bert.architecture
    entered = bert.hidden(bert.tokens(text), layer)
    inputs: dict[str, np.ndarray] = {}
    plain: dict[str, np.ndarray] = {}

    def record(name: str, x: np.ndarray) -> np.ndarray:
        w, b = bert.weight(layer, name)
        inputs[name], plain[name] = x, x @ w.T
        return plain[name] + b

    wanted = bert.layer(layer, entered, record)
    heads = [
        tuple(
            (plain[name] + bert.weight(layer, name)[1])[:, h * arch.head_dim :][:, : arch.head_dim]
            for name in "qk"
        )
        for h in range(arch.heads)
    ]
    rows, failures = [], []
    for treatment in treated:
        product = _Products(
            spec,
            model,
            bits=bits,
            group=group,
            activation_bits=activation_bits,
            grouped=grouped,
        )
        found: dict[str, float] = {}

        def treat(
            name: str,
            x: np.ndarray,
            w: np.ndarray,
            product: _Products = product,
            treatment: Treatment = treatment,
        ) -> np.ndarray:
            return product(name, *treatment.apply(x, w))

        for name in PROJECTIONS:
            w, _ = bert.weight(layer, name)
            found[name] = sqnr_db(treat(name, inputs[name], w), plain[name])
        quantizer = product.quantizer
        if treatment.fits(arch.head_dim):
            scores = [treat(SCORES, q, k) for q, k in heads]
            exact = [q @ k.T for q, k in heads]
            found[SCORES] = sqnr_db(np.stack(scores), np.stack(exact))
        else:
            found[SCORES] = math.nan

        def project(name: str, x: np.ndarray, treat: Any = treat) -> np.ndarray:
            w, b = bert.weight(layer, name)
            output: np.ndarray = treat(name, x, w) + b
            return output

        output = bert.layer(layer, entered, project)
        scale = 0.0 if core.own_scales else (16 + core.zero_point * bits) / group
        rows.append(
            Accuracy(
                spec=spec.name,
                block=spec.block,
                formats=f"{core.activation_name} × {_weights(spec, bits, quantizer)}",
                weight_bits=bits,
                treatment=treatment.name,
                weight_bits_each=core.step_bits[bits - 1] / core.k + scale,
                activation_bits_each=core.activation_step_bits / core.k,
                sqnr_db=found,
                layer_sqnr_db=sqnr_db(output, wanted),
                layer_cosine=cosine(output, wanted),
                results=product.results,
                mismatches=product.mismatches,
                cycles=product.cycles,
            )
        )
        failures += product.failures
    return rows, failures


def _weights(spec: GemmSpec, bits: int, quantizer: str) -> str:
    """Format of W in a few characters."""
    form = spec.operand_formats[1]
    if form is not None:
        return form.name
    return "ternary" if quantizer == "ternary" else f"W{bits} {quantizer}"


def accuracy(
    specs: Sequence[object],
    *,
    model: Path | str | Bert = "minilm",
    layer: int = 0,
    weight_bits: Sequence[int] = (),
    activation_bits: Sequence[int] = (),
    group: int = DEFAULT_GROUP,
    hadamard: int = 16,
    text: str = DEFAULT_TEXT,
    rtl: bool = False,
    progress: bool = True,
) -> AccuracyReport:
    """The error of every core's formats on a real layer.

    Args:
        specs: GEMM cores. weight_bits: widths of integer weights; by default each core's widest.
        activation_bits: widths of activations where jobs choose them; by default the widest.
        group: elements of K that share a scale of integer weights.
        hadamard: size of the rotated blocks.
        rtl: run every product on the simulated RTL and compare it with the reference.

    Raises:
        InputError: a specification, the model or a number is wrong.
        ToolError: a simulator could not be built.
    """
    check_text("text", text)
    bert = model if isinstance(model, Bert) else Bert(model)
    cores = _checked(specs, bert, layer, weight_bits, activation_bits, group, hadamard)
    chosen = [
        (spec, bits, a_bits)
        for spec in cores
        for bits in _widths(spec, weight_bits)
        for a_bits in _activation_widths(spec, activation_bits)
    ]
    rows: list[Accuracy] = []
    failures: list[str] = []
    with Progress("measuring formats", total=len(chosen), enabled=progress) as shown:
        for spec, bits, a_bits in chosen:
            shown.describe(f"measuring {spec.name} at W{bits}A{a_bits}")
            built = verilate(spec, progress=False) if rtl else None
            try:
                some, wrong = measure(
                    spec,
                    bert,
                    bits=bits,
                    group=group,
                    layer=layer,
                    text=text,
                    treated=treatments(hadamard),
                    activation_bits=a_bits,
                    model=built,
                )
            finally:
                if built is not None:
                    built.close()
            rows += some
            failures += wrong
            shown.advance()
    return _report(bert, layer, group, hadamard, text, rows, failures)


def _widths(spec: GemmSpec, asked: Sequence[int]) -> list[int]:
    """The widths to measure: those asked for that the core has, else its widest up to 8."""
    widths = core_of(spec).widths
    if len(widths) == 1:
        return list(widths)
    return [bits for bits in asked if bits in widths] or [min(8, widths[-1])]


def _activation_widths(spec: GemmSpec, asked: Sequence[int]) -> list[int]:
    """The widths to measure: those asked for that the core's jobs can choose, else its widest."""
    return [bits for bits in asked if bits in spec.activation_bits] or [spec.activation_width]


def _checked(
    specs: Sequence[object],
    bert: Bert,
    layer: int,
    weight_bits: Sequence[int],
    activation_bits: Sequence[int],
    group: int,
    hadamard: int,
) -> list[GemmSpec]:
    """The specifications, if they can be measured.

    Raises:
        InputError: with every problem.
    """
    from sw_driver.runner.run import check_request

    problems = []
    cores: list[GemmSpec] = []
    for spec in specs:
        try:
            cores.append(check_request(spec, bert.architecture.layers, layer, (), group))
        except InputError as error:
            problems.append(str(error))
    for name, widths in (("weight_bits", weight_bits), ("activation_bits", activation_bits)):
        problems += [
            f"{name}: must lie in [1, 8], got {bits}" for bits in widths if not 1 <= bits <= 8
        ]
    if hadamard not in (2, 4, 8, 16, 32, 64, 128):
        problems.append(f"hadamard: must be a power of two from 2 to 128, got {hadamard}")
    elif bert.architecture.hidden % hadamard:
        problems.append(f"hadamard: must divide {bert.architecture.hidden}, got {hadamard}")
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
    return cores


def _report(
    bert: Bert,
    layer: int,
    group: int,
    hadamard: int,
    text: str,
    rows: Sequence[Accuracy],
    failures: Sequence[str],
) -> AccuracyReport:
    arch = bert.architecture
    plain = [row for row in rows if row.treatment == "plain"]
    by_key = {(row.key, row.treatment): row for row in rows}

    def figure(row: Accuracy, treatment: str, name: str) -> str:
        value = getattr(by_key[row.key, treatment], name)
        return "–" if math.isnan(value) else f"{value:.1f}"

    table = Table(
        columns=(
            "core", "formats", "bits A", "W",
            "projections dB", "+ Hadamard", "+ K-sort", "+ both",
            "scores dB", "+ Hadamard", "+ K-sort", "layer dB", "cosine",
        ),
        rows=[
            (
                row.spec,
                row.formats,
                f"{row.activation_bits_each:.2f}",
                f"{row.weight_bits_each:.2f}",
                *(figure(row, name, "projections_db") for name in
                  ("plain", "hadamard", "sort", "both")),
                *(figure(row, name, "scores_db") for name in ("plain", "hadamard", "sort")),
                f"{row.layer_sqnr_db:.1f}",
                f"{row.layer_cosine:.5f}",
            )
            for row in sorted(plain, key=lambda row: -row.projections_db)
        ],
    )  # fmt: skip
    results = sum(row.results for row in rows)
    facts = [
        f"layer {layer} of {arch.name}, text {text!r}, {len(bert.tokens(text))} tokens; integer "
        f"weights in groups of {group} along K, Hadamard blocks of {hadamard}",
    ]
    if results:
        wrong = sum(row.mismatches for row in rows)
        facts.append(
            f"on RTL: {lay.count(results)} results, {lay.count(wrong)} of them differ from the "
            f"reference; {lay.count(sum(row.cycles for row in rows))} cycles"
        )
    notes = [
        "dB: signal to quantization noise against float32; projections: mean over the six, each "
        "with float32 activations going in; layer: its output, one projection after another",
        "bits: memory an element takes, scales included; of integers one 16 bit scale a group of "
        "weights, one a token of activations not counted",
    ]
    return AccuracyReport(
        title=f"number formats on a layer of {arch.name}",
        facts=facts,
        tables=[table],
        notes=notes,
        data={
            "rtlgen": __version__,
            "model": arch.name,
            "layer": layer,
            "group": group,
            "hadamard": hadamard,
            "text": text,
            "rows": [_plain_data(row) for row in rows],
            "failures": list(failures),
        },
        draw=lambda figure: draw(figure, plain, by_key),
        size=(11.0, 0.6 + 0.32 * max(4, len(plain))),
        rows=tuple(rows),
        failures=tuple(failures),
    )


def _plain_data(row: Accuracy) -> dict[str, Any]:
    data = {**asdict(row), "projections_db": row.projections_db}
    data["sqnr_db"] = {
        name: None if math.isnan(value) else value for name, value in row.sqnr_db.items()
    }
    return data


def draw(
    figure: Figure,
    plain: Sequence[Accuracy],
    by_key: Mapping[tuple[str, str], Accuracy],
) -> None:
    """SQNR of the projections, with and without the treatments."""
    axes = figure.subplots()
    order = sorted(plain, key=lambda row: row.projections_db)
    styles = (
        ("plain", "o", lay.BLUE),
        ("hadamard", "D", lay.ORANGE),
        ("sort", "^", lay.GREEN),
        ("both", "s", lay.PURPLE),
    )
    for name, marker, colour in styles:
        values = [by_key[row.key, name].projections_db for row in order]
        size = 7 if name == "plain" else 5
        axes.plot(values, range(len(order)), marker, color=colour, label=name, markersize=size)
    labels = [f"{row.formats}  ({row.weight_bits_each:.2f} b)" for row in order]
    axes.set_yticks(range(len(order)), labels)
    axes.grid(axis="x", color="0.9")
    axes.set_xlabel("SQNR of the projections against float32, dB")
    axes.legend(frameon=False, loc="lower right")
