"""A space explored: points mapped, measured where it matters, the front tried on the RTL."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import click

from rtl_gen.console import Progress
from rtl_gen.errors import InputError
from sw_driver.explore.journal import Journal
from sw_driver.explore.measured import Measured
from sw_driver.explore.points import Catalogue
from sw_driver.explore.results import ExploreReport, report_of, write
from sw_driver.explore.space import SearchFile, Space, load_space
from sw_driver.explore.sweep import Table, sweep
from sw_driver.explore.system_points import SystemCatalogue
from sw_driver.explore.workers import Workers, workers


def explore(
    space: Space | Path | str,
    out: Path | None = None,
    *,
    resume: bool = False,
    jobs: int | None = None,
    trials: int | None = None,
    storage: str | None = None,
    scheduler: str | None = None,
    doing: Workers | None = None,
    progress: bool = True,
) -> ExploreReport:
    """The front of a space.

    Args:
        space: a space or the path of its file.
        out: folder for the journal and the reports; nothing is written without one.
        resume: go on with the run that is in ``out``.
        jobs: processes; all cores of this machine if None, 1 works in this process.
        trials: of a search, in place of the file's.
        storage: an Optuna storage by URL in place of the journal in ``out``.
        scheduler: address of a Dask cluster in place of processes.
        doing: workers in place of those that ``jobs`` and ``scheduler`` describe.
        progress: say on standard error what happens.

    Raises:
        InputError: the space, the folder or an option is wrong. ToolError: an extra is missing, or
            the cluster cannot be reached. What fails of single designs is in the report.
    """
    space = space if isinstance(space, Space) else load_space(space)
    if space.search.method == "sweep":
        for name, value in (("trials", trials), ("storage", storage)):
            if value is not None:
                raise InputError(f"--{name}: a sweep has none; search.method of the space says so")
    if trials is not None:
        if not 1 <= trials <= 1_000_000:
            raise InputError(f"--trials: must lie in [1, 1000000], got {trials}")
        space = replace(space, search=SearchFile(**{**space.search.model_dump(), "trials": trials}))
    if resume and out is None:
        raise InputError("--resume: needs the folder of the run, --out")
    catalogue = SystemCatalogue(space) if space.systems else Catalogue(space)
    with ExitStack() as stack:
        say = stack.enter_context(_said(progress))
        journal = None
        if out is not None:
            journal = stack.enter_context(Journal(out, space.digest, resume=resume))
        hands = workers(jobs, scheduler) if doing is None else doing
        if doing is None:
            stack.callback(hands.close)
        measured = Measured(space, catalogue, hands, journal, say)
        if isinstance(catalogue, SystemCatalogue):
            catalogue.scheduled_by(measured)
        choosing = searched = None
        if space.search.method == "sweep":
            table, choosing = sweep(space, catalogue, measured, say)
        else:
            from sw_driver.explore.search import search

            run = uuid.uuid4().hex if journal is None else journal.run
            table, searched = search(
                space,
                catalogue,
                measured,
                say,
                trials=space.search.trials,
                folder=out,
                run=run,
                storage=storage,
            )
        _settle(space, table, measured)
        if not len(table.points):
            rules = "".join(
                f"\n  {count:,} × {core}: {rule}"
                for (core, rule), count in catalogue.refused.most_common(20)
            )
            raise InputError(f"{space.name}: no point of the space is left:{rules}")
        report = report_of(space, table, measured, choosing, searched)
        if out is not None:
            write(report, out, table, measured)
    return report


def _settle(space: Space, table: Table, measured: Measured) -> None:
    """Synthesizes the front where the mapper alone placed it, and tries its RTL."""
    while not space.measured and space.synthesis.runs:
        on = table.front().tolist()
        # A design that misses its clock makes room for another.
        new = [
            index
            for index in on
            if table.point(index)[0] not in measured.failed
            and measured.metrics(table.point(index)) is None
            and measured.refusal(table.point(index)) is None
        ]
        within = set(measured.affordable([table.point(index)[0] for index in new]))
        new = [index for index in new if table.point(index)[0] in within]
        refused = [index for index in on if measured.refusal(table.point(index))]
        table.read(measured, refused)
        if not new and not refused:
            break
        measured.measure([table.point(index) for index in new], error=False)
        table.read(measured, new)
    if space.verify:
        designs = dict.fromkeys(table.point(index)[0] for index in table.front().tolist())
        measured.verify([item for item in designs if item not in measured.failed])


@contextmanager
def _said(progress: bool) -> Iterator[Callable[[str], None]]:
    """Takes lines for standard error: under a bar on a terminal, one by one elsewhere."""
    if not progress:
        yield lambda line: None
        return
    with Progress("exploring") as bar:

        def say(line: str) -> None:
            if sys.stderr.isatty() and "FAILED" not in line:
                bar.describe(line)
            else:
                click.echo(line, err=True)

        yield say
