"""What a job's descriptor asks for, and what the registers of a sequencer say is left of it.

Both are Verilog for monitors. Of the descriptor that is offered on ``i_job``: which are legal, the
passes over the K steps and the steps without operands (:meth:`Passes.offered`). Of the registers of
a core's sequencer: the same two, as far as they have not fired (:meth:`Passes.unfired`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from hw.gemm import GemmSpec, passes
from hw.integers import IntegerGemmSpec
from hw.streams import Stream
from sim.source import streams


def job_field(stream: Stream, name: str, default: str = "") -> str:
    """Verilog of a field of ``i_job``, or what stands for it where the core has no such field."""
    for field in stream.fields:
        if field.name == name:
            low = stream.offset(name)
            return f"i_job__payload[{low + field.width - 1}:{low}]"
    return default


class Passes(ABC):
    """Passes and idle steps (steps without operands) of a specification's jobs.

    Attributes:
        idles: whether a job can have idle steps.
        probes: width of every register that :meth:`unfired` looks at, by name; its wire is
            ``p_<name>``.
    """

    idles = False
    probes: Mapping[str, int]

    def __init__(self, spec: GemmSpec):
        self.spec = spec
        self.job = streams(spec)[0]

    @abstractmethod
    def offered(self, bits: int) -> str:
        """Wires ``job_passes`` and ``job_idle`` of that width; assumes that the job is legal."""

    @abstractmethod
    def unfired(self, bits: int) -> str:
        """Wires of an active job, the step at hand included.

        ``unfired_passes``: passes not yet ended; ``unfired_idle``: idle steps;
        ``in_last_pass``; ``idle_now``: the step at hand takes no operands; ``in_range``: no counter
        is beyond what a job can bring it to.
        """


class WeightPasses(Passes):
    """A pass for each group of the weights' planes: ``hw.lib.passes.PlanePasses``."""

    def __init__(self, spec: GemmSpec):
        super().__init__(spec)
        self.probes = {"passes_left": max(1, (spec.max_passes - 1).bit_length())}

    def offered(self, bits: int) -> str:
        spec, text = self.spec, ""
        chosen = f"{bits}'d{spec.max_passes}"
        if spec.max_passes > 1:
            weight_bits = job_field(self.job, "weight_bits_m1")
            for width in range(spec.max_weight_bits - 1, 0, -1):
                chosen = f"{weight_bits} == {width - 1} ? {bits}'d{passes(spec, width)} : {chosen}"
            # A width beyond the specification's is no job of the contract.
            text = f"always @* assume(!i_job__valid || {weight_bits} < {spec.max_weight_bits});\n"
        return text + (
            f"wire [{bits - 1}:0] job_passes = {chosen};\nwire [{bits - 1}:0] job_idle = 0;\n"
        )

    def unfired(self, bits: int) -> str:
        return (
            f"wire [{bits - 1}:0] unfired_passes = p_passes_left + {bits}'d1;\n"
            f"wire [{bits - 1}:0] unfired_idle = 0;\n"
            "wire in_last_pass = p_passes_left == 0;\n"
            "wire idle_now = 0;\n"
            "wire in_range = 1;\n"
        )


class PairPasses(Passes):
    """A pass for each pair of planes that both come: ``hw.blocks.bitserial_core.passes``.

    With ``a`` and ``w`` the masks of the planes that come there are ``ones(a) · ones(w)`` passes,
    and an idle step for each sum ``i + j`` below the highest that no pair has, or the only one of
    a job without a pair.
    """

    idles = True

    def __init__(self, spec: IntegerGemmSpec):
        super().__init__(spec)
        self.codes = {"a": spec.activations.code, "w": spec.weight_encoding}
        self.widths = {f.name: f.width for f in self.job.fields if f.name.endswith("_planes")}
        a, w = self.widths["a_planes"], self.widths["w_planes"]
        self.sums = a + w - 1
        self.probes = {
            "left": a,
            "a_planes": a,
            "partners": self.sums,
            "sums_left": max(1, (self.sums - 1).bit_length()),
        }

    def offered(self, bits: int) -> str:
        text = "".join(
            f"wire [{width - 1}:0] job_{name} = {job_field(self.job, name)};\n"
            for name, width in self.widths.items()
        )
        rules = [rule for side in ("a", "w") if (rule := self._legal(side))]
        if rules:
            text += f"always @* assume(!i_job__valid || ({' & '.join(rules)}));\n"
        pairs = [
            [f"(job_a_planes[{i}] & job_w_planes[{total - i}])" for i in self._lanes(total)]
            for total in range(self.sums)
        ]
        has = ", ".join(f"({' | '.join(lanes)})" for lanes in reversed(pairs))
        idle = [
            f"(~job_has[{total}] & (job_has >> {total + 1}) != 0)" for total in range(self.sums - 1)
        ]
        ones = {name: _count(f"job_{name}", width, bits) for name, width in self.widths.items()}
        return text + (
            f"wire [{bits - 1}:0] ones_a = {ones['a_planes']};\n"
            f"wire [{bits - 1}:0] ones_w = {ones['w_planes']};\n"
            f"wire [{bits - 1}:0] job_passes = ones_a * ones_w;\n"
            # Bit s: there is a pair of planes i + j = s.
            f"wire [{self.sums - 1}:0] job_has = {{{has}}};\n"
            f"wire [{bits - 1}:0] job_idle = {bits}'d0"
            f"{''.join(f' + {item}' for item in idle)} + (job_has == 0);\n"
        )

    def _lanes(self, total: int) -> range:
        """``i`` of the pairs ``(i, total − i)``."""
        a, w = self.widths["a_planes"], self.widths["w_planes"]
        return range(max(0, total - w + 1), min(total, a - 1) + 1)

    def _legal(self, side: str) -> str:
        """Verilog of what descriptors keep to, see ``hw.blocks.bitserial_core.spec``."""
        code = self.codes[side]
        mask = f"job_{side}_planes"
        if code == "bipolar":
            # Planes of ±1 are never zero: all that the job's width has.
            return f"{mask} != 0 & ({mask} & ({mask} + 1)) == 0"
        if code == "twos_complement":
            sign = job_field(self.job, f"{side}_sign")
            return f"{sign} != 0 & ({sign} & ({sign} - 1)) == 0 & ({mask} >> 1) < {sign}"
        return ""

    def unfired(self, bits: int) -> str:
        a = self.widths["a_planes"]
        text = "".join(
            # Planes of the sum that comes after so many others.
            f"wire [{a - 1}:0] after_{later} ="
            f" p_sums_left >= {later} ? p_a_planes & (p_partners >> {later}) : {a}'d0;\n"
            f"wire none_{later} = p_sums_left >= {later} & after_{later} == 0;\n"
            for later in range(1, self.sums)
        )
        wait = range(1, self.sums)
        pairs = [_count("p_left", a, bits), *(_count(f"after_{s}", a, bits) for s in wait)]
        return text + (
            "wire idle_now = p_left == 0;\n"
            f"wire in_range = p_sums_left < {self.sums};\n"
            f"wire [{bits - 1}:0] unfired_passes = {' + '.join(pairs)};\n"
            f"wire [{bits - 1}:0] unfired_idle = {bits}'d0 + idle_now"
            f"{''.join(f' + none_{s}' for s in wait)};\n"
            "wire in_last_pass = p_sums_left == 0 & (p_left & (p_left - 1)) == 0;\n"
        )


def _count(name: str, width: int, bits: int) -> str:
    """The ones of a wire."""
    return f"({' + '.join([f'{bits}' + chr(39) + 'd0', *(f'{name}[{i}]' for i in range(width))])})"


def of(spec: GemmSpec) -> Passes:
    """How the jobs of a specification make passes; the fields of its descriptors say."""
    fields = {field.name for field in streams(spec)[0].fields}
    if "a_planes" in fields and isinstance(spec, IntegerGemmSpec):
        return PairPasses(spec)
    return WeightPasses(spec)
