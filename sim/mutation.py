"""Breaks the RTL on purpose and shows that the checks notice every time.

``python -m sim.mutation [--core CORE] [--name PART] [--list] [--json] [--jobs N]``

A mutant is one change in the text of one module of the generator, elaborated in a process of its
own, so that golden model, packing and checks stay as they are. The Verilog that comes out is tried
by ``sim.check_verilog`` at its quick effort, as are the unchanged designs of the same
specifications, which have to pass. Anything else fails the run: a mutant that survives, one that
does not apply to the sources any more, one that does not elaborate or whose text is the same, and
one that is noticed only because Verilator refuses it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

import sim.mutants
from hw.block import spec_from_dict
from hw.spec import BlockSpec
from rtl_gen import console
from sim.mutants import shared
from sim.mutants.entry import Entry

SPECS: dict[str, dict[str, dict[str, Any]]] = {
    item.name: importlib.import_module(f"sim.mutants.{item.name}").SPECS
    for item in sorted(pkgutil.iter_modules(sim.mutants.__path__), key=lambda item: item.name)
    if item.name not in ("entry", "shared")
}
"""By core small specifications that together reach every form that a mutant needs."""

CORES = tuple(SPECS)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One way to be wrong.

    Attributes:
        core: the core that it is tried on, and ``spec`` the name of its specification.
        module: the module of the generator that is changed.
        old, new: its text before and after; ``old`` occurs once in the module.
        also: further such pairs, without which the first makes no difference.
    """

    name: str
    what: str
    core: str
    spec: str
    module: str
    old: str
    new: str
    also: tuple[tuple[str, str], ...] = ()


def mutants() -> tuple[Mutant, ...]:
    """Every mutant of every core, each name once a core."""
    found = []
    for name, module, where, what, old, new in _entries():
        for core, spec in where.items():
            found.append(
                Mutant(
                    name=name,
                    what=what,
                    core=core,
                    spec=spec,
                    module=module,
                    old=old,
                    new=new,
                    also=shared.ALSO.get(name, ()),
                )
            )
    return tuple(found)


def _entries() -> Iterator[Entry]:
    yield from shared.CONTROL
    yield from shared.ARITHMETIC
    for core in CORES:
        yield from importlib.import_module(f"sim.mutants.{core}").MUTANTS


def specification(core: str, name: str) -> BlockSpec:
    """One of :data:`SPECS`."""
    return spec_from_dict({"block": core, "name": f"mutant_{name}", **SPECS[core][name]})


class MutantError(RuntimeError):
    """A mutant that is none: it does not apply, does not elaborate, or changes nothing."""


def mutated_source(mutant: Mutant) -> str:
    """The text of the mutant's module with the change in it.

    Raises:
        MutantError: a text before does not occur exactly once.
    """
    found = importlib.util.find_spec(mutant.module)
    if found is None or found.origin is None:
        raise MutantError(f"{mutant.module}: no such module")
    text = Path(found.origin).read_text()
    for old, new in ((mutant.old, mutant.new), *mutant.also):
        count = text.count(old)
        if count != 1:
            raise MutantError(f"{mutant.module}: {count} places instead of one have {old!r}")
        text = text.replace(old, new)
    return text


# The changed module is loaded from its text in a process that does nothing but elaborate.
_EMIT = """
import importlib.abc, importlib.util, json, sys
target, text, data, out = sys.argv[1:]

class Loader(importlib.abc.Loader):
    def exec_module(self, module):
        exec(compile(open(text).read(), target, "exec"), module.__dict__)

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, found=None):
        if name == target:
            return importlib.util.spec_from_loader(name, Loader())

sys.meta_path.insert(0, Finder())
import sim.mutants
from hw.block import spec_from_dict
from rtl_gen.emit import emit_verilog
with open(out, "w") as file:
    file.write(emit_verilog(spec_from_dict(json.loads(data))))
"""


def mutated_verilog(mutant: Mutant) -> str:
    """The Verilog of a mutant.

    Raises:
        MutantError: it does not apply or does not elaborate.
    """
    spec = specification(mutant.core, mutant.spec)
    with tempfile.TemporaryDirectory(prefix="rtlgen-mutant-") as folder:
        text, out = Path(folder, "module.py"), Path(folder, "mutant.v")
        text.write_text(mutated_source(mutant))
        data = json.dumps(spec.model_dump(mode="json"))
        done = subprocess.run(
            [sys.executable, "-c", _EMIT, mutant.module, str(text), data, str(out)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not out.exists():
            words = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise MutantError(f"does not elaborate: {' '.join(words)}")
        return out.read_text()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a mutant, or of an unchanged design.

    Attributes:
        status: ``caught``, ``survived`` or ``invalid``; of an unchanged design ``passed`` or
            ``failed``.
        kind: of the failure that caught it, see ``sim.stimulus.Failure``.
        words: where it was caught, or why it is invalid.
        seconds: elaboration, compilation and check.
    """

    core: str
    spec: str
    name: str
    what: str
    status: str
    kind: str
    words: str
    seconds: float

    @property
    def good(self) -> bool:
        return self.status in ("caught", "passed")


@functools.cache
def original_verilog(core: str, name: str) -> str:
    """The Verilog of an unchanged design."""
    from rtl_gen.emit import emit_verilog

    return emit_verilog(specification(core, name))


def try_original(core: str, name: str) -> Outcome:
    """Hold an unchanged design against the checks that the mutants get."""
    from sim.compiled import check_verilog

    began = time.perf_counter()
    verdict = check_verilog(specification(core, name), original_verilog(core, name))
    failure = verdict.failure
    return Outcome(
        core=core,
        spec=name,
        name="(unchanged)",
        what="the design as it is",
        status="passed" if verdict.passed else "failed",
        kind=failure.kind if failure else "",
        words=failure.text
        if failure
        else f"{verdict.scenarios} scenarios, {verdict.works} jobs, {verdict.cycles} cycles",
        seconds=time.perf_counter() - began,
    )


def try_mutant(mutant: Mutant) -> Outcome:
    """Elaborate a mutant and hold it against the checks."""
    from sim.compiled import check_verilog

    began = time.perf_counter()
    status, kind, words = "survived", "", "nothing noticed it"
    try:
        text = mutated_verilog(mutant)
        if text == original_verilog(mutant.core, mutant.spec):
            raise MutantError("the emitted Verilog is unchanged")
        failure = check_verilog(specification(mutant.core, mutant.spec), text).failure
        if failure is not None:
            # A text that does not even compile shows nothing about the checks.
            status = "invalid" if failure.kind == "build" else "caught"
            lines = failure.text.splitlines()
            errors = [line for line in lines if line.startswith("%Error")]
            kind, words = failure.kind, (errors or lines)[0]
    except MutantError as error:
        status, words = "invalid", str(error)
    return Outcome(
        core=mutant.core,
        spec=mutant.spec,
        name=mutant.name,
        what=mutant.what,
        status=status,
        kind=kind,
        words=words,
        seconds=time.perf_counter() - began,
    )


def outcomes(chosen: Sequence[Mutant], *, jobs: int) -> Iterator[Outcome]:
    """Outcomes of the unchanged designs first, then of the mutants, as they are known."""
    originals = dict.fromkeys((mutant.core, mutant.spec) for mutant in chosen)
    # Processes of their own: a broken model may take its process with it.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(try_original, *pair) for pair in originals]):
            yield future.result()
        for future in as_completed([pool.submit(try_mutant, mutant) for mutant in chosen]):
            yield future.result()


@console.command("mutation")
@click.option(
    "--core",
    type=click.Choice([*CORES, "all"]),
    default="all",
    show_default=True,
    help="Whose RTL is broken.",
)
@click.option("--name", "part", default="", help="Only mutants whose name contains this.")
@click.option("--list", "only_list", is_flag=True, help="List the mutants and stop.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=os.cpu_count() or 1,
    show_default="processors",
    help="Mutants at once.",
)
@console.json_option
def mutation(core: str, part: str, only_list: bool, jobs: int, as_json: bool) -> None:
    """Break the RTL on purpose; every mutant has to be caught."""
    from rtl_gen.errors import InputError, VerificationError

    chosen = [m for m in mutants() if core in (m.core, "all") and part in m.name]
    if not chosen:
        raise InputError(f"--name: no mutant has {part!r} in its name")
    if only_list:
        rows = [[m.core, m.name, m.spec, m.module, m.what] for m in chosen]
        console.echo_table(["core", "mutant", "specification", "module", "what is wrong"], rows)
        return
    began = time.perf_counter()
    found: list[Outcome] = []
    with console.Progress("trying mutants", total=len(chosen), enabled=not as_json) as progress:
        for outcome in outcomes(chosen, jobs=jobs):
            found.append(outcome)
            progress.advance()
    place = {(mutant.core, mutant.name): number for number, mutant in enumerate(chosen)}
    found.sort(key=lambda item: (item.core, place.get((item.core, item.name), -1), item.spec))
    bad = [item for item in found if not item.good]
    counts = _counts(found)
    seconds = time.perf_counter() - began
    if as_json:
        console.echo_json(
            {
                "counts": counts,
                "seconds": round(seconds, 1),
                "outcomes": [vars(item) for item in found],
            }
        )
    else:
        console.echo_table(
            ["core", "mutant", "specification", "what is wrong", "outcome", "by", "where"],
            [[i.core, i.name, i.spec, i.what, i.status, i.kind, _place(i)] for i in found],
        )
        for name, count in counts.items():
            kinds = Counter(i.kind for i in found if i.core == name and i.status == "caught")
            by = ", ".join(f"{kind} {number}" for kind, number in kinds.most_common())
            click.echo(
                f"{name}: {count['caught']} of {count['mutants']} mutants caught"
                f"{f' (by {by})' if by else ''}, "
                f"{count['passed']} of {count['designs']} unchanged designs passed"
            )
        click.echo(f"{seconds:.0f} s")
    if bad:
        raise VerificationError(
            "\n".join(f"{i.core}: {i.name} ({i.spec}): {i.status}: {i.words}" for i in bad)
        )


def _counts(found: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for item in found:
        entry = counts.setdefault(item.core, {"mutants": 0, "caught": 0, "designs": 0, "passed": 0})
        original = item.name == "(unchanged)"
        entry["designs" if original else "mutants"] += 1
        entry["passed" if original else "caught"] += item.good
    return counts


def _place(outcome: Outcome) -> str:
    """The scenario that caught it; all words where something is not as it should be."""
    if outcome.status == "caught":
        return outcome.words.split(": ")[0]
    return outcome.words


if __name__ == "__main__":
    mutation()
