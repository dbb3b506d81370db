"""The Hadamard rotation: its matrix, its widths, its rounding."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from hw.block import spec_from_dict
from hw.blocks.hadamard import golden
from hw.blocks.hadamard.golden import HadamardWork
from hw.blocks.hadamard.spec import HadamardSpec
from hw.errors import SpecError


def _spec(**data: Any) -> HadamardSpec:
    spec = spec_from_dict({"block": "hadamard", "name": "dut", **data})
    assert isinstance(spec, HadamardSpec)
    return spec


@pytest.mark.parametrize("size", [2, 4, 8, 16, 32, 64, 128])
def test_the_matrix_is_sylvesters(size: int) -> None:
    h = golden.matrix(size)
    np.testing.assert_array_equal(h @ h.T, size * np.eye(size))
    np.testing.assert_array_equal(h, h.T)
    # Natural order: the sign is the parity of the ones that row and column share.
    for row in range(size):
        for column in range(size):
            assert h[row, column] == (-1) ** (row & column).bit_count()


@pytest.mark.parametrize("signs", ["none", "job"])
@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("bits", [2, 5])
def test_the_range_is_reached_and_never_left(signs: str, size: int, bits: int) -> None:
    spec = _spec(size=size, bits=bits, signs=signs, registers=0)
    ends = np.concatenate(
        [
            golden.rotated(spec, work).ravel()
            for work in golden.corner_works(spec, np.random.default_rng(0))
        ]
    )
    assert (int(ends.min()), int(ends.max())) == spec.exact_range
    assert spec.exact_bits == bits + size.bit_length() - 1 + (signs == "job")
    assert spec.result_bits == spec.exact_bits


@pytest.mark.parametrize("shift", range(8))
def test_rounding_is_to_nearest_ties_to_even(shift: int) -> None:
    spec = _spec(size=4, bits=6, shift=shift)
    x = np.random.default_rng(2).integers(-32, 32, (64, 4))
    work = HadamardWork(x=x)
    exact, found = golden.rotated(spec, work), golden.expected(spec, work)["o"]["y"]
    limit = 1 << (spec.result_bits - 1)
    for value, result in zip(exact.ravel().tolist(), found.ravel().tolist(), strict=True):
        assert result == round(Fraction(value, 1 << shift))
        assert -limit <= result < limit


def test_a_rotation_and_its_transpose_give_the_elements_back() -> None:
    spec = _spec(size=16, bits=8, signs="job")
    rng = np.random.default_rng(3)
    signs = rng.integers(0, 2, 16)
    x = rng.integers(-128, 128, (9, 16))
    y = golden.rotated(spec, HadamardWork(x=x, signs=signs))
    np.testing.assert_array_equal(y @ golden.matrix(16).T * (1 - 2 * signs), 16 * x)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"size": 12}, "size: input should be 2, 4, 8, 16, 32, 64 or 128, got 12"),
        ({"registers": 4}, "registers: must be less than 4 for 4 stages of butterflies, got 4"),
        ({"shift": 12}, "shift: must be less than the 12 bits of a sum, got 12"),
    ],
)
def test_what_cannot_be_is_refused(data: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        _spec(**data)
    assert str(caught.value) == words


def test_signs_belong_to_jobs() -> None:
    x = np.zeros((1, 4), dtype=np.int64)
    with pytest.raises(ValueError, match="signs: for signs by job and for nothing else"):
        golden.beats(_spec(size=4), HadamardWork(x=x, signs=np.zeros(4, dtype=np.int64)))
    with pytest.raises(ValueError, match="got None"):
        golden.beats(_spec(size=4, signs="job"), HadamardWork(x=x))
