"""What bits cost in quality: the error of each linear layer, measured on real tensors.

Calibration texts go through a model, and one layer after another is quantized to what a core takes
and multiplied as the core does it. The error is that of what the *model* gives (logits, or an
encoder's last hidden states), or that of the *layer's* own output. Of a model that is too large for
either it is that of the *weights* alone, which is the output's if inputs are white. Each is a
share, noise by signal: ``Σ (ŷ − y)² / Σ y²``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hw.formats import BlockFormat, FloatFormat
from hw.gemm import GemmSpec
from rtl_gen.console import Progress
from rtl_gen.errors import InputError
from sw_driver.allot.costs import Place
from sw_driver.forward import Decoder, Project, Transformer
from sw_driver.forward.tensors import role_kind
from sw_driver.quantize import SCHEMES, Scheme, encode, quantize_blocks
from sw_driver.runner.linear import cosine
from sw_driver.runner.operands import product, scheme_for
from sw_driver.text.prompts import Prompt

if TYPE_CHECKING:
    from sw_driver.checkpoint import Checkpoint
    from sw_driver.checkpoint.tensor import StoredTensor

CALIBRATION = (
    "Low-bit language models trade a little precision for a great deal of memory bandwidth.",
    "The river rose three metres overnight and carried the old wooden bridge away.",
    "She asked whether the train to Lisbon still left from platform nine.",
    "Proteins fold into shapes that decide what they bind to.",
)
"""Texts that activations are taken from."""

HELD_OUT = (
    "A table of sixteen sums replaces four multiplications by one lookup.",
    "The committee postponed its decision on the harbour until the spring.",
    "Fresh basil should be added only after the soup has left the stove.",
)
"""Texts that nothing was chosen on."""

ROWS = 512
"""Rows of a matrix that are looked at where no activations are to be had."""

STRIPES = 16


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A linear layer. ``role``: the operator; ``index``: which layer, None outside of them."""

    role: str
    index: int | None

    @property
    def name(self) -> str:
        return self.role if self.index is None else f"{self.index}.{self.role}"


Errors = Mapping[Layer, Mapping[Place, float]]


def share(found: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Noise and signal in double precision."""
    exact = wanted.astype(np.float64)
    noise = float(np.square(found - exact).sum())
    return noise, float(np.square(exact).sum())


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A model and the inputs that it is run on, one after another.

    Attributes:
        model: float32, projections exchangeable. roles: what bits may be chosen for.
        lengths: tokens of every input. entered: ``(T, hidden)``, the input of the first layer.
    """

    model: Transformer
    roles: frozenset[str]
    lengths: tuple[int, ...]
    entered: np.ndarray

    @classmethod
    def of(cls, model: Transformer, roles: Iterable[str], inputs: Sequence[Prompt]) -> Calibration:
        """A model on some inputs."""
        return cls(
            model=model,
            roles=frozenset(roles),
            lengths=tuple(len(prompt.tokens) for prompt in inputs),
            entered=model.embed_all([prompt.tokens for prompt in inputs]),
        )

    def layer(self, index: int, x: np.ndarray, project: Project | None = None) -> np.ndarray:
        """One layer, ``(T, hidden)`` to ``(T, hidden)``."""
        return self.model.layer(index, x, project, lengths=self.lengths)

    def out(self, x: np.ndarray, project: Project | None = None) -> np.ndarray:
        """What the model gives of its last layer: logits of a decoder, else hidden states."""
        if isinstance(self.model, Decoder) and self.model.architecture.head:
            return self.model.logits(x, project)
        return self.model.final(x)

    @property
    def heads(self) -> bool:
        """Whether there is a projection behind the layers to choose for."""
        decodes = isinstance(self.model, Decoder) and bool(self.model.architecture.head)
        return decodes and "lm_head" in self.roles

    def known(self, name: str) -> str | None:
        """The role of a projection by its name; None if nothing is chosen for it."""
        role = role_kind(name)
        return role if role in self.roles else None


def _product(
    spec: GemmSpec, name: str, x: np.ndarray, w: np.ndarray, bits: int, group: int
) -> np.ndarray:
    try:
        return product(spec, x, w, bits=bits, group=group)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


def output_errors(
    calibration: Calibration,
    specs: Sequence[GemmSpec],
    places: Sequence[Place],
    *,
    group: int,
    progress: bool = True,
) -> dict[Layer, dict[Place, float]]:
    """The error of every projection's output, with float32 inputs; of experts that of all.

    Raises:
        InputError: an operand does not fit a core.
    """
    model = calibration.model
    sums: dict[Layer, dict[Place, tuple[float, float]]] = {}

    def recording(index: int | None) -> Project:
        plain = model.plain(index)

        def project(name: str, value: np.ndarray) -> np.ndarray:
            role = calibration.known(name)
            if role is not None and len(value):
                layer = Layer(role=role, index=index)
                w, _ = model.weight(index, name)
                wanted = value @ w.T
                table = sums.setdefault(layer, {})
                for place in places:
                    spec = specs[place.core]
                    made = _product(spec, layer.name, value, w, place.bits, group)
                    noise, signal = share(made, wanted)
                    before = table.get(place, (0.0, 0.0))
                    table[place] = before[0] + noise, before[1] + signal
            return plain(name, value)

        return project

    x = calibration.entered
    layers = model.architecture.layers
    with Progress("measuring layers", total=layers, enabled=progress) as shown:
        for index in range(layers):
            x = calibration.layer(index, x, recording(index))
            shown.advance()
        if calibration.heads:
            calibration.out(x, recording(None))
    return {
        layer: {place: noise / signal if signal else 0.0 for place, (noise, signal) in of.items()}
        for layer, of in sums.items()
    }


def model_errors(
    calibration: Calibration,
    specs: Sequence[GemmSpec],
    places: Sequence[Place],
    *,
    group: int,
    progress: bool = True,
) -> dict[Layer, dict[Place, float]]:
    """The error of what the model gives, with one projection of one layer quantized at a time.

    What a layer's error does to those after it, and to what the residual stream carries past it,
    is in it; what two errors do together is not. It gives logits, or an encoder hidden states.

    Raises:
        InputError: an operand does not fit a core.
    """
    model, layers = calibration.model, calibration.model.architecture.layers
    states = [calibration.entered]
    for index in range(layers):
        states.append(calibration.layer(index, states[-1]))
    wanted = calibration.out(states[-1])
    found: dict[Layer, dict[Place, float]] = {}
    of_layer = [
        list(dict.fromkeys(filter(None, map(calibration.known, model.projections(index)))))
        for index in range(layers)
    ]
    total = sum(map(len, of_layer)) + calibration.heads
    with Progress("measuring layers", total=total, enabled=progress) as shown:
        for index, roles in enumerate(of_layer):
            for role in roles:
                layer = Layer(role=role, index=index)
                shown.describe(f"measuring {layer.name}")
                found[layer] = {}
                for place in places:
                    project = _quantized(calibration, specs, {layer: place}, index, group)
                    x = calibration.layer(index, states[index], project)
                    for after in range(index + 1, layers):
                        x = calibration.layer(after, x)
                    noise, signal = share(calibration.out(x), wanted)
                    found[layer][place] = noise / signal
                shown.advance()
        if calibration.heads:
            layer = Layer(role="lm_head", index=None)
            found[layer] = {}
            for place in places:
                project = _quantized(calibration, specs, {layer: place}, None, group)
                noise, signal = share(calibration.out(states[-1], project), wanted)
                found[layer][place] = noise / signal
    return found


def _quantized(
    calibration: Calibration,
    specs: Sequence[GemmSpec],
    chosen: Mapping[Layer, Place],
    index: int | None,
    group: int,
) -> Project:
    """The projections of a layer, those that something is chosen for as their core computes it."""
    model = calibration.model
    plain = model.plain(index)

    def project(name: str, value: np.ndarray) -> np.ndarray:
        role = calibration.known(name)
        layer = Layer(role=role or name, index=index)
        place = chosen.get(layer) if role is not None else None
        if place is None:
            return plain(name, value)
        w, b = model.weight(index, name)
        made = _product(specs[place.core], layer.name, value, w, place.bits, group)
        return np.asarray(made if b is None else made + b)

    return project


def similarities(
    calibration: Calibration,
    specs: Sequence[GemmSpec],
    chosen: Mapping[Layer, Place],
    *,
    group: int,
) -> list[float]:
    """Cosine with float32 for every input, every projection as its core computes it.

    It is that of a decoder's logits, and of an encoder's embedding: the mean over the tokens.
    """
    x = exact = calibration.entered
    for index in range(calibration.model.architecture.layers):
        exact = calibration.layer(index, exact)
        x = calibration.layer(index, x, _quantized(calibration, specs, chosen, index, group))
    found = calibration.out(x, _quantized(calibration, specs, chosen, None, group))
    wanted = calibration.out(exact)
    ends = np.cumsum(calibration.lengths)[:-1]
    pairs = list(zip(np.split(found, ends), np.split(wanted, ends), strict=True))
    if not isinstance(calibration.model, Decoder):
        pairs = [(a.mean(axis=0), b.mean(axis=0)) for a, b in pairs]
    return [cosine(a, b) for a, b in pairs]


def quantized_weights(spec: GemmSpec, w: np.ndarray, bits: int, group: int) -> np.ndarray:
    """Weights ``(N, K)`` as a core sees them, ``float32``.

    Raises:
        ValueError: K does not fit the core's format.
    """
    form = spec.operand_formats[1]
    if isinstance(form, BlockFormat):
        rest = -w.shape[1] % form.block
        wide = np.pad(w, ((0, 0), (0, rest))) if rest else w
        return quantize_blocks(wide, form).dequantized()[:, : w.shape[1]]
    if isinstance(form, FloatFormat):
        # Of eight bits with a scale a row, as operands are prepared.
        scale = np.ones((len(w), 1))
        if form.width <= 8:
            scale = np.abs(w).max(axis=1, keepdims=True).astype(np.float64) / form.max
            scale[scale == 0] = 1
        found: np.ndarray = form.decode(encode(w / scale, form)) * scale
        return found.astype(np.float32)
    if "w_scale" in spec.further:
        scheme: Scheme = "asymmetric" if "w_zero" in spec.further else "symmetric"
        return SCHEMES[scheme](w, bits, spec.further["w_scale"].per).dequantized()
    return SCHEMES[scheme_for(spec.weight_encoding, bits)](w, bits, group).dequantized()


def weight_errors(
    checkpoint: Checkpoint,
    roles: Sequence[str],
    specs: Sequence[GemmSpec],
    places: Sequence[Place],
    *,
    group: int,
    rows: int = ROWS,
) -> dict[Layer, dict[Place, float]]:
    """The error of every layer's weights, over rows of each of its matrices.

    Args:
        roles: operators to measure. rows: rows of a layer's matrices of a role together, at most,
            in evenly spaced stripes.

    Raises:
        InputError: a tensor cannot be read, or its K does not fit a format.
    """
    from sw_driver.checkpoint.roles import role_of

    arch = checkpoint.architecture
    heights = {tensor.role: tensor.shape[0] for tensor in arch.tensors if len(tensor.shape) == 2}
    by_layer: dict[Layer, list[tuple[StoredTensor, int, int, bool]]] = {}
    for name, tensor in checkpoint.tensors.items():
        role = role_of(name)
        if role is None or (role.layer is not None and role.layer >= arch.layers):
            continue
        parts = role.roles
        if parts == ("embedding",) and arch.tied and arch.head:
            parts = ("lm_head",)
        if parts == ("up",) and "gate" in roles and tensor.shape[-2] == 2 * heights.get("up", 0):
            parts = ("gate", "up")
        start = 0
        for part in parts:
            height = heights.get(part, tensor.shape[-2])
            if len(parts) == 1:
                height = -1  # all of it, a stack of experts included
            if part in roles:
                layer = Layer(role=part, index=role.layer)
                by_layer.setdefault(layer, []).append((tensor, start, height, role.transposed))
            start += height
    found: dict[Layer, dict[Place, float]] = {}
    for layer, tensors in by_layer.items():
        each = max(1, rows // len(tensors))
        w = np.concatenate([_rows(checkpoint, *item, each) for item in tensors])
        found[layer] = {}
        for place in places:
            try:
                made = quantized_weights(specs[place.core], w, place.bits, group)
            except ValueError as error:
                raise InputError(f"{layer.name}: {error}") from None
            noise, signal = share(made, w)
            found[layer][place] = noise / signal if signal else 0.0
    return found


def _rows(
    checkpoint: Checkpoint,
    tensor: StoredTensor,
    start: int,
    height: int,
    transposed: bool,
    most: int,
) -> np.ndarray:
    """At most so many rows of a part of a tensor, in stripes."""
    if transposed:
        # Columns are what rows are elsewhere: all of it is read.
        whole = checkpoint.floats(tensor.name).T
        stop = len(whole) if height < 0 else start + height
        return np.ascontiguousarray(
            np.concatenate([whole[a:b] for a, b in _spans(start, stop, most)])
        )
    from sw_driver.checkpoint.decode import rows_of

    stop = rows_of(tensor) if height < 0 else start + height
    return np.concatenate(
        [checkpoint.rows(tensor.name, a, b) for a, b in _spans(start, stop, most)]
    )


def _spans(start: int, stop: int, most: int) -> list[tuple[int, int]]:
    """Evenly spaced stripes of rows, at most ``most`` rows in all."""
    count = stop - start
    if count <= most:
        return [(start, stop)]
    stripes = min(STRIPES, most)
    each = most // stripes
    firsts = [start + i * (count - each) // max(1, stripes - 1) for i in range(stripes)]
    return [(first, first + each) for first in firsts]
