"""What bits cost in quality: the error of each linear layer, measured on real tensors.

Of an encoder that can be run, calibration texts go through it, and one layer after another is
quantized to what a core takes and multiplied as the core does it. The error is that of the
*model's* last hidden states, or that of the layer's own *output*. Of any other checkpoint it is
that of the *weights* alone, which is the output's if inputs are white. Each is a share, noise by
signal: ``Σ (ŷ − y)² / Σ y²``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hw.formats import BlockFormat, FloatFormat
from hw.gemm import GemmSpec
from rtl_gen.console import Progress
from rtl_gen.errors import InputError
from sw_driver.allot.costs import Place
from sw_driver.bert import PROJECTIONS, Bert
from sw_driver.operands import product, scheme_for
from sw_driver.quantize import SCHEMES, Scheme, encode, quantize_blocks

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


def output_errors(
    bert: Bert,
    specs: Sequence[GemmSpec],
    places: Sequence[Place],
    *,
    group: int,
    texts: Sequence[str] = CALIBRATION,
) -> dict[Layer, dict[Place, float]]:
    """The error of every projection's output, with float32 inputs.

    Raises:
        ValueError: an operand does not fit a core.
    """
    inputs: dict[Layer, list[np.ndarray]] = {}
    for text in texts:
        x = bert.embed(bert.tokens(text))
        for index in range(bert.architecture.layers):

            def record(name: str, value: np.ndarray, index: int = index) -> np.ndarray:
                inputs.setdefault(Layer(role=name, index=index), []).append(value)
                w, b = bert.weight(index, name)
                return value @ w.T + b

            x = bert.layer(index, x, record)
    found: dict[Layer, dict[Place, float]] = {}
    for layer, parts in inputs.items():
        value = np.concatenate(parts)
        w, _ = bert.weight(layer.index or 0, layer.role)
        wanted = value @ w.T
        found[layer] = {}
        for place in places:
            made = product(specs[place.core], value, w, bits=place.bits, group=group)
            noise, signal = share(made, wanted)
            found[layer][place] = noise / signal
    return found


def model_errors(
    bert: Bert,
    specs: Sequence[GemmSpec],
    places: Sequence[Place],
    *,
    group: int,
    texts: Sequence[str] = CALIBRATION,
    progress: bool = True,
) -> dict[Layer, dict[Place, float]]:
    """The error of the model's last hidden states, with one projection quantized at a time.

    What a layer's error does to those after it, and to what the residual stream carries past it,
    is in it; what two errors do together is not.

    Raises:
        ValueError: an operand does not fit a core.
    """
    arch = bert.architecture
    entering: list[list[np.ndarray]] = []
    for text in texts:
        states = [bert.embed(bert.tokens(text))]
        for index in range(arch.layers):
            states.append(bert.layer(index, states[-1]))
        entering.append(states)
    found: dict[Layer, dict[Place, float]] = {}
    with Progress("measuring layers", total=arch.layers * len(PROJECTIONS), enabled=progress) as at:
        for index in range(arch.layers):
            for role in PROJECTIONS:
                at.describe(f"measuring {index}.{role}")
                layer = Layer(role=role, index=index)
                found[layer] = {}
                for place in places:
                    noise = signal = 0.0
                    for states in entering:
                        x = _one_quantized(bert, layer, states[index], specs, place, group)
                        for after in range(index + 1, arch.layers):
                            x = bert.layer(after, x)
                        some, all_of_it = share(x, states[-1])
                        noise, signal = noise + some, signal + all_of_it
                    found[layer][place] = noise / signal
                at.advance()
    return found


def _one_quantized(
    bert: Bert,
    layer: Layer,
    x: np.ndarray,
    specs: Sequence[GemmSpec],
    place: Place,
    group: int,
) -> np.ndarray:
    """A layer's output with one of its projections as a core computes it."""
    index = layer.index or 0

    def project(name: str, value: np.ndarray) -> np.ndarray:
        w, b = bert.weight(index, name)
        if name != layer.role:
            return np.asarray(value @ w.T + b)
        made = product(specs[place.core], value, w, bits=place.bits, group=group)
        return np.asarray(made + b)

    return bert.layer(index, x, project)


def embeddings(
    bert: Bert,
    specs: Sequence[GemmSpec],
    chosen: Mapping[Layer, Place],
    *,
    group: int,
    texts: Sequence[str] = HELD_OUT,
) -> list[float]:
    """Cosines with float32 of the embeddings of texts, every projection as its core computes it."""
    found = []
    for text in texts:
        tokens = bert.tokens(text)
        x = bert.embed(tokens)
        for index in range(bert.architecture.layers):

            def project(name: str, value: np.ndarray, index: int = index) -> np.ndarray:
                w, b = bert.weight(index, name)
                place = chosen[Layer(role=name, index=index)]
                made = product(specs[place.core], value, w, bits=place.bits, group=group)
                return np.asarray(made + b)

            x = bert.layer(index, x, project)
        mean, wanted = x.mean(axis=0).astype(np.float64), bert.embedding(text).astype(np.float64)
        found.append(float(mean @ wanted / (np.linalg.norm(mean) * np.linalg.norm(wanted))))
    return found


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
