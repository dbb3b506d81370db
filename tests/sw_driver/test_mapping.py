"""Mappings against hand calculations, the cores' own timing, and one another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw.block import block, spec_from_dict
from hw.gemm import GemmWork, Job
from rtl_gen.errors import InputError
from rtl_gen.specfile import SpecFileError
from sw_driver.architecture import load_architecture
from sw_driver.mapper import core as core_module
from sw_driver.mapper.core import Core, core_of, load_core
from sw_driver.mapper.many import evaluate_many, evaluate_points
from sw_driver.mapper.mapping import Choices, Mapping, OperatorCost, map_workload
from sw_driver.mapper.report import map_model, read_area
from sw_driver.mapper.workload import decode_workload, prefill_workload


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


def mac_core(**weights: Any) -> Core:
    return core(block="mac_core", weights={"encoding": "twos_complement", "bits": 8, **weights})


def ternary_core(packing: str = "planes") -> Core:
    return core(weights={"encoding": "ternary", "packing": packing})


def decoded(name: str, steps: int = 1, context: int = 511, **more: Any) -> Any:
    return decode_workload(load_architecture(name), steps, context=context, **more)


def row(mapping: Mapping, name: str) -> OperatorCost:
    (item,) = [item for item in mapping.operators if item.name == name]
    return item


def test_llama_decode_by_hand() -> None:
    mapping = map_workload(decoded("llama-2-7b"), core())
    q = row(mapping, "q")
    # One row of two, 64 tiles of columns, 256 K steps of four planes; 32 layers.
    assert q.jobs == 32 * 64
    assert q.cycles == 32 * (2 + 64 * 256 * 4)
    assert q.utilisation == pytest.approx(0.5, rel=1e-4)
    assert q.weight_bytes == 32 * 4096 * 4096 // 2
    assert q.scale_bytes == 32 * (4096 * 20 // 8 + 2)
    assert q.activation_bytes == q.output_bytes == 32 * 4096
    assert q.compute_seconds == pytest.approx(q.cycles / 500e6)
    assert q.memory_seconds == pytest.approx(q.bytes / 25.6e9)
    assert q.bound == "memory"
    scores = row(mapping, "scores")
    # 32 heads: a row each, 8 tiles of 64 of the 512 tokens, 8 K steps, four planes.
    assert scores.cycles == 32 * (2 + 32 * 8 * 8 * 4)
    assert scores.weight_bytes == 32 * 32 * 512 * 64
    values = row(mapping, "values")
    assert values.cycles == 32 * (2 + 32 * 2 * 32 * 4)
    # K and V of the new token: a row of 4096 codes of four bits, 32 scales and zero points.
    k = row(mapping, "k")
    assert k.output_bytes == 32 * (4096 * 4 + 32 * 20) // 8
    down = row(mapping, "down")
    assert down.cycles == 32 * (2 + 64 * 688 * 4)
    assert mapping.cycles == sum(item.cycles for item in mapping.operators)
    assert mapping.seconds == sum(
        max(i.compute_seconds, i.memory_seconds) for i in mapping.operators
    )


def test_bandwidth_bound_decode_is_the_roofline() -> None:
    arch = load_architecture("llama-2-7b")
    mapping = map_workload(decode_workload(arch, 1, context=0), core())
    weights = (arch.parameters - 32000 * 4096) / 2
    assert mapping.seconds == pytest.approx(weights / 25.6e9, rel=0.01)
    assert mapping.tokens_per_second == pytest.approx(1 / mapping.seconds)


def test_total_time_follows_the_clock_where_computing_binds() -> None:
    work = prefill_workload(load_architecture("llama-2-7b"), 256)
    slow = map_workload(work, core(clock_mhz=100.0))
    assert slow.seconds == pytest.approx(slow.cycles / 100e6, rel=1e-3)
    assert slow.utilisation > 0.98


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("group", [None, 24, 64])
def test_cycles_are_those_of_the_block_s_timing(steps: int, group: int | None) -> None:
    spec: Any = spec_from_dict(
        {
            "block": "lut_core",
            "name": "c",
            "tile": {"m": 3, "n": 48, "k": 16},
            "weights": {"encoding": "unsigned", "max_bits": 4},
            "planes": 2,
            "max_k": 256,
        }
    )
    arch = load_architecture("all-minilm-l6-v2")
    work = prefill_workload(arch, 7 * steps)
    mapping = map_workload(work, core_of(spec), Choices(weight_bits=3, group=group))
    for item in mapping.operators:
        if item.kind != "linear":
            continue
        m, n, k = item.shape
        jobs = []
        for _ in range(0, m, 3):
            for _ in range(0, n, 48):
                for start in range(0, k, group or k):
                    left = -(-min(group or k, k - start) // 16)
                    while left > 0:
                        jobs.append(Job(k_steps=min(16, left), weight_bits=3))
                        left -= 16
        works = [GemmWork(job=job, a=None, w=None) for job in jobs]  # type: ignore[arg-type]
        run = block("lut_core").timing.cycles(spec, works)
        assert item.cycles == item.gemms * run
        assert item.jobs == item.gemms * len(jobs)


def test_widths_by_default() -> None:
    mapping = map_workload(decoded("bitnet-b1.58-3b"), core())
    assert row(mapping, "q").bits == 2
    assert row(mapping, "lm_head").bits == 4
    assert row(mapping, "scores").bits == mapping.kv_bits == 4
    assert row(map_workload(decoded("llama-2-7b"), core()), "q").bits == 4
    assert row(map_workload(decoded("llama-2-7b"), mac_core()), "scores").bits == 8


def test_widths_by_choice() -> None:
    choices = Choices(weight_bits=2, operator_bits={"lm_head": 4, "down": 3}, kv_bits=2)
    mapping = map_workload(decoded("llama-2-7b"), core(), choices)
    found = {item.name: item.bits for item in mapping.operators if item.kind != "lookup"}
    assert found.pop("lm_head") == 4
    assert found.pop("down") == 3
    assert set(found.values()) == {2}


def test_an_expert_s_width_goes_by_its_short_name() -> None:
    choices = Choices(weight_bits=2, operator_bits={"gate": 3})
    mapping = map_workload(decoded("mixtral-8x7b", batch=5), core(), choices)
    assert {i.bits for i in mapping.operators if i.name.startswith("expert gate")} == {3}
    assert {i.bits for i in mapping.operators if i.name.startswith("expert up")} == {2}


def test_ternary_core_leaves_attention_off() -> None:
    mapping = map_workload(decoded("bitnet-b1.58-3b"), ternary_core())
    for name in ("scores", "values"):
        item = row(mapping, name)
        assert (item.covered, item.cycles, item.jobs, item.bits) == (False, 0, 0, 8)
        assert item.memory_seconds > 0
        assert item.seconds == item.memory_seconds
    assert mapping.uncovered_macs == row(mapping, "scores").macs + row(mapping, "values").macs
    (note,) = [note for note in mapping.notes if "scores and values are not done by c" in note]
    assert f"of their {mapping.uncovered_macs:,} MACs in decode only the memory" in note


def test_a_cache_that_is_too_wide_is_left_off() -> None:
    mapping = map_workload(decoded("llama-2-7b"), core(), Choices(kv_bits=8))
    assert not row(mapping, "scores").covered
    assert row(mapping, "scores").weight_bytes == 32 * 32 * 512 * 128
    assert "a KV cache of 8 bits does not fit unsigned weights of up to 4 bits" in mapping.notes[0]


def test_packed_trits_are_fewer_bytes() -> None:
    plain = map_workload(decoded("bitnet-b1.58-3b"), ternary_core())
    packed = map_workload(
        decoded("bitnet-b1.58-3b"),
        core(weights={"encoding": "ternary", "packing": "base3"}, tile={"m": 2, "n": 64, "k": 20}),
    )
    assert row(plain, "q").weight_bytes == 26 * 3200 * 3200 // 4
    assert row(packed, "q").weight_bytes == 26 * 3200 * (3200 // 20) * 4


def test_memory_that_parameters_and_cache_take() -> None:
    mapping = map_workload(decoded("llama-2-7b", steps=1, context=99), core())
    arch = load_architecture("llama-2-7b")
    matrices = arch.parameters - 65 * 4096 - 32000 * 4096
    rows = 32 * (5 * 4096 + 2 * 11008) + 32000
    assert mapping.parameter_bytes == (
        matrices // 2 + rows * 20 // 8 + 2 * 65 * 4096 + 2 * 32000 * 4096
    )
    assert mapping.cache_bytes == 32 * 100 * 2 * (4096 * 4 + 32 * 20) // 8
    # A tied table is kept twice: as vectors, and packed for the head.
    tied = map_workload(decoded("gpt2", context=9), core())
    more = map_workload(decoded("gpt2", context=9), core(), Choices(operator_bits={"lm_head": 2}))
    assert tied.parameter_bytes - more.parameter_bytes == 50257 * (768 + 1) * 2 // 8


def test_window_bounds_the_cache() -> None:
    mapping = map_workload(decoded("gemma-2-2b", context=5999), core())
    assert mapping.cache_bytes == 13 * (6000 + 4096) * 2 * 4 * (256 * 4 + 20) // 8


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        (Choices(weight_bits=5), r"weight_bits: must lie in \[1, 4\] for c, got 5"),
        (Choices(operator_bits={"q": 0}), r"weight_bits: q: must lie in \[1, 4\] for c, got 0"),
        (Choices(operator_bits={"x": 2}), "weight_bits: x: must be one of down, gate, k, "),
        (Choices(kv_bits=17), r"kv_bits: must lie in \[1, 16\], got 17"),
        (Choices(group=0), "group: must lie in .*, got 0"),
        (Choices(buffer_bytes=-1), "buffer_bytes: must lie in .*, got -1"),
    ],
)
def test_choices_that_do_not_fit(choices: Choices, text: str) -> None:
    with pytest.raises(InputError, match=text):
        map_workload(decoded("llama-2-7b"), core(), choices)


def test_ternary_core_has_one_width() -> None:
    with pytest.raises(InputError, match="must be 2 for c, whose weights are ternary, got 1"):
        map_workload(decoded("llama-2-7b"), ternary_core(), Choices(weight_bits=1))


def test_requantization_is_noted() -> None:
    def notes(name: str, on: Core, choices: Choices | None = None) -> str:
        return "\n".join(map_workload(decoded(name), on, choices).notes)

    assert "was not trained ternary" in notes("llama-2-7b", ternary_core())
    assert "was not trained ternary" not in notes("bitnet-b1.58-3b", ternary_core())
    assert "the weights of lm_head are requantized" in notes("bitnet-b1.58-3b", ternary_core())
    assert "needs 2 bits" in notes("bitnet-b1.58-3b", core(), Choices(weight_bits=1))
    bipolar = core(weights={"encoding": "bipolar", "max_bits": 4})
    assert "no bipolar codes" in notes("bitnet-b1.58-3b", bipolar)


def test_many_points_equal_single_mappings() -> None:
    cores = [
        core(),
        core(tile={"m": 3, "n": 48, "k": 20}, planes="parallel", clock_mhz=123.0),
        core(weights={"encoding": "bipolar", "max_bits": 2}, planes="serial", max_k=512),
        core(weights={"encoding": "twos_complement", "max_bits": 8}, planes=3),
        ternary_core(),
        core(weights={"encoding": "ternary", "packing": "base3"}, tile={"m": 1, "n": 9, "k": 7}),
        mac_core(),
        mac_core(bits=16),
    ]
    works = [
        decoded("llama-2-70b", 5, 700, batch=3),
        decoded("mixtral-8x7b", 2, 50, batch=5),
        decoded("bitnet-b1.58-3b"),
        decoded("mistral-7b-v0.1", 60, 4080),
        prefill_workload(load_architecture("gemma-2-2b"), 6000),
        prefill_workload(load_architecture("gpt2"), 77, context=100),
        prefill_workload(load_architecture("opt-350m"), 77),
        prefill_workload(load_architecture("bert-base-uncased"), 100, batch=4),
    ]
    for choices in (
        Choices(),
        Choices(group=64, buffer_bytes=70_000),
        Choices(weight_bits=2, kv_bits=2, output_bits=16, buffer_bytes=0),
    ):
        many = evaluate_many(cores, works, choices)
        for i, one in enumerate(cores):
            for j, work in enumerate(works):
                single = map_workload(work, one, choices)
                assert many.cycles[i, j] == single.cycles
                assert many.bytes[i, j] == single.bytes
                assert many.uncovered_macs[i, j] == single.uncovered_macs
                assert many.seconds[i, j] == pytest.approx(single.seconds)
                assert many.utilisation[i, j] == pytest.approx(single.utilisation)
                assert many.tokens_per_second[i, j] == pytest.approx(single.tokens_per_second)


def test_points_mix_cores_choices_clocks_and_bandwidths() -> None:
    cores = [
        core(),
        core(tile={"m": 3, "n": 48, "k": 20}, planes="parallel", clock_mhz=123.0),
        mac_core(bits=4),
        ternary_core(),
    ]
    choices = [
        Choices(),
        Choices(group=64, buffer_bytes=70_000),
        Choices(weight_bits=2, kv_bits=2, output_bits=16, buffer_bytes=0),
        Choices(group=32, operator_bits={"down": 2}, scale_bits=8, kv_bits=4),
    ]
    works = [
        decoded("llama-2-70b", 5, 700, batch=3),
        prefill_workload(load_architecture("llama-2-7b"), 77, context=100),
    ]
    rng = np.random.default_rng(2)
    at, of = rng.integers(len(cores), size=60), rng.integers(len(choices), size=60)
    clock, bandwidth = rng.uniform(50, 900, 60), rng.uniform(1, 900, 60)
    many = evaluate_points(
        cores, choices, works, core=at, choice=of, clock_mhz=clock, bandwidth_gb_s=bandwidth
    )
    for point in range(60):
        one = replace(
            cores[at[point]],
            clock_mhz=float(clock[point]),
            bandwidth_gb_s=float(bandwidth[point]),
        )
        for index, work in enumerate(works):
            single = map_workload(work, one, choices[of[point]])
            assert many.cycles[point, index] == single.cycles
            assert many.bytes[point, index] == single.bytes
            assert many.seconds[point, index] == pytest.approx(single.seconds)
    with pytest.raises(InputError, match="bandwidth_gb_s: must be above 0 at every point"):
        evaluate_points(cores, choices, works, core=at, choice=of, bandwidth_gb_s=0 * bandwidth)
    with pytest.raises(InputError, match="weight_bits: must be 2"):
        evaluate_points(
            cores, [Choices(weight_bits=1)], works, core=np.array([3]), choice=np.array([0])
        )


def test_many_points_are_checked() -> None:
    work = decoded("llama-2-7b")
    with pytest.raises(InputError, match="weight_bits: must lie in"):
        evaluate_many([core()], [work], Choices(weight_bits=9))
    with pytest.raises(InputError, match="must not be empty"):
        evaluate_many([], [work])
    huge = decoded("llama-3.1-405b", 1 << 20, 0, batch=1 << 10)
    with pytest.raises(InputError, match="to be evaluated in 64-bit integers"):
        evaluate_many([core()], [huge])
    assert map_workload(huge, core()).macs == huge.macs


def test_core_facts_come_from_the_cache_unchanged(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTLGEN_CACHE", str(tmp_path))
    file = root / "hw/configs/lut_core.yaml"
    made = load_core(file)
    (entry,) = tmp_path.glob("cores/*.json")
    monkeypatch.setattr(core_module, "core_of", None)
    assert load_core(file) == made
    entry.write_text("{")
    monkeypatch.undo()
    monkeypatch.setenv("RTLGEN_CACHE", str(tmp_path))
    assert load_core(file) == made
    assert json.loads(entry.read_text())["digest"] == made.digest


def test_a_wrong_specification_is_never_served_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTLGEN_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "x.yaml"
    file.write_text("block: lut_core\nname: x\nmax_k: 1\n")
    for _ in range(2):
        with pytest.raises(SpecFileError, match="max_k: must be at least"):
            load_core(file)
    file.write_text("block: lut_core\nname: x\n")
    assert load_core(file).name == "x"
    with pytest.raises(SpecFileError, match="cannot be read, no such file"):
        load_core(tmp_path / "none.yaml")


SYNTH = {
    "top": "c",
    "area": 1000.0,
    "area_unit": "µm²",
    "technology": "t",
    "delay_ns": 1.5,
    "digest": "00",
}


def synth_file(folder: Path, **change: Any) -> Path:
    file = folder / "synth.json"
    file.write_text(json.dumps({**SYNTH, **change}))
    return file


def test_area_from_a_synthesis_report(tmp_path: Path) -> None:
    report = map_model("gpt2", core(), decode=1, synth_report=synth_file(tmp_path))
    assert "area: 1,000 µm² in t, critical delay 1.500 ns" in str(report)
    (phase,) = report.as_dict()["phases"]
    rate = phase["tokens_per_second"]
    assert phase["tokens_per_second_per_µm²"] == pytest.approx(rate / 1000)
    assert "does not reach the clock" not in str(report)
    slow = map_model("gpt2", core(), decode=1, synth_report=synth_file(tmp_path, delay_ns=2.5))
    assert "the critical delay of 2.500 ns does not reach the clock of 500 MHz" in str(slow)
    assert map_model("gpt2", core(), decode=1).as_dict()["area"] is None
    own = synth_file(tmp_path, spec_digest=core().digest)
    assert "another specification" not in str(map_model("gpt2", core(), decode=1, synth_report=own))
    other = synth_file(tmp_path, spec_digest="00")
    assert "another specification of the name c" in str(
        map_model("gpt2", core(), decode=1, synth_report=other)
    )


def test_a_wrong_synthesis_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_area(synth_file(tmp_path, area=None, delay_ns="1", technology=3), core())
    assert [line.partition("synth.json: ")[2] for line in str(caught.value).splitlines()] == [
        "area: is required",
        "technology: must be a text, got 3",
        'delay_ns: must be a number, got "1"',
    ]
    with pytest.raises(InputError, match="area: must be above 0, got -1"):
        read_area(synth_file(tmp_path, area=-1), core())
    with pytest.raises(InputError, match='top: must be c, the core that is mapped, got "d"'):
        read_area(synth_file(tmp_path, top="d"), core())


def test_phases_that_are_not_asked_for() -> None:
    def phases(name: str, **more: Any) -> list[tuple[str, int, int]]:
        report = map_model(name, core(), **more)
        works = [mapping.workload for mapping in report.mappings]
        return [(work.phase, work.tokens, work.context) for work in works]

    assert phases("llama-2-7b") == [("prefill", 512, 0), ("decode", 128, 512)]
    assert phases("gpt2") == [("prefill", 512, 0), ("decode", 128, 512)]
    assert phases("bert-base-uncased") == [("prefill", 512, 0)]
    assert phases("gpt2", prefill=9) == [("prefill", 9, 0)]
    assert phases("gpt2", prefill=9, decode=2) == [("prefill", 9, 0), ("decode", 2, 9)]
    assert phases("gpt2", decode=2) == [("decode", 2, 512)]
    assert phases("gpt2", decode=2, context=7) == [("decode", 2, 7)]
    with pytest.raises(InputError, match="context: must come with decode"):
        phases("gpt2", prefill=9, context=3)


def test_core_without_an_affine_timing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec: Any = spec_from_dict({"block": "mac_core", "name": "c"})
    timing = block("mac_core").timing
    monkeypatch.setattr(timing, "job_cycles", lambda spec, steps, bits: steps * steps)
    with pytest.raises(InputError, match="not affine in the K steps of a job"):
        core_of(spec)


def test_more_clock_never_costs_time() -> None:
    work = decoded("llama-2-7b")
    times = [map_workload(work, replace(core(), clock_mhz=mhz)).seconds for mhz in (50, 100, 1e4)]
    assert times[0] > times[1] > times[2]
