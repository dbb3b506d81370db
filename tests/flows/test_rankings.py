"""Published rankings: every design is a specification, and areas are kept and related."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flows import areas, command, rankings
from hw.block import spec_from_dict
from hw.spec import BlockSpec

SMALL = {"block": "mac_core", "tile": {"m": 1, "n": 1, "k": 2}, "max_k": 8, "clock_mhz": 10.0}


@pytest.mark.parametrize("ranking", rankings.RANKINGS, ids=lambda item: item.title[:30])
def test_designs_are_specifications_at_one_clock(ranking: rankings.Ranking) -> None:
    specs: list[Any] = [rankings._spec(design) for design in ranking.designs.values()]
    assert all(isinstance(spec, BlockSpec) for spec in specs)
    assert {spec.clock_mhz for spec in specs} == {500.0}
    # Equal tiles but for the block's length, so that ports and control weigh alike.
    assert len({(spec.tile.m, spec.tile.n) for spec in specs}) == 1
    assert set(ranking.published) <= set(ranking.designs) - {ranking.base}


def test_areas_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTLGEN_CACHE", str(tmp_path))
    spec = spec_from_dict({**SMALL, "name": "kept"})
    calls: list[str] = []
    real = command.synthesize_verilog

    def counted(text: str, top: str, **given: Any) -> Any:
        calls.append(top)
        return real(text, top, **given)

    monkeypatch.setattr(command, "synthesize_verilog", counted)
    first = areas.synthesis(spec, liberty=None, effort="fast")
    assert areas.synthesis(spec, liberty=None, effort="fast") == first
    assert calls == ["kept"]
    assert first.met
    assert first.area == command.synthesize_spec(spec, effort="fast").area
    other = spec_from_dict({**SMALL, "name": "kept", "clock_mhz": 20.0})
    areas.synthesis(other, liberty=None, effort="fast")
    assert calls == ["kept", "kept", "kept"]


def test_ratios_are_to_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    two = {**SMALL, "name": "two"}
    four = {**SMALL, "name": "four", "tile": {"m": 1, "n": 1, "k": 4}}
    small = rankings.Ranking("small ones", "two", {"four": four, "two": two}, {"four": 0.5})
    monkeypatch.setattr(rankings, "RANKINGS", (small,))
    found = list(rankings.rows(small, None, "fast", progress=False))
    assert [row["name"] for row in found] == ["two", "four"]
    assert found[0]["ratio"] == 1
    assert found[1]["ratio"] == found[1]["area_per_mac"] / found[0]["area_per_mac"]
    assert [row["published"] for row in found] == [None, 0.5]
    result = CliRunner().invoke(rankings.main, ["--effort", "fast", "--only", "small"])
    assert result.exit_code == 0, result.output
    assert "small ones" in result.output
