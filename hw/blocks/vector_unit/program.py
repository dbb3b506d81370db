"""What the vector unit does round by round: its microprograms, as data for the hardware.

An operation is ``to = ±a·b ± c`` or ``to = max(±a, c)``, done by every lane for the ``SLOTS`` beats
of a chunk in turn. Each lane has up to five numbers a slot, X, T, N, P and S; a row's beats stand
in the buffer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hw.blocks.vector_unit import coefficients
from hw.blocks.vector_unit.arithmetic import Internal
from hw.blocks.vector_unit.spec import Function, VectorUnitSpec

Special = Literal["length", "epsilon"]
"""What stands on a bus of constants as the job says: ``2^(significand − 1) + length``, or epsilon.
"""


@dataclass(frozen=True, kw_only=True)
class Op:
    """One operation.

    Attributes:
        a: ``in`` (the element), ``row`` (the buffer), ``x t n p s``, ``fold`` (S of another slot or
            lane) or ``one``.
        b: ``k`` (a constant), ``u``, ``t n p``, ``power`` (2 to the integer in N), or a seed of S:
            ``reciprocal``, ``root``.
        c: ``k``, ``u``, ``v``, ``x t n p s`` or ``row``.
        to: where the result goes: ``x t n p s``, ``out``, ``row``, or ``out_row``: out of a job's
            last row, and into the buffer of the others.
        kb, kc: the constants.
        negative, magnitude: of a. swapped: negative in even lanes alone.
        minus: c is negated. positive: a c below 0 is 0.
        maximum: the larger of a and c.
        first: c is its constant in the first chunk, or row.
        masked: beats and lanes behind the row's end take c as it is.
        keep: the element goes into the buffer as well. save: so does the result.
        capture: v goes into N as well.
        fold: which step, over slots first.
    """

    a: str = "one"
    b: str = "k"
    c: str = "k"
    to: str
    kb: float | Special = 1.0
    kc: float | Special = 0.0
    negative: bool = False
    magnitude: bool = False
    swapped: bool = False
    minus: bool = False
    positive: bool = False
    maximum: bool = False
    first: Literal["", "chunk", "row"] = ""
    masked: bool = False
    keep: bool = False
    save: bool = False
    capture: bool = False
    fold: int = -1

    @property
    def takes_element(self) -> bool:
        return self.a == "in"

    @property
    def takes_operands(self) -> bool:
        return "u" in (self.b, self.c)


WAIT = Op(to="")
"""A round for the results of the one before to arrive in every slot."""


@dataclass(frozen=True)
class Program:
    """Operations once a job; for every row parts, done once (False) or chunk by chunk (True)."""

    job: tuple[Op, ...]
    parts: tuple[tuple[bool, tuple[Op, ...]], ...]

    def operations(self) -> Iterator[Op]:
        """Every operation in its order."""
        yield from self.job
        for _, part in self.parts:
            yield from part


def _horner(variable: str, spare: str, to: str, constants: Sequence[float]) -> Iterator[Op]:
    """``c0 + c1·x + …`` by way of the register ``spare``."""
    yield Op(a=variable, kb=constants[-1], kc=constants[-2], to=spare)
    for power in reversed(range(len(constants) - 2)):
        yield Op(a=variable, b=spare, kc=constants[power], to=spare if power else to)


def _exponential(number: Internal, argument: str, spare: str, remainder: str) -> Iterator[Op]:
    """``e^argument`` into the register ``spare``; N is lost, and ``remainder`` holds ``f``.

    Adding ``3·2^(p−2)`` to a number far below leaves its nearest integer in the lowest bits.
    """
    shift = 3.0 * 2.0 ** (number.significand - 2)
    yield Op(a=argument, kb=number.nearest(coefficients.LOG2E), kc=shift, to="n")
    yield Op(a="n", kc=-shift, to=spare)
    yield Op(a=spare, kb=-number.nearest(coefficients.LN2), c=argument, to=remainder)
    yield from _horner(remainder, spare, spare, (1.0, *coefficients.exp_coefficients(number)))


def _reciprocal(to: str) -> Iterator[Op]:
    """``1/S``; T and N are lost."""
    yield Op(b="reciprocal", to="n")
    yield Op(a="s", b="n", kc=1.0, negative=True, to="t")
    yield Op(a="t", b="n", c="n", to="n")
    yield Op(a="s", b="n", kc=1.0, negative=True, to="t")
    yield Op(a="t", b="n", c="n", to=to)


def _root() -> Iterator[Op]:
    """``1/√S`` into P; X and T are lost."""
    yield Op(a="s", kb=0.5, to="x")
    yield Op(b="root", to="p")
    for _ in range(2):
        yield Op(a="x", b="p", to="t")
        yield Op(a="t", b="p", kc=0.5, negative=True, to="t")
        yield Op(a="t", b="p", c="p", to="p")


def _fold(spec: VectorUnitSpec, *, maximum: bool = False) -> Iterator[Op]:
    """S of all slots and lanes as one, in all of them."""
    slots, lanes = spec.folds
    for step in range(slots + lanes):
        if step < slots:
            yield WAIT
        yield Op(a="fold", c="s", fold=step, maximum=maximum, to="s")


def _inverse_length(number: Internal) -> Iterator[Op]:
    """``1/length`` into N: the length's bits stand below a leading one, which is taken away."""
    yield Op(kb="length", kc=-(2.0 ** (number.significand - 1)), to="s")
    yield from _reciprocal("n")


def _softmax(spec: VectorUnitSpec) -> Program:
    number = spec.number
    load = Op(
        a="in",
        c="s",
        kc=_lowest(number),
        maximum=True,
        first="chunk",
        masked=True,
        keep=True,
        to="s",
    )
    limit = coefficients.limits(number)[0]
    exponentials = (
        Op(a="row", c="x", minus=True, to="t"),
        Op(a="t", kc=-limit, maximum=True, to="t"),
        *_exponential(number, "t", "p", "t"),
        Op(a="p", b="power", to="p", save=True),
        Op(a="p", c="s", first="chunk", masked=True, to="s"),
    )
    # The last step over the maximum leaves it in X; S is free for the sum.
    *steps, last = _fold(spec, maximum=True)
    return Program(
        (),
        (
            (True, (load,)),
            (False, (*steps, replace(last, to="x"))),
            (True, exponentials),
            (False, (*_fold(spec), *_reciprocal("n"))),
            (True, (Op(a="row", b="n", to="out"),)),
        ),
    )


def _lowest(number: Internal) -> float:
    """What no maximum keeps."""
    if number.specials:
        return float("-inf")
    return -(2.0 ** (number.largest_exponent - number.bias))


_SQUARES = Op(a="t", b="t", c="s", first="chunk", masked=True, to="s")


def _layer_norm(spec: VectorUnitSpec) -> Program:
    load = Op(a="in", c="s", first="chunk", masked=True, keep=True, to="s")
    return Program(
        tuple(_inverse_length(spec.number)),
        (
            (True, (load,)),
            (False, (*_fold(spec), Op(a="s", b="n", to="x"))),
            (True, (Op(a="row", c="x", minus=True, to="t", save=True), _SQUARES)),
            (False, (*_fold(spec), Op(a="s", b="n", kc="epsilon", to="s"), *_root())),
            (True, (Op(a="row", b="p", to="t"), Op(a="t", b="u", c="v", to="out"))),
        ),
    )


def _rms_norm(spec: VectorUnitSpec) -> Program:
    return Program(
        tuple(_inverse_length(spec.number)),
        (
            (True, (Op(a="in", keep=True, to="t"), _SQUARES)),
            (False, (*_fold(spec), Op(a="s", b="n", kc="epsilon", to="s"), *_root())),
            (True, (Op(a="row", b="p", to="t"), Op(a="t", b="u", to="out"))),
        ),
    )


_ELEMENT = Op(a="in", to="x")


def _below(limit: float) -> Op:
    """``−min(|x|, limit)`` into T."""
    return Op(a="x", negative=True, magnitude=True, kc=-limit, maximum=True, to="t")


def _gated(limit: float) -> Iterator[Op]:
    """``max(x, 0) − z·P``."""
    yield _below(limit)
    yield Op(a="t", b="p", c="x", positive=True, to="out")


def _logistic_tail(number: Internal) -> Iterator[Op]:
    """``e^T / (1 + e^T)`` into P."""
    yield from _exponential(number, "t", "p", "t")
    yield Op(a="p", b="power", to="p")
    yield Op(a="p", kc=1.0, to="s")
    yield from _reciprocal("n")
    yield Op(a="p", b="n", to="p")


def _silu(spec: VectorUnitSpec) -> Program:
    number = spec.number
    limit = coefficients.limits(number)[0]
    part = (_ELEMENT, _below(limit), *_logistic_tail(number), *_gated(limit))
    return Program((), ((True, part),))


def _gelu_tanh(spec: VectorUnitSpec) -> Program:
    number = spec.number
    limit = coefficients.limits(number)[2]
    linear = number.nearest(coefficients.TANH_LINEAR)
    cubic = number.nearest(coefficients.TANH_CUBIC)
    part = (
        _ELEMENT,
        _below(limit),
        Op(a="t", b="t", to="p"),
        Op(a="p", kb=cubic, kc=linear, to="p"),
        Op(a="t", b="p", to="t"),
        *_logistic_tail(number),
        *_gated(limit),
    )
    return Program((), ((True, part),))


def _gelu(spec: VectorUnitSpec) -> Program:
    number = spec.number
    limit = coefficients.limits(number)[1]
    part = (
        _ELEMENT,
        _below(limit),
        Op(a="t", kb=-coefficients.TAIL_STEP, kc=1.0, to="s"),
        *_reciprocal("t"),
        # The tail's factor into S.
        *_horner("t", "p", "s", (0.0, *coefficients.tail_coefficients(number))),
        _below(limit),
        Op(a="t", kb=-0.5, to="p"),
        Op(a="t", b="p", to="t"),
        *_exponential(number, "t", "p", "t"),
        Op(a="p", b="power", to="p"),
        Op(a="s", b="p", to="p"),
        *_gated(limit),
    )
    return Program((), ((True, part),))


def _rotary(spec: VectorUnitSpec) -> Program:
    part = (
        Op(a="in", to="s"),
        Op(a="s", b="u", capture=True, to="t"),
        Op(a="fold", b="n", c="t", fold=sum(spec.folds) - 1, swapped=True, to="out"),
    )
    return Program((), ((True, part),))


def _add(spec: VectorUnitSpec) -> Program:
    return Program((), ((True, (Op(a="in", c="u", to="out"),)),))


def _reduce(spec: VectorUnitSpec) -> Program:
    return Program((), ((True, (Op(a="in", c="row", first="row", to="out_row"),)),))


PROGRAMS = {
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "rotary": _rotary,
    "add": _add,
    "reduce": _reduce,
}


def programs(spec: VectorUnitSpec) -> dict[Function, Program]:
    """The program of every function that is asked for."""
    return {name: PROGRAMS[name](spec) for name in spec.functions}


@dataclass(frozen=True)
class Instruction:
    """An operation in its place.

    Attributes:
        following: the instruction behind it, the row's first one behind a row's last.
        again: the chunk's first one if it is the last of a chunk, else -1.
        end: it is the last of a row.
    """

    op: Op
    following: int
    again: int
    end: bool


def assemble(spec: VectorUnitSpec) -> tuple[list[Instruction], dict[Function, int]]:
    """All programs one behind another, and where each begins."""
    found: list[Instruction] = []
    entries: dict[Function, int] = {}
    for name, program in programs(spec).items():
        entries[name] = len(found)
        for op in program.job:
            found.append(Instruction(op, len(found) + 1, -1, False))
        row = len(found)
        for index, (looped, part) in enumerate(program.parts):
            chunk = len(found)
            for place, op in enumerate(part):
                final = place == len(part) - 1
                end = final and index == len(program.parts) - 1
                following = row if end else len(found) + 1
                again = chunk if looped and final else -1
                found.append(Instruction(op, following, again, end))
    return found, entries
