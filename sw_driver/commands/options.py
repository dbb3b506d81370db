"""Options that several verbs read in one way."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

FC = TypeVar("FC", bound="Callable[..., Any] | click.Command")


def activation_bits_option(function: FC) -> FC:
    """``--activation-bits``, one width."""
    return click.option(
        "--activation-bits",
        metavar="BITS",
        type=int,
        help="Width of activations, where jobs choose it.",
    )(function)


def group_option(of: str, default: int = 64) -> Callable[[FC], FC]:
    """``--group``; ``of``: what is scaled in groups."""
    return click.option(
        "--group",
        metavar="G",
        type=int,
        default=default,
        show_default=True,
        help=f"Elements of K that share a scale of {of}.",
    )


def picture_option(what: str) -> Callable[[FC], FC]:
    """``--picture``; ``what`` is drawn."""
    return click.option(
        "--picture",
        metavar="FILE.png",
        type=click.Path(path_type=Path),
        help=f"Draw {what} (.png, .svg, .pdf).",
    )


def widths(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[int | None, dict[str, int]]:
    """``4`` and ``lm_head=8`` to a width for all and the exceptions."""
    every: int | None = None
    exceptions: dict[str, int] = {}
    for value in values:
        name, equals, text = value.rpartition("=")
        if not text.isdecimal() or len(text) > 3 or (equals and not name):
            raise click.BadParameter(
                f"must be a number of bits, or operator=bits, got {value!r}", ctx, parameter
            )
        if equals:
            exceptions[name] = int(text)
        else:
            every = int(text)
    return every, exceptions


def widths_behind(files: Sequence[str]) -> dict[Path, tuple[int, ...]]:
    """By file the widths that its ``@`` names; none without one."""
    found: dict[Path, tuple[int, ...]] = {}
    for text in files:
        behind = re.fullmatch(r"(.+)@(\d{1,3}(?:,\d{1,3})*)", text)
        path = Path(behind[1] if behind else text)
        bits = tuple(map(int, behind[2].split(","))) if behind else ()
        found[path] = (*found.get(path, ()), *bits)
    return found
