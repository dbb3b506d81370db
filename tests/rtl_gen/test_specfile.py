"""Specification files: exact error texts, places, and nothing executed or expanded."""

from __future__ import annotations

from pathlib import Path

import pytest

from hw.block import block, blocks
from hw.spec import BlockSpec
from rtl_gen.errors import InputError, SpecFileError
from rtl_gen.specfile import MAX_BYTES, load_spec, read_spec

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "hw/configs").glob("*.yaml"))


def errors(text: str) -> list[str]:
    with pytest.raises(SpecFileError) as caught:
        read_spec(text, "s.yaml")
    return str(caught.value).splitlines()


def lut(*lines: str) -> str:
    return "\n".join(("block: lut_core", "name: core", *lines, ""))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_shipped_specifications_load(file: Path) -> None:
    spec = load_spec(file)
    assert isinstance(spec, BlockSpec)
    assert spec.name == file.stem


def test_values_arrive() -> None:
    spec = read_spec(lut("clock_mhz: 750", "tile: {m: 3, n: 0x10, k: 5}", "addend: true"))
    assert spec == block("lut_core").spec(
        name="core", clock_mhz=750, tile={"m": 3, "n": 16, "k": 5}, addend=True
    )


def test_every_error_at_once_in_the_order_of_the_file() -> None:
    text = """\
# a comment first
block: lut_core
name: 3bad
tile: {m: 0, n: "x", k: 16, q: 3}
activation: {bits: 8}
weights:
  encoding: unsignd
  max_bit: 4
planes: 3.5
memory: 7
addend: no
tile: {m: 1}
"""
    assert errors(text) == [
        "s.yaml:3:7: name: must match pattern '^[A-Za-z][A-Za-z0-9_]{0,63}$', got '3bad'",
        "s.yaml:4:11: tile.m: must be greater than or equal to 1, got 0",
        "s.yaml:4:17: tile.n: must be an integer, got 'x'",
        "s.yaml:4:29: tile.q: unknown field, got 3",
        "s.yaml:5:1: activation: unknown field (did you mean activations?), got a mapping",
        "s.yaml:7:13: weights.encoding: must be 'unsigned', 'twos_complement', 'bipolar' or "
        "'ternary', got 'unsignd'",
        "s.yaml:8:3: weights.max_bit: unknown field (did you mean max_bits?), got 4",
        "s.yaml:9:9: planes: must be 'serial' or 'parallel', or an integer, got 3.5",
        "s.yaml:10:9: memory: must be a mapping of fields, got 7",
        "s.yaml:11:9: addend: must be a boolean, got 'no'",
        "s.yaml:12:1: tile: must be given once, first given on line 4",
    ]


def test_rules_between_fields_point_at_the_field() -> None:
    text = lut("tile: {m: 2, n: 2, k: 3}", "max_k: 2", "weights: {packing: base3}", "planes: 9")
    assert errors(text) == [
        "s.yaml:4:8: max_k: must be at least tile.k = 3, got 2",
        "s.yaml:5:20: weights.packing: base3 needs the ternary encoding, got 'base3'",
        "s.yaml:6:9: planes: must be serial, parallel or 1 to 4, got 9",
    ]


@pytest.mark.parametrize("value", ["3.5", "int", "[1]", "{int: 1}"])
def test_a_wrong_alternative_hides_no_other_rule(value: str) -> None:
    lines = errors(lut(f"planes: {value}", "weights: {packing: base3}"))
    assert len(lines) == 2
    assert lines[0].startswith("s.yaml:3:9: planes: must be 'serial' or 'parallel', or an integer")
    assert lines[1] == "s.yaml:4:20: weights.packing: base3 needs the ternary encoding, got 'base3'"


def test_rule_broken_by_a_default_points_at_what_is_there() -> None:
    assert errors(lut("tile:", "  k: 1")) == [
        "s.yaml:1:1: table.group: must be at most tile.k = 1, got 2 (the default)"
    ]
    assert errors(lut("tile: {k: 1}", "table: {form: full}")) == [
        "s.yaml:4:8: table.group: must be at most tile.k = 1, got 2 (the default)"
    ]


def test_missing_fields_point_at_their_mapping() -> None:
    assert errors("block: mac_core\n") == ["s.yaml:1:1: name: is required"]
    assert errors("# only\n\n  name: a\n") == ["s.yaml:3:3: block: is required"]


def test_unknown_block_names_those_there_are() -> None:
    assert errors("block: lutcore\nname: a\n") == [
        f"s.yaml:1:8: block: must be one of {', '.join(blocks())}, got 'lutcore'"
    ]
    assert errors("block: [a]\n") == [
        f"s.yaml:1:8: block: must be one of {', '.join(blocks())}, got a list"
    ]


@pytest.mark.parametrize("name", ["module", "small", "rtlgen_fa"])
def test_names_that_no_module_can_have(name: str) -> None:
    (line,) = errors(f"block: mac_core\nname: {name}\n")
    assert line.startswith("s.yaml:2:7: name: must not ")


def test_a_field_called_self_is_unknown() -> None:
    assert errors(lut("self: 3")) == ["s.yaml:3:1: self: unknown field, got 3"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "s.yaml:1:1: (root): must be a mapping of fields, got nothing"),
        ("# nothing\n", "s.yaml:1:1: (root): must be a mapping of fields, got nothing"),
        ("- 1\n", "s.yaml:1:1: (root): must be a mapping of fields, got a list"),
        ("\n 12\n", "s.yaml:2:2: (root): must be a mapping of fields, got 12"),
        (
            "block: {a: 1\n",
            "s.yaml:2:1: is not YAML: while parsing a flow mapping, expected ',' or '}', but got "
            "'<stream end>'",
        ),
        ("a: \x07\n", "s.yaml:1:4: must be printable text, got character U+0007"),
        ("a: " + "[" * 40, "s.yaml:1:20: must be nested at most 16 levels deep"),
        ("a: " + "{b: " * 4000, "s.yaml:1:68: must be nested at most 16 levels deep"),
    ],
)
def test_what_is_no_specification_at_all(text: str, line: str) -> None:
    assert errors(text) == [line]


def test_nothing_is_executed_and_nothing_expands(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    lines = errors(
        lut(
            f"max_k: !!python/object/apply:os.mkdir ['{marker}']",
            "tile: &t {m: 1}",
            "memory: *t",
        )
    )
    assert not marker.exists()
    assert lines == [
        "s.yaml:3:8: max_k: tags are not allowed, got "
        "'tag:yaml.org,2002:python/object/apply:os.mkdir'",
        "s.yaml:4:7: tile: anchors are not allowed, got '&t'",
        "s.yaml:5:9: memory: aliases are not allowed, got '*t'",
    ]


def test_merge_keys_merge_nothing() -> None:
    assert errors(lut("<<: {max_k: 5}")) == ["s.yaml:3:1: <<: unknown field, got a mapping"]


def test_keys_are_plain_and_documents_single() -> None:
    assert errors(lut("? [a, {b: c}]", ": {d: [1]}", "'': 3", "---", "x: 1")) == [
        "s.yaml:3:3: (root): names of fields must be plain texts",
        "s.yaml:5:1: (root): names of fields must be plain texts",
        "s.yaml:6:1: (root): must be one document",
    ]


def test_scalars_follow_the_core_schema() -> None:
    assert errors(lut("addend: yes", "max_k: 16_384", "activations: {signed: 1}")) == [
        "s.yaml:3:9: addend: must be a boolean, got 'yes'",
        "s.yaml:4:8: max_k: must be an integer, got '16_384'",
        "s.yaml:5:23: activations.signed: must be a boolean, got 1",
    ]
    assert read_spec(lut("clock_mhz: 1e3")).clock_mhz == 1000.0
    assert errors(lut("clock_mhz: .inf"))[0].startswith("s.yaml:3:12: clock_mhz: must be ")
    assert errors(lut("clock_mhz: .nan"))[0].startswith("s.yaml:3:12: clock_mhz: must be ")
    assert errors(lut("clock_mhz: ~")) == ["s.yaml:3:12: clock_mhz: must be a number, got null"]


def test_values_are_shown_in_short() -> None:
    (line,) = errors(lut(f"max_k: {'9' * 10_000}"))
    assert line.startswith("s.yaml:3:8: max_k: must be a shorter number, got '99999")
    assert len(line) < 130
    (line,) = errors(lut(f"planes: {'p' * 10_000}"))
    assert len(line) < 160


def test_unreadable_files_are_one_line(tmp_path: Path) -> None:
    cases = {
        "missing.yaml": (None, "missing.yaml: cannot be read, no such file or directory"),
        "large.yaml": (
            b"#" * (MAX_BYTES + 1),
            f"large.yaml: must be at most {MAX_BYTES // 1024} KiB",
        ),
        "latin.yaml": (b"a: 1\nb: \xff\n", "latin.yaml:2:4: must be UTF-8 text, got byte 0xff"),
    }
    for name, (content, message) in cases.items():
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InputError) as caught:
            load_spec(file)
        assert str(caught.value) == f"{tmp_path}/{message}"
    with pytest.raises(InputError, match=r": cannot be read, is a directory$"):
        load_spec(tmp_path)


def test_a_byte_order_mark_and_crlf_are_no_error(tmp_path: Path) -> None:
    file = tmp_path / "windows.yaml"
    file.write_bytes(b"\xef\xbb\xbfblock: mac_core\r\nname: a\r\n")
    assert load_spec(file).name == "a"
