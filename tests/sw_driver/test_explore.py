"""Exploration: spaces refused with places, fronts that are right, kills that lose nothing."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from rtl_gen.errors import InputError, SpecFileError, ToolError
from sw_driver.commands.explore import explore as command
from sw_driver.explore import measure
from sw_driver.explore.estimate import Fit, features, spread
from sw_driver.explore.exploration import explore
from sw_driver.explore.journal import RESULTS
from sw_driver.explore.measure import Task
from sw_driver.explore.points import Catalogue, front, oriented
from sw_driver.explore.space import MAX_POINTS, Space, load_space, read_space
from sw_driver.explore.workers import Cluster, Processes, workers
from sw_driver.mapper.core import core_of
from sw_driver.mapper.mapping import Choices, map_workload

LUT = "{block: lut_core, name: lut, tile: {m: 1, n: 4, k: 8}, max_k: 64, clock_mhz: 50.0}"
MAC = "{block: mac_core, name: mac, tile: {m: 1, n: 4, k: 8}, max_k: 64, clock_mhz: 50.0}"
MX = "{block: mx_core, name: mx, tile: {m: 1, n: 4, k: 32}}"

TEXT = f"""\
name: small
cores:
  - base: {LUT}
    fields:
      tile.n: [2, 4, 8, 16]
      tile.k: {{from: 4, to: 16, step: 4}}
      planes: [serial, parallel]
      table.group: [1, 2, 6]
  - base: {MAC}
    fields:
      tile.n: {{from: 2, to: 16, factor: 2}}
mapping: {{weight_bits: [2, 4], group: 64}}
workloads:
  chat: {{model: gpt2, decode: 1, context: 16}}
objectives: {{chat.tokens_per_second: maximise, area: minimise}}
constraints: {{bits_per_weight: {{max: 4.3}}}}
synthesis: {{runs: 1000, batch: 4}}
verify: false
"""

SEARCH = TEXT + "search: {method: nsga2, trials: 32, batch: 8, seed: 3}\n"

has_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="optuna, of the extra explore, is missing"
)
has_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None,
    reason="distributed, of the extra explore, is missing",
)


class Areas:
    """Workers that give every design an area by a formula, note what they did, and may be slow."""

    def __init__(self, log: Path | None = None, wait: float = 0.0, fails: str = "") -> None:
        self.did: list[Task] = []
        self.log, self.wait, self.fails = log, wait, fails

    def do(self, tasks: Sequence[Task], done: Callable[[Task, dict[str, Any]], None]) -> None:
        for task in tasks:
            time.sleep(self.wait)
            self.did.append(task)
            if self.log is not None:
                with self.log.open("a") as file:
                    file.write(f"{task.kind} {task.key}\n")
            done(task, {**self.result(task), "seconds": 0.0})

    def result(self, task: Task) -> dict[str, Any]:
        spec = task.facts["spec"]
        if task.kind == "verify":
            return {"passed": True, "failure": None, "scenarios": 1, "works": 1, "cycles": 1}
        if self.fails and spec["block"] == self.fails:
            return {"error": "yosys: it broke"}
        return {
            "area": area_of(spec),
            "unit": "NAND2",
            "technology": "a formula",
            "delay_ns": 1.0 + area_of(spec) / 1e4,
            "met": True,
        }

    def close(self) -> None:
        return


def area_of(spec: Any) -> float:
    tile = spec["tile"]
    size = tile["m"] * tile["n"] * tile["k"]
    if spec["block"] == "mac_core":
        return 137.0 * size + 50.0 * tile["n"] + 31.0
    tables = 1 + 0.3 * abs(spec["table"]["group"] - 2)
    return 61.0 * size * tables * (1 if spec["planes"] == "serial" else 2.6) + 40.0 * tile["n"]


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own: what another test left would hide what is computed."""
    if "slow" not in request.keywords:  # real syntheses are worth keeping
        folder = request.getfixturevalue("tmp_path") / "cache"
        monkeypatch.setenv("RTLGEN_CACHE", str(folder))


def errors(text: str) -> list[str]:
    with pytest.raises(SpecFileError) as caught:
        read_space(text, "s.yaml")
    return str(caught.value).splitlines()


def test_every_mistake_of_a_space_has_its_place() -> None:
    text = f"""\
name: 3bad
cores:
  - base: {{block: lut_core, name: lut, tile: {{m: 0}}}}
  - base: nothing.yaml
  - base: {LUT}
    fields:
      tile.n: {{from: 4, to: 1, factor: 2}}
      tile.q: 3
      tile: 3
      planes: [serial, paralel]
      tile.m: [1, 99, 1]
      name: x
  - base: {{block: quantize, name: q}}
mapping: {{weight_bits: [2, 40], grup: 64}}
workloads:
  chat: {{model: gpt2, decode: 5000}}
  two: {{model: gpt2}}
objectives: {{chat.tokens_per_secnd: maximise, area: minimise, tokens_per_second: maximise}}
constraints: {{area: {{min: 5, max: 2}}, cycles: {{}}}}
synthesis: {{liberty: x.lib}}
"""
    found = errors(text.replace("3bad", "bad"))
    assert found == [
        "s.yaml:3:50: cores.0.base.tile.m: must be greater than or equal to 1, got 0",
        "s.yaml:4:11: cores.1.base: must be a specification that can be read: nothing.yaml: cannot "
        "be read, no such file or directory, got 'nothing.yaml'",
        "s.yaml:7:29: cores.2.fields.tile.n.to: must be at least 4, got 1",
        "s.yaml:8:15: cores.2.fields.tile.q: is no field of lut_core, got 'tile.q'",
        "s.yaml:9:13: cores.2.fields.tile: must be one of its fields: tile.m, tile.n, tile.k, got "
        "'tile'",
        "s.yaml:10:24: cores.2.fields.planes.1: must be 'serial' or 'parallel', or an integer, got "
        "'paralel'",
        "s.yaml:11:19: cores.2.fields.tile.m.1: must be less than or equal to 64, got 99",
        "s.yaml:11:23: cores.2.fields.tile.m.2: must be given once, got 1",
        "s.yaml:12:13: cores.2.fields.name: must not vary: another name is another base, got "
        "'name'",
        "s.yaml:13:11: cores.3.base: must be a GEMM core, is quantize, got a mapping",
        "s.yaml:14:28: mapping.weight_bits.1: must be less than or equal to 16, got 40",
        "s.yaml:14:39: mapping.grup: is no choice of the mapping (did you mean group?), got 64",
        "s.yaml:16:31: workloads.chat.decode: must be at most 1024 tokens with those before them, "
        "the model has no more positions, got 512 + 5000, got 5000",
        "s.yaml:17:8: workloads.two: must have either prefill or decode, got a mapping",
        "s.yaml:18:37: objectives.chat.tokens_per_secnd: is no metric (did you mean "
        "chat.tokens_per_second?), got 'maximise'",
        "s.yaml:18:82: objectives.tokens_per_second: is no metric alone: of which workload? chat, "
        "two, got 'maximise'",
        "s.yaml:19:35: constraints.area.max: must be at least min = 5, got 2.0",
        "s.yaml:19:47: constraints.cycles: must have min or max, got a mapping",
        "s.yaml:20:12: synthesis.runs: must be at least 1 for area, got 0 (the default)",
        "s.yaml:20:22: synthesis.liberty: must be a file, is not there, got 'x.lib'",
    ]
    assert errors("cors: 3\nname: a\nobjectives: {area: min}\n")[:2] == [
        "s.yaml:1:1: cores: is required",
        "s.yaml:1:1: cors: unknown field (did you mean cores?), got 3",
    ]


def test_what_a_metric_needs_is_asked_for() -> None:
    text = TEXT.replace("area: minimise", "sqnr_db: maximise").replace(", group: 64", "")
    assert errors(text) == [
        "s.yaml:12:10: mapping.group: must be numbers for sqnr_db, got null (the default)"
    ]
    text = TEXT.replace("batch: 4", "batch: 4, companions: true").replace(
        "group: 64", "group: null"
    )
    assert "must be numbers for synthesis.companions" in errors(text)[0]
    many = TEXT.replace("to: 16, step: 4", "to: 500, step: 1").replace(
        "[2, 4, 8, 16]", "{from: 1, to: 512, step: 1}"
    )
    assert f"more than {MAX_POINTS:,} points" in errors(many)[0]


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "lut.yaml").write_text("block: lut_core\nname: lut\n")
    file = folder / "space.yaml"
    file.write_text(TEXT.replace(LUT, "lut.yaml"))
    assert load_space(file).bases[0].data["tile"]["n"] == 64
    # A base of another content makes another space, a budget does not.
    other = read_space(TEXT.replace("runs: 1000", "runs: 3"))
    assert other.digest == read_space(TEXT).digest != load_space(file).digest
    # Its name is no module's.
    assert read_space(TEXT.replace("name: small", "name: module")).name == "module"


def test_points_are_what_the_mapper_says_one_by_one() -> None:
    text = TEXT.replace(
        "group: 64", "group: [64, null], kv_bits: [4, null], buffer_kib: [16, 2048]"
    )
    space = read_space(text.replace("name: mac,", "name: mac, memory: {bandwidth_gb_s: 1.0},"))
    catalogue = Catalogue(space)
    points = catalogue.evaluate(*catalogue.sweep())
    # table.group 6 does not fit tile.k 4: the rule is counted, not lost.
    rule = "table.group: must be at most tile.k = 4"
    assert catalogue.refused == {("lut", rule): 4 * 2 * 16}
    assert len(points) + 128 == space.points
    assert len({(a, b) for a, b in zip(points.design, points.choice, strict=True)}) == len(points)
    work = space.workloads["chat"]
    rng = np.random.default_rng(0)
    for index in rng.choice(len(points), 40, replace=False).tolist():
        point = int(points.design[index]), int(points.choice[index])
        values = catalogue.values(point)
        design = catalogue.designs[point[0]]
        core = core_of(design.spec)
        assert core.n == values["tile.n"]
        group: Any = values["group"]
        kv: Any = values["kv_bits"]
        bits: Any = values["weight_bits"]
        mapped = map_workload(
            work,
            core,
            Choices(
                weight_bits=bits,
                group=group,
                kv_bits=kv,
                buffer_bytes=int(values["buffer_kib"] or 0) * 1024,
            ),
        )
        assert points.metrics["chat.cycles"][index] == mapped.cycles
        assert points.metrics["chat.bytes"][index] == mapped.bytes
        assert points.metrics["chat.seconds"][index] == pytest.approx(mapped.seconds)
        assert points.metrics["chat.tokens_per_second"][index] == pytest.approx(
            mapped.tokens_per_second
        )
        scale = 0 if group is None else (16 + core.zero_point * bits) / group
        assert points.metrics["bits_per_weight"][index] == bits + scale


def test_totals_and_names_of_metrics() -> None:
    two = TEXT.replace("context: 16}", "context: 16}\n  more: {model: gpt2, prefill: 8, batch: 2}")
    space = read_space(two)
    catalogue = Catalogue(space)
    metrics = catalogue.evaluate(*catalogue.sweep()).metrics
    for name in ("cycles", "seconds", "bytes"):
        both = metrics[f"chat.{name}"] + metrics[f"more.{name}"]
        assert np.array_equal(metrics[name], both)
        assert (metrics[f"more.{name}"] > 0).all()
    short = read_space(TEXT.replace("chat.tokens", "tokens"))
    catalogue = Catalogue(short)
    metrics = catalogue.evaluate(*catalogue.sweep()).metrics
    assert np.array_equal(metrics["tokens_per_second"], metrics["chat.tokens_per_second"])
    assert "cycles" not in metrics


def test_choices_that_do_not_apply_make_no_points_twice() -> None:
    text = TEXT.replace(MAC, MX).replace("group: 64", "group: [32, 64, 128]")
    space = read_space(text.replace("factor: 2", "factor: 4"))
    catalogue = Catalogue(space)
    design, _ = catalogue.sweep()
    of_mx = [catalogue.designs[index].spec.block == "mx_core" for index in design.tolist()]
    # Its format has its own width and says where scales are: one of 2 × 3 choices is left.
    assert sum(of_mx) == 2
    assert catalogue.merged == 2 * 5


def test_front_is_what_nothing_dominates() -> None:
    rng = np.random.default_rng(1)
    for columns in (1, 2, 3, 4):
        for _ in range(15):
            values = rng.integers(0, 6, (50, columns)).astype(float)
            values[rng.random(values.shape) < 0.03] = np.nan
            good = np.isfinite(values).all(axis=1)
            want = [
                good[i]
                and not any(
                    (values[j] <= row).all() and (values[j] < row).any()
                    for j in np.flatnonzero(good)
                )
                for i, row in enumerate(values)
            ]
            assert front(values).tolist() == want


def test_estimate_knows_its_error() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"n": int(2 ** rng.integers(6)), "kind": ["a", "b"][rng.integers(2)]} for _ in range(40)
    ]
    rows[3] = {"n": 8}
    x = features(rows)
    y = np.array([np.log(row["n"]) + 0.7 * (row.get("kind") == "a") for row in rows])
    noisy = y + 0.1 * rng.standard_normal(40)
    # Two points of a design are left out together: seen twice, noise is no knowledge.
    pairs = np.repeat(np.arange(20), 2)
    fit = Fit(x[pairs], noisy[pairs], pairs)
    assert fit.error == pytest.approx(Fit(x[:20], noisy[:20], np.arange(20)).error, rel=0.05)
    assert fit.error == pytest.approx(0.1, rel=0.5)
    assert np.abs(Fit(x[:20], y[:20], np.arange(20))(x[20:]) - y[20:]).max() < 0.05
    assert Fit(x[:2], y[:2], np.arange(2)).error is None
    assert spread(np.array([[0.0], [1.0], [5.0], [5.0]]), 4, [0]) == [2, 1]


def exact(space: Space) -> set[tuple[float, float]]:
    """The front of a space by the formula, everything tried."""
    catalogue = Catalogue(space)
    points = catalogue.evaluate(*catalogue.sweep())
    area = np.array([area_of(catalogue.designs[i].spec.model_dump()) for i in points.design])
    values = oriented(space, {**points.metrics, "area": area})
    values[points.metrics["bits_per_weight"] > 4.3] = np.nan
    return {tuple(row) for row in values[front(values)].tolist()}


def found(report: Any) -> set[tuple[float, float]]:
    return {
        (-item.metrics["chat.tokens_per_second"], item.metrics["area"]) for item in report.front
    }


def test_sweep_finds_the_front_with_a_part_of_the_syntheses() -> None:
    space = read_space(TEXT)
    everything = Areas()
    report = explore(space, doing=everything, progress=False)
    assert found(report) == exact(space)
    designs = report.data["choosing"]["designs"]
    assert len(everything.did) == designs == report.data["choosing"]["measured"]
    assert any("the front is exact" in note for note in report.notes)
    # Of a budget of a third the estimate makes the same front; it is told what it may err.
    few = Areas()
    budget = space.synthesis.model_copy(update={"runs": designs // 3})
    less = explore(replace(space, synthesis=budget), doing=few, progress=False)
    assert len(few.did) <= designs // 3
    assert found(less) >= {max(exact(space)), min(exact(space))}
    hit = len(found(less) & exact(space)) / len(exact(space))
    assert hit >= 0.9
    assert 0 < less.data["choosing"]["errors"]["area"] < 0.5
    assert less.data["choosing"]["stopped"] in ("estimate", "budget")
    # What was not measured is on no front, and has no area.
    assert all("area" in item.metrics for item in less.front)


def test_constraints_and_clocks_bind() -> None:
    limit = read_space(TEXT.replace("{max: 4.3}}", "{max: 4.3}, area: {max: 3000}}"))
    report = explore(limit, doing=Areas(), progress=False)
    assert report.front
    assert all(item.metrics["area"] <= 3000 for item in report.front)

    # What is out of bounds by the mapper alone is not synthesized.
    none = Areas()
    report = explore(read_space(TEXT.replace("4.3", "1.0")), doing=none, progress=False)
    assert report.front == ()
    assert none.did == []
    assert report.data["points"]["infeasible"] == report.data["points"]["mapped"]

    class Slow(Areas):
        def result(self, task: Task) -> dict[str, Any]:
            whole = super().result(task)
            return {**whole, "met": whole["area"] < 3000}

    space = read_space(TEXT)
    report = explore(space, doing=Slow(), progress=False)
    assert found(report) == {item for item in found(report) if item[1] < 3000} != set()
    kept = read_space(TEXT.replace("batch: 4", "batch: 4, meets_clock: false"))
    assert found(explore(kept, doing=Slow(), progress=False)) == exact(space)


def test_one_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    space = read_space(TEXT)
    report = explore(space, tmp_path / "out", doing=Areas(fails="mac_core"), progress=False)
    assert {item.block for item in report.front} == {"lut_core"}
    assert len(report.failures) == 4
    assert report.failures[0].startswith("synthesis of mac-")
    assert "yosys: it broke" in report.failures[0]
    assert '"block": "mac_core"' in report.failures[0]
    # Going on tries again what failed, and nothing else.
    again = Areas()
    report = explore(space, tmp_path / "out", resume=True, doing=again, progress=False)
    assert [task.facts["spec"]["block"] for task in again.did] == ["mac_core"] * 4
    assert not report.failures
    assert found(report) == exact(space)


def test_mapper_s_front_is_measured_and_tried_on_the_rtl() -> None:
    text = TEXT.replace("area: minimise", "peak_macs: minimise").replace("verify: false", "")
    did = Areas()
    report = explore(read_space(text), doing=did, progress=False)
    assert {task.kind for task in did.did} == {"synthesis", "verify"}
    assert all(item.state == "done" and item.verified for item in report.front)
    assert len(did.did) == 2 * len({json.dumps(item.spec, sort_keys=True) for item in report.front})

    class Broken(Areas):
        def result(self, task: Task) -> dict[str, Any]:
            failed = {"passed": False, "failure": "o[0]: got 1, expected 2"}
            return failed if task.kind == "verify" else super().result(task)

    report = explore(read_space(text), doing=Broken(), progress=False)
    assert any("got 1, expected 2" in words for words in report.failures)
    assert not any(item.verified for item in report.front)
    none = explore(
        read_space(text.replace("runs: 1000", "runs: 0") + "verify: false\n"),
        doing=did,
        progress=False,
    )
    assert any("nothing was synthesized" in note for note in none.notes)


def test_units_beside_cores_are_charged() -> None:
    text = TEXT.replace("batch: 4", "batch: 4, companions: true")

    class Units(Areas):
        def result(self, task: Task) -> dict[str, Any]:
            if task.facts["spec"]["block"] in ("scale_accumulate", "quantize"):
                return {
                    "area": 1000.0,
                    "unit": "NAND2",
                    "technology": "",
                    "delay_ns": 9.0,
                    "met": True,
                }
            return super().result(task)

    did = Units()
    report = explore(read_space(text), doing=did, progress=False)
    assert {task.facts["spec"]["block"] for task in did.did} == {
        "lut_core",
        "mac_core",
        "scale_accumulate",
        "quantize",
    }
    for item in report.front:
        assert item.metrics["area"] == item.metrics["core_area"] + 2000.0
        assert item.metrics["delay_ns"] == 9.0
    # Groups that are too short for the unit at the core's speed are no points.
    short = explore(
        read_space(text.replace("group: 64", "group: 8")), doing=Units(), progress=False
    )
    assert any("group: must be at least" in item["rule"] for item in short.data["refused"])


def test_files_hold_what_was_found(tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = TEXT.replace("verify: false", "").replace("name: small", "name: a_b")
    report = explore(read_space(text), out, doing=Areas(), progress=False)
    data = json.loads((out / "explore.json").read_text())
    assert [item["id"] for item in data["front"]] == [item.id for item in report.front]
    with (out / "points.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == data["points"]["mapped"]
    with (out / "front.csv").open() as file:
        of_front = list(csv.DictReader(file))
    assert {row["id"] for row in of_front} == {item.id for item in report.front}
    assert of_front == sorted(of_front, key=lambda row: -float(row["chat.tokens_per_second"]))
    assert sum(row["status"] == "front" for row in rows) == len(report.front)
    assert (out / "front.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list((out / "specs").glob("*.yaml"))) == len(report.front)
    page = (out / "index.html").read_text()
    assert not re.search(r"https?:|//[a-z]|src=|@import|url\(", page)
    assert page.count('<tr id="row-') == len(report.front)
    assert page.count('class="f"') == len(report.front)
    specs = json.loads(re.search(r'id="specs">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    assert set(specs) == {item.id for item in report.front}
    # A specification of the front builds what was measured.
    from rtl_gen.specfile import load_spec

    spec = load_spec(out / "specs" / f"{report.front[0].id}.yaml")
    assert area_of(spec.model_dump()) == report.front[0].metrics["area"]


def test_page_escapes_what_others_wrote() -> None:
    from sw_driver.explore.page import _script_json

    assert not set("<>&") & set(_script_json({"a": "</script><b>&"}))
    assert json.loads(_script_json({"a": "</script><b>&"})) == {"a": "</script><b>&"}


SCRIPT = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("exploring", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
out, text = Path(sys.argv[2]), sys.argv[3]
doing = module.Areas(out.parent / "log", wait=0.02)
module.explore(module.read_space(text), out, resume=True, doing=doing, progress=False)
"""


def killed_often(out: Path, text: str, kills: int) -> None:
    """A run whose process is killed, again and again, after some more results each time."""
    arguments = [sys.executable, "-c", SCRIPT, __file__, str(out), text]
    done = False
    for _ in range(kills):
        before = lines(out / RESULTS)
        child = subprocess.Popen(arguments)
        while child.poll() is None and lines(out / RESULTS) < before + 4:
            time.sleep(0.005)
        done = done or child.poll() is not None
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == (0 if done else -signal.SIGKILL)
    assert not done, "the run ended before it was killed as often as it should have been"


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.parametrize("method", ["sweep", pytest.param("nsga2", marks=has_optuna)])
def test_killed_runs_lose_nothing_and_do_nothing_twice(method: str, tmp_path: Path) -> None:
    text = TEXT.replace("runs: 1000", "runs: 30") if method == "sweep" else SEARCH
    out = tmp_path / "killed"
    killed_often(out, text, 2)
    with (out / RESULTS).open("a") as file:
        file.write('{"key": "half a li')
    rest = Areas(tmp_path / "log")
    report = explore(read_space(text), out, resume=True, doing=rest, progress=False)
    whole = Areas()
    straight = explore(read_space(text), tmp_path / "straight", doing=whole, progress=False)
    assert found(report) == found(straight)
    assert report.data["front"] == straight.data["front"]
    assert report.data["choosing"] == straight.data["choosing"]
    for name in ("points.csv", "front.csv"):
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    # What was begun when the process was killed is begun again: at most one task a kill.
    did = (tmp_path / "log").read_text().splitlines()
    assert len(set(did)) == len(whole.did)
    assert len(did) - len(set(did)) <= 2
    # And what the journal has is in it once.
    keys = [json.loads(line).get("key") for line in (out / RESULTS).read_text().splitlines()]
    assert len(keys) == len(set(keys)) == len(whole.did) + 1
    nothing = Areas()
    explore(read_space(text), out, resume=True, doing=nothing, progress=False)
    assert nothing.did == []


def test_folders_are_not_mixed_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    explore(read_space(TEXT), out, doing=Areas(), progress=False)
    with pytest.raises(InputError, match="holds a run; go on with --resume"):
        explore(read_space(TEXT), out, doing=Areas(), progress=False)
    other = read_space(TEXT.replace("[2, 4, 8, 16]", "[2, 4, 8]"))
    with pytest.raises(InputError, match="holds a run of another space"):
        explore(other, out, resume=True, doing=Areas(), progress=False)
    (out / RESULTS).write_text("what is this\n")
    with pytest.raises(InputError, match=r"results.jsonl:1: is no line of a run's journal"):
        explore(read_space(TEXT), out, resume=True, doing=Areas(), progress=False)

    class Twice(Areas):
        def do(self, tasks: Sequence[Task], done: Any) -> None:
            with pytest.raises(InputError, match="is in use by another run"):
                explore(read_space(TEXT), tmp_path / "used", resume=True, progress=False)
            super().do(tasks, done)

    explore(read_space(TEXT), tmp_path / "used", doing=Twice(), progress=False)
    with pytest.raises(InputError, match="--trials: a sweep has none"):
        explore(read_space(TEXT), doing=Areas(), trials=5)
    with pytest.raises(InputError, match="--jobs: the cluster has workers of its own"):
        workers(2, "tcp://127.0.0.1:1")


def test_results_of_other_runs_are_taken_from_the_cache(tmp_path: Path) -> None:
    class Keeping(Areas):
        def do(self, tasks: Sequence[Task], done: Any) -> None:
            for task in tasks:
                measure.store(task, self.result(task))
            super().do(tasks, done)

    explore(read_space(TEXT), tmp_path / "a", doing=Keeping(), progress=False)
    second = Areas()
    report = explore(read_space(TEXT), tmp_path / "b", doing=second, progress=False)
    assert second.did == []
    assert found(report) == exact(read_space(TEXT))


@has_optuna
@pytest.mark.parametrize("method", ["nsga2", "tpe", "random"])
def test_search_finds_good_points_and_respects_its_budget(method: str, tmp_path: Path) -> None:
    text = SEARCH.replace("nsga2", method)
    space = read_space(text)
    did = Areas()
    report = explore(space, doing=did, progress=False)
    assert report.data["search"]["trials"] == 32
    assert report.data["search"]["stopped"] == "trials"
    best = exact(space)
    for item in found(report):
        assert any(one <= item[0] and two <= item[1] for one, two in best)
    assert all(item.metrics["bits_per_weight"] <= 4.3 for item in report.front)
    short = read_space(text.replace("runs: 1000", "runs: 7"))
    few = Areas()
    cut = explore(short, tmp_path / "out", doing=few, progress=False)
    assert cut.data["search"]["stopped"] == "budget"
    assert 0 < len(few.did) <= 7
    # A larger budget goes on where the smaller one ended, and comes to the same.
    more = explore(space, tmp_path / "out", resume=True, doing=Areas(), progress=False)
    assert more.data["front"] == report.data["front"]
    none = read_space(text.replace("runs: 1000", "runs: 1"))
    with pytest.raises(InputError, match=r"synthesis.runs: must be at least \d+ for the first"):
        explore(none, doing=Areas(), progress=False)


@has_optuna
def test_search_in_a_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    space = read_space(SEARCH.replace("trials: 32", "trials: 12"))
    report = explore(space, tmp_path / "out", storage=url, doing=Areas(), progress=False)
    assert not (tmp_path / "out" / "study.jsonl").exists()
    import optuna

    study = optuna.load_study(study_name=report.data["search"]["study"], storage=url)
    assert len(study.trials) == 12
    more = explore(
        space, tmp_path / "out", storage=url, trials=20, resume=True, doing=Areas(), progress=False
    )
    assert more.data["search"]["trials"] == 20
    with pytest.raises(InputError, match="--storage: cannot be used"):
        explore(space, tmp_path / "x", storage="nosuch://x", doing=Areas(), progress=False)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ToolError, match="a search needs the extra explore"):
        explore(read_space(SEARCH), doing=Areas(), progress=False)
    with pytest.raises(ToolError, match="a cluster needs the extra explore"):
        Cluster("tcp://127.0.0.1:1")


DYING = """
import os, signal, time
def work(task):
    time.sleep(0.3 if task.label == "slow" else 0.0)
    if task.label == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"did": task.label, "process": os.getpid()}
"""


def test_a_process_that_dies_costs_its_task_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dying_worker.py").write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)
    import dying_worker  # type: ignore[import-not-found]

    tasks = [
        Task(kind="synthesis", key=str(index), label="bad" if index == 1 else "good", facts={})
        for index in range(4)
    ]
    results: dict[str, dict[str, Any]] = {}
    hands = Processes(2, dying_worker.work)
    try:
        hands.do(tasks, lambda task, result: results.update({task.key: result}))
        # The next tasks have the whole pool again.
        slow = [replace(task, label="slow", key=f"slow {task.key}") for task in tasks]
        hands.do(slow, lambda task, result: results.update({task.key: result}))
    finally:
        hands.close()
    later = [results.pop(task.key) for task in slow]
    assert len({item["process"] for item in later}) == 2
    assert sorted(results) == ["0", "1", "2", "3"]
    assert "its process died" in results["1"]["error"]
    assert all(results[key]["did"] == "good" for key in ("0", "2", "3"))
    assert os.getpid() not in {results[key]["process"] for key in ("0", "2", "3")}


def test_another_version_answers_nothing(tmp_path: Path) -> None:
    space = read_space(TEXT)
    did = Areas()
    explore(
        replace(space, synthesis=space.synthesis.model_copy(update={"runs": 1})),
        doing=did,
        progress=False,
    )
    (task,) = did.did
    assert task.sources
    found = measure.run(replace(task, sources="0" * 64))
    assert "has another version of the project" in found["error"]
    found = measure.run(replace(task, facts={**task.facts, "technology": "0" * 64}))
    assert "another library" in found["error"]


@has_dask
@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
def test_a_cluster_does_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    def area(facts: Any) -> dict[str, Any]:
        if facts["spec"]["tile"]["n"] == 2:
            raise RuntimeError("no such thing")
        return {
            "area": area_of(facts["spec"]),
            "unit": "NAND2",
            "technology": "a formula",
            "delay_ns": 1.0,
            "met": True,
        }

    # Workers in this process, so that what they do can be replaced.
    monkeypatch.setitem(measure._WORK, "synthesis", area)
    text = TEXT.replace("[2, 4, 8, 16]", "4").replace("to: 16, step: 4", "to: 8, step: 4")
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        dashboard_address=None,
        protocol="inproc://",
    ) as cluster:
        report = explore(read_space(text), scheduler=cluster.scheduler_address, progress=False)
    assert report.front
    assert len(report.failures) == 1
    assert "RuntimeError: no such thing" in report.failures[0]
    assert report.data["choosing"]["measured"] == 10 + 4


def test_command_writes_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        measure._WORK,
        "synthesis",
        lambda facts: Areas().result(Task(kind="synthesis", key="", label="", facts=facts)),
    )
    file = tmp_path / "space.yaml"
    file.write_text(TEXT)
    out = tmp_path / "out"
    done = CliRunner().invoke(command, [str(file), "--out", str(out), "--jobs", "1", "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["points"]["refused"] == 16
    assert "round 1: measuring" in done.stderr
    again = CliRunner().invoke(command, [str(file), "--out", str(out), "--jobs", "1"])
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    again = CliRunner().invoke(command, [str(file), "--out", str(out), "--resume", "--jobs", "1"])
    assert again.exit_code == 0
    assert "points on the front" in again.stdout
    assert "0 results computed in this run" in again.stdout
    file.write_text(TEXT.replace("serial", "seril"))
    wrong = CliRunner().invoke(command, [str(file), "--out", str(out)])
    assert wrong.exit_code == 2
    assert f"{file}:7:16: cores.0.fields.planes.0: must be" in wrong.stderr

    def broken(facts: Any) -> dict[str, Any]:
        raise ToolError("yosys", "it broke")

    monkeypatch.setitem(measure._WORK, "synthesis", broken)
    monkeypatch.setenv("RTLGEN_CACHE", str(tmp_path / "other"))
    file.write_text(TEXT)
    bad = CliRunner().invoke(command, [str(file), "--out", str(tmp_path / "bad"), "--jobs", "1"])
    assert bad.exit_code == 1
    assert "yosys: it broke" in bad.stderr


@pytest.mark.parametrize("file", sorted(Path("sw_driver/spaces").glob("*.yaml")), ids=str)
def test_shipped_spaces_load(file: Path, root: Path) -> None:
    space = load_space(root / file)
    assert space.name == file.stem
    assert space.points > 10


@pytest.mark.slow
def test_real_designs_in_real_processes(tmp_path: Path) -> None:
    """Yosys, ABC, Verilator and the real layer, nothing replaced."""
    text = f"""\
name: real
cores:
  - base: {LUT}
    fields: {{tile.n: [2, 4], planes: [serial]}}
mapping: {{weight_bits: [2, 4], group: 64}}
workloads:
  chat: {{model: gpt2, decode: 1, context: 16}}
objectives: {{chat.cycles: minimise, area: minimise, sqnr_db: maximise}}
synthesis: {{runs: 2}}
"""
    report = explore(read_space(text), tmp_path / "out", jobs=2, progress=False)
    assert not report.failures
    assert len(report.front) == 4
    assert all(item.verified for item in report.front)
    by = {
        (item.values["tile.n"], item.values["weight_bits"]): item.metrics for item in report.front
    }
    from flows.areas import synthesis
    from hw.block import spec_from_dict

    spec = spec_from_dict(
        {key: value for key, value in report.front[0].spec.items() if key != "memory"}
    )
    alone = synthesis(spec, liberty=None, effort="fast")
    assert report.front[0].metrics["area"] == alone.area
    assert by[4, 4]["area"] == by[4, 2]["area"] > by[2, 2]["area"]
    assert by[2, 4]["sqnr_db"] == by[4, 4]["sqnr_db"] > by[2, 2]["sqnr_db"] + 6
