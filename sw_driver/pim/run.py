"""Decode steps with real numbers: the orders of the mapping on reference channels.

Whatever the timing model offers a channel is done here by that channel's golden model, with the
data that each order carries, and the jobs between by the golden model of the vector unit. What
comes out are logits, and, channel by channel, orders, data and the cycles in which orders are
offered: a bench can run them on the RTL.

Formats are those of floating units, 16 bits an element. Results of banks are FP32; they are rounded
to the vector unit's format on the way to it, and the factor ``1/√d`` of scores is in the weights of
queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hw.blocks.pim_channel.golden import ChannelWork, Machine
from hw.blocks.pim_channel.orders import Op, Order, Status
from hw.blocks.vector_unit import golden as vector
from hw.blocks.vector_unit.golden import VectorWork
from hw.formats import FLOAT_FORMATS, FloatFormat
from rtl_gen.errors import InputError
from sw_driver.pim.orders import Tag
from sw_driver.pim.placement import (
    ACTIVATIONS,
    Cell,
    Keys,
    Matrix,
    Parameters,
    Placement,
    Values,
    Vectors,
)
from sw_driver.pim.step import DecodeModel, Offer, Step

EPSILON = 1e-5

Data = Callable[[int, Tag], np.ndarray]
"""Channel and tag to columns of 16-bit codes, ``(columns, elements)``."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Parameters of a model as float64; of a layer by name, with ``layer`` first.

    Attributes:
        matrices: ``qkv (layers, 3·width, hidden)``, ``o``, ``up``, ``down``. biases: the same.
        norms: ``(layers, 2, 2, hidden)``: which norm, gain and bias; final: ``(2, hidden)``.
        embedding: ``(vocab, hidden)``, the head too. positions: ``(positions, hidden)``.
    """

    matrices: dict[str, np.ndarray]
    biases: dict[str, np.ndarray]
    norms: np.ndarray
    final: np.ndarray
    embedding: np.ndarray
    positions: np.ndarray


@dataclass(kw_only=True)
class Record:
    """What a channel was given and gave.

    Attributes:
        orders: with rows of the channel. offered: the cycle from which each is offered.
        data: columns for ``i_data``, ``(columns, column_bits / 32)``.
        offers: what the orders come from, in their order, with the tokens of the step; 0 for
            loading.
    """

    orders: list[Order] = field(default_factory=list)
    offered: list[int] = field(default_factory=list)
    data: list[np.ndarray] = field(default_factory=list)
    offers: list[tuple[int, Offer]] = field(default_factory=list)

    def work(self, words: int) -> ChannelWork:
        """Everything as one work of a bench."""
        data = np.array(self.data, dtype=np.int64).reshape(-1, words)
        return ChannelWork(orders=tuple(self.orders), data=data)


class PimRun:
    """A placed model with weights in reference channels.

    Attributes:
        records: by channel what it was given.

    Raises:
        InputError: the units are no floating ones of 16 bits.
    """

    def __init__(self, placement: Placement, weights: Weights):
        self.placement, self.system = placement, placement.system
        system = self.system
        core = system.dram.bank.core
        name = str(getattr(getattr(core, "weights", None), "format", ""))
        formats = {name, str(getattr(getattr(core, "activations", None), "format", ""))}
        if len(formats) != 1 or name not in ("bf16", "fp16") or system.vector.format != name:
            raise InputError(
                f"{system.name}: channel.unit.arithmetic: must be bf16 or fp16 throughout, like "
                "the vector unit, to be run with numbers"
            )
        self.form: FloatFormat = FLOAT_FORMATS[name]
        self.model = DecodeModel(placement, keep=True)
        self.machines = [Machine(system.dram) for _ in range(system.channels)]
        self.records = [Record() for _ in range(system.channels)]
        self.weights = weights
        self.tokens = 0
        self._load()

    # Columns and codes -----------------------------------------------------------------------

    def codes(self, values: np.ndarray) -> np.ndarray:
        """Nearest codes of the format."""
        return np.asarray(self.form.encode(np.asarray(values, dtype=np.float64)), dtype=np.int64)

    def _columns(self, codes: np.ndarray, count: int) -> np.ndarray:
        """Codes as so many columns, zeros behind them."""
        step = self.system.step
        padded = np.zeros(count * step, dtype=np.int64)
        padded[: len(codes)] = codes[: count * step]
        return padded.reshape(count, step)

    @staticmethod
    def _words(columns: np.ndarray) -> np.ndarray:
        """Columns of 16-bit codes as rows of 32-bit words."""
        return np.ascontiguousarray(columns.astype("<u2")).view("<u4").astype(np.int64)

    @staticmethod
    def _elements(words: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(words.astype("<u4")).view("<u2").astype(np.int64)

    # Loading ---------------------------------------------------------------------------------

    def _load(self) -> None:
        """Every column of the placed rows, zeros where nothing lies yet."""
        system, placement = self.system, self.placement
        shape = (system.channels, system.banks, placement.rows, system.dram.geometry.columns)
        cells = np.zeros((*shape, system.step), dtype=np.int64)
        taken = np.zeros(cells.shape, dtype=bool)

        def put(base: int, cell: Cell, code: int) -> None:
            at = cell._replace(row=cell.row + base)
            if taken[at]:
                raise ValueError(f"{at}: holds two elements")
            taken[at], cells[at] = True, code

        for name, layer, region, base in placement.extents():
            if isinstance(region, Matrix):
                for (n, k), code in np.ndenumerate(self.codes(self._matrix(name, layer))):
                    put(base, region.locate(n, k), code)
            elif isinstance(region, Vectors):
                table = self.weights.positions if name == "positions" else self.weights.embedding
                for (index, element), code in np.ndenumerate(self.codes(table)):
                    put(base, region.locate(index, element), code)
            elif isinstance(region, Parameters):
                self._put_parameters(region, base, layer, cells)
        orders = []
        for channel, record in enumerate(self.records):
            mine = []
            for bank in range(system.banks):
                columns = cells[channel, bank].reshape(-1, system.step)
                mine.append(Order(Op.WRITE, bank, length=len(columns)))
                record.data += list(self._words(columns))
            orders.append(mine)
        offers = self.model.load(orders)
        for channel, offer in enumerate(offers):
            self._record(channel, offer)
            data = iter(self.records[channel].data)
            for order in orders[channel]:
                self._do(channel, order, data)

    def _matrix(self, name: str, layer: int | None) -> np.ndarray:
        if layer is None:
            return self.weights.embedding
        found = self.weights.matrices[name][layer]
        return self._scaled(found) if name == "qkv" else found

    def _bias(self, name: str, layer: int) -> np.ndarray:
        found = self.weights.biases[name][layer]
        return self._scaled(found) if name == "qkv" else found

    def _scaled(self, qkv: np.ndarray) -> np.ndarray:
        """With the factor of scores in the queries."""
        arch = self.placement.architecture
        found = np.array(qkv, dtype=np.float64)
        found[: arch.q_width] /= np.sqrt(arch.head_dim)
        return found

    def _parameters(self, layer: int | None) -> np.ndarray:
        """A layer's parameters that are no matrices, one behind the other."""
        if layer is None:
            return self.codes(self.weights.final.reshape(-1))
        parts = [self.weights.norms[layer].reshape(-1)]
        for name, region in self.placement.layer.items():
            if isinstance(region, Matrix) and region.bias:
                parts.append(self._bias(name, layer))
        return self.codes(np.concatenate(parts))

    def _put_parameters(
        self, region: Parameters, base: int, layer: int | None, cells: np.ndarray
    ) -> None:
        total = -(-region.elements // self.system.vector_column)
        columns = self._columns(self._parameters(layer), total)
        for channel in range(self.system.channels):
            first = region.first(channel)
            for index in range(region.columns(channel)):
                at = region.cell(channel, 0, index)
                cells[channel, 0, base + at.row, at.column] = columns[first + index]

    # Orders ----------------------------------------------------------------------------------

    def _record(self, channel: int, offer: Offer) -> None:
        record = self.records[channel]
        rows = [order._replace(row=order.row + offer.base) for order in offer.phase.orders]
        record.offers.append((self.tokens, offer))
        record.orders += rows
        record.offered += [offer.offered] * len(rows)

    def _do(self, channel: int, order: Order, data: Iterable[np.ndarray]) -> list[np.ndarray]:
        status, given = self.machines[channel].run(order, iter(data))
        if status is not Status.DONE:
            raise ValueError(f"channel {channel}: {order} is refused: {status.name}")
        return given

    def _all(
        self, offers: dict[int, Offer], data: Data | None = None
    ) -> list[tuple[int, Tag, np.ndarray]]:
        """Does what channels were offered.

        Returns:
            Channel, tag and columns of everything that comes back.
        """
        found = []
        for channel, offer in offers.items():
            self._record(channel, offer)
            for order, tag in offer.tags():
                columns: list[np.ndarray] = []
                if order.op in (Op.WRITE, Op.WRITE_BUFFER, Op.WRITE_BIAS):
                    assert data is not None  # noqa: S101  (these orders carry some)
                    columns = list(self._words(data(channel, tag)))
                    self.records[channel].data += columns
                at = order._replace(row=order.row + offer.base)
                given = self._do(channel, at, columns)
                if given:
                    found.append((channel, tag, np.stack(given)))
        return found

    # One step --------------------------------------------------------------------------------

    def step(self, tokens: int, token: int) -> tuple[np.ndarray, Step]:
        """Logits of a token, and its step."""
        self.tokens = tokens
        found = self.model.step(tokens, token=token)
        table: dict[tuple[str, int | None], dict[int, Offer]] = {}
        for channel, offers in enumerate(found.offers):
            for offer in offers:
                table.setdefault((offer.name, offer.layer), {})[channel] = offer
        return _Values(self, tokens, table).run(), found

    def vector(
        self, function: str, x: np.ndarray, *operands: np.ndarray, epsilon: float = 0.0
    ) -> np.ndarray:
        """A job of the vector unit on codes ``(rows, length)``."""
        names = dict(zip(("u", "v"), operands, strict=False))
        work = VectorWork(function=function, x=x, epsilon=epsilon, **names)  # type: ignore[arg-type]
        return np.asarray(vector.results(self.system.vector, work), dtype=np.int64)


class _Values:
    """One step's numbers: codes of the vector unit's format."""

    def __init__(
        self, run: PimRun, tokens: int, table: dict[tuple[str, int | None], dict[int, Offer]]
    ):
        self.run_, self.tokens, self.table = run, tokens, table
        self.placement, self.system = run.placement, run.system
        self.arch = run.placement.architecture
        number = run.system.vector.number
        self.epsilon = float(number.nearest(EPSILON))

    def run(self) -> np.ndarray:
        run, shared = self.run_, self.placement.shared
        parts = {tag: run._elements(out) for _, tag, out in run._all(self.table["embedding", None])}
        hidden, step = self.arch.hidden, self.system.step
        embedded = np.zeros(hidden, dtype=np.int64)
        for tag, codes in parts.items():
            if tag.kind == "row":
                first = tag.numbers[0] * step
                embedded[first : first + tag.numbers[1] * step] = codes.reshape(-1)[
                    : hidden - first
                ]
            elif tag.kind == "embedding":
                embedded[:] = codes.reshape(-1)[:hidden]
        position = parts[Tag("positions")].reshape(-1)[:hidden]
        x = run.vector("add", embedded[None], position[None])
        for layer in range(self.arch.layers):
            x = self._layer(layer, x)
        parameters = self._read("final_parameters", None)
        x = self._norm(x, parameters[:hidden], parameters[hidden : 2 * hidden])
        head = shared["lm_head"]
        assert isinstance(head, Matrix)  # noqa: S101  (placed so)
        return run.form.decode(self._product(head, None, x[0], None))

    def _read(self, name: str, layer: int | None) -> np.ndarray:
        """Parameters, put together from all channels."""
        found = self.run_._all(self.table[name, layer])
        pieces = sorted((tag.numbers[0], self.run_._elements(out)) for _, tag, out in found)
        return np.concatenate([piece.reshape(-1) for _, piece in pieces])

    def _norm(self, x: np.ndarray, gain: np.ndarray, bias: np.ndarray) -> np.ndarray:
        return self.run_.vector("layer_norm", x, gain[None], bias[None], epsilon=self.epsilon)

    def _outputs(self, out: np.ndarray) -> np.ndarray:
        """FP32 accumulators of all banks as the vector unit's codes."""
        values = out.reshape(-1).astype("<u4").view("<f4")[: self.system.banks]
        return self.run_.codes(values.astype(np.float64))

    def _product(
        self, matrix: Matrix, layer: int | None, x: np.ndarray, bias: np.ndarray | None
    ) -> np.ndarray:
        """``W·x + bias`` as codes."""
        run, step, banks = self.run_, self.system.step, self.system.banks

        def data(channel: int, tag: Tag) -> np.ndarray:
            if tag.kind == "x":
                first, steps = tag.numbers
                return run._columns(x[first * step :], steps)
            assert bias is not None  # noqa: S101  (only biased matrices ask)
            (group,) = tag.numbers
            return run._columns(bias[group * banks : (group + 1) * banks], 1)

        sums = np.zeros((matrix.partials, -(-matrix.n // banks) * banks), dtype=np.int64)
        for _, tag, out in run._all(self.table[matrix.name, layer], data):
            group, part = tag.numbers
            sums[part, group * banks : (group + 1) * banks] = self._outputs(out)
        sums = sums[:, : matrix.n]
        if matrix.partials == 1:
            return sums[0]
        most = self.system.vector.max_length
        pieces = [
            run.vector("reduce", sums[:, first : first + most])[0]
            for first in range(0, matrix.n, most)
        ]
        return np.concatenate(pieces)

    def _layer(self, layer: int, x: np.ndarray) -> np.ndarray:
        run, arch = self.run_, self.arch
        hidden, regions = arch.hidden, self.placement.layer
        parameters = self._read("parameters", layer)
        norms, rest = parameters[: 4 * hidden].reshape(2, 2, hidden), parameters[4 * hidden :]
        biases = {}
        for name, region in regions.items():
            if isinstance(region, Matrix) and region.bias:
                biases[name], rest = rest[: region.n], rest[region.n :]

        def product(name: str, vector: np.ndarray) -> np.ndarray:
            region = regions[name]
            assert isinstance(region, Matrix)  # noqa: S101  (placed so)
            return self._product(region, layer, vector, biases.get(name))

        def long(function: str, row: np.ndarray) -> np.ndarray:
            most = self.system.vector.max_length
            pieces = [
                run.vector(function, row[None, first : first + most])[0]
                for first in range(0, len(row), most)
            ]
            return np.concatenate(pieces)

        qkv = product("qkv", self._norm(x, *norms[0])[0])
        attended = product("o", self._attention(layer, qkv.reshape(3, arch.heads, arch.head_dim)))
        x = run.vector("add", x, attended[None])
        up = product("up", self._norm(x, *norms[1])[0])
        down = product("down", long(ACTIVATIONS[arch.activation], up))
        return run.vector("add", x, down[None])

    def _attention(self, layer: int, qkv: np.ndarray) -> np.ndarray:
        run, arch, system = self.run_, self.arch, self.system
        query, key, value = qkv
        keys, values = self.placement.layer["keys"], self.placement.layer["values"]
        assert isinstance(keys, Keys)  # noqa: S101  (placed so)
        assert isinstance(values, Values)  # noqa: S101  (placed so)
        banks, step, groups = system.banks, system.step, values.head_groups

        def heads(channel: int, tag: Tag) -> np.ndarray:
            source = key if tag.kind == "key" else query
            first, count = tag.numbers
            rows = [run._columns(source[h], keys.head_steps) for h in range(first, first + count)]
            return np.concatenate(rows)

        run._all(self.table["key", layer], heads)
        scores = np.full((arch.heads, self.tokens), run.codes(np.array([-np.inf]))[0])
        for channel, tag, out in run._all(self.table["scores", layer], heads):
            head, slot = tag.numbers
            first = (slot * system.channels + channel) * banks
            codes = self._outputs(out)[: self.tokens - first]
            scores[head, first : first + len(codes)] = codes

        token = self.tokens - 1
        old: dict[tuple[int, int], np.ndarray] = {}
        for _, tag, out in run._all(self.table["values read", layer]):
            if tag.kind == "value":
                group, bank = tag.numbers
                old[group, bank] = run._elements(out)

        def completed(channel: int, tag: Tag) -> np.ndarray:
            group, bank = tag.numbers
            column = old.get((group, bank))
            if column is None:
                column = np.zeros((1, step), dtype=np.int64)
            head, offset = divmod(group, groups)
            column[0, token % step] = value[head, offset * banks + bank]
            return column

        run._all(self.table["values written", layer], completed)
        weights = run.vector("softmax", scores)

        def shares(channel: int, tag: Tag) -> np.ndarray:
            first, count, block, blocks = tag.numbers
            rows = [
                run._columns(weights[head, block * step :], blocks)
                for head in range(first, first + count)
            ]
            return np.concatenate(rows)

        found = np.zeros((arch.heads, groups * banks), dtype=np.int64)
        for _, tag, out in run._all(self.table["attend", layer], shares):
            head, offset = divmod(tag.numbers[0], groups)
            found[head, offset * banks : (offset + 1) * banks] = self._outputs(out)
        return found[:, : arch.head_dim].reshape(-1)


def random_weights(placement: Placement, seed: int) -> Weights:
    """Weights of a model that has not been trained; of usual sizes."""
    arch, rng = placement.architecture, np.random.default_rng(seed)
    layers, hidden = arch.layers, arch.hidden
    matrices = {
        name: rng.normal(0, region.k**-0.5, size=(layers, region.n, region.k))
        for name, region in placement.layer.items()
        if isinstance(region, Matrix)
    }
    biases = {name: rng.normal(0, 0.1, size=item.shape[:2]) for name, item in matrices.items()}
    norms = rng.normal(0, 0.1, size=(layers, 2, 2, hidden))
    norms[:, :, 0] += 1
    final = rng.normal(0, 0.1, size=(2, hidden))
    final[0] += 1
    return Weights(
        matrices=matrices,
        biases=biases,
        norms=norms,
        final=final,
        embedding=rng.normal(0, 1, size=(arch.vocab, hidden)),
        positions=rng.normal(0, 0.3, size=(arch.positions, hidden)),
    )


__all__: Sequence[str] = ("PimRun", "Record", "Weights", "random_weights")
