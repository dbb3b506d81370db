"""What every verb of the command shares: exit status, ``--json``, tables and progress.

Nothing heavy is imported before it is needed; ``rich`` only where something is drawn.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hw.errors import SpecError
from rtl_gen.cache import new_file
from rtl_gen.errors import InputError, ReportedError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

FC = TypeVar("FC", bound=Callable[..., Any])

PROGRESS_AFTER = 2.0
"""Seconds of work before progress is shown."""

INTERRUPTED = 130


@contextmanager
def exit_status() -> Iterator[None]:
    """Turns the errors of a verb into one line each on standard error, and an exit status.

    0 fine, 1 a verification or a tool failed, 2 what a person wrote is wrong, 130 interrupted.
    Anything else is a defect of ours and keeps its traceback.
    """
    try:
        yield
    except ReportedError as error:
        _fail(str(error), error.exit_status)
    except SpecError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        # What was half elaborated would complain at exit that nobody used it.
        warnings.simplefilter("ignore")
        _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader has gone (`rtlgen list | head`). Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(1) from None


def _fail(text: str, status: int) -> None:
    click.echo(text, err=True)
    raise click.exceptions.Exit(status) from None


class Command(click.Command):
    """A verb: a click command whose errors end in an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        with exit_status(), _terminable():
            return super().invoke(ctx)


def command(name: str | None = None, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """As ``click.command``, for the verbs of ``rtlgen``. The docstring is the help text."""
    return click.command(name, cls=Command, **settings)


@contextmanager
def _terminable() -> Iterator[None]:
    """A polite kill unwinds like an interrupt, so that temporary folders are removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # A signal ignored by whoever started us (nohup) stays so.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def output_file(target: Path) -> Iterator[Path]:
    """A path to write what a person asked for to, that becomes ``target`` when all is well.

    Enter it before the work begins, so that a place that cannot be written is said at once. Nothing
    lies there in the meantime, which may be minutes.

    Raises:
        InputError: the place is a folder or cannot be written.
    """
    if target.is_dir():
        raise InputError(f"{target}: must be a file or free, is a folder")
    with tempfile.TemporaryDirectory(prefix="rtlgen-output-") as folder:
        with _writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=target.parent).close()
        work = Path(folder, target.name)
        yield work
        with _writing(target), new_file(target) as beside:
            shutil.copyfile(work, beside)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{target}: cannot be written, {reason}") from None


def json_option(function: FC) -> FC:
    """Adds ``--json``; the verb receives ``as_json: bool``."""
    return click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")(
        function
    )


def spec_argument(function: FC) -> FC:
    """Adds the argument ``SPEC.yaml``; the verb receives ``spec_file: Path``.

    Whether it exists and can be read is for ``rtl_gen.specfile.load_spec`` to say.
    """
    return click.argument("spec_file", metavar="SPEC.yaml", type=click.Path(path_type=Path))(
        function
    )


def echo_json(data: Any) -> None:
    """Plain data as indented JSON on standard output, keys in the order given."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def echo_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None
) -> None:
    """A table on standard output; numbers are aligned right.

    On a terminal it fits the width; elsewhere no cell is cut or wrapped.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=False, highlight=False)
    if not console.is_terminal:
        console = Console(width=10_000, highlight=False, color_system=None)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
        table.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    click.echo("\n".join(line for line in lines if line))


def _is_number(cell: Any) -> bool:
    if isinstance(cell, (int, float)):
        return True
    text = str(cell).replace(",", "").replace(" ", "").removesuffix("%")
    try:
        float(text)
    except ValueError:
        return text in ("", "-", "–")
    return True


class Progress:
    """Progress of one task, shown once the task has taken two seconds.

    It is a bar on standard error that goes when the task ends, drawn only if that is a terminal:
    with ``--json`` too, which has standard output for itself. Use as a context manager::

        with Progress("verilating", total=4) as progress:
            progress.advance()
            progress.describe("linking")

    Args:
        description: what is being done.
        total: steps, or None if unknown.
        enabled: False shows nothing.
    """

    def __init__(self, description: str, total: float | None = None, *, enabled: bool = True):
        self._description = description
        self._total = total
        self._done = 0.0
        self._enabled = enabled
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._bar: RichProgress | None = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._enabled and sys.stderr.isatty():
            self._timer = threading.Timer(PROGRESS_AFTER, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._enabled = False
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def advance(self, steps: float = 1) -> None:
        """``steps`` more are done."""
        self.update(done=self._done + steps)

    def describe(self, description: str) -> None:
        """Another thing is being done now."""
        self.update(description=description)

    def update(
        self,
        *,
        done: float | None = None,
        total: float | None = None,
        description: str | None = None,
    ) -> None:
        """Any of: steps done, steps in all, what is being done."""
        with self._lock:
            self._done = self._done if done is None else done
            self._total = self._total if total is None else total
            self._description = self._description if description is None else description
            if self._bar is not None:
                self._bar.update(
                    self._task,
                    completed=self._done,
                    total=self._total,
                    description=self._description,
                )

    def _show(self) -> None:
        with self._lock:
            if not self._enabled:
                return
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%" if self._total else ""),
                TimeElapsedColumn(),
                *([TextColumn("left"), TimeRemainingColumn()] if self._total else []),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(
                self._description, total=self._total, completed=int(self._done)
            )
            self._bar.start()
