"""The contract of a GEMM core: ``O[M,N] = A[M,K]·W[N,K]ᵀ (+ C[M,N])``, one output tile a job.

Ports (all valid/ready, in any relative order, any stall pattern):

- ``i_job``: one descriptor a job, ``k_steps_m1`` (K steps less one), ``weight_bits_m1`` where the
  width is chosen at run time, ``accumulate`` where the core has an addend, and what else a core's
  jobs choose (see ``GemmSpec.job_fields``).
- ``i_a``: activations, ``passes · k_steps`` beats of ``M × K`` elements.
- ``i_w``: weights, ``passes · k_steps`` beats of ``N × K`` elements (one group of planes each).
- ``i_c``: the addend, one beat of ``M × N`` for each job whose ``accumulate`` is set.
- ``o``: one beat of ``M × N`` results a job: exact integers (``hw.integers``), or what
  ``GemmSpec.results`` says.

A job of ``B``-bit weights on a core that takes ``P`` planes a cycle makes ``ceil(B / P)`` passes
over its K steps, most significant planes first, so that the accumulator doubles ``P`` times at the
start of each pass but the first (``O = Σ_b 2^b·D_b``, LUT Tensor Core, arXiv 2408.06003, sec. 3).
Both operand streams repeat their K steps in every pass. A core that takes the activations' planes
one by one, too, makes a pass for each pair of planes (see ``hw.blocks.bitserial_core``). A core
whose steps take several cycles each takes both operands once (see ``hw.blocks.sram_lut_gemv``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hw.errors import Problem
from hw.lazy import np
from hw.spec import BlockSpec, Memory, Part
from hw.streams import Stream, StreamField

if TYPE_CHECKING:
    from hw.formats import BlockFormat, FloatFormat

    Format = FloatFormat | BlockFormat


class Tile(Part):
    """Elements that one step covers."""

    m: int = Field(2, ge=1, le=64, description="rows of A, and of O")
    n: int = Field(64, ge=1, le=512, description="rows of W, columns of O")
    k: int = Field(16, ge=1, le=512, description="elements of K in one step")


class Pipeline(Part):
    """Registers besides those of the ports and the accumulators."""

    front: int = Field(0, ge=0, le=1, description="1: a register behind the shared front end")
    heap: int = Field(0, ge=0, le=5, description="registers through the columns' heaps")
    placement: Literal["speed", "area"] = Field(
        "speed",
        description="heap registers at even times, or the last behind the finished sum, where the "
        "fewest bits cross",
    )


@dataclass(frozen=True, kw_only=True)
class Further:
    """An operand beside A and W, such as their scales.

    Attributes:
        side: whose rows it goes along: ``"m"`` those of A, ``"n"`` those of W, None for one value
            for all.
        per: elements of K that share a value; 0 for one value a row.
        filler: value for rows and elements that are not there.
    """

    side: Literal["m", "n"] | None = None
    per: int = 0
    filler: int = 0


class GemmSpec(BlockSpec):
    """Fields that every GEMM core has, and what a core says of itself."""

    tile: Tile = Field(default_factory=Tile, description="shape of one step")
    max_k: int = Field(
        4096, ge=1, le=1 << 20, description="largest K of a job; sizes accumulator and counters"
    )
    pipeline: Pipeline = Field(default_factory=Pipeline, description="extra registers")
    addend: bool = Field(
        False, description="add a C[M,N] beat to a job's result (a port, and an adder row)"
    )
    memory: Memory = Field(default_factory=Memory, description="what feeds the core")

    @property
    def weight_encoding(self) -> str:
        """What a weight's bits mean: an integer encoding, or the name of a number format."""
        raise NotImplementedError

    @property
    def weight_widths(self) -> range:
        """Widths of weights that a job can choose."""
        return range(self.max_weight_bits, self.max_weight_bits + 1)

    @property
    def max_weight_bits(self) -> int:
        raise NotImplementedError

    @property
    def planes_per_cycle(self) -> int:
        """Weight planes that one beat of ``i_w`` carries."""
        return self.max_weight_bits

    @property
    def activation_width(self) -> int:
        """Bits of an activation, of the widest job where jobs choose."""
        raise NotImplementedError

    @property
    def activation_bits(self) -> range:
        """Widths of activations that a job can choose."""
        return range(self.activation_width, self.activation_width + 1)

    @property
    def zero_point(self) -> bool:
        """Whether every column has an integer zero point."""
        return False

    @property
    def skips_planes(self) -> bool:
        """Whether a job may leave out planes that are zero throughout."""
        return False

    @property
    def fillers(self) -> tuple[int, int]:
        """Activation and weight that stand where a tile has no element: their product is 0, or
        what :func:`sim.gemm.tile` takes off again."""
        return 0, 0

    @property
    def further(self) -> Mapping[str, Further]:
        """Operands beside A and W, by their names in :attr:`GemmWork.extra`."""
        return {}

    @property
    def own_control(self) -> bool:
        """Whether steps take cycles by a control of the core's own, not one each by the shell's."""
        return False

    @property
    def timed_by_operands(self) -> bool:
        """Whether a job may ask for what takes as long as its operands say, see ``Job.reuse``."""
        return False

    @property
    def job_operands(self) -> tuple[StreamField, ...]:
        """Operands of :attr:`further` that travel with the descriptor, as fields of ``i_job``."""
        return ()

    @property
    def operand_formats(self) -> tuple[Format | None, Format | None]:
        """Number formats of A and of W; None for integers, whose scales are outside."""
        return None, None

    @property
    def result_bits(self) -> int:
        """Width of a result, and of an addend."""
        raise NotImplementedError

    @property
    def results(self) -> tuple[StreamField, ...]:
        """Fields of ``o``, each of shape ``(M, N, …)``, or ``(M,)`` for what a row shares."""
        raise NotImplementedError

    @property
    def summable(self) -> bool:
        """Whether results of parts of K may be added outside: so for exact integers alone."""
        return False

    @property
    def cuts(self) -> int:
        """Registers that a step passes between its operands' and the accumulators."""
        return self.pipeline.heap

    @property
    def tail(self) -> int:
        """Registers that a result passes behind the accumulators."""
        return 0

    @property
    def max_passes(self) -> int:
        return passes(self, self.max_weight_bits)

    @property
    def max_k_steps(self) -> int:
        return -(-self.max_k // self.tile.k)

    def job_passes(self, job: Job) -> int:
        """Passes over the K steps that a job makes."""
        return passes(self, job.weight_bits)

    def step_cycles(self, job: Job) -> int:
        """Cycles that a K step takes in all of a job's passes."""
        return self.job_passes(job)

    def operand_reads(self, weight_bits: int, activation_bits: int) -> tuple[int, int]:
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


def activation_bits(spec: GemmSpec, job: Job) -> int:
    """Width of a job's activations."""
    return spec.activation_width if job.activation_bits is None else job.activation_bits


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
        reuse: rows of A with the same pattern in a plane share a lookup, where the core has that;
            the job's cycles then depend on its activations.
    """

    k_steps: int
    weight_bits: int
    accumulate: bool = False
    activation_bits: int | None = None
    a_planes: int | None = None
    w_planes: int | None = None
    reuse: bool = False


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
    fields += spec.job_operands
    return Stream(name="i_job", direction="in", fields=tuple(fields), doc="job descriptors")


def shared_streams(spec: GemmSpec, a: Stream, w: Stream) -> tuple[Stream, ...]:
    """The ports of a core, given its operand streams."""
    addend: tuple[Stream, ...] = ()
    if spec.addend:
        result = next(item for item in spec.results if item.name == "o")
        addend = (
            Stream(name="i_c", direction="in", doc="addend", fields=(replace(result, name="c"),)),
        )
    o = Stream(name="o", direction="out", doc="results", fields=spec.results)
    return (job_stream(spec), a, w, *addend, o)


def job_beats(
    spec: GemmSpec, job: Job, extra: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """The ``i_job`` beat of a job, by field; ``extra`` holds the operands that travel with it."""
    values = {
        "k_steps_m1": job.k_steps - 1,
        **spec.job_values(job),
        "accumulate": int(job.accumulate),
    }
    own = {item.name for item in spec.job_operands}
    names = [item.name for item in job_stream(spec).fields if item.name not in own]
    found = {name: np.array([values[name]]) for name in names}
    return found | {name: np.asarray((extra or {})[name])[None] for name in own}


def step_view(array: np.ndarray, k_steps: int) -> np.ndarray:
    """``(rows, k_steps · k)`` to beats ``(k_steps, rows, k)``."""
    rows, depth = array.shape
    return array.reshape(rows, k_steps, depth // k_steps).transpose(1, 0, 2)


def check_steps(spec: GemmSpec, job: Job) -> None:
    """The length of a job against the specification.

    Raises:
        ValueError: names the rule and the value.
    """
    if not 1 <= job.k_steps <= spec.max_k_steps:
        raise ValueError(f"k_steps: must lie in [1, {spec.max_k_steps}], got {job.k_steps}")


def random_steps(spec: GemmSpec, rng: np.random.Generator, size: str) -> int:
    """Steps of a random job; ``size`` is ``minimum``, ``small`` or ``large``."""
    limit = spec.max_k_steps
    if size == "minimum":
        return 1
    if size == "small":
        return int(rng.integers(1, min(limit, 6) + 1))
    if size == "large":
        return min(limit, int(rng.integers(20, 41)))
    raise ValueError(f"size: must be minimum, small or large, got {size!r}")


def job_cycles(spec: GemmSpec, k_steps: Any, weight_bits: Any) -> Any:
    """Cycles that a job adds to a steady stream of jobs: passes times K steps.

    Works on integers and on numpy arrays alike.
    """
    return -(-weight_bits // spec.planes_per_cycle) * k_steps
