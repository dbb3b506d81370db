"""Patterns of a batch, and what the reuse table makes of them; plain numpy.

In plane ``b`` of a K step the pattern of row ``r`` is the ``k`` bits ``a[r, i] >> b & 1``, element
``i`` at bit ``i``: the word of the table that the row takes. The rows of a batch go through the
reuse table ``capacity`` at a time, in order (a *round*). Within a round

- a row whose pattern is 0 adds nothing and needs no lookup;
- the first row that waits is looked up, and every row of the round with the same pattern *hits*:
  it takes the word in the same cycle;
- so a round costs a cycle for each pattern but 0 that occurs in it, and one if none does.

A job without reuse makes a lookup for every row of every plane, whatever the patterns.
"""

from __future__ import annotations

from dataclasses import dataclass

from hw.blocks.sram_lut_gemv.spec import SramLutGemvSpec
from hw.gemm import GemmWork, activation_bits
from hw.lazy import np


def patterns(a: np.ndarray, k: int, bits: int) -> np.ndarray:
    """Patterns ``(steps, bits, rows)`` of integer activations ``(rows, steps · k)``."""
    rows, depth = a.shape
    groups = a.astype(np.int64).reshape(rows, depth // k, k)
    planes = groups[..., None] >> np.arange(bits) & 1
    words = (planes << np.arange(k)[:, None]).sum(axis=2)
    found: np.ndarray = words.transpose(1, 2, 0)
    return found


def distinct(words: np.ndarray) -> np.ndarray:
    """How many patterns but 0 occur along the last axis."""
    ordered = np.sort(words, axis=-1)
    first = (ordered[..., :1] > 0).sum(axis=-1)
    more = ((ordered[..., 1:] != ordered[..., :-1]) & (ordered[..., 1:] > 0)).sum(axis=-1)
    found: np.ndarray = first + more
    return found


@dataclass(frozen=True, kw_only=True)
class Lookups:
    """What becomes of the lookups that a job without reuse makes.

    Attributes:
        rows: lookups of such a job: one a row, plane and K step.
        zeros: those of pattern 0. hits: those that share another row's cycle.
        misses: those that are made. empty: rounds without any, a cycle each.
    """

    rows: int
    zeros: int
    hits: int
    misses: int
    empty: int

    @property
    def cycles(self) -> int:
        """Cycles that take their place."""
        return self.misses + self.empty


def lookups(a: np.ndarray, k: int, bits: int, capacity: int) -> Lookups:
    """Lookups of a job of activations ``(rows, steps · k)`` with a reuse table of ``capacity``."""
    words = patterns(a, k, bits)
    rounds = words.reshape(*words.shape[:2], -1, capacity)
    different = distinct(rounds)
    misses = int(different.sum())
    zeros = int((words == 0).sum())
    return Lookups(
        rows=words.size,
        zeros=zeros,
        hits=words.size - zeros - misses,
        misses=misses,
        empty=int((different == 0).sum()),
    )


def of_work(spec: SramLutGemvSpec, work: GemmWork) -> Lookups:
    """Those of a job with its operands."""
    bits = activation_bits(spec, work.job)
    return lookups(np.asarray(work.a), spec.tile.k, bits, spec.reuse.capacity)
