"""The contract of a GEMM core: ``O[M,N] = A[M,K]·W[N,K]ᵀ (+ C[M,N])``, one output tile a job.

Ports (all valid/ready, in any relative order, any stall pattern):

- ``i_job``: one descriptor a job, ``k_steps_m1`` (K steps less one), ``weight_bits_m1`` where the
  width is chosen at run time, ``accumulate`` where the core has an addend, and what else a core's
  jobs choose (see ``GemmSpec.job_fields``).
- ``i_a``: activations, ``passes · k_steps`` beats of ``M × K`` elements.
- ``i_w``: weights, ``passes · k_steps`` beats of ``N × K`` elements (one group of planes each).
- ``i_c``: the addend, one beat of ``M × N`` for each job whose ``accumulate`` is set.
- ``o``: one beat of ``M × N`` exact integers a job.

A job of ``B``-bit weights on a core that takes ``P`` planes a cycle makes ``ceil(B / P)`` passes
over its K steps, most significant planes first, so that the accumulator doubles ``P`` times at the
start of each pass but the first (``O = Σ_b 2^b·D_b``, LUT Tensor Core, arXiv 2408.06003, sec. 3).
Both operand streams repeat their K steps in every pass. A core that takes the activations' planes
one by one, too, makes a pass for each pair of planes (see ``hw.blocks.bitserial_core``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from hw.errors import Problem
from hw.lazy import np
from hw.spec import BlockSpec, Memory, Part
from hw.streams import Stream, StreamField

Encoding = Literal["unsigned", "twos_complement", "bipolar", "ternary"]


class Tile(Part):
    """Elements that one step covers."""

    m: int = Field(2, ge=1, le=64, description="rows of A, and of O")
    n: int = Field(64, ge=1, le=512, description="rows of W, columns of O")
    k: int = Field(16, ge=1, le=512, description="elements of K in one step")


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


class Pipeline(Part):
    """Registers besides those of the ports and the accumulators."""

    front: int = Field(0, ge=0, le=1, description="1: a register behind the shared front end")
    heap: int = Field(0, ge=0, le=4, description="registers through the columns' heaps")
    placement: Literal["speed", "area"] = Field(
        "speed",
        description="heap registers at even times, or the last behind the finished sum, where the "
        "fewest bits cross",
    )


class GemmSpec(BlockSpec):
    """Fields that every integer GEMM core has."""

    tile: Tile = Field(default_factory=Tile, description="shape of one step")
    activations: ActivationFormat = Field(default_factory=Activations, description="format of A")
    max_k: int = Field(
        4096, ge=1, le=1 << 20, description="largest K of a job; sizes accumulator and counters"
    )
    pipeline: Pipeline = Field(default_factory=Pipeline, description="extra registers")
    addend: bool = Field(
        False, description="add a C[M,N] beat to a job's result (a port, and an adder row)"
    )
    memory: Memory = Field(default_factory=Memory, description="what feeds the core")

    # What a core says of itself; subclasses override.

    @property
    def weight_encoding(self) -> Encoding:
        raise NotImplementedError

    @property
    def max_weight_bits(self) -> int:
        raise NotImplementedError

    @property
    def planes_per_cycle(self) -> int:
        """Weight planes that one beat of ``i_w`` carries."""
        raise NotImplementedError

    @property
    def zero_point(self) -> bool:
        """Whether every column has an integer zero point."""
        return self.weight_encoding == "unsigned"

    @property
    def max_passes(self) -> int:
        return passes(self, self.max_weight_bits)

    @property
    def max_k_steps(self) -> int:
        return -(-self.max_k // self.tile.k)

    @property
    def step_magnitude(self) -> int:
        """Largest magnitude that one step adds to one result at the largest weight width."""
        largest = max(-self.activations.low, self.activations.high)
        return self.tile.k * largest * weight_magnitude(self.weight_encoding, self.max_weight_bits)

    @property
    def result_bits(self) -> int:
        """Width of a result: two's complement that holds ``±max_k_steps · step_magnitude``."""
        return (self.max_k_steps * self.step_magnitude).bit_length() + 1

    @property
    def activation_bits(self) -> range:
        """Widths of activations that a job can choose."""
        return range(self.activations.widest, self.activations.widest + 1)

    @property
    def skips_planes(self) -> bool:
        """Whether a job may leave out planes that are zero throughout."""
        return False

    def job_passes(self, job: Job) -> int:
        """Passes over the K steps that a job makes."""
        return passes(self, job.weight_bits)

    def operand_reads(self, weight_bits: int) -> tuple[int, int]:
        """How often a job takes all of its activations, and all of its weights."""
        return passes(self, weight_bits), 1

    def job_fields(self) -> tuple[StreamField, ...]:
        """Fields of ``i_job`` besides the K steps and the addend's."""
        if self.max_passes == 1:
            return ()
        return (
            StreamField(
                name="weight_bits_m1",
                width=(self.max_weight_bits - 1).bit_length(),
                doc="weight width of the job in bits, less one",
            ),
        )

    def job_values(self, job: Job) -> dict[str, int]:
        """Values of :meth:`job_fields`."""
        return {"weight_bits_m1": job.weight_bits - 1} if self.max_passes > 1 else {}

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        if self.max_k < self.tile.k:
            yield Problem(("max_k",), f"must be at least tile.k = {self.tile.k}", self.max_k)
        if self.result_bits > 48:
            yield Problem(
                ("max_k",), f"needs a {self.result_bits} bit accumulator, at most 48", self.max_k
            )


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


def activation_range(spec: GemmSpec, bits: int) -> tuple[int, int]:
    """Smallest and largest activation of a width."""
    return weight_range(spec.activations.code, bits)


def activation_bits(spec: GemmSpec, job: Job) -> int:
    """Width of a job's activations."""
    return spec.activations.widest if job.activation_bits is None else job.activation_bits


def passes(spec: GemmSpec, weight_bits: int) -> int:
    """Passes over the K steps that weights of this width take."""
    return -(-weight_bits // spec.planes_per_cycle)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One output tile.

    Attributes:
        k_steps: K steps of ``tile.k`` elements each.
        weight_bits: width of the weights of this job.
        accumulate: add a beat of ``i_c``.
        activation_bits: width of the activations; None for the specification's widest.
        a_planes, w_planes: planes that are there, a bit each; the others are zero throughout and
            left out. None for all, which every core takes.
    """

    k_steps: int
    weight_bits: int
    accumulate: bool = False
    activation_bits: int | None = None
    a_planes: int | None = None
    w_planes: int | None = None


@dataclass(frozen=True, kw_only=True)
class GemmWork:
    """A job with its operands.

    Attributes:
        a: activations ``(M, k_steps · tile.k)``.
        w: weights ``(N, k_steps · tile.k)``: for the unsigned encoding the codes ``q`` (the weight
            is ``q − z``), else the weight values.
        z: zero points ``(N,)`` for the unsigned encoding, else None.
        c: addend ``(M, N)`` if the job accumulates, else None.
        extra: further operands that a core defines (arrays by name).
    """

    job: Job
    a: np.ndarray
    w: np.ndarray
    z: np.ndarray | None = None
    c: np.ndarray | None = None
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)


def check_work(spec: GemmSpec, work: GemmWork) -> None:
    """Every operand against the specification.

    Raises:
        ValueError: names the operand, the rule and the value.
    """
    job, tile = work.job, spec.tile
    if not 1 <= job.k_steps <= spec.max_k_steps:
        raise ValueError(f"k_steps: must lie in [1, {spec.max_k_steps}], got {job.k_steps}")
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


def job_stream(spec: GemmSpec) -> Stream:
    """``i_job``."""
    fields = [
        StreamField(
            name="k_steps_m1",
            width=max(1, (spec.max_k_steps - 1).bit_length()),
            doc="K steps of the job, less one",
        ),
        *spec.job_fields(),
    ]
    if spec.addend:
        fields.append(StreamField(name="accumulate", width=1, doc="1: add a beat of i_c"))
    return Stream(name="i_job", direction="in", fields=tuple(fields), doc="job descriptors")


def tile_stream(spec: GemmSpec, name: str, direction: str, doc: str) -> Stream:
    """``i_c`` or ``o``: one beat of ``M × N`` integers of the result width."""
    return Stream(
        name=name,
        direction=direction,
        doc=doc,
        fields=(
            StreamField(
                name=name[-1],
                width=spec.result_bits,
                signed=True,
                shape=(spec.tile.m, spec.tile.n),
                doc="exact integers",
            ),
        ),
    )


def shared_streams(spec: GemmSpec, a: Stream, w: Stream) -> tuple[Stream, ...]:
    """The ports of a core, given its operand streams."""
    addend = (tile_stream(spec, "i_c", "in", "addend"),) if spec.addend else ()
    return (job_stream(spec), a, w, *addend, tile_stream(spec, "o", "out", "results"))


def job_beats(spec: GemmSpec, job: Job) -> dict[str, np.ndarray]:
    """The ``i_job`` beat of a job, by field."""
    values = {
        "k_steps_m1": job.k_steps - 1,
        **spec.job_values(job),
        "accumulate": int(job.accumulate),
    }
    names = [item.name for item in job_stream(spec).fields]
    return {name: np.array([values[name]]) for name in names}


def step_view(array: np.ndarray, k_steps: int) -> np.ndarray:
    """``(rows, k_steps · k)`` to beats ``(k_steps, rows, k)``."""
    rows, depth = array.shape
    return array.reshape(rows, k_steps, depth // k_steps).transpose(1, 0, 2)


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


def random_work(spec: GemmSpec, rng: np.random.Generator, *, size: str = "small") -> GemmWork:
    """Corner-heavy random work of a GEMM core. ``size``: ``minimum``, ``small`` or ``large``."""
    limit = spec.max_k_steps
    if size == "minimum":
        k_steps = 1
    elif size == "small":
        k_steps = int(rng.integers(1, min(limit, 6) + 1))
    elif size == "large":
        k_steps = min(limit, int(rng.integers(20, 41)))
    else:
        raise ValueError(f"size: must be minimum, small or large, got {size!r}")
    bits = int(rng.integers(1, spec.max_weight_bits + 1))
    accumulate = bool(spec.addend and rng.integers(2))
    a_bits = None
    if len(spec.activation_bits) > 1:
        a_bits = int(rng.choice(spec.activation_bits))
    job = Job(k_steps=k_steps, weight_bits=bits, accumulate=accumulate, activation_bits=a_bits)
    return random_operands(spec, rng, job)


def random_operands(spec: GemmSpec, rng: np.random.Generator, job: Job) -> GemmWork:
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


def coverage(spec: GemmSpec, work: GemmWork) -> Iterator[str]:
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


def coverage_points(spec: GemmSpec) -> tuple[str, ...]:
    """Every coverage point of a core."""
    points = [f"weight_bits={bits}" for bits in range(1, spec.max_weight_bits + 1)]
    if len(spec.activation_bits) > 1:
        points += [f"activation_bits={bits}" for bits in spec.activation_bits]
    points += ["k_steps=1"] + (["k_steps>1"] if spec.max_k_steps > 1 else [])
    points += ["a=lowest", "a=highest", "w=lowest", "w=highest"]
    points += ["z=0", "z=highest"] if spec.zero_point else []
    points += ["accumulate=0", "accumulate=1"] if spec.addend else []
    return tuple(points)


def job_cycles(spec: GemmSpec, k_steps: Any, weight_bits: Any) -> Any:
    """Cycles that a job adds to a steady stream of jobs: passes times K steps.

    Works on integers and on numpy arrays alike.
    """
    return -(-weight_bits // spec.planes_per_cycle) * k_steps
