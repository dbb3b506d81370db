"""Accumulators of a column: a step's sum into one carry-propagate addition an output.

The register holds ``s = −1 − y``, the complement of the running result ``y``. Then subtracting a
sum of looked-up terms is adding their complements, which AND-OR-INVERT gates give for nothing;
clearing is all ones, and the result is ``~s``.

A step's sum ``D`` comes as ``R = c − D``, a non-negative number of ``bits`` bits. The addition of
``±D`` to ``s`` then needs no more than ``R``, a conditional complement of it and a carry:
``−D = R − c``, and ``+D = ~R − (2^bits − 1 − c)``. With ``c = 2^(bits−1) − 1`` these are ``R`` and
``~R`` less ``2^(bits−1)``, plus one for ``−D``.

Where the unit of the sums changes during a job, ``y`` is first shifted down, arithmetically. The
distance comes in digits, of each digit one line a value: as lines that a column knows nothing of,
a stage is one AND-OR-INVERT gate a bit and no multiplexer, and the last one is of the gate that is
there in any case. Bits below the point, ``guard`` of them, only take part in shifts: of ``s`` and
of ``y`` they are each other's complement, as all the others are.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Instance, Module, Signal, Value


def window(low: int, high: int) -> int:
    """Bits of ``R = 2^(bits−1) − 1 − D`` for every ``D`` in ``[low, high]``."""
    bits = 1
    while not (high <= 2 ** (bits - 1) - 1 and -low <= 2 ** (bits - 1)):
        bits += 1
    return bits


def offset(bits: int) -> int:
    """``c`` of a window."""
    return 2 ** (bits - 1) - 1


def accumulate(
    m: Module,
    name: str,
    width: int,
    *,
    step: Value,
    carry: Value,
    enable: Value,
    hold: Value,
    shift: Value | None,
    planes: int,
    addend: Value | None,
    take: Value | None,
    down: Sequence[tuple[int, Value]] | None = None,
    moving: int = 0,
    guard: int = 0,
) -> Value:
    """The accumulator of one output; returns ``y``.

    Args:
        width: bits of the accumulator.
        step: ``R``, or ``~R`` where the step's sum is negated.
        carry: 1 where ``step`` is ``R``, 0 where it is ``~R``.
        enable: a step is accumulated.
        hold: keep ``y``; else start at 0, or with ``shift`` at ``y · 2**planes``.
        shift: None if a job never makes more than one pass.
        addend: added to ``y`` in the step where ``take`` is set.
        down: ``(weight, lines)`` of every digit: of the line ``j`` that is set, ``y`` is shifted
            down by ``j · weight`` first where ``hold`` is set; with no line of the last one set it
            starts at 0. None for no shift.
        moving: bits that hold any ``y`` that is shifted: those above are its sign and stay.
        guard: bits below ``step``; there is no addend then.
    """
    y = Signal(width, name=f"{name}_y")
    # ~(hold & y | …): one AND-OR-INVERT gate a bit; no leg chosen gives all ones, y = 0.
    legs = hold.replicate(width) & y if down is None else _moved(m, name, y, down, hold, moving)
    if shift is not None:
        legs = legs | (shift.replicate(width) & Cat(Const(0, planes), y[: width - planes]))
    elif addend is not None and take is not None:
        # The first step is the only one that takes an addend, and it holds nothing.
        legs = legs | (take.replicate(width) & addend)
    row = Signal(width, name=f"{name}_row")
    m.d.comb += row.eq(~legs)
    if addend is not None and take is not None and shift is not None:
        row = _add_addend(m, name, width, row, addend, take)
    total: list[Value] = []
    if guard:
        total.append(row[:guard])
        row, width = row[guard:], width - guard
    # Modulo 2**width a step that reaches above the accumulator has no upper half.
    split = min(len(step) - 1, width)
    over: Value = carry
    if split:
        low = Signal(split, name=f"{name}_low")
        over = Signal(name=f"{name}_over")
        m.submodules[f"add_{name}"] = Instance(
            "rtlgen_add",
            p_WIDTH=split,
            i_a=row[:split],
            i_b=step[:split],
            i_ci=carry,
            o_s=low,
            o_co=over,
        )
        total.append(low)
    if split < width:
        high = Signal(width - split, name=f"{name}_high")
        m.submodules[f"step_{name}"] = Instance(
            "rtlgen_step",
            p_WIDTH=width - split,
            i_a=row[split:],
            i_up=step[split],
            i_ci=over,
            o_s=high,
        )
        total.append(high)
    state = Signal(width + guard, name=f"{name}_state", reset_less=True)
    with m.If(enable):
        m.d.sync += state.eq(Cat(*total))
    m.d.comb += y.eq(~state)
    return y


def digits(count: int) -> tuple[int, ...]:
    """Radices of the digits, the lowest first, that tell 0 to ``count − 1`` apart at least cost.

    A stage of two costs 5, of three 8, as AND-OR-INVERT gates of two and of three legs do. The last
    is of two: with what starts a pass it has a third leg.
    """
    choices = [
        (5 * twos + 8 * threes, (3,) * threes + (2,) * twos + (2,))
        for twos in range(count.bit_length() + 1)
        for threes in range(count.bit_length() + 1)
        if 2 ** (twos + 1) * 3**threes >= count
    ]
    return min(choices)[1]


def _moved(
    m: Module,
    name: str,
    y: Value,
    down: Sequence[tuple[int, Value]],
    hold: Value,
    moving: int,
) -> Value:
    """``floor(y / 2**distance)``, or 0."""
    above, y = y[moving:], y[:moving]
    width = len(y)
    kept: Value = hold
    for stage, (weight, lines) in enumerate(down):
        if stage == len(down) - 1:
            lines = lines & hold.replicate(len(lines))
            kept = lines.any()
        legs: Value = Const(0, width)
        for index in range(len(lines)):
            step = min(index * weight, width)
            there = Cat(y[step:], y[-1].replicate(step))
            legs = legs | (there & lines[index].replicate(width))
        moved = Signal(width, name=f"{name}_down_{weight}")
        m.d.comb += moved.eq(legs)
        y = moved
    return Cat(y, above & kept.replicate(len(above))) if len(above) else y


def _add_addend(m: Module, name: str, width: int, row: Value, addend: Value, take: Value) -> Value:
    """``s − c``: the complement of the addend and one, or all ones and one."""
    taken = Signal(width, name=f"{name}_taken")
    m.d.comb += taken.eq(~(take.replicate(width) & addend))
    total = Signal(width, name=f"{name}_taken_row")
    m.submodules[f"take_{name}"] = Instance(
        "rtlgen_add",
        p_WIDTH=width,
        i_a=row,
        i_b=taken,
        i_ci=Const(1, 1),
        o_s=total,
        o_co=Signal(name=f"{name}_taken_over"),
    )
    return total
