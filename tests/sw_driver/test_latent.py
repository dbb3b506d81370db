"""Latent attention and shared experts: parameters and work against the published formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hw.block import spec_from_dict
from rtl_gen.errors import InputError
from sw_driver.architecture import Latent, load_architecture, parse_architecture
from sw_driver.commands.map import map_model as map_command
from sw_driver.config_file import ConfigError, read_json
from sw_driver.mapper.core import Core, core_of
from sw_driver.mapper.many import evaluate_many
from sw_driver.mapper.mapping import Choices, map_workload
from sw_driver.mapper.report import map_model
from sw_driver.mapper.workload import Attention, Linear, Workload, decode_workload, prefill_workload

NAMES = ("deepseek-v2-lite", "deepseek-v2", "deepseek-v3")


def core(**more: Any) -> Core:
    settings: dict[str, Any] = {
        "block": "lut_core",
        "name": "c",
        "tile": {"m": 2, "n": 64, "k": 16},
        "weights": {"encoding": "unsigned", "max_bits": 4},
        "max_k": 16384,
    }
    return core_of(spec_from_dict({**settings, **more}))  # type: ignore[arg-type]


def attention_macs(work: Workload) -> int:
    """Of everything between the input norm and the residual addition."""
    names = ("q", "q_a", "q_b", "kv_a", "kv_b", "k_up", "v_up", "scores", "values", "o")
    return sum(item.macs for item in work.operators if item.name in names)


def parts(name: str) -> tuple[int, int, int, Latent]:
    arch = load_architecture(name)
    assert arch.latent is not None
    return arch.hidden, arch.heads, arch.layers, arch.latent


def projections(hidden: int, heads: int, part: Latent) -> int:
    """MACs a token of the projections that absorbed and expanded attention share."""
    qk = heads * (part.nope + part.rope)
    query = hidden * part.q_rank + part.q_rank * qk if part.q_rank else hidden * qk
    return query + hidden * (part.kv_rank + part.rope) + heads * part.value * hidden


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("context", "steps", "batch"), [(0, 1, 1), (511, 3, 2), (4095, 1, 7)])
def test_absorbed_decode_is_the_closed_formula(
    name: str, context: int, steps: int, batch: int
) -> None:
    hidden, heads, layers, part = parts(name)
    work = decode_workload(load_architecture(name), steps, context=context, batch=batch)
    seen = sum(context + step + 1 for step in range(steps))
    absorbed = heads * part.kv_rank * (part.nope + part.value)
    token = projections(hidden, heads, part) + absorbed
    pairs = heads * (part.kv_rank + part.rope + part.kv_rank)
    assert attention_macs(work) == layers * batch * (steps * token + seen * pairs)
    # Every query head of a sequence is a row beside the one latent.
    scores, values = (item for item in work.operators if isinstance(item, Attention))
    assert (scores.instances, scores.group) == (batch, heads)
    assert (scores.head_dim, values.head_dim) == (part.kv_rank + part.rope, part.kv_rank)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("context", "steps", "batch"), [(0, 1, 1), (511, 3, 2)])
def test_expanded_decode_is_the_closed_formula(
    name: str, context: int, steps: int, batch: int
) -> None:
    hidden, heads, layers, part = parts(name)
    arch = load_architecture(name)
    work = decode_workload(arch, steps, context=context, batch=batch, expanded=True)
    seen = sum(context + step + 1 for step in range(steps))
    token = projections(hidden, heads, part) + part.kv_rank * heads * (part.nope + part.value)
    pairs = heads * (part.nope + part.rope + part.value)
    assert attention_macs(work) == layers * batch * (steps * token + seen * pairs)


@pytest.mark.parametrize("expanded", [False, True])
def test_prefill_expands_the_latents_that_the_cache_holds(expanded: bool) -> None:
    hidden, heads, layers, part = parts("deepseek-v2-lite")
    arch = load_architecture("deepseek-v2-lite")
    work = prefill_workload(arch, 100, context=60, batch=3, expanded=expanded)
    pairs = sum(60 + token + 1 for token in range(100))
    again = 3 * (100 if expanded else 160)
    expected = 3 * 100 * projections(hidden, heads, part)
    expected += again * part.kv_rank * heads * (part.nope + part.value)
    expected += 3 * pairs * heads * (part.nope + part.rope + part.value)
    assert attention_macs(work) == layers * expected


def test_cache_is_what_the_paper_says() -> None:
    # DeepSeek-V2, table 1: (d_c + d_h^R)·l elements a token, 576 · 60.
    arch = load_architecture("deepseek-v2")
    one = map_workload(decode_workload(arch, 1, context=99), core(), Choices(kv_bits=8))
    # Codes and, for each latent, a scale of 16 bits and a zero point.
    assert one.cache_bytes == 60 * 100 * (576 * 8 + 16 + 8) // 8
    work = decode_workload(arch, 1, context=99, expanded=True)
    whole = map_workload(work, core(), Choices(kv_bits=8))
    keys, values = 128 * (192 * 8 + 24), 128 * (128 * 8 + 24)
    assert whole.cache_bytes == 60 * 100 * (keys + values) // 8
    (kv_a,) = [item for item in one.operators if item.name == "kv_a"]
    assert kv_a.output_bytes == 60 * (576 * 8 + 24) // 8
    # Not kept, it goes on at the width of activations.
    (kv_a,) = [item for item in whole.operators if item.name == "kv_a"]
    assert kv_a.output_bytes == 60 * 576
    (kv_b,) = [item for item in whole.operators if item.name == "kv_b"]
    assert kv_b.output_bytes == 60 * (keys + values) // 8


def test_absorbed_parameters_are_read_once() -> None:
    arch = load_architecture("deepseek-v3")
    absorbed = map_workload(decode_workload(arch, 1, context=9), core())
    expanded = map_workload(decode_workload(arch, 1, context=9, expanded=True), core())
    weights = {item.name: item.weight_bytes for item in absorbed.operators}
    (kv_b,) = [item for item in expanded.operators if item.name == "kv_b"]
    assert weights["k_up"] + weights["v_up"] == kv_b.weight_bytes
    assert absorbed.parameter_bytes == expanded.parameter_bytes
    # All but embedding, head, norms and biases is 4 bits and a scale a row.
    assert 0.5 < absorbed.parameter_bytes / arch.parameters < 0.52


def test_experts_shared_and_routed() -> None:
    arch = load_architecture("deepseek-v3")
    (dense, sparse) = arch.layer_groups
    assert (dense.count, dense.mlp.width, dense.mlp.experts) == (3, 18432, 0)
    assert (sparse.count, sparse.mlp.width, sparse.mlp.shared) == (58, 2048, 2048)
    expert = 3 * 7168 * 2048
    assert arch.parameters - arch.active_parameters == 58 * 248 * expert
    work = decode_workload(arch, 1, context=0, batch=4)
    shapes = {
        item.name: (item.runs, item.instances, item.m, item.n, item.k)
        for item in work.operators
        if isinstance(item, Linear)
    }
    assert shapes["gate"] == (3, 1, 4, 18432, 7168)
    assert shapes["shared down"] == (58, 1, 4, 7168, 2048)
    assert shapes["expert up"] == (58, 32, 1, 2048, 7168)
    assert shapes["router"] == (58, 1, 4, 256, 7168)
    activation = {item.name: item.elements for item in work.vector}["activation (silu)"]
    assert activation == 4 * (3 * 18432 + 58 * 9 * 2048)
    rotary = next(item.elements for item in work.vector if item.name == "rotary")
    assert rotary == 61 * 4 * (128 + 1) * 64


def test_multi_token_prediction_is_left_out_and_said_so() -> None:
    (note,) = load_architecture("deepseek-v3").notes
    assert note == "1 layer of multi-token prediction neither counted nor mapped"
    assert note in map_model("deepseek-v3", core(), decode=1).notes


def test_many_points_equal_single_mappings() -> None:
    cores = [
        core(),
        core(tile={"m": 3, "n": 48, "k": 20}, planes="parallel"),
        core(weights={"encoding": "ternary", "packing": "base3"}, tile={"m": 1, "n": 9, "k": 7}),
        core(block="mac_core", weights={"encoding": "twos_complement", "bits": 8}),
    ]
    v2, v3 = load_architecture("deepseek-v2-lite"), load_architecture("deepseek-v3")
    works = [
        decode_workload(v2, 2, context=700, batch=3),
        decode_workload(v3, 1, context=70),
        decode_workload(v2, 2, context=70, expanded=True),
        prefill_workload(v2, 77, context=11),
        prefill_workload(v3, 7, expanded=True),
    ]
    for choices in (Choices(), Choices(group=64, buffer_bytes=70_000, kv_bits=3)):
        many = evaluate_many(cores, works, choices)
        for i, one in enumerate(cores):
            for j, work in enumerate(works):
                single = map_workload(work, one, choices)
                assert many.cycles[i, j] == single.cycles
                assert many.bytes[i, j] == single.bytes
                assert many.seconds[i, j] == pytest.approx(single.seconds)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kv_lora_rank": None}, "kv_lora_rank: is required"),
        ({"num_experts_per_tok": 65}, "num_experts_per_tok: must be at most n_routed_experts = 64"),
        ({"num_key_value_heads": 8}, "num_key_value_heads: must be num_attention_heads = 16"),
        ({"first_k_dense_replace": -1}, r"first_k_dense_replace: must lie in \[0, 4096\], got -1"),
        ({"v_head_dim": "x"}, 'v_head_dim: must be an integer, got "x"'),
        ({"sliding_window": 128}, "sliding_window: is not supported for DeepseekV2ForCausalLM"),
    ],
)
def test_refused_by_name(root: Any, change: dict[str, Any], text: str) -> None:
    data = {**read_json(root / "sw_driver/models/deepseek-v2-lite.json"), **change}
    with pytest.raises(ConfigError, match=text):
        parse_architecture(data, "config.json", "m")


def test_command_expands_latents(root: Path) -> None:
    arguments = ["--core", str(root / "hw/configs/lut_core.yaml"), "--decode", "1", "--json"]
    names = []
    for more in ([], ["--expand-latents"]):
        result = CliRunner().invoke(map_command, ["deepseek-v2-lite", *arguments, *more])
        assert result.exit_code == 0, result.output
        operators = json.loads(result.output)["phases"][0]["operators"]
        names.append({item["name"] for item in operators})
    assert (names[0] - names[1], names[1] - names[0]) == ({"k_up", "v_up"}, {"kv_b"})
    result = CliRunner().invoke(map_command, ["gpt2", *arguments, "--expand-latents"])
    assert result.exit_code == 2
    assert "expanded: must not be asked of a model without latent attention" in result.output


def test_only_latents_are_expanded() -> None:
    with pytest.raises(InputError, match="expanded: must not be asked of a model without latent"):
        decode_workload(load_architecture("gpt2"), 1, context=1, expanded=True)
