"""What is measured of a point: area and delay by synthesis, error on a real layer, the RTL itself.

A task is plain data in and plain data out, so that another process or another machine can do it. It
is kept by content: a result is never computed twice on a machine, whichever run asked for it.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.block import spec_from_dict
from rtl_gen import cache
from rtl_gen.errors import ReportedError, ToolError

if TYPE_CHECKING:
    from sw_driver.explore.points import Design

KINDS = ("synthesis", "sqnr", "verify")

Result = Mapping[str, Any]
"""A task's: ``{"error": text}`` if it failed, with ``seconds`` in any case."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something to measure.

    Attributes:
        kind: one of :data:`KINDS`. key: SHA-256 of everything that the result depends on.
        label: what it is called in messages. facts: plain data that the work is done from.
        sources: of the project that asks; another version of it must not answer.
    """

    kind: str
    key: str
    label: str
    facts: Mapping[str, Any]
    sources: str = ""


def synthesis_task(
    hardware: Mapping[str, Any], label: str, *, liberty: Path | None, effort: str
) -> Task:
    """Area and delay at the specification's clock.

    Args:
        hardware: a specification of any block, as plain data.
    """
    from flows import yosys

    facts = {
        "spec": dict(hardware),
        "liberty": None if liberty is None else str(liberty.absolute()),
        "technology": _technology(liberty),
        "effort": effort,
    }
    key = cache.digest(
        {
            "kind": "synthesis",
            **facts,
            "liberty": None,  # by what is in it, wherever it lies
            "sources": cache.source_digest("hw", "rtl_gen", "flows"),
            "tools": dict(yosys.versions()),
        }
    )
    return Task(kind="synthesis", key=key, label=label, facts=facts, sources=_sources())


def _sources() -> str:
    return cache.source_digest("hw", "rtl_gen", "sim", "flows", "sw_driver")


@lru_cache
def _technology(liberty: Path | None) -> str:
    """SHA-256 of a cell library, read once."""
    from flows.technology import Technology

    technology = Technology.embedded() if liberty is None else Technology.liberty(liberty)
    return technology.digest


def error_task(design: Design, label: str, *, bits: int, group: int) -> Task:
    """Signal to quantization noise of the projections of a real layer.

    The specification's name, clock and registers are left out: no value depends on them.
    """
    spec = {
        name: value
        for name, value in design.hardware.items()
        if name not in ("name", "clock_mhz", "pipeline")
    }
    facts = {
        "spec": {**spec, "name": "measured"},
        "bits": bits,
        "group": group,
        "activation_bits": design.activation_bits,
    }
    key = cache.digest(
        {"kind": "sqnr", **facts, "sources": cache.source_digest("hw", "sim", "sw_driver")}
    )
    return Task(kind="sqnr", key=key, label=label, facts=facts, sources=_sources())


def verify_task(design: Design, label: str) -> Task:
    """The emitted Verilog against the reference: values, stream rules, cycles, resets."""
    facts = {"spec": design.hardware}
    key = cache.digest(
        {"kind": "verify", **facts, "sources": cache.source_digest("hw", "rtl_gen", "sim")}
    )
    return Task(kind="verify", key=key, label=label, facts=facts, sources=_sources())


def run(task: Task) -> dict[str, Any]:
    """Do a task, or take what was done before. Never raises but for an interrupt.

    Whatever goes wrong is a result, too: one design that fails must not stop the others.
    """
    started = time.monotonic()
    try:
        if task.sources and task.sources != _sources():
            raise ToolError("worker", "has another version of the project than the run")
        found = kept(task)
        if found is None:
            found = store(task, _WORK[task.kind](task.facts))
    except ReportedError as error:
        found = {"error": str(error)}
    except Exception as error:
        # A defect is reported with its design, too, rather than passed on.
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        found = {"error": f"{type(error).__name__}: {error} ({where})"}
    return {**found, "seconds": round(time.monotonic() - started, 3)}


def kept(task: Task) -> dict[str, Any] | None:
    """The result in this machine's cache."""
    file = cache.cache_dir() / "explored" / task.key / "result.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def store(task: Task, result: Result) -> dict[str, Any]:
    """Keep a result that came out well, from here or from another machine."""
    plain = {name: value for name, value in result.items() if name != "seconds"}

    def write(folder: Path) -> None:
        (folder / "result.json").write_text(json.dumps(plain), encoding="utf-8")

    cache.folder("explored", task.key, write)
    return plain


def _synthesis(facts: Mapping[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    from flows.areas import synthesis

    liberty = None if facts["liberty"] is None else Path(facts["liberty"])
    if _technology(liberty) != facts["technology"]:
        raise ToolError("worker", f"{liberty} is another library than that of the run")
    spec = spec_from_dict(facts["spec"])
    return asdict(synthesis(spec, liberty=liberty, effort=facts["effort"]))


def _sqnr(facts: Mapping[str, Any]) -> dict[str, Any]:
    from sw_driver.forward.bert import Bert
    from sw_driver.measure.accuracy import measure
    from sw_driver.quantize.treatments import treatments
    from sw_driver.runner.run import DEFAULT_TEXT

    spec: Any = spec_from_dict(facts["spec"])
    (row,), _ = measure(
        spec,
        Bert(),
        bits=facts["bits"],
        group=facts["group"],
        layer=0,
        text=DEFAULT_TEXT,
        treated=treatments(16)[:1],
        activation_bits=facts["activation_bits"],
        grouped=True,
    )
    return {"sqnr_db": float(row.projections_db)}


def _verify(facts: Mapping[str, Any]) -> dict[str, Any]:
    from rtl_gen.build import verilog
    from sim import check_verilog

    spec = spec_from_dict(facts["spec"])
    verdict = check_verilog(spec, verilog(spec))
    return {
        "passed": verdict.passed,
        "failure": None if verdict.failure is None else verdict.failure.text,
        "scenarios": verdict.scenarios,
        "works": verdict.works,
        "cycles": verdict.cycles,
    }


_WORK = {"synthesis": _synthesis, "sqnr": _sqnr, "verify": _verify}
