"""A decode step on a PIM system, event by event, in command clocks.

Channels do the products, vector units what stands between them. A channel is offered the orders of
an operator when what they need has come back from the vector units; from then on its own scheduler
(:mod:`hw.blocks.pim_channel.phases`) says the cycle of every command, refreshes among them, and of
the last result. A vector unit begins when the last result is there, and takes the cycles of its
closed form. Channels refresh on while they wait.

Of one layer, with what runs beside it::

    norm · qkv · (sums) · keys written, scores · softmax · attend · o · (sums) add norm
         · up · (sums) activation · down · (sums) add
    parameters of a layer are read while the layer before it is added up
    values are read, completed and written while softmax works
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from hw.blocks.pim_channel.orders import Order
from hw.blocks.pim_channel.phases import Pace, Phase, Timeline
from hw.blocks.vector_unit.spec import Function
from hw.lazy import np
from rtl_gen.errors import InputError
from sw_driver.architecture import Architecture
from sw_driver.pim import orders as pim_orders
from sw_driver.pim.orders import Tag, Tagged
from sw_driver.pim.placement import (
    ACTIVATIONS,
    Keys,
    Matrix,
    Parameters,
    Placement,
    Region,
    Values,
    Vectors,
    place,
)
from sw_driver.pim.system import PimSystem

if TYPE_CHECKING:
    Orders = tuple[tuple[Order, Tag], ...]


class Event(NamedTuple):
    """Something that took time: ``[start, end)`` in command clocks.

    ``where`` is ``channels`` or ``vector``. An event that is ``hidden`` runs beside others and
    delays nothing by itself.
    """

    name: str
    layer: int | None
    where: str
    start: int
    end: int
    hidden: bool = False


class Offer(NamedTuple):
    """Orders that a channel is offered from a cycle on: a phase, and the base of its rows.

    ``tags`` makes what the orders carry, see :mod:`sw_driver.pim.orders`.
    """

    name: str
    layer: int | None
    phase: Phase
    base: int
    offered: int
    tags: Callable[[], Tagged]


@dataclass(kw_only=True)
class Step:
    """One token.

    Attributes:
        tokens: in the cache with it. begin, end: in command clocks.
        events: in the order of their starts.
        activates, precharges, refreshes, column_commands: commands, over all channels.
        bank_activates, bank_columns: rows opened and columns touched, over all banks.
        words_in, words_out: beats on the channels' ports.
        offers: by channel what it was offered, where that is kept.
    """

    tokens: int
    begin: int
    end: int = 0
    events: list[Event] = field(default_factory=list)
    activates: int = 0
    precharges: int = 0
    refreshes: int = 0
    column_commands: int = 0
    bank_activates: int = 0
    bank_columns: int = 0
    words_in: int = 0
    words_out: int = 0
    offers: list[list[Offer]] = field(default_factory=list)

    @property
    def cycles(self) -> int:
        """Command clocks of the token."""
        return self.end - self.begin

    @property
    def hit_rate(self) -> float:
        """Share of commands to columns that found their rows open."""
        return 1 - self.activates / self.column_commands

    @property
    def bank_hit_rate(self) -> float:
        """The same, each bank counted."""
        return 1 - self.bank_activates / self.bank_columns

    def spent(self) -> dict[tuple[str, str], int]:
        """Command clocks by place and name, what is hidden apart."""
        found: dict[tuple[str, str], int] = {}
        for event in self.events:
            if not event.hidden:
                key = (event.where, event.name)
                found[key] = found.get(key, 0) + event.end - event.start
        return found

    @property
    def vector_share(self) -> float:
        """Share of the time in which the channels wait for a vector unit."""
        waits = sum(count for (where, _), count in self.spent().items() if where == "vector")
        return waits / self.cycles


class DecodeModel:
    """The cycles of decode steps of a placed model.

    Args:
        placement: the model in its system.
        keep: keep what every channel did, for :meth:`runs`.
        pace: what is known already of the system's channels.
    """

    def __init__(self, placement: Placement, *, keep: bool = False, pace: Pace | None = None):
        self.placement, self.keep = placement, keep
        self.system: PimSystem = placement.system
        self.architecture: Architecture = placement.architecture
        self.pace = pace or Pace(self.system.dram)
        self._durations: dict[tuple[Function, int, int], int] = {}
        self._interned: WeakValueDictionary[tuple[Order, ...], Phase] = WeakValueDictionary()
        self._phases: dict[tuple[str, int], tuple[tuple[int, ...], Phase]] = {}
        self.restart()

    def restart(self) -> None:
        """Back to reset."""
        self.lines = [Timeline(self.pace, keep=self.keep) for _ in range(self.system.channels)]
        self.now = 0

    def keep_from_here(self) -> None:
        """Keeps what channels do from now on."""
        self.keep = True
        for line in self.lines:
            line.keep = True
            line.segments.clear()

    # Orders ----------------------------------------------------------------------------------

    def phase(self, orders: Iterable[tuple[Order, Tag]]) -> Phase:
        """A phase of orders; one of the same orders is the same."""
        plain = tuple(order for order, _ in orders)
        found = self._interned.get(plain)
        if found is None:
            found = self._interned[plain] = Phase(self.pace, plain)
        return found

    def _of(
        self, name: str, channel: int, key: tuple[int, ...], make: Callable[[], Tagged]
    ) -> Phase:
        """A phase of a channel; of each name the last one is kept."""
        known = self._phases.get((name, channel))
        if known is None or known[0] != key:
            known = self._phases[name, channel] = (key, self.phase(make()))
        return known[1]

    def duration(self, function: Function, rows: int, length: int) -> int:
        """Command clocks of a job of the vector units."""
        key = (function, rows, length)
        found = self._durations.get(key)
        if found is None:
            cycles = self.system.vector_cycles(function, rows, length)
            found = self._durations[key] = self.system.commands(cycles)
        return found

    # One step --------------------------------------------------------------------------------

    def load(self, orders: Sequence[Iterable[Order]]) -> list[Offer]:
        """Orders for every channel before the first step, offered at once; what they make."""
        found = []
        for line, given in zip(self.lines, orders, strict=True):
            plain = tuple(given)

            def tags(plain: tuple[Order, ...] = plain) -> Tagged:
                return ((order, pim_orders.NONE) for order in plain)

            phase = Phase(self.pace, plain)
            line.run(phase, 0, 0)
            self.now = max(self.now, line.last + 1)
            found.append(Offer("load", None, phase, 0, 0, tags))
        return found

    def step(self, tokens: int, *, token: int = 0) -> Step:
        """The next token, which begins when the one before it is done.

        Args:
            tokens: tokens in the cache, this one included.
            token: its number in the vocabulary: where its embedding lies.

        Raises:
            InputError: there is no space for so many tokens, or no such number.
        """
        return _Stepper(self, tokens, token).run()

    def runs(self, channel: int) -> np.ndarray:
        """Every command that a channel has had since it is kept, as rows of ``timing.Run``."""
        if not self.keep:
            raise ValueError("keep: must be set before the steps to list their commands")
        return self.lines[channel].runs()


class _Stepper:
    """One step under way."""

    def __init__(self, model: DecodeModel, tokens: int, token: int):
        self.model, self.placement, self.system = model, model.placement, model.system
        arch = model.architecture
        if not 1 <= tokens <= self.placement.context:
            raise InputError(
                f"{arch.name}: tokens: must lie in [1, {self.placement.context}], got {tokens}"
            )
        if not 0 <= token < arch.vocab:
            raise InputError(f"{arch.name}: token: must lie in [0, {arch.vocab - 1}], got {token}")
        self.arch, self.tokens, self.token = arch, tokens, token
        self.found = Step(tokens=tokens, begin=model.now)
        if model.keep:
            self.found.offers = [[] for _ in model.lines]
        self.before = [
            (line.activates, line.precharges, line.refreshes, line.bank_activates)
            for line in model.lines
        ]
        # When the vector that flows through the layers is there.
        self.ready = model.now
        self.vector_free = model.now
        # When the channels had done the last product.
        self.last_products = model.now

    def run(self) -> Step:
        shared, starts = self.placement.shared, self.placement.starts
        self._embed()
        for layer in range(self.arch.layers):
            self._layer(layer)
        final, head = shared["final_parameters"], shared["lm_head"]
        assert isinstance(final, Parameters)  # noqa: S101  (placed so)
        assert isinstance(head, Matrix)  # noqa: S101  (placed so)
        parameters = self._parameters(final, starts["final_parameters"], None, 0)
        self._norm(None, parameters)
        self._product(head, starts["lm_head"], None, 0)
        return self._finished()

    def _finished(self) -> Step:
        found, model = self.found, self.model
        found.end = model.now = self.ready
        for line, before in zip(model.lines, self.before, strict=True):
            found.activates += line.activates - before[0]
            found.precharges += line.precharges - before[1]
            found.refreshes += line.refreshes - before[2]
            found.bank_activates += line.bank_activates - before[3]
        found.events.sort(key=lambda event: (event.start, event.end))
        return found

    # Channels --------------------------------------------------------------------------------

    def _offer(
        self,
        name: str,
        layer: int | None,
        offered: int | Sequence[int],
        base: int,
        key: tuple[int, ...],
        make: Callable[[int], Tagged],
    ) -> list[int]:
        """Orders for every channel; by channel when its last data have come, 0 for none."""
        model, found = self.model, self.found
        done: dict[tuple[object, ...], Timeline] = {}
        ends = []
        for channel, line in enumerate(model.lines):

            def orders(channel: int = channel) -> Tagged:
                return make(channel)

            phase = model._of(name, channel, key, orders)
            if not phase.orders:
                ends.append(0)
                continue
            at = offered if isinstance(offered, int) else offered[channel]
            if model.keep:
                found.offers[channel].append(Offer(name, layer, phase, base, at, orders))
            found.column_commands += phase.column_commands
            found.bank_columns += phase.bank_columns
            found.words_in += phase.words_in
            found.words_out += phase.words_out
            line.given = 0
            # Channels in one state do the same: once is enough.
            same = (id(phase.known), line.state, at)
            twin = done.get(same)
            if twin is None:
                twin = done[same] = Timeline(model.pace, keep=model.keep, state=line.state)
                twin.await_offer(at)
                waited = (id(phase.known), twin.state)
                ran = done.get(waited)
                if ran is None:
                    ran = Timeline(model.pace, keep=model.keep, state=twin.state)
                    ran.run(phase, base, at)
                    done[waited] = ran
                twin.follow(ran)
            line.follow(twin, phase)
            ends.append(twin.given)
        return ends

    def _arrived(self, ends: Sequence[int]) -> int:
        """When the last of some data is at the vector units."""
        return max(ends) + 1 + self.system.link_cycles

    # Vector units ----------------------------------------------------------------------------

    def _vector(
        self,
        name: str,
        layer: int | None,
        jobs: Iterable[tuple[Function, int, int]],
        start: int,
    ) -> int:
        """Jobs one after another; when the last is done."""
        end = start = max(start, self.vector_free)
        for function, rows, length in jobs:
            end += self.model.duration(function, rows, length)
        if end > start:
            self.found.events.append(Event(name, layer, "vector", start, end))
        self.vector_free = end
        return end

    def _sum(self, matrix: Matrix, layer: int | None, start: int) -> int:
        """Partial sums, if there is more than one."""
        if matrix.partials == 1:
            return start
        return self._vector("partial sums", layer, [("reduce", matrix.partials, matrix.n)], start)

    # Operators -------------------------------------------------------------------------------

    def _embed(self) -> None:
        shared, starts = self.placement.shared, self.placement.starts
        start = self.ready
        head, positions = shared["lm_head"], shared["positions"]
        table = shared.get("embedding")
        assert isinstance(head, Matrix)  # noqa: S101  (placed so)
        assert isinstance(positions, Vectors)  # noqa: S101  (placed so)
        position = self.tokens - 1

        def orders(channel: int) -> Tagged:
            if isinstance(table, Vectors):
                row = starts["embedding"]
                yield from pim_orders.read_vector(table, channel, row, self.token)
            else:
                yield from pim_orders.read_row(head, channel, starts["lm_head"], self.token)
            yield from pim_orders.read_vector(positions, channel, starts["positions"], position)

        ends = self._offer("embedding", None, start, 0, (self.token, position), orders)
        there = self._arrived(ends)
        self._channels("embedding", None, start, there)
        self.ready = self._vector("residual", None, [("add", 1, self.arch.hidden)], there)

    def _channels(
        self, name: str, layer: int | None, start: int, end: int, *, hidden: bool = False
    ) -> None:
        self.found.events.append(Event(name, layer, "channels", start, end, hidden))

    def _parameters(self, region: Parameters, row: int, layer: int | None, base: int) -> int:
        """Reads what norms and biases need, as soon as channels are free; when it is there."""

        def orders(channel: int) -> Tagged:
            return pim_orders.read_parameters(region, channel, row)

        start = self.last_products
        ends = self._offer(region.name, layer, start, base, (), orders)
        there = self._arrived(ends)
        self._channels("parameters", layer, start, there, hidden=True)
        return there

    def _norm(self, layer: int | None, parameters: int = 0) -> None:
        """A norm; parameters that come late delay it."""
        if parameters > self.ready:
            self._channels("parameters", layer, self.ready, parameters)
        start = max(self.ready, parameters)
        self.ready = self._vector("norm", layer, [("layer_norm", 1, self.arch.hidden)], start)

    def _product(self, matrix: Matrix, row: int, layer: int | None, base: int) -> None:
        """A matrix times the vector at hand, its partial sums added up."""

        def orders(channel: int) -> Tagged:
            return pim_orders.multiply(matrix, channel, row)

        offered = self.ready + self.system.link_cycles
        ends = self._offer(matrix.name, layer, offered, base, (), orders)
        there = self._arrived(ends)
        self._channels(matrix.name, layer, self.ready, there)
        self.last_products = there - self.system.link_cycles
        self.ready = self._sum(matrix, layer, there)

    def _layer(self, layer: int) -> None:
        placement, arch, starts = self.placement, self.arch, self.placement.starts
        base = placement.layer_base(layer)
        regions = placement.layer
        parameters = regions["parameters"]
        assert isinstance(parameters, Parameters)  # noqa: S101  (placed so)

        def matrix(name: str) -> None:
            region = regions[name]
            assert isinstance(region, Matrix)  # noqa: S101  (placed so)
            self._product(region, starts[name], layer, base)

        self._norm(layer, self._parameters(parameters, starts["parameters"], layer, base))
        matrix("qkv")
        self._attention(layer, base)
        matrix("o")
        self.ready = self._vector("residual", layer, [("add", 1, arch.hidden)], self.ready)
        self._norm(layer)
        matrix("up")
        function: Function = ACTIVATIONS[arch.activation]
        width = arch.layer_groups[0].mlp.width
        self.ready = self._vector("activation", layer, [(function, 1, width)], self.ready)
        matrix("down")
        self.ready = self._vector("residual", layer, [("add", 1, arch.hidden)], self.ready)

    def _attention(self, layer: int, base: int) -> None:
        placement, starts, link = self.placement, self.placement.starts, self.system.link_cycles
        keys, values = placement.layer["keys"], placement.layer["values"]
        assert isinstance(keys, Keys)  # noqa: S101  (placed so)
        assert isinstance(values, Values)  # noqa: S101  (placed so)
        tokens, token = self.tokens, self.tokens - 1
        key_row, value_row = starts["keys"], starts["values"]
        start = self.ready
        offered = start + link

        def new_key(channel: int) -> Tagged:
            return pim_orders.write_key(keys, channel, key_row, token)

        def scores(channel: int) -> Tagged:
            return pim_orders.score(keys, channel, key_row, tokens)

        self._offer("key", layer, offered, base, (token,), new_key)
        groups = -(-tokens // self.system.banks)
        there = self._arrived(self._offer("scores", layer, offered, base, (groups,), scores))
        self._channels("scores", layer, start, there)

        # Values go into columns that hold those of tokens before: read, complete, write back.
        block, lane = divmod(token, self.system.step)

        def old(channel: int) -> Tagged:
            return pim_orders.read_values(values, channel, value_row, token)

        def new(channel: int) -> Tagged:
            return pim_orders.write_values(values, channel, value_row, token)

        ends = self._offer("values read", layer, offered, base, (block, int(lane > 0)), old)
        back = [max(offered, end + 1 + 2 * link if end else 0) for end in ends]
        self._offer("values written", layer, back, base, (block,), new)
        free = there - link
        busy = max(line.state.now for line in self.model.lines)
        self._channels("values", layer, free, max(free, busy), hidden=True)

        heads = self.arch.heads
        self.ready = self._vector("softmax", layer, [("softmax", heads, tokens)], there)

        def attend(channel: int) -> Tagged:
            return pim_orders.attend(values, channel, value_row, tokens)

        start = self.ready
        blocks = -(-tokens // self.system.step)
        ends = self._offer("attend", layer, start + link, base, (blocks,), attend)
        self.ready = self._arrived(ends)
        self._channels("attend", layer, start, self.ready)


def best_splits(arch: Architecture, system: PimSystem, pace: Pace | None = None) -> dict[str, int]:
    """For each matrix how many channels share its K: what takes the least cycles alone.

    Every number that divides the channels is tried on the schedule of the channel with the most
    work, with the sum of what comes back.
    """
    found: dict[str, int] = {}
    plain = place_matrices(arch, system, {})
    pace = pace or Pace(system.dram)
    for name, first in plain.items():
        best: tuple[int, int] | None = None
        for split in range(1, system.channels + 1):
            if system.channels % split or split > first.steps:
                continue
            matrix = Matrix(
                system=system, name=name, n=first.n, k=first.k, split=split, bias=first.bias
            )
            most = max(range(system.channels), key=matrix.columns)
            line = Timeline(pace)
            line.run(Phase(pace, [order for order, _ in pim_orders.multiply(matrix, most, 0)]))
            worst = line.given
            if matrix.partials > 1:
                sums = system.vector_cycles("reduce", matrix.partials, matrix.n)
                worst += system.commands(sums)
            if best is None or worst < best[0]:
                best = (worst, split)
        assert best is not None  # noqa: S101  (a split of 1 is always there)
        found[name] = best[1]
    return found


def place_matrices(
    arch: Architecture, system: PimSystem, splits: dict[str, int]
) -> dict[str, Matrix]:
    """The matrices of a placed model by name."""
    placed = place(arch, system, splits=splits)
    regions = {**placed.layer, **placed.shared}
    return {name: item for name, item in regions.items() if isinstance(item, Matrix)}


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of a step.

    Attributes:
        ports: on the channels' ports. weights, cache: what a processor reads that has neither
            weights nor cache on chip: each weight once, keys and values of every token.
    """

    ports: int
    weights: int
    cache: int

    @property
    def ratio(self) -> float:
        """The processor's bytes over those of the ports."""
        return (self.weights + self.cache) / self.ports


def traffic(placement: Placement, step: Step) -> Traffic:
    """Bytes of a step, and of a processor of the same widths."""
    system, arch = placement.system, placement.architecture
    bits = system.dram.geometry.column_bits
    matrices = [item for item in placement.layer.values() if isinstance(item, Matrix)]
    head = placement.shared["lm_head"]
    assert isinstance(head, Matrix)  # noqa: S101  (placed so)
    elements = arch.layers * sum(item.n * item.k for item in matrices) + head.n * head.k
    vectors = arch.layers * _elements(placement.layer) + _elements(placement.shared)
    weights = elements * system.weight_bits // 8 + vectors * 2 + 2 * 2 * arch.hidden
    cache = 2 * step.tokens * arch.layers * arch.q_width * system.weight_bits // 8
    words = step.words_in + step.words_out
    return Traffic(ports=words * bits // 8, weights=weights, cache=cache)


def _elements(regions: dict[str, Region]) -> int:
    return sum(item.elements for item in regions.values() if isinstance(item, Parameters))
