"""Proofs by Yosys' own SAT solver: a design, a monitor around it, induction over time.

A monitor is a Verilog module that instantiates the design as ``dut``, sees nothing but its ports
(and probes of named nets, for helper invariants) and drives one wire ``ok_<check>`` a check. All
inputs are free in every cycle unless the monitor assumes otherwise. The design's registers have no
initial value, so a proof starts from *every* state; the monitor assumes one cycle of reset.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hw.streams import Stream
from rtl_gen import yosys
from rtl_gen.errors import ToolError

_VACUOUS = "proven of nothing"

PROVEN, BOUNDED, REFUTED, OPEN = "proven", "bounded", "refuted", "open"


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Verilog around a design.

    Attributes:
        text: one module ``monitor`` with an instance ``dut`` of the design.
        checks: what is proven, ``name -> meaning``; each has a wire ``ok_<name>``.
        helpers: the same for invariants that only carry the induction.
        probes: wires of the monitor that are connected to nets of the design, ``wire -> net``.
        witness: wire that can become 1 and then stays so, if the assumptions allow what the checks
            are about; a proof under assumptions that nothing meets would be worth nothing.
        witness_by: cycles within which it has to.
        shown: further wires of a counter-example.
        results: whether the checks are about results' payloads; if not, the proof leaves out the
            datapath, and a counter-example does not show them.
        streams: ports of the design.
    """

    text: str
    checks: Mapping[str, str]
    witness: str
    witness_by: int
    streams: tuple[Stream, ...]
    helpers: Mapping[str, str] = field(default_factory=dict)
    probes: Mapping[str, str] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    results: bool = True


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A run that breaks a check: values by signal and cycle, cycle 1 the first, in reset.

    Attributes:
        values: per signal one binary string a cycle, ``x`` where it does not matter.
    """

    values: Mapping[str, tuple[str, ...]]

    @property
    def cycles(self) -> int:
        return max((len(item) for item in self.values.values()), default=0)

    def number(self, name: str, cycle: int) -> int | None:
        """An unsigned value, None if it is not known."""
        bits = self.values[name][cycle - 1]
        return int(bits, 2) if bits and not set(bits) - {"0", "1"} else None

    def lines(self, streams: Sequence[Stream], shown: Sequence[str] = ()) -> list[str]:
        """One line a cycle: every port, payloads by field where they are valid."""
        found = []
        for cycle in range(1, self.cycles + 1):
            parts = [f"rst={self._text('rst', cycle)}"]
            for stream in streams:
                valid = self._text(f"{stream.name}__valid", cycle)
                ready = self._text(f"{stream.name}__ready", cycle)
                part = f"{stream.name} valid={valid} ready={ready}"
                if valid == "1" and f"{stream.name}__payload" in self.values:
                    part += f" {{{self._payload(stream, cycle)}}}"
                parts.append(part)
            parts += [f"{name}={self._text(name, cycle)}" for name in shown if name in self.values]
            found.append(f"cycle {cycle}: " + ", ".join(parts))
        return found

    def _text(self, name: str, cycle: int) -> str:
        if name not in self.values:
            return "?"
        bits, number = self.values[name][cycle - 1], self.number(name, cycle)
        return bits if number is None else f"{number}"

    def _payload(self, stream: Stream, cycle: int) -> str:
        number = self.number(f"{stream.name}__payload", cycle)
        if number is None:
            return "x"
        import numpy as np

        raw = np.frombuffer(number.to_bytes(stream.nbytes, "little"), dtype=np.uint8)
        fields = stream.unpack(raw[None])
        return " ".join(f"{name}={values[0].tolist()}" for name, values in fields.items())


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a monitor's checks.

    Attributes:
        status: ``proven`` for every run of any length, ``bounded`` for every run of ``depth``
            cycles, ``refuted``, or ``open``: neither, or proven of nothing because the witness of
            the monitor cannot be reached.
        depth: length of the induction, or cycles; of a counter-example, its cycles.
        failed: the checks that are broken in the last cycle of ``trace``.
        trace: the counter-example from reset, if refuted; if open, the path that the induction
            could not exclude (its first state may be unreachable).
        reason: one line, "" if all is well.
    """

    status: str
    depth: int
    seconds: float
    failed: tuple[str, ...] = ()
    trace: Trace | None = None
    reason: str = ""

    @property
    def holds(self) -> bool:
        return self.status in (PROVEN, BOUNDED)


def induction(
    source: str, monitor: Monitor, top: str, *, depth: int = 4, search: int = 16
) -> Result:
    """Prove the checks for runs of any length by induction over up to ``depth`` cycles.

    At first with free results of every addition, which is less to assume and quicker, then, if that
    is not enough, with the design as it is; a counter-example is always one of the latter.

    Args:
        source: Verilog of the design, whose top module is ``top``.
        search: if induction fails, cycles from reset in which a counter-example is sought.

    Raises:
        ToolError: Yosys failed, or a probe is missing.
    """
    began = time.perf_counter()
    method = f"-tempinduct -maxsteps {depth}"
    log, trace = _sat(source, monitor, top, method, free_arithmetic=True)
    if "Induction step proven: SUCCESS!" not in log and log != _VACUOUS:
        log, trace = _sat(source, monitor, top, method)
    if log == _VACUOUS:
        return _vacuous(monitor, began)
    lengths = re.findall(r"\*\* Trying induction with length (\d+) \*\*", log)
    length = int(lengths[-1]) if lengths else 0
    if "Induction step proven: SUCCESS!" in log:
        return Result(status=PROVEN, depth=length, seconds=time.perf_counter() - began)
    if "model found for base case: FAIL!" in log and trace is not None:
        return _at_ports(source, monitor, top, _refuted(monitor, trace, began), search)
    if "Reached maximum number of time steps -> proof failed." not in log:
        raise ToolError("yosys", "sat gave no verdict: " + _last(log))
    found = bounded(source, monitor, top, cycles=search)
    if found.status == REFUTED:
        found = _at_ports(source, monitor, top, found, search)
    if found.status == REFUTED:
        return Result(
            status=REFUTED,
            depth=found.depth,
            seconds=time.perf_counter() - began,
            failed=found.failed,
            trace=found.trace,
            reason=found.reason,
        )
    failed = _failed(monitor, trace) if trace is not None else ()
    return Result(
        status=OPEN,
        depth=length,
        seconds=time.perf_counter() - began,
        failed=failed,
        trace=trace,
        reason=f"no induction up to {length} cycles for {', '.join(failed)}; "
        f"no counter-example within {search} cycles of reset",
    )


def bounded(source: str, monitor: Monitor, top: str, *, cycles: int) -> Result:
    """Prove the checks for every run of that many cycles; the first is the cycle of reset.

    Raises:
        ToolError: Yosys failed, or a probe is missing.
    """
    began = time.perf_counter()
    log, trace = _sat(source, monitor, top, f"-tempinduct -tempinduct-baseonly -maxsteps {cycles}")
    if log == _VACUOUS:
        return _vacuous(monitor, began)
    if f"proved base case for {cycles} steps: SUCCESS!" in log:
        return Result(status=BOUNDED, depth=cycles, seconds=time.perf_counter() - began)
    if "model found for base case: FAIL!" in log and trace is not None:
        return _refuted(monitor, trace, began)
    raise ToolError("yosys", "sat gave no verdict: " + _last(log))


def _at_ports(source: str, monitor: Monitor, top: str, found: Result, search: int) -> Result:
    """A counter-example that a user can see: of a check if there is one, not only of a helper."""
    if not monitor.helpers or set(found.failed) & set(monitor.checks):
        return found
    text = monitor.text
    for name in monitor.helpers:
        text = text.replace(f"always @* assert(ok_{name});\n", "")
    seen = bounded(source, replace(monitor, text=text, helpers={}), top, cycles=search)
    if seen.status != REFUTED:
        return found
    return replace(seen, seconds=found.seconds + seen.seconds)


def _vacuous(monitor: Monitor, began: float) -> Result:
    return Result(
        status=OPEN,
        depth=0,
        seconds=time.perf_counter() - began,
        failed=tuple(monitor.checks),
        reason=f"{_VACUOUS}: no run gives within {monitor.witness_by} cycles what the checks are "
        "about",
    )


def _refuted(monitor: Monitor, trace: Trace, began: float) -> Result:
    failed = _failed(monitor, trace)
    meanings = {**monitor.checks, **monitor.helpers}
    what = "; ".join(f"{name} ({meanings[name]})" for name in failed)
    return Result(
        status=REFUTED,
        depth=trace.cycles,
        seconds=time.perf_counter() - began,
        failed=failed,
        trace=trace,
        reason=f"fails in cycle {trace.cycles}: {what}",
    )


def _failed(monitor: Monitor, trace: Trace) -> tuple[str, ...]:
    names = (*monitor.checks, *monitor.helpers)
    return tuple(name for name in names if trace.number(f"ok_{name}", trace.cycles) == 0)


def _last(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return " / ".join(lines[-3:])


def _sat(
    source: str, monitor: Monitor, top: str, method: str, *, free_arithmetic: bool = False
) -> tuple[str, Trace | None]:
    """Log of the proof, and the model that was found.

    A proof that succeeds although its witness cannot be reached has the verdict ``_VACUOUS``.
    """
    names = [f"ok_{name}" for name in (*monitor.checks, *monitor.helpers)]
    for stream in monitor.streams:
        kinds = ["valid", "ready"]
        if stream.direction == "in" or monitor.results:
            kinds.append("payload")
        names += [f"{stream.name}__{kind}" for kind in kinds]
    # One option a signal: a list in one option is one concatenated value.
    show = " ".join(f"-show {name}" for name in ("rst", *names, *monitor.shown, *monitor.probes))
    with tempfile.TemporaryDirectory(prefix="rtlgen-formal-") as name:
        folder = Path(name)
        (folder / "design.v").write_text(source, encoding="utf-8")
        (folder / "monitor.sv").write_text(monitor.text, encoding="utf-8")
        commands = [
            "read_verilog design.v",
            "read_verilog -sv -formal monitor.sv",
            "hierarchy -check -top monitor",
            *(["cutpoint t:*rtlgen_*"] if free_arithmetic else []),
            "proc -norom",
            "flatten",
            # Nothing but the nets that are probed keeps its name for sure: connect them first.
            *(f"connect -nounset -set {wire} dut.{net}" for wire, net in monitor.probes.items()),
            "opt_clean",
            "async2sync",
            "chformal -lower",
            # No opt_dff: it would take a register that keeps what it holds for an undefined one.
            "opt_expr",
            "opt_merge",
            "opt_clean",
            "setundef -undriven -anyseq",
            "check -assert",
            "select -assert-min 1 t:$assert",
            # The witness on its own: what only the checks look at is left out.
            "design -save whole",
            "setattr -unset keep w:ok_*",
            "delete t:$assert",
            "opt_clean",
            f"sat -seq {monitor.witness_by} -set-assumes "
            f"-set-at {monitor.witness_by} {monitor.witness} 1 -show {monitor.witness} monitor",
            "design -load whole",
            f"sat {method} -prove-asserts -set-assumes {show} -dump_json model.json monitor",
        ]
        log = yosys.run(commands, [], folder=folder)
        parts = re.split(r"^\d+\.(?:\d+\.)* Executing SAT pass.*$", log, flags=re.M)
        if undefined := re.search(r"^.*Import.*'[01]*x.*$", log, flags=re.M):
            raise ToolError("yosys", f"{top}: an undefined value is left: {undefined.group()}")
        model = folder / "model.json"
        verdict = parts[-1]
        if "SUCCESS!" in verdict and "SAT solving finished - model found:" not in parts[1]:
            verdict = _VACUOUS
        return verdict, _read_trace(model, names) if model.is_file() else None


def _read_trace(file: Path, names: Sequence[str]) -> Trace:
    """The signals of a WaveJSON file; its first column holds the values before the first cycle."""
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    values: dict[str, tuple[str, ...]] = {}
    for item in data["signal"]:
        words = iter(item.get("data", ()))
        current, found = "x", []
        for mark in item["wave"]:
            if mark in "=4":
                # Both take a label, which is empty where the value is not known.
                current = next(words, "") or "x"
            elif mark != ".":
                current = mark
            found.append(current)
        # Registers of the design have a value in that column only.
        if item["name"] in names or any(mark in ".01=" for mark in item["wave"][2:]):
            values[item["name"]] = tuple(found[1:])
    return Trace(values=values)
