"""Schedules against Verilated cores: every result in its cycle, no tolerance."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw.block import spec_from_dict
from hw.gemm import GemmSpec
from rtl_gen.errors import InputError
from sim.harness import Model, verilate
from sim.harness.compile import RUN_SHORT
from sw_driver.checkpoint import load_model
from sw_driver.mapper.choices import Choices, core_ints
from sw_driver.mapper.core import core_of
from sw_driver.mapper.workload import decode_workload, prefill_workload
from sw_driver.system import check
from sw_driver.system.check import Replay, check_mapping
from sw_driver.system.mapping import map_on_system
from sw_driver.system.schedule import ORDERS, Blocking, Channel, Gemm, extents
from sw_driver.system.shapes import _sizes
from sw_driver.system.spec import System, SystemSpec, resolve

CORES: dict[str, dict[str, Any]] = {
    "lut": {
        "block": "lut_core", "name": "lut_small", "tile": {"m": 2, "n": 4, "k": 8},
        "weights": {"encoding": "unsigned", "max_bits": 4}, "planes": "serial",
        "pipeline": {"front": 1, "heap": 0}, "max_k": 64,
    },
    "mac": {
        "block": "mac_core", "name": "mac_small", "tile": {"m": 2, "n": 4, "k": 4},
        "weights": {"encoding": "twos_complement", "bits": 8},
        "pipeline": {"front": 0, "heap": 1}, "max_k": 64,
    },
    "bitserial": {
        "block": "bitserial_core", "name": "bitserial_small", "tile": {"m": 2, "n": 4, "k": 8},
        "activations": {"encoding": "twos_complement", "max_bits": 4},
        "weights": {"encoding": "unsigned", "max_bits": 3}, "max_k": 64,
    },
    "sram_lut": {
        "block": "sram_lut_gemv", "name": "sram_lut_small", "tile": {"m": 2, "n": 8, "k": 4},
        "activations": {"encoding": "twos_complement", "max_bits": 4},
        "weights": {"encoding": "twos_complement", "max_bits": 4},
        "reuse": {"capacity": 2}, "pipeline": {"front": 1}, "max_k": 64,
    },
    "mx": {
        "block": "mx_core", "name": "mx_small", "tile": {"m": 1, "n": 2, "k": 32},
        "activations": {"format": "mxfp4"}, "weights": {"format": "mxfp4"},
        "pipeline": {"front": 1, "heap": 1}, "max_k": 256,
    },
    "fp": {
        "block": "fp_core", "name": "fp_small", "tile": {"m": 1, "n": 2, "k": 4}, "max_k": 64,
    },
}  # fmt: skip
QUICK = ("lut", "mac", "bitserial", "sram_lut", "mx")


def core_spec(name: str) -> GemmSpec:
    found = spec_from_dict(CORES[name])
    assert isinstance(found, GemmSpec)
    return found


def random_schedule(
    rng: random.Random, spec: GemmSpec, bits: int, cores: int
) -> tuple[Gemm, Blocking]:
    """A GEMM and a blocking of it, on up to so many cores."""
    core = core_of(spec)
    grouped = rng.random() < 0.3 and not core.own_scales
    unit = rng.choice([core.k, 2 * core.k, 3 * core.k // 2]) if grouped else core.k
    gemm = Gemm(
        m=rng.randint(1, 7),
        n=rng.randint(1, 14),
        k=rng.randint(1, 6 * core.k),
        instances=rng.choice([1, 1, 3]),
        unit=unit,
        grouped=grouped,
        group_bits=16 if grouped else 0,
        wide_bits=core.result_bits,
        out_num=8,
        out_den=1,
        row_bits=16,
        column_bits=16,
        **_sizes(core, core_ints(core, bits)),
    )
    gemm = gemm._replace(max_steps=min(gemm.max_steps, rng.choice([2, 100])))
    pm, pn, pi = rng.choice([(1, 1, 1), (cores, 1, 1), (1, cores, 1), (1, 1, cores)])
    a, w, o = (rng.choice([1, 2]) for _ in range(3))
    cut = Blocking(rng.choice(ORDERS), 1, 1, 1, a, w, o, pm, pn, pi)
    _, m, n, k = extents(gemm, cut)
    return gemm, cut._replace(bm=rng.randint(1, m), bn=rng.randint(1, n), bk=rng.randint(1, k))


def random_replay(spec: GemmSpec, seed: int) -> tuple[Replay, int]:
    """Three schedules after one another on one random system, and their cycles."""
    rng = random.Random(seed)
    cores = rng.choice([1, 1, 2, 4])
    channel = Channel(
        rng.choice([1, 4, 16]), rng.choice([1, 1, 3]), rng.choice([1, 2, 4]),
        rng.choice([0, 1, 9, 40]),
    )  # fmt: skip
    bits = rng.choice(list(core_of(spec).widths))
    replay = Replay(spec, cores, channel, seed=seed)
    now = 0
    for number in range(3):
        gemm, cut = random_schedule(rng, spec, bits, cores)
        now += replay.add(f"GEMM {number}", gemm, cut, now, bits).cycles
    return replay, now


def run_many(name: str, seeds: range) -> None:
    spec = core_spec(name)
    with verilate(spec, effort=RUN_SHORT, progress=False) as model:
        results = 0
        for seed in seeds:
            replay, cycles = random_replay(spec, seed)
            problems, latest, blocks, compared = replay.run(model)
            assert not problems, (seed, problems[:3])
            assert latest < cycles
            assert blocks >= 3
            results += compared
        assert results > 20 * len(seeds)


@pytest.mark.parametrize("name", QUICK)
def test_blocks_end_in_the_cycle_of_the_schedule(name: str) -> None:
    run_many(name, range(12))


@pytest.mark.nightly
@pytest.mark.parametrize("name", CORES)
def test_many_random_systems(name: str) -> None:
    run_many(name, range(100, 300))


@pytest.fixture
def mac() -> Any:
    with verilate(core_spec("mac"), effort=RUN_SHORT, progress=False) as model:
        yield model


def plain(spec: GemmSpec, m: int, n: int, k: int) -> Gemm:
    core = core_of(spec)
    bits = core.max_weight_bits
    return Gemm(
        m=m, n=n, k=k, instances=1, unit=core.k, grouped=False, group_bits=0,
        wide_bits=core.result_bits, out_num=8, out_den=1, row_bits=0, column_bits=0,
        **_sizes(core, core_ints(core, bits)),
    )  # fmt: skip


def replayed(model: Model, gemm: Gemm, cut: Blocking, channel: Channel) -> list[str]:
    replay = Replay(core_spec("mac"), cut.cores, channel)
    replay.add("GEMM", gemm, cut, 0, 8)
    return replay.run(model)[0]


def test_a_wrong_schedule_is_noticed(mac: Model) -> None:
    """Cores that were a cycle slower, faster or deeper than the model says do not pass."""
    gemm, cut = plain(core_spec("mac"), 4, 8, 32), Blocking("mnk", 1, 1, 4)
    slow, fast = Channel(1, 1, 1, 5), Channel(64, 1, 8, 0)
    for channel in (slow, fast):
        assert replayed(mac, gemm, cut, channel) == []
        deeper = gemm._replace(latency=gemm.latency + 1)
        assert "by the schedule in" in replayed(mac, deeper, cut, channel)[0]
    # A start of its own for every job that the core does not have: blocks end earlier than said.
    for change in ({"start": 1}, {"latency": gemm.latency - 1}):
        assert replayed(mac, gemm._replace(**change), cut, fast)  # type: ignore[arg-type]


def test_operands_do_not_come_before_their_cycle(
    mac: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operands that came a cycle early would be taken early, and the check would say so."""
    gemm, cut = plain(core_spec("mac"), 4, 8, 32), Blocking("mnk", 1, 1, 4, 1, 1, 1)
    true_add = check._Core.add

    def early(self: Any, name: str, plans: Any, ready: int, *rest: Any) -> None:
        true_add(self, name, plans, ready - 1, *rest)

    monkeypatch.setattr(check._Core, "add", early)
    assert "by the schedule in" in replayed(mac, gemm, cut, Channel(4, 1, 1, 9))[0]


def test_wrong_values_and_late_operands_are_noticed(
    mac: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    gemm, cut = plain(core_spec("mac"), 4, 8, 32), Blocking("mnk", 1, 1, 4)
    true_add = check._Core.add

    def sooner(self: Any, name: str, plans: Any, ready: int, due: Any, by: int) -> None:
        true_add(self, name, plans, ready, due, by - 12)

    with monkeypatch.context() as patch:
        patch.setattr(check._Core, "add", sooner)
        assert any(
            "its place is given away" in text
            for text in replayed(mac, gemm, cut, Channel(1, 1, 1, 5))
        )

    replay = Replay(core_spec("mac"), 1, Channel(1, 1, 1, 5))
    replay.add("GEMM", gemm, cut, 0, 8)
    replay.cores[0].values["o"][0] = replay.cores[0].values["o"][0] + 1
    assert replay.run(mac)[0] == ["core 0: o differs from the golden model"]


def test_a_beat_waits_for_its_cycle_and_for_those_before(mac: Model) -> None:
    work = np.zeros((3, 2, 4)), np.zeros((3, 4, 4))
    inputs = {"i_job": {"k_steps_m1": np.array([2])}, "i_a": {"a": work[0]}, "i_w": {"w": work[1]}}
    run = mac.run(inputs, {"o": 1}, not_before={"i_a": np.array([30, 7, 50])}, idle_limit=10)
    assert run.input_cycles["i_a"].tolist() == [30, 31, 50]
    assert run.input_cycles["i_w"].tolist()[0] == 0
    with pytest.raises(ValueError, match=r"not_before: i_a must be \(3,\), got \(2,\)"):
        mac.run(inputs, {"o": 1}, not_before={"i_a": np.array([1, 2])})
    with pytest.raises(ValueError, match="not_before: 'o' is not an input"):
        mac.run(inputs, {"o": 1}, not_before={"o": np.array([1])})


# Whole layers ------------------------------------------------------------------------------------

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 56, "vocab_size": 90, "max_position_embeddings": 64, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip
BERT = {
    "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 24,
    "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 52, "vocab_size": 60,
    "max_position_embeddings": 40, "type_vocab_size": 2, "hidden_act": "gelu",
}  # fmt: skip


def small_system(core: str, count: int, **sizes: float) -> System:
    fields: dict[str, Any] = {
        "name": "small",
        "cores": [{"spec": CORES[core], "count": count}],
        "sram": {key: value / 1024 for key, value in sizes.items()},
        "dram": {"bandwidth_gb_s": 1.6, "latency_ns": 30, "burst_bytes": 8},
    }
    return resolve(SystemSpec(**fields), Path())


@pytest.mark.parametrize(
    ("config", "core", "count", "sizes"),
    [
        (LLAMA, "lut", 1, {"shared_kib": 600}),
        (LLAMA, "mac", 2, {"activations_kib": 200, "weights_kib": 300, "results_kib": 500}),
        (BERT, "bitserial", 3, {"activations_kib": 150, "weights_kib": 150, "results_kib": 700}),
        (BERT, "mx", 2, {"shared_kib": 500}),
    ],
)
def test_a_whole_layer_takes_the_cycles_of_its_schedule(
    tmp_path: Path, config: dict[str, Any], core: str, count: int, sizes: dict[str, float]
) -> None:
    """Every projection, both products of attention, the last layer: one after another."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    arch = load_model(file)
    system = small_system(core, count, **sizes)
    choices = Choices(group=8 if core == "lut" else None)
    works = [prefill_workload(arch, 7)]
    if arch.causal:
        works.append(decode_workload(arch, 2, context=6))
    for work in works:
        mapping = map_on_system(work, system, choices)
        assert any(item.operator == "scores" and item.covered for item in mapping.operators)
        found = check_mapping(mapping)
        assert found.problems == ()
        assert found.observed == found.predicted == sum(item.schedule for item in mapping.operators)
        assert found.results >= sum(
            piece.times * piece.gemm.instances
            for item in mapping.operators
            for piece in item.pieces
        )


def test_what_is_too_long_or_on_no_core_is_not_run(tmp_path: Path) -> None:
    arch = load_model("gpt2")
    mapping = map_on_system(
        decode_workload(arch, 1, context=4), small_system("mac", 1, shared_kib=100_000), effort=0
    )
    with pytest.raises(InputError, match="gpt2: must take at most 20000000 cycles to be run, got"):
        check_mapping(mapping)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA), encoding="utf-8")
    ternary = small_system("lut", 1, shared_kib=4000)
    work = decode_workload(load_model(file), 1, context=4)
    off = map_on_system(work, ternary, Choices(kv_bits=8), effort=0)
    with pytest.raises(InputError, match="scores, values: run on no core"):
        check_mapping(off)
