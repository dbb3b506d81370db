"""What the mapper has to know of a GEMM core, taken from its specification and its timing model.

A cost query needs a dozen integers of a core, and neither its streams nor its reference. They are
kept in the cache under the content of the specification file and of this project's sources, so that
mapping a model starts without a validation library, numpy or YAML.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtl_gen.errors import InputError

if TYPE_CHECKING:
    from hw.gemm import GemmSpec

MAX_SPEC_BYTES = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class Core:
    """A GEMM core as the mapper sees it.

    Attributes:
        name, block: of the specification; digest: its SHA-256.
        clock_mhz: clock for seconds; bandwidth_gb_s: DRAM bandwidth, 1e9 bytes per second.
        m, n, k: elements of one step.
        activation_bits: width of an activation; activation_name: its format.
        encoding: of the weights.
        weight_format: name in ``hw.formats`` of the weights' format, "" for integers.
        zero_point: whether every column has an integer zero point.
        min_weight_bits, max_weight_bits: weights' widths that a job can have.
        max_k_steps: K steps that a job may have.
        latency: cycles of a run besides those of its jobs.
        job_cycles: per weight width from 1 on, cycles ``(of a job, of each of its K steps)``.
        passes: per weight width, how often a job takes its activations.
        weight_passes: how often a job takes its weights.
        step_bits: per weight width, bits of memory that ``k`` weights of one column take.
        activation_step_bits: the same of ``k`` activations.
        own_scales: 1 if the core applies the scales of its operands, which are in
            ``step_bits`` then, 0 if each scale group along K is a job and is scaled outside.
        result_bits: width of a result.
        table_source: of a core that looks its sums up, where its tables come from (``internal``,
            ``port``); "" for others.
        table_step_bits: bits that the tables of ``k`` activations of one row take on its port.
        table_latency, fused_latency: cycles that a ``lut_tables`` or a ``fused_tables`` unit in
            front of the port adds to a run; 0 where there is none for it.
    """

    name: str
    block: str
    digest: str
    clock_mhz: float
    bandwidth_gb_s: float
    m: int
    n: int
    k: int
    activation_bits: int
    activation_name: str
    encoding: str
    weight_format: str
    zero_point: bool
    min_weight_bits: int
    max_weight_bits: int
    max_k_steps: int
    latency: int
    job_cycles: tuple[tuple[int, int], ...]
    passes: tuple[int, ...]
    weight_passes: int
    step_bits: tuple[int, ...]
    activation_step_bits: int
    own_scales: int
    result_bits: int
    table_source: str = ""
    table_step_bits: int = 0
    table_latency: int = 0
    fused_latency: int = 0

    @cached_property
    def ternary(self) -> bool:
        return self.encoding == "ternary"

    @property
    def widths(self) -> range:
        """Weight widths that a job can have."""
        return range(self.min_weight_bits, self.max_weight_bits + 1)

    def peak_macs(self, bits: int) -> float:
        """MACs per cycle of a job without end, weights of this width."""
        return self.m * self.n * self.k / self.job_cycles[bits - 1][1]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def core_of(spec: GemmSpec, activation_bits: int | None = None) -> Core:
    """The facts of a specification.

    Args:
        activation_bits: width of the activations, where jobs choose it; the widest if None.

    Raises:
        InputError: it is no GEMM core, its timing is not affine in the K steps of a job, or it has
            no activations of that width.
    """
    from hw.block import block
    from hw.formats import BlockFormat

    entry = block(spec.block)
    if entry.kind != "gemm":
        raise InputError(f"{spec.name}: block: must be a GEMM core to map onto, got {spec.block!r}")
    timing: Any = entry.timing
    a_bits = spec.activation_width if activation_bits is None else activation_bits
    if a_bits not in spec.activation_bits:
        least, most = spec.activation_bits[0], spec.activation_bits[-1]
        rule = f"be {most}" if least == most else f"lie in [{least}, {most}]"
        raise InputError(f"activation_bits: must {rule} for {spec.name}, got {a_bits}")
    chosen = {"activation_bits": a_bits} if len(spec.activation_bits) > 1 else {}
    # Cores of one width have the same figures at every index, of which only the last one counts.
    widths = range(1, spec.max_weight_bits + 1)
    job_cycles = []
    for bits in widths:
        one = int(timing.job_cycles(spec, 1, bits, **chosen))
        slope = int(timing.job_cycles(spec, 2, bits, **chosen)) - one
        for steps in {1, 2, 3, 7, 64, spec.max_k_steps}:
            if int(timing.job_cycles(spec, steps, bits, **chosen)) != one + slope * (steps - 1):
                raise InputError(
                    f"{spec.name}: block: {spec.block} has a timing that is not affine in the K "
                    f"steps of a job, which this mapper needs (width {bits}, {steps} steps)"
                )
        job_cycles.append((one - slope, slope))
    reads = [spec.operand_reads(bits, a_bits) for bits in widths]
    (weight_passes,) = {weights for _, weights in reads}
    passes = [activations for activations, _ in reads]
    formats = spec.operand_formats
    ports = {stream.name: stream for stream in entry.golden.streams(spec)}
    if formats[1] is None and "w_scale" not in spec.further:
        # What a beat carries per column, if that is less than the codes themselves: packed trits.
        (field,) = [item for item in ports["i_w"].fields if item.name == "w"]
        step_bits = [
            min(spec.tile.k * bits, count * field.bits // spec.tile.n)
            for bits, count in zip(widths, passes, strict=True)
        ]
    else:
        step_bits = [ports["i_w"].width // spec.tile.n] * len(widths)
    activation_step_bits = spec.tile.k * a_bits
    if isinstance(formats[0], BlockFormat):
        activation_step_bits = ports["i_a"].width // spec.tile.m
    return Core(
        name=spec.name,
        block=spec.block,
        digest=spec.digest,
        clock_mhz=spec.clock_mhz,
        bandwidth_gb_s=spec.memory.bandwidth_gb_s,
        m=spec.tile.m,
        n=spec.tile.n,
        k=spec.tile.k,
        activation_bits=a_bits,
        activation_name=f"INT{a_bits}" if formats[0] is None else formats[0].name,
        encoding=spec.weight_encoding,
        weight_format="" if formats[1] is None else formats[1].name,
        zero_point=spec.zero_point,
        min_weight_bits=spec.weight_widths[0],
        max_weight_bits=spec.max_weight_bits,
        max_k_steps=spec.max_k_steps,
        latency=int(timing.latency(spec)),
        job_cycles=tuple(job_cycles),
        passes=tuple(passes),
        weight_passes=weight_passes,
        step_bits=tuple(step_bits),
        activation_step_bits=activation_step_bits,
        own_scales=int(formats[1] is not None or "w_scale" in spec.further),
        result_bits=spec.result_bits,
        **_tables(spec, ports),
    )


def _tables(spec: Any, ports: dict[str, Any]) -> dict[str, Any]:
    """Facts of the tables of a core that looks its sums up."""
    from hw.block import block

    source = getattr(getattr(spec, "table", None), "source", "")
    if source != "port":
        return {"table_source": source}
    timings: list[Any] = [block(name).timing for name in ("lut_tables", "fused_tables")]
    return {
        "table_source": source,
        "table_step_bits": ports["i_t"].width // spec.tile.m,
        "table_latency": timings[0].LATENCY,
        # What is quantized there has a sign.
        "fused_latency": timings[1].LATENCY if spec.activations.signed else 0,
    }


def load_core(path: Path | str, activation_bits: int | None = None) -> Core:
    """The core in a specification file; ``activation_bits`` as for :func:`core_of`.

    Raises:
        SpecFileError: the file breaks a rule; every error with its place.
        InputError: as :func:`core_of`.
    """
    path = Path(path)
    entry = _cache_entry(path, activation_bits)
    if entry is not None:
        try:
            return _from_json(entry.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, KeyError):
            pass  # not there yet, or not whole: it is made again

    from rtl_gen.specfile import load_spec

    spec: Any = load_spec(path)
    core = core_of(spec, activation_bits)
    if entry is not None and entry == _cache_entry(path, activation_bits):
        from rtl_gen.cache import new_file

        try:
            with new_file(entry) as work:
                work.write_text(json.dumps(core.as_dict()), encoding="utf-8")
        except OSError:
            pass  # a cache that cannot be written costs time, nothing else
    return core


def _cache_entry(path: Path, activation_bits: int | None) -> Path | None:
    """Where the facts of a file are kept: named by its content and by the sources' content."""
    from rtl_gen.cache import cache_dir, digest, source_digest

    try:
        with path.open("rb") as handle:
            raw = handle.read(MAX_SPEC_BYTES + 1)
        if len(raw) > MAX_SPEC_BYTES:
            return None
        key = digest(
            {
                "activation_bits": activation_bits,
                "spec": hashlib.sha256(raw).hexdigest(),
                "sources": source_digest("hw"),
                "this": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
            }
        )
        return cache_dir() / "cores" / f"{key}.json"
    except (OSError, InputError):
        return None


def _from_json(text: str) -> Core:
    data = json.loads(text)
    data["job_cycles"] = tuple(tuple(item) for item in data["job_cycles"])
    data["passes"] = tuple(data["passes"])
    data["step_bits"] = tuple(data["step_bits"])
    return Core(**data)
