"""Alignment of numbers with exponents: the largest exponent, and shifts that truncate.

For dot products of floating point: every term is moved down by its distance from the largest
exponent of all, and what falls out at the bottom is dropped. The largest exponent is found from its
highest bits down by elimination, as a priority encoder would: a bit of it is 1 if some candidate
has a 1 there; candidates with a 0 then drop out. A comparison costs two gates a bit and candidate,
about half of a tree of comparators and multiplexers (see ``docs/fp_core.md``).
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Instance, Module, Mux, Signal, Value

from hw.lib.heap import Bit


def add(m: Module, name: str, a: Value, b: Value, carry: Value | int = 0) -> Value:
    """``a + b + carry`` of unsigned values, one bit wider than the wider of them."""
    width = max(len(a), len(b))
    wide = [
        Cat(item, Const(0, width - len(item))) if len(item) < width else item for item in (a, b)
    ]
    total = Signal(width, name=f"{name}_s")
    over = Signal(name=f"{name}_co")
    m.submodules[f"add_{name}"] = Instance(
        "rtlgen_add",
        p_WIDTH=width,
        i_a=wide[0],
        i_b=wide[1],
        i_ci=Const(carry, 1) if isinstance(carry, int) else carry,
        o_s=total,
        o_co=over,
    )
    return Cat(total, over)


def largest(
    m: Module, name: str, values: Sequence[Value], live: Sequence[Value], *, digit: int = 1
) -> Value:
    """The largest of the unsigned values that are ``live``, 0 if none is.

    Args:
        digit: bits that are decided at a time: more of them are faster and larger.
    """
    width = len(values[0])
    found: list[Value] = [Const(0, 1)] * width
    alive = list(live)
    high = width
    while high:
        low = max(0, high - digit)
        count = (1 << (high - low)) - 1
        # Lines "at least i + 1" of every candidate, of those alive, and of any of them.
        reach = [_at_least(value[low:high]) for value in values]
        any_of = Signal(count, name=f"{name}_any_{low}")
        m.d.comb += [
            any_of[i].eq(
                Cat(*(one & line[i] for one, line in zip(alive, reach, strict=True))).any()
            )
            for i in range(count)
        ]
        for bit in range(high - low):
            # Bit b of a thermometer's count: line 2^b, unless one of the next power's multiples.
            step = 1 << bit
            edges = [
                any_of[i - 1] & (~any_of[i + step - 1] if i + step <= count else 1)
                for i in range(step, count + 1, 2 * step)
            ]
            found[low + bit] = Cat(*edges).any()
        if low:
            kept = []
            for lane, (one, line) in enumerate(zip(alive, reach, strict=True)):
                stays = Signal(name=f"{name}_alive_{low}_{lane}")
                m.d.comb += stays.eq(one & (line | ~any_of).all())
                kept.append(stays)
            alive = kept
        high = low
    result = Signal(width, name=f"{name}_largest")
    m.d.comb += result.eq(Cat(*found))
    return result


def _at_least(value: Value) -> Value:
    """Line ``i`` is set where an unsigned value is at least ``i + 1``."""
    if len(value) == 1:
        return value
    return Cat(*(value >= i for i in range(1, 1 << len(value))))


def shift_down(m: Module, name: str, value: Value, amount: Value, width: int, *, low: int) -> Value:
    """``floor(value · 2^low / 2^amount)``, ``width`` bits of it.

    One multiplexer a bit of the amount and of the value, narrowest shift first, an AND where zeros
    come in. Who asks for fewer bits than there can be knows that the amount is large enough.
    """
    # Bits by position; a bit below position 0 never comes back.
    bits = {low + i: value[i] for i in range(len(value)) if low + i >= 0}
    reach = low + len(value)
    matter = min(len(amount), max(reach - 1, 0).bit_length())
    for stage in range(matter):
        step = 1 << stage
        shifted = {}
        for at in sorted({*bits, *(at - step for at in bits if at >= step)}):
            here, above = bits.get(at), bits.get(at + step)
            if here is None:
                assert above is not None  # noqa: S101  (one of them is there)
                shifted[at] = above & amount[stage]
            elif above is None:
                shifted[at] = here & ~amount[stage]
            else:
                shifted[at] = Mux(amount[stage], above, here)
        row = Signal(len(shifted), name=f"{name}_down_{step}")
        m.d.comb += row.eq(Cat(*shifted.values()))
        bits = {at: row[i] for i, at in enumerate(shifted)}
    result = Signal(width, name=f"{name}_down")
    m.d.comb += result.eq(Cat(*(bits.get(at, Const(0, 1)) for at in range(width))))
    if len(amount) > matter:
        gone = Signal(name=f"{name}_gone")
        kept = Signal(width, name=f"{name}_kept")
        m.d.comb += [
            gone.eq(amount[matter:].any()),
            kept.eq(result & (~gone).replicate(width)),
        ]
        return kept
    return result


def total(m: Module, name: str, columns: Sequence[Sequence[Bit]]) -> Value:
    """The sum of the columns of :meth:`hw.lib.heap.Heap.compress`, modulo their number of bits."""
    return add_rows(m, name, *rows(columns))


def rows(columns: Sequence[Sequence[Bit]]) -> tuple[Value, Value, Value]:
    """Columns of one or two bits as what is finished, and two numbers that start above it."""
    start = next((i for i, bits in enumerate(columns) if len(bits) > 1), len(columns))
    rest = columns[start:]
    return (
        Cat(*(bits[0].value for bits in columns[:start])),
        Cat(*(bits[0].value for bits in rest)),
        Cat(*(bits[1].value if len(bits) > 1 else Const(0, 1) for bits in rest)),
    )


def add_rows(m: Module, name: str, done: Value, a: Value, b: Value) -> Value:
    """The sum of what :func:`rows` gives."""
    return Cat(done, add(m, name, a, b)[: len(a)]) if len(a) else done
