"""A specification in words: every field with its meaning and value, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from hw.block import block
from hw.spec import BlockSpec
from rtl_gen.manifest import stream_records, timing_record, wire_records


def describe(spec: BlockSpec) -> dict[str, Any]:
    """Plain data.

    Returns:
        ``block``, ``name``, ``summary``, ``source``, ``digest``; ``fields``: for each its
        ``field``, ``value``, whether it is the ``default``, and ``description``; ``derived``:
        names to values; ``streams``, and ``wires`` where there are any: as in the manifest;
        ``timing``: formula and constants.
    """
    found = block(spec.block)
    wires = wire_records(spec)
    return {
        "block": spec.block,
        "name": spec.name,
        "summary": found.summary,
        "source": found.source,
        "digest": spec.digest,
        "fields": list(_fields(spec, ())),
        "derived": derived(spec),
        "streams": [
            stream.model_dump(mode="json", exclude={"ports"}) for stream in stream_records(spec)
        ],
        "timing": timing_record(spec).model_dump(mode="json"),
    } | ({"wires": [wire.model_dump(mode="json") for wire in wires]} if wires else {})


def derived(spec: BlockSpec) -> dict[str, Any]:
    """What follows from a specification, by name with its unit."""
    facts: dict[str, Any] = {"period_ns": 1000 / spec.clock_mhz}
    if block(spec.block).kind == "gemm":
        from hw.gemm import Job

        gemm: Any = spec
        tile = gemm.tile
        step = tile.m * tile.n * tile.k
        passes = {b: gemm.step_cycles(Job(k_steps=1, weight_bits=b)) for b in _widths(gemm)}
        facts |= {
            "result_bits": gemm.result_bits,
            "max_k_steps": gemm.max_k_steps,
            "weight_bits": gemm.max_weight_bits,
            "planes_per_cycle": gemm.planes_per_cycle,
            **_plane_macs(gemm, step),
            "macs_per_cycle": {f"w{bits}": step / count for bits, count in passes.items()},
            "tera_macs_per_s": {
                f"w{bits}": step / count * spec.clock_mhz / 1e6 for bits, count in passes.items()
            },
        }
    return facts


def _plane_macs(gemm: Any, step: int) -> dict[str, int]:
    """One-bit products a cycle, of cores whose steps take a cycle."""
    if gemm.own_control:
        return {}
    return {"plane_macs_per_cycle": step * gemm.planes_per_cycle}


def _widths(gemm: Any) -> Iterator[int]:
    """Weight widths that take different numbers of passes, the widest of each."""
    yield from range(gemm.planes_per_cycle, gemm.max_weight_bits, gemm.planes_per_cycle)
    yield gemm.max_weight_bits


def _fields(part: BaseModel, path: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        here = (*path, name)
        if isinstance(value, BaseModel):
            yield from _fields(value, here)
            continue
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        yield {
            "field": ".".join(here),
            "value": value,
            "default": not field.is_required() and value == default,
            "description": _meaning(type(part), name),
        }


def _meaning(model: type[BaseModel], name: str) -> str:
    """A field's description; a class that narrows a field leaves it to the one that declares it."""
    declared = (
        base.model_fields.get(name) for base in model.__mro__ if issubclass(base, BaseModel)
    )
    return next((field.description for field in declared if field and field.description), "")


def json_schema(name: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a block's specification files.

    Raises:
        SpecError: there is no such block.
    """
    found = block(name)
    schema = found.spec.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"{name} specification"
    schema["description"] = f"{name}: {found.summary} ({found.source})"
    for field, content in schema["properties"].items():
        content.setdefault("description", _meaning(found.spec, field))
    # A file says which block it is for, though in Python the class does.
    if "block" not in schema.get("required", []):
        schema["required"] = ["block", *schema.get("required", [])]
    return schema
