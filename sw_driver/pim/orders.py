"""Orders of a decode step, operator by operator and channel by channel.

Every order comes with a tag that says what it carries: which slice of a vector goes to the buffer,
whose bias, which output of which partial sum is read. A timing model ignores the tags; whoever runs
the orders fills the data in by them and knows what comes back. Rows count from the first row of
whatever the region belongs to, a layer or the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hw.blocks.pim_channel.orders import Op, Order
from sw_driver.pim.placement import Batch, Keys, Matrix, Parameters, Values, Vectors


class Tag(NamedTuple):
    """What an order carries; the meaning of the numbers is the kind's.

    - ``x``, ``row``: first step, steps. ``bias``, ``attended``: group. ``out``: group, partial sum.
    - ``query``, ``key``: first head, heads. ``score``: head, slot. ``value``: group, bank.
    - ``weights``: first head, heads, first block, blocks. ``read``: first column, columns.
    - ``embedding``, ``positions``: none.
    """

    kind: str
    numbers: tuple[int, ...] = ()


NONE = Tag("none")

Tagged = Iterator[tuple[Order, Tag]]


def _chunks(items: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    for first in range(0, len(items), most):
        yield items[first : first + most]


def multiply(matrix: Matrix, channel: int, row: int) -> Tagged:
    """``W·x``: a tile of x to the buffer, then the channel's groups, an accumulator each."""
    system = matrix.system
    columns, words = system.dram.geometry.columns, system.step_words
    groups = matrix.groups(channel)
    if not groups:
        return
    before = sum(len(matrix.tiles(other)) for other in range(channel % matrix.split))
    for number, tile in enumerate(matrix.tiles(channel)):
        carried = Tag("x", (tile.first, tile.steps))
        yield Order(Op.WRITE_BUFFER, length=tile.steps * words), carried
        biased = matrix.bias and before + number == 0
        for batch in _chunks(groups, system.dram.unit.accumulators):
            if biased:
                for index, group in enumerate(batch):
                    yield Order(Op.WRITE_BIAS, accumulator=index), Tag("bias", (group,))
            for index, group in enumerate(batch):
                place = tile.base + (group - groups.start) * tile.steps
                at, column = divmod(place, columns)
                yield (
                    Order(
                        Op.MAC_ALL,
                        row=row + at,
                        column=column,
                        length=tile.steps,
                        accumulator=index,
                        keep=int(biased),
                    ),
                    NONE,
                )
            for index, group in enumerate(batch):
                yield Order(Op.READ_MAC, accumulator=index), Tag("out", (group, before + number))


def write_key(keys: Keys, channel: int, row: int, token: int) -> Tagged:
    """A token's keys, all heads behind one another; nothing in channels that are not its own."""
    owner, bank, slot = keys.owner(token)
    if owner != channel:
        return
    columns = keys.system.dram.geometry.columns
    for number, heads in enumerate(keys.tile_heads):
        at, column = divmod(keys.base(number, slot), columns)
        length = len(heads) * keys.head_steps
        tag = Tag("key", (heads.start, len(heads)))
        yield Order(Op.WRITE, bank, row + at, column, length), tag


def score(keys: Keys, channel: int, row: int, tokens: int) -> Tagged:
    """``q·K`` of every head with the channel's tokens, a token a bank at a time."""
    system = keys.system
    columns, words, steps = system.dram.geometry.columns, system.step_words, keys.head_steps
    used = keys.used(channel, tokens)
    if not used:
        return
    for number, heads in enumerate(keys.tile_heads):
        length = len(heads) * steps * words
        yield Order(Op.WRITE_BUFFER, length=length), Tag("query", (heads.start, len(heads)))
        for slot in range(used):
            for batch in _chunks(heads, system.dram.unit.accumulators):
                for index, head in enumerate(batch):
                    offset = (head - heads.start) * steps
                    at, column = divmod(keys.base(number, slot) + offset, columns)
                    order = Order(
                        Op.MAC_ALL,
                        row=row + at,
                        column=column,
                        length=steps,
                        word=offset * words,
                        accumulator=index,
                    )
                    yield order, NONE
                for index, head in enumerate(batch):
                    yield Order(Op.READ_MAC, accumulator=index), Tag("score", (head, slot))


def _opened(values: Values, batch: Batch, row: int, block: int) -> Order:
    """Opens a batch's row of a block in every bank at once; the product is of no use."""
    at, column = values.column(batch, batch.groups[0], block)
    return Order(Op.MAC_ALL, row=row + at, column=column)


def _every_value(
    values: Values, batch: Batch, row: int, block: int, op: Op
) -> Iterator[tuple[Order, Tag]]:
    for bank in range(values.system.banks):
        for group in batch.groups:
            offset = group % values.head_groups
            if offset * values.system.banks + bank >= values.head_dim:
                continue
            at, column = values.column(batch, group, block)
            yield Order(op, bank, row + at, column), Tag("value", (group, bank))


def read_values(values: Values, channel: int, row: int, token: int) -> Tagged:
    """The columns that a token's values go into: tokens before it are there already.

    The first token of a column finds nothing to keep, and reads nothing.
    """
    block, lane = divmod(token, values.system.step)
    for batch in values.batches(channel):
        yield _opened(values, batch, row, block), NONE
        if lane:
            yield from _every_value(values, batch, row, block, Op.READ)


def write_values(values: Values, channel: int, row: int, token: int) -> Tagged:
    """The same columns with the token's values in them."""
    block = token // values.system.step
    batches = values.batches(channel)
    for batch in batches:
        if len(batches) > 1:
            yield _opened(values, batch, row, block), NONE
        yield from _every_value(values, batch, row, block, Op.WRITE)


def attend(values: Values, channel: int, row: int, tokens: int) -> Tagged:
    """``Σ p·V`` of the channel's groups; ``p`` comes for as many rows as the buffer holds."""
    system = values.system
    words, most = system.step_words, system.most_steps
    blocks = -(-tokens // system.step)
    for batch in values.batches(channel):
        rows = -(-blocks // batch.blocks)
        each = max(1, most // (len(batch.heads) * batch.blocks))
        for first in range(0, rows, each):
            begin = first * batch.blocks
            count = min((first + each) * batch.blocks, blocks) - begin
            tag = Tag("weights", (batch.heads.start, len(batch.heads), begin, count))
            yield Order(Op.WRITE_BUFFER, length=len(batch.heads) * count * words), tag
            for number in range(first, min(first + each, rows)):
                block = number * batch.blocks
                length = min(batch.blocks, blocks - block)
                for index, group in enumerate(batch.groups):
                    at, column = values.column(batch, group, block)
                    head = group // values.head_groups - batch.heads.start
                    order = Order(
                        Op.MAC_ALL,
                        row=row + at,
                        column=column,
                        length=length,
                        word=(head * count + block - begin) * words,
                        accumulator=index,
                        keep=int(number > 0),
                    )
                    yield order, NONE
        for index, group in enumerate(batch.groups):
            yield Order(Op.READ_MAC, accumulator=index), Tag("attended", (group,))


def read_row(matrix: Matrix, channel: int, row: int, output: int) -> Tagged:
    """A row of a matrix: an embedding that is tied to the head."""
    group, bank = divmod(output, matrix.system.banks)
    groups = matrix.groups(channel)
    if group not in groups:
        return
    for tile in matrix.tiles(channel):
        place = tile.base + (group - groups.start) * tile.steps
        at, column = divmod(place, matrix.system.dram.geometry.columns)
        tag = Tag("row", (tile.first, tile.steps))
        yield Order(Op.READ, bank, row + at, column, tile.steps), tag


def read_vector(vectors: Vectors, channel: int, row: int, index: int) -> Tagged:
    """One of the vectors of a table; its tag is of the table's name."""
    owner, bank, slot = vectors.owner(index)
    if owner != channel:
        return
    at, column = divmod(slot * vectors.length, vectors.system.dram.geometry.columns)
    yield Order(Op.READ, bank, row + at, column, vectors.length), Tag(vectors.name)


def read_parameters(parameters: Parameters, channel: int, row: int) -> Tagged:
    """A channel's share of biases and of norms."""
    length = parameters.columns(channel)
    if length:
        tag = Tag("read", (parameters.first(channel), length))
        yield Order(Op.READ, 0, row, 0, length), tag
