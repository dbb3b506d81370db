"""From a specification to a build folder: Verilog, manifest, constraints, waivers, package file."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from hw.errors import SpecError
from hw.spec import BlockSpec
from rtl_gen import __version__
from rtl_gen.cache import digest, folder, new_folder, source_digest, tool_versions
from rtl_gen.errors import InputError, ToolError
from rtl_gen.manifest import (
    CLOCK_PORT,
    FILE_NAME,
    RESET_PORT,
    TOOLS,
    Manifest,
    of_build,
    parse_manifest,
    stream_records,
    wire_records,
)
from rtl_gen.reserved import name_problems
from rtl_gen.waivers import waiver_file

IO_FRACTION = 0.25
"""Part of the clock period that the constraints leave to the logic outside each port."""


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """A build on disk.

    Attributes:
        folder: where it lies.
        manifest: what it is.
    """

    folder: Path
    manifest: Manifest

    @property
    def verilog(self) -> Path:
        """The Verilog file."""
        return self.folder / f"{self.manifest.name}.v"

    @property
    def waivers(self) -> Path:
        """The control file for Verilator."""
        return self.folder / f"{self.manifest.name}.vlt"


def build(spec: BlockSpec, out: Path | str = "build") -> BuildResult:
    """Writes ``out/<name>/``: Verilog, manifest, waivers, constraints and a FuseSoC core file.

    The folder appears whole. One that is there is replaced if it is an earlier build and holds
    nothing else; the same specification and version give the same bytes.

    Raises:
        SpecError: the name is no name for a module.
        InputError: the place is taken by something that is no build, or cannot be written.
        ToolError: Yosys failed.
    """
    if problems := name_problems(spec.name):
        raise SpecError(problems)
    target = Path(out) / spec.name
    if target.is_symlink():
        target = target.resolve()
    _check_replaceable(target)
    files = build_files(spec)
    try:
        with new_folder(target) as work:
            for name, text in files.items():
                (work / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{target}: cannot be written, {reason}") from None
    return BuildResult(folder=target, manifest=parse_manifest(files[FILE_NAME]))


def build_files(spec: BlockSpec) -> dict[str, str]:
    """Text of every file of a build by name, the manifest last."""
    name = spec.name
    source = verilog(spec)
    check_ports(spec, source)
    files = {
        f"{name}.v": source,
        f"{name}.vlt": waiver_file(f"*{name}.v"),
        f"{name}.sdc": constraints(spec),
        f"{name}.core": core_file(spec),
    }
    return {**files, FILE_NAME: of_build(spec, files).text()}


def verilog(spec: BlockSpec) -> str:
    """The Verilog of a specification, elaborated once for each version of sources and tools.

    Raises:
        ToolError: Yosys failed.
    """
    key = digest(
        {
            "spec": spec.digest,
            "version": __version__,
            "sources": source_digest("hw", "rtl_gen"),
            "tools": dict(tool_versions(*TOOLS)),
        }
    )

    def make(work: Path) -> None:
        from rtl_gen.emit import EmitError, emit_verilog

        try:
            text = emit_verilog(spec)
        except EmitError as error:
            raise ToolError("yosys", str(error).removeprefix("yosys: ")) from None
        (work / "design.v").write_text(text, encoding="utf-8", newline="\n")

    return (folder("verilog", key, make) / "design.v").read_text(encoding="utf-8")


def check_ports(spec: BlockSpec, source: str) -> None:
    """The streams against the top module's ports, so that no manifest describes another design.

    Raises:
        ToolError: a port is missing, has another direction or width, or is not described.
    """
    top = re.search(rf"^module {spec.name}\b.*?^endmodule", source, re.DOTALL | re.MULTILINE)
    ports = re.findall(
        r"^\s*(input|output) (?:\[(\d+):0\] )?(\S+?) ?;$", top.group() if top else "", re.M
    )
    found = {name: (direction, int(high or 0) + 1) for direction, high, name in ports}
    expected = {CLOCK_PORT: ("input", 1), RESET_PORT: ("input", 1)}
    for stream in stream_records(spec):
        ahead, back = ("input", "output") if stream.direction == "in" else ("output", "input")
        expected[stream.ports.payload] = (ahead, stream.width)
        expected[stream.ports.valid] = (ahead, 1)
        expected[stream.ports.ready] = (back, 1)
    for wire in wire_records(spec):
        expected[wire.name] = (f"{wire.direction}put", wire.width)
    if found != expected:
        odd = sorted(set(found.items()) ^ set(expected.items()))
        raise ToolError("rtlgen", f"ports of {spec.name} differ from its streams: {odd}")


def period_ns(clock_mhz: float) -> str:
    """The clock period in ns as a decimal number, rounded down to a femtosecond."""
    text = f"{math.floor(1e9 / clock_mhz) / 1e6:.6f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def constraints(spec: BlockSpec) -> str:
    """The timing constraints, in the subset of SDC that every tool reads."""
    inputs, outputs = [RESET_PORT], []
    for stream in stream_records(spec):
        ports = stream.ports
        # A bus is looked up by its bits.
        payload = f"{ports.payload}[*]" if stream.width > 1 else ports.payload
        if stream.direction == "in":
            inputs += [payload, ports.valid]
            outputs.append(ports.ready)
        else:
            inputs.append(ports.ready)
            outputs += [payload, ports.valid]
    for wire in wire_records(spec):
        bus = f"{wire.name}[*]" if wire.width > 1 else wire.name
        (inputs if wire.direction == "in" else outputs).append(bus)
    return f"""\
# Timing of {spec.name} at {spec.clock_mhz:g} MHz, in ns. Scale the period where a library counts in
# another unit.
set period {period_ns(spec.clock_mhz)}
create_clock -name {CLOCK_PORT} -period $period [get_ports {{{CLOCK_PORT}}}]

# Part of the period that logic outside may take, before each input and after each output.
set outside [expr {{{IO_FRACTION} * $period}}]
set_input_delay -clock {CLOCK_PORT} $outside [get_ports {{{" ".join(inputs)}}}]
set_output_delay -clock {CLOCK_PORT} $outside [get_ports {{{" ".join(outputs)}}}]
"""


def core_file(spec: BlockSpec) -> str:
    """The FuseSoC package (CAPI2), with targets to lint, to simulate and to synthesize."""
    name = spec.name
    data = {
        "name": f"rtlgen:{spec.block}:{name}:{__version__}",
        "description": f"{name}, a {spec.block} made by rtlgen from specification "
        f"{spec.digest[:16]}",
        "filesets": {
            "rtl": {"files": [f"{name}.v"], "file_type": "verilogSource"},
            "waivers": {"files": [f"{name}.vlt"], "file_type": "vlt"},
            "constraints": {"files": [f"{name}.sdc"], "file_type": "SDC"},
        },
        "targets": {
            "default": {"filesets": ["rtl"], "toplevel": name},
            "lint": {
                "description": "every warning of Verilator, less the waived ones",
                "filesets": ["rtl", "waivers"],
                "toplevel": name,
                "flow": "lint",
                "flow_options": {"tool": "verilator", "verilator_options": ["-Wall"]},
            },
            "sim": {
                "description": "a Verilated model to link with a bench (fusesoc run --build)",
                "filesets": ["rtl", "waivers"],
                "toplevel": name,
                "flow": "sim",
                "flow_options": {
                    "tool": "verilator",
                    "mode": "cc",
                    "exe": "false",
                    # Split output asks for a precompiled header that some makes do not find.
                    "verilator_options": ["--output-split", "0"],
                },
            },
            "synth": {
                "description": "synthesis for ECP5 by Yosys (fusesoc run --build)",
                "filesets": ["rtl", "constraints"],
                "toplevel": name,
                "flow": "generic",
                "flow_options": {"tool": "yosys", "arch": "ecp5"},
            },
        },
    }
    body = yaml.safe_dump(data, sort_keys=False, width=88, allow_unicode=True)
    return f"CAPI=2:\n{body}"


def _check_replaceable(target: Path) -> None:
    """That nothing but an earlier build is at a place."""
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target}: must be a folder or free, is a file")
    names = {entry.name for entry in target.iterdir()}
    if not names:
        return
    if FILE_NAME not in names:
        raise InputError(f"{target}: must be free or an earlier build, holds no {FILE_NAME}")
    built = _built_names(target / FILE_NAME)
    if not built:
        raise InputError(f"{target}: must be free or an earlier build, has another {FILE_NAME}")
    foreign = sorted(names - built - {FILE_NAME})
    if foreign:
        raise InputError(
            f"{target}: must hold nothing but an earlier build, holds {', '.join(foreign)}"
        )


def _built_names(file: Path) -> set[str]:
    """Names of the files that a manifest of any version lists; none if it is none of ours."""
    try:
        data = json.loads(file.read_bytes())
        return set(data["files"]) if data["generator"]["name"] == "rtlgen" else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()
