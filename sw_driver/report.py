"""Reports: numbers that print as tables, as JSON, and as a picture.

Text is laid out here rather than by a library, so that a mapping starts fast; matplotlib is loaded
when a picture is asked for.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtl_gen.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf")

# Colours that stay apart in greyscale and for colour-blind readers (Okabe and Ito, 2008).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
SKY, PURPLE, YELLOW = "#56B4E9", "#CC79A7", "#F0E442"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text; columns that hold numbers are aligned right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    footer: Sequence[Sequence[str]] = ()

    def __str__(self) -> str:
        cells = [tuple(self.columns), *map(tuple, self.rows), *map(tuple, self.footer)]
        widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
        right = [
            bool(self.rows) and all(_is_number(row[index]) for row in self.rows)
            for index in range(len(self.columns))
        ]

        def line(row: Sequence[str]) -> str:
            padded = []
            for text, width, at_right in zip(row, widths, right, strict=True):
                space = " " * (width - _width(text))
                padded.append(space + text if at_right else text + space)
            return "  ".join(padded).rstrip()

        rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
        lines = [self.title] if self.title else []
        lines += [line(self.columns), rule, *map(line, self.rows)]
        if self.footer:
            lines += [rule, *map(line, self.footer)]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a command has to say.

    Attributes:
        title: one line. facts: lines under it. tables, notes: what follows.
        data: everything as plain data, with the digests of what the numbers belong to.
        draw: draws the picture into a figure; None if there is none.
    """

    title: str
    facts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    data: dict[str, Any]
    draw: Callable[[Figure], None] | None = None
    size: tuple[float, float] = (11.0, 6.0)

    def __str__(self) -> str:
        blocks = ["\n".join([self.title, *self.facts])]
        blocks += [str(table) for table in self.tables]
        if self.notes:
            blocks.append("\n".join(f"note: {note}" for note in self.notes))
        return "\n\n".join(blocks)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return self.data

    def json(self) -> str:
        """The report as indented JSON."""
        return json.dumps(self.data, indent=2, ensure_ascii=False, allow_nan=False)

    def save_picture(self, path: Path | str) -> Path:
        """Draws the picture into a file, which appears whole.

        Raises:
            InputError: the name has no ending of a picture, or the place cannot be written.
        """
        path = Path(path)
        check_picture(path)
        if self.draw is None:
            raise InputError(f"{path}: this report has no picture")
        return save_picture(path, self.draw, self.size)


def check_picture(path: Path) -> None:
    """That a file's name says a format that can be drawn.

    Raises:
        InputError: it does not.
    """
    if path.suffix.lower() not in PICTURES:
        raise InputError(f"{path}: must end in {', '.join(PICTURES)}")


def save_picture(path: Path, draw: Callable[[Figure], None], size: tuple[float, float]) -> Path:
    """Draws a figure of a size in inches into a file.

    Raises:
        InputError: the place cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from rtl_gen.cache import new_file

    settings: dict[Any, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "svg.hashsalt": "rtlgen",
    }
    with rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        # No time stamp and no tool version: the same numbers give the same file.
        keys = {".png": ("Software",), ".svg": ("Date", "Creator"), ".pdf": ("CreationDate",)}
        metadata = dict.fromkeys(keys[path.suffix.lower()])
        try:
            with new_file(path) as work:
                figure.savefig(work, dpi=140, metadata=metadata)
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise InputError(f"{path}: cannot be written, {reason}") from None
    return path


def _width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(letter)
        else 2
        if unicodedata.east_asian_width(letter) in "WF"
        else 1
        for letter in text
    )


def _is_number(cell: str) -> bool:
    text = cell.replace(",", "").removesuffix("%").replace("−", "-")
    try:
        float(text)
    except ValueError:
        return text in ("", "-", "–")
    return True


def count(value: int) -> str:
    """An integer with thousands separated."""
    return f"{value:,}"


def engineering(value: float, unit: str) -> str:
    """A number with three digits and a decimal prefix: ``1.23 GB``."""
    if value == 0:
        return f"0 {unit}"
    for prefix, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0)):
        if abs(value) >= 0.9995 * scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    for prefix, scale in (("m", 1e-3), ("µ", 1e-6), ("n", 1e-9)):
        if abs(value) >= 0.9995 * scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def fixed(value: float, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent."""
    if value == 0:
        return "0"
    magnitude = abs(value)
    places = digits - 1
    while magnitude >= 10 and places > 0:
        magnitude /= 10
        places -= 1
    while magnitude < 1 and places < 9:
        magnitude *= 10
        places += 1
    return f"{value:,.{places}f}"
