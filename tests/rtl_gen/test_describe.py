"""Descriptions and schemas say what the specification says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jschon
import pytest
import yaml
from click.testing import CliRunner

from hw.block import block, blocks
from hw.errors import SpecError
from rtl_gen.command import main
from rtl_gen.describe import describe, json_schema
from rtl_gen.specfile import load_spec, read_spec

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "hw/configs").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_field_is_described(file: Path) -> None:
    facts = describe(load_spec(file))
    json.dumps(facts, allow_nan=False)
    fields = {item["field"]: item for item in facts["fields"]}
    assert {"name", "clock_mhz"} <= set(fields)
    if block(facts["block"]).kind == "gemm":
        assert {"tile.m", "max_k", "memory.bandwidth_gb_s"} <= set(fields)
    assert all(item["description"] for item in facts["fields"])
    assert not fields["name"]["default"]


def test_defaults_are_told_from_choices() -> None:
    facts = describe(read_spec("block: lut_core\nname: a\ntile: {m: 3, n: 64}\n"))
    fields = {item["field"]: item for item in facts["fields"]}
    assert (fields["tile.m"]["value"], fields["tile.m"]["default"]) == (3, False)
    assert (fields["tile.n"]["value"], fields["tile.n"]["default"]) == (64, True)


def test_derived_figures() -> None:
    facts = describe(
        read_spec(
            "block: lut_core\nname: a\ntile: {m: 2, n: 3, k: 5}\nclock_mhz: 250\n"
            "planes: 2\nweights: {max_bits: 5}\nmax_k: 100\n"
        )
    )
    derived = facts["derived"]
    assert derived["period_ns"] == 4.0
    assert derived["max_k_steps"] == 20
    # ±20 · 5 · 128 · 31 needs 19 bits and a sign.
    assert derived["result_bits"] == 20
    assert derived["plane_macs_per_cycle"] == 60
    assert derived["macs_per_cycle"] == {"w2": 30.0, "w4": 15.0, "w5": 10.0}
    assert derived["tera_macs_per_s"]["w2"] == pytest.approx(30 * 250e6 / 1e12)
    o = facts["streams"][-1]
    assert (o["name"], o["width"]) == ("o", 2 * 3 * 20)
    assert facts["timing"]["constants"]["planes_per_cycle"] == 2


def test_text_shows_fields_ports_and_cycles() -> None:
    result = CliRunner().invoke(main, ["describe", str(ROOT / "hw/configs/lut_core.yaml")])
    assert result.exit_code == 0
    for words in ("tile.k", "elements of K in one step", "i_w.w", "64×16×1", "cycles: latency + "):
        assert words in result.stdout


def properties(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every property of a schema and of its parts."""
    parts = {"": schema, **schema.get("$defs", {})}
    return {
        f"{part}.{name}": item
        for part, content in parts.items()
        for name, item in content.get("properties", {}).items()
    }


@pytest.mark.parametrize("name", list(blocks()))
def test_schema_is_for_editors(name: str) -> None:
    result = CliRunner().invoke(main, ["schema", name])
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    assert schema == json_schema(name)
    assert schema["required"] == ["block", "name"]
    assert schema["additionalProperties"] is False
    found = properties(schema)
    bare = [path for path, item in found.items() if not item.get("description")]
    assert not bare
    assert found[".block"]["const"] == name
    tiles = [path for path in found if path.endswith("Tile.m")]
    assert len(tiles) == ("tile" in schema["properties"])
    assert all(found[path]["minimum"] == 1 for path in tiles)


# jschon calls a deprecated function of a package of its own.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:rfc3986")
@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_schema_takes_what_the_reader_takes(file: Path) -> None:
    data = yaml.safe_load(file.read_text())
    jschon.create_catalog("2020-12")
    schema = jschon.JSONSchema(json_schema(data["block"]))
    assert schema.validate().valid
    assert schema.evaluate(jschon.JSON(data)).valid
    for wrong in (
        {**data, "tile": {"m": 0}},
        {**data, "extra": 1},
        {key: value for key, value in data.items() if key != "name"},
        {**data, "name": "3x"},
    ):
        assert not schema.evaluate(jschon.JSON(wrong)).valid


def test_schema_of_no_block() -> None:
    with pytest.raises(SpecError, match=rf"^block: must be one of {', '.join(blocks())}, got 'x'$"):
        json_schema("x")
    assert CliRunner().invoke(main, ["schema", "x"]).exit_code == 2
