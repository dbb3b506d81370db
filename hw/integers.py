"""Integer GEMM cores: formats of A and W, the product, and corner-heavy operands.

What :mod:`hw.gemm` asks of any core, for cores whose operands are integers and whose results are
exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeGuard

from pydantic import Field

from hw.errors import Problem
from hw.gemm import GemmSpec, GemmWork, Job, activation_bits, check_steps, random_steps
from hw.lazy import np
from hw.spec import Part
from hw.streams import StreamField

Encoding = Literal["unsigned", "twos_complement", "bipolar", "ternary"]


class ActivationFormat(Part):
    """Format of A. Subclasses have a width and say what its codes mean."""

    @property
    def widest(self) -> int:
        """Bits of an activation, of the widest job where jobs choose."""
        raise NotImplementedError

    @property
    def code(self) -> Encoding:
        """What an activation's bits mean: unsigned (without zero points) or another encoding."""
        raise NotImplementedError

    @property
    def low(self) -> int:
        """Lowest value at the widest width."""
        return weight_range(self.code, self.widest)[0]

    @property
    def high(self) -> int:
        """Highest value at the widest width."""
        return weight_range(self.code, self.widest)[1]


class Activations(ActivationFormat):
    """Integer activations of one width."""

    bits: int = Field(8, ge=2, le=16, description="width of an activation")
    signed: bool = Field(True, description="two's complement if true, else unsigned")

    @property
    def widest(self) -> int:
        return self.bits

    @property
    def code(self) -> Encoding:
        return "twos_complement" if self.signed else "unsigned"


class IntegerGemmSpec(GemmSpec):
    """Fields that every integer GEMM core has."""

    activations: ActivationFormat = Field(default_factory=Activations, description="format of A")

    @property
    def weight_encoding(self) -> Encoding:
        raise NotImplementedError

    @property
    def weight_widths(self) -> range:
        least = self.max_weight_bits if self.weight_encoding == "ternary" else 1
        return range(least, self.max_weight_bits + 1)

    @property
    def exact(self) -> bool:
        """Whether A holds integers and results are their exact product with W."""
        return True

    @property
    def activation_width(self) -> int:
        return self.activations.widest

    @property
    def zero_point(self) -> bool:
        return self.weight_encoding == "unsigned"

    @property
    def fillers(self) -> tuple[int, int]:
        """Bipolar numbers are odd: 1 stands where the other operand is 0 or nothing is there."""
        return int(self.activations.code == "bipolar"), int(self.weight_encoding == "bipolar")

    @property
    def step_magnitude(self) -> int:
        """Largest magnitude that one step adds to one result at the largest weight width."""
        largest = max(-self.activations.low, self.activations.high)
        return self.tile.k * largest * weight_magnitude(self.weight_encoding, self.max_weight_bits)

    @property
    def result_bits(self) -> int:
        """Two's complement that holds ``±max_k_steps · step_magnitude``."""
        return (self.max_k_steps * self.step_magnitude).bit_length() + 1

    @property
    def results(self) -> tuple[StreamField, ...]:
        return (
            StreamField(
                name="o",
                width=self.result_bits,
                signed=True,
                shape=(self.tile.m, self.tile.n),
                doc="exact integers",
            ),
        )

    @property
    def summable(self) -> bool:
        return True

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        if self.result_bits > 48:
            yield Problem(
                ("max_k",), f"needs a {self.result_bits} bit accumulator, at most 48", self.max_k
            )


def is_exact(spec: object) -> TypeGuard[IntegerGemmSpec]:
    """Whether a specification is of an integer core that multiplies integers, see ``exact``."""
    return isinstance(spec, IntegerGemmSpec) and spec.exact


def weight_range(encoding: Encoding, bits: int, zero_point: int = 0) -> tuple[int, int]:
    """Smallest and largest weight value of an encoding (ALGORITHMS: q' = 2q − (2^B − 1))."""
    if encoding == "ternary":
        return -1, 1
    if encoding == "bipolar":
        return -(2**bits - 1), 2**bits - 1
    if encoding == "twos_complement":
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return -zero_point, 2**bits - 1 - zero_point


def weight_magnitude(encoding: Encoding, bits: int) -> int:
    """Largest |w − z| over all zero points."""
    if encoding == "unsigned":
        return 2**bits - 1
    low, high = weight_range(encoding, bits)
    return max(-low, high)


def activation_range(spec: IntegerGemmSpec, bits: int) -> tuple[int, int]:
    """Smallest and largest activation of a width; of floats, smallest and largest code."""
    if not spec.exact:
        return 0, (1 << bits) - 1
    return weight_range(spec.activations.code, bits)


def check_work(spec: IntegerGemmSpec, work: GemmWork) -> None:
    """Every operand against the specification.

    Raises:
        ValueError: names the operand, the rule and the value.
    """
    job, tile = work.job, spec.tile
    check_steps(spec, job)
    if not 1 <= job.weight_bits <= spec.max_weight_bits:
        raise ValueError(
            f"weight_bits: must lie in [1, {spec.max_weight_bits}], got {job.weight_bits}"
        )
    a_bits = activation_bits(spec, job)
    if a_bits not in spec.activation_bits:
        least, most = spec.activation_bits[0], spec.activation_bits[-1]
        raise ValueError(f"activation_bits: must lie in [{least}, {most}], got {a_bits}")
    if not spec.skips_planes and not (job.a_planes is job.w_planes is None):
        raise ValueError("a_planes, w_planes: the core leaves out no planes")
    if job.reuse and not spec.timed_by_operands:
        raise ValueError("reuse: the core has no pattern reuse table")
    if job.accumulate and not spec.addend:
        raise ValueError("accumulate: the specification has no addend")
    depth = job.k_steps * tile.k
    half = 1 << (spec.result_bits - 1)
    low, high = weight_range(spec.weight_encoding, job.weight_bits)
    _check("a", work.a, (tile.m, depth), *activation_range(spec, a_bits))
    if spec.activations.code == "bipolar" and not np.all(np.asarray(work.a) & 1):
        raise ValueError("a: bipolar activations are odd")
    _check("w", work.w, (tile.n, depth), low, high)
    if spec.weight_encoding == "bipolar" and not np.all(np.asarray(work.w) & 1):
        raise ValueError("w: bipolar weights are odd")
    if spec.zero_point:
        _check("z", work.z, (tile.n,), 0, 2**job.weight_bits - 1)
    elif work.z is not None:
        raise ValueError(f"z: the {spec.weight_encoding} encoding has no zero point")
    if job.accumulate:
        _check("c", work.c, (tile.m, tile.n), -half, half - 1)
    elif work.c is not None:
        raise ValueError("c: given, but the job does not accumulate")


def _check(
    name: str, array: np.ndarray | None, shape: tuple[int, ...], low: int, high: int
) -> None:
    if array is None:
        raise ValueError(f"{name}: is required")
    array = np.asarray(array)
    if array.shape != shape:
        raise ValueError(f"{name}: shape must be {shape}, got {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name}: must hold integers, got {array.dtype}")
    if array.size and (array.min() < low or array.max() > high):
        raise ValueError(
            f"{name}: values must lie in [{low}, {high}], got [{array.min()}, {array.max()}]"
        )


def product(work: GemmWork) -> np.ndarray:
    """``A·(W − z)ᵀ + C`` in ``int64``, ``(M, N)``: the mathematics, nothing else."""
    a = work.a.astype(np.int64)
    w = work.w.astype(np.int64)
    if work.z is not None:
        w = w - work.z.astype(np.int64)[:, None]
    result = a @ w.T
    return result if work.c is None else result + work.c.astype(np.int64)


def wrap(values: np.ndarray, bits: int) -> np.ndarray:
    """Values modulo ``2**bits`` as two's complement (an addend can leave the range)."""
    half = 1 << (bits - 1)
    return ((values + half) & ((1 << bits) - 1)) - half


def weight_codes(encoding: Encoding, w: np.ndarray, bits: int) -> np.ndarray:
    """Non-negative ``bits``-bit codes of weight values, before any folding.

    Unsigned codes are themselves, two's complement keeps its bit pattern, bipolar ``q'`` becomes
    ``q = (q' + 2^B − 1) / 2``. A code of more bits than the job's weights need is the same value
    extended: zeros, copies of the sign, or the wider bipolar code of the same odd integer.
    """
    w = np.asarray(w, dtype=np.int64)
    if encoding == "bipolar":
        return (w + (1 << bits) - 1) >> 1
    return w & ((1 << bits) - 1)


def planes(codes: np.ndarray | int, count: int) -> np.ndarray:
    """Bits of codes, least significant first: ``(..., count)`` of 0 and 1."""
    return (np.asarray(codes, dtype=np.int64)[..., None] >> np.arange(count)) & 1


def random_operand(
    rng: np.random.Generator, low: int, high: int, shape: tuple[int, ...], *, step: int = 1
) -> np.ndarray:
    """Integers ``low, low + step, …, high``, extremes over-represented.

    A third of all draws are a constant extreme, a mixture of extremes and zero, or sparse.
    """
    count = (high - low) // step + 1
    kind = rng.integers(9)
    if kind == 0:
        return np.full(shape, (low, high)[int(rng.integers(2))], dtype=np.int64)
    if kind == 1:
        corners = np.array([low, high, low + step * ((-low) // step)])
        return rng.choice(np.clip(corners, low, high), size=shape)
    values = low + step * rng.integers(0, count, size=shape)
    if kind == 2:
        return np.where(rng.random(shape) < 0.8, np.clip(step - 1, low, high), values)
    extreme = rng.random(shape)
    values = np.where(extreme < 0.08, low, values)
    return np.where(extreme > 0.92, high, values)


def random_work(
    spec: IntegerGemmSpec, rng: np.random.Generator, *, size: str = "small"
) -> GemmWork:
    """Corner-heavy random work of a GEMM core. ``size``: ``minimum``, ``small`` or ``large``."""
    k_steps = random_steps(spec, rng, size)
    bits = int(rng.integers(1, spec.max_weight_bits + 1))
    accumulate = bool(spec.addend and rng.integers(2))
    a_bits = None
    if len(spec.activation_bits) > 1:
        a_bits = int(rng.choice(spec.activation_bits))
    job = Job(k_steps=k_steps, weight_bits=bits, accumulate=accumulate, activation_bits=a_bits)
    return random_operands(spec, rng, job)


def random_operands(spec: IntegerGemmSpec, rng: np.random.Generator, job: Job) -> GemmWork:
    """Corner-heavy operands for a given job."""
    tile = spec.tile
    depth = job.k_steps * tile.k
    low, high = weight_range(spec.weight_encoding, job.weight_bits)
    step = 2 if spec.weight_encoding == "bipolar" else 1
    half = 1 << (spec.result_bits - 2)
    a_low, a_high = activation_range(spec, activation_bits(spec, job))
    a_step = 2 if spec.activations.code == "bipolar" else 1
    a = random_operand(rng, a_low, a_high, (tile.m, depth), step=a_step)
    w = random_operand(rng, low, high, (tile.n, depth), step=step)
    z = random_operand(rng, 0, 2**job.weight_bits - 1, (tile.n,)) if spec.zero_point else None
    c = random_operand(rng, -half, half - 1, (tile.m, tile.n)) if job.accumulate else None
    return GemmWork(job=job, a=a, w=w, z=z, c=c)


def explain(work: GemmWork, index: Sequence[int]) -> str:
    """The inputs of one result element, for a failure message. ``index``: (beat, m, n)."""
    _, m, n = index
    parts = [f"job {work.job}", f"a[{m},:]={work.a[m].tolist()}", f"w[{n},:]={work.w[n].tolist()}"]
    if work.z is not None:
        parts.append(f"z[{n}]={int(work.z[n])}")
    if work.c is not None:
        parts.append(f"c[{m},{n}]={int(work.c[m, n])}")
    parts.extend(f"{name}={array.tolist()}" for name, array in work.extra.items())
    return " ".join(parts)


def coverage(spec: IntegerGemmSpec, work: GemmWork) -> Iterator[str]:
    """Coverage points that one work hits; see :func:`coverage_points`."""
    yield f"weight_bits={work.job.weight_bits}"
    yield "k_steps=1" if work.job.k_steps == 1 else "k_steps>1"
    a_bits = activation_bits(spec, work.job)
    if len(spec.activation_bits) > 1:
        yield f"activation_bits={a_bits}"
    low, high = activation_range(spec, a_bits)
    if work.a.min() == low:
        yield "a=lowest"
    if work.a.max() == high:
        yield "a=highest"
    low, high = weight_range(spec.weight_encoding, work.job.weight_bits)
    if work.w.min() == low:
        yield "w=lowest"
    if work.w.max() == high:
        yield "w=highest"
    if work.z is not None:
        if work.z.min() == 0:
            yield "z=0"
        if work.z.max() == 2**work.job.weight_bits - 1:
            yield "z=highest"
    if spec.addend:
        yield f"accumulate={int(work.job.accumulate)}"


def coverage_points(spec: IntegerGemmSpec) -> tuple[str, ...]:
    """Every coverage point of a core."""
    points = [f"weight_bits={bits}" for bits in range(1, spec.max_weight_bits + 1)]
    if len(spec.activation_bits) > 1:
        points += [f"activation_bits={bits}" for bits in spec.activation_bits]
    points += ["k_steps=1"] + (["k_steps>1"] if spec.max_k_steps > 1 else [])
    points += ["a=lowest", "a=highest", "w=lowest", "w=highest"]
    points += ["z=0", "z=highest"] if spec.zero_point else []
    points += ["accumulate=0", "accumulate=1"] if spec.addend else []
    return tuple(points)
