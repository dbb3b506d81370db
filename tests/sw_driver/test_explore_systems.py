"""Exploration of systems: fields below a system file, points that are its mapping's, kills."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from rtl_gen.errors import InputError, SpecFileError
from sw_driver.commands.explore import explore as command
from sw_driver.explore import measure
from sw_driver.explore.exploration import explore
from sw_driver.explore.journal import RESULTS
from sw_driver.explore.measure import Task, workload_key
from sw_driver.explore.points import front
from sw_driver.explore.space import MAX_SYSTEM_POINTS, read_space
from sw_driver.explore.workers import Here
from sw_driver.mapper.choices import Choices
from sw_driver.mapper.phases import workloads_of
from sw_driver.system.mapping import SystemMapping
from sw_driver.system.report import map_model_on_system
from sw_driver.system.spec import SYSTEMS, load_system, resolve

TEXT = """\
name: small
systems:
  - base: edge_lut
    fields:
      cores.0.count: 2
      cores.0.spec.tile.n: [8, 16, 32]
      sram.weights_kib: {from: 1, to: 256, factor: 256}
      dram.bandwidth_gb_s: [6.4, 25.6]
mapping: {weight_bits: [2, 4], group: 128}
workloads:
  chat: {model: gpt2, decode: 1, context: 16}
  read: {model: gpt2, prefill: 8, batch: 2}
objectives: {chat.tokens_per_second: maximise, read.seconds: minimise, sram_kib: minimise}
verify: false
"""

SMALL = """\
name: small
systems:
  - base: edge_lut
    fields:
      cores.0.count: [1, 2, 4]
      dram.bandwidth_gb_s: [6.4, 25.6]
mapping: {weight_bits: 4}
workloads: {chat: {model: gpt2, decode: 1, context: 16}}
objectives: {tokens_per_second: maximise, area: minimise}
synthesis: {runs: 3}
verify: true
"""

has_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="optuna, of the extra explore, is missing"
)


class Formula(Here):
    """Does mappings, and gives areas by a formula."""

    def __init__(self) -> None:
        self.did: list[Task] = []

    def do(self, tasks: Sequence[Task], done: Callable[[Task, dict[str, Any]], None]) -> None:
        for task in tasks:
            self.did.append(task)
            done(task, measure.run(task) if task.kind == "mapping" else self.result(task))

    def result(self, task: Task) -> dict[str, Any]:
        if task.kind == "verify":
            return {"passed": True, "failure": None, "seconds": 0.0}
        tile = task.facts["spec"]["tile"]
        area = 100.0 * tile["m"] * tile["n"] * tile["k"]
        return {
            "area": area,
            "unit": "NAND2",
            "technology": "a formula",
            "delay_ns": area / 1e6,
            "met": True,
            "seconds": 0.0,
        }


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own: what another test left would hide what is computed."""
    monkeypatch.setenv("RTLGEN_CACHE", str(tmp_path / "cache"))


def errors(text: str) -> list[str]:
    with pytest.raises(SpecFileError) as caught:
        read_space(text, "s.yaml")
    return str(caught.value).splitlines()


def mapped(
    phase: dict[str, int], count: int, n: int, weights_kib: float, rate: float, bits: int
) -> SystemMapping:
    """A mapping of GPT-2 on a variant of the shipped system, made without the explorer."""
    system = load_system("edge_lut")
    entry = system.spec.cores[0]
    fields = system.kinds[0].spec().model_dump()
    fields["tile"] = {**fields["tile"], "n": n}
    data = system.spec.model_dump()
    data["cores"] = [{**entry.model_dump(), "spec": fields, "count": count}]
    data["sram"]["weights_kib"] = weights_kib
    data["dram"]["bandwidth_gb_s"] = rate
    changed = resolve(type(system.spec)(**data), SYSTEMS)
    report = map_model_on_system(
        "gpt2",
        changed,
        choices=Choices(weight_bits=bits, group=128),
        **phase,  # type: ignore[arg-type]
    )
    return report.mappings[0]


def test_points_and_front_are_those_of_mapping_one_by_one(tmp_path: Path) -> None:
    report = explore(read_space(TEXT), tmp_path / "out", jobs=1, progress=False)
    expected = {}
    refused = 0
    for n, kib, rate, bits in itertools.product((8, 16, 32), (1, 256), (6.4, 25.6), (2, 4)):
        try:
            chat = mapped({"decode": 1, "context": 16}, 2, n, kib, rate, bits)
            read = mapped({"prefill": 8, "batch": 2}, 2, n, kib, rate, bits)
        except InputError:
            refused += 1
            continue
        expected[str(n), str(kib), str(rate), str(bits)] = chat, read
    assert refused  # or the space tests nothing of it
    assert report.data["points"]["refused"] == refused
    rules = [item["rule"] for item in report.data["refused"]]
    assert any("scale_accumulate.lanes: must divide" in rule for rule in rules)  # a system's own
    assert any("sram.weights_kib: must be at least" in rule for rule in rules)  # its mapping's

    with (tmp_path / "out" / "points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = (
        *("cores.0.spec.tile.n", "sram.weights_kib"),
        *("dram.bandwidth_gb_s", "weight_bits"),
    )
    assert {tuple(row[name] for name in names) for row in rows} == set(expected)
    for row in rows:
        chat, read = expected[tuple(row[name] for name in names)]
        for name, found in (("chat", chat), ("read", read)):
            assert int(row[f"{name}.cycles"]) == found.cycles
            assert int(row[f"{name}.bytes"]) == found.bytes
            assert float(row[f"{name}.seconds"]) == found.seconds
            assert float(row[f"{name}.tokens_per_second"]) == found.tokens_per_second
            assert float(row[f"{name}.utilisation"]) == found.core_utilisation
            assert float(row[f"{name}.dram_utilisation"]) == found.dram_utilisation
        assert int(row["cycles"]) == chat.cycles + read.cycles
        assert float(row["sram_kib"]) == 512 + float(row["sram.weights_kib"])
        assert float(row["bandwidth_gb_s"]) == float(row["dram.bandwidth_gb_s"])
        assert float(row["cores"]) == 2

    values = np.array(
        [
            (-chat.tokens_per_second, read.seconds, 512 + float(key[1]))
            for key, (chat, read) in expected.items()
        ]
    )
    worse = [
        any((other <= own).all() and (other < own).any() for other in values) for own in values
    ]
    assert (front(values) == ~np.array(worse)).all()
    best = {key for key, bad in zip(expected, worse, strict=True) if not bad}
    found = {tuple(row[name] for name in names) for row in rows if row["status"] == "front"}
    assert found == best
    assert len(report.front) == len(best) < len(expected)


def test_a_point_s_file_is_a_system_by_itself(tmp_path: Path) -> None:
    report = explore(read_space(TEXT), tmp_path / "out", jobs=1, progress=False)
    best = report.front[0]
    assert best.block == "system"
    system = load_system(tmp_path / "out" / "specs" / f"{best.id}.yaml")
    choices = Choices(weight_bits=best.mapping["weight_bits"], group=best.mapping["group"])
    again = map_model_on_system("gpt2", system, decode=1, context=16, choices=choices)
    assert again.mappings[0].cycles == best.metrics["chat.cycles"]
    for name in ("front.csv", "explore.json", "index.html", "front.png"):
        assert (tmp_path / "out" / name).stat().st_size > 200
    assert "<th" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    data = json.loads((tmp_path / "out" / "explore.json").read_text(encoding="utf-8"))
    assert "peak_macs" not in data["front"][0]["metrics"]


def test_every_mistake_has_its_place(tmp_path: Path) -> None:
    text = """\
name: bad
systems:
  - base: nothing
  - base: edge_lut
    fields:
      dram.bandwith_gb_s: 3
      dram.bandwidth_gb_s: [25.6, 0]
      cores.1.count: 2
      cores.0.operators: scores
      cores.0.count: {from: 4, to: 1, step: 1}
      cores.0.spec.tile.q: 1
      cores.0.spec.memory.bandwidth_gb_s: 1.0
      cores.0.spec: 1
      vector_unit.lanes: [8, x]
      vector_unit.clock_mhz: 3.0
      scale_accumulate: 3
      name: x
      sram: 3
      cores: 2
mapping: {buffer_kib: 3, group: 128}
workloads: {}
objectives: {peak_macs: maximise, sram_kib: minimise}
synthesis: {companions: true}
"""
    assert errors(text) == [
        "s.yaml:3:11: systems.0.base: must be a path of a system or a shipped name (edge_lut, "
        "server_lut), got 'nothing'",
        "s.yaml:6:27: systems.1.fields.dram.bandwith_gb_s: is no field of system (did you mean "
        "dram.bandwidth_gb_s?), got 'dram.bandwith_gb_s'",
        "s.yaml:7:35: systems.1.fields.dram.bandwidth_gb_s.1: must be greater than or equal to "
        "0.001, got 0",
        "s.yaml:8:22: systems.1.fields.cores.1.count: must be of cores 0 to 0 of the base, got "
        "'cores.1.count'",
        "s.yaml:9:26: systems.1.fields.cores.0.operators: must not vary: of an entry of cores "
        "count and spec may, got 'cores.0.operators'",
        "s.yaml:10:36: systems.1.fields.cores.0.count.to: must be at least 4, got 1",
        "s.yaml:11:28: systems.1.fields.cores.0.spec.tile.q: is no field of lut_core, got 'tile.q'",
        "s.yaml:12:43: systems.1.fields.cores.0.spec.memory.bandwidth_gb_s: feeds no core of a "
        "system, its dram does, got 'cores.0.spec.memory.bandwidth_gb_s'",
        "s.yaml:13:21: systems.1.fields.cores.0.spec: must be a field below it, got 'cores.0.spec'",
        "s.yaml:14:30: systems.1.fields.vector_unit.lanes.1: must be an integer, got 'x'",
        "s.yaml:15:30: systems.1.fields.vector_unit.clock_mhz: must not vary: it follows from the "
        "system, got 'vector_unit.clock_mhz'",
        "s.yaml:16:25: systems.1.fields.scale_accumulate: must be one of its fields: "
        "scale_accumulate.lanes, …, got 'scale_accumulate'",
        "s.yaml:17:13: systems.1.fields.name: must not vary: another name is another base, got "
        "'name'",
        "s.yaml:18:13: systems.1.fields.sram: must be one of its fields: sram.activations_kib, "
        "sram.weights_kib, sram.results_kib, sram.shared_kib, got 'sram'",
        "s.yaml:19:14: systems.1.fields.cores: must be cores.NUMBER.count or a field below "
        "cores.NUMBER.spec, got 'cores'",
        "s.yaml:20:23: mapping.buffer_kib: is no choice of the mapping on systems, whose sram says "
        "it, got 3",
        "s.yaml:21:12: workloads: must have at least one for systems, got a mapping",
        "s.yaml:22:25: objectives.peak_macs: is no metric: sram_kib, bandwidth_gb_s, cores, area, "
        "delay_ns, got 'maximise'",
        "s.yaml:23:25: synthesis.companions: must be false for systems, whose units beside the "
        "cores have no area here, got true",
    ]


def killed(out: Path, text: str, after: int) -> None:
    """A run that is killed when its journal has so many results."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from sw_driver.explore.exploration import explore
        from sw_driver.explore.space import read_space

        explore(read_space(sys.argv[1]), Path(sys.argv[2]), resume=True, jobs=1, progress=False)
        """
    )
    run = subprocess.Popen([sys.executable, "-c", script, text, str(out)])
    journal = out / RESULTS
    while run.poll() is None and lines(journal) <= after:
        time.sleep(0.005)
    run.kill()
    run.wait()


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


SEARCH = TEXT + "search: {method: nsga2, trials: 16, batch: 8, seed: 3}\n"


@pytest.mark.parametrize(
    "text", [TEXT, pytest.param(SEARCH, marks=has_optuna)], ids=["sweep", "nsga2"]
)
def test_a_killed_run_redoes_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(tmp_path / "out", text, after=7)
    journal = tmp_path / "out" / RESULTS
    kept = journal.read_text(encoding="utf-8").splitlines()[1:]
    before = {json.loads(line)["key"] for line in kept if line.endswith("}")}
    assert len(before) >= 7
    # Nothing but the journal: the cache would hide what is done again.
    monkeypatch.setenv("RTLGEN_CACHE", str(tmp_path / "another"))
    hands = Formula()
    space = read_space(text)
    report = explore(space, tmp_path / "out", resume=True, doing=hands, progress=False)
    did = [task.key for task in hands.did]
    assert did
    assert len(did) == len(set(did))
    assert not before & set(did)
    monkeypatch.setenv("RTLGEN_CACHE", str(tmp_path / "third"))
    whole = explore(space, tmp_path / "whole", jobs=1, progress=False)
    assert [item.as_dict() for item in whole.front] == [item.as_dict() for item in report.front]
    again = Formula()
    explore(space, tmp_path / "whole", resume=True, doing=again, progress=False)
    assert not again.did


def test_another_run_takes_schedules_from_the_cache(tmp_path: Path) -> None:
    space = read_space(SMALL)
    explore(space, tmp_path / "one", doing=Formula(), progress=False)
    hands = Formula()
    report = explore(space, tmp_path / "two", doing=hands, progress=False)
    assert not [task for task in hands.did if task.kind == "mapping"]
    assert "0 computed in this run" in "\n".join(report.facts)


def test_search_over_the_whole_space_finds_the_sweep_s_front(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    swept = explore(read_space(TEXT), None, jobs=1, progress=False)
    searched = explore(read_space(SEARCH), None, jobs=1, trials=120, progress=False)
    assert {item.id for item in searched.front} == {item.id for item in swept.front}


def test_a_mapping_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    class Breaks(Formula):
        def do(self, tasks: Sequence[Task], done: Callable[[Task, dict[str, Any]], None]) -> None:
            for task in tasks:
                count = task.facts["spec"].get("cores", [{"count": 0}])[0]["count"]
                if task.kind == "mapping" and count == 4:
                    done(task, {"error": "it broke", "seconds": 0.0})
                else:
                    super().do([task], done)

    report = explore(read_space(SMALL), tmp_path / "out", doing=Breaks(), progress=False)
    assert report.data["points"]["failed"] == 2
    assert len(report.failures) == 2
    assert "mapping of" in report.failures[0]
    assert {item.values["cores.0.count"] for item in report.front} <= {1, 2}
    assert report.front


def test_workloads_of_one_content_have_one_key() -> None:
    from sw_driver.checkpoint import load_model

    arch = load_model("gpt2")
    one, two = (workloads_of(arch, decode=1, context=16)[0] for _ in range(2))
    assert workload_key(one) == workload_key(two)
    moved = replace(one, architecture=replace(arch, file="/elsewhere/config.json"))
    assert workload_key(moved) == workload_key(one)
    (other,) = workloads_of(arch, decode=1, context=17)
    assert workload_key(other) != workload_key(one)
    script = (
        "from sw_driver.checkpoint import load_model\n"
        "from sw_driver.mapper.phases import workloads_of\n"
        "from sw_driver.explore.measure import workload_key\n"
        "print(workload_key(workloads_of(load_model('gpt2'), decode=1, context=16)[0]))\n"
    )
    for seed in ("1", "2"):  # sets in another order
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, check=True
        )
        assert done.stdout.decode().strip() == workload_key(one)


def test_a_core_that_is_too_slow_is_refused_wherever_it_is_written(tmp_path: Path) -> None:
    text = TEXT.replace("cores.0.count: 2", "clock_mhz: [100.0, 501.0]")
    report = explore(read_space(text), None, jobs=1, progress=False)
    rules = [item["rule"] for item in report.data["refused"]]
    assert any("must be of a core for the system's clock of 501 MHz" in rule for rule in rules)
    assert report.front
    data = yaml.safe_load((SYSTEMS / "edge_lut.yaml").read_text(encoding="utf-8"))
    fields = load_system("edge_lut").kinds[0].spec().model_dump()
    data["cores"] = [{"spec": {**fields, "clock_mhz": 300.0}}]
    file = tmp_path / "slow.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(InputError, match=r"clock of 500 MHz or more, got .* for 300 MHz"):
        load_system(file)


def test_command_explores_a_system_beside_the_space(tmp_path: Path) -> None:
    text = (SYSTEMS / "server_lut.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    space = tmp_path / "space.yaml"
    space.write_text(
        "name: server\nsystems:\n  - base: mine.yaml\n"
        "    fields: {cores.1.count: [1, 4], vector_unit.lanes: [16, 64]}\n"
        "mapping: {weight_bits: 4, group: 64}\n"
        "workloads: {chat: {model: gpt2, decode: 1, context: 16}}\n"
        "objectives: {tokens_per_second: maximise}\nverify: false\n",
        encoding="utf-8",
    )
    out = str(tmp_path / "out")
    result = CliRunner().invoke(command, [str(space), "--out", out, "--jobs", "1"])
    assert result.exit_code == 0, result.output
    assert "points on the front" in result.output
    result = CliRunner().invoke(command, [str(space), "--out", out, "--jobs", "1"])
    assert result.exit_code == 2
    assert "go on with --resume" in result.output


def test_cores_and_systems_are_not_mixed() -> None:
    core = "{block: lut_core, name: lut, tile: {m: 1, n: 4, k: 8}}"
    text = TEXT.replace("systems:\n", f"cores: [{{base: {core}}}]\nsystems:\n", 1)
    assert any("systems: must not be given beside cores" in line for line in errors(text))
    large = TEXT.replace("count: 2", "count: {from: 1, to: 1000, step: 1}", 1)
    (line,) = errors(large)
    assert f"must be a search for more than {MAX_SYSTEM_POINTS:,} points of systems" in line


def test_areas_are_of_all_cores_and_each_kind_is_synthesized_once(tmp_path: Path) -> None:
    hands = Formula()
    report = explore(read_space(SMALL), tmp_path / "out", doing=hands, progress=False)
    kinds = [task.kind for task in hands.did]
    assert (kinds.count("mapping"), kinds.count("synthesis"), kinds.count("verify")) == (6, 1, 1)
    tile = load_system("edge_lut").kinds[0].spec().tile
    each = 100.0 * tile.m * tile.n * tile.k
    assert report.front
    for item in report.front:
        assert item.metrics["area"] == each * item.values["cores.0.count"]
        assert item.verified is True
        assert item.values["dram.bandwidth_gb_s"] == 25.6  # nothing is paid for bandwidth here
    assert any("SRAM, DRAM, vector units" in note for note in report.notes)
