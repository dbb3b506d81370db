"""Stall patterns: seeded, cyclic, never for ever."""

from __future__ import annotations

import numpy as np
import pytest

from sim import stalls
from sim.stalls import PERIOD, Stall, Stalls


def test_patterns_repeat_for_a_seed_and_differ_between_streams_and_seeds() -> None:
    heavy = stalls.heavy()
    first = heavy.patterns(("i_a", "i_w"), 3)
    again = heavy.patterns(("i_w", "i_a"), 3)
    assert np.array_equal(first["i_a"], again["i_a"])
    assert not np.array_equal(first["i_a"], first["i_w"])
    assert not np.array_equal(first["i_a"], heavy.patterns(("i_a",), 4)["i_a"])


@pytest.mark.parametrize(
    ("made", "low", "high"),
    [(stalls.light(), 0.07, 0.13), (stalls.heavy(), 0.62, 0.72), (stalls.bursts(), 0.3, 0.75)],
)
def test_share_of_stalled_cycles(made: Stalls, low: float, high: float) -> None:
    bits = made.patterns(("x",), 0)["x"]
    assert len(bits) == PERIOD
    assert low < bits.mean() < high


def test_bursts_are_long_and_end() -> None:
    bits = stalls.bursts().patterns(("x",), 0)["x"]
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], bits, [0]]))))[::2]
    assert runs.max() > 20
    assert not bits.all()


def test_a_stream_that_is_not_named_follows_the_default() -> None:
    assert set(stalls.starved("i_a").patterns(("i_a", "i_w"), 0)) == {"i_a"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"probability": 1.0}, "probability: must lie in"),
        ({"burst": 0}, "burst: must be at least 1"),
        ({"bits": (1, 1)}, "bits: must hold at least one 0"),
        ({"bits": ()}, "bits: must hold at least one 0"),
    ],
)
def test_a_bad_stall_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Stall(**settings)


def test_an_unknown_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="no stream is named i_x"):
        stalls.starved("i_x").patterns(("i_a",), 0)
