"""Where a model lies in the banks of a PIM system: PIM-GPT's mapping as an explicit table.

Every region takes the same rows of every bank of every channel, so that one command opens it in all
of them; what lies there differs from bank to bank. Rows of a layer follow one another, and the
layers, and then what all layers share.

- **Matrices** ``W[n, k]``: outputs are dealt to banks in groups of one each; groups to channels in
  runs. ``split`` channels share a run, each with a part of K. A channel's K is cut in tiles of what
  the global buffer holds; a tile's groups follow one another through the columns of the row and on
  into the next, so that no column of a row stays empty.
- **Keys** are row-major: a token's keys lie in one bank, its heads one behind the other (in tiles
  of what the buffer holds of a query). Tokens are dealt to banks, then to channels.
- **Values** are column-major: a bank holds output ``d`` of a head for all tokens, a step's worth of
  tokens in a column. The groups that a channel's accumulators take at once share each row, each
  with as many columns as fit, so that heads of one channel fill the rows together.
- **Vectors** (embeddings where they are no matrix, positions, biases, parameters of norms) have
  16 bits an element and lie in one bank each.

Source: PIM-GPT (arXiv 2310.09385), section IV: heads concatenated to fill rows, K row-major and V
column-major with space reserved for the context, matrices over channels and banks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from hw.blocks.vector_unit.spec import Function
from rtl_gen.errors import InputError
from sw_driver.architecture import Architecture
from sw_driver.pim.system import PimSystem

ACTIVATIONS: dict[str, Function] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
"""Functions of a ``config.json`` by name, as the vector unit calls them."""


def share(count: int, parts: int, index: int) -> range:
    """The ``index``-th of ``parts`` runs that share ``count`` things as evenly as they can."""
    return range(count * index // parts, count * (index + 1) // parts)


class Cell(NamedTuple):
    """An element's place. ``row`` counts from its region's first."""

    channel: int
    bank: int
    row: int
    column: int
    lane: int


class Tile(NamedTuple):
    """Part of a channel's K: ``steps`` from its ``first`` on, in columns from ``base`` on."""

    first: int
    steps: int
    base: int


@dataclass(frozen=True, kw_only=True)
class Region:
    """Something that lies in the same rows of every bank.

    Attributes:
        system: where. name: what.
    """

    system: PimSystem
    name: str

    def columns(self, channel: int) -> int:
        """Columns of each bank of a channel that are used or reserved."""
        raise NotImplementedError

    @cached_property
    def rows(self) -> int:
        """Rows of every bank."""
        most = max(map(self.columns, range(self.system.channels)))
        return -(-most // self.system.dram.geometry.columns)

    def cell(self, channel: int, bank: int, place: int, lane: int = 0) -> Cell:
        """The cell at a column counted through the rows."""
        row, column = divmod(place, self.system.dram.geometry.columns)
        return Cell(channel, bank, row, column, lane)

    def contents(self, channel: int, bank: int) -> str:
        """What a bank holds of it."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Matrix(Region):
    """``W[n, k]``; see the module.

    Attributes:
        split: channels that share a run of outputs, each with a part of K.
        bias: whether accumulators are preloaded.
    """

    n: int
    k: int
    split: int = 1
    bias: bool = True

    @property
    def steps(self) -> int:
        """Steps of the whole K."""
        return -(-self.k // self.system.step)

    @cached_property
    def partials(self) -> int:
        """Partial sums of an output."""
        return sum(len(self.tiles(channel)) for channel in range(self.split))

    def groups(self, channel: int) -> range:
        """Groups of one output a bank that a channel has."""
        banks = self.system.banks
        return share(-(-self.n // banks), self.system.channels // self.split, channel // self.split)

    def part(self, channel: int) -> range:
        """Steps of K that a channel has."""
        return share(self.steps, self.split, channel % self.split)

    def tiles(self, channel: int) -> tuple[Tile, ...]:
        """What of K is in the buffer at a time."""
        part, most = self.part(channel), self.system.most_steps
        groups, found, base = len(self.groups(channel)), [], 0
        for first in range(part.start, part.stop, most):
            steps = min(most, part.stop - first)
            found.append(Tile(first, steps, base))
            base += steps * groups
        return tuple(found)

    def columns(self, channel: int) -> int:
        return len(self.groups(channel)) * len(self.part(channel))

    def owner(self, output: int, step: int) -> int:
        """The channel that has an output's step of K."""
        banks, runs = self.system.banks, self.system.channels // self.split
        group, groups = output // banks, -(-self.n // banks)
        # The inverse of share(): the last run that begins at or before it.
        first = ((group + 1) * runs - 1) // groups
        second = ((step + 1) * self.split - 1) // self.steps
        return first * self.split + second

    def locate(self, output: int, k: int) -> Cell:
        """The cell of ``W[output, k]``."""
        step, lane = divmod(k, self.system.step)
        channel = self.owner(output, step)
        group, bank = divmod(output, self.system.banks)
        local = group - self.groups(channel).start
        for tile in self.tiles(channel):
            if tile.first <= step < tile.first + tile.steps:
                place = tile.base + local * tile.steps + step - tile.first
                return self.cell(channel, bank, place, lane)
        raise ValueError(f"{self.name}: no step {step}")

    def contents(self, channel: int, bank: int) -> str:
        groups, part, banks = self.groups(channel), self.part(channel), self.system.banks
        first, last = groups.start * banks + bank, (groups.stop - 1) * banks + bank
        last -= banks * (last >= self.n)
        if not groups or not part or first > last:
            return "nothing"
        k = f"K {part.start * self.system.step} to {min(self.k, part.stop * self.system.step) - 1}"
        return f"outputs {first} to {last} by {banks}, {k}"


@dataclass(frozen=True, kw_only=True)
class Keys(Region):
    """Keys of a layer, row-major."""

    heads: int
    head_dim: int
    context: int

    @property
    def head_steps(self) -> int:
        return -(-self.head_dim // self.system.step)

    @cached_property
    def tile_heads(self) -> tuple[range, ...]:
        """Heads whose queries are in the buffer at a time."""
        most = self.system.most_steps // self.head_steps
        return tuple(
            range(first, min(first + most, self.heads)) for first in range(0, self.heads, most)
        )

    @property
    def slots(self) -> int:
        """Tokens of a bank."""
        return -(-self.context // (self.system.banks * self.system.channels))

    def owner(self, token: int) -> tuple[int, int, int]:
        """Channel, bank and slot of a token."""
        group, bank = divmod(token, self.system.banks)
        slot, channel = divmod(group, self.system.channels)
        return channel, bank, slot

    def used(self, channel: int, tokens: int) -> int:
        """Slots of a channel that hold one of the first ``tokens``."""
        groups = -(-tokens // self.system.banks)
        return max(0, -(-(groups - channel) // self.system.channels))

    def base(self, tile: int, slot: int) -> int:
        """The column of a slot in a tile, counted through the rows."""
        before = sum(len(heads) for heads in self.tile_heads[:tile])
        width = len(self.tile_heads[tile])
        return (before * self.slots + slot * width) * self.head_steps

    def columns(self, channel: int) -> int:
        return self.slots * self.heads * self.head_steps

    def locate(self, token: int, head: int, d: int) -> Cell:
        """The cell of element ``d`` of a token's key."""
        channel, bank, slot = self.owner(token)
        tile = next(i for i, heads in enumerate(self.tile_heads) if head in heads)
        step, lane = divmod(d, self.system.step)
        place = self.base(tile, slot)
        place += (head - self.tile_heads[tile].start) * self.head_steps + step
        return self.cell(channel, bank, place, lane)

    def contents(self, channel: int, bank: int) -> str:
        first = channel * self.system.banks + bank
        if first >= self.context:
            return "nothing"
        apart = self.system.banks * self.system.channels
        last = first + (self.context - 1 - first) // apart * apart
        return f"keys of tokens {first} to {last} by {apart}, {self.heads} heads each"


class Batch(NamedTuple):
    """Groups of values that share rows.

    Attributes:
        groups: of one output a bank, counted through the heads; heads: that they belong to.
        blocks: columns that each group has in a row.
        base: first row.
    """

    groups: range
    heads: range
    blocks: int
    base: int


@dataclass(frozen=True, kw_only=True)
class Values(Region):
    """Values of a layer, column-major."""

    heads: int
    head_dim: int
    context: int

    @property
    def head_groups(self) -> int:
        """Groups of one output a bank that a head has."""
        return -(-self.head_dim // self.system.banks)

    @property
    def blocks(self) -> int:
        """Columns of an output: a step's worth of tokens each."""
        return -(-self.context // self.system.step)

    def batches(self, channel: int) -> tuple[Batch, ...]:
        """What a channel's accumulators take at a time."""
        cached = self.__dict__.setdefault("_batches", {})
        if channel not in cached:
            cached[channel] = self._batches_of(channel)
        found: tuple[Batch, ...] = cached[channel]
        return found

    def _batches_of(self, channel: int) -> tuple[Batch, ...]:
        system = self.system
        groups = share(self.heads * self.head_groups, system.channels, channel)
        most = min(system.dram.unit.accumulators, system.dram.geometry.columns)
        found, base = [], 0
        for first in range(groups.start, groups.stop, most):
            mine = range(first, min(first + most, groups.stop))
            heads = range(mine[0] // self.head_groups, mine[-1] // self.head_groups + 1)
            if len(heads) > system.most_steps:
                raise InputError(
                    f"{system.name}: channel.buffer_words: must hold a word of each of "
                    f"{len(heads)} heads, holds {system.dram.buffer_words}"
                )
            blocks = min(
                system.dram.geometry.columns // len(mine),
                system.most_steps // len(heads),
                self.blocks,
            )
            found.append(Batch(mine, heads, blocks, base))
            base += -(-self.blocks // blocks)
        return tuple(found)

    def columns(self, channel: int) -> int:
        batches = self.batches(channel)
        rows = sum(-(-self.blocks // batch.blocks) for batch in batches)
        return rows * self.system.dram.geometry.columns

    def column(self, batch: Batch, group: int, block: int) -> tuple[int, int]:
        """Row and column of a group's block."""
        row, index = divmod(block, batch.blocks)
        return batch.base + row, (group - batch.groups.start) * batch.blocks + index

    def locate(self, token: int, head: int, d: int) -> Cell:
        """The cell of element ``d`` of a token's value."""
        offset, bank = divmod(d, self.system.banks)
        group = head * self.head_groups + offset
        runs, groups = self.system.channels, self.heads * self.head_groups
        channel = ((group + 1) * runs - 1) // groups
        block, lane = divmod(token, self.system.step)
        for batch in self.batches(channel):
            if group in batch.groups:
                row, column = self.column(batch, group, block)
                return Cell(channel, bank, row, column, lane)
        raise ValueError(f"{self.name}: no group {group}")

    def contents(self, channel: int, bank: int) -> str:
        batches = self.batches(channel)
        if not batches:
            return "nothing"
        first, last = batches[0].groups[0], batches[-1].groups[-1]
        names = [
            f"head {group // self.head_groups} d "
            f"{group % self.head_groups * self.system.banks + bank}"
            for group in (first, last)
        ]
        return f"values of {names[0]} to {names[1]}, {self.context} tokens each"


@dataclass(frozen=True, kw_only=True)
class Vectors(Region):
    """``count`` vectors of 16-bit elements, each in one bank of one channel."""

    count: int
    width: int

    @property
    def length(self) -> int:
        """Columns of a vector."""
        return -(-self.width // self.system.vector_column)

    def owner(self, index: int) -> tuple[int, int, int]:
        """Channel, bank and slot."""
        rest, channel = divmod(index, self.system.channels)
        slot, bank = divmod(rest, self.system.banks)
        return channel, bank, slot

    def columns(self, channel: int) -> int:
        apart = self.system.channels * self.system.banks
        return -(-self.count // apart) * self.length

    def locate(self, index: int, element: int) -> Cell:
        """The cell of an element of a vector."""
        channel, bank, slot = self.owner(index)
        step, lane = divmod(element, self.system.vector_column)
        return self.cell(channel, bank, slot * self.length + step, lane)

    def contents(self, channel: int, bank: int) -> str:
        first = bank * self.system.channels + channel
        if first >= self.count:
            return "nothing"
        apart = self.system.channels * self.system.banks
        last = first + (self.count - 1 - first) // apart * apart
        return f"vectors {first} to {last} by {apart}"


@dataclass(frozen=True, kw_only=True)
class Parameters(Region):
    """A layer's biases and parameters of norms: 16 bits each, a share in bank 0 of each channel."""

    elements: int

    def columns(self, channel: int) -> int:
        """Columns of bank 0; the others' stay empty."""
        return len(self._share(channel))

    def first(self, channel: int) -> int:
        """A channel's first column of all of them."""
        return self._share(channel).start

    def _share(self, channel: int) -> range:
        total = -(-self.elements // self.system.vector_column)
        return share(total, self.system.channels, channel)

    def contents(self, channel: int, bank: int) -> str:
        return "nothing" if bank else f"{self.columns(channel)} columns of biases and of norms"


@dataclass(frozen=True, kw_only=True)
class Block:
    """A line of the table: what a bank holds in some rows."""

    region: str
    layer: int | None
    channel: int
    bank: int
    first_row: int
    rows: int
    contents: str


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A model in a system.

    Attributes:
        context: tokens that space is reserved for.
        layer: regions of a layer by name; shared: regions of the whole model.
        starts: first row of each region, of a layer's from the layer's own first row.
    """

    system: PimSystem
    architecture: Architecture
    context: int
    layer: dict[str, Region]
    shared: dict[str, Region]
    starts: dict[str, int]

    @property
    def layer_rows(self) -> int:
        """Rows that a layer takes in every bank."""
        return sum(region.rows for region in self.layer.values())

    @property
    def rows(self) -> int:
        """Rows that everything takes in every bank."""
        shared = sum(region.rows for region in self.shared.values())
        return self.architecture.layers * self.layer_rows + shared

    def layer_base(self, layer: int) -> int:
        """First row of a layer."""
        return layer * self.layer_rows

    def extents(self) -> Iterator[tuple[str, int | None, Region, int]]:
        """Name, layer, region and first row of everything."""
        for layer in range(self.architecture.layers):
            base = self.layer_base(layer)
            for name, region in self.layer.items():
                yield name, layer, region, base + self.starts[name]
        for name, region in self.shared.items():
            yield name, None, region, self.starts[name]

    def blocks(self) -> Iterator[Block]:
        """The table: every region of every bank of every channel."""
        for name, layer, region, first in self.extents():
            for channel in range(self.system.channels):
                for bank in range(self.system.banks):
                    yield Block(
                        region=name,
                        layer=layer,
                        channel=channel,
                        bank=bank,
                        first_row=first,
                        rows=region.rows,
                        contents=region.contents(channel, bank),
                    )

    def check(self) -> None:
        """That no two regions meet and all lie within the banks.

        Raises:
            InputError: the model is larger than the memory, with the numbers.
            ValueError: two regions overlap: the placement is wrong.
        """
        system = self.system
        have = system.dram.geometry.rows
        if self.rows > have:
            arch, used = self.architecture, self.rows * system.capacity // have
            raise InputError(
                f"{arch.name}: must fit into {system.name}: needs {self.rows} rows of every bank, "
                f"{used / 1e9:.3f} GB with {self.context} tokens of context, has {have} rows, "
                f"{system.capacity / 1e9:.3f} GB"
            )
        end, before = 0, ""
        extents = [(start, name, region) for name, _, region, start in self.extents()]
        for start, name, region in sorted(extents, key=lambda item: item[0]):
            if start < end:
                raise ValueError(f"{name} begins in row {start}, {before} ends in row {end - 1}")
            end, before = start + region.rows, name
        if end > have:
            raise ValueError(f"{before} ends in row {end - 1} of {have}")


def unsupported(arch: Architecture, system: PimSystem) -> list[str]:
    """Why a model cannot be done by these units; empty if it can."""
    found = []
    if not arch.causal or not arch.head:
        found.append("must be a decoder with a head")
    groups = arch.layer_groups
    if any(group.window is not None for group in groups):
        found.append("sliding windows are not mapped")
    if arch.latent is not None:
        found.append("keys and values must be stored, not latents that stand for them")
    if any(group.mlp.experts or group.mlp.gated or group.mlp.shared for group in groups):
        found.append("gated layers and experts need products of vectors, which no unit has")
    if len(groups) != 1:
        found.append("layers must be alike")
    if arch.kv_heads != arch.heads:
        found.append("heads must not share keys")
    if arch.rotary or not arch.positions:
        found.append("positions must be learned vectors")
    if [name for name, _ in arch.norms] != ["input_norm", "post_attention_norm"]:
        found.append("a layer must have two norms")
    if not (arch.norm_bias and arch.norm_weight and arch.final_norm):
        found.append("norms must be layer norms, one behind the last layer")
    if arch.embedding_width not in (0, arch.hidden) or arch.embedding_norm or arch.head_transform:
        found.append("embeddings must be as wide as the layers, and plain")
    function = ACTIVATIONS.get(arch.activation)
    if function is None or function not in system.vector.functions:
        found.append(f"activation {arch.activation}: the vector unit has it not")
    return [f"{arch.name}: {problem}" for problem in found]


def place(
    arch: Architecture,
    system: PimSystem,
    *,
    context: int | None = None,
    splits: dict[str, int] | None = None,
) -> Placement:
    """A model's placement.

    Args:
        context: tokens that space is reserved for; the model's positions if None.
        splits: channels that share K, by matrix; 1 for those that are not named.

    Raises:
        InputError: the model is not one that these units do, or is larger than the memory; the
            context is out of range.
    """
    problems = unsupported(arch, system)
    if context is None:
        context = arch.max_positions
    if not 1 <= context <= arch.max_positions:
        problems.append(
            f"{arch.name}: context: must lie in [1, {arch.max_positions}], got {context}"
        )
    steps = -(-arch.head_dim // system.step)
    if steps > system.most_steps:
        problems.append(
            f"{system.name}: channel.buffer_words: must hold a head of {arch.head_dim} elements, "
            f"holds {system.most_steps * system.step}"
        )
    longest = max(context, arch.hidden)
    if longest > system.vector.max_length:
        problems.append(
            f"{system.name}: vector_unit.max_length: must be at least {longest} for rows of "
            f"{arch.name}, got {system.vector.max_length}"
        )
    if problems:
        raise InputError("\n".join(problems))
    splits, hidden = splits or {}, arch.hidden
    ffn = arch.layer_groups[0].mlp.width

    def matrix(name: str, n: int, k: int) -> Matrix:
        bias = name in arch.biases or (name == "qkv" and "q" in arch.biases)
        return Matrix(system=system, name=name, n=n, k=k, split=splits.get(name, 1), bias=bias)

    sizes = {"heads": arch.heads, "head_dim": arch.head_dim, "context": context}
    qkv = matrix("qkv", 3 * arch.q_width, hidden)
    o, up, down = (
        matrix("o", hidden, arch.q_width),
        matrix("up", ffn, hidden),
        matrix("down", hidden, ffn),
    )
    elements = 4 * hidden + sum(item.n for item in (qkv, o, up, down) if item.bias)
    regions: tuple[Region, ...] = (
        qkv,
        o,
        up,
        down,
        Keys(system=system, name="keys", **sizes),
        Values(system=system, name="values", **sizes),
        Parameters(system=system, name="parameters", elements=elements),
    )
    head = Matrix(
        system=system,
        name="lm_head",
        n=arch.vocab,
        k=hidden,
        split=splits.get("lm_head", 1),
        bias="lm_head" in arch.biases,
    )
    last = 2 * hidden + (arch.vocab if head.bias else 0)
    shared: tuple[Region, ...] = (
        head,
        Vectors(system=system, name="positions", count=arch.positions, width=hidden),
        Parameters(system=system, name="final_parameters", elements=last),
    )
    if not arch.tied:
        shared += (Vectors(system=system, name="embedding", count=arch.vocab, width=hidden),)
    starts, row = {}, 0
    for region in regions:
        starts[region.name] = row
        row += region.rows
    row *= arch.layers
    for region in shared:
        starts[region.name] = row
        row += region.rows
    found = Placement(
        system=system,
        architecture=arch,
        context=context,
        layer={region.name: region for region in regions},
        shared={region.name: region for region in shared},
        starts=starts,
    )
    found.check()
    return found
