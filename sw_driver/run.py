"""A real layer on the simulated RTL: quantized, packed, run, compared.

Each projection of an encoder layer becomes GEMMs of a core: of integers one for each group of K
that shares a scale, of floating and block formats one in all (:mod:`sw_driver.operands`). They are
offered to the Verilated core back to back. What is not in the core (scales of integers and the sum
over their groups, bias, and attention between the projections) is done here in float32.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hw.block import block
from hw.gemm import GemmSpec
from hw.integers import IntegerGemmSpec
from rtl_gen import __version__
from rtl_gen.console import Progress
from rtl_gen.errors import InputError
from sim.gemm import GemmPlan
from sim.harness import Model, Packed, verilate
from sw_driver import cost
from sw_driver import report as lay
from sw_driver.bert import PROJECTIONS, Bert
from sw_driver.core import Core, core_of
from sw_driver.mapping import Choices, core_ints, system_of
from sw_driver.operands import Groups, Prepared, prepare, rounds, scaled_outside
from sw_driver.report import Report, Table
from sw_driver.scaling import Scaled, Scaler

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_TEXT = (
    "Low-bit language models trade a little precision for a great deal of memory bandwidth."
)
DEFAULT_GROUP = 64

_LOST = 2.0**-6
"""Share of ``Σ |a|·|w|`` that a core may lose that aligns activations to a few bits."""


@dataclass(frozen=True, kw_only=True)
class ProjectionRun:
    """A projection on the RTL.

    Attributes:
        shape: ``(M, N, K)``. groups: scale groups along K.
        cycles: observed; predicted: by the block's timing model; mapped: by the mapper's formula.
        mismatches: results of the RTL that differ from the reference.
        cosine, sqnr_db: of the output to the float32 projection of the same input.
        seconds: simulation.
        scale_cycles, scale_predicted: of the scale-and-accumulate unit, 0 without one.
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
    sqnr_db: float
    seconds: float
    scale_cycles: int = 0
    scale_predicted: int = 0

    @property
    def exact(self) -> bool:
        return (
            self.mismatches == 0
            and self.cycles == self.predicted == self.mapped
            and self.scale_cycles == self.scale_predicted
        )


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


class LayerRunner:
    """Quantized linear layers on a Verilated core.

    Args:
        spec: the core. model: its Verilated model.
        group: elements of K that share a scale.
        activation_bits: width of the activations, where jobs choose it; the widest if None.
        hardware_scales: scale and sum the groups of integers on RTL, too.
    """

    def __init__(
        self,
        spec: GemmSpec,
        model: Model,
        *,
        group: int,
        activation_bits: int | None = None,
        hardware_scales: bool = False,
    ):
        self.hardware_scales = hardware_scales
        self._scalers: dict[int, Scaler] = {}
        self.spec, self.model, self.group = spec, model, group
        self.activation_bits = activation_bits
        self.core = core_of(spec, activation_bits)

    def linear(
        self, name: str, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, bits: int
    ) -> tuple[np.ndarray, ProjectionRun]:
        """``x·wᵀ + b`` with weights of ``bits`` bits on the RTL.

        Args:
            x: ``(M, K)``, quantized per token. w: ``(N, K)``. b: ``(N,)``.

        Returns:
            The output ``(M, N)`` in ``float32``, and what happened.
        """
        prepared = prepare(
            self.spec,
            x,
            w,
            bits=bits,
            group=self.group,
            activation_bits=self.activation_bits,
        )
        if self.hardware_scales and prepared.scales is None and scaled_outside(self.spec):
            raise InputError(
                f"scales: must be software for {self.spec.name} at W{bits}: {prepared.quantizer} "
                f"weights in {self.core.encoding} codes need sums of rows, and of "
                f"{self.core.activation_name} nothing here makes them"
            )
        plans = prepared.plans
        started = time.perf_counter()
        run = self.model.run(_joined(plans), {"o": sum(plan.jobs for plan in plans)})
        seconds = time.perf_counter() - started
        tiles = run.outputs["o"]

        mismatches, first, results, position = 0, None, 0, 0
        gathered, wanted = [], []
        for g, plan in enumerate(plans):
            part = {name: beats[position : position + plan.jobs] for name, beats in tiles.items()}
            position += plan.jobs
            golden = plan.expected()
            gathered.append(plan.assemble(part))
            wanted.append(plan.assemble(golden))
            for item, array in golden.items():
                wrong = part[item] != array
                results += wrong.size
                if not wrong.any():
                    continue
                mismatches += int(wrong.sum())
                index = tuple(int(i) for i in np.argwhere(wrong)[0])
                first = first or (
                    f"group {g}, job {index[0]}, element {index[1:]}: got {part[item][index]}, "
                    f"expected {array[index]}"
                )
        self._check_reference(name, prepared, wanted)
        scaled = None
        if self.hardware_scales and prepared.scales is not None:
            scaled = self._scaled(plans, tiles, prepared.scales, b, (len(x), len(w)), bits)
            output, results = scaled.o, results + scaled.results
            mismatches, first = mismatches + scaled.mismatches, first or scaled.first_mismatch
        else:
            output = prepared.finish(gathered)
            if b is not None:
                output += b
        reference = x @ w.T + (b if b is not None else 0)
        return output, ProjectionRun(
            name=name,
            weight_bits=bits,
            scheme=prepared.quantizer,
            shape=(len(x), w.shape[0], w.shape[1]),
            groups=prepared.groups,
            jobs=position,
            cycles=run.cycles,
            predicted=self._predicted(plans),
            mapped=self._mapped(len(x), w.shape[0], w.shape[1], bits, prepared.groups),
            results=results,
            mismatches=mismatches,
            first_mismatch=first,
            cosine=cosine(output, reference),
            sqnr_db=sqnr_db(output, reference),
            seconds=seconds,
            scale_cycles=0 if scaled is None else scaled.cycles,
            scale_predicted=0 if scaled is None else scaled.predicted,
        )

    def _scaled(
        self,
        plans: Sequence[GemmPlan],
        tiles: Mapping[str, np.ndarray],
        scales: Groups,
        bias: np.ndarray | None,
        shape: tuple[int, int],
        bits: int,
    ) -> Scaled:
        """The groups' results through a scale-and-accumulate unit."""
        if any(len(plan.parts) > 1 for plan in plans):
            raise InputError(
                f"group: must be at most {self.spec.max_k} for {self.spec.name} with scales on RTL,"
                f" got {self.group}"
            )
        starts = np.cumsum([0, *(plan.jobs for plan in plans)])
        parts = [
            {name: beats[a:b] for name, beats in tiles.items()}
            for a, b in itertools.pairwise(starts)
        ]
        if bits not in self._scalers:
            self._scalers[bits] = Scaler(self.spec, group=self.group, bits=bits)
        return self._scalers[bits].run(parts, scales, bias, *shape)

    def close(self) -> None:
        """Free the models of the units beside the core."""
        for scaler in self._scalers.values():
            scaler.close()
        self._scalers = {}

    def _check_reference(
        self, name: str, prepared: Prepared, wanted: Sequence[Mapping[str, np.ndarray]]
    ) -> None:
        """The reference too is held against the plain product, without its tiles."""
        if not rounds(self.spec):
            same = all(
                np.array_equal(fields["o"], plan.product())
                for plan, fields in zip(prepared.plans, wanted, strict=True)
            )
        elif getattr(self.spec, "quantized", False):
            return  # entries of eight bits are far from the product
        else:
            found, plain = prepared.finish(wanted), prepared.a @ prepared.w.T
            most = _LOST * (np.abs(prepared.a) @ np.abs(prepared.w).T)
            same = bool((np.abs(found - plain) <= most + np.finfo(np.float32).tiny).all())
        if not same:
            raise AssertionError(f"{name}: the reference differs from the plain product")

    def _predicted(self, plans: Sequence[GemmPlan]) -> int:
        """Cycles of all jobs back to back by the block's timing model."""
        timing: Any = block(self.spec.block).timing
        latency = int(timing.latency(self.spec))
        return latency + sum(plan.predicted_cycles - latency for plan in plans)

    def _mapped(self, m: int, n: int, k: int, bits: int, groups: int) -> int:
        """Cycles of the projection by the mapper's closed form."""
        result = cost.linear(
            core_ints(self.core, bits),
            system_of(self.core, Choices()),
            m=m,
            n=n,
            k=k,
            runs=1,
            instances=1,
            group=k if groups == 1 else min(self.group, k),
            cache_row_bits=0,
            bias=0,
        )
        return int(result.cycles)


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


def sqnr_db(found: np.ndarray, wanted: np.ndarray) -> float:
    """Signal to quantization noise: ``10 log10(Σ wanted² / Σ (found − wanted)²)``."""
    noise = np.square(found.astype(np.float64) - wanted).sum()
    signal = np.square(wanted.astype(np.float64)).sum()
    return float(10 * np.log10(signal / noise)) if noise else float("inf")


def check_request(
    spec: object,
    layers: int,
    layer: int,
    weight_bits: Sequence[int],
    group: int,
    activation_bits: int | None = None,
) -> GemmSpec:
    """The specification, if it can run what is asked for.

    Raises:
        InputError: with every problem.
    """
    name = getattr(spec, "name", "specification")
    if not isinstance(spec, GemmSpec):
        kind = getattr(spec, "block", None)
        raise InputError(f"{name}: block: must be a GEMM core to run a layer, got {kind!r}")
    problems = []
    try:
        core = core_of(spec, activation_bits)
    except InputError as error:
        problems.append(str(error))
        core = core_of(spec)
    if isinstance(spec, IntegerGemmSpec) and spec.operand_formats[0] is None:
        if spec.activations.code == "twos_complement" and core.activation_bits < 2:
            problems.append(f"{name}: activations: two's complement needs 2 bits, got 1")
        if spec.activations.low >= 0:
            problems.append(f"{name}: activations: must be signed, the layer's are of both signs")
    if not 0 <= layer < layers:
        problems.append(f"layer: must lie in [0, {layers - 1}], got {layer}")
    for bits in weight_bits:
        if bits not in core.widths:
            least, most = core.widths[0], core.widths[-1]
            problems.append(f"weight_bits: must lie in [{least}, {most}] for {name}, got {bits}")
        elif bits > 8 and spec.operand_formats[1] is None:
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
    activation_bits: int | None = None,
    group: int = DEFAULT_GROUP,
    text: str = DEFAULT_TEXT,
    simulator: Model | None = None,
    hardware_scales: bool = False,
    progress: bool = True,
) -> RunReport:
    """The six projections of an encoder layer on the simulated RTL, a sentence's activations in.

    The layer is run as a whole for every width: what comes out of one projection goes, through
    float32 attention, norms and activation, into the next.

    Args:
        spec: a GEMM core.
        model: ``minilm``, a folder with a BERT checkpoint, or one that is loaded.
        weight_bits: widths; by default 1, 2 and 4 as far as the core has them.
        activation_bits: width of the activations, where jobs choose it; the widest if None.
        simulator: the core's Verilated model, if there is one already.
        hardware_scales: scale and sum the groups of integers on RTL, too, bias included.
        progress: show progress on standard error.

    Raises:
        InputError: the model, the specification or a number is wrong.
        ToolError: the simulator could not be built.
    """
    bert = model if isinstance(model, Bert) else Bert(model)
    core_bits = list(weight_bits or ())
    if not core_bits and isinstance(spec, GemmSpec):
        widths = core_of(spec).widths
        core_bits = [bits for bits in (1, 2, 4) if bits in widths] or [widths[-1]]
    layers = bert.architecture.layers
    checked = check_request(spec, layers, layer, core_bits, group, activation_bits)
    tokens = bert.tokens(text)
    entered = bert.hidden(tokens, layer)
    wanted = bert.layer(layer, entered)
    simulator = simulator or verilate(checked, progress=progress)
    runner = LayerRunner(
        checked,
        simulator,
        group=group,
        activation_bits=activation_bits,
        hardware_scales=hardware_scales,
    )

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
    runner.close()
    return _report(runner.core, bert, layer, group, text, len(tokens), runs, layer_cosine)


def _report(
    core: Core,
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
        if item.scale_cycles != item.scale_predicted:
            failures.append(
                f"{where}: {item.scale_cycles} cycles of the scales observed, "
                f"{item.scale_predicted} by the timing model"
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
            f"{item.sqnr_db:.1f}",
        )
        for item in runs
    ]
    columns = (
        "width", "projection", "M×N×K", "quantizer", "jobs", "cycles predicted", "observed",
        "bit-exact", "cosine", "SQNR dB",
    )  # fmt: skip
    arch = bert.architecture
    cycles = sum(item.cycles for item in runs)
    seconds = sum(item.seconds for item in runs)
    results = sum(item.results for item in runs)
    facts = [
        f"core: {core.name} ({core.block}), {core.m} × {core.n} × {core.k} a step, "
        f"{core.clock_mhz:g} MHz; {_operands(core, group)}",
        f"text: {text!r}, {tokens} tokens",
        f"{lay.count(results)} results, {lay.count(sum(item.mismatches for item in runs))} of them "
        f"wrong; {lay.count(cycles)} cycles simulated in {seconds:.2f} s",
    ]
    where = "attention, norms and activation function"
    if any(item.scale_cycles for item in runs):
        scaled = lay.count(sum(item.scale_cycles for item in runs))
        first = (
            f"groups are scaled and summed, bias included, by scale_accumulate on RTL, "
            f"{scaled} cycles as predicted beside the core; {where} are float32 in software"
        )
    else:
        first = (
            "scales of integers and the sum over their groups, each of which is its own set of "
            f"jobs, tensor scales, bias, {where} are float32 in software"
        )
    notes = [
        first,
        "cosine, SQNR: a projection's output against float32 of the same input; layer: its output "
        "against an all-float32 layer",
    ]
    table = Table(
        columns=("layer output", "cosine", "cycles", f"µs at {core.clock_mhz:g} MHz"),
        rows=[
            (
                f"W{bits}",
                f"{value:.5f}",
                lay.count(_cycles(runs, bits)),
                lay.fixed(_cycles(runs, bits) / core.clock_mhz, 4),
            )
            for bits, value in layer_cosine.items()
        ],
    )
    return RunReport(
        title=f"{arch.name}, layer {layer}, on {core.name} (RTL)",
        facts=facts,
        tables=[Table(columns=columns, rows=rows), table],
        notes=notes,
        data={
            "rtlgen": __version__,
            "spec": core.name,
            "spec_digest": core.digest,
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


def _operands(core: Core, group: int) -> str:
    """What the operands are, in words."""
    if core.own_scales:
        return f"activations {core.activation_name}, weights {core.encoding}"
    token = " per token" if core.activation_name.startswith("INT") else ""
    return f"activations {core.activation_name}{token}, groups of {group} along K"


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
