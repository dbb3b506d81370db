"""Closed forms of jobs, cycles and bytes; docs/mapping.md derives them.

Every function works on Python integers and on integer arrays alike (a shape is then an array of
shapes, a core an array of cores): one model is mapped without numpy, thousands of points with it.
All divisions are exact or rounded as written; nothing is a float until seconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# An int, or an int64 array.
Ints = Any

NO_WINDOW = 1 << 40
"""Stands for "all tokens" where a window is an operand."""


def ceil_div(a: Ints, b: Ints) -> Ints:
    """``ceil(a / b)``."""
    return -(-a // b)


def least(a: Ints, b: Ints) -> Ints:
    """The smaller one, element by element."""
    return a + (b - a) * (b < a)


def most(a: Ints, b: Ints) -> Ints:
    """The larger one, element by element."""
    return a + (b - a) * (b > a)


def pick(condition: Ints, a: Ints, b: Ints) -> Ints:
    """``a`` where the condition holds, else ``b``."""
    return b + (a - b) * condition


def floor_sum(n: Ints, m: Ints, a: Ints, b: Ints) -> Ints:
    """``Σ floor((a·i + b) / m)`` for ``i`` from 0 to ``n − 1``; all non-negative, ``m`` positive.

    The lattice points below a line, counted by the steps of Euclid's algorithm.
    """
    total = 0 * (n + m + a + b)
    while True:
        total = total + n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        top = a * n + b
        n, b = top // m, top % m
        if not (n if isinstance(n, int) else n.any()):
            return total
        # Where nothing is left n is 0 and a may be: any divisor will do there.
        m, a = a + (a == 0), m


class Line(NamedTuple):
    """Whole numbers that rise with the steps of a phase: ``floor(s · up / down)`` after ``s``."""

    up: int
    down: int = 1

    def at(self, step: int) -> int:
        return step * self.up // self.down

    def over(self, steps: Ints, start: Ints, unit: Ints, each: Ints = 1) -> Ints:
        """``Σ ceil((start + each · floor(s·up / down)) / unit)`` over so many steps."""
        if isinstance(each, int) and each == 1:
            # The inner rounding is the outer one's: start and unit are whole.
            first = self.down * (start + unit - 1)
            return floor_sum(steps, self.down * unit, self.up + 0 * unit, first)
        total = 0 * (steps + unit)
        for rest in range(self.down):
            # Steps of one remainder rise by whole numbers: `up` for every `down` of them.
            count = most(ceil_div(steps - rest, self.down), 0 * steps)
            first = start + each * self.at(rest) + unit - 1
            total = total + floor_sum(count, unit, each * self.up + 0 * unit, first)
        return total


def spans(
    rows: Ints,
    unit: Ints,
    *,
    group: Ints,
    tokens: int,
    past: int,
    steps: int,
    window: Ints,
    causal: bool,
    rise: Line | None = None,
    serial: bool = False,
) -> Ints:
    """``Σ ceil(span / unit)`` over tiles of ``rows`` rows of A, and over the steps.

    The span of a tile is the run of tokens that at least one of its rows sees. Rows are ``tokens``
    tokens times ``group`` query heads, token by token; token ``t`` of a step after ``past`` tokens
    sees ``past + t + 1`` of them, the last ``window`` at most. A tile is cut wherever its span
    starts: nothing outside it is computed.

    Args:
        rise: tokens that there are more before each next step; ``tokens`` without it.
        serial: the tokens of a step come one after another, each with tiles of its own.
    """
    if not causal:
        return steps * ceil_div(tokens * group, rows) * ceil_div(past + tokens, unit)
    rise = rise or Line(tokens)
    if tokens == 1 or serial:
        seen = 0
        for token in range(tokens):
            seen = seen + _one_tile(unit, past + token, steps, rise, 0, 0, window)
        return ceil_div(group, rows) * seen
    if steps == 1:
        return _one_step(rows, unit, group, tokens, past, window)
    tiles = ceil_div(tokens * group, rows)
    deepest = tiles if isinstance(tiles, int) else int(tiles.max())
    total = 0
    if steps <= deepest:
        for step in range(steps):
            total = total + _one_step(rows, unit, group, tokens, past + rise.at(step), window)
        return total
    for tile in range(deepest):
        start = least(tile * rows // group, tokens - 1 + 0 * rows)
        end = least(((tile + 1) * rows - 1) // group, tokens - 1 + 0 * rows)
        here = _one_tile(unit, past, steps, rise, start, end, window)
        total = total + (tile < tiles) * here
    return total


def _one_tile(
    unit: Ints, past: int, steps: int, rise: Line, start: Ints, end: Ints, window: Ints
) -> Ints:
    """``Σ ceil(span / unit)`` over the steps, of the tile of tokens ``start`` to ``end``."""
    # Up to some step the tile sees everything from token 0 on, then what the window leaves.
    fits = ceil_div((window - past - start) * rise.down, rise.up)
    growing = most(least(fits, steps + 0 * fits), 0 * fits)
    sliding = ceil_div(end - start + window, unit)
    return rise.over(growing, past + end + 1, unit) + (steps - growing) * sliding


def _one_step(rows: Ints, unit: Ints, group: Ints, tokens: int, past: int, window: Ints) -> Ints:
    """``Σ ceil(span / unit)`` over the tiles of one step."""
    # All tiles but the last one are full. Tile i ends at token floor(((i+1)·rows − 1) / group) and
    # starts at token floor(i·rows / group); up to tile `first` it sees everything from token 0 on.
    full = ceil_div(tokens * group, rows) - 1
    first = most(least(ceil_div(group * (window - past), rows), full), 0 * full)
    total = floor_sum(first, group * unit, rows, rows - 1 + group * (past + unit))
    # From there on the span is the window and the tokens that the tile straddles.
    sliding = full - first
    straddle = (rows - 1) // group
    ends = floor_sum(full, group, rows, rows - 1) - floor_sum(first, group, rows, rows - 1)
    starts = floor_sum(full, group, rows, 0 * rows) - floor_sum(first, group, rows, 0 * rows)
    wider = ends - starts - straddle * sliding
    total = total + wider * ceil_div(window + straddle + 1, unit)
    total = total + (sliding - wider) * ceil_div(window + straddle, unit)
    low = most(past + full * rows // group - window + 1, 0 * full)
    return total + ceil_div(past + tokens - low, unit)


class CoreInts(NamedTuple):
    """Fields of a core at the weight width of an operator, as ints or arrays."""

    m: Ints
    n: Ints
    k: Ints
    max_k_steps: Ints
    latency: Ints
    job_start: Ints
    step_cycles: Ints
    passes: Ints
    weight_passes: Ints
    step_bits: Ints
    activation_bits: Ints
    activation_step_bits: Ints
    own_scales: Ints
    zero_bits: Ints
    weight_bits: Ints


class System(NamedTuple):
    """What surrounds the core: on-chip buffer in bytes, widths in bits."""

    buffer: Ints
    output_bits: Ints
    scale_bits: Ints


class Cost(NamedTuple):
    """What an operator takes in a phase. Bytes are of DRAM traffic."""

    jobs: Ints
    steps: Ints
    cycles: Ints
    weight_bytes: Ints
    scale_bytes: Ints
    activation_bytes: Ints
    output_bytes: Ints
    outside: Ints
    """Elements that are scaled or added outside the core: one for each partial result."""
    weight_reads: Ints
    activation_reads: Ints

    @property
    def bytes(self) -> Ints:
        return self.weight_bytes + self.scale_bytes + self.activation_bytes + self.output_bytes


def row_bits(core: CoreInts, k: Ints) -> Ints:
    """Bits of memory that ``k`` weights of one row take."""
    plain = core.step_bits == core.k * core.weight_bits
    return pick(plain, k * core.weight_bits, ceil_div(k, core.k) * core.step_bits)


def activation_row_bits(core: CoreInts, k: Ints) -> Ints:
    """Bits of memory that ``k`` activations of one row take."""
    plain = core.activation_step_bits == core.k * core.activation_bits
    steps = ceil_div(k, core.k)
    return pick(plain, k * core.activation_bits, steps * core.activation_step_bits)


def scale_bits(core: CoreInts, system: System) -> Ints:
    """Bits of a scale, and of the zero point beside it, that are applied outside of the core."""
    return (1 - core.own_scales) * (system.scale_bits + core.zero_bits)


class Rising(NamedTuple):
    """Rows of A that grow from step to step: ``m + each · line.at(s)`` in step ``s``."""

    steps: int
    each: int
    line: Line

    def over(self, m: Ints, unit: Ints, bits: Ints = 1) -> Ints:
        """``Σ ceil(rows · bits / unit)`` over the steps."""
        return self.line.over(self.steps, m * bits, unit + 0 * bits, self.each * bits)


def linear(
    core: CoreInts,
    system: System,
    *,
    m: Ints,
    n: Ints,
    k: Ints,
    runs: Ints,
    instances: Ints,
    group: Ints,
    cache_row_bits: Ints,
    bias: Ints,
    group_bits: Ints | None = None,
    starts: Ints | None = None,
    rising: Rising | None = None,
    stack: int = 1,
    operand_bytes: Ints | None = None,
    row_scale_bits: Ints | None = None,
) -> Cost:
    """A linear layer.

    Args:
        group: elements of K that share a scale; ``k`` for one scale a row.
        cache_row_bits: bits of a result row that goes to the KV cache, 0 for other results.
        bias: 1 if a bias vector is read.
        group_bits: bits of a group's scale and of what lies beside it, 0 if the core applies them;
            a scale and the core's zero point if None.
        starts: how often the core's latency is paid; once a run if None.
        rising: how the rows grow over the steps, of which each is ``runs`` runs; one of the two
            loops is taken for all of them.
        stack: linear layers of this shape that take A in one pass; this is the cost of one of them,
            ``A`` once a pass.
        operand_bytes: what one reading of all A takes, if not ``k`` activations a row.
        row_scale_bits: bits of the scale of a row of A; one scale if the core applies none if None.
    """
    count = 1 if rising is None else rising.steps

    def over(unit: Ints, bits: Ints = 1) -> Ints:
        return ceil_div(m * bits, unit) if rising is None else rising.over(m, unit, bits)

    every = m if rising is None else over(1)
    m_tiles, n_tiles = over(core.m), ceil_div(n, core.n)
    group = pick(core.own_scales == 1, k, group)
    groups = ceil_div(k, group)
    group_bits = scale_bits(core, system) if group_bits is None else group_bits
    whole = ceil_div(group, core.k)
    last = ceil_div(k - (groups - 1) * group, core.k)
    row_steps = (groups - 1) * whole + last
    row_jobs = (groups - 1) * ceil_div(whole, core.max_k_steps) + ceil_div(last, core.max_k_steps)
    tiles = m_tiles * n_tiles * instances
    jobs, steps = runs * tiles * row_jobs, runs * tiles * row_steps
    starts = runs * count if starts is None else starts
    cycles = starts * core.latency + core.job_start * jobs + core.step_cycles * steps

    a_row, w_row = activation_row_bits(core, k), row_bits(core, k)
    weights = ceil_div(n * w_row, 8)
    activations = over(8, a_row) if operand_bytes is None else operand_bytes
    scales = ceil_div(n * groups * group_bits, 8)
    token_scale = row_scale_bits
    if token_scale is None:
        token_scale = (1 - core.own_scales) * system.scale_bits
    extra = bias * n * 2
    tile_a, tile_w = ceil_div(core.m * a_row, 8), ceil_div(core.n * w_row, 8)
    fits = tile_a + tile_w <= system.buffer
    n_block = most((system.buffer - tile_a) * 8 // w_row // core.n, 1) * core.n
    m_block = most((system.buffer - tile_w) * 8 // a_row // core.m, 1) * core.m
    a_again, w_again = ceil_div(stack * n, n_block), over(m_block)
    held = stack * weights * count + activations * a_again
    resident = held <= activations + stack * weights * w_again
    a_reads = pick(fits, pick(resident, a_again, 1), stack * n_tiles * core.passes)
    w_reads = pick(fits, pick(resident, count, w_again), m_tiles)
    o_bytes = pick(cache_row_bits > 0, over(8, cache_row_bits), over(8, n * system.output_bits))
    times = runs * instances
    return Cost(
        jobs=jobs,
        steps=steps,
        cycles=cycles,
        weight_bytes=times * weights * pick(fits, 1, core.weight_passes) * w_reads,
        scale_bytes=times * (scales * w_reads + extra * count + over(8, token_scale)),
        activation_bytes=times * activations * a_reads,
        output_bytes=times * o_bytes,
        outside=times * every * n * row_jobs,
        weight_reads=pick(fits, 1, core.weight_passes) * ceil_div(w_reads, count),
        activation_reads=a_reads,
    )


def block_rows(
    core: CoreInts, system: System, *, rows: Ints, head_dim: Ints, longest: Ints
) -> Ints:
    """Rows of A that take the visible cache in one reading.

    All of them if they fit beside a tile of the cache, or the visible cache beside a tile of them;
    else as many whole tiles as fit, one at least.
    """
    a_row = ceil_div(activation_row_bits(core, head_dim), 8)
    token_bits = row_bits(core, head_dim)
    tile = ceil_div(core.n * token_bits, 8)
    whole = ceil_div(longest * token_bits, 8)
    holds_rows = rows * a_row + tile <= system.buffer
    holds_cache = whole + core.m * a_row <= system.buffer
    blocks = most((system.buffer - tile) // (core.m * a_row), 1) * core.m
    return pick(holds_rows + holds_cache > 0, rows + 0 * blocks, least(blocks, rows + 0 * blocks))


def attention(
    core: CoreInts,
    system: System,
    *,
    values: Ints,
    layers: Ints,
    instances: Ints,
    group: Ints,
    head_dim: Ints,
    tokens: int,
    past: int,
    steps: int,
    window: Ints,
    causal: bool,
    rise: Line | None = None,
    serial: bool = False,
) -> Cost:
    """Scores (``values`` 0) or values (``values`` 1) of attention on a cache of ``weight_bits``.

    A token of the cache is a row of ``head_dim`` codes with one scale (and zero point) for K and
    one for V; the scale of V is folded into the probabilities before they are quantized.
    """

    def over(rows: Ints, unit: Ints) -> Ints:
        return spans(
            rows,
            unit,
            group=group,
            tokens=tokens,
            past=past,
            steps=steps,
            window=window,
            causal=causal,
            rise=rise,
            serial=serial,
        )

    rise = rise or Line(tokens)
    together, runs = (1, steps * tokens) if serial else (tokens, steps)
    dim_steps = ceil_div(head_dim, core.k)
    unit = pick(values == 1, core.k, core.n)
    widest = pick(values == 1, core.k * core.max_k_steps, core.n)
    each = pick(values == 1, ceil_div(head_dim, core.n), dim_steps)
    parts = pick(values == 1, ceil_div(head_dim, core.n), ceil_div(dim_steps, core.max_k_steps))
    run_steps = instances * over(core.m, unit) * each
    run_jobs = instances * over(core.m, widest) * parts
    cycles = runs * core.latency + core.job_start * run_jobs + core.step_cycles * run_steps

    rows = together * group
    a_row = ceil_div(activation_row_bits(core, head_dim), 8)
    token_bits = row_bits(core, head_dim)
    longest = least(window + together - 1, past + rise.at(steps - 1) + tokens + 0 * window)
    block = block_rows(core, system, rows=rows, head_dim=head_dim, longest=longest)
    seen = over(block, 1)
    reads = ceil_div(rows, block)
    spilled = core.m * longest * 2 > system.buffer
    scores = spilled * core.m * over(core.m, 1)
    times = layers * instances
    vectors = runs * rows * head_dim
    return Cost(
        jobs=layers * run_jobs,
        steps=layers * run_steps,
        cycles=layers * cycles,
        weight_bytes=times * ceil_div(seen * token_bits, 8),
        scale_bytes=times * ceil_div(seen * scale_bits(core, system), 8),
        activation_bytes=times
        * pick(values == 1, ceil_div(activation_row_bits(core, scores), 8), runs * rows * a_row),
        output_bytes=times
        * pick(values == 1, ceil_div(vectors * system.output_bits, 8), scores * 2),
        outside=times * pick(values == 1, vectors, over(core.m, 1) * core.m),
        weight_reads=reads,
        activation_reads=pick(values == 1, 1, 1) + 0 * reads,
    )
