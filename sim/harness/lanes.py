"""Many instances of one module at once, by the vector unit of the machine.

Instances of a large module share one compiled body (``repeated_modules``), which Verilator calls
for one after another. Here the calls for a group of :data:`LANES` instances become one call of the
same body on vectors (``lanes.h``). What the text of Verilator's output has to look like for that is
checked; where it does not, or does not compile, nothing is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

LANES = 16
"""``lanes::COUNT`` of ``lanes.h``."""

_CALL = re.compile(r"^ *(\w+)\(\(&vlSymsp->(\w+)\)\);\n", re.M)
_HEADER = '#include "Vmodel__pch.h"\n'
_FUNCTION = r"^void {name}\((\w+)\* vlSelf\) \{{\n(.*?)^\}}"


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """A translation unit with the vector code, and the files that call it.

    Attributes:
        source: text of the unit.
        files: new text of the files that hold the calls.
        spare: beginnings of the names of files whose ordinary code is called no more.
    """

    source: str
    files: Mapping[Path, str]
    spare: tuple[str, ...]


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
        changed = _calls(text, groups)
        if changed != text:
            files[path] = changed
    if not groups:
        return None
    parts = []
    spare = set()
    for name, instances in groups.items():
        found = _vector_function(name, instances, texts)
        if found is None:
            return None
        module, part = found
        parts.append(part)
        if len(instances) % LANES == 0:
            spare.add(f"{module}__")
    return Rewrite(
        source=_HEADER + '#include "lanes.h"\n' + "\n".join(parts),
        files=files,
        spare=tuple(sorted(spare)),
    )


def _calls(text: str, groups: dict[str, list[str]]) -> str:
    """The text with blocks of calls replaced; ``groups`` gets each function's objects.

    A block is ``f(c0); g(c0); f(c1); g(c1); …`` (a long body is cut in several functions) or the
    same by function. As instances do not touch one another (:func:`_vector_function` checks), it
    may be computed function by function.
    """
    pieces = []
    declared = []
    position = 0
    for block in _blocks(list(_CALL.finditer(text))):
        lists: dict[str, list[str]] = {}
        for call in block:
            lists.setdefault(call.group(1), []).append(call.group(2))
        first = next(iter(lists.values()))
        regular = all(sorted(item) == sorted(first) for item in lists.values())
        # A function that is called in two places keeps its ordinary form in the second.
        if (
            len(set(first)) != len(first)
            or len(first) < LANES
            or not regular
            or lists.keys() & groups
        ):
            continue
        groups.update(lists)
        pieces.append(text[position : block[0].start()])
        pieces += [f"    {name}__lanes(vlSymsp);\n" for name in lists]
        declared += [f"void {name}__lanes(Vmodel__Syms* vlSymsp);\n" for name in lists]
        position = block[-1].end()
    if not declared:
        return text
    changed = "".join([*pieces, text[position:]])
    return changed.replace(_HEADER, _HEADER + "".join(declared), 1)


def _blocks(calls: list[re.Match[str]]) -> Iterator[list[re.Match[str]]]:
    """Runs of calls that follow one another without anything between."""
    block: list[re.Match[str]] = []
    for call in calls:
        if block and call.start() != block[-1].end():
            yield block
            block = []
        block.append(call)
    if block:
        yield block


def _vector_function(
    name: str, instances: list[str], texts: Mapping[Path, str]
) -> tuple[str, str] | None:
    """The module and the vector form of one of its functions; None if it can have none."""
    match = None
    for text in texts.values():
        match = re.search(_FUNCTION.format(name=name), text, re.M | re.S)
        if match is not None:
            break
    if match is None:
        return None
    module, body = match.groups()
    body = re.sub(
        r"^ *(VL_DEBUG_IF|Vmodel__Syms\* const|auto& vlSelfRef).*;\n", "", body, flags=re.M
    )
    # An instance may read what lies outside, but not another instance, and write only to itself.
    outside = set(re.findall(r"\bvlSymsp->(\w+)", body))
    writes = re.search(r"\bvlSymsp->[\w.]+(\[[^]]*\])? *=[^=]", body)
    if writes or outside & set(instances) or re.search(r"\bvlSelf\b", body):
        return None
    # What all instances share stays a plain number.
    body = body.replace("(IData)(vlSymsp->", "(uint32_t)(vlSymsp->")
    members = sorted(set(re.findall(r"\bvlSelfRef\.(\w+)", body)))
    written = sorted(set(re.findall(r"\bvlSelfRef\.(\w+)(?:\[[^]]*\])? *=[^=]", body)))
    fields = "".join(
        f"    lanes::Form<decltype({module}::{member})>::type {member};\n" for member in members
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
    return (
        module,
        f"""
void {name}({module}* vlSelf);
namespace {{
struct {name}_members {{
{fields}}};
void {name}_group({module}* const* at, Vmodel__Syms* const __restrict vlSymsp) {{
    using CData = lanes::Stored<0xffu>;
    using SData = lanes::Stored<0xffffu>;
    using IData = lanes::Lanes;
    using QData = lanes::Quads;
    {name}_members vlSelfRef;
{gathers}{body}
{scatters}}}
}}  // namespace
void {name}__lanes(Vmodel__Syms* vlSymsp) {{
    {module}* const all[] = {{{pointers}}};
    for (int i = 0; i < {whole}; i += lanes::COUNT) {name}_group(all + i, vlSymsp);
{rest}}}
""",
    )
