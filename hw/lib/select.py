"""Comparisons and choices as linters want them written."""

from __future__ import annotations

from contextlib import AbstractContextManager

from amaranth.hdl import Module, Signal, Value


def equals(value: Value, number: int) -> Value:
    """Whether a value is a constant.

    A comparison with 0 would be emitted as a logical negation of a word, which Verilator's lint
    takes for a mistake.
    """
    return value == number if number else ~value.any()


def choice(m: Module, number: int, count: int) -> AbstractContextManager[None]:
    """The branch of a number below ``count``; the last one takes what never comes, too."""
    return m.Default() if number == count - 1 else m.Case(number)


def word_of(m: Module, name: str, words: Value, bits: int, index: Value) -> Value:
    """The word of a number among words side by side; beyond them the last one."""
    count = len(words) // bits
    found = Signal(bits, name=name)
    with m.Switch(index):
        for number in range(count):
            with choice(m, number, count):
                m.d.comb += found.eq(words.word_select(number, bits))
    return found
