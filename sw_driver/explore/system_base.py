"""Base systems of a space: read, their cores written out, and which of their fields may vary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hw.block import block
from hw.errors import Problem
from rtl_gen.errors import InputError
from rtl_gen.specfile import load_as
from sw_driver.explore.fields import Base, FieldPath, Scalar, field_kind, values_of
from sw_driver.system.spec import (
    OWN,
    SCALED,
    SYSTEMS,
    CoreEntry,
    System,
    SystemSpec,
    resolve,
    shipped_systems,
)

Place = tuple[str | int, ...]


def system_base(
    given: Any, fields: Mapping[str, Any], at: Place, folder: Path, problems: list[Problem]
) -> Base | None:
    """A base system with its fields; None, and problems, if the system itself is wrong.

    Specifications in files are written out, so that the base says everything: fields of theirs can
    vary, and other content is another base. Areas are measured, so reports of them are left out.

    Args:
        given: what the space says: a path beside it, or a shipped name.
        at: where in the space. folder: what paths are relative to.
    """
    if not isinstance(given, str):
        rule = "must be a path of a system or a shipped name"
        problems.append(Problem((*at, "base"), rule, given))
        return None
    path = folder / Path(given).expanduser()
    if not path.is_file() and given in shipped_systems():
        path = SYSTEMS / f"{given}.yaml"
    elif not path.is_file() and "/" not in given and not given.endswith((".yaml", ".yml")):
        names = ", ".join(shipped_systems())
        rule = f"must be a path of a system or a shipped name ({names})"
        problems.append(Problem((*at, "base"), rule, given))
        return None
    try:
        spec = load_as(SystemSpec, path)
        bare = [entry.model_copy(update={"synth_report": None}) for entry in spec.cores]
        spec = spec.model_copy(update={"cores": tuple(bare)})
        system = resolve(spec, path.parent, str(path))
    except InputError as error:
        rule = f"must be a system that can be read: {str(error).splitlines()[0]}"
        problems.append(Problem((*at, "base"), rule, given))
        return None
    data = _written_out(spec, system)
    found: dict[FieldPath, tuple[Scalar, ...]] = {}
    for name, values in fields.items():
        place = (*at, "fields", name)
        kind = _kind(name, data, place, problems)
        read = values_of(values, kind, place, problems)
        if kind is not None and read:
            found[tuple(name.split("."))] = read
    return Base(label=spec.name, data=data, fields=found)


def _written_out(spec: SystemSpec, system: System) -> dict[str, Any]:
    """A system as plain data that names no file."""
    data = spec.model_dump(mode="json")
    for entry, kind in zip(data["cores"], system.kinds, strict=True):
        if kind.fields is None:
            entry["spec"] = kind.spec().model_dump(mode="json")
            del entry["spec"]["memory"]  # the system's DRAM feeds it
    return data


def _kind(name: str, data: Mapping[str, Any], at: Place, problems: list[Problem]) -> Any:
    """The annotation of a system's field by its dotted name; None, and a problem, if none."""
    parts = name.split(".")
    if parts[0] == "cores":
        return _core_kind(name, parts[1:], data["cores"], at, problems)
    if parts[0] in ("vector_unit", "scale_accumulate") and len(parts) > 1:
        own = (*OWN, *SCALED) if parts[0] == "scale_accumulate" else OWN
        if data[parts[0]] is None:
            problems.append(Problem(at, f"must not vary: the base has no {parts[0]}", name))
            return None
        if parts[1] in own:
            problems.append(Problem(at, "must not vary: it follows from the system", name))
            return None
        return field_kind(block(parts[0]).spec, ".".join(parts[1:]), at, problems)
    if parts[0] in ("vector_unit", "scale_accumulate"):
        problems.append(Problem(at, f"must be one of its fields: {name}.lanes, …", name))
        return None
    return field_kind(SystemSpec, name, at, problems)


def _core_kind(
    name: str, parts: list[str], cores: list[dict[str, Any]], at: Place, problems: list[Problem]
) -> Any:
    """The same of a field of an entry of ``cores``, the number of which ``parts`` begins with."""
    known = ["count", "spec"]
    if len(parts) < 2 or not parts[0].isascii() or not parts[0].isdecimal():
        rule = "must be cores.NUMBER.count or a field below cores.NUMBER.spec"
        problems.append(Problem(at, rule, name))
        return None
    if str(int(parts[0])) != parts[0] or int(parts[0]) >= len(cores):
        last = len(cores) - 1
        problems.append(Problem(at, f"must be of cores 0 to {last} of the base", name))
        return None
    if parts[1] not in known:
        rule = f"must not vary: of an entry of cores {' and '.join(known)} may"
        problems.append(Problem(at, rule, name))
        return None
    if parts[1] == "count":
        return field_kind(CoreEntry, ".".join(parts[1:]), at, problems)
    if len(parts) == 2:
        problems.append(Problem(at, "must be a field below it", name))
        return None
    if parts[2] == "memory":
        problems.append(Problem(at, "feeds no core of a system, its dram does", name))
        return None
    model = block(cores[int(parts[0])]["spec"]["block"]).spec
    return field_kind(model, ".".join(parts[2:]), at, problems)
