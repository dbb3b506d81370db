"""What one operator takes on a core: the closed forms with a mapping's choices put in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sw_driver.mapper import cost
from sw_driver.mapper.cache_format import (
    PLAIN_BITS,
    CacheFormat,
    Growth,
    seen_by_blocks,
    written_plain,
)
from sw_driver.mapper.choices import (
    FUSED_BITS,
    Choices,
    attends,
    core_ints,
    group_of,
    group_scale_bits,
    kv_width,
    system_of,
    tables_of,
)
from sw_driver.mapper.core import Core
from sw_driver.mapper.cost import CoreInts, System
from sw_driver.mapper.workload import Attention, Linear

FUSED_FACTOR_BITS = 32
"""Its multiplier of a row: FP32, its default."""


def with_tables(core: Core, ints: CoreInts, choices: Choices) -> CoreInts:
    """The core and what makes its tables, as one: latency, and A as it lies in memory."""
    form = tables_of(core, choices)
    if form in ("", "core") or ints.weight_bits not in core.widths:
        return ints
    if form == "fused":
        return ints._replace(
            latency=ints.latency + core.fused_latency,
            activation_bits=FUSED_BITS,
            activation_step_bits=FUSED_BITS * core.k,
        )
    ints = ints._replace(latency=ints.latency + core.table_latency)
    if form == "memory":
        ints = ints._replace(activation_step_bits=core.table_step_bits)
    return ints


def linear_cost(
    operator: Linear, core: Core, ints: CoreInts, system: System, choices: Choices
) -> cost.Cost:
    """What a linear layer takes; of experts of different rows the sum, to the nearest integer."""
    form = tables_of(core, choices)
    made = with_tables(core, ints, choices)
    fused = form == "fused"
    stack, operand, row_scale = 1, None, FUSED_FACTOR_BITS if fused else None
    if operator.remade:
        stack, operand, row_scale = 2, _inputs(operator, choices), 0

    def one(m: int, runs: int, instances: int, starts: int | None = None) -> cost.Cost:
        found = cost.linear(
            made,
            system,
            m=m,
            n=operator.n,
            k=operator.k,
            runs=runs,
            instances=instances,
            group=group_of(operator, choices, operator.k),
            group_bits=group_scale_bits(operator, choices, ints, system),
            cache_row_bits=cache_bits(operator.written, core, choices),
            bias=int(operator.bias),
            starts=starts,
            rising=operator.rising,
            stack=stack,
            operand_bytes=operand,
            row_scale_bits=row_scale,
        )
        if form != "memory":
            return found
        rising = operator.rising

        def over(unit: int, bits: int = 1) -> int:
            return int(
                cost.ceil_div(m * bits, unit) if rising is None else rising.over(m, unit, bits)
            )

        # A pass of its own before the core's: A is read, every table is written.
        times = runs * instances
        size = over(8, cost.activation_row_bits(ints, operator.k))
        size += over(8, cost.activation_row_bits(made, operator.k))
        beats = over(core.m) * cost.ceil_div(operator.k, core.k)
        return found._replace(
            cycles=found.cycles + times * beats,
            activation_bytes=found.activation_bytes + times * size,
        )

    if operator.ragged:
        found = _ragged(operator.ragged, one)
        found = found._replace(cycles=found.cycles + operator.runs * made.latency)
    else:
        steps = operator.rising.steps if operator.rising else 1
        found = one(operator.m, operator.runs // steps, operator.instances)
    if fused:
        # The gains of K channels, once a run.
        gains = operator.runs * cost.ceil_div(operator.k * FUSED_BITS, 8)
        found = found._replace(scale_bytes=found.scale_bytes + gains)
    if operator.remade:
        found = found._replace(output_bytes=0)
        if operator.role == "v":
            found = found._replace(activation_bytes=0)
    elif operator.written and choices.kv is not None and choices.kv.kind == "kivi":
        # When keys and values are written, and as what, depends on the tokens: see attention_cost.
        found = found._replace(output_bytes=0)
    return found


def _ragged(
    ragged: Sequence[tuple[int, float]], one: Callable[[int, int, int, int], cost.Cost]
) -> cost.Cost:
    """The sum over GEMMs of different rows, without latencies; reads are the most of any."""
    sums: list[float] = [0] * len(cost.Cost._fields)
    reads = (cost.Cost._fields.index("weight_reads"), cost.Cost._fields.index("activation_reads"))
    for rows, count in ragged:
        for index, value in enumerate(one(rows, 1, 1, 0)):
            if index in reads:
                sums[index] = max(sums[index], value)
            else:
                sums[index] += value * count
    return cost.Cost(*map(round, sums))


def _inputs(operator: Linear, choices: Choices) -> int:
    """Bytes of one reading of the cached inputs of all tokens that are seen, in a layer."""
    if choices.kv is None or operator.rising is None:
        raise ValueError(f"{operator.name}: inputs are cached by xquant alone")
    form, rising = choices.kv.codes, operator.rising
    first = operator.m // rising.each
    growth = Growth(past=first - 1, new=1, steps=rising.steps, line=rising.line)
    plain = growth.plain_values(form)
    bits = form.per_token_bits(growth.seen - plain, plain, operator.k)
    return int(rising.each * cost.ceil_div(bits, 8))


def cache_bits(vectors: Sequence[tuple[int, int]], core: Core, choices: Choices) -> int:
    """Bits that vectors of a token, ``(heads, channels)``, take in the cache of one layer.

    Of a cache without a scheme, or of floats.
    """
    ints = cache_ints(core, choices)
    scale = cost.scale_bits(ints, system_of(core, choices))
    return sum(int(heads * (cost.row_bits(ints, dim) + scale)) for heads, dim in vectors)


def cache_ints(core: Core, choices: Choices) -> CoreInts:
    """The core at the width of the cache; without cycles where it does no attention."""
    bits = kv_width(core, choices)
    ints = core_ints(core, bits)
    if attends(core, choices):
        return ints
    ints = ints._replace(latency=0, job_start=0, step_cycles=0)
    kind = choices.kv.kind if choices.kv else ""
    if kind in ("float", "kivi"):
        # Elements as they lie, without a scale a vector; of KIVI room is reckoned at full width.
        width = bits if kind == "float" else PLAIN_BITS
        plain = {"weight_bits": width, "step_bits": width * core.k}
        ints = ints._replace(**plain, own_scales=1, zero_bits=0)
    return ints


def attention_cost(operator: Attention, core: Core, system: System, choices: Choices) -> cost.Cost:
    """What a product of attention takes."""
    plain = cache_ints(core, choices)
    covered = attends(core, choices)
    ints = with_tables(core, plain, choices) if covered else plain
    values = operator.kind == "values"
    window = operator.window or cost.NO_WINDOW
    found = cost.attention(
        ints,
        system,
        values=int(values),
        layers=operator.layers,
        instances=operator.instances,
        group=operator.group,
        head_dim=operator.head_dim,
        tokens=operator.tokens,
        past=operator.past,
        steps=operator.steps,
        window=window,
        causal=operator.causal,
        rise=operator.rise,
        serial=operator.serial,
    )
    if covered and tables_of(core, choices) == "memory":
        found = _tables_of_attention(operator, core, plain, found, window)
    if choices.kv is None or choices.kv.kind == "float":
        return found
    form = choices.kv.codes
    growth = Growth(
        past=operator.past, new=operator.tokens, steps=operator.steps, line=operator.line
    )
    sequences = operator.instances // operator.heads
    times = operator.layers * sequences
    if choices.kv.kind == "xquant":
        # Keys and values come from the chip; what a step adds to the cache is written here.
        new = 0
        if not values:
            new = times * cost.ceil_div(_new_bits(form, growth, operator.hidden, keys=False), 8)
        return found._replace(weight_bytes=0, scale_bytes=0, output_bytes=found.output_bytes + new)
    ends = _ends(operator, core, ints, system)
    seen = seen_by_blocks(form, growth, ends, keys=not values)
    if values:
        bits = form.per_token_bits(seen.codes, seen.plain, operator.head_dim)
    else:
        bits = form.per_channel_bits(*seen, operator.head_dim)
    new = _new_bits(form, growth, operator.head_dim, keys=not values)
    return found._replace(
        weight_bytes=times * cost.ceil_div(operator.heads * bits, 8),
        scale_bytes=0,
        output_bytes=found.output_bytes + times * cost.ceil_div(operator.heads * new, 8),
    )


def _ends(operator: Attention, core: Core, ints: CoreInts, system: System) -> list[int]:
    """New tokens up to the last one of every block of rows."""
    block = int(
        cost.block_rows(
            ints,
            system,
            rows=operator.rows,
            head_dim=operator.head_dim,
            longest=min(operator.window or cost.NO_WINDOW, operator.last),
        )
    )
    lasts = [min(end, operator.rows) for end in range(block, operator.rows + block, block)]
    return [(last - 1) // operator.group + 1 for last in lasts]


def _new_bits(form: CacheFormat, growth: Growth, channels: int, *, keys: bool) -> int:
    """Bits that a phase writes into a cache of vectors of so many channels.

    Every code once, when it is made; and every new vector that stays as it is in its own step.
    """
    before, after = growth.past, growth.before(growth.steps - 1) + growth.new
    plain = written_plain(form, growth, keys=keys)
    if keys:
        codes = after - form.plain_keys(after) - (before - form.plain_keys(before))
        return form.per_channel_bits(codes, codes // form.group, plain, channels)
    codes = after - form.plain_values(after) - (before - form.plain_values(before))
    return form.per_token_bits(codes, plain, channels)


def _tables_of_attention(
    operator: Attention, core: Core, ints: CoreInts, found: cost.Cost, window: int
) -> cost.Cost:
    """With a pass before each product that writes the tables of its A, which it then reads."""
    times = operator.layers * operator.instances
    if operator.kind == "scores":
        # A is read once; the tables, which the product reads as its A, are written once.
        runs = operator.steps * (operator.tokens if operator.serial else 1)
        steps = cost.ceil_div(operator.head_dim, core.k)
        rows = runs * operator.rows
        beats = runs * cost.ceil_div(operator.rows, core.m) * steps
        size = rows * cost.ceil_div(cost.activation_row_bits(ints, operator.head_dim), 8)
        size += cost.ceil_div(rows * steps * core.table_step_bits, 8)
        moved = times * size
    else:
        # Tables of probabilities, tile by tile of rows and of tokens: written and read.
        beats = cost.spans(
            core.m,
            core.k,
            group=operator.group,
            tokens=operator.tokens,
            past=operator.past,
            steps=operator.steps,
            window=window,
            causal=operator.causal,
            rise=operator.rise,
            serial=operator.serial,
        )
        moved = 2 * times * cost.ceil_div(beats * core.m * core.table_step_bits, 8)
    return found._replace(
        cycles=found.cycles + times * beats, activation_bytes=found.activation_bytes + moved
    )
