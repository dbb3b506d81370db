"""What the vector unit's arithmetic costs: errors against float64, and the effect on an encoder.

``python -m sw_driver.measure.vector_accuracy [SPEC.yaml] [--model MODEL] [--json]``

Operands are numbers of the unit's port, so that what is measured is the arithmetic alone. Units of
the last place are those of the port's format. They, and relative errors, are taken at the *scale*
of a result: its own magnitude, or the sum of the magnitudes of what is added up to it, since sums
may cancel.

The encoder runs its softmax, GELU, residual sums and norms on the unit, everything between in
float32; its sentence embeddings are compared with those of float32 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

import hw
from hw.blocks.vector_unit import coefficients, golden
from hw.blocks.vector_unit.spec import Function, VectorUnitSpec
from hw.errors import SpecError
from hw.formats import IntegerFormat
from rtl_gen import __version__
from rtl_gen.errors import InputError
from rtl_gen.specfile import load_spec
from sw_driver.report import Report, Table, count
from sw_driver.runner.run import cosine
from sw_driver.text.bert import PACKAGED, Bert

CONFIG = Path(hw.__file__).parent / "configs" / "vector_unit.yaml"
EPSILON = 1e-5
ROWS = 256
LENGTHS = (1, 2, 7, 64, 384, 512)
SPREADS = (0.02, 1.0, 8.0, 60.0)

SENTENCES = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "Table lookups replace multiplications in low-bit language models.",
    "Two men pushed carts through the woods.",
    "The memory wall limits how fast a token can be generated.",
    "Someone in a gorilla costume is playing a set of drums.",
    "Refresh, activate, precharge: a DRAM bank is never idle for long.",
)
"""What the embeddings are of, where nothing else is asked for."""


# Reference -------------------------------------------------------------------

Reference = tuple["np.ndarray", "np.ndarray"]
"""Values in float64, and their scale."""

_erfc = np.frompyfunc(math.erfc, 1, 1)


def gelu(x: np.ndarray) -> np.ndarray:
    """``x·Φ(x)``, the smaller half to full relative precision."""
    size = np.abs(x)
    tail = 0.5 * np.asarray(_erfc(size * math.sqrt(0.5)), dtype=np.float64)
    return np.maximum(x, 0.0) - size * tail


def _logistic(x: np.ndarray, argument: np.ndarray) -> np.ndarray:
    """``x·σ(argument)``, arguments of the sign of x."""
    e = np.exp(-np.abs(argument))
    return np.maximum(x, 0.0) - np.abs(x) * (e / (1.0 + e))


def silu(x: np.ndarray) -> np.ndarray:
    """``x·σ(x)``."""
    return _logistic(x, x)


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """``x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))``."""
    near = np.clip(x, -1e6, 1e6)
    return _logistic(x, 2.0 * math.sqrt(2.0 / math.pi) * (near + 0.044715 * near**3))


def softmax(x: np.ndarray) -> Reference:
    """Rows of probabilities."""
    raised = np.exp(x - x.max(axis=-1, keepdims=True))
    found = raised / raised.sum(axis=-1, keepdims=True)
    return found, found


def layer_norm(x: np.ndarray, gain: np.ndarray, bias: np.ndarray, epsilon: float) -> Reference:
    """Rows less their mean over their deviation, times gain, plus bias."""
    mean = x.mean(axis=-1, keepdims=True)
    over = 1.0 / np.sqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + epsilon)
    largest = np.abs(x).max(axis=-1, keepdims=True)
    scale = (np.abs(x) + largest) * over * np.abs(gain) + np.abs(bias)
    return (x - mean) * over * gain + bias, scale


def rms_norm(x: np.ndarray, gain: np.ndarray, epsilon: float) -> Reference:
    """Rows over the root of their mean square, times gain."""
    found = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon) * gain
    return found, np.abs(found)


def rotary(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> Reference:
    """Pairs of neighbours turned."""
    place = np.arange(x.shape[-1])
    other = x[..., place ^ 1] * np.where(place & 1, 1.0, -1.0)
    return x * cos + other * sin, np.abs(x * cos) + np.abs(other * sin)


# Errors ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Of a function over some results.

    Attributes:
        results: how many were compared.
        absolute: largest error where the scale is at most 16.
        relative: largest error over the scale, where that is a normal number.
        places: largest and mean error in units of the last place at the scale.
    """

    function: str
    operands: str
    results: int
    absolute: float
    relative: float
    places: float
    mean_places: float


def places(spec: VectorUnitSpec, scale: np.ndarray) -> np.ndarray:
    """Unit of the last place of the port's format at magnitudes."""
    port = spec.port
    if isinstance(port, IntegerFormat):
        return np.full(scale.shape, 2.0**-port.fraction_bits)
    power = np.frexp(np.maximum(scale, port.min_normal))[1] - 1
    return np.ldexp(1.0, power - port.mantissa_bits)


def errors(
    spec: VectorUnitSpec,
    function: str,
    operands: str,
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> Errors:
    """Of results, references and scales; what overflows the port's format is left out."""
    found, wanted, scale = (
        np.concatenate([np.ravel(part[index]) for part in parts]) for index in range(3)
    )
    inside = np.isfinite(wanted) & (scale < spec.port.max * 0.999)
    found, wanted, scale = found[inside], wanted[inside], np.abs(scale[inside])
    off = np.abs(found - wanted)
    ulps = off / places(spec, scale)
    port = spec.port
    least = 1.0 if isinstance(port, IntegerFormat) else port.min_normal
    normal = scale >= least
    return Errors(
        function=function,
        operands=operands,
        results=len(off),
        absolute=float(off[scale <= 16].max(initial=0.0)),
        relative=float((off[normal] / scale[normal]).max(initial=0.0)),
        places=float(ulps.max(initial=0.0)),
        mean_places=float(ulps.mean()),
    )


def all_numbers(spec: VectorUnitSpec) -> np.ndarray:
    """Every finite number of the port's format."""
    port = spec.port
    if isinstance(port, IntegerFormat):
        return port.decode(np.arange(-port.max_code - 1, port.max_code + 1))
    values = port.decode(np.arange(1 << port.width))
    return values[np.isfinite(values)]


def _rows(spec: VectorUnitSpec, rng: np.random.Generator, even: bool) -> Iterator[np.ndarray]:
    """Rows of several lengths and spreads, some with an offset, as numbers of the port."""
    port = spec.port
    for length in LENGTHS:
        if length > spec.max_length:
            continue
        size = length + length % 2 if even else length
        for spread in SPREADS:
            x = rng.standard_normal((ROWS // 16, size)) * spread
            x[::4] += 3.0 * spread
            yield port.decode(port.encode(x))


POINTWISE: dict[Function, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
}


def function_errors(spec: VectorUnitSpec, function: Function, *, seed: int = 0) -> Errors:
    """Errors of one function: over all numbers of the port, or over random rows."""
    rng = np.random.default_rng(seed)
    port = spec.port

    def at_port(values: np.ndarray) -> np.ndarray:
        return port.decode(port.encode(values))

    if function in POINTWISE:
        x = all_numbers(spec)
        wanted = POINTWISE[function](x)
        part = (golden.apply(spec, function, x), wanted, wanted)
        return errors(spec, function, "all numbers", [part])
    parts = []
    near = spec.number.nearest(EPSILON)
    for x in _rows(spec, rng, function == "rotary"):
        u = at_port(1.0 + 0.3 * rng.standard_normal(x.shape))
        v = at_port(0.3 * rng.standard_normal(x.shape))
        if function == "softmax":
            found, reference = golden.apply(spec, function, x), softmax(x)
        elif function == "layer_norm":
            found = golden.apply(spec, function, x, u=u, v=v, epsilon=near)
            reference = layer_norm(x, u, v, near)
        elif function == "rms_norm":
            found = golden.apply(spec, function, x, u=u, epsilon=near)
            reference = rms_norm(x, u, near)
        elif function == "rotary":
            angle = rng.uniform(-np.pi, np.pi, x.shape)
            u, v = at_port(np.cos(angle)), at_port(np.sin(angle))
            found, reference = golden.apply(spec, function, x, u=u, v=v), rotary(x, u, v)
        elif function == "add":
            found = golden.apply(spec, function, x, u=u)
            reference = (x + u, np.abs(x + u))
        else:
            found = golden.apply(spec, function, x)
            reference = (x.sum(axis=0), np.abs(x).sum(axis=0))
        parts.append((found, *reference))
    return errors(spec, function, "random rows", parts)


@dataclass(frozen=True, kw_only=True)
class PartErrors:
    """A part of the functions between the ports: largest relative error."""

    part: str
    arguments: str
    results: int
    relative: float
    bits: float


def part_errors(spec: VectorUnitSpec) -> list[PartErrors]:
    """The exponential, the reciprocal and its root, before anything is rounded to the port.

    The reciprocals of every mantissa; the exponential of every one of up to 16 bits, of about 2^15
    of longer ones.
    """
    number = spec.number
    size = 1 << (number.significand - 1)
    mantissas = 1.0 + np.arange(size) / size
    limit = coefficients.limits(number)[0]
    # One in so many mantissas of each power of two, where there are more than 2^15.
    some = mantissas[:: max(1, size >> 15) | 1]
    t = -np.concatenate([some * 2.0**power for power in range(-12, 7)])
    t = t[t >= -limit]
    near = t[t >= -1.0]
    y = np.concatenate([mantissas, 2.0 * mantissas])

    def part(name: str, arguments: str, found: np.ndarray, wanted: np.ndarray) -> PartErrors:
        worst = float(np.abs(found / wanted - 1.0).max())
        return PartErrors(
            part=name,
            arguments=arguments,
            results=len(found),
            relative=worst,
            bits=-math.log2(worst),
        )

    return [
        part("e^t", "−1 to −2^-12", golden.exponential(number, near), np.exp(near)),
        part("e^t", f"−{limit:g} to −2^-12", golden.exponential(number, t), np.exp(t)),
        part("1/y", "1 to 4", golden.reciprocal(number, y), 1.0 / y),
        part("1/√y", "1 to 4", golden.reciprocal_root(number, y), 1.0 / np.sqrt(y)),
    ]


# Encoder -------------------------------------------------------------------------


class VectorBert(Bert):
    """An encoder whose softmax, GELU, residual sums and norms are the vector unit's."""

    def __init__(self, spec: VectorUnitSpec, model: Path | str = PACKAGED):
        missing = {"softmax", "gelu", "add", "layer_norm"} - set(spec.functions)
        if missing:
            raise InputError(f"functions: an encoder needs {', '.join(sorted(missing))} as well")
        self.spec = spec
        super().__init__(model)

    def _softmax(self, x: np.ndarray) -> np.ndarray:
        return golden.apply(self.spec, "softmax", x).astype(np.float32)

    def _gelu(self, x: np.ndarray) -> np.ndarray:
        return golden.apply(self.spec, "gelu", x).astype(np.float32)

    def _add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return golden.apply(self.spec, "add", x, u=y).astype(np.float32)

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        width = self.architecture.hidden
        found = golden.apply(
            self.spec,
            "layer_norm",
            x,
            u=self.tensor(f"{name}.weight", width),
            v=self.tensor(f"{name}.bias", width),
            epsilon=self.eps,
        )
        return found.astype(np.float32)


def embedding_cosines(
    spec: VectorUnitSpec, sentences: Sequence[str] = SENTENCES, model: Path | str = PACKAGED
) -> list[float]:
    """Cosines between sentence embeddings with the vector unit and in float32.

    Raises:
        InputError: the model is not there, or is none.
    """
    plain, vector = Bert(model), VectorBert(spec, model)
    return [float(cosine(plain.embedding(each), vector.embedding(each))) for each in sentences]


# Command -------------------------------------------------------------------------


def measure(
    spec: VectorUnitSpec, model: Path | str | None, sentences: Sequence[str] = SENTENCES
) -> Report:
    """Errors of every function and part; with a model the cosines of its embeddings.

    Raises:
        InputError: the model is not there, or is none.
    """
    functions = [function_errors(spec, name) for name in spec.functions]
    parts = part_errors(spec)
    tables = [
        Table(
            title="errors against float64, at the port",
            columns=["function", "operands", "results", "absolute", "relative", "places", "mean"],
            rows=[
                [
                    each.function,
                    each.operands,
                    count(each.results),
                    f"{each.absolute:.2e}",
                    f"{each.relative:.2e}",
                    f"{each.places:.3f}",
                    f"{each.mean_places:.3f}",
                ]
                for each in functions
            ],
        ),
        Table(
            title="parts, between the ports",
            columns=["part", "arguments", "results", "relative", "bits"],
            rows=[
                [
                    each.part,
                    each.arguments,
                    count(each.results),
                    f"{each.relative:.2e}",
                    f"{each.bits:.2f}",
                ]
                for each in parts
            ],
        ),
    ]
    cosines = [] if model is None else embedding_cosines(spec, sentences, model)
    if cosines:
        tables.append(
            Table(
                title="sentence embeddings, cosine to float32",
                columns=["sentence", "cosine"],
                rows=[
                    [text, f"{value:.6f}"] for text, value in zip(sentences, cosines, strict=True)
                ],
                footer=[["least", f"{min(cosines):.6f}"]],
            )
        )
    number = spec.number
    return Report(
        title=f"{spec.name}: {spec.port.name}, significands of {number.significand} bits between "
        f"the ports",
        tables=tables,
        notes=[
            "absolute where the scale of a result is at most 16; relative and places at its scale"
        ],
        data={
            "rtlgen": __version__,
            "spec_digest": spec.digest,
            "functions": [asdict(each) for each in functions],
            "parts": [asdict(each) for each in parts],
            "cosines": dict(zip(sentences, cosines, strict=True)) if cosines else {},
        },
    )


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=CONFIG)
@click.option("--model", help="minilm, or a folder of a BERT encoder: run it on the unit as well")
@click.option("--json", "as_json", is_flag=True, help="plain data")
def main(file: Path, model: str | None, as_json: bool) -> None:
    """Errors of a vector unit against float64, and what they do to an encoder."""
    try:
        spec = load_spec(file)
        if not isinstance(spec, VectorUnitSpec):
            raise InputError(f"{file}: block: must be vector_unit, got {spec.block!r}")
        found = measure(spec, model)
    except (InputError, SpecError) as error:
        raise click.UsageError(str(error)) from None
    click.echo(found.json() if as_json else str(found))


if __name__ == "__main__":
    main()
