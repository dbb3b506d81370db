"""Accumulators of floating cores: RTL of :mod:`hw.formats.sums`, one output each.

``running`` and ``fp32`` move significands by whole digits of 8 bits alone, one-hot, which costs a
third of a full shifter and leaves time for the addition; a term is brought to its digit before.

``fp32`` closes its loop in one cycle. The state is the exact sum of the step, its leading one
somewhere in the top digit of 33 bits, and a sticky bit; it is rounded when it is used:

1. The place of the leading one in the top digit says which bits FP32 keeps. Those below become
   copies of ``up``, what rounding adds, so that a carry into the lowest bit of the addition, far
   below, is a carry into the lowest bit that is kept: rounding costs no adder of its own.
2. State and term are aligned at their top digits, the lower one is moved down. By one digit it
   loses nothing; by more, and the sum has its leading one no lower than the second digit, so that
   what falls out matters to a sticky bit alone.
3. One addition. Digits that are copies of the sign are left out again.

Subnormals are numbers whose top digit has sunk to the least one: there the place of rounding is
fixed, and it sinks no further. Leading ones are those of two's complement, one place too low for
negated powers of two alone, which need no rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from amaranth.hdl import Cat, Const, Instance, Module, Mux, Signal, Value

from hw.formats import FP32
from hw.formats.sums import DIGIT, LEAST, Sums
from hw.lib import floats
from hw.lib.floats import NO
from hw.lib.select import equals

STATE = 4 * DIGIT + 1
"""Bits of an ``fp32`` state: a sign, 24 bits from any place in the top digit, and one below."""


def _never() -> Value:
    return NO


@dataclass(frozen=True, kw_only=True)
class Term:
    """What a step adds, see :mod:`hw.formats.sums`.

    Attributes:
        value: two's complement of ``terms.bits`` bits.
        code: ``terms.code_bits`` bits.
        nan, pinf, ninf: one bit each, ``NO`` for never.
    """

    value: Value
    code: Value
    nan: Value = field(default_factory=_never)
    pinf: Value = field(default_factory=_never)
    ninf: Value = field(default_factory=_never)


def accumulate(
    m: Module,
    name: str,
    sums: Sums,
    term: Term,
    *,
    enable: Value,
    hold: Value,
    ahead: Callable[[Value], Value],
    tail: Value | None,
) -> dict[str, Value]:
    """The accumulator of one output; returns its results by field.

    Args:
        enable: a step is accumulated, ``sums.ahead`` registers after its term came.
        hold: keep the sum, else begin at 0; comes with ``enable``.
        ahead: a value behind the register that terms pass (``sums.ahead`` is 1).
        tail: enables of the ``sums.tail`` registers behind the accumulator, one behind the other:
            the first takes the result that has become final with the last ``enable``.
    """
    if len(term.value) != sums.terms.bits or len(term.code) != sums.terms.code_bits:
        raise ValueError(
            f"{name}: a term has {sums.terms.bits} and {sums.terms.code_bits} bits, "
            f"got {len(term.value)} and {len(term.code)}"
        )
    build = {"fp32": _Fp32, "running": _Running, "fixed": _Fixed}[sums.kind]
    made = build(m, name, sums, enable, hold, ahead, tail)
    return made.results(term)


class _Kind:
    """What all kinds share."""

    def __init__(
        self,
        m: Module,
        name: str,
        sums: Sums,
        enable: Value,
        hold: Value,
        ahead: Callable[[Value], Value],
        tail: Value | None,
    ):
        self.m, self.name, self.sums = m, name, sums
        self.enable, self.hold, self.ahead, self.tail = enable, hold, ahead, tail

    def results(self, term: Term) -> dict[str, Value]:
        raise NotImplementedError

    def signal(self, width: int, name: str, value: Value | None = None) -> Signal:
        """A named signal, driven if a value is given."""
        made = Signal(width, name=f"{self.name}_{name}")
        if value is not None:
            self.m.d.comb += made.eq(value)
        return made

    def state(self, width: int, name: str) -> Signal:
        """A register of the loop; whoever drives ``next_…`` gives its next value."""
        return Signal(width, name=f"{self.name}_{name}", reset_less=True)

    def load(self, register: Signal, value: Value) -> None:
        with self.m.If(self.enable):
            self.m.d.sync += register.eq(value)

    def taken(self, value: Value, name: str, index: int = 0) -> Value:
        """A value behind a register of the tail."""
        register = Signal(len(value), name=f"{self.name}_{name}", reset_less=True)
        assert self.tail is not None  # noqa: S101  (sums.tail)
        with self.m.If(self.tail[index]):
            self.m.d.sync += register.eq(value)
        return register

    def add(self, name: str, a: Value, b: Value, carry: Value = NO) -> Signal:
        """``a + b + carry`` modulo ``2**len(a)``."""
        total = self.signal(len(a), name)
        self.m.submodules[f"add_{self.name}_{name}"] = Instance(
            "rtlgen_add",
            p_WIDTH=len(a),
            i_a=a,
            i_b=b,
            i_ci=carry,
            o_s=total,
            o_co=self.signal(1, f"{name}_over"),
        )
        return total

    def specials(self, term: Term) -> dict[str, Value]:
        """Flags of a job: registers for those that can be set."""
        found: dict[str, Value] = {}
        for key in ("nan", "pinf", "ninf"):
            now = getattr(term, key)
            if now is NO:
                continue
            register = self.state(1, key)
            self.load(register, now | (register & self.hold))
            found[key] = register
        return found

    def flagged(self, flags: Mapping[str, Value]) -> dict[str, Value]:
        """Result fields of flags, no more than one of them high."""
        terms = self.sums.terms
        if not (terms.nan or terms.inf):
            return {}
        nan, pinf, ninf = (flags.get(key, NO) for key in ("nan", "pinf", "ninf"))
        found: dict[str, Value] = {"nan": self.signal(1, "is_nan", nan | (pinf & ninf))}
        if terms.inf:
            found["pinf"] = pinf & ~found["nan"]
            found["ninf"] = ninf & ~found["nan"]
        return found


def _copies(bit: Value, count: int) -> Value:
    return bit.replicate(count) if count else Const(0, 0)


def _moved(value: Value, by: int, low: Value = NO) -> Value:
    """Two's complement bits moved down ``by`` places, or up where negative, of the same width."""
    width = len(value)
    if by >= 0:
        kept = min(by, width - 1)
        return Cat(value[kept:], _copies(value[-1], kept))
    return Cat(_copies(low, -by), value[: width + by])


def _choose(lines: Sequence[tuple[Value, Value]]) -> Value:
    """AND-OR of one-hot lines and values of one width."""
    width = len(lines[0][1])
    chosen: Value = Const(0, width)
    for line, value in lines:
        chosen = chosen | (line.replicate(width) & value)
    return chosen


class _Running(_Kind):
    """Significand and digit exponent, never normalised."""

    def results(self, term: Term) -> dict[str, Value]:
        m, sums, hold = self.m, self.sums, self.hold
        width, guard = sums.width, sums.accumulator.guard
        significand = self.state(width, "s")
        exponent = self.state(sums.digits, "r")
        fine_bits = min(sums.terms.code_bits, 3)
        digit = self.signal(
            sums.digits, "digit", term.code[3:] if len(term.code) > 3 else Const(0, 1)
        )
        # x = digit − r − 1: its sign says which of the two moves.
        x = self.signal(sums.digits + 1, "x")
        m.d.comb += x.eq(digit - exponent - 1)
        rises = self.signal(1, "rises", ~x[-1])
        x = x[:-1]
        top = min((width - 1) // DIGIT, (1 << sums.digits) - 1)
        # Moves by 1 … top digits, then by more: nothing but the sign is left.
        lines = [
            self.signal(1, f"up_{i}", hold & rises & equals(x, i - 1)) for i in range(1, top + 1)
        ]
        over = self.signal(1, "up_over", hold & rises & (x >= top))
        stay = self.signal(1, "stay", hold & ~rises)
        kept = self.signal(
            width,
            "kept",
            _choose(
                [(stay, significand)]
                + [(line, _moved(significand, DIGIT * (i + 1))) for i, line in enumerate(lines)]
                + [(over, _copies(significand[-1], width))]
            ),
        )
        # The term at its digit; a job's first term is where it is.
        wide: Value = term.value
        for stage in range(fine_bits):
            step = 1 << stage
            longer = Cat(wide, _copies(wide[-1], step))
            up = Cat(_copies(NO, step), wide)
            wide = self.signal(len(longer), f"fine_{step}", Mux(term.code[stage], up, longer))
        # Bit 0 of ``wide`` has the weight of bit ``guard`` of the sum.
        size = len(wide) + max(guard, 0)
        placed = Cat(_copies(NO, guard), wide) if guard >= 0 else wide
        shown = size - max(-guard, 0)
        d_top = min((size - 1) // DIGIT, (1 << sums.digits) - 1)

        def at(by: int) -> Value:
            return _moved(placed, DIGIT * by)[size - shown :]

        low = ~x
        falls = self.signal(1, "falls", hold & ~rises)
        d_lines = [(self.signal(1, "down_0", ~falls | equals(low, 0)), at(0))]
        for i in range(1, d_top + 1):
            d_lines.append((self.signal(1, f"down_{i}", falls & equals(low, i)), at(i)))
        d_over = self.signal(1, "down_over", falls & (low > d_top))
        d_lines.append((d_over, _copies(placed[-1], shown)))
        aligned = self.signal(shown, "aligned", _choose(d_lines))
        total = self.add("total", kept, Cat(aligned, _copies(aligned[-1], width - shown)))
        self.load(significand, total)
        self.load(exponent, Mux(hold & ~rises, exponent, digit))
        flags = self.specials(term)
        if not sums.fp32:
            return {"o": significand, "exponent": exponent, **self.flagged(flags)}
        return {"o": self._rounded(significand, exponent, flags)}

    def _rounded(self, value: Value, exponent: Value, flags: Mapping[str, Value]) -> Value:
        """Rounded once to FP32: brought to its leading one; behind a register cut and packed."""
        sums = self.sums
        sign = value[-1]
        magnitude = self.signal(
            sums.width, "magnitude", (value ^ sign.replicate(len(value))) + sign
        )
        weight = self.signal(len(exponent) + 3, "weight", Cat(Const(0, 3), exponent))
        weight_of_0 = Signal(
            floats._signed(sums.first_bit, sums.first_bit + (DIGIT << len(exponent))),
            name=f"{self.name}_weight_of_0",
        )
        self.m.d.comb += weight_of_0.eq(weight + sums.first_bit)
        found = self.flagged(flags)
        name = f"{self.name}_fp32"
        whole = floats.normalise(self.m, f"{name}_norm", magnitude, weight_of_0, low=sums.first_bit)
        # FP32's bits and one to round by; what is below matters to the sticky bit alone.
        cut = max(sums.width - FP32.mantissa_bits - 2, 0)
        exponent_above = Signal(whole.exponent.shape(), name=f"{name}_above")
        self.m.d.comb += exponent_above.eq(whole.exponent)
        moved = replace(
            whole,
            magnitude=whole.magnitude[cut:],
            exponent=exponent_above,
            sticky=self.signal(1, "below_cut", whole.magnitude[:cut].any()) if cut else NO,
        )
        held = moved.through(lambda field, value: self._first(value, field))
        flags_held = {key: self._first(value, key) for key, value in found.items()}
        nan = flags_held.get("nan", NO)
        pinf, ninf = flags_held.get("pinf", NO), flags_held.get("ninf", NO)
        held = replace(held, exponent=held.exponent.as_signed() + cut)
        code = floats.pack(
            self.m,
            f"{name}_pack",
            FP32,
            floats.place(self.m, f"{name}_place", FP32, held),
            sign=(self._first(sign, "sign") & ~pinf) | ninf,
            nan=nan,
            inf=pinf | ninf,
        )
        # NaN and 0 have no sign.
        some = self.signal(1, "signed", (code[:-1].any()) & ~nan)
        return self.taken(Cat(code[:-1], code[-1] & some), "o", 1)

    def _first(self, value: Value, name: str) -> Value:
        """A value behind the first register of the tail."""
        return self.taken(value, f"first_{name}")


class _Fixed(_Kind):
    """A two's complement number of fixed weight."""

    def results(self, term: Term) -> dict[str, Value]:
        sums = self.sums
        terms, width = sums.terms, sums.width
        first, last = sums.window
        reach = min(last, terms.codes - 1) - max(first, 0)
        offset = max(-first, 0)  # places that the least code is moved up
        amount = self.signal(max(1, reach.bit_length()), "amount")
        self.m.d.comb += amount.eq(term.code - max(first, 0))
        inside: Value = Const(1, 1)
        outside: dict[str, Value] = {}
        if not sums.exact:
            least = term.code >= first if first > 0 else Const(1, 1)
            there = self.signal(1, "inside", least & (term.code <= last))
            left_out = self.state(1, "outside")
            self.load(left_out, (~there & term.value.any()) | (left_out & self.hold))
            outside["outside"] = left_out
            inside = there
        placed: Value = self.signal(
            terms.bits, "inside_value", term.value & inside.replicate(terms.bits)
        )
        for stage in range(len(amount)):
            step = 1 << stage
            if step > reach:
                break
            size = min(len(placed) + step, terms.bits + reach)
            longer = Cat(placed, _copies(placed[-1], size - len(placed)))
            up = Cat(_copies(NO, step), placed)[:size]
            placed = self.signal(size, f"moved_{step}", Mux(amount[stage], up, longer))
        placed = Cat(_copies(NO, offset), placed)
        total = self.state(width, "sum")
        self.load(
            total,
            self.add(
                "total",
                total & self.hold.replicate(width),
                Cat(placed, _copies(placed[-1], width - len(placed))),
            ),
        )
        limbs = Cat(total, _copies(total[-1], 32 * sums.limbs - width))
        return {"o": limbs, **outside, **self.flagged(self.specials(term))}


class _Fp32(_Kind):
    """See the module."""

    def __init__(self, *args: object):
        super().__init__(*args)  # type: ignore[arg-type]
        terms = self.sums.terms
        # The exponent of a top digit's upper end, the sign's place, is 8·digit + bias.
        self.term_digits = -(-(terms.bits + DIGIT - 2) // DIGIT)
        self.least = max((LEAST + STATE - 1 - 1 - terms.bias) // DIGIT, 0)
        # Bits of a state at the least digit that are below FP32's smallest number.
        self.below = max(LEAST + STATE - 1 - terms.bias - DIGIT * self.least, 0)
        if not 0 <= self.below <= DIGIT:
            raise AssertionError("the least digit is chosen wrongly")
        most = (terms.codes - 1) // DIGIT + self.term_digits
        top = FP32.max_exponent + 1 - terms.bias  # an overflow's leading one, from the bias
        self.over_digit, self.over_place = -(-top // DIGIT), -top % DIGIT
        most += 1 + -(-terms.growth // DIGIT)
        self.digit_bits = max(most, self.least + 1).bit_length()

    def results(self, term: Term) -> dict[str, Value]:
        value, digit = self._term(term)
        flags = {
            key: self.ahead(getattr(term, key))
            for key in ("nan", "pinf", "ninf")
            if getattr(term, key) is not NO
        }
        m, hold = self.m, self.hold
        bits = self.digit_bits
        state = self.state(STATE, "s")
        sticky = self.state(1, "t")
        place = self.state(bits, "p")
        at_least = self.signal(1, "at_least", equals(place, self.least))

        rounded, up, keep, leading = self._rounding(state, sticky, at_least)
        picks = [keep[j + 1] & ~keep[j] for j in range(DIGIT)]
        keep = [*keep, *(Const(1, 1) for _ in range(STATE - len(keep)))]
        over = self._overflow(state, place, up, leading)
        nan, pinf, ninf = (self.state(1, key) for key in ("nan", "pinf", "ninf"))
        some_inf = self.signal(1, "some_inf", pinf | ninf)
        inf_now = {
            "pinf": self.signal(1, "pinf_now", pinf | (over & ~some_inf & ~state[-1])),
            "ninf": self.signal(1, "ninf_now", ninf | (over & ~some_inf & state[-1])),
        }
        for key, register in (("pinf", pinf), ("ninf", ninf)):
            self.load(register, (inf_now[key] & hold) | flags.get(key, NO))
        self.load(nan, (nan & hold) | flags.get("nan", NO))

        # Beside an infinity the state goes on as it is: nobody asks for it any more.
        before = self.signal(bits, "before", Mux(hold, place, self.least))
        x = self.signal(bits + 1, "x")
        m.d.comb += x.eq(digit - before - 1)
        rises = self.signal(1, "rises", ~x[-1])
        down, low = x[:-1], ~x[:-1]
        total_digits = max(STATE // DIGIT, self.term_digits) + 1
        size = DIGIT * total_digits + 1
        # The state moves down where the term's digit is higher, else the term.
        s_wide = Cat(_copies(up, size - STATE), rounded)
        d_wide = Cat(_copies(NO, size - len(value)), value)
        stay = self.signal(1, "stay", hold & ~rises)
        s_lines = [(stay, s_wide)]
        d_lines = [(self.signal(1, "down_0", rises | equals(low, 0)), d_wide)]
        s_lost, d_lost = [], []
        for i in range(1, total_digits + 1):
            last = i == total_digits
            s_line = self.signal(
                1, f"up_{i}", hold & rises & ((down >= i - 1) if last else equals(down, i - 1))
            )
            d_line = self.signal(1, f"down_{i}", ~rises & ((low >= i) if last else equals(low, i)))
            s_lines.append((s_line, _moved(s_wide, DIGIT * i)))
            d_lines.append((d_line, _moved(d_wide, DIGIT * i)))
            lost = DIGIT * i - (size - STATE)
            if lost > 0:
                # Whether what falls out is more than ``up`` all along; ``up`` comes last.
                ones = Cat(*(kept & state[j] for j, kept in enumerate(keep[:lost]))).any()
                zeros = Cat(*(kept & ~state[j] for j, kept in enumerate(keep[:lost]))).any()
                s_lost.append(s_line & Mux(up, zeros, ones))
            lost = DIGIT * i - (size - len(value))
            if lost > 0:
                d_lost.append(d_line & value[:lost].any())
        s_fell = self.signal(1, "s_fell", Cat(*s_lost, NO).any())
        fell = self.signal(1, "fell", s_fell | Cat(*d_lost, NO).any())
        s_kept = self.signal(size, "s_kept", _choose(s_lines))
        d_kept = self.signal(size, "d_kept", _choose(d_lines))
        carry = self.signal(1, "carry", up & hold & ~s_fell)
        total = self.add("total", Cat(s_kept, s_kept[-1]), Cat(d_kept, d_kept[-1]), carry)

        # Leave out digits that are copies of the sign, but none below the least.
        higher = self.signal(bits, "higher", Mux(rises, digit, before))
        grows = self.signal(1, "grows", total[-1] ^ total[-2])
        sign = total[-1]
        alike_from = []
        for k in range(1, total_digits + 1):
            # The sign comes last; what it chooses from is there before.
            part = total[size - 1 - DIGIT * k : size - 1]
            alike = self.signal(1, f"alike_over_{k}", Mux(sign, part.all(), ~part.any()))
            enough = self.signal(1, f"enough_{k}", higher >= self.least + k)
            alike_from.append(self.signal(1, f"empty_{k}", alike & ~grows & enough))
        choices = [(grows, -1)]
        for k in range(total_digits + 1):
            own = ~grows if k == 0 else alike_from[k - 1]
            beyond = alike_from[k] if k < total_digits else NO
            choices.append((self.signal(1, f"left_{k}", own & ~beyond), k))
        s_next, p_next, lost_next = [], [], []
        for line, k in choices:
            # Bit j of the next state is bit j + start of the total.
            start = size - STATE - DIGIT * k
            if start >= 0:
                bits_of = total[start : start + STATE]
                bits_of = Cat(bits_of, _copies(sign, STATE - len(bits_of)))
                lost_next.append(line & total[:start].any())
            else:
                bits_of = Cat(_copies(NO, -start), total[: STATE + start])
            s_next.append((line, bits_of))
            moved = self.signal(bits, f"higher_{k + 1}", (higher - k)[:bits])
            if k == total_digits:
                # All bits are alike: −1, or 0, which has the least digit.
                p_next.append((line & ~sign, Const(self.least, bits)))
                line = line & sign
            p_next.append((line, moved))
        self.load(state, _choose(s_next))
        self.load(place, _choose(p_next))
        self.load(sticky, fell | Cat(*lost_next, NO).any())
        code = self._code(rounded, up, picks, leading, place, state[-1])
        return {"o": self.taken(self._with_specials(code, nan, inf_now), "o")}

    def _term(self, term: Term) -> tuple[Value, Value]:
        """A term with its top digit in use, and that digit; 0 has the least digit."""
        wide: Value = term.value
        for stage in range(min(len(term.code), 3)):
            step = 1 << stage
            longer = Cat(wide, _copies(wide[-1], step))
            wide = self.signal(
                len(longer),
                f"fine_{step}",
                Mux(term.code[stage], Cat(_copies(NO, step), wide), longer),
            )
        size = DIGIT * self.term_digits + 1
        wide = self.signal(size, "wide", Cat(wide, _copies(wide[-1], size))[:size])
        sign = wide[-1]
        empty = [
            self.signal(
                1,
                f"term_empty_{k}",
                ~(wide[size - 1 - DIGIT * k : -1] ^ sign.replicate(DIGIT * k)).any(),
            )
            for k in range(1, self.term_digits + 1)
        ]
        lines, places = [], []
        base = self.signal(
            self.digit_bits, "term_digit", term.code[3:] if len(term.code) > 3 else Const(0, 1)
        )
        for k in range(self.term_digits + 1):
            own = empty[k - 1] if k else Const(1, 1)
            beyond = empty[k] if k < self.term_digits else NO
            line = self.signal(1, f"term_left_{k}", own & ~beyond)
            lines.append((line, _moved(wide, -DIGIT * k)))
            if k == self.term_digits:
                line = line & sign
            places.append((line, (base + self.term_digits - k)[: self.digit_bits]))
        value = self.signal(size, "term", _choose(lines))
        place = self.signal(self.digit_bits, "term_place", _choose(places))
        return self.ahead(value), self.ahead(place)

    def _rounding(
        self, state: Value, sticky: Value, at_least: Value
    ) -> tuple[Value, Value, list[Value], list[Value]]:
        """The state with ``up`` below what FP32 keeps, ``up``, whether FP32 keeps bits 0 … 8, and
        whether the uppermost 1 … 9 bits are alike."""
        alike: list[Value] = [Const(1, 1)]
        for n in range(1, DIGIT + 1):
            both = ~(state[STATE - 1 - n] ^ state[STATE - n])
            alike.append(self.signal(1, f"alike_{n}", alike[-1] & both))
        # FP32 keeps bit j where the leading one is no higher than place 9 − j from the top.
        keep: list[Value] = []
        for j in range(DIGIT):
            kept = alike[DIGIT - j]
            if j < self.below:
                kept = kept & ~at_least
            keep.append(self.signal(1, f"keep_{j}", kept))
        keep.append(Const(1, 1))
        lowest = [self.signal(1, f"lowest_{j + 1}", keep[j + 1] & ~keep[j]) for j in range(DIGIT)]
        guard = Cat(*(line & state[j] for j, line in enumerate(lowest))).any()
        even = Cat(*(line & state[j + 1] for j, line in enumerate(lowest))).any()
        rest = Cat(sticky, *(~keep[j + 1] & state[j] for j in range(DIGIT))).any()
        up = self.signal(1, "up", guard & (even | rest))
        low = Cat(*(Mux(keep[j], state[j], up) for j in range(DIGIT)))
        rounded = self.signal(STATE, "rounded", Cat(low, state[DIGIT:]))
        return rounded, up, keep, alike

    def _overflow(self, state: Value, place: Value, up: Value, alike: list[Value]) -> Value:
        """Whether the rounded state is 2^128 or more, or −2^128 or less."""
        sign = state[-1]
        if (1 << self.digit_bits) - 1 < self.over_digit:
            return NO
        # At ``over_digit`` leading ones at places up to over_place are too much; the place below
        # is, if all of its 24 bits are ones and rounded up (negative: zeros, and not).
        here = self.signal(1, "over_here", equals(place, self.over_digit))
        beyond = self.signal(1, "over_beyond", place > self.over_digit)
        over = beyond & ~alike[DIGIT]
        if self.over_place:
            over = over | (here & ~alike[self.over_place])
        edge = self.over_place + 1
        top = STATE - 1 - edge
        ones = (state[top - FP32.mantissa_bits : top + 1] ^ sign.replicate(24)).all()
        at_edge = alike[edge - 1] & ~alike[edge] & here
        return self.signal(1, "over", over | (at_edge & ones & (up ^ sign)))

    def _code(
        self,
        rounded: Value,
        up: Value,
        lowest: list[Value],
        alike: list[Value],
        place: Value,
        sign: Value,
    ) -> Value:
        """FP32's code of the state; for what is no infinity."""
        magnitude = self.signal(STATE, "magnitude")
        self.m.d.comb += magnitude.eq((rounded ^ sign.replicate(STATE)) + (up ^ sign))
        kept = FP32.mantissa_bits + 2
        picked = self.signal(
            kept,
            "picked",
            _choose(
                [
                    (line, Cat(magnitude[j + 1 : j + 1 + kept], NO)[:kept])
                    for j, line in enumerate(lowest)
                ]
            ),
        )
        # The leading one counts into the exponent, as does a carry beyond it.
        terms = self.sums.terms
        constant = terms.bias - LEAST - STATE + 1
        exponent = self.signal(FP32.exponent_bits, "exponent")
        weight = Cat(Const(0, 3), place)
        position: Value = Const(0, 4)
        for j, line in enumerate(lowest):
            position = position | (line.replicate(4) & Const(j + 1, 4))
        numeral = self.signal(FP32.exponent_bits, "numeral")
        self.m.d.comb += numeral.eq(weight + position + constant)
        self.m.d.comb += exponent.eq(
            (numeral & (~alike[DIGIT]).replicate(FP32.exponent_bits)) + picked[FP32.mantissa_bits :]
        )
        some = self.signal(1, "some", picked.any())
        return Cat(picked[: FP32.mantissa_bits], exponent, sign & some)

    def _with_specials(self, code: Value, nan: Value, inf: Mapping[str, Value]) -> Value:
        """The code, or that of a special."""
        no_number = self.signal(1, "no_number", nan | (inf["pinf"] & inf["ninf"]))
        special = self.signal(1, "special", no_number | inf["pinf"] | inf["ninf"])
        mantissa = code[: FP32.mantissa_bits] & (~special).replicate(FP32.mantissa_bits)
        exponent = code[FP32.mantissa_bits : -1] | special.replicate(FP32.exponent_bits)
        return Cat(
            mantissa[:-1],
            mantissa[-1] | no_number,
            exponent,
            Mux(special, inf["ninf"] & ~no_number, code[-1]),
        )
