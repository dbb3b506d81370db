"""Times, memory, roofline and energy of a report, by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hw.block import spec_from_dict
from rtl_gen.errors import InputError
from sw_driver.architecture import load_architecture
from sw_driver.commands.map import map_model as map_command
from sw_driver.mapper.core import Core, core_of, load_core
from sw_driver.mapper.energy import energy, read_power
from sw_driver.mapper.mapping import Choices, OperatorCost, map_workload
from sw_driver.mapper.memory import peak_memory
from sw_driver.mapper.report import MapReport, map_model
from sw_driver.mapper.roofline import phase_position, position
from sw_driver.mapper.workload import decode_workload, prefill_workload

LUT_CORE = "hw/configs/lut_core.yaml"


@pytest.fixture(autouse=True)
def _at_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def core(**more: Any) -> Core:
    settings: dict[str, Any] = {
        "block": "lut_core",
        "name": "c",
        "tile": {"m": 2, "n": 64, "k": 16},
        "weights": {"encoding": "unsigned", "max_bits": 4},
        "max_k": 16384,
        "clock_mhz": 500.0,
        "memory": {"bandwidth_gb_s": 25.6},
    }
    return core_of(spec_from_dict({**settings, **more}))  # type: ignore[arg-type]


def command(*arguments: str) -> Result:
    return CliRunner().invoke(map_command, [*arguments, "--core", LUT_CORE])


def power_file(folder: Path, **change: Any) -> Path:
    data = {
        "spec": "c",
        "spec_digest": core().digest,
        "technology": "t",
        "clock_mhz": 250.0,
        "leakage_mw": 2.0,
        "runs": [{"weight_bits": 4, "dynamic_mw": 50.0}, {"weight_bits": 2, "dynamic_mw": 30.0}],
        **change,
    }
    file = folder / "power.json"
    file.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))
    return file


def test_place_of_an_operator_under_the_roof() -> None:
    mapping = map_workload(decode_workload(load_architecture("llama-2-7b"), 1, context=9), core())
    (q,) = [item for item in mapping.operators if item.name == "q"]
    found = position(mapping, q)
    assert found is not None
    # 2 · 2·64·16 operations in four cycles of 2 ns; a ridge of 512 Gop/s over 25.6 GB/s.
    peak = 2 * 2 * 64 * 16 / 4 * 500e6
    assert found.ridge == pytest.approx(peak / 25.6e9) == 20
    assert found.intensity == pytest.approx(2 * q.macs / q.bytes)
    assert found.roof == pytest.approx(found.intensity * 25.6e9)
    assert found.achieved == pytest.approx(found.roof)
    assert found.fraction == pytest.approx(1)
    # One row of two is used, and still memory binds; with two columns of DRAM it does not.
    fast = map_workload(mapping.workload, replace(core(), bandwidth_gb_s=1000.0))
    (q,) = [item for item in fast.operators if item.name == "q"]
    found = position(fast, q)
    assert found is not None
    assert found.roof == pytest.approx(peak)
    assert found.fraction == pytest.approx(q.utilisation)
    whole = phase_position(fast)
    possible = sum(max(item.peak_seconds, item.memory_seconds) for item in fast.operators)
    assert whole.fraction == pytest.approx(possible / fast.seconds)
    assert whole.operations == 2 * fast.macs


def test_no_place_off_the_core() -> None:
    work = decode_workload(load_architecture("llama-2-7b"), 1, context=9)
    mapping = map_workload(work, core(), Choices(kv_bits=8))
    places = {item.name: position(mapping, item) for item in mapping.operators}
    assert places["scores"] is places["embedding"] is None
    assert places["o"] is not None
    assert phase_position(mapping).operations == 2 * (mapping.macs - mapping.uncovered_macs)


def test_live_activations_by_hand() -> None:
    arch = load_architecture("llama-2-7b")
    work = prefill_workload(arch, 100, batch=2)
    found = peak_memory(map_workload(work, core()))
    # While `up` runs: its input, its result and the gate's, a byte each, and the residual stream.
    assert found.at == "up"
    assert found.activations == 200 * (4096 + 2 * 11008 + 2 * 4096)
    assert found.total == found.parameters + found.cache + found.activations
    # An encoder has no cache: queries and keys are there while values are made.
    bert = load_architecture("bert-base-uncased")
    (group,) = bert.layer_groups
    thin = replace(group, mlp=replace(group.mlp, width=64))
    small = replace(bert, layer_groups=(thin,), head=False, head_transform=False)
    found = peak_memory(map_workload(prefill_workload(small, 100), core()))
    assert (found.at, found.cache) == ("v", 0)
    assert found.activations == 100 * (4 * 768 + 2 * 768)
    # Logits of every token that is verified are more than that.
    report = map_model(arch, core(), prefill=8, decode=8, context=8, speculate=3, accept=0.5)
    memory = report.as_dict()["phases"][1]["memory"]
    assert memory["at"] == "lm_head"
    assert memory["activations"] == 4 * (4096 + 32000) + 4 * 4096 * 2


def test_energy_by_hand(tmp_path: Path) -> None:
    power = read_power(power_file(tmp_path), core())
    assert power.pj_per_cycle == {4: 200.0, 2: 120.0}
    work = decode_workload(load_architecture("llama-2-7b"), 3, context=9)
    choices = Choices(operator_bits={"down": 2})
    mapping = map_workload(work, core(), choices)
    found = energy(mapping, power, 10.0)
    two = sum(item.cycles for item in mapping.operators if item.bits == 2)
    assert two > 0
    dynamic = ((mapping.cycles - two) * 200 + two * 120) * 1e-12
    assert found.dynamic == pytest.approx(dynamic)
    assert found.leakage == pytest.approx(2e-3 * mapping.seconds)
    assert found.dram == pytest.approx(mapping.bytes * 80e-12)
    assert found.as_dict()["j_per_token"] == pytest.approx(
        (dynamic + 2e-3 * mapping.seconds + mapping.bytes * 80e-12) / 3
    )
    without = energy(mapping, power)
    assert without.dram is None
    assert without.total == pytest.approx(found.dynamic + found.leakage)
    one = read_power(power_file(tmp_path, runs=None, dynamic_mw=25), core())
    assert energy(mapping, one).dynamic == pytest.approx(mapping.cycles * 100e-12)
    with pytest.raises(InputError, match="runs: must have one at the width of q, W3, got W2, W4"):
        energy(map_workload(work, core(), Choices(weight_bits=3, kv_bits=4)), power)


def test_energy_in_a_report(tmp_path: Path) -> None:
    file = power_file(tmp_path)
    report = map_model("gpt2", core(), power_report=file, dram_pj_per_bit=4.0)
    text = str(report)
    assert "J/token" in text
    assert "DRAM at 4 pJ a bit" in text
    assert "power is of another" not in text
    for phase in report.as_dict()["phases"]:
        parts = [phase["energy"][name] for name in ("core_dynamic_j", "core_leakage_j", "dram_j")]
        assert phase["energy"]["total_j"] == pytest.approx(sum(parts))
    plain = map_model("gpt2", core(), power_report=power_file(tmp_path, spec_digest="0"))
    assert "DRAM is not charged" in str(plain)
    assert "the power is of another specification than c" in str(plain)
    assert map_model("gpt2", core()).as_dict()["phases"][0]["energy"] is None
    with pytest.raises(InputError, match="dram_pj_per_bit: must come with a power report"):
        map_model("gpt2", core(), dram_pj_per_bit=4.0)
    with pytest.raises(InputError, match=r"dram_pj_per_bit: must lie in \[0, 10000\], got nan"):
        map_model("gpt2", core(), power_report=file, dram_pj_per_bit=float("nan"))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"clock_mhz": 0}, "clock_mhz: must be at least 1e-06, got 0"),
        ({"clock_mhz": None}, "clock_mhz: is required"),
        ({"leakage_mw": -1}, "leakage_mw: must be at least 0, got -1"),
        ({"leakage_mw": "2"}, 'leakage_mw: must be a number, got "2"'),
        ({"spec_digest": 3}, "spec_digest: must be a text, got 3"),
        ({"spec": "d"}, 'spec: must be c, the core that is mapped, got "d"'),
        ({"runs": []}, r"runs: must be a list of runs, got an empty list"),
        ({"runs": [3]}, r"runs\[0\]: must be a run, got 3"),
        ({"runs": [{"dynamic_mw": 1}]}, r"runs\[0\]: weight_bits: must lie in \[1, 16\], got null"),
        ({"runs": [{"weight_bits": 4}]}, r"runs\[0\]: dynamic_mw: is required"),
        ({"runs": None}, "dynamic_mw: is required"),
    ],
)
def test_a_wrong_power_report(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=rf"power.json: {text}"):
        read_power(power_file(tmp_path, **change), core())


def phases_of(report: MapReport) -> list[tuple[str, str, int]]:
    works = [mapping.workload for mapping in report.mappings]
    return [(work.name, work.phase, work.tokens) for work in works]


def test_time_to_the_first_token_is_the_prefill() -> None:
    report = map_model("llama-2-7b", load_core(LUT_CORE), prefill=64, decode=8, batch=3)
    prefill, decode = report.mappings
    data = report.as_dict()
    assert data["time_to_first_token"] == prefill.seconds
    assert data["time_per_output_token"] == pytest.approx(decode.seconds / 8)
    assert data["output_tokens_per_second"] == pytest.approx(3 * 8 / decode.seconds)
    assert data["peak_memory_bytes"] == max(phase["memory"]["total"] for phase in data["phases"])
    only = map_model("llama-2-7b", load_core(LUT_CORE), decode=8).as_dict()
    assert only["time_to_first_token"] is None
    encoder = map_model("bert-base-uncased", load_core(LUT_CORE)).as_dict()
    assert encoder["time_to_first_token"] is encoder["time_per_output_token"] is None


def test_a_draft_is_charged_beside() -> None:
    on = load_core(LUT_CORE)
    more = {"prefill": 64, "decode": 20, "speculate": 3, "accept": 0.8, "draft": "llama-3.2-1b"}
    report = map_model("llama-2-7b", on, choices=Choices(operator_bits={"down": 2}), **more)
    assert phases_of(report) == [
        ("llama-2-7b", "prefill", 64),
        ("llama-3.2-1b", "prefill", 64),
        ("llama-2-7b", "verify", 20),
        ("llama-3.2-1b", "draft", 20),
    ]
    verify, draft = report.mappings[2:]
    data = report.as_dict()
    assert data["time_per_output_token"] == pytest.approx((verify.seconds + draft.seconds) / 20)
    assert data["time_to_first_token"] == report.mappings[0].seconds
    memory = [phase["memory"]["total"] for phase in data["phases"]]
    assert data["peak_memory_bytes"] == max(memory[0], memory[2]) + max(memory[1], memory[3])
    assert "128256 tokens and llama-2-7b 32000: it drafts for it only" in str(report)
    # An exception for an operator is the model's own.
    bits = [{item.name: item.bits for item in mapping.operators} for mapping in (verify, draft)]
    assert (bits[0]["down"], bits[1]["down"]) == (2, 4)


def test_command_takes_phases(tmp_path: Path) -> None:
    histogram = tmp_path / "h.json"
    histogram.write_text(json.dumps({"experts": [3, 1, 1, 1, 1, 1, 1, 1]}))
    words = "mixtral-8x7b --prefill 40 --chunk 16 --piggyback 2 --piggyback-context 9 --decode 4"
    result = command(*words.split(), "--routing", str(histogram), "--json")
    assert result.exit_code == 0, result.output
    prefill, decode = json.loads(result.output)["phases"]
    fields = ("steps", "chunk", "piggyback", "piggyback_context", "routing", "new_tokens")
    assert [prefill[name] for name in fields] == [3, 16, 2, 9, "histogram", 40 + 2 * 3]
    assert decode["routing"] == "histogram"
    assert all(isinstance(item["cycles"], int) for item in prefill["operators"])
    words = "llama-2-7b --decode 4 --speculate 2 --accept 0.5 --kv kivi:2,group=16"
    result = command(*words.split())
    assert result.exit_code == 0, result.output
    assert "verify: 4 tokens after 512, 2 drafted a step" in result.output
    assert "KV cache kivi:2,group=16" in result.output
    assert "2 tokens drafted a step, 1.75 tokens a step expected (7/4): 3 steps" in result.output
    result = command("llama-2-7b", "--decode", "4", "--kv", "int3", "--json")
    assert json.loads(result.output)["phases"][0]["kv_bits"] == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("gpt2 --chunk 4 --decode 3", "chunk: must come with prefill"),
        ("gpt2 --prefill 8 --chunk 9", "gpt2: chunk: must lie in [1, 8], got 9"),
        ("gpt2 --prefill 8 --piggyback 1", "gpt2: piggyback: must come with chunk, got 1"),
        ("gpt2 --decode 8 --accept 0.5", "accept: must come with speculate"),
        ("gpt2 --decode 8 --draft gpt2", "draft: must come with speculate"),
        ("gpt2 --decode 8 --speculate 2", "accept: must be given with speculate"),
        ("gpt2 --prefill 8 --speculate 2 --accept 1", "speculate: must come with decode"),
        ("gpt2 --decode 8 --speculate 2 --accept 2", "accept: must lie in [0, 1], got 2.0"),
        ("gpt2 --decode 8 --speculate 2 --accept 1 --draft gtp2", "did you mean gpt2"),
        ("gpt2 --routing uniform", "routing: must not be given for a model without experts"),
        ("gpt2 --routing skewed", "routing: must be balanced, uniform or a .json file"),
        ("gpt2 --kv kivi", "kv: must be int1 to int16, fp16, bf16, fp8"),
        ("gpt2 --kv int4 --kv-bits 4", "kv_bits: must not be given beside kv"),
        ("bert-base-uncased --kv xquant:4", "kv: xquant: must not be asked of an encoder"),
        ("gpt2 --tables unit", "tables: must be core for lut_core"),
        ("gpt2 --power-report none.json", "none.json: cannot be read, no such file"),
    ],
)
def test_command_refuses(words: str, text: str) -> None:
    result = command(*words.split())
    assert result.exit_code == 2
    assert text in result.output
    assert "Traceback" not in result.output
    assert len(result.output.splitlines()) == 1, result.output


@pytest.mark.parametrize("words", ["mixtral-8x7b --prefill 9 --chunk 4 --routing uniform", "gpt2"])
def test_picture_has_a_roofline(words: str, tmp_path: Path) -> None:
    file = tmp_path / "x.svg"
    result = command(*words.split(), "--picture", str(file))
    assert result.exit_code == 0, result.output
    assert file.stat().st_size > 20_000


def test_operators_are_places_in_json() -> None:
    report = map_model("gpt2", load_core(LUT_CORE), decode=1).as_dict()
    (phase,) = report["phases"]
    places = {item["name"]: item["roofline"] for item in phase["operators"]}
    assert places["embedding"] is None
    assert 0 < places["q"]["fraction"] <= 1
    assert phase["roofline"]["fraction"] <= 1
    assert set(phase["roofline"]) >= {"intensity", "ridge", "roof", "achieved"}
    assert isinstance(report["phases"][0]["operators"][0], dict)
    assert OperatorCost.__dataclass_fields__["peak_seconds"]
