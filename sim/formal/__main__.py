"""``python -m sim.formal [--core NAME|all] [--part PART] [--name PART] [--thorough] [--json]``."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict

import click

from rtl_gen import console
from rtl_gen.errors import InputError, VerificationError
from rtl_gen.yosys import versions
from sim.formal.catalogue import PARTS, RULES, Row, proofs


@console.command("formal")
@click.option(
    "--core",
    type=click.Choice([*RULES, "all"]),
    default="all",
    show_default=True,
    help="Whose ports and arithmetic.",
)
@click.option("--part", type=click.Choice(list(PARTS)), help="Only this kind of proof.")
@click.option("--name", default="", help="Only specifications whose name contains this.")
@click.option("--thorough", is_flag=True, help="The shipped specifications too (minutes).")
@click.option("--list", "only_list", is_flag=True, help="List the proofs and stop.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=os.cpu_count() or 1,
    show_default="processors",
    help="Proofs at once.",
)
@console.json_option
def formal(
    core: str,
    part: str | None,
    name: str,
    thorough: bool,
    only_list: bool,
    jobs: int,
    as_json: bool,
) -> None:
    """Prove stream rules, conservation, cycles and arithmetic of emitted Verilog."""
    chosen = [
        item
        for item in proofs(core, thorough=thorough)
        if part in (None, item.part) and name in item.name
    ]
    if not chosen:
        raise InputError(f"--name: no proof is about a specification with {name!r} in its name")
    if only_list:
        console.echo_table(
            ["core", "specification", "part"], [[p.core, p.name, p.part] for p in chosen]
        )
        return
    began = time.perf_counter()
    found: dict[int, list[Row]] = {}
    # Every proof is a process of Yosys: threads only wait for them.
    with (
        console.Progress("proving", total=len(chosen)) as progress,
        ThreadPoolExecutor(jobs) as pool,
    ):
        futures = {pool.submit(item.run): index for index, item in enumerate(chosen)}
        try:
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                progress.advance()
        finally:
            pool.shutdown(cancel_futures=True)
    rows = [row for index in sorted(found) for row in found[index]]
    seconds = time.perf_counter() - began
    bad = [row for row in rows if not row.good]
    if as_json:
        console.echo_json(
            {
                "tools": versions(),
                "proven": len(rows) - len(bad),
                "properties": len(rows),
                "seconds": round(seconds, 1),
                "rows": [asdict(row) for row in rows],
            }
        )
    else:
        _echo(rows)
        click.echo(
            f"{len(rows) - len(bad)} of {len(rows)} properties proven in {len(chosen)} proofs, "
            f"{seconds:.0f} s"
        )
    if bad:
        raise VerificationError("\n".join(_words(bad)))


def _echo(rows: Sequence[Row]) -> None:
    """One line a proof; properties that are proven together are counted, others named."""
    lines: list[list[str]] = []
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.core, row.spec, row.part), []).append(row)
    for (core, spec, part), items in groups.items():
        good = [row for row in items if row.good]
        bad = [f"{row.name} {row.result}" for row in items if not row.good]
        depth = max(row.depth for row in items)
        how = items[0].how
        method = {
            "induction": f"induction, {depth} deep",
            "every run": f"every run of {depth} cycles",
        }.get(how, how)
        verdict = ", ".join([f"{len(good)} proven"] * bool(good) + bad)
        # Proofs of one netlist have their own time each, checks of one monitor share theirs.
        times = [row.seconds for row in items]
        taken = sum(times) if how == "structure" else max(times)
        lines.append([core, spec, part, verdict, method, f"{taken:.1f}"])
    console.echo_table(["core", "specification", "part", "properties", "how", "s"], lines)


def _words(bad: Sequence[Row]) -> list[str]:
    """What is not proven, each counter-example once."""
    lines, shown = [], set()
    for row in bad:
        lines.append(f"{row.core} {row.spec}: {row.name}: {row.result}: {row.reason}")
        if row.trace and row.trace not in shown:
            shown.add(row.trace)
            lines += [f"  {line}" for line in row.trace]
    return lines


if __name__ == "__main__":
    formal()
