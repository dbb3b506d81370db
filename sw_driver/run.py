"""A real layer on the simulated RTL: quantized, packed, run, compared.

Each projection of an encoder layer becomes integer GEMMs, one for each group of K that shares a
scale, offered to the Verilated core back to back. The core's results are exact integers; what turns
them into numbers (scales, the sum over groups, bias, and attention between the projections) is done
here in float32.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hw.block import block
from hw.integers import IntegerGemmSpec
from rtl_gen import __version__
from rtl_gen.console import Progress
from rtl_gen.errors import InputError
from sim.gemm import GemmPlan, tile
from sim.harness import Model, Packed, verilate
from sw_driver import cost
from sw_driver import report as lay
from sw_driver.bert import PROJECTIONS, Bert
from sw_driver.core import core_of
from sw_driver.mapping import Choices, core_ints, system_of
from sw_driver.quantize import (
    SCHEMES,
    QuantizedWeights,
    Scheme,
    quantize_activations,
)
from sw_driver.report import Report, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_TEXT = (
    "Low-bit language models trade a little precision for a great deal of memory bandwidth."
)
DEFAULT_GROUP = 64


@dataclass(frozen=True, kw_only=True)
class Operand:
    """Quantized weights as a core takes them: ``Σ a·codes' = factor·o + offset·Σ a``.

    Attributes:
        w: integers ``(N, K)`` that the core multiplies with. z: ``(N, groups)`` or None.
        factor, offset: undo the encoding where the core's differs from the quantizer's.
    """

    w: np.ndarray
    z: np.ndarray | None
    factor: int = 1
    offset: int = 0


@dataclass(frozen=True, kw_only=True)
class ProjectionRun:
    """A projection on the RTL.

    Attributes:
        shape: ``(M, N, K)``. groups: scale groups along K.
        cycles: observed; predicted: by the block's timing model; mapped: by the mapper's formula.
        mismatches: results of the RTL that differ from the reference.
        cosine: of the output to the float32 projection of the same input.
        seconds: simulation.
    """

    name: str
    weight_bits: int
    scheme: str
    shape: tuple[int, int, int]
    groups: int
    jobs: int
    cycles: int
    predicted: int
    mapped: int
    results: int
    mismatches: int
    first_mismatch: str | None
    cosine: float
    seconds: float

    @property
    def exact(self) -> bool:
        return self.mismatches == 0 and self.cycles == self.predicted == self.mapped


@dataclass(frozen=True, kw_only=True)
class RunReport(Report):
    """A report of layers that were run.

    Attributes:
        runs: every projection at every width. layer_cosine: of the layer's output, by width.
        failures: what differed, one line each; empty if the RTL is right.
    """

    runs: tuple[ProjectionRun, ...]
    layer_cosine: Mapping[int, float]
    failures: tuple[str, ...] = field(default=())


def scheme_for(encoding: str, bits: int) -> Scheme:
    """The quantizer for a core's encoding: of one bit ±1, which has the least error."""
    if encoding == "ternary":
        return "ternary"
    if encoding == "bipolar" or bits == 1:
        return "bipolar"
    return "asymmetric" if encoding == "unsigned" else "symmetric"


def operand_for(weights: QuantizedWeights, encoding: str) -> Operand:
    """Weights in a core's encoding.

    Raises:
        ValueError: the encoding cannot hold them.
    """
    codes = weights.codes.astype(np.int64)
    if weights.scheme == "bipolar" and encoding in ("unsigned", "twos_complement"):
        # q' = 2q − (2^B − 1): the codes q go to the core, the rest is a sum of activations. In
        # two's complement they are shifted by 2^(B−1).
        top = 2**weights.bits - 1
        q = (codes + top) // 2
        if encoding == "unsigned":
            zero = np.zeros(weights.scale.shape, dtype=np.int64)
            return Operand(w=q, z=zero, factor=2, offset=-top)
        return Operand(w=q - 2 ** (weights.bits - 1), z=None, factor=2, offset=1)
    if weights.scheme == "asymmetric" and encoding == "unsigned" and weights.zero is not None:
        return Operand(w=codes, z=weights.zero.astype(np.int64))
    if weights.scheme == "ternary" and encoding == "unsigned":
        return Operand(w=codes + 1, z=np.ones(weights.scale.shape, dtype=np.int64))
    if (weights.scheme, encoding) in (
        ("symmetric", "twos_complement"),
        ("ternary", "twos_complement"),
        ("ternary", "ternary"),
        ("bipolar", "bipolar"),
    ):
        return Operand(w=codes, z=None)
    raise ValueError(f"{weights.scheme} weights do not fit the {encoding} encoding")


class LayerRunner:
    """Quantized linear layers on a Verilated core.

    Args:
        spec: the core. model: its Verilated model.
        group: elements of K that share a scale.
    """

    def __init__(self, spec: IntegerGemmSpec, model: Model, *, group: int):
        self.spec, self.model, self.group = spec, model, group
        self.core = core_of(spec)

    def linear(
        self, name: str, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, bits: int
    ) -> tuple[np.ndarray, ProjectionRun]:
        """``x·wᵀ + b`` with weights of ``bits`` bits on the RTL.

        Args:
            x: ``(M, K)``, quantized per token. w: ``(N, K)``. b: ``(N,)``.

        Returns:
            The output ``(M, N)`` in ``float32``, and what happened.
        """
        scheme = scheme_for(self.spec.weight_encoding, bits)
        weights = SCHEMES[scheme](w, bits, self.group)
        form = self.spec.activations
        a = quantize_activations(x, form.widest, bipolar=form.code == "bipolar")
        operand = operand_for(weights, self.spec.weight_encoding)
        codes = a.codes.astype(np.int64)
        plans = [
            self._plan(codes, operand, weights.columns(g), g, bits) for g in range(weights.groups)
        ]
        started = time.perf_counter()
        run = self.model.run(_joined(plans), {"o": sum(plan.jobs for plan in plans)})
        seconds = time.perf_counter() - started
        tiles = run.outputs["o"]

        output = np.zeros((len(x), len(w)), dtype=np.float32)
        mismatches, first, results, position = 0, None, 0, 0
        for g, plan in enumerate(plans):
            part = {name: beats[position : position + plan.jobs] for name, beats in tiles.items()}
            position += plan.jobs
            wanted = plan.expected()
            wrong = part["o"] != wanted["o"]
            o = plan.assemble(part)["o"]
            columns = weights.columns(g)
            if not self._rounds:
                plain = _product(codes[:, columns], operand, columns, g)
                # The reference too is held against the plain product, without its tiles.
                if not np.array_equal(plan.assemble(wanted)["o"], plain):
                    raise AssertionError(f"{name}: the reference differs from the integer product")
            results += wrong.size
            if wrong.any():
                mismatches += int(wrong.sum())
                job, m, n = (int(index) for index in np.argwhere(wrong)[0])
                first = first or (
                    f"group {g}, job {job}, element ({m}, {n}): got {part['o'][job, m, n]}, "
                    f"expected {wanted['o'][job, m, n]}"
                )
            exact = operand.factor * o
            if operand.offset:
                exact = exact + operand.offset * codes[:, columns].sum(axis=1, keepdims=True)
            output += exact.astype(np.float32) * weights.scale[:, g].astype(np.float32)
        output *= a.scale[:, None]
        if b is not None:
            output += b
        reference = x @ w.T + (b if b is not None else 0)
        return output, ProjectionRun(
            name=name,
            weight_bits=bits,
            scheme=scheme,
            shape=(len(x), w.shape[0], w.shape[1]),
            groups=weights.groups,
            jobs=position,
            cycles=run.cycles,
            predicted=self._predicted(plans),
            mapped=self._mapped(len(x), w.shape[0], w.shape[1], bits),
            results=results,
            mismatches=mismatches,
            first_mismatch=first,
            cosine=cosine(output, reference),
            seconds=seconds,
        )

    @property
    def _rounds(self) -> bool:
        """Whether the core rounds inside: then its own reference is the only one."""
        return bool(getattr(self.spec, "quantized", False))

    def _plan(
        self, codes: np.ndarray, operand: Operand, columns: slice, g: int, bits: int
    ) -> GemmPlan:
        extra: dict[str, np.ndarray] = {}
        if self._rounds:
            # The shift that brings every entry that can occur into INT8.
            width: int = getattr(self.spec, "exact_entry_bits", 8)
            extra["entry_shift"] = np.array(max(0, width - 8))
        z = None if operand.z is None else operand.z[:, g]
        return tile(
            self.spec, codes[:, columns], operand.w[:, columns], z=z, weight_bits=bits, extra=extra
        )

    def _predicted(self, plans: Sequence[GemmPlan]) -> int:
        """Cycles of all jobs back to back by the block's timing model."""
        timing: Any = block(self.spec.block).timing
        latency = int(timing.latency(self.spec))
        return latency + sum(plan.predicted_cycles - latency for plan in plans)

    def _mapped(self, m: int, n: int, k: int, bits: int) -> int:
        """Cycles of the projection by the mapper's closed form."""
        result = cost.linear(
            core_ints(self.core, bits),
            system_of(self.core, Choices()),
            m=m,
            n=n,
            k=k,
            runs=1,
            instances=1,
            group=min(self.group, k),
            cache_row_bits=0,
            bias=0,
        )
        return int(result.cycles)


def _product(codes: np.ndarray, operand: Operand, columns: slice, g: int) -> np.ndarray:
    w = operand.w[:, columns]
    return codes @ (w if operand.z is None else w - operand.z[:, g, None]).T


def _joined(plans: Sequence[GemmPlan]) -> dict[str, Packed]:
    """The inputs of several GEMMs as one sequence of jobs."""
    joined = {}
    for name in plans[0].inputs:
        parts = [plan.inputs[name] for plan in plans]
        starts = np.cumsum([0, *(len(part.rows) for part in parts[:-1])])
        indices = [
            start + (np.arange(len(part.rows)) if part.index is None else part.index)
            for start, part in zip(starts, parts, strict=True)
        ]
        joined[name] = Packed(
            np.concatenate([part.rows for part in parts]),
            np.concatenate(indices).astype(np.int32),
        )
    return joined


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine similarity of two arrays, as vectors, in double precision."""
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def check_request(
    spec: object, layers: int, layer: int, weight_bits: Sequence[int], group: int
) -> IntegerGemmSpec:
    """The specification, if it can run what is asked for.

    Raises:
        InputError: with every problem.
    """
    name = getattr(spec, "name", "specification")
    if not isinstance(spec, IntegerGemmSpec):
        kind = getattr(spec, "block", None)
        raise InputError(f"{name}: block: must be a GEMM core to run a layer, got {kind!r}")
    core = core_of(spec)
    problems = []
    if spec.activations.code == "twos_complement" and spec.activations.widest < 2:
        problems.append(f"{name}: activations: two's complement needs 2 bits, got 1")
    if not spec.exact:
        problems.append(f"{name}: activations: must be integers, the layer's are quantized to them")
    if spec.activations.low >= 0:
        problems.append(f"{name}: activations: must be signed, the layer's are of both signs")
    if not 0 <= layer < layers:
        problems.append(f"layer: must lie in [0, {layers - 1}], got {layer}")
    for bits in weight_bits:
        if bits not in core.widths:
            least, most = core.widths[0], core.widths[-1]
            problems.append(f"weight_bits: must lie in [{least}, {most}] for {name}, got {bits}")
        elif bits > 8:
            problems.append(f"weight_bits: must be at most 8 to be quantized to, got {bits}")
    if not 1 <= group <= 1 << 20:
        problems.append(f"group: must lie in [1, {1 << 20}], got {group}")
    if problems:
        raise InputError("\n".join(problems))
    return spec


def run_layer(
    spec: object,
    *,
    model: Path | str | Bert = "minilm",
    layer: int = 0,
    weight_bits: Sequence[int] | None = None,
    group: int = DEFAULT_GROUP,
    text: str = DEFAULT_TEXT,
    simulator: Model | None = None,
    progress: bool = True,
) -> RunReport:
    """The six projections of an encoder layer on the simulated RTL, a sentence's activations in.

    The layer is run as a whole for every width: what comes out of one projection goes, through
    float32 attention, norms and activation, into the next.

    Args:
        spec: a GEMM core.
        model: ``minilm``, a folder with a BERT checkpoint, or one that is loaded.
        weight_bits: widths; by default 1, 2 and 4 as far as the core has them.
        simulator: the core's Verilated model, if there is one already.
        progress: show progress on standard error.

    Raises:
        InputError: the model, the specification or a number is wrong.
        ToolError: the simulator could not be built.
    """
    bert = model if isinstance(model, Bert) else Bert(model)
    core_bits = list(weight_bits or ())
    if not core_bits and isinstance(spec, IntegerGemmSpec):
        widths = core_of(spec).widths
        core_bits = [bits for bits in (1, 2, 4) if bits in widths] or [widths[-1]]
    checked = check_request(spec, bert.architecture.layers, layer, core_bits, group)
    tokens = bert.tokens(text)
    entered = bert.hidden(tokens, layer)
    wanted = bert.layer(layer, entered)
    simulator = simulator or verilate(checked, progress=progress)
    runner = LayerRunner(checked, simulator, group=group)

    runs: list[ProjectionRun] = []
    layer_cosine = {}
    total = len(core_bits) * len(PROJECTIONS)
    with Progress("running the layer", total=total, enabled=progress) as shown:
        for bits in core_bits:
            shown.describe(f"running the layer at W{bits}")

            def project(name: str, x: np.ndarray, bits: int = bits) -> np.ndarray:
                w, b = bert.weight(layer, name)
                output, result = runner.linear(name, x, w, b, bits)
                runs.append(result)
                shown.advance()
                return output

            layer_cosine[bits] = cosine(bert.layer(layer, entered, project), wanted)
    return _report(checked, bert, layer, group, text, len(tokens), runs, layer_cosine)


def _report(
    spec: IntegerGemmSpec,
    bert: Bert,
    layer: int,
    group: int,
    text: str,
    tokens: int,
    runs: Sequence[ProjectionRun],
    layer_cosine: Mapping[int, float],
) -> RunReport:
    failures = []
    for item in runs:
        where = f"{item.name} at W{item.weight_bits}"
        if item.mismatches:
            failures.append(
                f"{where}: {item.mismatches} of {item.results} results differ, "
                f"{item.first_mismatch}"
            )
        if not item.cycles == item.predicted == item.mapped:
            failures.append(
                f"{where}: {item.cycles} cycles observed, {item.predicted} by the timing model, "
                f"{item.mapped} by the mapper"
            )
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
        )
        for item in runs
    ]
    columns = (
        "width", "projection", "M×N×K", "quantizer", "jobs", "cycles predicted", "observed",
        "bit-exact", "cosine",
    )  # fmt: skip
    arch = bert.architecture
    cycles = sum(item.cycles for item in runs)
    seconds = sum(item.seconds for item in runs)
    results = sum(item.results for item in runs)
    facts = [
        f"core: {spec.name} ({spec.block}), {spec.tile.m} × {spec.tile.n} × {spec.tile.k} a step, "
        f"{spec.clock_mhz:g} MHz; groups of {group} along K, activations INT"
        f"{spec.activations.widest} per token",
        f"text: {text!r}, {tokens} tokens",
        f"{lay.count(results)} results, {lay.count(sum(item.mismatches for item in runs))} of them "
        f"wrong; {lay.count(cycles)} cycles simulated in {seconds:.2f} s",
    ]
    notes = [
        "every scale group is its own set of jobs; scales, their sum, bias, attention, norms and "
        "activation function are float32 in software",
        "cosine: a projection's output against float32 of the same input; layer: its output "
        "against an all-float32 layer",
    ]
    table = Table(
        columns=("layer output", "cosine", "cycles", f"µs at {spec.clock_mhz:g} MHz"),
        rows=[
            (
                f"W{bits}",
                f"{value:.5f}",
                lay.count(_cycles(runs, bits)),
                lay.fixed(_cycles(runs, bits) / spec.clock_mhz, 4),
            )
            for bits, value in layer_cosine.items()
        ],
    )
    return RunReport(
        title=f"{arch.name}, layer {layer}, on {spec.name} (RTL)",
        facts=facts,
        tables=[Table(columns=columns, rows=rows), table],
        notes=notes,
        data={
            "rtlgen": __version__,
            "spec": spec.name,
            "spec_digest": spec.digest,
            "model": arch.name,
            "layer": layer,
            "group": group,
            "text": text,
            "tokens": tokens,
            "bit_exact": not any(item.mismatches for item in runs),
            "cycles_exact": all(item.cycles == item.predicted == item.mapped for item in runs),
            "layer_cosine": {str(bits): value for bits, value in layer_cosine.items()},
            "projections": [{**asdict(item), "shape": list(item.shape)} for item in runs],
            "failures": failures,
        },
        draw=lambda figure: draw_runs(figure, runs, layer_cosine),
        size=(10.0, 4.2),
        runs=tuple(runs),
        layer_cosine=dict(layer_cosine),
        failures=tuple(failures),
    )


def _cycles(runs: Sequence[ProjectionRun], bits: int) -> int:
    return sum(item.cycles for item in runs if item.weight_bits == bits)


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
    axes.set_xticks(range(len(names)), names)
    least = min([item.cosine for item in runs] + list(layer_cosine.values()))
    floor = least - (1 - least) * 0.5 - 0.005
    axes.set_ylim(max(0.0 if least >= 0 else -1.0, floor), 1.0)
    axes.set_title("cosine to float32")


_COLOURS = (lay.SKY, lay.ORANGE, lay.BLUE, lay.GREEN, lay.PURPLE, lay.RED, lay.GREY, lay.YELLOW)


def _bars(
    axes: Any,
    runs: Sequence[ProjectionRun],
    value: Any,
    whole: Mapping[int, float] | None = None,
) -> list[str]:
    names = list(dict.fromkeys(item.name for item in runs))
    widths = list(dict.fromkeys(item.weight_bits for item in runs))
    bar = 0.8 / len(widths)
    for index, bits in enumerate(widths):
        heights = [value(item) for item in runs if item.weight_bits == bits]
        if whole is not None:
            heights.append(whole[bits])
        places = [place + (index - (len(widths) - 1) / 2) * bar for place in range(len(heights))]
        axes.bar(places, heights, bar, label=f"W{bits}", color=_COLOURS[index % len(_COLOURS)])
    if whole is not None:
        names.append("layer")
    axes.set_xticks(range(len(names)), names)
    return names
