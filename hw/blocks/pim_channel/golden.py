"""Reference of a PIM channel: what its memories, buffer and accumulators hold, order by order.

No time here: an order is done as a whole before the next one. What is read has to have been written
in the same work, so that works can follow one another in any state of the DRAM.

- Columns are rows of ``column_bits / 32`` numbers of 32 bits, least significant first.
- A dot product's operands are those of :mod:`hw.blocks.pim_bank.operands`: in pass ``(i, j)`` step
  ``s`` takes the words of the buffer from ``word + (i · length + s) · operand_words`` and column
  ``j · length + s`` behind the order's. Columns go on in the next row.
- ``MULTIPLY`` and ``ADD`` replace words of the buffer: floats rounded to nearest even, any NaN the
  format's positive quiet one; integers saturated, a product divided by ``2^shift``, downwards.
- ``READ_MAC`` gives ``lane_bits`` of every bank, bank 0 first, integers with their sign extended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hw.blocks.pim_bank import golden as unit
from hw.blocks.pim_bank.golden import Accumulators
from hw.blocks.pim_channel import orders
from hw.blocks.pim_channel.orders import DOT, ONE_BANK, WIDTHS, Decoder, Op, Order, Status
from hw.blocks.pim_channel.spec import PimChannelSpec
from hw.lazy import np
from hw.streams import Stream, StreamField, Wire

WORD = 32


@dataclass(frozen=True, kw_only=True)
class ChannelWork:
    """Orders, and the beats of ``i_data`` that they take, ``(beats, column_bits / 32)``."""

    orders: tuple[Order, ...]
    data: np.ndarray


def streams(spec: PimChannelSpec) -> tuple[Stream, ...]:
    """``i_cmd``, ``i_data``, ``o_data``, ``o_status``."""
    words = spec.geometry.column_bits // WORD
    docs = {
        "op": "see hw.blocks.pim_channel.orders.Op",
        "length": "columns, words, or K steps of a dot product",
        "word": "first word of the global buffer",
        "keep": "dot products: 1 to add to the accumulator",
        "function": "ACTIVATE: 0 identity, 1 ReLU, 2 table",
    }
    command = tuple(
        StreamField(name=name, width=width, doc=docs.get(name, ""))
        for name, width in WIDTHS._asdict().items()
    )
    column = StreamField(name="data", width=WORD, shape=(words,), doc="a column")
    status = StreamField(name="status", width=3, doc="see hw.blocks.pim_channel.orders.Status")
    return (
        Stream(name="i_cmd", direction="in", doc="orders", fields=command),
        Stream(name="i_data", direction="in", doc="columns that orders write", fields=(column,)),
        Stream(name="o_data", direction="out", doc="columns that orders read", fields=(column,)),
        Stream(name="o_status", direction="out", doc="a beat an order", fields=(status,)),
    )


def wires(spec: PimChannelSpec) -> tuple[Wire, ...]:
    """The DRAM's port. All outputs are registers; a read's columns come ``nCL`` cycles later."""
    geometry = spec.geometry
    return (
        Wire(name="dram_command", direction="out", width=4, doc="see hw.dram.Command"),
        Wire(name="dram_bank", direction="out", width=_bits(geometry.total_banks), doc="bank"),
        Wire(name="dram_row", direction="out", width=_bits(geometry.rows), doc="of ACT, ACTA"),
        Wire(name="dram_column", direction="out", width=_bits(geometry.columns), doc="column"),
        Wire(name="dram_write", direction="out", width=geometry.column_bits, doc="of writes"),
        Wire(
            name="dram_read",
            direction="in",
            width=geometry.total_banks * geometry.column_bits,
            doc="a column of every bank, bank 0 lowest",
        ),
    )


def _bits(count: int) -> int:
    return max(1, (count - 1).bit_length())


def observed(spec: PimChannelSpec) -> tuple[Stream, ...]:
    """What the bench sees of the DRAM's port: a beat a command, never held back."""
    geometry = spec.geometry
    fields = (
        StreamField(name="command", width=4),
        StreamField(name="bank", width=_bits(geometry.total_banks)),
        StreamField(name="row", width=_bits(geometry.rows)),
        StreamField(name="column", width=_bits(geometry.columns)),
    )
    return (Stream(name="o_trace", direction="out", doc="the DRAM's commands", fields=fields),)


class Machine:
    """The state of a channel, and what orders do to it.

    Attributes:
        cells: columns by bank and place (``row · columns + column``).
        buffer: words of the global buffer by number.
        units: accumulators of every bank.
    """

    def __init__(self, spec: PimChannelSpec):
        self.spec = spec
        self.decoder = Decoder(spec)
        self.banks = range(spec.geometry.total_banks)
        self.cells: list[dict[int, np.ndarray]] = [{} for _ in self.banks]
        self.buffer: dict[int, np.ndarray] = {}
        self.units = [Accumulators(spec.bank) for _ in self.banks]

    def run(self, order: Order, data: Iterator[np.ndarray]) -> tuple[Status, list[np.ndarray]]:
        """An order's status, and the columns that it gives.

        Raises:
            ValueError: it reads what was never written.
        """
        found = self.decoder.status(order)
        if found is not Status.DONE:
            return found, []
        place = order.row * self.spec.geometry.columns + order.column
        op = Op(order.op)
        if op in (Op.WRITE, Op.WRITE_ALL):
            banks = (order.bank,) if op is Op.WRITE else self.banks
            for index in range(order.length):
                beat = next(data)
                for bank in banks:
                    self.cells[bank][place + index] = beat
        elif op is Op.READ:
            return found, [self.cell(order.bank, place + i) for i in range(order.length)]
        elif op is Op.WRITE_BUFFER:
            for index in range(order.length):
                self.buffer[order.word + index] = next(data)
        elif op is Op.WRITE_BIAS:
            beat = next(data)
            for bank, state in enumerate(self.units):
                code = int(beat[bank // 2]) >> (16 * (bank % 2)) & 0xFFFF
                state.bias(order.accumulator, code)
        elif op in DOT:
            for bank in (order.bank,) if op is Op.MAC else self.banks:
                self._dot(order, bank, place)
        elif op is Op.READ_MAC:
            return found, self._accumulators(order.accumulator)
        elif op is Op.ACTIVATE:
            self._activate(order, place)
        elif op in (Op.MULTIPLY, Op.ADD):
            for index in range(order.length):
                left, right = self.word(order.word + index), self.cell(order.bank, place + index)
                self.buffer[order.word + index] = combine(self.spec, op, left, right)
        elif op is Op.COPY_TO_BUFFER:
            for index in range(order.length):
                self.buffer[order.word + index] = self.cell(order.bank, place + index)
        else:
            for index in range(order.length):
                self.cells[order.bank][place + index] = self.word(order.word + index)
        return found, []

    def cell(self, bank: int, place: int) -> np.ndarray:
        """A column. ``ValueError``: nothing has been written there."""
        if place not in self.cells[bank]:
            raise ValueError(f"bank {bank}, column {place}: is read before it is written")
        return self.cells[bank][place]

    def word(self, number: int) -> np.ndarray:
        """A word of the buffer. ``ValueError``: nothing has been written there."""
        if number not in self.buffer:
            raise ValueError(f"buffer word {number}: is read before it is written")
        return self.buffer[number]

    def _dot(self, order: Order, bank: int, place: int) -> None:
        pieces, length = self.spec.bank.operand_words, order.length
        operand, column = [], []
        for i, j in self.spec.bank.passes:
            for s in range(length):
                first = order.word + (i * length + s) * pieces
                operand.append(np.concatenate([self.word(first + p) for p in range(pieces)]))
                column.append(self.cell(bank, place + j * length + s))
        self.units[bank].mac(
            order.accumulator, bool(order.keep), np.stack(operand), np.stack(column)
        )

    def _activate(self, order: Order, place: int) -> None:
        for bank, state in enumerate(self.units):
            table = None
            if order.function == orders.TABLE:
                columns = range(self.decoder.table_columns)
                table = np.stack([self.cell(bank, place + index) for index in columns])
            state.activate(order.accumulator, order.function, table)

    def _accumulators(self, index: int) -> list[np.ndarray]:
        spec = self.spec
        beats = np.zeros(spec.give_beats * spec.geometry.column_bits // WORD, dtype=np.int64)
        lanes = spec.lane_bits // WORD
        for bank, state in enumerate(self.units):
            value = state.read(index)
            for lane in range(lanes):
                beats[bank * lanes + lane] = value >> (WORD * lane) & 0xFFFFFFFF
        return list(beats.reshape(spec.give_beats, -1))


def combine(spec: PimChannelSpec, op: Op, word: np.ndarray, column: np.ndarray) -> np.ndarray:
    """A word of the buffer and a column, element by element."""
    kind = spec.elementwise
    bits = kind.bits
    a, b = (_elements(row, bits) for row in (word, column))
    if kind.form is None:
        a, b = (value - ((value >> bits - 1) << bits) for value in (a, b))
        exact = (a * b) >> kind.shift if op is Op.MULTIPLY else a + b
        half = 1 << (bits - 1)
        return _row(np.clip(exact, -half, half - 1) & ((1 << bits) - 1), bits)
    form = kind.form
    with np.errstate(invalid="ignore"):
        x, y = form.decode(a), form.decode(b)
        # Products of 11 bits are exact in float64; sums are rounded twice, which is innocuous.
        value = x * y if op is Op.MULTIPLY else x + y
    codes = form.encode(np.where(np.isnan(value), 0, value)).astype(np.int64)
    assert form.nan_code is not None  # noqa: S101  (FP16 and BF16 have one)
    return _row(np.where(np.isnan(value), form.nan_code, codes), bits)


def _elements(row: np.ndarray, bits: int) -> np.ndarray:
    return row.astype("<u4").view(f"<u{bits // 8}").astype(np.int64)


def _row(elements: np.ndarray, bits: int) -> np.ndarray:
    return elements.astype(f"<u{bits // 8}").view("<u4").astype(np.int64)


def replay(spec: PimChannelSpec, work: ChannelWork) -> list[tuple[Order, Status, list[np.ndarray]]]:
    """Every order of a work with its status and the columns that it gives."""
    machine, data = Machine(spec), iter(work.data)
    found = [(order, *machine.run(order, data)) for order in work.orders]
    if next(data, None) is not None:
        raise ValueError("data: there are more beats than the orders take")
    return found


def beats(spec: PimChannelSpec, work: ChannelWork) -> dict[str, dict[str, np.ndarray]]:
    """Input beats."""
    table = np.array(work.orders, dtype=np.int64).reshape(-1, len(Order._fields))
    words = spec.geometry.column_bits // WORD
    return {
        "i_cmd": {name: table[:, index] for index, name in enumerate(Order._fields)},
        "i_data": {"data": np.asarray(work.data, dtype=np.int64).reshape(-1, words)},
    }


def expected(spec: PimChannelSpec, work: ChannelWork) -> dict[str, dict[str, np.ndarray]]:
    """Output beats."""
    words = spec.geometry.column_bits // WORD
    found = replay(spec, work)
    columns = [column for _, _, given in found for column in given]
    return {
        "o_data": {"data": np.array(columns, dtype=np.int64).reshape(-1, words)},
        "o_status": {"status": np.array([int(status) for _, status, _ in found])},
    }


# Stimulus ------------------------------------------------------------


class Composer:
    """Random orders that make sense one after another: what is read was written before.

    Args:
        illegal: share of orders that are refused.
        reach: rows and columns that are used, at either end of a bank, so that orders meet.
    """

    def __init__(
        self,
        spec: PimChannelSpec,
        rng: np.random.Generator,
        *,
        illegal: float = 0.2,
        longest: int = 4,
    ):
        self.spec, self.rng, self.illegal, self.longest = spec, rng, illegal, longest
        self.decoder = Decoder(spec)
        self.banks = spec.geometry.total_banks
        self.orders: list[Order] = []
        self.data: list[np.ndarray] = []
        self.rows: list[np.ndarray] = []  # operands that are not used yet
        # Runs of columns (bank, first, count), and words, that hold something.
        self.runs: list[tuple[int, int, int]] = []
        self.shared: list[tuple[int, int]] = []
        self.words: set[int] = set()
        # Accumulators that hold something in every bank.
        self.held: set[int] = set()
        self.single: set[tuple[int, int]] = set()

    def work(self) -> ChannelWork:
        """What was composed."""
        words = self.spec.geometry.column_bits // WORD
        data = np.array(self.data, dtype=np.int64).reshape(-1, words)
        return ChannelWork(orders=tuple(self.orders), data=data)

    def add(self) -> None:
        """One more order, whatever is possible."""
        rng = self.rng
        if rng.random() < self.illegal:
            self._illegal()
            return
        makers = [self._write, self._write_all, self._buffer, self._bias]
        makers += [self._dot, self._dot, self._dot_all, self._dot_all, self._read]
        makers += [self._read_mac, self._activate, self._combine, self._copy_in, self._copy_out]
        while not makers[int(rng.integers(len(makers)))]():
            pass

    def try_(self, name: str) -> bool:
        """One more order of a kind, if it can be in some tries."""
        return any(getattr(self, name)() for _ in range(8))

    def _emit(self, op: Op, data: Sequence[np.ndarray] = (), /, **fields: int) -> bool:
        """An order whose other fields hold anything: they are ignored."""
        noise = {name: int(self.rng.integers(1 << width)) for name, width in _FREE.items()}
        order = Order(op=int(op), **{**noise, **fields})
        if self.decoder.status(order) is not Status.DONE:
            return False
        self.orders.append(order)
        self.data += data
        return True

    def _row(self) -> np.ndarray:
        """A column of anything: operands of the core, or noise."""
        spec, rng = self.spec, self.rng
        words = spec.geometry.column_bits // WORD
        if rng.integers(3) == 0:
            return rng.integers(0, 1 << WORD, size=words)
        if not self.rows:
            made = unit.random_mac(spec.bank, rng, 0, k_steps=min(4, self.decoder.most_steps))
            for rows in (made.operand, made.column):
                assert rows is not None  # noqa: S101  (a mac has both)
                self.rows += list(rows.reshape(-1, words))
            rng.shuffle(self.rows)
        return self.rows.pop()

    def _rows(self, count: int) -> list[np.ndarray]:
        return [self._row() for _ in range(count)]

    def _place(self, count: int) -> int:
        """Where a run of columns begins: near either end of a bank, often across two rows."""
        geometry, rng = self.spec.geometry, self.rng
        most = geometry.bank_columns - count
        row = int(rng.choice([0, 1, 2, geometry.rows - 1])) * geometry.columns
        column = int(rng.choice([0, 1, geometry.columns - 1, geometry.columns // 2]))
        return min(max(0, row + column), max(0, most))

    def _at(self, place: int) -> dict[str, int]:
        row, column = divmod(place, self.spec.geometry.columns)
        return {"row": row, "column": column}

    def _length(self) -> int:
        return int(self.rng.integers(1, self.longest + 1))

    def _write(self) -> bool:
        count, bank = self._length(), int(self.rng.integers(self.banks))
        count *= self.decoder.weight_blocks if self.rng.integers(2) else 1
        count = min(count, self.spec.geometry.bank_columns)
        place = self._place(count)
        data = self._rows(count)
        done = self._emit(Op.WRITE, data, bank=bank, length=count, **self._at(place))
        if done:
            self.runs.append((bank, place, count))
        return done

    def _write_all(self) -> bool:
        count = self._length() * self.decoder.weight_blocks
        if self.decoder.table_columns and self.rng.integers(2):
            count = max(count, self.decoder.table_columns)
        count = min(count, self.spec.geometry.bank_columns)
        place = self._place(count)
        done = self._emit(Op.WRITE_ALL, self._rows(count), length=count, **self._at(place))
        if done:
            self.shared.append((place, count))
        return done

    def _buffer(self) -> bool:
        blocks = self.decoder.activation_blocks * self.decoder.operand_words
        count = min(self._length() * blocks, self.spec.buffer_words)
        word = int(self.rng.integers(self.spec.buffer_words - count + 1))
        word -= word % self.decoder.operand_words
        done = self._emit(Op.WRITE_BUFFER, self._rows(count), word=word, length=count)
        if done:
            self.words |= set(range(word, word + count))
        return done

    def _bias(self) -> bool:
        accumulator = int(self.rng.integers(self.spec.unit.accumulators))
        done = self._emit(Op.WRITE_BIAS, self._rows(1), accumulator=accumulator)
        if done:
            self.held.add(accumulator)
        return done

    def _filled(self, bank: int | None) -> tuple[int, int] | None:
        """A run of columns that hold something: in a bank, or in all of them."""
        found = list(self.shared)
        if bank is not None:
            found += [(place, count) for b, place, count in self.runs if b == bank]
        return found[int(self.rng.integers(len(found)))] if found else None

    def _some_bank(self) -> int:
        if self.runs and self.rng.integers(4):
            return self.runs[int(self.rng.integers(len(self.runs)))][0]
        return int(self.rng.integers(self.banks))

    def _has_words(self, word: int, count: int) -> bool:
        return all(number in self.words for number in range(word, word + count))

    def _aligned(self, count: int) -> int | None:
        """A word from which so many hold something, where steps may begin."""
        step = self.decoder.operand_words
        found = [w for w in self.words if w % step == 0 and self._has_words(w, count)]
        return found[int(self.rng.integers(len(found)))] if found else None

    def _dot_fields(self, bank: int | None) -> dict[str, int] | None:
        run = self._filled(bank)
        if run is None:
            return None
        length = min(run[1] // self.decoder.weight_blocks, self.decoder.most_steps, self.longest)
        if length < 1:
            return None
        length = int(self.rng.integers(1, length + 1))
        blocks = self.decoder.activation_blocks * self.decoder.operand_words
        word = self._aligned(length * blocks)
        if word is None:
            return None
        accumulator = int(self.rng.integers(self.spec.unit.accumulators))
        return {"length": length, "word": word, "accumulator": accumulator, **self._at(run[0])}

    def _dot(self) -> bool:
        bank = self._some_bank()
        fields = self._dot_fields(bank)
        if fields is None:
            return False
        index = fields["accumulator"]
        there = index in self.held or (bank, index) in self.single
        keep = int(there and self.rng.integers(2))
        done = self._emit(Op.MAC, bank=bank, keep=keep, **fields)
        if done:
            self.single.add((bank, index))
        return done

    def _dot_all(self) -> bool:
        fields = self._dot_fields(None)
        if fields is None:
            return False
        keep = int(fields["accumulator"] in self.held and self.rng.integers(2))
        done = self._emit(Op.MAC_ALL, keep=keep, **fields)
        if done:
            self.held.add(fields["accumulator"])
        return done

    def _read(self) -> bool:
        bank = self._some_bank()
        run = self._filled(bank)
        if run is None:
            return False
        length = int(self.rng.integers(1, min(run[1], 2 * self.longest) + 1))
        return self._emit(Op.READ, bank=bank, length=length, **self._at(run[0]))

    def _some_held(self) -> int | None:
        held = sorted(self.held)
        return held[int(self.rng.integers(len(held)))] if held else None

    def _read_mac(self) -> bool:
        accumulator = self._some_held()
        return accumulator is not None and self._emit(Op.READ_MAC, accumulator=accumulator)

    def _activate(self) -> bool:
        accumulator = self._some_held()
        if accumulator is None:
            return False
        count = self.decoder.table_columns
        wide = [place for place, size in self.shared if size >= count]
        if count and wide and self.rng.integers(3):
            place = wide[int(self.rng.integers(len(wide)))]
            return self._emit(
                Op.ACTIVATE, accumulator=accumulator, function=orders.TABLE, **self._at(place)
            )
        function = int(self.rng.integers(2))
        return self._emit(Op.ACTIVATE, accumulator=accumulator, function=function)

    def _combine(self) -> bool:
        bank = self._some_bank()
        run = self._filled(bank)
        word = self._aligned(1)
        if run is None or word is None:
            return False
        length = 1
        while length < min(run[1], self.longest) and self._has_words(word, length + 1):
            length += 1
        op = Op.MULTIPLY if self.rng.integers(2) else Op.ADD
        return self._emit(op, bank=bank, word=word, length=length, **self._at(run[0])) or True

    def _copy_in(self) -> bool:
        bank = self._some_bank()
        run = self._filled(bank)
        if run is None:
            return False
        length = int(self.rng.integers(1, min(run[1], self.spec.buffer_words) + 1))
        word = int(self.rng.integers(self.spec.buffer_words - length + 1))
        done = self._emit(
            Op.COPY_TO_BUFFER, bank=bank, word=word, length=length, **self._at(run[0])
        )
        if done:
            self.words |= set(range(word, word + length))
        return done

    def _copy_out(self) -> bool:
        word = self._aligned(1)
        if word is None:
            return False
        length = 1
        while length < self.longest and self._has_words(word, length + 1):
            length += 1
        bank, place = int(self.rng.integers(self.banks)), self._place(length)
        done = self._emit(Op.COPY_TO_BANK, bank=bank, word=word, length=length, **self._at(place))
        if done:
            self.runs.append((bank, place, length))
        return done

    def _beyond(self, limit: int, bits: int) -> int:
        """The first number that is too large, or any other one; 0 if the field holds none."""
        if limit >= 1 << bits:
            return 0
        return int(self.rng.choice([limit, int(self.rng.integers(limit, 1 << bits))]))

    def _illegal(self) -> None:
        """An order that is refused: one field of a good one made wrong, or all of them noise."""
        rng, know = self.rng, self.decoder
        geometry = self.spec.geometry
        noise = {name: int(rng.integers(1 << width)) for name, width in _FREE.items()}
        base = Order(op=int(rng.choice(list(Op))), **{**noise, "bank": 0, "row": 0, "column": 0})
        base = base._replace(length=1, word=0, accumulator=0, function=0)
        wrong = [
            {"op": int(rng.choice([0, *range(14, 32)]))},
            {"op": int(Op.ACTIVATE), "function": 3},
            {"length": 0},
            {"op": int(Op.MAC), "length": min(know.most_steps + 1, orders.MOST_LENGTH)},
            {"bank": self._beyond(geometry.total_banks, WIDTHS.bank)},
            {"row": self._beyond(geometry.rows, WIDTHS.row)},
            {"column": self._beyond(geometry.columns, WIDTHS.column)},
            {
                "row": geometry.rows - 1,
                "column": geometry.columns - 1,
                "length": int(rng.integers(2, 5)),
            },
            {"word": self._beyond(self.spec.buffer_words, WIDTHS.word)},
            {"word": self.spec.buffer_words - 1, "length": int(rng.integers(2, 5))},
            {"word": 1},
            {"accumulator": self._beyond(know.accumulators, WIDTHS.accumulator)},
            {name: int(rng.integers(1 << width)) for name, width in WIDTHS._asdict().items()},
        ]
        while True:
            order = base._replace(**wrong[int(rng.integers(len(wrong)))])
            if self.decoder.status(order) is not Status.DONE:
                self.orders.append(order)
                return
            # Not wrong for this order: another one.
            base = base._replace(op=int(rng.choice(list(Op))))


_FREE = {name: width for name, width in WIDTHS._asdict().items() if name != "op"}

SIZES = {"minimum": 2, "small": 8, "large": 60}


def random_work(
    spec: PimChannelSpec, rng: np.random.Generator, *, size: str = "small"
) -> ChannelWork:
    """Random orders, legal and illegal. ``size``: ``minimum``, ``small`` or ``large``."""
    if size not in SIZES:
        raise ValueError(f"size: must be minimum, small or large, got {size!r}")
    composer = Composer(spec, rng)
    for _ in range(int(rng.integers(1, SIZES[size] + 1))):
        composer.add()
    return composer.work()


def corner_works(spec: PimChannelSpec, rng: np.random.Generator) -> tuple[ChannelWork, ...]:
    """Each order right behind each other one, on the same words, columns and accumulators."""
    works = []
    for first in _PAIRED:
        composer = Composer(spec, rng, illegal=0, longest=2)
        while not (composer.try_("_buffer") and composer.try_("_write_all")):
            pass
        composer.try_("_bias")
        for second in _PAIRED:
            composer.try_(first)
            composer.try_(second)
        composer.try_("_read_mac")
        works.append(composer.work())
    return tuple(works)


_PAIRED = (
    "_buffer",
    "_bias",
    "_dot_all",
    "_read",
    "_read_mac",
    "_activate",
    "_combine",
    "_copy_in",
    "_copy_out",
)


def explain(
    spec: PimChannelSpec, work: ChannelWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The order that a beat is of, and those before it."""
    beat = 0
    for number, (order, status, given) in enumerate(replay(spec, work)):
        beat += 1 if stream == "o_status" else len(given)
        if beat > index[0]:
            before = "; ".join(_words(item) for item in work.orders[:number])
            return f"order {number}: {_words(order)} ({status.name}), after: {before or 'none'}"
    return f"no order gives beat {index[0]}"


def _words(order: Order) -> str:
    name = Op(order.op).name if order.op in set(Op) else f"order {order.op}"
    fields = ["bank"] if order.op in set(ONE_BANK) else []
    fields += ["row", "column", "length", "word", "accumulator", "keep", "function"]
    return f"{name} " + " ".join(f"{field}={getattr(order, field)}" for field in fields)


def coverage(spec: PimChannelSpec, work: ChannelWork) -> Iterator[str]:
    """Coverage points of one work; see :func:`coverage_points`."""
    decoder = Decoder(spec)
    columns = spec.geometry.columns
    for order in work.orders:
        status = decoder.status(order)
        if status is not Status.DONE:
            yield f"refused={status.name}"
            continue
        op = Op(order.op)
        yield f"order={op.name}"
        if op in DOT:
            yield f"keep={order.keep}"
        if op is Op.ACTIVATE:
            yield f"function={order.function}"
        if op in orders.PLACED:
            reach = decoder.reach(order)
            if order.column + reach > columns:
                yield "place=across rows"
            if order.row * columns + order.column + reach == spec.geometry.bank_columns:
                yield "place=to the end"


def coverage_points(spec: PimChannelSpec) -> tuple[str, ...]:
    """Every coverage point."""
    missing = orders.ELEMENTWISE if spec.elementwise.format == "none" else ()
    points = [f"order={op.name}" for op in Op if op not in missing]
    points += [f"refused={status.name}" for status in Status if status is not Status.DONE]
    points += ["keep=0", "keep=1", "function=0", "function=1"]
    points += ["function=2"] if Decoder(spec).table_columns else []
    return (*points, "place=across rows", "place=to the end")
