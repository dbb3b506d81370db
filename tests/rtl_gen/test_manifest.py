"""The manifest: complete, refused when it is not this build's, and its cycles are the model's."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw import gemm
from hw.block import block, spec_from_dict
from rtl_gen.build import build, build_files
from rtl_gen.errors import InputError
from rtl_gen.manifest import parse_manifest, read_manifest, timing_record

TINY = {"name": "tiny", "tile": {"m": 1, "n": 2, "k": 4}, "max_k": 64}
SPECS: list[dict[str, Any]] = [
    {"block": "lut_core", **TINY},
    {"block": "lut_core", **TINY, "planes": 3, "pipeline": {"front": 1, "heap": 2}},
    {"block": "lut_core", **TINY, "weights": {"encoding": "ternary"}, "addend": True},
    {"block": "mac_core", **TINY, "pipeline": {"heap": 1}},
]


@pytest.fixture(scope="module")
def text() -> str:
    return build_files(spec_from_dict(SPECS[2]))["manifest.json"]


def test_round_trip(text: str) -> None:
    manifest = parse_manifest(text)
    assert manifest.text() == text
    spec = spec_from_dict(SPECS[2])
    assert manifest.ports() == tuple(block("lut_core").golden.streams(spec))
    assert manifest.block_spec() == spec
    assert manifest.spec_digest == spec.digest
    assert set(manifest.tools) == {"amaranth", "pyosys"}


def test_fields_tile_their_payload(text: str) -> None:
    for stream in parse_manifest(text).streams:
        position = 0
        for field in stream.fields:
            assert field.offset == position
            position += field.width * math.prod(field.shape)
        assert position == stream.width


@pytest.mark.parametrize("data", SPECS)
def test_cycles_in_closed_form_are_the_model_s(data: dict[str, Any]) -> None:
    spec = spec_from_dict(data)
    record = timing_record(spec)
    ahead, expression = record.formula.split(" + sum over jobs of ")
    names = {"ceil": math.ceil, "__builtins__": {}}
    rng = np.random.default_rng(5)
    found = block(spec.block)
    for jobs in (1, 2, 5):
        works = [found.golden.random_work(spec, rng, size="small") for _ in range(jobs)]
        cycles = eval(ahead, dict(names), record.constants) + sum(  # noqa: S307, our own formula
            eval(  # noqa: S307
                expression,
                dict(names),
                {
                    **record.constants,
                    "k_steps": work.job.k_steps,
                    "weight_bits": work.job.weight_bits,
                },
            )
            for work in works
        )
        assert cycles == found.timing.cycles(spec, works)
    assert isinstance(works[0], gemm.GemmWork)


def changed(text: str, change: Callable[[dict[str, Any]], Any]) -> str:
    data = json.loads(text)
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(manifest=2), "m.json: manifest: must be version 1, got 2"),
        (lambda d: d.pop("streams"), "m.json: streams: field required"),
        (lambda d: d.update(extra=1), "m.json: extra: extra inputs are not permitted"),
        (
            lambda d: d["streams"][0].update(direction="up"),
            "m.json: streams.0.direction: input should be 'in' or 'out'",
        ),
        (
            lambda d: d["streams"][0]["fields"][0].update(width="8"),
            "m.json: streams.0.fields.0.width: input should be a valid integer",
        ),
        (
            lambda d: d["spec"]["tile"].update(m=0),
            "m.json: spec.tile.m: input should be greater than or equal to 1, got 0",
        ),
        (
            lambda d: d["files"].update({"../../passwd": "0" * 64}),
            "m.json: files.../../passwd.[key]: string should match pattern "
            "'^[A-Za-z0-9_][A-Za-z0-9_.-]*$'",
        ),
    ],
)
def test_malformed_manifests_are_refused(text: str, change: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_manifest(changed(text, change), "m.json")
    assert str(caught.value) == message


def test_a_manifest_of_another_specification_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^m.json: spec_digest: must be the digest of spec, "):
        parse_manifest(changed(text, lambda d: d["spec"].update(max_k=32)), "m.json")


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "{'a': 1}"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^m.json(:\d+:\d+)?: is not JSON$"):
        parse_manifest(text, "m.json")


def test_a_folder_is_read_only_if_it_is_the_build(tmp_path: Path) -> None:
    folder = build(spec_from_dict(SPECS[0]), tmp_path).folder
    read_manifest(folder)
    verilog = folder / "tiny.v"
    verilog.write_text(verilog.read_text() + "\n")
    with pytest.raises(InputError, match=r"tiny.v: is not the file that was built, see manifest"):
        read_manifest(folder)
    verilog.unlink()
    with pytest.raises(InputError, match=r"tiny.v: cannot be read, no such file or directory$"):
        read_manifest(folder)
    with pytest.raises(InputError, match=r"manifest.json: cannot be read, no such file"):
        read_manifest(tmp_path)
