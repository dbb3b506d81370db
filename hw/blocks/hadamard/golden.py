"""Reference of the Hadamard rotation: the product with the matrix, written out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from hw.blocks.hadamard.spec import JOB_BEATS_BITS, HadamardSpec
from hw.integers import random_operand
from hw.lazy import np
from hw.streams import Stream, StreamField

LENGTHS = {"minimum": (1, 1), "small": (1, 8), "large": (32, 64)}


@dataclass(frozen=True, kw_only=True)
class HadamardWork:
    """Beats that share their signs, one job where there are jobs.

    Attributes:
        x: ``(beats, size)``.
        signs: ``(size,)``, 1 negates the element; None without jobs.
    """

    x: np.ndarray
    signs: np.ndarray | None = None


def matrix(size: int) -> np.ndarray:
    """``(size, size)`` of ±1: ``H_1 = (1)``, ``H_2n = ((H_n, H_n), (H_n, −H_n))``."""
    found = np.ones((1, 1), dtype=np.int64)
    while len(found) < size:
        found = np.block([[found, found], [found, -found]])
    return found


def streams(spec: HadamardSpec) -> tuple[Stream, ...]:
    """``i_job`` (signs by job), ``i``, ``o``."""
    found = []
    if spec.signs == "job":
        fields = (
            StreamField(name="beats_m1", width=JOB_BEATS_BITS, doc="beats less one"),
            StreamField(name="signs", width=1, shape=(spec.size,), doc="1 negates the element"),
        )
        found.append(Stream(name="i_job", direction="in", fields=fields, doc="what follows on i"))
    for name, direction, bits in (("i", "in", spec.bits), ("o", "out", spec.result_bits)):
        words = "elements" if name == "i" else "rotated elements"
        field = StreamField(
            name="x" if name == "i" else "y",
            width=bits,
            signed=True,
            shape=(spec.size,),
            doc=words,
        )
        found.append(Stream(name=name, direction=direction, fields=(field,), doc=words))
    return tuple(found)


def random_work(
    spec: HadamardSpec, rng: np.random.Generator, *, size: str = "small"
) -> HadamardWork:
    """Corner-heavy random beats: every third like a row of the matrix, at the ends of the range."""
    if size not in LENGTHS:
        raise ValueError(f"size: must be minimum, small or large, got {size!r}")
    low, high = LENGTHS[size]
    beats = int(rng.integers(low, high + 1))
    least, most = -(1 << (spec.bits - 1)), (1 << (spec.bits - 1)) - 1
    x = random_operand(rng, least, most, (beats, spec.size))
    signs = None
    if spec.signs == "job":
        density = rng.choice([0.0, 0.5, 1.0])
        signs = (rng.random(spec.size) < density).astype(np.int64)
    rows = matrix(spec.size)[rng.integers(0, spec.size, beats)]
    rows = rows * rng.choice([-1, 1], size=(beats, 1))
    if signs is not None:
        rows = rows * (1 - 2 * signs)
    extreme = np.where(rows > 0, most, least)
    return HadamardWork(x=np.where(rng.random((beats, 1)) < 1 / 3, extreme, x), signs=signs)


def corner_works(spec: HadamardSpec, rng: np.random.Generator) -> tuple[HadamardWork, ...]:
    """Every row of the matrix at the ends of the range, both ways; every element alone."""
    least, most = -(1 << (spec.bits - 1)), (1 << (spec.bits - 1)) - 1
    rows = matrix(spec.size)
    eye = np.eye(spec.size, dtype=np.int64)
    x = np.concatenate(
        [np.where(rows > 0, most, least), np.where(rows > 0, least, most), eye, eye * least]
    )
    if spec.signs == "none":
        return (HadamardWork(x=x),)
    ones = np.ones(spec.size, dtype=np.int64)
    some = rng.integers(0, 2, spec.size)
    return tuple(HadamardWork(x=x, signs=signs) for signs in (0 * ones, ones, some))


def exhaustive_works(spec: HadamardSpec) -> tuple[HadamardWork, ...] | None:
    """Every beat under every sign, where they are few."""
    signs_count = 2**spec.size if spec.signs == "job" else 1
    if spec.bits * spec.size > 16 or signs_count > 16:
        return None
    values = range(-(1 << (spec.bits - 1)), 1 << (spec.bits - 1))
    x = np.array(list(itertools.product(values, repeat=spec.size)))
    if spec.signs == "none":
        return (HadamardWork(x=x),)
    signs = np.array(list(itertools.product((0, 1), repeat=spec.size)))
    return tuple(HadamardWork(x=x, signs=row) for row in signs)


def beats(spec: HadamardSpec, work: HadamardWork) -> dict[str, dict[str, np.ndarray]]:
    """Input beats. ``ValueError``: not as many signs as the specification has."""
    if (work.signs is not None) != (spec.signs == "job"):
        raise ValueError(f"signs: for signs by job and for nothing else, got {work.signs}")
    values = {"i": {"x": work.x}}
    if work.signs is not None:
        values["i_job"] = {"beats_m1": np.array([len(work.x) - 1]), "signs": work.signs[None]}
    return values


def rotated(spec: HadamardSpec, work: HadamardWork) -> np.ndarray:
    """Exact sums ``(beats, size)``."""
    x = work.x.astype(np.int64)
    if work.signs is not None:
        x = x * (1 - 2 * work.signs)
    return x @ matrix(spec.size)


def expected(spec: HadamardSpec, work: HadamardWork) -> dict[str, dict[str, np.ndarray]]:
    """Output beats: rounded by ``np.rint``, whose quotients by powers of two are exact."""
    y = np.rint(np.ldexp(rotated(spec, work).astype(np.float64), -spec.shift))
    return {"o": {"y": y.astype(np.int64)}}


def explain(
    spec: HadamardSpec, work: HadamardWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The elements behind a result."""
    beat, element = index[0], index[1]
    signs = "" if work.signs is None else f" signs={work.signs.tolist()}"
    exact = int(rotated(spec, work)[beat, element])
    return f"x={work.x[beat].tolist()}{signs} exact sum {exact}"


def coverage(spec: HadamardSpec, work: HadamardWork) -> Iterator[str]:
    """Coverage points of one work."""
    y = rotated(spec, work)
    low, high = spec.exact_range
    if (y == low).any():
        yield "sum=lowest"
    if (y == high).any():
        yield "sum=highest"
    if spec.shift and (y % (1 << spec.shift) == 1 << (spec.shift - 1)).any():
        yield "rounding=tie"
    if work.signs is not None and 0 < work.signs.sum() < spec.size:
        yield "signs=mixed"


def coverage_points(spec: HadamardSpec) -> tuple[str, ...]:
    """Every coverage point."""
    ties = ("rounding=tie",) if spec.shift else ()
    mixed = ("signs=mixed",) if spec.signs == "job" else ()
    return ("sum=lowest", "sum=highest", *ties, *mixed)
