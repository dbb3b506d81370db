"""What a layer takes on a core at a width: the mapper's own figures, one layer at a time.

``map_workload`` gives an operator of all layers of a phase; they are alike, so that a layer is the
operator by the number of layers, exactly. Attention, tables and operators that nothing is chosen
for are taken by the first core whatever is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rtl_gen.errors import InputError
from sw_driver.mapper import cost
from sw_driver.mapper.core import Core
from sw_driver.mapper.mapping import (
    BUFFER_BYTES,
    Choices,
    Mapping,
    core_ints,
    kv_width,
    map_workload,
    system_of,
)
from sw_driver.mapper.workload import Linear, Workload

METRICS = ("cycles", "bytes", "size", "seconds")
"""What a budget may be of, besides the area."""

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a layer, or everything, takes in all phases.

    Attributes:
        cycles: of the core. bytes: of memory traffic. size: bytes of memory that the parameters
            take, scales included. nanoseconds: rounded up for each operator.
    """

    cycles: int = 0
    bytes: int = 0
    size: int = 0
    nanoseconds: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            cycles=self.cycles + other.cycles,
            bytes=self.bytes + other.bytes,
            size=self.size + other.size,
            nanoseconds=self.nanoseconds + other.nanoseconds,
        )

    def of(self, metric: str) -> int:
        """By the name of a budget; seconds in nanoseconds."""
        found: int = getattr(self, "nanoseconds" if metric == "seconds" else metric)
        return found


@dataclass(frozen=True, kw_only=True)
class Place:
    """A core, at a width of weights."""

    core: int
    bits: int


class Costs:
    """Figures of every role at every place.

    Args:
        works: the phases. cores: the first one does attention.
        places: what may be chosen. group: elements of K that share a scale of integers.
        kv_bits: width of the KV cache; the first core's if None.

    Raises:
        InputError: a number does not fit a core.
    """

    def __init__(
        self,
        works: Sequence[Workload],
        cores: Sequence[Core],
        places: Sequence[Place],
        *,
        group: int,
        kv_bits: int | None = None,
        buffer_bytes: int = BUFFER_BYTES,
    ):
        self.works, self.cores, self.group = works, cores, group
        kv = kv_width(cores[0], Choices(kv_bits=kv_bits))
        self._choices = {
            place: Choices(
                weight_bits=place.bits,
                group=None if cores[place.core].own_scales else group,
                kv_bits=kv,
                buffer_bytes=buffer_bytes,
            )
            for place in places
        }
        self.mappings: dict[Place, list[Mapping]] = {
            place: [map_workload(work, cores[place.core], choices) for work in works]
            for place, choices in self._choices.items()
        }
        self.notes = tuple(
            dict.fromkeys(
                note
                for place in places
                for item in self.mappings[place]
                for note in item.notes
                # Attention is the first core's.
                if place.core == 0 or not note.startswith("scores and values")
            )
        )
        arch = works[0].architecture
        self._shapes = {
            tensor.role: (tensor.shape, tensor.count)
            for tensor in arch.tensors
            if len(tensor.shape) == 2
        }
        if arch.head and arch.tied:
            self._shapes["lm_head"] = ((arch.vocab, arch.embedding_width or arch.hidden), 1)
        layers: dict[str, int] = {}
        for item in works[0].operators:
            if isinstance(item, Linear):
                steps = works[0].tokens if works[0].phase == "decode" else 1
                layers[item.role] = item.runs // steps
        self.layers = layers
        """By role the layers that have it."""

    def layer(self, role: str, place: Place) -> Figures:
        """One layer of a role."""
        count = self.layers[role]
        cycles = size = nanoseconds = 0
        for mapping in self.mappings[place]:
            for operator, item in zip(mapping.workload.operators, mapping.operators, strict=False):
                if isinstance(operator, Linear) and operator.role == role:
                    if item.cycles % count or item.bytes % count:
                        raise ValueError(f"{role}: {count} layers are not alike")
                    cycles += item.cycles // count
                    size += item.bytes // count
                    nanoseconds += -int(-item.seconds * NANOSECONDS // count)
        return Figures(
            cycles=cycles, bytes=size, nanoseconds=nanoseconds, size=self._memory(role, place)
        )

    def rest(self, roles: Sequence[str], place: Place) -> Figures:
        """Everything but the layers of some roles: what is taken whatever is chosen."""
        cycles = size = nanoseconds = 0
        mappings = self.mappings[place]
        for mapping in mappings:
            operators = mapping.workload.operators
            for index, item in enumerate(mapping.operators):
                operator = operators[index] if index < len(operators) else None
                if isinstance(operator, Linear) and operator.role in roles:
                    continue
                cycles += item.cycles
                size += item.bytes
                nanoseconds += -int(-item.seconds * NANOSECONDS // 1)
        memory = mappings[0].parameter_bytes
        memory -= sum(self._memory(role, place) * self.layers[role] for role in roles)
        return Figures(cycles=cycles, bytes=size, size=memory, nanoseconds=nanoseconds)

    def _memory(self, role: str, place: Place) -> int:
        """Bytes of a layer's matrices of a role, packed, with their scales."""
        if role not in self._shapes:
            raise InputError(f"{role}: has no matrix of its own, nothing can be chosen for it")
        (n, k), count = self._shapes[role]
        core, choices = self.cores[place.core], self._choices[place]
        ints = core_ints(core, place.bits)
        group = k if core.own_scales else min(self.group, k)
        scales = n * cost.ceil_div(k, group) * cost.scale_bits(ints, system_of(core, choices))
        each = int(cost.ceil_div(n * cost.row_bits(ints, k) + scales, 8))
        return each * (count // self.layers[role])
