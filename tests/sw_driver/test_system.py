"""Models on systems: operators as shapes, what is charged, files, the command."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rtl_gen.errors import InputError
from sw_driver.architecture import Architecture
from sw_driver.checkpoint import load_model
from sw_driver.commands.map import map_model as map_command
from sw_driver.mapper import cost
from sw_driver.mapper.cache_format import parse_cache
from sw_driver.mapper.choices import Choices
from sw_driver.mapper.core import load_core
from sw_driver.mapper.mapping import map_workload
from sw_driver.mapper.phases import workloads_of
from sw_driver.mapper.workload import (
    Attention,
    Linear,
    decode_workload,
    prefill_workload,
    verify_workload,
)
from sw_driver.system.mapping import SystemMapping, map_on_system
from sw_driver.system.report import intensity, map_model_on_system, ridge
from sw_driver.system.schedule import (
    ORDERS,
    Channel,
)
from sw_driver.system.shapes import merged, spans
from sw_driver.system.spec import SYSTEMS, System, SystemSpec, load_system, resolve, shipped_systems
from sw_driver.system.vector import unit_cycles

# Operators as shapes -----------------------------------------------------------------------------


def test_spans_are_those_of_the_formula() -> None:
    for seed in range(600):
        rng = random.Random(seed)
        decode = rng.random() < 0.4
        item = Attention(
            name="scores",
            kind="scores",
            layers=1,
            instances=1,
            group=rng.randint(1, 5),
            head_dim=8,
            tokens=1 if decode else rng.randint(2, 60),
            past=rng.choice([0, 3, 41]),
            steps=rng.randint(1, 80) if decode else 1,
            window=rng.choice([None, None, 1, 5, 16, 33]),
            causal=rng.random() < 0.8,
        )
        if item.causal and rng.random() < 0.5:
            # Chunks, or tokens of which some are rejected, all at once or one after another.
            more = {"tokens": rng.randint(1, 9), "steps": rng.randint(1, 12)}
            rise = rng.choice([None, cost.Line(1), cost.Line(7, 3)])
            item = replace(item, **more, rise=rise, serial=rng.random() < 0.5)  # fmt: skip
        tile, unit = rng.randint(1, 7), rng.randint(1, 9)
        found = list(spans(item, tile, unit))
        units = sum(-(-rows // tile) * (seen // unit) * times for rows, seen, times in found)
        wanted = cost.spans(
            tile, unit, group=item.group, tokens=item.tokens, past=item.past, steps=item.steps,
            window=item.window or cost.NO_WINDOW, causal=item.causal, rise=item.rise,
            serial=item.serial,
        )  # fmt: skip
        assert units == wanted, (seed, item, tile, unit)
        each = item.steps * (item.tokens if item.serial else 1)
        assert sum(rows * times for rows, _, times in found) == item.rows * each
        assert all(seen % unit == 0 for _, seen, _ in found)


def test_too_many_spans_are_rounded_up() -> None:
    found = merged(iter([(4, 8 * tiles, 1) for tiles in range(1, 101)]), 8, most=10)
    assert found == [(4, 80 * number, 10) for number in range(1, 11)]


@pytest.mark.parametrize("name", ["llama-3.2-1b", "gemma-2-2b", "gpt2", "all-minilm-l6-v2"])
def test_cores_work_as_long_as_the_plain_mapping_says(name: str) -> None:
    """One core: the cycles of all blocks are those of the plain mapping, less latencies."""
    arch = load_model(name)
    system = one_core()
    core = system.kinds[0].core
    if arch.causal:
        works = workloads_of(arch, prefill=100, decode=9)
    else:
        works = workloads_of(arch, prefill=100)
    for work in works:
        plain = map_workload(work, core, Choices())
        found = map_on_system(work, system, effort=0)
        for operator, mine, other in zip(
            work.operators, found.operators, plain.operators, strict=False
        ):
            assert mine.name == other.name
            assert mine.busy == other.cycles - operator.runs * core.latency, mine.name
            assert mine.schedule >= max(mine.busy, mine.channel)
            assert mine.roofline <= mine.bound <= mine.schedule
            if isinstance(operator, Linear) and operator.m == 1:
                # With one row of tiles every operand is read once, and as many bytes.
                assert mine.weight_bytes == other.weight_bytes


def test_chunks_riders_drafts_and_experts_are_work_as_any() -> None:
    system = one_core(sram={"shared_kib": 4096})
    core = system.kinds[0].core
    llama, mixtral = load_model("llama-3.2-1b"), load_model("mixtral-8x7b")
    works = [
        prefill_workload(llama, 100, chunk=32),
        prefill_workload(llama, 64, chunk=32, riders=2, rider_context=50),
        verify_workload(llama, 9, drafted=3, accept=0.7, context=40),
        prefill_workload(mixtral, 5),
    ]
    for work in works:
        plain = map_workload(work, core, Choices())
        found = map_on_system(work, system, effort=0)
        for operator, mine, other in zip(
            work.operators, found.operators, plain.operators, strict=False
        ):
            where = work.phase, mine.name
            assert mine.busy == other.cycles - operator.runs * core.latency, where
            assert mine.macs == other.macs, where
        assert found.cycles > plain.cycles


@pytest.mark.parametrize("change", [{"kv": "kivi:2"}, {"tables": "unit"}])
def test_what_no_schedule_is_made_for_is_refused(change: dict[str, Any]) -> None:
    if "kv" in change:
        _, scheme = parse_cache(change["kv"])
        change = {"kv": scheme}
    work = decode_workload(load_model("gpt2"), 1, context=4)
    with pytest.raises(InputError, match=r"(kv|tables): must .* --core"):
        map_on_system(work, one_core(), Choices(**change), effort=0)


def one_core(**changes: object) -> System:
    """One ``lut_core``, with fields of the system changed."""
    fields: dict[str, object] = {
        "name": "one",
        "cores": [{"spec": str(Path("hw/configs/lut_core.yaml").resolve())}],
        "sram": {"shared_kib": 1024},
        "dram": {"bandwidth_gb_s": 25.6, "latency_ns": 60},
    }
    return resolve(SystemSpec(**{**fields, **changes}), Path())  # type: ignore[arg-type]


def test_decoding_is_within_one_percent_of_the_roofline() -> None:
    """Weights once over the channel: what any decoding is bound by."""
    arch = load_model("llama-2-7b")
    found = map_on_system(decode_workload(arch, 1, context=16), one_core())
    linear = [item for item in found.operators if item.operator == "linear"]
    weights = sum(item.weight_bytes for item in linear)
    assert weights == sum(
        item.runs * item.n * item.k * 4 // 8
        for item in found.workload.operators
        if isinstance(item, Linear)
    )
    ideal = weights / found.system.bandwidth * found.system.clock
    assert ideal < sum(item.cycles for item in linear) < 1.01 * ideal


def test_scores_go_to_memory_only_where_they_do_not_fit() -> None:
    arch = load_model("llama-3.2-1b")
    work = prefill_workload(arch, 300)
    roomy = map_on_system(work, one_core(), effort=0)
    tight = map_on_system(work, one_core(sram={"shared_kib": 2}), effort=0)

    def moved(mapping: SystemMapping, name: str) -> tuple[int, int]:
        (one,) = [item for item in mapping.operators if item.name == name]
        return one.activation_bytes, one.output_bytes

    assert moved(roomy, "scores")[1] == 0
    assert moved(roomy, "values")[0] == 0
    pairs = moved(tight, "scores")[1]
    # At 16 bits and whole tiles of tokens, a little more than half of all pairs.
    assert 0.5 < pairs / (2 * arch.layers * arch.heads * 300 * 300) < 0.7
    assert moved(tight, "values")[0] > 0


def test_operators_go_to_the_kind_that_names_them() -> None:
    fast = {"block": "mac_core", "name": "fast", "tile": {"m": 2, "n": 256, "k": 16}, "max_k": 8192}
    slow = {**fast, "name": "slow", "tile": {"m": 2, "n": 16, "k": 16}}
    arch = load_model("gpt2")
    work = decode_workload(arch, 1, context=8)

    def kinds(*cores: dict[str, object]) -> dict[str, str]:
        system = one_core(cores=list(cores), dram={"bandwidth_gb_s": 10_000})
        return {item.name: item.kind for item in map_on_system(work, system, effort=0).operators}

    both = kinds({"spec": slow}, {"spec": fast})
    assert both["up"] == both["lm_head"] == "fast"
    named = kinds({"spec": slow, "operators": ["lm_head", "scores"]}, {"spec": fast})
    assert (named["lm_head"], named["scores"], named["values"]) == ("slow", "slow", "fast")


def test_what_is_not_given_is_not_charged_and_said() -> None:
    arch = load_model("gpt2")
    work = decode_workload(arch, 2, context=30)
    bare = map_on_system(work, one_core(), effort=0)
    assert bare.vector_cycles == 0
    (note,) = [note for note in bare.notes if note.startswith("not charged")]
    for name in ("norm", "softmax", "residual", "scale and add partial results"):
        assert name in note
    unit = {"functions": ["softmax", "layer_norm"], "lanes": 8, "max_length": 1024}
    full = map_on_system(work, one_core(vector_unit=unit, scale_accumulate={}), effort=0)
    charged = {item.name: item.cycles for item in full.vector if item.function}
    assert set(charged) == {"norm", "softmax"}
    # Two norms a layer and one at the end, in every step, one row of the hidden width each.
    per_norm = unit_cycles(full.system, "layer_norm", 1, arch.hidden)
    assert charged["norm"] == 2 * (2 * arch.layers + 1) * per_norm
    assert full.cycles == sum(item.cycles for item in full.operators) + full.lookup_cycles + sum(
        charged.values()
    )
    assert "scale and add partial results" not in {item.name for item in full.vector}
    assert all(item.scaling for item in full.operators)
    # Rows are shared out, a row is not.
    two = one_core(vector_unit=unit, vector_units=2)
    assert unit_cycles(two, "softmax", 4, 64) < unit_cycles(two, "softmax", 8, 64)
    assert unit_cycles(two, "softmax", 1, 64) == unit_cycles(two, "softmax", 2, 64)


def test_totals_are_sums() -> None:
    report = map_model_on_system("gpt2", "edge_lut", prefill=40, decode=3)
    data = json.loads(report.json())
    assert data["time_to_first_token"] == data["phases"][0]["seconds"]
    for phase, mapping in zip(data["phases"], report.mappings, strict=True):
        parts = sum(item["cycles"] for item in phase["operators"])
        parts += sum(item["cycles"] for item in phase["vector"]) + phase["lookup_cycles"]
        assert phase["cycles"] == parts
        assert phase["seconds"] == pytest.approx(parts / 500e6)
        assert 0 < phase["core_utilisation"] <= 1
        assert 0 < phase["dram_utilisation"] <= 1
        for item in phase["operators"]:
            names = ("activation", "weight", "beside", "partial", "output")
            assert item["bytes"] == sum(item[f"{name}_bytes"] for name in names)
            pieces = sum(piece["times"] * piece["cycles"] for piece in item["pieces"])
            assert item["schedule_cycles"] == pieces
        sram = phase["peak_sram_bytes"]
        assert sram["weights"] <= 512 * 1024
        assert sram["activations"] <= 256 * 1024
        assert sram["results"] <= 256 * 1024
        assert sram["at_once"] <= sram["weights"] + sram["activations"] + sram["results"]
        # 2 × 64 × 16 lanes over four planes: 1024 operations a cycle at 25.6 bytes.
        assert ridge(mapping) == pytest.approx(2 * 2 * 64 * 16 / 4 / 25.6)
        assert intensity(mapping) > 0
    assert data["phases"][1]["operations_per_byte"] < 5 < 40 < ridge(report.mappings[0]) + 1


# Files -------------------------------------------------------------------------------------------


def test_shipped_systems_are_read_by_name() -> None:
    assert shipped_systems() == ("edge_lut", "server_lut")
    for name in shipped_systems():
        found = load_system(name)
        assert found.name == name
        assert load_system(SYSTEMS / f"{name}.yaml").spec.digest == found.spec.digest
    with pytest.raises(InputError, match="must be a YAML file or a shipped name, got 'edge'"):
        load_system("edge")


def test_the_channel_is_in_whole_numbers() -> None:
    """12.8 GB/s at 500 MHz is 25.6 bytes a cycle: 64 bytes in 5/2; 100 ns are 50 cycles."""
    channel = load_system("edge_lut").spec.channel
    assert channel == Channel(64, 5, 2, 50)
    assert [channel.cycles(8 * size) for size in (0, 1, 64, 65, 128, 640)] == [0, 3, 3, 5, 5, 25]


EDGE = (SYSTEMS / "edge_lut.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("count: 1", "count: 0", ": cores.0.count: must be greater than or equal to 1, got 0"),
        ("lut_core.yaml", "none.yaml", "none.yaml: cannot be read, no such file or directory"),
        ("lut_core.yaml", "quantize.yaml", "cores.0.spec: quantize: block: must be a GEMM core"),
        ("weights_kib: 512", "weights_kib: 0", "sram.weights_kib: must be above 0, or shared_kib"),
        (
            "weights_kib: 512",
            "shared_kib: 512",
            "must be 0 with shared_kib = 512, which is for all",
        ),
        (
            "bandwidth_gb_s: 12.8",
            "bandwidth_gb_s: 0",
            "dram.bandwidth_gb_s: must be greater than or equal to 0.001, got 0",
        ),
        (
            "burst_bytes: 64",
            "burst_byte: 64",
            "dram.burst_byte: unknown field (did you mean burst_",
        ),
        ("  lanes: 8", "  lanes: 7", "vector_unit.lanes: must be a power of two, got 7"),
        (
            "  lanes: 8",
            "  lane: 8",
            "vector_unit.lane: must be a field of vector_unit (did you mean",
        ),
        ("  lanes: 8", "  name: v", "vector_unit.name: is the system's own, got 'v'"),
        ("lanes: 32", "tile: {m: 1}", "scale_accumulate.tile: follows from the core"),
        ("lanes: 32", "lanes: 3", "scale_accumulate.lanes: must divide"),
        (
            "clock_mhz: 500.0",
            "clock_mhz: 900.0",
            "cores.0.spec: must be of a core for the system's",
        ),
        (
            "{spec: ",
            "{spec: {block: lut_core, max_k: 0}} #",
            "cores.0.spec.max_k: must be greater than or equal",
        ),
        ("{spec: ", "{spec: {max_k: 1}} #", "cores.0.spec.block: is required"),
        ("{spec: ", "{spec: {block: hadamard}} #", "cores.0.spec.block: must be a GEMM core"),
        ("block: system", "block: lut_core", ":2:8: block: must be 'system'"),
        ("count: 1}", "count: 1, synth_report: no.json}", "no.json"),
    ],
)
def test_files_are_refused_with_the_field(tmp_path: Path, old: str, new: str, wanted: str) -> None:
    text = EDGE.replace("../../hw", str(Path("hw").resolve()))
    assert old in text
    file = tmp_path / "s.yaml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_system(file)
    assert wanted in str(caught.value)
    assert "s.yaml" in str(caught.value) or "none.yaml" in wanted or "no.json" in wanted


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        (
            {"sram": {"shared_kib": 0.125}},
            r"^one: sram.shared_kib: must be at least [0-9.]+ \(now 0.125\) for one tile of \w+ on",
        ),
        (
            {"sram": {"weights_kib": 0.01, "activations_kib": 9, "results_kib": 9}},
            "sram.weights_kib: must be at least 0.5 .now 0.00976562. for one tile of q on lut_core",
        ),
        (
            {"vector_unit": {"max_length": 100}},
            "one: vector_unit.max_length: must be at least 768 for layer_norm over 768 elements",
        ),
        ({"dram": {"capacity_gib": 0.01}}, "one: dram.capacity_gib: must be at least 0.1"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], wanted: str) -> None:
    arch = load_model("gpt2")
    with pytest.raises(InputError, match=wanted):
        map_on_system(decode_workload(arch, 1, context=4), one_core(**changes), effort=0)


def test_areas_are_those_of_reports(tmp_path: Path) -> None:
    core = load_core("hw/configs/lut_core.yaml")
    report = {
        "top": core.name, "area": 1000.0, "area_unit": "µm²", "technology": "t", "delay_ns": 1.0,
        "digest": "d",
    }  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps(report), encoding="utf-8")
    spec = str(Path("hw/configs/lut_core.yaml").resolve())
    cores = [{"spec": spec, "count": 3, "synth_report": str(tmp_path / "r.json")}]
    found = map_model_on_system("gpt2", one_core(cores=cores), decode=1, effort=0)
    assert "area of cores: 3,000 µm² in t, without buffers and units" in found.facts


# The command -------------------------------------------------------------------------------------


def run_map(*arguments: str) -> str:
    result = CliRunner().invoke(map_command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_prints_and_draws(tmp_path: Path) -> None:
    out = run_map(
        "gpt2", "--system", "edge_lut", "--decode", "2", "--picture", str(tmp_path / "p.svg")
    )
    assert out.splitlines()[0] == "gpt2 on edge_lut"
    assert "ridge of the cores used most   40.0" in out
    assert "not charged in decode: quantize activations" in out
    drawn = (tmp_path / "p.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<?xml")
    data = json.loads(run_map("gpt2", "--system", "edge_lut", "--decode", "2", "--json"))
    assert data["system"]["channel"]["latency"] == 50
    assert data["phases"][0]["operators"][0]["pieces"][0]["blocking"]["order"] in ORDERS


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["gpt2"], "map: must have one of --core and --system"),
        (["gpt2", "--core", "c.yaml", "--system", "edge_lut"], "must have one of"),
        (["gpt2", "--system", "edge_lut", "--buffer-kib", "1"], "--buffer-kib: must not be given"),
        (["gpt2", "--system", "edge_lut", "--weight-bits", "9"], "must lie in .1, 4. for lut_core"),
        (["gpt2", "--system", "edge_lut", "--weight-bits", "x=2"], "must name one of .*got 'x'"),
        (["none", "--system", "nope"], r"(?s)none.*system: must be a YAML file or a shipped name"),
    ],
)
def test_the_command_refuses_in_one_line_each(arguments: list[str], wanted: str) -> None:
    result = CliRunner().invoke(map_command, arguments)
    assert result.exit_code == 2
    assert re.search(wanted, result.output), result.output
    assert "Traceback" not in result.output


def test_an_architecture_may_be_given_as_it_is() -> None:
    arch = load_model("gpt2")
    assert isinstance(arch, Architecture)
    report = map_model_on_system(arch, one_core(), decode=1, effort=0)
    assert report.title == "gpt2 on one"


def test_an_exact_search_leaves_no_gap() -> None:
    work = prefill_workload(load_model("gpt2"), 96)
    system = load_system("edge_lut")
    usual, exact = map_on_system(work, system), map_on_system(work, system, gap=0.0, effort=None)
    for one, best in zip(usual.operators, exact.operators, strict=True):
        if best.covered and best.pieces:
            assert best.gap == 0
            assert one.bound <= best.schedule <= one.schedule


def test_exact_is_of_a_system() -> None:
    result = CliRunner().invoke(
        map_command, ["gpt2", "--core", "hw/configs/lut_core.yaml", "--decode", "1", "--exact"]
    )
    assert result.exit_code == 2
    assert "--exact: must come with --system" in result.output
