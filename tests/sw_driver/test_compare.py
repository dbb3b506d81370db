"""Cores side by side: units beside them that keep up, figures that add up, and errors named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flows.areas import synthesis
from hw.block import block, spec_from_dict
from rtl_gen.errors import InputError
from sw_driver.commands.compare import compare as command
from sw_driver.mapper.core import core_of
from sw_driver.mapper.mapping import Choices, map_workload
from sw_driver.mapper.workload import decode_workload
from sw_driver.measure.compare import compare
from sw_driver.runner.companions import LAYER, companions, uncharged


def spec_of(block_name: str, **fields: Any) -> Any:
    return spec_from_dict({"block": block_name, "name": f"some_{block_name}", **fields})


SMALL: dict[str, Any] = {"tile": {"m": 1, "n": 2, "k": 8}, "max_k": 64, "clock_mhz": 50.0}
MAC = spec_of("mac_core", **SMALL, weights={"bits": 4})
LUT = spec_of("lut_core", **SMALL, weights={"encoding": "twos_complement", "max_bits": 4})


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("group", [64, 100, 128])
@pytest.mark.parametrize("name", ["lut_core", "mac_core", "bitserial_core"])
def test_the_units_beside_a_core_keep_up(name: str, bits: int, group: int) -> None:
    spec = spec_of(name, weights={"bits" if name == "mac_core" else "max_bits": 8})
    units = {item.purpose: item.spec for item in companions(spec, bits=bits, group=group)}
    assert set(units) == {"scales", "quantizer"}
    core = core_of(spec)
    start, slope = core.job_cycles[bits - 1]
    of_group = start + -(-group // core.k) * slope
    scales: Any = units["scales"]
    timing: Any = block("scale_accumulate").timing
    assert timing.constants(scales)["group_interval"] <= of_group
    # Of one bit ±1 is 2q − 1, or 2q + 1 of codes 0 and −1.
    assert scales.partial_bits == core.result_bits + (bits == 1)
    assert scales.zero_point_bits == (bits == 1)
    assert scales.row_sum_bits == (len(bin(group * 128)) - 1 if bits == 1 else 16)
    # One lane fewer would not do: the next smaller divisor is too slow.
    fewer = [n for n in range(1, scales.lanes) if scales.outputs % n == 0]
    assert not fewer or scales.outputs // fewer[-1] > of_group
    # A tile's rows are quantized while the tile before them meets every column.
    quantizer: Any = units["quantizer"]
    of_tile = -(-LAYER // core.n) * (start + -(-LAYER // core.k) * slope)
    assert core.m * LAYER / quantizer.lanes <= of_tile
    assert quantizer.format.element.bits == core.activation_bits


def test_what_scales_floats_is_charged_or_said_not_to_be() -> None:
    floats = {"format": "fp16", "bits": 12}
    spec = spec_of("lut_core", activations=floats)
    (unit,) = companions(spec, bits=4, group=128)
    assert unit.purpose == "scales"
    # The core's results go in as they come out.
    golden: Any = block("lut_core").golden
    (out,) = (stream for stream in golden.streams(spec) if stream.direction == "out")
    scales: Any = block("scale_accumulate").golden
    (port,) = (stream for stream in scales.streams(unit.spec) if stream.name == "i_p")
    assert [field.width for field in port.fields] == [field.width for field in out.fields]
    assert uncharged(spec, 4) == ()
    narrow = spec_of("lut_core", activations={"format": "fp8_e4m3", "exponent": "exact"})
    (unit,) = companions(narrow, bits=4, group=128)
    assert unit.spec.activation_scale.per == "job"  # type: ignore[attr-defined]
    assert uncharged(narrow, 4) == ("quantizer",)
    for name in ("mac_core", "mx_core", "bitserial_core"):
        assert uncharged(spec_of(name), 8) == ()
    # Sums that the core rounds are not added up by any unit here.
    rounded = spec_of("sram_lut_gemv", result={"format": "fp16"})
    assert uncharged(rounded, 8) == ("scales",)
    assert {item.purpose for item in companions(rounded, bits=8, group=128)} == {"quantizer"}
    assert uncharged(spec_of("sram_lut_gemv"), 8) == ()
    # One bit in unsigned codes: ±1 is 2q − 1, which takes the sum of a row of floats.
    assert uncharged(spec, 1) == ("scales",)
    assert companions(spec, bits=1, group=128) == ()


@pytest.mark.parametrize("block_name", ["mx_core", "fp_core"])
def test_scales_inside_a_core_are_charged_there(block_name: str) -> None:
    spec = spec_of(block_name)
    assert [item.purpose for item in companions(spec, bits=8, group=128)] == (
        ["quantizer"] if block_name == "mx_core" else []
    )


def test_groups_too_short_for_the_unit_are_refused() -> None:
    spec = spec_of("lut_core")
    # Three cycles a group at the least: of one bit, 16 elements a cycle, 33 elements.
    with pytest.raises(InputError, match="group: must be at least 33 for some_lut_core at W1"):
        companions(spec, bits=1, group=32)
    assert companions(spec, bits=1, group=33)


@pytest.mark.slow
def test_figures_add_up(tmp_path: Path) -> None:
    report = compare(
        [MAC, LUT],
        model="gpt2",
        weight_bits=(2, 4),
        decode=1,
        context=16,
        group=32,
        effort="fast",
        measure=False,
        progress=False,
    )
    found = {(item.spec, item.weight_bits): item for item in report.candidates}
    assert set(found) == {(spec.name, bits) for spec in (MAC, LUT) for bits in (2, 4)}
    alone = synthesis(LUT, liberty=None, effort="fast")
    two, four = found[LUT.name, 2], found[LUT.name, 4]
    # Planes come one by one: a whole MAC of four bits takes twice the cycles of one of two.
    assert two.mac_area == pytest.approx(alone.area * 2 / 16)
    assert four.mac_area == pytest.approx(2 * two.mac_area)
    assert found[MAC.name, 2].mac_area == found[MAC.name, 4].mac_area
    for (name, bits), item in found.items():
        assert item.total_area == item.mac_area + item.scale_area + item.quantizer_area
        assert item.scale_area > 0
        assert item.quantizer_area > 0
        assert item.met
        assert item.bits_each == bits + 16 / 32
        assert item.sqnr_db is None
        spec = LUT if name == LUT.name else MAC
        mapped = map_workload(
            decode_workload_of("gpt2"), core_of(spec), Choices(weight_bits=bits, group=32)
        )
        assert item.cycles == {"decode": mapped.cycles}
    assert [row["weight_bits"] for row in json.loads(report.json())["candidates"]] == [2, 2, 4, 4]
    assert report.save_picture(tmp_path / "c.png").stat().st_size > 10_000
    assert "scales" in str(report)


def decode_workload_of(name: str) -> Any:
    from sw_driver.architecture import load_architecture

    return decode_workload(load_architecture(name), 1, context=16, batch=1)


def test_every_wrong_thing_is_named() -> None:
    tables = spec_of("lut_tables")
    with pytest.raises(InputError) as caught:
        compare([MAC, tables], weight_bits=(0,), group=0)
    assert str(caught.value).splitlines() == [
        "some_lut_tables: block: must be a GEMM core to compare, got 'lut_tables'",
        "weight_bits: must lie in [1, 8], got 0",
        "group: must lie in [1, 65536], got 0",
    ]
    with pytest.raises(InputError, match="weight_bits: no core has one of 8"):
        compare([MAC], weight_bits=(8,))


def test_nothing_is_written_if_something_is_wrong(tmp_path: Path) -> None:
    spec = tmp_path / "one.yaml"
    spec.write_text("block: mac_core\nname: one\n")
    out = tmp_path / "report.json"
    result = CliRunner().invoke(
        command, [str(spec), "--model", "nosuch", "--no-accuracy", "-o", str(out)]
    )
    assert result.exit_code != 0
    assert not out.exists()


def test_widths_of_single_cores(tmp_path: Path) -> None:
    spec = tmp_path / "one.yaml"
    spec.write_text("block: mac_core\nname: one\nweights: {bits: 4}\n")
    with pytest.raises(InputError) as caught:
        compare([MAC, LUT], widths={MAC.name: (4, 5), "nobody": (1,)}, measure=False)
    assert str(caught.value).splitlines() == [
        "some_mac_core: has weights of 1, 2, 3, 4 bits, got 5",
        "widths: nobody is not one of the cores",
    ]
    result = CliRunner().invoke(command, [f"{spec}@2,9", "--no-accuracy"])
    assert "one: has weights of 1, 2, 3, 4 bits, got 9" in result.stderr
    result = CliRunner().invoke(command, [f"{spec}@2,x", "--no-accuracy"])
    assert f"{spec}@2,x: cannot be read, no such file" in result.stderr
