"""From Verilog to a shared library: Verilator, the harness, the compiler, and a cache of results.

The run-time library of Verilator and a precompiled header are built once per set of flags, so that
a small design costs little more than its own code.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Literal

from hw.streams import Stream
from rtl_gen.cache import digest, folder, source_digest
from rtl_gen.errors import ToolError
from sim import toolchain
from sim.harness import lanes

# Uninitialised state starts random, so that only what reset sets can be relied on.
_VERILATOR_FLAGS = ("-O3", "--x-assign", "unique", "--x-initial", "unique", "--no-timing")
# Warnings are for `sim.lint`, which every verification runs first with the shipped waivers; a model
# is compiled of whatever text it is given, also of one that is wrong on purpose.
_WARNINGS = ("-Wno-fatal",)
# What repeated modules need to share one compiled body; see `repeated_modules`.
_SHARE_FLAGS = ("-fno-dfg",)
_WORTH_SHARING = 60  # lines of a module

_LANES_UP_TO = 30_000  # lines of a module
_LONGEST = 3000  # statements of a function
_ONE_UNIT = 1 << 20  # bytes of C++ that are compiled as one


Trace = Literal["fst", "saif"]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much time compilation spends on speed.

    Attributes:
        name: part of the cache key.
        fast: compiler flags for code that runs every cycle.
        slow: compiler flags for construction and reset code.
        split: statements per C++ file; many files compile in parallel.
        lanes: compute instances of one module in groups (:mod:`sim.harness.lanes`).
    """

    name: str
    fast: tuple[str, ...]
    slow: tuple[str, ...]
    split: int
    lanes: bool = False


RUN_LONG = Effort(name="long", fast=("-O2",), slow=("-O0",), split=20_000, lanes=True)
RUN_NETLIST = Effort(name="netlist", fast=("-O1",), slow=("-O0",), split=20_000)
RUN_SHORT = Effort(name="short", fast=("-O1",), slow=("-O0",), split=0)


def build(
    verilog: str,
    top: str,
    streams: Sequence[Stream],
    *,
    effort: Effort = RUN_LONG,
    trace: Trace | None = None,
    jobs: int | None = None,
) -> Path:
    """The shared library of a design, from the cache if it was built before.

    Args:
        verilog: the whole source text.
        top: its top module.
        streams: every port with valid/ready; besides them there are ``clk`` and ``rst``.
        trace: with support for waveforms (``fst``) or toggle counts (``saif``); slower.
        jobs: compilers at once; every core by default.

    Raises:
        ToolMissingError, ToolError: a tool is not there, or ended with an error.
    """
    bodies = re.findall(r"^module\b.*?^endmodule", verilog, re.M | re.S)
    longest = max((body.count("\n") for body in bodies), default=0)
    if effort.lanes and longest > _LANES_UP_TO:
        effort = replace(effort, lanes=False)
    key = digest(
        {
            "verilog": verilog,
            "top": top,
            "streams": stream_macros(streams),
            "sources": source_digest("sim.harness"),
            "sharing": repeated_modules(verilog),
            "flags": repr((effort, trace, _VERILATOR_FLAGS, _flags(trace))),
            "tools": toolchain.versions(),
            "machine": _machine() if effort.lanes else "",
        }
    )

    def make(place: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="rtlgen-verilate-") as work:
            vectors = _compile(Path(work), verilog, top, streams, effort, trace, jobs, key[:16])
            shutil.copy(Path(work, "model.so"), place / "model.so")
        facts = {"top": top, "effort": effort.name, "trace": trace, "vectors": vectors}
        (place / "build.json").write_text(json.dumps(facts))

    return folder("verilated", key, make) / "model.so"


def stream_macros(streams: Sequence[Stream]) -> str:
    """The streams as the harness's table, in the order given."""
    entries = []
    for stream in streams:
        kind = "IN" if stream.direction == "in" else "OUT"
        mask = (1 << ((stream.width - 1) % 8 + 1)) - 1
        # Verilator writes a second underscore in a row as its code.
        member = f"{stream.name}__".replace("__", "___05F")
        entries.append(f"{kind}({member}, {stream.nbytes}, {mask})")
    return "#define STREAMS(IN, OUT) " + " ".join(entries)


def repeated_modules(verilog: str) -> str:
    """A Verilator control file that keeps one body for every instance of a large module, or "".

    Verilator flattens a design; of 64 equal columns it would make 64 copies of their code, minutes
    of compilation. Instances share their functions if the module is not inlined and if nothing in
    it names what lies outside: inputs that are connected differently are kept as variables.
    """
    bodies = {
        match.group(1): match.group(0)
        for match in re.finditer(r"^module\s+(\S+?)\s*[(#].*?^endmodule", verilog, re.M | re.S)
    }
    rules = []
    for module, body in bodies.items():
        if body.count("\n") < _WORTH_SHARING:
            continue
        instances = re.findall(
            rf"^\s*{re.escape(module)}\s+(?:#\s*\(.*?\)\s*)?\S+\s*\((.*?)\);",
            verilog,
            re.M | re.S,
        )
        if len(instances) < 2:
            continue
        rules.append(f'no_inline -module "{module}"')
        ports: dict[str, set[str]] = {}
        for text in instances:
            for name, value in re.findall(r"\.(\w+)\((.*?)\)(?=,\s*\.|\s*$)", text, re.S):
                ports.setdefault(name, set()).add(value.strip())
        for name, values in sorted(ports.items()):
            given = re.search(rf"^\s*input\s+(?:\[[^]]*\]\s*)?{name}\s*;", body, re.M)
            if given is not None and len(values) > 1:
                rules.append(f'public_flat_rw -module "{module}" -var "{name}"')
    return "\n".join(["`verilator_config", *rules, ""]) if rules else ""


def _template(name: str = "harness.cpp") -> str:
    return resources.files("sim.harness").joinpath(name).read_text()


@functools.cache
def _machine() -> str:
    """What the compiler makes of this machine: code with its vector unit runs on no lesser one."""
    return toolchain.run([toolchain.tool("g++"), "-march=native", "-Q", "--help=target"], "g++")


def _flags(trace: Trace | None) -> list[str]:
    include = toolchain.verilator_home() / "include"
    flags = [
        "-std=c++20",
        "-fPIC",
        "-fvisibility=hidden",
        # Without it, two models in one process would share the run-time library's statics.
        "-fno-gnu-unique",
        "-DVERILATOR=1",
        "-DVM_COVERAGE=0",
        "-DVM_SC=0",
        f"-DVM_TRACE={int(trace is not None)}",
        f"-DVM_TRACE_FST={int(trace == 'fst')}",
        "-DVM_TRACE_VCD=0",
        f"-DVM_TRACE_SAIF={int(trace == 'saif')}",
        "-DVL_TIME_CONTEXT",
        "-DVL_USER_FATAL",
        "-DVL_USER_STOP",
        "-DVL_USER_FINISH",
        "-w",
        f"-I{include}",
        f"-I{include / 'vltstd'}",
    ]
    if trace == "fst":
        flags += [f"-I{fst_folder()}", f"-I{include / 'fstcpp'}"]
    return flags


def fst_folder() -> Path:
    """Folder of the ``lz4.h`` and ``zlib.h`` that writing FST needs here."""
    return Path(__file__).parent / "fst"


def _runtime(level: str, trace: Trace | None) -> Path:
    """Folder with Verilator's run-time objects and a precompiled header, for one set of flags."""
    flags = [*_flags(trace), level]

    def make(place: Path) -> None:
        include = toolchain.verilator_home() / "include"
        sources = ["verilated.cpp", "verilated_threads.cpp"]
        headers = ["<cstdint>", "<cstdio>", "<cstring>", "<memory>", "<stdexcept>", "<string>"]
        headers += ["<vector>", '"verilated.h"']
        if trace:
            sources.append(f"verilated_{trace}_c.cpp")
            headers.append(f'"verilated_{trace}_c.h"')
        header = place / "runtime.h"
        header.write_text("".join(f"#include {name}\n" for name in headers))
        cxx = toolchain.tool("g++")
        commands = [
            [cxx, *flags, "-O2", "-c", str(include / name), "-o", f"{place / Path(name).stem}.o"]
            for name in sources
        ]
        gch = ["-x", "c++-header", str(header), "-o", str(place / "runtime.h.gch")]
        commands.append([cxx, *flags, *gch])
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(lambda command: toolchain.run(command, "g++"), commands))

    key = digest({"flags": flags, "trace": trace, "tools": toolchain.versions()})
    return folder("verilator_runtime", key, make)


def _compile(
    work: Path,
    verilog: str,
    top: str,
    streams: Sequence[Stream],
    effort: Effort,
    trace: Trace | None,
    jobs: int | None,
    key: str,
) -> bool:
    """Leaves ``model.so`` in a folder; whether it computes instances by vectors."""
    cxx = toolchain.tool("g++")
    source = work / "design.v"
    source.write_text(fold_repeats(verilog))
    command = [str(toolchain.verilator_binary()), "--cc", "--Mdir", str(work / "obj")]
    command += ["--prefix", "Vmodel", "--top-module", top, *_VERILATOR_FLAGS, *_WARNINGS]
    command += ["--output-split", str(effort.split)]
    # A body in one piece keeps its intermediate values to itself; where they are not computed by
    # vectors, functions that are too long for the compiler would cost more than that gains.
    command += ["--output-split-cfuncs", "10000000" if effort.lanes else str(_LONGEST)]
    sharing = repeated_modules(verilog)
    if sharing:
        (work / "sharing.vlt").write_text(sharing)
        command += [*_SHARE_FLAGS, str(work / "sharing.vlt")]
    if trace:
        # The function that looks for changes names every net: in one piece it takes hours.
        command += [f"--trace-{trace}", "--output-split-ctrace", str(_LONGEST)]
    toolchain.run([*command, str(source)], "verilator", keep=key)
    objects = work / "obj"
    if set(re.findall(r"\b(?:pos|neg)edge\s+(\w+)", verilog)) <= {"clk"}:
        _settle_once(objects)
    harness = work / "harness.cpp"
    harness.write_text(
        f'#define MODEL_HEADER "Vmodel.h"\n#define MODEL_CLASS Vmodel\n'
        f"{stream_macros(streams)}\n{_template()}"
    )
    generated = sorted(objects.glob("*.cpp"))
    slow = [path for path in generated if "__Slow" in path.name or "__Syms" in path.name]
    fast = [path for path in generated if path not in slow]
    if effort.split == 0 and sum(path.stat().st_size for path in generated) < _ONE_UNIT:
        # One unit: parsing the headers costs more than a small design's own code.
        whole = work / "whole.cpp"
        whole.write_text("".join(f'#include "{path}"\n' for path in [*fast, *slow, harness]))
        slow, fast = [], [whole]
    else:
        fast.append(harness)
    flags = _flags(trace)
    levels = {level[0]: _runtime(level[0], trace) for level in (effort.fast, effort.slow)}

    def compile_unit(path: Path, level: tuple[str, ...]) -> str:
        target = work / f"{path.stem}.o"
        # A precompiled header serves only the flags it was made with: the level is one of them.
        header = levels[level[0]] / "runtime.h"
        unit = [f"-I{objects}", "-include", str(header), "-c", str(path), "-o", str(target)]
        toolchain.run([cxx, *flags, *level, *unit], "g++", keep=key)
        return str(target)

    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        # The vector unit takes longest, and what it says decides on the others' text.
        vectors = pool.submit(_vectors, work, objects, flags) if effort.lanes else None
        ordinary = [pool.submit(compile_unit, path, effort.slow) for path in slow]
        target, spare = vectors.result() if vectors is not None else ([], ())
        for path in sorted(fast, key=lambda path: -path.stat().st_size):
            level = effort.slow if path.name.startswith(spare) and spare else effort.fast
            ordinary.append(pool.submit(compile_unit, path, level))
        targets = [*target, *(unit.result() for unit in ordinary)]
    runtime = levels[effort.fast[0]]
    link = [cxx, "-shared", "-Wl,-Bsymbolic", "-o", str(work / "model.so"), *targets]
    link += [str(path) for path in sorted(runtime.glob("*.o"))]
    toolchain.run([*link, "-lpthread"], "g++", keep=key)
    return bool(target)


def fold_repeats(verilog: str) -> str:
    """The same text with ``{ x, x, x }`` written as ``{ {3{x}} }``.

    Verilator takes a repeated bit apart and puts it together again, one operation a copy, where a
    replication is a single negation: a seventh of the time of a multiplier array.
    """

    def fold(match: re.Match[str]) -> str:
        parts = []
        for item, run in itertools.groupby(part.strip() for part in match.group(1).split(", ")):
            count = len(list(run))
            # An escaped name ends with a blank.
            item = f"{item} " if item.startswith("\\") else item
            parts.append(item if count == 1 else f"{{{count}{{{item}}}}}")
        return "{ " + ", ".join(parts) + " }"

    return re.sub(r"\{ ([^{}]*, [^{}]*) \}", fold, verilog)


def _vectors(work: Path, objects: Path, flags: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """The object that computes groups of instances, and the files whose code it makes spare.

    The callers are rewritten. Nothing is done where there are no such groups.
    """
    found = lanes.rewrite(objects)
    if found is None:
        return [], ()
    (work / "lanes.h").write_text(_template("lanes.h"))
    unit, target = work / "lanes.cpp", work / "lanes.o"
    unit.write_text(found.source)
    command = [toolchain.tool("g++"), *flags, "-O2", "-march=native", f"-I{objects}", f"-I{work}"]
    try:
        toolchain.run([*command, "-c", str(unit), "-o", str(target)], "g++", keep="lanes")
    except ToolError:
        # The text does what vectors cannot: the ordinary code stays.
        return [], ()
    for path, text in found.files.items():
        path.write_text(text)
    return [str(target)], found.spare


def _settle_once(objects: Path) -> None:
    """Spare the settling of inputs in evaluations where the harness has changed the clock alone.

    Verilator settles everything that depends on inputs in each evaluation, twice a cycle; the
    harness knows that nothing did change before the rising edge. Only for designs of one clock:
    what hangs on a gated clock does change with it. Where the generated text has not the form that
    is expected nothing is replaced, and the model is only slower.
    """
    for path in objects.glob("Vmodel___024root__*.cpp"):
        text = path.read_text()
        found = text.replace(
            "vlSelfRef.__VicoFirstIteration = 1U;",
            "vlSelfRef.__VicoFirstIteration = rtlgen_inputs_changed;",
        )
        if found != text:
            path.write_text(f"extern thread_local bool rtlgen_inputs_changed;\n{found}")
