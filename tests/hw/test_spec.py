"""Specifications: every broken rule at once, digests, derived widths; streams as data."""

from __future__ import annotations

import numpy as np
import pytest

from hw.block import blocks, spec_from_dict
from hw.blocks.lut_core.spec import LutCoreSpec
from hw.errors import SpecError
from hw.streams import Stream, StreamField


def _messages(**fields: object) -> list[str]:
    with pytest.raises(SpecError) as caught:
        spec_from_dict({"block": "lut_core", "name": "dut", **fields})
    return [str(problem) for problem in caught.value.problems]


def test_every_broken_rule_is_reported_at_once() -> None:
    assert _messages(tile={"m": 0, "n": "x", "k": 4}, nonsense=1, table={"group": 5}, max_k=2) == [
        "tile.m: input should be greater than or equal to 1, got 0",
        "tile.n: input should be a valid integer, got 'x'",
        "nonsense: unknown field, got 1",
        "max_k: must be at least tile.k = 4, got 2",
        "table.group: must be at most tile.k = 4, got 5",
    ]


def test_a_wrong_alternative_hides_no_other_rule() -> None:
    assert _messages(planes=3.5, tile={"k": 4}, table={"group": 6}) == [
        "planes: input should be 'serial' or 'parallel', got 3.5",
        "planes: input should be a valid integer, got 3.5",
        "table.group: must be at most tile.k = 4, got 6",
    ]


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"weights": {"encoding": "ternery", "packing": "base3"}}, "weights.encoding"),
        ({"tile": {"k": 0}, "max_k": 3}, "tile.k"),
        ({"weights": {"max_bits": 9}, "planes": 6}, "weights.max_bits"),
        ({"weights": {"encoding": "bipolar"}, "addend": True, "table": {"form": 1}}, "table.form"),
    ],
)
def test_a_rule_that_a_right_value_would_satisfy_is_no_news(
    fields: dict[str, object], bad: str
) -> None:
    (message,) = _messages(**fields)
    assert message.startswith(f"{bad}: input should be ")


def test_a_field_called_self_is_unknown() -> None:
    assert _messages(self=3) == ["self: unknown field, got 3"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"weights": {"packing": "base3"}},
            "weights.packing: base3 needs the ternary encoding, got 'base3'",
        ),
        (
            {"weights": {"encoding": "ternary"}, "table": {"group": 5}},
            "table.group: must be at most 4 for ternary weights (40 entries), got 5",
        ),
        ({"planes": 5}, "planes: must be serial, parallel or 1 to 4, got 5"),
        (
            {"weights": {"encoding": "bipolar"}, "addend": True},
            "addend: bipolar weights with an addend need table.form symmetric, got True",
        ),
        (
            {"max_k": 1 << 20, "activations": {"bits": 16}, "weights": {"max_bits": 8}},
            None,
        ),
    ],
)
def test_combinations(fields: dict[str, object], message: str | None) -> None:
    if message is None:
        spec_from_dict({"block": "lut_core", "name": "dut", **fields})
    else:
        assert _messages(**fields) == [message]


def test_unknown_block_and_missing_fields() -> None:
    with pytest.raises(SpecError, match=r"block: must be one of bits.*, got 'nothing'"):
        spec_from_dict({"block": "nothing", "name": "dut"})
    with pytest.raises(SpecError, match="block: is required"):
        spec_from_dict({"name": "dut"})
    with pytest.raises(SpecError, match="name: is required"):
        spec_from_dict({"block": "lut_core"})


def test_the_digest_is_of_the_whole_specification() -> None:
    one = LutCoreSpec(name="dut")
    assert one.digest == spec_from_dict({"block": "lut_core", "name": "dut"}).digest
    assert one.digest == LutCoreSpec(name="dut", max_k=4096).digest
    assert one.digest != LutCoreSpec(name="dut", max_k=4095).digest


def test_specifications_are_frozen() -> None:
    spec = LutCoreSpec(name="dut")
    with pytest.raises(Exception, match="frozen"):
        spec.max_k = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", list(blocks()))
def test_schema_describes_every_field(name: str) -> None:
    schema = blocks()[name].spec.model_json_schema()
    for field, entry in schema["properties"].items():
        if field != "block":
            assert entry.get("description"), field


STREAM = Stream(
    name="i_x",
    direction="in",
    fields=(
        StreamField(name="flag", width=1),
        StreamField(name="value", width=5, signed=True, shape=(2, 3)),
        StreamField(name="wide", width=40, signed=True),
    ),
)


def test_packing_is_little_endian_and_dense() -> None:
    assert (STREAM.width, STREAM.nbytes) == (71, 9)
    assert [STREAM.offset(field.name) for field in STREAM.fields] == [0, 1, 31]
    value = np.array([[[1, -1, 2], [-16, 15, 0]]])
    packed = STREAM.pack({"flag": [1], "value": value, "wide": [-(2**39)]})
    whole = int.from_bytes(packed[0].tobytes(), "little")
    expected = 1
    for i, element in enumerate(value.ravel().tolist()):
        expected |= (element & 31) << (1 + 5 * i)
    assert whole == expected | 1 << (31 + 39)
    back = STREAM.unpack(packed)
    assert back["wide"].tolist() == [-(2**39)]
    assert (back["value"] == value).all()
    assert Stream.from_dict(STREAM.as_dict()) == STREAM


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"value": [[[0] * 3] * 2], "wide": [0]}, "field flag is missing"),
        ({"flag": [2]}, r"flag: values must lie in \[0, 1\], got \[2, 2\]"),
        ({"flag": [0], "value": [[0, 0]]}, r"value: shape must be \(beats, \*\(2, 3\)\)"),
        ({"flag": [0, 0], "value": [[[0] * 3] * 2]}, "value: 2 beats expected, got 1"),
    ],
)
def test_wrong_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STREAM.pack(values)
