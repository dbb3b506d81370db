"""The closed forms against plain counting."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from sw_driver.mapper.cost import (
    NO_WINDOW,
    CoreInts,
    Line,
    Rising,
    System,
    attention,
    ceil_div,
    floor_sum,
    linear,
    spans,
)

CORE = CoreInts(
    m=2,
    n=8,
    k=16,
    max_k_steps=4,
    latency=3,
    job_start=0,
    step_cycles=2,
    passes=2,
    weight_passes=1,
    step_bits=32,
    activation_bits=8,
    activation_step_bits=8 * 16,
    own_scales=0,
    zero_bits=2,
    weight_bits=2,
)
PLENTY = System(buffer=1 << 30, output_bits=8, scale_bits=16)
NONE = PLENTY._replace(buffer=0)


def counted_spans(
    rows: int,
    unit: int,
    *,
    group: int,
    tokens: int,
    past: int,
    steps: int,
    window: int,
    causal: bool,
    rise: Line | None = None,
    serial: bool = False,
) -> int:
    """Tile by tile, row by row."""
    total = 0
    for step in range(steps):
        before = past + (step * tokens if rise is None else step * rise.up // rise.down)
        if serial:
            one = {"rows": rows, "unit": unit, "group": group, "tokens": 1, "steps": 1}
            for token in range(tokens):
                total += counted_spans(
                    **one, past=before + token, window=window, causal=causal, rise=None
                )
            continue
        for start in range(0, tokens * group, rows):
            seen: set[int] = set()
            for row in range(start, min(start + rows, tokens * group)):
                last = before + row // group + 1 if causal else before + tokens
                seen |= set(range(max(0, last - window), last))
            assert len(seen) == max(seen) - min(seen) + 1
            total += -(-len(seen) // unit)
    return total


def random_spans(rng: random.Random) -> dict[str, Any]:
    causal = rng.random() < 0.9
    one = rng.random() < 0.4
    tokens = 1 if one else rng.randint(1, 20)
    rise = None
    if causal and rng.random() < 0.5:
        # A step adds a token at least and all that it computes at most.
        down = rng.randint(1, 9)
        rise = Line(rng.randint(down, tokens * down), down)
    return {
        "rows": rng.randint(1, 9),
        "unit": rng.randint(1, 12),
        "group": rng.randint(1, 7),
        "tokens": tokens,
        "steps": rng.randint(1, 20) if causal else 1,
        "past": rng.randint(0, 20) if causal else 0,
        "window": rng.choice([NO_WINDOW, rng.randint(1, 60)]) if causal else NO_WINDOW,
        "causal": causal,
        "rise": rise,
        "serial": causal and rng.random() < 0.2,
    }


def test_spans_equal_counting() -> None:
    rng = random.Random(5)
    for _ in range(3000):
        case = random_spans(rng)
        assert spans(**case) == counted_spans(**case), case


def test_spans_of_arrays_equal_those_of_integers() -> None:
    rng = random.Random(6)
    for _ in range(50):
        case = random_spans(rng)
        rows, units = np.arange(1, 8)[:, None], np.array([[1, 3, 16]])
        windows = np.array([[case["window"], 5, NO_WINDOW]])
        if not case["causal"]:
            windows[:] = NO_WINDOW
        found = spans(**{**case, "rows": rows, "unit": units, "window": windows})
        for (i, j), value in np.ndenumerate(np.broadcast_to(found, (7, 3))):
            one = {
                **case,
                "rows": int(rows[i, 0]),
                "unit": int(units[0, j]),
                "window": int(windows[0, j]),
            }
            assert value == spans(**one)


def test_floor_sum_equals_counting() -> None:
    rng = random.Random(7)
    for _ in range(500):
        n, m, a, b = rng.randint(0, 30), rng.randint(1, 20), rng.randint(0, 40), rng.randint(0, 40)
        assert floor_sum(n, m, a, b) == sum((a * i + b) // m for i in range(n))


def test_sums_over_a_line_equal_counting() -> None:
    rng = random.Random(11)
    for _ in range(500):
        down = rng.randint(1, 12)
        line = Line(rng.randint(0, 40), down)
        steps, start, unit = rng.randint(0, 30), rng.randint(0, 50), rng.randint(1, 20)
        each = rng.choice([1, rng.randint(1, 5)])
        counted = sum(-(-(start + each * line.at(step)) // unit) for step in range(steps))
        assert line.over(steps, start, unit, each) == counted


def test_rows_that_rise_cost_the_sum_of_their_steps() -> None:
    """With one loop that is best in every step, the closed form is the sum over single runs."""
    rng = random.Random(12)
    for _ in range(200):
        line = Line(rng.randint(1, 20), rng.randint(1, 4))
        rising = Rising(steps=rng.randint(1, 12), each=rng.randint(1, 3), line=line)
        m, n, k = rng.randint(1, 30), rng.randint(1, 40), rng.randint(1, 100)
        more = {"group": rng.choice([k, 16]), "bias": 1, "instances": 2, "cache_row_bits": 5}
        system = rng.choice([PLENTY, NONE])
        found = one_linear(CORE, system, m, n, k, rising=rising, runs=3, **more)
        rows = [m + rising.each * line.at(step) for step in range(rising.steps)]
        every = [one_linear(CORE, system, row, n, k, runs=3, **more) for row in rows]
        for name in found._fields:
            if name not in ("weight_reads", "activation_reads"):
                assert getattr(found, name) == sum(getattr(one, name) for one in every), name


def test_rows_that_rise_take_one_loop_for_all_steps() -> None:
    # Room for three tiles, as below: W in blocks of two tiles, or A in blocks of two.
    system = PLENTY._replace(buffer=384)
    rising = Rising(steps=10, each=1, line=Line(6))
    found = one_linear(CORE, system, 4, 40, 64, rising=rising)
    rows = [4 + 6 * step for step in range(10)]
    hold_w = sum(640 + row * 64 * 3 for row in rows)
    hold_a = sum(row * 64 + 640 * -(-row // 4) for row in rows)
    assert found.weight_bytes + found.activation_bytes == min(hold_w, hold_a)


def counted_jobs(core: CoreInts, m: int, n: int, k: int, group: int) -> list[int]:
    """K steps of every job, job by job, as the driver runs them."""
    jobs = []
    for _ in range(0, m, core.m):
        for _ in range(0, n, core.n):
            for start in range(0, k, group):
                steps = -(-min(group, k - start) // core.k)
                while steps > 0:
                    jobs.append(min(steps, core.max_k_steps))
                    steps -= core.max_k_steps
    return jobs


def one_linear(core: CoreInts, system: System, m: int, n: int, k: int, **more: Any) -> Any:
    settings = {"runs": 1, "instances": 1, "group": k, "cache_row_bits": 0, "bias": 0, **more}
    return linear(core, system, m=m, n=n, k=k, **settings)


def test_jobs_and_cycles_equal_counting() -> None:
    rng = random.Random(8)
    for _ in range(300):
        m, n, k = rng.randint(1, 9), rng.randint(1, 40), rng.randint(1, 300)
        group = rng.choice([k, rng.randint(1, k)])
        core = CORE._replace(job_start=rng.randint(0, 3), step_cycles=rng.randint(1, 4))
        jobs = counted_jobs(core, m, n, k, group)
        result = one_linear(core, PLENTY, m, n, k, group=group, runs=3)
        assert result.jobs == 3 * len(jobs)
        assert result.steps == 3 * sum(jobs)
        each = sum(core.job_start + core.step_cycles * steps for steps in jobs)
        assert result.cycles == 3 * (3 + each)


def test_bytes_with_room_for_everything() -> None:
    # 5 × 64 activations of 8 bits, 20 × 64 weights of 2 bits, 5 × 20 results of 8 bits.
    result = one_linear(CORE, PLENTY, 5, 20, 64)
    assert result.activation_bytes == 320
    assert result.weight_bytes == 20 * 64 * 2 // 8
    assert result.output_bytes == 100
    # A scale of 16 bits and a zero point of 2 for each row of W, a scale for each row of A.
    assert result.scale_bytes == 20 * 18 // 8 + 5 * 2
    assert result.bytes == 320 + 320 + 100 + 55


def test_bytes_of_groups_bias_cache_and_instances() -> None:
    result = one_linear(CORE, PLENTY, 5, 20, 64, group=32, bias=1, instances=3, runs=2)
    assert result.scale_bytes == 6 * (20 * 2 * 18 // 8 + 40 + 10)
    result = one_linear(CORE, PLENTY, 5, 20, 64, cache_row_bits=77)
    assert result.output_bytes == -(-5 * 77 // 8)


def test_without_a_buffer_everything_is_read_for_every_tile_and_pass() -> None:
    result = one_linear(CORE, NONE, 5, 20, 64)
    assert (result.weight_reads, result.activation_reads) == (3, 3 * 2)
    assert result.weight_bytes == 3 * 320
    assert result.activation_bytes == 6 * 320


@pytest.mark.parametrize(
    ("m", "n", "reads"),
    [
        (6, 40, (2, 1)),  # 640 + 3·384 is more than 2·640 + 384
        (6, 200, (2, 1)),  # 3200 + 13·384 is more than 2·3200 + 384
        (60, 40, (1, 3)),  # 640 + 3·3840 is less than 15·640 + 3840
        (4, 200, (1, 1)),  # all rows of A fit
        (60, 16, (1, 1)),  # all of W fits
    ],
)
def test_a_buffer_holds_a_block_of_one_operand(m: int, n: int, reads: tuple[int, int]) -> None:
    # K is 64: a tile of A takes 128 bytes, one of W too, and the buffer holds three of them: two
    # tiles of W (16 columns) beside one of A, or two tiles of A (4 rows) beside one of W.
    result = one_linear(CORE, PLENTY._replace(buffer=384), m, n, 64)
    assert (result.weight_reads, result.activation_reads) == reads
    assert result.weight_bytes == reads[0] * n * 16
    assert result.activation_bytes == reads[1] * m * 64


def test_packed_trits_take_whole_bytes_a_step() -> None:
    # Five trits a byte: 16 lanes take 4 bytes, 20 lanes 4 bytes.
    core = CORE._replace(k=20, step_bits=32, activation_step_bits=160, weight_bits=2, zero_bits=0)
    assert one_linear(core, PLENTY, 1, 8, 60).weight_bytes == 8 * 3 * 4
    assert one_linear(core, PLENTY, 1, 8, 61).weight_bytes == 8 * 4 * 4


def one_attention(system: System = PLENTY, **more: Any) -> Any:
    settings: dict[str, Any] = {
        "values": 0,
        "layers": 1,
        "instances": 1,
        "group": 4,
        "head_dim": 32,
        "tokens": 1,
        "past": 99,
        "steps": 1,
        "window": NO_WINDOW,
        "causal": True,
        **more,
    }
    return attention(CORE, system, **settings)


def test_attention_of_one_decoded_token() -> None:
    # 100 tokens, 4 query heads on one KV head: 2 × 13 tiles of scores, 2 K steps each.
    scores = one_attention()
    assert (scores.jobs, scores.steps) == (26, 52)
    assert scores.cycles == 3 + 2 * 52
    # The cache is read once: 100 rows of 32 codes of 2 bits, a scale and a zero point each.
    assert scores.weight_bytes == 100 * 8
    assert scores.scale_bytes == 100 * 18 // 8
    assert scores.activation_bytes == 4 * 32
    assert scores.output_bytes == 0
    # Values: 4 columns tiles of 8 channels, 7 K steps of 16 tokens in 2 jobs of at most 4.
    values = one_attention(values=1)
    assert (values.jobs, values.steps) == (2 * 4 * 2, 2 * 4 * 7)
    assert values.weight_bytes == 800
    assert values.activation_bytes == 0
    assert values.output_bytes == 4 * 32


def test_attention_over_steps_layers_and_sequences() -> None:
    result = one_attention(steps=3, layers=5, instances=7)
    tiles = sum(2 * ceil_div(tokens, 8) for tokens in (100, 101, 102))
    assert result.jobs == 5 * 7 * tiles
    assert result.cycles == 5 * (3 * 3 + 7 * 2 * 2 * tiles)
    assert result.weight_bytes == 35 * (100 + 101 + 102) * 8


def test_attention_of_verified_and_drafted_tokens() -> None:
    # Three tokens a step, of which 1.5 stay: after 99, 100, 102 and 103 tokens, 4 heads, two rows.
    line = Line(3, 2)
    result = one_attention(tokens=3, steps=4, rise=line)
    tiles = sum(ceil_div(past + token, 8) for past in (99, 100, 102, 103) for token in (1, 2, 3))
    assert result.jobs == 2 * tiles
    assert result.cycles == 4 * 3 + 2 * 2 * 2 * tiles
    # All 12 rows are held beside a tile of the cache, which is read once a step.
    assert result.weight_bytes == 8 * (102 + 103 + 105 + 106)
    assert result.activation_bytes == 4 * 12 * 32
    # One after another each has a run of its own, and its own reading of the cache.
    serial = one_attention(tokens=3, steps=4, rise=line, serial=True)
    assert serial.jobs == 2 * tiles
    assert serial.cycles == 12 * 3 + 2 * 2 * 2 * tiles
    seen = sum(past + token for past in (99, 100, 102, 103) for token in (1, 2, 3))
    assert serial.weight_bytes == 8 * seen


def test_attention_within_a_window() -> None:
    result = one_attention(window=64, steps=2)
    assert result.jobs == 2 * 2 * 8
    assert result.weight_bytes == 2 * 64 * 8


def test_scores_that_do_not_fit_go_through_memory() -> None:
    # Two rows of 100 scores of 16 bits are 400 bytes.
    tight = PLENTY._replace(buffer=399)
    assert one_attention(tight).output_bytes == 4 * 100 * 2
    assert one_attention(tight, values=1).activation_bytes == 4 * 100
    assert one_attention(PLENTY._replace(buffer=400)).output_bytes == 0
