"""The verb ``rtlgen explore``."""

from __future__ import annotations

from pathlib import Path

import click

from rtl_gen import console


@console.command()
@click.argument("space_file", metavar="SPACE.yaml", type=click.Path(path_type=Path))
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the journal, the tables, the picture and the page.",
)
@click.option("--resume", is_flag=True, help="Go on with the run that DIR holds.")
@click.option(
    "--jobs", metavar="N", type=int, help="Processes; 1 uses none beside this one. Default: cores."
)
@click.option("--trials", metavar="N", type=int, help="Points of a search, for the file's.")
@click.option(
    "--storage",
    metavar="URL",
    help="Storage of the search, any of Optuna's. Default: a journal file in DIR.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Measure on a Dask cluster instead of here.")
@console.json_option
def explore(
    space_file: Path,
    out: Path,
    resume: bool,
    jobs: int | None,
    trials: int | None,
    storage: str | None,
    scheduler: str | None,
    as_json: bool,
) -> None:
    """Explore a space of cores and mappings: the Pareto front.

    Every point of the space, or those that a search tries, goes through the mapper; designs that
    may be on the front are synthesized, and the front's RTL is tried. A run that was stopped goes
    on with --resume, nothing lost or done again. See docs/explore.md for SPACE.yaml.
    """
    from rtl_gen.errors import ToolError, VerificationError
    from sw_driver.explore.exploration import explore as explored

    report = explored(
        space_file,
        out,
        resume=resume,
        jobs=jobs,
        trials=trials,
        storage=storage,
        scheduler=scheduler,
    )
    click.echo(report.json() if as_json else str(report))
    if any(item.verified is False for item in report.front):
        raise VerificationError("\n".join(report.failures))
    if report.failures:
        raise ToolError("explore", "\n".join(report.failures))
