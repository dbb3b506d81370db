"""References of the accumulators: by floats as by integers, and results as numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from hw.formats.sums import DIGIT, Accumulator, Sums, Terms


def sums_of(kind: str, bias: int, codes: int, size: int, **more: object) -> Sums:
    terms = Terms(
        low=-(1 << (size - 1)), high=(1 << (size - 1)) - 1, codes=codes, bias=bias, steps=8,
        nan=True, inf=True,
    )  # fmt: skip
    return Sums(accumulator=Accumulator.model_validate({"kind": kind, **more}), terms=terms)


@pytest.mark.parametrize(
    ("bias", "codes", "bits"),
    [
        (-160, 300, 22),
        (-270, 509, 41),
        (-60, 80, 53),
        (-30, 40, 20),
        (-400, 500, 50),
        (-149, 3, 8),
        (100, 60, 20),
    ],
)
def test_floats_round_as_integers_do(
    bias: int, codes: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = sums_of("fp32", bias, codes, bits)
    assert sums._fits_floats
    rng = np.random.default_rng(bits)
    trials = []
    for trial in range(12):
        values = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), size=(6, 8, 8))
        values >>= rng.integers(0, bits, size=values.shape)
        at = rng.integers(0, codes, size=values.shape)
        if trial % 2:
            # Near one another, so that sums cancel and tie.
            at = np.clip(at[0] + rng.integers(-30, 30, size=at.shape), 0, codes - 1)
        if trial % 3 == 0:
            values[1], at[1] = -values[0], at[0]
        trials.append((values, at))
    by_floats = [sums.total(*trial)["o"] for trial in trials]
    monkeypatch.setattr(Sums, "_fits_floats", False)
    for trial, found in zip(trials, by_floats, strict=True):
        np.testing.assert_array_equal(sums.total(*trial)["o"], found)


def test_terms_too_wide_for_floats_go_by_integers() -> None:
    assert not sums_of("fp32", -60, 80, 55)._fits_floats
    assert not sums_of("fp32", -1100, 80, 20)._fits_floats
    assert not sums_of("fp32", -60, 1100, 20)._fits_floats


@pytest.mark.parametrize("kind", ["fp32", "running", "fixed"])
def test_results_are_the_numbers_they_stand_for(kind: str) -> None:
    sums = sums_of(kind, -40, 50, 16, low=-40, bits=90, guard=8)
    rng = np.random.default_rng(3)
    values = rng.integers(-(1 << 15), 1 << 15, size=(1, 4, 5))
    codes = rng.integers(0, 50, size=values.shape)
    flags = {name: np.zeros(values.shape, dtype=bool) for name in ("nan", "pinf", "ninf")}
    for place, name in enumerate(flags):
        flags[name][0, 0, place] = True
    found = sums.values(sums.total(values, codes, **flags))
    assert np.isnan(found[0, 0])
    assert found[0, 1] == np.inf
    assert found[0, 2] == -np.inf
    for m, n in np.ndindex(4, 5):
        if (m, n) in ((0, 0), (0, 1), (0, 2)):
            continue
        exact = Fraction(int(values[0, m, n])) * Fraction(2) ** int(codes[0, m, n] - 40)
        # One term of 16 bits is exact in every kind.
        assert Fraction(float(found[m, n])) == exact


def test_a_wide_window_is_rounded_once() -> None:
    sums = sums_of("fixed", -40, 60, 16, low=-40, bits=128)
    values = np.array([[[1 << 14]], [[1]], [[-(1 << 14)]]])
    for low_code, wanted in ((0, 1.0), (6, 1.0)):
        codes = np.array([[[59]], [[low_code]], [[59]]])
        found = sums.values(sums.total(values, codes))
        assert found[0, 0] == np.ldexp(wanted, low_code - 40)
    # 2^33 and a bit that float64 does not reach beside it: ties and what is just above them.
    high, tie = np.array([[[1 << 14]]]), np.array([[[1]]])
    one = sums.values(sums.total(np.concatenate([high, tie]), np.array([[[59]], [[20]]])))
    assert one[0, 0] == 2.0**33
    two = sums.values(
        sums.total(np.concatenate([high, tie, tie]), np.array([[[59]], [[20]], [[0]]]))
    )
    assert two[0, 0] == 2.0**33 + 2.0**-19


def test_running_sums_shift_by_digits() -> None:
    sums = sums_of("running", -40, 50, 16, guard=0)
    values, codes = np.array([[[3]], [[5]]]), np.array([[[DIGIT - 1]], [[3 * DIGIT]]])
    fields = sums.total(values, codes)
    # Three at 2^7 is under the digit that five is in, two digits further up.
    assert int(fields["o"][0, 0]) == 5 + (3 << (DIGIT - 1) >> 3 * DIGIT)
    assert sums.values(fields)[0, 0] == np.ldexp(5.0, 3 * DIGIT - 40)
