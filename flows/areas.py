"""Area and delay of a specification, kept: what comparisons of many designs ask for again.

A synthesis takes minutes; an entry is kept by the Verilog, the library, the clock, the effort and
the flow's own sources, so that none is served to what would give another.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """What a synthesis gave. ``area`` in the technology's unit, ``delay_ns`` its critical path."""

    area: float
    unit: str
    technology: str
    delay_ns: float
    met: bool | None


def synthesis(spec: Any, *, liberty: Path | None, effort: str, progress: bool = False) -> Synthesis:
    """Least area that meets the specification's clock.

    Args:
        spec: any block's specification.
        liberty: cell library by path; the embedded technology if None.
        effort: see :func:`flows.synthesis.synthesize`.
        progress: show progress on standard error.

    Raises:
        LibertyError, FlowError: see :func:`flows.command.synthesize_spec`.
    """
    from flows import yosys
    from flows.command import synthesize_verilog
    from flows.technology import Technology
    from rtl_gen import cache
    from rtl_gen.build import verilog

    technology = Technology.embedded() if liberty is None else Technology.liberty(liberty)
    text = verilog(spec)
    clock_ns = 1000.0 / spec.clock_mhz
    key = cache.digest(
        {
            "verilog": hashlib.sha256(text.encode()).hexdigest(),
            "technology": technology.digest,
            "clock_ns": clock_ns,
            "effort": effort,
            "sources": cache.source_digest("flows"),
            "tools": dict(yosys.versions()),
        }
    )

    def make(folder: Path) -> None:
        report = synthesize_verilog(
            text, spec.name, liberty=liberty, clock_ns=clock_ns, effort=effort, progress=progress
        )
        found = Synthesis(
            area=report.area,
            unit=report.area_unit,
            technology=report.technology,
            delay_ns=report.delay_ns,
            met=report.met,
        )
        (folder / "synthesis.json").write_text(json.dumps(asdict(found)), encoding="utf-8")

    entry = cache.folder("areas", key, make)
    return Synthesis(**json.loads((entry / "synthesis.json").read_text(encoding="utf-8")))
