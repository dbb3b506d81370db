"""Shares of pattern reuse: counted, laid out, run on the RTL, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hw.block import spec_from_dict
from hw.blocks.sram_lut_gemv.spec import SramLutGemvSpec
from rtl_gen.errors import InputError
from sw_driver.measure import pattern_reuse
from sw_driver.measure.pattern_reuse import Share


def _spec(**more: Any) -> SramLutGemvSpec:
    data = {
        "block": "sram_lut_gemv",
        "name": "array",
        "tile": {"m": 4, "n": 8, "k": 4},
        "reuse": {"capacity": 4},
        "max_k": 2048,
        **more,
    }
    spec = spec_from_dict(data)
    assert isinstance(spec, SramLutGemvSpec)
    return spec


def test_batches_are_tokens_at_one_place() -> None:
    parts = [
        np.arange(length)[:, None] + 100 * number for number, length in enumerate((5, 4, 6, 9))
    ]
    found = pattern_reuse.batches(parts, 2)
    # Places 1 and 2: the shortest has four tokens, its marks left out.
    assert [rows[:, 0].tolist() for rows in found] == [[1, 101], [2, 102], [201, 301], [202, 302]]


def test_equal_rows_are_looked_up_once_and_absent_rows_count_nowhere() -> None:
    rng = np.random.default_rng(0)
    row = rng.normal(size=(1, 3, 10))
    same = [row[0]] * 4
    spec = _spec()
    one = pattern_reuse.share(spec, "x", [same], 1, 8)
    four = pattern_reuse.share(spec, "x", [same], 4, 8)
    # Four batches of one row, one of four: three K steps of four, the last one half empty.
    assert (one.groups, one.rows) == (4 * 3, 4 * 3 * 8)
    assert (four.groups, four.rows) == (3, 4 * 3 * 8)
    assert (one.hits, four.hits) == (0, 3 * (four.rows - four.zeros) // 4)
    assert one.cycles == 4 * four.cycles == one.rows
    assert one.saved_lookups() == 0
    assert four.saved_lookups() == 0.75
    assert four.saved(15) == pytest.approx(1 - (3 * 15 + 24) / (3 * 15 + 96))


def test_a_decode_step_is_the_mapper_s_and_scales_with_the_share() -> None:
    spec = _spec()
    full = Share(name="all", batch=4, groups=1, tiles=1, rows=1000, zeros=0, hits=0, cycles=1000)
    half = Share(name="all", batch=4, groups=1, tiles=1, rows=1000, zeros=0, hits=500, cycles=500)
    steps = [
        pattern_reuse.decode_step(spec, "llama-2-7b", {4: [item]}, [4], [2, 8], bits=8, context=16)
        for item in (full, half)
    ]
    (every, wide), (less, _) = steps
    # The mapper counts the latency of every GEMM as well: 7 projections of 32 layers, one head.
    assert every.plain - every.reused == 4 * (7 * 32 + 1)
    assert every.plain == wide.plain
    assert every.memory < wide.memory
    assert every.published < wide.published
    # A K step of 15 words and 4 · 8 lookups.
    assert less.reused / every.reused == pytest.approx((15 + 16) / (15 + 32))


def test_the_command_measures_an_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pattern_reuse, "SENTENCES", pattern_reuse.SENTENCES[:4])
    file = tmp_path / "array.yaml"
    file.write_text(
        "block: sram_lut_gemv\nname: array\ntile: {m: 4, n: 8, k: 4}\n"
        "reuse: {capacity: 4}\nmax_k: 2048\n"
    )
    result = CliRunner().invoke(
        pattern_reuse.main,
        [str(file), "--batch", "1", "--batch", "4", "--weight-bits", "4", "--rtl", "--json"],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    measured = {(item["batch"], item["name"]): item for item in data["measured"]}
    assert set(measured) == {
        (batch, name) for batch in (1, 4) for name in ("q", "o", "up", "down", "all")
    }
    every = measured[4, "all"]
    assert every["rows"] == sum(
        count * measured[4, name]["rows"]
        for name, count in (("q", 3), ("o", 1), ("up", 1), ("down", 1))
    )
    assert measured[1, "all"]["saved_lookups"] == 0
    assert 0.05 < every["saved_cycles"] < every["saved_lookups"] < 0.5
    assert [row["shape"] for row in data["rtl"]] == [[4, 8, 384]] * 3 + [[4, 8, 1536]]
    for row in data["rtl"]:
        assert row["wrong"] == 0
        assert row["reused"] == row["predicted"] < row["plain"]
    assert [step["batch"] for step in data["decode"]] == [1, 4]


@pytest.mark.parametrize(
    ("fields", "arguments", "words"),
    [
        ({"reuse": {"capacity": 1}}, {}, "array: must be a sram_lut_gemv with reuse.capacity"),
        ({}, {"sizes": [33]}, r"batch: must lie in \[1, 32\], got 33"),
        ({}, {"widths": [9]}, r"weight_bits: must lie in \[1, 8\] for array, got 9"),
        ({}, {"activation_bits": 1}, r"activation_bits: must lie in \[2, 8\] for array, got 1"),
        ({"result": {"format": "fp16"}}, {"rtl": True}, "rtl: needs exact results"),
        ({"activations": {"encoding": "unsigned"}}, {}, "activations: must be signed"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    fields: dict[str, Any], arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        pattern_reuse.pattern_reuse(_spec(**fields), progress=False, **arguments)
