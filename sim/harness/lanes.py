"""Many instances of one module at once, by the vector unit of the machine.

Instances of a large module share one compiled body (``repeated_modules``), which Verilator calls for
one after another. Here the calls for a group of :data:`LANES` instances become one call of the same
body on vectors (``lanes.h``). What the text of Verilator's output has to look like for that is
checked; where it does not, or does not compile, nothing is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LANES = 16
"""``lanes::COUNT`` of ``lanes.h``."""

_CALL = re.compile(r"^ *(\w+)\(\(&vlSymsp->(\w+)\)\);\n", re.M)
_FUNCTION = r"^void {name}\((\w+)\* vlSelf\) \{{\n(.*?)^\}}"


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """A translation unit with the vector code, and the files that call it.

    Attributes:
        source: text of the unit.
        files: new text of the files that hold the calls.
    """

    source: str
    files: Mapping[Path, str]


def rewrite(objects: Path) -> Rewrite | None:
    """The vector form of Verilator's output in a folder; None if nothing in it can have one."""
    texts = {
        path: path.read_text()
        for path in sorted(objects.glob("*.cpp"))
        if "__Slow" not in path.name
    }
    groups: dict[str, list[str]] = {}
    files = {}
    for path, text in texts.items():
        found, changed = _calls(text, groups)
        if found:
            files[path] = changed
    if not groups:
        return None
    parts = [_vector_function(name, groups[name], texts) for name in groups]
    known = [part for part in parts if part is not None]
    if len(known) != len(parts):
        return None
    header = '#include "Vmodel__pch.h"\n#include "lanes.h"\n'
    return Rewrite(source=header + "\n".join(known), files=files)


def _calls(text: str, groups: dict[str, list[str]]) -> tuple[bool, str]:
    """The text with runs of calls of one function replaced by one; ``groups`` gets their objects."""
    pieces = []
    declared = []
    position = 0
    calls = list(_CALL.finditer(text))
    start = 0
    while start < len(calls):
        stop = start + 1
        while (
            stop < len(calls)
            and calls[stop].group(1) == calls[start].group(1)
            and calls[stop].start() == calls[stop - 1].end()
        ):
            stop += 1
        name = calls[start].group(1)
        # A function that is called in two places keeps its ordinary form in the second.
        if stop - start >= LANES and name not in groups:
            groups[name] = [call.group(2) for call in calls[start:stop]]
            pieces.append(text[position : calls[start].start()])
            pieces.append(f"    {name}__lanes(vlSymsp);\n")
            position = calls[stop - 1].end()
            declared.append(f"void {name}__lanes(Vmodel__Syms* vlSymsp);\n")
        start = stop
    if not declared:
        return False, text
    changed = "".join([*pieces, text[position:]])
    return True, changed.replace(
        '#include "Vmodel__pch.h"\n', '#include "Vmodel__pch.h"\n' + "".join(declared), 1
    )


def _vector_function(name: str, instances: list[str], texts: Mapping[Path, str]) -> str | None:
    match = None
    for text in texts.values():
        match = re.search(_FUNCTION.format(name=name), text, re.M | re.S)
        if match is not None:
            break
    if match is None:
        return None
    module, body = match.groups()
    body = re.sub(r"^ *(VL_DEBUG_IF|Vmodel__Syms\* const|auto& vlSelfRef).*;\n", "", body, flags=re.M)
    # An instance may read what lies outside, but only its own members may be written in a group.
    if re.search(r"\bvlSymsp->[\w.]+(\[[^]]*\])? *=[^=]", body) or re.search(r"\bvlSelf\b", body):
        return None
    # What all instances share stays a plain number.
    body = body.replace("(IData)(vlSymsp->", "(uint32_t)(vlSymsp->")
    members = sorted(set(re.findall(r"\bvlSelfRef\.(\w+)", body)))
    written = sorted(set(re.findall(r"\bvlSelfRef\.(\w+)(?:\[[^]]*\])? *=[^=]", body)))
    fields = "".join(
        f"    lanes::Form<decltype({module}::{member})>::type {member};\n"
        for member in members
    )
    gathers = "".join(
        f"    lanes::gather(vlSelfRef.{member}, at, &{module}::{member});\n" for member in members
    )
    scatters = "".join(
        f"    lanes::scatter(vlSelfRef.{member}, at, &{module}::{member});\n" for member in written
    )
    whole = len(instances) - len(instances) % LANES
    pointers = ", ".join(f"&vlSymsp->{item}" for item in instances[:whole])
    rest = "".join(f"    {name}(&vlSymsp->{item});\n" for item in instances[whole:])
    return f"""
void {name}({module}* vlSelf);
namespace {{
struct {name}_members {{
{fields}}};
void {name}_group({module}* const* at, Vmodel__Syms* const __restrict vlSymsp) {{
    using CData = lanes::Stored<0xffu>;
    using SData = lanes::Stored<0xffffu>;
    using IData = lanes::Lanes;
    {name}_members vlSelfRef;
{gathers}{body}
{scatters}}}
}}  // namespace
void {name}__lanes(Vmodel__Syms* vlSymsp) {{
    {module}* const all[] = {{{pointers}}};
    for (int i = 0; i < {whole}; i += lanes::COUNT) {name}_group(all + i, vlSymsp);
{rest}}}
"""
