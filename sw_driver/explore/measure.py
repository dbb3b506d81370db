"""What is measured of a point: area and delay by synthesis, error on a real layer, the RTL itself.

A task is plain data in and plain data out, so that another process or another machine can do it. It
is kept by content: a result is never computed twice on a machine, whichever run asked for it.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.block import spec_from_dict
from rtl_gen import cache
from rtl_gen.errors import InputError, ReportedError, ToolError

if TYPE_CHECKING:
    from sw_driver.explore.points import Design
    from sw_driver.mapper.workload import Workload

KINDS = ("synthesis", "sqnr", "verify", "mapping")

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


def verify_task(hardware: Mapping[str, Any], label: str) -> Task:
    """The emitted Verilog against the reference: values, stream rules, cycles, resets."""
    facts = {"spec": dict(hardware)}
    key = cache.digest(
        {"kind": "verify", **facts, "sources": cache.source_digest("hw", "rtl_gen", "sim")}
    )
    return Task(kind="verify", key=key, label=label, facts=facts, sources=_sources())


def mapping_task(
    system: Mapping[str, Any],
    choice: Mapping[str, Any],
    workload: Workload,
    label: str,
    *,
    activation_bits: int | None,
    work_key: str,
) -> Task:
    """A workload scheduled on a system.

    Args:
        system: its specification as plain data, cores written out. choice: see
            :class:`sw_driver.explore.points.Choice`; the buffer is the system's.
        work_key: SHA-256 of the workload, of :func:`workload_key`.
    """
    facts = {"spec": dict(system), "choice": dict(choice), "activation_bits": activation_bits}
    key = cache.digest(
        {
            "kind": "mapping",
            **facts,
            "workload": work_key,
            "sources": cache.source_digest("hw", "rtl_gen", "sw_driver"),
        }
    )
    return Task(
        kind="mapping",
        key=key,
        label=label,
        facts={**facts, "workload": workload},
        sources=_sources(),
    )


def workload_key(workload: Workload) -> str:
    """SHA-256 of everything in a workload but the path that it was read from."""
    return cache.digest({"workload": _plain(workload)})


def _plain(value: Any) -> Any:
    """Nested dataclasses as JSON has them, the same in every process: sets in order."""
    if is_dataclass(value):
        own = {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
        own.pop("file", None)
        return {"": type(value).__name__, **own}
    if isinstance(value, Mapping):
        return sorted(([_plain(key), _plain(item)] for key, item in value.items()), key=repr)
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"no plain data: {type(value).__name__}")


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
    from sw_driver.measure.accuracy import measure
    from sw_driver.quantize.treatments import treatments
    from sw_driver.runner.run import DEFAULT_TEXT
    from sw_driver.text.bert import Bert

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


def _mapping(facts: Mapping[str, Any]) -> dict[str, Any]:
    """``metrics`` by name, or ``refused``: why the workload cannot be on the system."""
    from sw_driver.mapper.choices import Choices
    from sw_driver.system.mapping import map_on_system
    from sw_driver.system.spec import SystemSpec, resolve

    chosen = {name: value for name, value in facts["choice"].items() if name != "buffer_kib"}
    try:
        system = resolve(SystemSpec(**facts["spec"]), Path(), "", facts["activation_bits"])
        found = map_on_system(facts["workload"], system, Choices(**chosen))
    except InputError as error:
        return {"refused": str(error).splitlines()[0]}
    # Inside, since "seconds" beside them are those that the task took.
    return {
        "metrics": {
            "cycles": found.cycles,
            "seconds": found.seconds,
            "tokens_per_second": found.tokens_per_second,
            "bytes": found.bytes,
            "utilisation": found.core_utilisation,
            "dram_utilisation": found.dram_utilisation,
        }
    }


_WORK = {"synthesis": _synthesis, "sqnr": _sqnr, "verify": _verify, "mapping": _mapping}
