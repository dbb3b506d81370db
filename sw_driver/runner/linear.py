"""Linear layers on the simulated RTL: quantized or as stored, run, compared.

A matrix product becomes GEMMs of a core: of integers one for each group of K that shares a scale,
of floating and block formats one in all (:mod:`sw_driver.runner.operands`). They are offered to the
Verilated core back to back, or to several instances of it (:mod:`sw_driver.runner.instances`).
What is not in the core (scales of integers and the sum over their groups, bias) is done here in
float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hw.gemm import GemmSpec
from hw.integers import IntegerGemmSpec
from rtl_gen.errors import InputError
from sim.gemm import GemmPlan
from sim.harness import Model
from sw_driver.checkpoint.weights import GroupedWeights
from sw_driver.mapper import cost
from sw_driver.mapper.core import Core, core_of
from sw_driver.mapper.mapping import Choices, core_ints, system_of
from sw_driver.quantize import Clip
from sw_driver.runner.instances import Fields, Instances, Simulator
from sw_driver.runner.operands import Groups, Prepared, prepare, rounds, scaled_outside
from sw_driver.runner.scaling import Scaled, Scaler
from sw_driver.runner.stored_operands import prepare_stored, stored_bits

DEFAULT_GROUP = 64

_LOST = 2.0**-6
"""Share of ``Σ |a|·|w|`` that a core may lose that aligns activations to a few bits."""

AS_STORED = 0
"""In the place of a width: weights as the checkpoint stores them."""


@dataclass(frozen=True, kw_only=True)
class ProjectionRun:
    """A projection on the RTL.

    Attributes:
        layer: None outside of the layers.
        weight_bits: of the jobs. asked: the width that was asked for, :data:`AS_STORED` for codes
            of the checkpoint.
        shape: ``(M, N, K)``. groups: scale groups along K.
        cycles: observed; predicted: by the block's timing model; mapped: by the mapper's formula.
        instances: how many shared the work; instance_cycles: what every one took, and should have.
        mismatches: results of the RTL that differ from the reference.
        cosine, sqnr_db: of the output to the float32 projection of the same input.
        seconds: simulation, of all instances.
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
    layer: int | None = None
    asked: int = AS_STORED
    instance_cycles: tuple[tuple[int, int], ...] = ()

    @property
    def exact(self) -> bool:
        """Whether every result is the reference's, and every count of cycles as predicted."""
        return self.mismatches == 0 and self.cycles_exact

    @property
    def cycles_exact(self) -> bool:
        """Whether every count of cycles is as predicted, every instance's included."""
        return (
            self.cycles == self.predicted == self.mapped
            and all(observed == predicted for observed, predicted in self.instance_cycles)
            and self.scale_cycles == self.scale_predicted
        )

    @property
    def where(self) -> str:
        """The projection, for messages."""
        place = "" if self.layer is None else f"layer {self.layer}: "
        return f"{place}{self.name} {width_name(self.asked, 'at ')}"


def width_name(asked: int, before: str = "") -> str:
    """What a width is called: ``W4``, or ``as stored``."""
    return f"{before}W{asked}" if asked else "as stored"


class LayerRunner:
    """Quantized linear layers on a Verilated core.

    Args:
        spec: the core. model: its Verilated model, or instances of it.
        group: elements of K that share a scale.
        activation_bits: width of the activations, where jobs choose it; the widest if None.
        hardware_scales: scale and sum the groups of integers on RTL, too.
        clip: how far the codes of weights reach that are quantized here.
    """

    def __init__(
        self,
        spec: GemmSpec,
        model: Model | Simulator | Instances,
        *,
        group: int,
        activation_bits: int | None = None,
        hardware_scales: bool = False,
        clip: Clip = "absmax",
    ):
        self.spec, self.group = spec, group
        self.instances = model if isinstance(model, Instances) else Instances(model)
        self.activation_bits = activation_bits
        self.core: Core = core_of(spec, activation_bits)
        self.hardware_scales = hardware_scales
        self.clip: Clip = clip
        self._scalers: dict[int, Scaler] = {}

    def linear(
        self,
        name: str,
        x: np.ndarray,
        w: np.ndarray,
        b: np.ndarray | None,
        bits: int,
        *,
        stored: GroupedWeights | None = None,
        layer: int | None = None,
        asked: int | None = None,
    ) -> tuple[np.ndarray, ProjectionRun]:
        """``x·wᵀ + b`` through the RTL.

        Args:
            name: for the record.
            x: ``(M, K)`` ``float32``. w: ``(N, K)``. b: ``(N,)`` or None.
            bits: width of the weights; :data:`AS_STORED` for ``stored``.
            stored: the weights as codes, which ``w`` are the values of.
            layer, asked: for the record; the width that was asked for is ``bits`` if None.
        """
        kept = stored if bits == AS_STORED else None
        if kept is not None:
            prepared = prepare_stored(self.spec, x, kept, self.activation_bits)
            group, job_bits = kept.group, stored_bits(self.spec, kept)
        else:
            group, job_bits = self.group, bits
            prepared = prepare(
                self.spec,
                x,
                w,
                bits=bits,
                group=group,
                activation_bits=self.activation_bits,
                clip=self.clip,
            )
        if self.hardware_scales and prepared.scales is None and scaled_outside(self.spec):
            why = (
                f"{prepared.quantizer} weights in {self.core.encoding} codes need sums of rows, "
                f"and of {self.core.activation_name} nothing here makes them"
            )
            if kept is not None:
                why = f"the scales of {kept.storage.name} are not those of scale_accumulate"
            raise InputError(
                f"scales: must be software for {self.spec.name} {width_name(bits, 'at ')}: {why}"
            )
        plans = prepared.plans
        ran = self.instances.run(plans)

        mismatches, first, results = 0, None, 0
        for g, (part, golden) in enumerate(zip(ran.tiles, ran.wanted, strict=True)):
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
        wanted = [plan.assemble(part) for plan, part in zip(plans, ran.wanted, strict=True)]
        self._check_reference(name, prepared, wanted)
        scaled = None
        if self.hardware_scales and prepared.scales is not None:
            scaled = self._scaled(plans, ran.tiles, prepared.scales, b, (len(x), len(w)), bits)
            output, results = scaled.o, results + scaled.results
            mismatches, first = mismatches + scaled.mismatches, first or scaled.first_mismatch
        else:
            output = prepared.finish(
                [plan.assemble(part) for plan, part in zip(plans, ran.tiles, strict=True)]
            )
            if b is not None:
                output += b
        reference = x @ w.T + (b if b is not None else 0)
        return output, ProjectionRun(
            name=name,
            layer=layer,
            weight_bits=job_bits,
            asked=bits if asked is None else asked,
            scheme=prepared.quantizer,
            shape=(len(x), w.shape[0], w.shape[1]),
            groups=prepared.groups,
            jobs=sum(plan.jobs for plan in plans),
            cycles=ran.cycles,
            predicted=ran.predicted,
            mapped=self._mapped(len(x), w.shape[0], w.shape[1], job_bits, prepared.groups, group),
            instance_cycles=tuple((share.cycles, share.predicted) for share in ran.shares),
            results=results,
            mismatches=mismatches,
            first_mismatch=first,
            cosine=cosine(output, reference),
            sqnr_db=sqnr_db(output, reference),
            seconds=ran.seconds,
            scale_cycles=0 if scaled is None else scaled.cycles,
            scale_predicted=0 if scaled is None else scaled.predicted,
        )

    def _scaled(
        self,
        plans: Sequence[GemmPlan],
        tiles: Sequence[Fields],
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
        if bits not in self._scalers:
            self._scalers[bits] = Scaler(self.spec, group=self.group, bits=bits)
        return self._scalers[bits].run(tiles, scales, bias, *shape)

    def close(self) -> None:
        """Free the instances and the models of the units beside the core."""
        self.instances.close()
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

    def _mapped(self, m: int, n: int, k: int, bits: int, groups: int, group: int) -> int:
        """Cycles of the projection by the mapper's closed form."""
        result = cost.linear(
            core_ints(self.core, bits),
            system_of(self.core, Choices()),
            m=m,
            n=n,
            k=k,
            runs=1,
            instances=1,
            group=k if groups == 1 else min(group, k),
            cache_row_bits=0,
            bias=0,
        )
        return int(result.cycles)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine similarity of two arrays, as vectors, in double precision."""
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if not lengths:
        # Of nothing there is no direction; two of them are alike.
        return float(not a.any() and not b.any())
    return float(a @ b / lengths)


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
