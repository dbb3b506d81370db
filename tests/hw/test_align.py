"""Alignment and heaps by stages against plain arithmetic, over all inputs where they are few."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Value

from hw.lib import align
from hw.lib.cuts import Cuts
from hw.lib.heap import Heap

Evaluate = Callable[..., Callable[..., Mapping[str, np.ndarray]]]


@pytest.mark.parametrize("digit", [1, 2, 3])
def test_the_largest_of_all_that_are_live(evaluate: Evaluate, digit: int) -> None:
    """Every three numbers of 4 bits, and every choice of those that count."""

    def build(m: Module, values: Mapping[str, Value]) -> dict[str, Value]:
        lanes = [values["x"].word_select(i, 4) for i in range(3)]
        live = [values["x"][12 + i] for i in range(3)]
        return {"o": align.largest(m, "dut", lanes, live, digit=digit)}

    x = np.arange(1 << 15)
    found = evaluate(build, {"x": 15}, {"o": 4})(x=x)["o"]
    lanes = np.where(x[:, None] >> np.arange(12, 15) & 1, x[:, None] >> np.array([0, 4, 8]) & 15, 0)
    np.testing.assert_array_equal(found, lanes.max(axis=1))


@pytest.mark.parametrize(
    ("bits", "amount", "width", "low"), [(6, 4, 9, 3), (6, 5, 6, 0), (7, 3, 4, -3), (5, 6, 20, 15)]
)
def test_a_shift_rounds_down(
    evaluate: Evaluate, bits: int, amount: int, width: int, low: int
) -> None:
    def build(m: Module, values: Mapping[str, Value]) -> dict[str, Value]:
        x, by = values["x"][:bits], values["x"][bits:]
        return {"o": align.shift_down(m, "dut", x, by, width, low=low)}

    x = np.arange(1 << bits + amount)
    found = evaluate(build, {"x": bits + amount}, {"o": width})(x=x)["o"]
    value, by = x & ((1 << bits) - 1), x >> bits
    wanted = (value << max(low, 0)) >> np.minimum(by + max(-low, 0), 62)
    np.testing.assert_array_equal(found, wanted & ((1 << width) - 1))


def test_numbers_of_any_two_widths_add_up(evaluate: Evaluate) -> None:
    def build(m: Module, values: Mapping[str, Value]) -> dict[str, Value]:
        x = values["x"]
        return {
            "o": align.add(m, "plain", x[:7], x[7:11]),
            "carried": align.add(m, "carried", x[:4], x[4:11], x[11]),
        }

    x = np.arange(1 << 12)
    found = evaluate(build, {"x": 12}, {"o": 8, "carried": 8})(x=x)
    np.testing.assert_array_equal(found["o"], (x & 127) + (x >> 7 & 15))
    np.testing.assert_array_equal(found["carried"], (x & 15) + (x >> 4 & 127) + (x >> 11))


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 9, 12])
@pytest.mark.parametrize("constant", [0, 0b1011])
def test_a_heap_by_stages_is_the_sum(evaluate: Evaluate, rows: int, constant: int) -> None:
    """Rows of 5 bits at places 0, 1, 2, 0, …; heights above, below and at those of the stages."""
    width = 9

    def build(m: Module, values: Mapping[str, Value]) -> dict[str, Value]:
        heap = Heap(m, "dut", width, Cuts(m))
        for row in range(rows):
            heap.add(values["x"].word_select(row, 5), lsb=row % 3, signed=row % 2 == 1)
        heap.const += constant
        columns = heap.compress()
        assert max(map(len, columns)) <= 2
        return {"o": Cat(align.total(m, "total", columns))}

    rng = np.random.default_rng(rows)
    lanes = rng.integers(0, 32, size=(3000, rows))
    lanes[:200] = rng.choice([0, 31, 15, 16], size=(200, rows))
    packed = {"x": sum(lanes[:, i].astype(object) << 5 * i for i in range(rows))}
    bits = 5 * rows
    found = evaluate(build, {"x": bits}, {"o": width})(x=packed["x"].astype(np.int64))["o"]
    value = np.where((np.arange(rows) % 2 == 1) & (lanes > 15), lanes - 32, lanes)
    wanted = (value << (np.arange(rows) % 3)).sum(axis=1) + constant
    np.testing.assert_array_equal(found, wanted % (1 << width))
