"""Memory that a phase needs at its peak: parameters, cache, and what lives between operators.

Live are, while an operator runs: the residual stream of all rows of a step at 16 bits, the
operator's A and O at their widths in memory, and what was made for a later operator beside it: the
queries while keys and values are made, the gate's result while ``up`` is. Results that go into the
cache are in the cache. All layers are alike, and a step's activations are done with before the
next one's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sw_driver.mapper import cost
from sw_driver.mapper.choices import FUSED_BITS, system_of, tables_of
from sw_driver.mapper.mapping import Mapping
from sw_driver.mapper.workload import Attention, Linear

RESIDUAL_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class PeakMemory:
    """Bytes; ``at`` is the operator where most is live."""

    parameters: int
    cache: int
    activations: int
    at: str

    @property
    def total(self) -> int:
        return self.parameters + self.cache + self.activations

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "total": self.total}


def peak_memory(mapping: Mapping) -> PeakMemory:
    """What a phase of a mapping needs."""
    work, core = mapping.workload, mapping.core
    arch = work.architecture
    system = system_of(core, mapping.choices)
    a_bits = FUSED_BITS if tables_of(core, mapping.choices) == "fused" else core.activation_bits
    rows: dict[str, int] = {}
    for item in work.operators:
        if isinstance(item, Linear):
            rows[item.role] = max(rows.get(item.role, 0), item.m * item.instances)
    gated = {role for role in ("up", "expert up", "shared up") if role[:-2] + "gate" in rows}
    step = rows["o"]
    queries = step * arch.q_width
    most, at = 0, ""
    for item in work.operators:
        beside = 0
        if isinstance(item, Attention):
            # Queries go in, values come out; scores stay on the chip unless a tile exceeds it.
            every = item.instances * item.rows * item.head_dim
            into, out = (every, 0) if item.kind == "scores" else (0, every)
            longest = min(item.window or cost.NO_WINDOW, item.last)
            tile = core.m * longest * 2
            spilled = tile if tile > system.buffer else 0
            live = cost.ceil_div(into * a_bits + out * system.output_bits, 8) + spilled
        else:
            count = item.m * item.instances
            if item.rising is not None:
                count += item.rising.each * item.rising.line.at(item.rising.steps - 1)
            kept = item.to_cache or item.remade
            # Inputs that are cached are in the cache.
            into = 0 if item.remade else count * item.k
            out = 0 if kept else count * item.n
            if item.role in ("k", "v"):
                # Of an encoder the keys as well: it has no cache for them to be in.
                keys = count * item.n if item.role == "v" and not kept else 0
                beside = queries + keys
            elif item.role in gated:
                beside = count * item.n
            live = cost.ceil_div(into * a_bits + (out + beside) * system.output_bits, 8)
        if live > most:
            most, at = live, item.name
    return PeakMemory(
        parameters=mapping.parameter_bytes,
        cache=mapping.cache_bytes,
        activations=most + step * arch.hidden * RESIDUAL_BYTES,
        at=at,
    )
