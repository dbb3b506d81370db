"""The GEMMs that an operator of a workload is on a core: shapes, sizes, and how often.

A linear layer is one shape. Attention is one shape for each number of whole tiles that rows see:
rows of a prefill whose spans of visible tokens end in the same tile are a *strip*, steps of a
decoding that see as many tiles are alike. The cycles of all of them together are those of
:func:`sw_driver.mapper.cost.attention`, less its one latency a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from sw_driver.mapper import cost
from sw_driver.mapper.choices import (
    Choices,
    core_ints,
    group_of,
    group_scale_bits,
    operator_bits,
    system_of,
)
from sw_driver.mapper.core import Core
from sw_driver.mapper.cost import CoreInts
from sw_driver.mapper.operator_cost import cache_bits
from sw_driver.mapper.workload import Attention, Linear, Operator
from sw_driver.system.schedule import Blocking, Gemm, Sram, fits

SCORE_BITS = 16
"""Width of scores between the two products of attention, on chip or not."""
SUM_BITS = 32
"""Width of sums over scale groups."""
MOST_SPANS = 4096
"""Different spans of one operator; of more, neighbours are rounded up to the longest of them."""


class Work(NamedTuple):
    """``times`` runs of one shape, one after another."""

    gemm: Gemm
    times: int


def gemms(
    operator: Operator, core: Core, choices: Choices, sram: Sram, *, on_chip: bool | None = None
) -> list[Work]:
    """What an operator is on cores of a kind in the whole phase.

    Args:
        on_chip: whether scores stay on chip; what the buffers allow if None.
    """
    if isinstance(operator, Linear):
        gemm = _linear(operator, core, choices)
        return [
            Work(gemm._replace(m=rows, instances=instances), times)
            for rows, instances, times in rows_of(operator)
        ]
    stay = scores_stay(operator, core, choices, sram) if on_chip is None else on_chip
    unit = core.n if operator.kind == "scores" else core.k
    return [
        Work(_product(operator, core, choices, rows, tokens, stay), times * operator.layers)
        for rows, tokens, times in merged(spans(operator, core.m, unit), unit)
    ]


def _sizes(core: Core, ints: CoreInts) -> dict[str, Any]:
    """Bits of elements, or of steps where these are not so many elements."""
    a_plain = ints.activation_step_bits == core.k * ints.activation_bits
    w_plain = ints.step_bits == core.k * ints.weight_bits
    return {
        "a_bits": ints.activation_bits if a_plain else 0,
        "w_bits": ints.weight_bits if w_plain else 0,
        "a_step_bits": ints.activation_step_bits,
        "w_step_bits": ints.step_bits,
        "tile_m": core.m,
        "tile_n": core.n,
        "step": core.k,
        "max_steps": core.max_k_steps,
        "start": ints.job_start,
        "step_cycles": ints.step_cycles,
        "latency": core.latency,
    }


def rows_of(operator: Linear) -> list[tuple[int, int, int]]:
    """``(rows, instances, times)`` of the GEMMs of a linear layer.

    Experts of different rows are runs of their own, expected numbers of them rounded.
    """
    if operator.ragged:
        found = [(rows, 1, round(count)) for rows, count in operator.ragged]
        return [item for item in found if item[2]]
    if operator.rising is None:
        return [(operator.m, operator.instances, operator.runs)]
    rising = operator.rising
    total: dict[int, int] = {}
    for step in range(rising.steps):
        rows = operator.m + rising.each * rising.line.at(step)
        total[rows] = total.get(rows, 0) + operator.runs // rising.steps
    return [(rows, operator.instances, times) for rows, times in total.items()]


def _linear(operator: Linear, core: Core, choices: Choices) -> Gemm:
    ints = core_ints(core, operator_bits(operator, core, choices))
    system = system_of(core, choices)
    group = operator.k if core.own_scales else group_of(operator, choices, operator.k)
    grouped = group < operator.k
    scale = int(group_scale_bits(operator, choices, ints, system))
    cached = cache_bits(operator.written, core, choices)
    return Gemm(
        m=operator.m,
        n=operator.n,
        k=operator.k,
        instances=operator.instances,
        unit=group if grouped else core.k,
        grouped=grouped,
        group_bits=scale if grouped else 0,
        wide_bits=SUM_BITS if grouped else core.result_bits,
        out_num=cached or system.output_bits,
        out_den=operator.n if cached else 1,
        row_bits=(1 - core.own_scales) * system.scale_bits,
        column_bits=(0 if grouped else scale) + 16 * operator.bias,
        **_sizes(core, ints),
    )


def _product(
    operator: Attention, core: Core, choices: Choices, rows: int, tokens: int, on_chip: bool
) -> Gemm:
    """One product of some rows with a run of visible tokens."""
    ints = core_ints(core, operator_bits(operator, core, choices))
    system = system_of(core, choices)
    scores = operator.kind == "scores"
    scale = int(cost.scale_bits(ints, system))
    row = (1 - core.own_scales) * system.scale_bits
    sizes = _sizes(core, ints)
    if not scores and not sizes["w_bits"]:
        # V is kept as rows of a token, its channels padded to steps.
        row_bits = int(cost.row_bits(ints, operator.head_dim))
        sizes["w_step_bits"] = cost.ceil_div(core.k * row_bits, operator.head_dim)
    return Gemm(
        m=rows,
        n=tokens if scores else operator.head_dim,
        k=operator.head_dim if scores else tokens,
        instances=operator.instances,
        unit=core.k,
        grouped=False,
        # Scales of V are one a token, which its columns share.
        group_bits=0 if scores else cost.ceil_div(core.k * scale, operator.head_dim),
        wide_bits=core.result_bits,
        out_num=(0 if on_chip else SCORE_BITS) if scores else system.output_bits,
        out_den=1,
        row_bits=row if scores else 0,
        column_bits=scale if scores else 0,
        keep_a=on_chip and not scores,
        keep_o=SCORE_BITS if on_chip and scores else 0,
        **sizes,
    )


def scores_stay(operator: Attention, core: Core, choices: Choices, sram: Sram) -> bool:
    """Whether scores need not go to DRAM: a tile of rows of the longest span fits the buffers.

    As scores, beside the least blocks of the product that makes them; and as probabilities, beside
    those of the product that takes them. The same for both products of a layer.
    """
    longest = max(tokens for _, tokens, _ in spans(operator, core.m, core.n))
    rows = min(core.m, operator.rows)
    least = Blocking("mnk", 1, 1, 1, 1, 1, 1)
    kinds: tuple[Literal["scores", "values"], ...] = ("scores", "values")
    for kind in kinds:
        one = replace(operator, kind=kind)
        if not fits(_product(one, core, choices, rows, longest, True), least, sram):
            return False
    return True


def spans(operator: Attention, tile: int, unit: int) -> Iterator[tuple[int, int, int]]:
    """``(rows, tokens, times)``: rows of A that see so many tokens, in whole ``unit``\\ s.

    Rows of one instance in one layer; ``times`` of them one after another. Tiles are of ``tile``
    rows, and a tile sees what any of its rows does, as :func:`sw_driver.mapper.cost.spans` has it.
    """
    tokens, past, steps = operator.tokens, operator.past, operator.steps
    if not operator.causal:
        yield operator.rows, -(-(past + tokens) // unit) * unit, steps
    elif tokens == 1 and operator.line == cost.Line(1):
        yield from _growing(operator, unit)
    else:
        for step in range(steps):
            before = past + operator.line.at(step)
            if not operator.serial:
                yield from _strips(operator, tile, unit, before)
                continue
            for token in range(tokens):
                seen = min(before + token + 1, operator.window or cost.NO_WINDOW)
                yield operator.rows, -(-seen // unit) * unit, 1


def _growing(operator: Attention, unit: int) -> Iterator[tuple[int, int, int]]:
    """:func:`spans` of steps of one token, each after one more."""
    past, group, steps = operator.past, operator.group, operator.steps
    window = operator.window or cost.NO_WINDOW

    def whole(length: int) -> int:
        return -(-length // unit) * unit

    seen = past + 1
    left = steps
    while left:
        if seen >= window:
            yield group, whole(window), left
            return
        # The steps up to the end of this tile, or of the window.
        alike = min(left, min(whole(seen), window - 1) - seen + 1)
        yield group, whole(seen), alike
        seen, left = seen + alike, left - alike


def _strips(operator: Attention, tile: int, unit: int, past: int) -> Iterator[tuple[int, int, int]]:
    """:func:`spans` of one step of several tokens after ``past``."""
    tokens, group = operator.tokens, operator.group
    window = operator.window or cost.NO_WINDOW

    def whole(length: int) -> int:
        return -(-length // unit) * unit

    tiles = -(-tokens * group // tile)
    full = tiles - 1
    first = max(0, min(-(-group * (window - past) // tile), full))

    def end(number: int) -> int:
        """The last token of a full tile, of the new ones."""
        return ((number + 1) * tile - 1) // group

    at = 0
    while at < first:
        length = whole(past + end(at) + 1)
        # Full tiles that end no later than this: (i + 1)·tile - 1 < (length - past)·group.
        until = min(first, ((length - past) * group) // tile)
        yield (until - at) * tile, length, 1
        at = until
    straddle = (tile - 1) // group
    if full > first:
        wider = sum(
            cost.floor_sum(count, group, tile, start) * sign
            for count, start, sign in (
                (full, tile - 1, 1),
                (first, tile - 1, -1),
                (full, 0, -1),
                (first, 0, 1),
            )
        )
        wider -= straddle * (full - first)
        for count, length in (
            (wider, window + straddle + 1),
            (full - first - wider, window + straddle),
        ):
            if count:
                yield count * tile, whole(length), 1
    low = max(past + full * tile // group - window + 1, 0)
    yield operator.rows - full * tile, whole(past + tokens - low), 1


def merged(
    found: Iterator[tuple[int, int, int]], unit: int, most: int = MOST_SPANS
) -> list[tuple[int, int, int]]:
    """Spans of one length as one; of more than ``most`` lengths neighbours become one."""
    listed = list(found)
    count = len({tokens for _, tokens, _ in listed})
    coarse = unit * -(-count // most)
    total: dict[tuple[int, int], int] = {}
    for rows, tokens, times in listed:
        key = rows, -(-tokens // coarse) * coarse
        total[key] = total.get(key, 0) + times
    return [(rows, tokens, times) for (rows, tokens), times in total.items()]
