"""Architectures from configurations: parameter counts, what is refused, and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rtl_gen.errors import InputError
from sw_driver.architecture import (
    FAMILIES,
    MODELS,
    LayerGroup,
    Mlp,
    load_architecture,
    parse_architecture,
    shipped_models,
)
from sw_driver.config_file import LARGEST, MAX_BYTES, ConfigError, parse_json, read_json

# As published with the checkpoints (sum of the tensors' sizes, tied ones once).
PUBLISHED = {
    "all-minilm-l12-v2": 33_360_000,
    "all-minilm-l6-v2": 22_713_216,
    "bert-base-uncased": 109_482_240,
    "bert-large-uncased": 335_141_888,
    "bitnet-b1.58-2b-4t": 2_412_820_480,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v3": 671_026_419_200,
    "gemma-2-27b": 27_227_128_320,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2b": 2_506_172_416,
    "gemma-3-1b": 999_885_952,
    "gemma-3-270m": 268_098_176,
    "gemma-7b": 8_537_680_896,
    "gpt2": 124_439_808,
    "gpt2-large": 774_030_080,
    "gpt2-medium": 354_823_168,
    "gpt2-xl": 1_557_611_200,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-2-7b": 6_738_415_616,
    "llama-3-70b": 70_553_706_496,
    "llama-3-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "opt-1.3b": 1_315_758_080,
    "opt-125m": 125_239_296,
    "opt-2.7b": 2_651_596_800,
    "opt-350m": 331_196_416,
    "opt-6.7b": 6_658_473_984,
    "phi-1.5": 1_418_270_720,
    "phi-2": 2_779_683_840,
    "phi-3-medium-4k": 13_960_238_080,
    "phi-3-mini-4k": 3_821_079_552,
    "phi-4": 14_659_507_200,
    "phi-4-mini": 3_836_021_760,
    "qwen2-0.5b": 494_032_768,
    "qwen2-1.5b": 1_543_714_304,
    "qwen2-72b": 72_706_203_648,
    "qwen2-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen3-0.6b": 596_049_920,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-8b": 8_190_735_360,
    "qwen3-coder-480b-a35b": 480_154_875_392,
    "tinyllama-1.1b": 1_100_048_384,
}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_parameter_count_is_the_published_one(name: str, parameters: int) -> None:
    assert load_architecture(name).parameters == parameters


@pytest.mark.parametrize(
    ("name", "layers", "hidden", "millions"),
    [
        ("gpt3-small", 12, 768, 125),
        ("gpt3-medium", 24, 1024, 350),
        ("gpt3-large", 24, 1536, 760),
        ("gpt3-xl", 24, 2048, 1300),
    ],
)
def test_gpt3_shapes_are_those_of_the_paper(
    name: str, layers: int, hidden: int, millions: int
) -> None:
    """Table 2.1 of arXiv 2005.14165 gives layers, widths and rounded sizes; no checkpoint."""
    arch = load_architecture(name)
    assert (arch.layers, arch.hidden, arch.positions) == (layers, hidden, 2048)
    matrices = layers * 12 * hidden**2
    vectors = layers * 13 * hidden + 2 * hidden
    assert arch.parameters == matrices + vectors + (50257 + 2048) * hidden
    assert arch.parameters == pytest.approx(millions * 1e6, rel=0.02)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gemma-3-4b", 4_300_079_472),
        ("gemma-3-12b", 12_187_325_040),
        ("gemma-3-27b", 27_432_406_640),
    ],
)
def test_text_part_of_a_multimodal_model(name: str, published: int) -> None:
    arch = load_architecture(name)
    assert arch.notes == ("the text part of a multimodal model: its other towers are not mapped",)
    # The rest of the published total: the SigLIP tower of 27 layers and the projector behind it.
    width, inner = 1152, 4304
    layer = 4 * width * (width + 1) + width * (inner + 1) + inner * (width + 1) + 4 * width
    tower = 3 * 14**2 * width + width + 64**2 * width + 27 * layer + 2 * width
    projector = width * arch.hidden + width
    assert arch.parameters + tower + projector == published


def test_text_part_is_required() -> None:
    data = {**shipped("gemma-3-4b"), "text_config": None}
    assert refused(data) == ["config.json: text_config: must be an object of fields, got null"]
    data["text_config"] = {"num_experts": 4}
    assert refused(data) == [
        "config.json: num_experts: is not supported for Gemma3ForConditionalGeneration, got 4"
    ]


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_model_loads(name: str) -> None:
    arch = load_architecture(name)
    assert arch.name == name
    assert arch.layers == sum(group.count for group in arch.layer_groups)
    assert arch.parameters > 0


def test_every_family_but_one_variant_is_shipped() -> None:
    families = {load_architecture(name).family for name in shipped_models()}
    assert set(FAMILIES) - families == {"BertForMaskedLM"}


def test_masked_bert_has_its_head() -> None:
    data = {**shipped("bert-base-uncased"), "architectures": ["BertForMaskedLM"]}
    # Less the pooler; a dense layer, a norm and a bias over the vocabulary more.
    assert parse(data).parameters == 109_514_298


def test_mixture_counts_active_parameters() -> None:
    arch = load_architecture("mixtral-8x7b")
    expert = 3 * 4096 * 14336
    assert arch.parameters - arch.active_parameters == 32 * 6 * expert


def test_alternating_windows() -> None:
    mlp = Mlp(gated=True, width=9216)
    assert load_architecture("gemma-2-2b").layer_groups == (
        LayerGroup(count=13, window=4096, mlp=mlp),
        LayerGroup(count=13, window=None, mlp=mlp),
    )
    groups = load_architecture("gemma-3-1b").layer_groups
    assert [(group.count, group.window) for group in groups] == [(22, 512), (4, None)]


def test_qwen_windows_begin_at_a_layer() -> None:
    data = {
        **shipped("qwen2-0.5b"),
        "use_sliding_window": True,
        "sliding_window": 1024,
        "max_window_layers": 20,
    }
    groups = parse(data).layer_groups
    assert [(group.count, group.window) for group in groups] == [(20, None), (4, 1024)]
    data["layer_types"] = ["sliding_attention"] + ["full_attention"] * 23
    groups = parse(data).layer_groups
    assert [(group.count, group.window) for group in groups] == [(1, 1024), (23, None)]


def test_head_dim_may_differ_from_hidden_by_heads() -> None:
    arch = load_architecture("qwen3-0.6b")
    assert (arch.hidden, arch.heads, arch.head_dim) == (1024, 16, 128)
    assert arch.q_width == 2048
    assert arch.kv_width == 1024


def test_sparse_layers_alternate_with_dense_ones() -> None:
    data = {**shipped("qwen3-30b-a3b"), "decoder_sparse_step": 2, "mlp_only_layers": [1, 3]}
    groups = parse(data).layer_groups
    assert {(group.count, group.mlp.experts) for group in groups} == {(26, 0), (22, 128)}
    assert next(group.mlp for group in groups if not group.mlp.experts).width == 6144


def shipped(name: str) -> dict[str, Any]:
    return read_json(MODELS / f"{name}.json")


def parse(data: dict[str, Any]) -> Any:
    return parse_architecture(data, "config.json", "model")


def refused(data: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(data)
    return str(caught.value).splitlines()


def test_every_problem_is_said_at_once() -> None:
    data = shipped("llama-2-7b")
    del data["vocab_size"]
    data |= {"hidden_size": "4096", "num_hidden_layers": 0, "tie_word_embeddings": 1}
    assert refused(data) == [
        'config.json: hidden_size: must be an integer, got "4096"',
        "config.json: num_hidden_layers: must lie in [1, 4096], got 0",
        "config.json: vocab_size: is required",
        "config.json: tie_word_embeddings: must be true or false, got 1",
    ]


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("llama-2-7b", {"num_local_experts": 8}, "num_local_experts: is not supported for Llama"),
        ("llama-2-7b", {"sliding_window": 4096}, "sliding_window: is not supported for Llama"),
        ("llama-2-7b", {"n_experts": 8}, "n_experts: is not supported for LlamaForCausalLM, got 8"),
        ("llama-2-7b", {"moe_layer_freq": 2}, "moe_layer_freq: is not supported for Llama"),
        ("llama-2-7b", {"use_sliding_window": True}, "use_sliding_window: is not supported for"),
        ("opt-125m", {"attention_window": [512]}, "attention_window: is not supported for OPT"),
        ("gpt2", {"num_experts_per_token": 2}, "num_experts_per_token: is not supported for GPT2"),
        ("qwen2-0.5b", {"ssm_d_state": 16}, "ssm_d_state: is not supported for Qwen2ForCausalLM"),
        ("llama-2-7b", {"kv_lora_rank": 512}, "kv_lora_rank: is not supported for Llama"),
        ("llama-2-7b", {"num_key_value_heads": 5}, "must divide num_attention_heads = 32, got 5"),
        ("llama-2-7b", {"num_attention_heads": 30}, "must be a multiple of num_attention_heads"),
        ("llama-2-7b", {"hidden_size": LARGEST}, "hidden_size: must lie in [1, 1048576]"),
        ("llama-2-7b", {"hidden_size": True}, "hidden_size: must be an integer, got true"),
        ("mistral-7b-v0.1", {"num_key_value_heads": None}, "num_key_value_heads: is required"),
        ("mistral-7b-v0.1", {"layer_types": ["full_attention"]}, "one entry a layer, 32, got 1"),
        (
            "mixtral-8x7b",
            {"num_experts_per_tok": 9},
            "must be at most num_local_experts = 8, got 9",
        ),
        ("mixtral-8x7b", {"n_shared_experts": 1}, "n_shared_experts: is not supported for Mixtral"),
        ("gemma-2-2b", {"sliding_window": None}, "sliding_window: is required"),
        ("gemma-2-2b", {"head_dim": None}, "head_dim: is required"),
        ("qwen2-7b", {"use_sliding_window": True}, "sliding_window: is required"),
        ("qwen3-30b-a3b", {"mlp_only_layers": [48]}, "mlp_only_layers: must hold layer numbers"),
        ("bert-base-uncased", {"is_decoder": True}, "is_decoder: is not supported for BertModel"),
        (
            "bert-base-uncased",
            {"position_embedding_type": "relative_key"},
            'position_embedding_type: must be absolute, got "relative_key"',
        ),
        ("phi-2", {"partial_rotary_factor": 1.5}, "must be a number above 0, at most 1, got 1.5"),
        (
            "gemma-3-1b",
            {"layer_types": ["chunked_attention"] * 26},
            'must be full_attention or sliding_attention, got "chunked_attention"',
        ),
    ],
)
def test_refused_by_name(name: str, change: dict[str, Any], text: str) -> None:
    assert any(text in line for line in refused({**shipped(name), **change}))


@pytest.mark.parametrize("value", [None, 0, False, [], {}])
def test_idle_fields_of_others_are_no_problem(value: Any) -> None:
    assert parse({**shipped("llama-2-7b"), "num_experts": value}).parameters == 6_738_415_616


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama-2-7b", {"max_window_layers": 28, "use_sliding_window": False}),
        ("qwen2-0.5b", {"max_window_layers": 21, "sliding_window": 4096}),
        ("mixtral-8x7b", {"router_aux_loss_coef": 0.02, "output_router_logits": False}),
        ("bert-base-uncased", {"chunk_size_feed_forward": 1, "classifier_dropout": None}),
        ("gemma-3-1b", {"_sliding_window_pattern": 6, "rope_local_base_freq": 10000}),
    ],
)
def test_fields_that_change_nothing_are_no_problem(name: str, change: dict[str, Any]) -> None:
    assert parse({**shipped(name), **change}) == parse(shipped(name))


def test_unknown_architecture_lists_the_supported_ones() -> None:
    (line,) = refused({"architectures": ["MambaForCausalLM"]})
    assert line.startswith("config.json: architectures: must be one of LlamaForCausalLM, ")
    assert line.endswith('got "MambaForCausalLM"')
    assert all(family in line for family in FAMILIES)
    (line,) = refused({"model_type": "mamba"})
    assert 'got "mamba"' in line
    (line,) = refused({})
    assert line.endswith("got neither")
    (line,) = refused({"architectures": "LlamaForCausalLM"})
    assert line == 'config.json: architectures: must be a list, got "LlamaForCausalLM"'


def test_model_type_stands_in_for_the_class() -> None:
    data = shipped("llama-2-7b")
    del data["architectures"]
    assert parse(data).family == "LlamaForCausalLM"


def test_missing_field_suggests_a_near_one() -> None:
    data = shipped("llama-2-7b")
    data["hidden_sise"] = data.pop("hidden_size")
    assert "config.json: hidden_size: is required (did you mean hidden_sise to be it?)" in (
        refused(data)
    )


def test_quantization_of_the_checkpoint_is_noted() -> None:
    data = {**shipped("llama-2-7b"), "quantization_config": {"bits": 4}}
    assert parse(data).notes == ("quantization_config is not used: widths come from the options",)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "is not JSON: expecting value at line 1 column 1"),
        (b"[1]", "(root): must be an object of fields, got a list"),
        (b'{"a": 1, "a": 2}', "a: must be given once"),
        (b'{"a": NaN}', "is not JSON: NaN is no JSON number"),
        (b'{"a": -Infinity}', "is not JSON: -Infinity is no JSON number"),
        (b'{"a": "\xff"}', "must be UTF-8 text, got byte 0xff"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON: "),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "is nested too deep"),
    ],
)
def test_hostile_json_is_refused(raw: bytes, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_json(raw, "config.json")
    assert str(caught.value).startswith(f"config.json: {text}")
    assert len(str(caught.value)) < 200


def test_large_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="must be at most 1024 KiB"):
        load_architecture(file)


def test_control_characters_do_not_reach_the_terminal() -> None:
    (line,) = refused({"architectures": ["\x1b[31mLlama"]})
    assert "\x1b" not in line


def test_model_by_name_path_and_folder(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(shipped("gpt2")))
    assert load_architecture(file).parameters == 124_439_808
    assert load_architecture(tmp_path).name == tmp_path.name
    assert load_architecture("GPT2").name == "gpt2"


def test_unknown_model_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got 'llama-2-7c'; did you mean llama-2-7b, "):
        load_architecture("llama-2-7c")
    with pytest.raises(InputError, match="shipped are all-minilm-l12-v2, "):
        load_architecture("zzz")
    with pytest.raises(ConfigError, match=r"none/config\.json: cannot be read, no such file"):
        load_architecture("none/config.json")
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read, no such file"):
        load_architecture(tmp_path)
