"""What a port can depend on, by the wires themselves: exact about structure, no solver needed.

The design is flattened to gates of one bit; a walk back from a port's bits meets every input bit
that reaches it through logic alone (a combinational cone) or through registers too (a sequential
one). No path means no dependence, for all values and states; a path is reported as it runs.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw.streams import Stream
from rtl_gen import yosys
from sim.formal.prove import PROVEN, REFUTED, Result


@dataclass(frozen=True)
class _Driver:
    """The cell that drives a bit: its name, its type, the bits that it reads."""

    name: str
    kind: str
    inputs: tuple[int, ...]

    @property
    def register(self) -> bool:
        return "dff" in self.kind.lower()


class Netlist:
    """Drivers of a flattened design, and its ports.

    Args:
        source: Verilog whose top module is ``top``.

    Raises:
        ToolError: Yosys failed.
    """

    def __init__(self, source: str, top: str):
        with tempfile.TemporaryDirectory(prefix="rtlgen-cones-") as name:
            folder = Path(name)
            (folder / "design.v").write_text(source, encoding="utf-8")
            commands = [
                "read_verilog design.v",
                f"hierarchy -check -top {top}",
                "proc -norom",
                "flatten",
                "memory",
                "opt_clean",
                # Additions stay whole: every bit of a result depends on every operand bit.
                "simplemap",
                "opt_clean",
                "write_json design.json",
            ]
            yosys.run(commands, ["design.json"], folder=folder)
            data = json.loads((folder / "design.json").read_text(encoding="utf-8"))
        module: dict[str, Any] = data["modules"][top]
        self.ports: Mapping[str, tuple[int, ...]] = {
            name: tuple(bit for bit in port["bits"] if isinstance(bit, int))
            for name, port in module["ports"].items()
        }
        inputs = [name for name, port in module["ports"].items() if port["direction"] == "input"]
        self._inputs = {bit: name for name in inputs for bit in self.ports[name]}
        self._drivers: dict[int, _Driver] = {}
        for name, cell in module["cells"].items():
            read: list[int] = []
            driven: list[int] = []
            for port, bits in cell["connections"].items():
                wires = [bit for bit in bits if isinstance(bit, int)]
                (driven if cell["port_directions"][port] == "output" else read).extend(wires)
            driver = _Driver(name, cell["type"], tuple(read))
            self._drivers |= dict.fromkeys(driven, driver)
        self._names: dict[int, str] = {}
        for name, net in module["netnames"].items():
            for index, bit in enumerate(net["bits"]):
                shown = f"{name}[{index}]" if len(net["bits"]) > 1 else name
                if isinstance(bit, int) and (bit not in self._names or not net["hide_name"]):
                    self._names[bit] = shown

    def cone(self, port: str, *, registers: bool = False) -> dict[str, list[str]]:
        """Inputs that reach a port, each with a path of nets from the port back to the input.

        Args:
            registers: go through registers as well.
        """
        start = self.ports[port]
        before: dict[int, int | None] = dict.fromkeys(start)
        queue = deque(start)
        found: dict[str, list[str]] = {}
        while queue:
            bit = queue.popleft()
            if bit in self._inputs:
                name = self._inputs[bit]
                if name not in found:
                    found[name] = self._path(bit, before)
                continue
            driver = self._drivers.get(bit)
            if driver is None or (driver.register and not registers):
                continue
            for source in driver.inputs:
                if source not in before:
                    before[source] = bit
                    queue.append(source)
        return found

    def _path(self, bit: int, before: Mapping[int, int | None]) -> list[str]:
        path: list[str] = []
        step: int | None = bit
        while step is not None:
            name = self._names.get(step, f"net {step}")
            # Nets that a tool has named say nothing.
            if not name.lstrip("\\").startswith("$") and (not path or path[-1] != name):
                path.append(name)
            step = before[step]
        return path[::-1]


def handshake_rules(streams: Sequence[Stream]) -> dict[str, str]:
    """What :func:`handshakes` shows, ``name -> meaning``."""
    rules = {}
    for stream in streams:
        if stream.direction == "out":
            rules[f"registered_{stream.name}"] = (
                f"valid and payload of {stream.name} depend on no input of the same cycle, so "
                "valid waits for no ready"
            )
        else:
            rules[f"ready_alone_{stream.name}"] = (
                f"ready of {stream.name} depends on neither its own valid nor its payload in the "
                "same cycle"
            )
    return rules


def handshakes(netlist: Netlist, streams: Sequence[Stream]) -> dict[str, Result]:
    """The rules of :func:`handshake_rules` on a design."""
    clocking = {"clk", "rst"}
    found = {}
    for stream in streams:
        name = stream.name
        if stream.direction == "out":
            ports = [f"{name}__valid", f"{name}__payload"]
            inputs = set(netlist.ports) - clocking
            found[f"registered_{name}"] = _free_of(netlist, ports, inputs, registers=False)
        else:
            own = {f"{name}__valid", f"{name}__payload"}
            found[f"ready_alone_{name}"] = _free_of(
                netlist, [f"{name}__ready"], own, registers=False
            )
    return found


def timing_rule(netlist: Netlist, streams: Sequence[Stream], control: Iterable[str]) -> Result:
    """No value on a data stream ever reaches a valid or a ready, through whatever registers.

    Args:
        control: streams whose payload may (descriptors of jobs).
    """
    data = {
        f"{stream.name}__payload"
        for stream in streams
        if stream.direction == "in" and stream.name not in set(control)
    }
    ports = [
        f"{stream.name}__{'ready' if stream.direction == 'in' else 'valid'}" for stream in streams
    ]
    return _free_of(netlist, ports, data, registers=True)


def ready_inputs(netlist: Netlist, streams: Sequence[Stream]) -> dict[str, tuple[str, ...]]:
    """Per input stream what its ready depends on in the same cycle, for documentation."""
    return {
        stream.name: tuple(sorted(netlist.cone(f"{stream.name}__ready")))
        for stream in streams
        if stream.direction == "in"
    }


def _free_of(
    netlist: Netlist, ports: Sequence[str], inputs: set[str], *, registers: bool
) -> Result:
    began = time.perf_counter()
    words = []
    for port in ports:
        cone = netlist.cone(port, registers=registers)
        for name in sorted(set(cone) & inputs):
            words.append(f"{port} depends on {name}: {' <- '.join(cone[name])}")
    return Result(
        status=REFUTED if words else PROVEN,
        depth=0,
        seconds=time.perf_counter() - began,
        reason="; ".join(words),
    )
