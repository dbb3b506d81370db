"""The float32 pass of every family, against numbers of the `transformers` library.

``forward/reference.py`` made the numbers of ``forward/golden.json`` out of the same weights.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rtl_gen.errors import InputError
from sw_driver.config_file import ConfigError
from sw_driver.forward import Decoder, KvCache, Transformer

HERE = Path(__file__).parent / "forward"
GOLDEN = json.loads((HERE / "golden.json").read_text())
CASES = {case["name"]: case for case in GOLDEN["cases"]}


def _reference() -> Any:
    spec = importlib.util.spec_from_file_location("reference", HERE / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = _reference()
TOKENS = REFERENCE.TOKENS


Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path, files: SimpleNamespace) -> Made:
    """Writes the checkpoint of a case, its configuration and tensors changed."""

    def write(name: str, tensors: dict[str, Any] | None = None, **changes: Any) -> Path:
        case = CASES[name]
        config = {**case["config"], **changes}
        config = {key: value for key, value in config.items() if value != "absent"}
        (tmp_path / "config.json").write_text(json.dumps(config))
        arrays = {key: REFERENCE.tensor(key, tuple(s)) for key, s in case["tensors"].items()}
        for key, value in (tensors or {}).items():
            arrays[key] = value
            if value is None:
                del arrays[key]
        files.safetensors(tmp_path / "model.safetensors", arrays)
        return tmp_path

    return write


def opened(path: Path) -> Transformer:
    model = Transformer(path)
    return Decoder(path) if model.architecture.causal else model


def passed(model: Transformer) -> list[np.ndarray]:
    """The inputs of all layers, and what the last norm gives."""
    states = [model.embed(TOKENS)]
    for layer in range(model.architecture.layers):
        states.append(model.layer(layer, states[-1]))
    return [*states[:-1], model.final(states[-1])]


def near(found: np.ndarray, wanted: list[float]) -> bool:
    return np.allclose(REFERENCE.picked(found), wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_hidden_states_are_those_of_the_library(name: str, made: Made) -> None:
    model, case = opened(made(name)), CASES[name]
    states = passed(model)
    # Of OPT-350m the library's last state is projected to the width of the embeddings.
    assert len(case["states"]) == len(states) - (name == "opt_post")
    for layer, (found, wanted) in enumerate(zip(states, case["states"], strict=False)):
        assert near(found, wanted), (layer, REFERENCE.picked(found), wanted)


@pytest.mark.parametrize("name", [name for name in CASES if "logits" in CASES[name]])
def test_logits_are_those_of_the_library_at_once_and_token_by_token(name: str, made: Made) -> None:
    model, case = Decoder(made(name)), CASES[name]
    assert near(model.logits(model.hidden(TOKENS)), case["logits"])
    if name == "phi3_long":
        return  # short inputs turn otherwise than long ones
    cache = KvCache()
    rows = []
    for part in (TOKENS[:5], TOKENS[5:6], TOKENS[6:]):
        x = model.embed(part, start=cache.length())
        for layer in range(model.architecture.layers):
            x = model.layer(layer, x, cache=cache)
        rows.append(model.logits(x))
    assert cache.length() == len(TOKENS)
    assert near(np.concatenate(rows), case["logits"])


def test_every_family_has_a_case() -> None:
    from sw_driver.architecture import FAMILIES

    told = {case["config"]["architectures"][0] for case in CASES.values()}
    # The same readers with other names, and one that the library does not have.
    others = {"BertForMaskedLM", "Gemma3ForConditionalGeneration", "BitnetForCausalLM"}
    assert told == set(FAMILIES) - others


@pytest.mark.parametrize("name", ["llama_bias", "mixtral", "bert", "gemma2", "opt"])
def test_inputs_side_by_side_see_nothing_of_each_other(name: str, made: Made) -> None:
    model = opened(made(name))
    parts = [TOKENS[:4], TOKENS[4:], [7]]
    x = model.embed_all(parts)
    for layer in range(model.architecture.layers):
        x = model.layer(layer, x, lengths=[len(part) for part in parts])
    alone = np.concatenate([model.hidden(part) for part in parts])
    assert np.allclose(x, alone, rtol=1e-4, atol=1e-5)
    assert not np.allclose(x, model.hidden([*TOKENS, 7]), atol=1e-3)


def test_nothing_need_be_kept(made: Made) -> None:
    path = made("deepseek_v3")
    kept, fresh = Decoder(path), Decoder(path, keep=0)
    wanted = kept.logits(kept.hidden(TOKENS))
    assert np.allclose(fresh.logits(fresh.hidden(TOKENS)), wanted, rtol=1e-5, atol=1e-5)
    assert fresh.tensors._kept == {}
    assert kept.tensors._kept


@pytest.mark.parametrize("name", [name for name in CASES if name != "bert"])
def test_projections_can_be_computed_elsewhere(name: str, made: Made) -> None:
    model = Decoder(made(name))
    x = model.embed(TOKENS)
    for layer in range(model.architecture.layers):
        called = []

        def project(which: str, value: np.ndarray, at: int = layer) -> np.ndarray:
            called.append(which)  # noqa: B023
            w, b = model.weight(at, which)
            assert w.shape == model.shape(at, which)
            return value @ w.T + (0 if b is None else b)

        found = model.layer(layer, x, project)
        assert np.allclose(found, model.layer(layer, x), rtol=1e-5, atol=1e-5)
        assert set(called) <= set(model.projections(layer))
        dense = [item for item in model.projections(layer) if not item.startswith("expert ")]
        assert set(dense) <= set(called)
        x = found


OLDER: dict[str, dict[str, Any]] = {
    "llama": {"rope_theta": 500.0},
    "llama3": {
        "rope_theta": 500.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "llama_linear": {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "phi3_long": {
        "rope_theta": 500.0,
        "original_max_position_embeddings": 8,
        "rope_scaling": {
            "type": "su",
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
            "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        },
    },
    "gemma3": {
        "rope_theta": 3000.0,
        "rope_local_base_freq": 500.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
}


@pytest.mark.parametrize("name", OLDER)
def test_older_configurations_say_the_same(name: str, made: Made) -> None:
    model = Decoder(made(name, rope_parameters="absent", **OLDER[name]))
    assert near(model.logits(model.hidden(TOKENS)), CASES[name]["logits"])


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("llama", {"hidden_act": "mish"}, 'hidden_act: must be one of gelu, .* got "mish"'),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
            'rope_parameters.rope_type: must be one of default, linear, .*, got "dynamic"',
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear"}},
            "rope_parameters.factor: is required",
        ),
        (
            "llama",
            {"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1, "x"]}},
            None,
        ),
        (
            "phi3_long",
            {
                "rope_parameters": "absent",
                "rope_scaling": {"type": "longrope", "short_factor": [1] * 6, "long_factor": [0]},
            },
            "rope_scaling.long_factor: must hold 6 numbers above 0, got 1",
        ),
        ("llama", {"rms_norm_eps": -1}, "rms_norm_eps: must be a number above 0"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar: must be above 0"),
        ("deepseek_v3", {"n_group": 4}, "n_group: must divide n_routed_experts = 6, got 4"),
        ("deepseek_v3", {"topk_group": 9}, "topk_group: must be at most n_group = 3, got 9"),
        ("deepseek_v2", {"topk_method": "best"}, "topk_method: must be one of greedy, group"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    name: str, changes: dict[str, Any], text: str | None, made: Made
) -> None:
    path = made(name, **changes)
    if text is None:
        Decoder(path)  # what newer fields say goes before what older ones say
        return
    with pytest.raises(ConfigError, match=text):
        Decoder(path)


def test_every_wrong_tensor_is_said(made: Made) -> None:
    path = made(
        "llama_bias",
        tensors={
            "model.layers.0.input_layernorm.weight": None,
            "model.layers.1.self_attn.q_proj.bias": np.zeros(5, np.float32),
            "model.norm.weight": np.zeros((48, 1), np.float32),
        },
    )
    with pytest.raises(ConfigError) as caught:
        Decoder(path)
    lines = str(caught.value).splitlines()
    assert f"{path}: layer 0: input_norm: is required" in lines
    assert f"{path}: model.layers.1.self_attn.q_proj.bias: shape must be [48], got [5]" in lines
    assert f"{path}: model.norm.weight: shape must be [48], got [48, 1]" in lines
    assert len(lines) == 3


def test_a_bias_too_many_is_said(made: Made) -> None:
    bias = {"model.layers.1.mlp.up_proj.bias": np.zeros(80, np.float32)}
    with pytest.raises(ConfigError, match=r"up_proj.bias: is no tensor of the architecture"):
        Decoder(made("llama", tensors=bias))


def test_tokens_are_checked(made: Made) -> None:
    model = Decoder(made("gpt2"))
    for tokens, text in (
        ([], "there must be one at least"),
        ([97], r"must lie in \[0, 96\], got 97"),
        ([-1], r"must lie in \[0, 96\], got -1"),
        ([1] * 65, "must be at most 64, the learned positions of .*, got 65"),
    ):
        with pytest.raises(InputError, match=f"tokens: {text}"):
            model.embed(tokens)


def test_an_encoder_is_no_decoder(made: Made) -> None:
    with pytest.raises(ConfigError, match="architectures: must be a decoder's, got 'BertModel'"):
        Decoder(made("bert"))


# GGUF files -----------------------------------------------------------------------------


def permuted(w: np.ndarray, heads: int) -> np.ndarray:
    """Rows of ``q`` and ``k`` as the converter of `llama.cpp` orders them for Llama."""
    halves = w.reshape(heads, 2, len(w) // heads // 2, *w.shape[1:])
    return halves.swapaxes(1, 2).reshape(w.shape)


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip


def gguf_file(path: Path, name: str, kind: str, keys: dict[str, Any]) -> Path:
    """A case as a GGUF file of floats, by what its converter does."""
    import gguf

    case = CASES[name]
    gemma = kind.startswith("gemma")
    sandwich = kind in ("gemma2", "gemma3")
    ffn = {"post_attention_layernorm": "post_attention_norm" if sandwich else "ffn_norm"}
    names = {**_GGUF_NAMES, **ffn, "pre_feedforward_layernorm": "ffn_norm"}
    writer = gguf.GGUFWriter(path, kind)
    sizes = {
        "block_count": 2,
        "embedding_length": 48,
        "feed_forward_length": 80,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "context_length": 64,
    }
    for key, value in {**sizes, **keys}.items():
        if isinstance(value, float):
            writer.add_float32(f"{kind}.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"{kind}.{key}", value)
        else:
            writer.add_uint32(f"{kind}.{key}", value)
    for key, shape in case["tensors"].items():
        array = REFERENCE.tensor(key, tuple(shape))
        if kind == "llama" and ("q_proj" in key or "k_proj" in key):
            array = permuted(array, 4 if "q_proj" in key else 2)
        if gemma and "norm" in key:
            array = array + np.float32(1)
        for known, other in names.items():
            key = key.replace(f"{known}.", f"{other}.")
        writer.add_tensor(key.replace("model.layers.", "blk."), np.ascontiguousarray(array))
    if name == "llama3":
        model_keys = case["config"]["rope_parameters"]
        writer.add_tensor("rope_freqs.weight", llama3_divisors(12, model_keys))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama3_divisors(width: int, told: dict[str, Any]) -> np.ndarray:
    """What the converter of `llama.cpp` writes for a Llama 3."""
    found = []
    old = told["original_max_position_embeddings"]
    for at in range(0, width, 2):
        wave = 2 * np.pi * told["rope_theta"] ** (at / width)
        if wave < old / told["high_freq_factor"]:
            found.append(1.0)
        elif wave > old / told["low_freq_factor"]:
            found.append(told["factor"])
        else:
            low, high = told["low_freq_factor"], told["high_freq_factor"]
            smooth = (old / wave - low) / (high - low)
            found.append(1 / ((1 - smooth) / told["factor"] + smooth))
    return np.array(found, dtype=np.float32)


_RMS = {"attention.layer_norm_rms_epsilon": 1e-6}


@pytest.mark.parametrize(
    ("name", "kind", "keys"),
    [
        ("llama", "llama", {"rope.freq_base": 500.0, **_RMS}),
        ("llama3", "llama", {"rope.freq_base": 500.0, **_RMS}),
        (
            "llama_linear",
            "llama",
            {
                "rope.freq_base": 500.0,
                "rope.scaling.type": "linear",
                "rope.scaling.factor": 4.0,
                "attention.key_length": 16,
                **_RMS,
            },
        ),
        (
            "llama_yarn",
            "llama",
            {
                "rope.freq_base": 500.0,
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 16,
                **_RMS,
            },
        ),
        ("qwen3", "qwen3", {"attention.key_length": 16, **_RMS}),
        ("gemma", "gemma", {"attention.key_length": 16, **_RMS}),
    ],
)
def test_a_gguf_file_gives_the_same(
    name: str, kind: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    if kind == "llama" and "rope.scaling.type" not in keys:
        keys = {**keys, "rope.dimension_count": 12}
    model = Decoder(gguf_file(tmp_path / "model.gguf", name, kind, keys))
    assert near(model.logits(model.hidden(TOKENS)), CASES[name]["logits"])


# What the converters of `llama.cpp` do to the tensors of other families.

_MIXTURE = {
    "block_sparse_moe.gate": "ffn_gate_inp", "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "self_attn.q_a_proj": "attn_q_a", "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
}  # fmt: skip
_OTHERS = {
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm", "transformer.h.": "blk.", ".ln_1": ".attn_norm",
    ".ln_2": ".ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
    "encoder.layer.": "blk.", "attention.self.query": "attn_q", "attention.self.key": "attn_k",
    "attention.self.value": "attn_v", "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm", "intermediate.dense": "ffn_up",
    "output.LayerNorm": "layer_output_norm", "output.dense": "ffn_down",
    "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up",
}  # fmt: skip
_EXPERT = re.compile(r"model\.layers\.(\d+)\..+\.experts\.(\d+)\.(?:(gate|up|down)_proj|w([123]))")
_W = {"1": "gate", "3": "up", "2": "down"}


def converted(name: str, kind: str) -> dict[str, np.ndarray]:
    """The tensors of a case by the names, in the shapes and orders of a GGUF file."""
    sandwich = kind in ("gemma2", "gemma3")
    after = "post_attention_norm" if sandwich else "ffn_norm"
    names = {
        **_MIXTURE,
        **_OTHERS,
        **_GGUF_NAMES,
        "post_attention_layernorm": after,
        "pre_feedforward_layernorm": "ffn_norm",
        "model.layers.": "blk.",
    }
    found: dict[str, np.ndarray] = {}
    stacks: dict[str, dict[int, np.ndarray]] = {}
    for key, shape in CASES[name]["tensors"].items():
        array = REFERENCE.tensor(key, tuple(shape))
        expert = _EXPERT.match(key)
        if expert is not None:
            part = expert[3] or _W[expert[4]]
            stack = stacks.setdefault(f"blk.{expert[1]}.ffn_{part}_exps.weight", {})
            stack[int(expert[2])] = array
            continue
        if "kv_b_proj" in key:
            heads = array.reshape(4, 12 + 10, 16)
            at = key.split(".")[2]
            found[f"blk.{at}.attn_k_b.weight"] = heads[:, :12].transpose(0, 2, 1)
            found[f"blk.{at}.attn_v_b.weight"] = heads[:, 12:]
            continue
        if kind == "llama" and ("q_proj" in key or "k_proj" in key):
            array = permuted(array, 4 if "q_proj" in key else 2)
        if sandwich and "norm" in key:
            array = array + np.float32(1)
        if kind == "gpt2" and array.ndim == 2 and ".h." in key:
            array = array.T
        if "pooler" in key or (key == "lm_head.weight" and kind == "gpt2"):
            continue
        for known in sorted(names, key=len, reverse=True):
            key = key.replace(known, names[known])
        found[key] = array
    for key, stack in stacks.items():
        found[key] = np.stack([stack[number] for number in range(len(stack))])
    return found


_EPS = {"attention.layer_norm_epsilon": 1e-5}
_GEMMA = {"attention.key_length": 16, "attention.sliding_window": 4, **_RMS}
_DEEPSEEK = {
    "attention.head_count_kv": 4, "attention.kv_lora_rank": 16, "rope.dimension_count": 8,
    "attention.key_length_mla": 20, "attention.value_length_mla": 10, "expert_count": 6,
    "expert_used_count": 2, "expert_feed_forward_length": 24, "leading_dense_block_count": 1,
    **_RMS,
}  # fmt: skip
OTHER_FILES: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("mixtral", "llama", {"rope.freq_base": 1e6, "expert_count": 4, "expert_used_count": 2,
                          "attention.layer_norm_rms_epsilon": 1e-5}, {}),
    ("qwen3_moe", "qwen3moe", {"attention.key_length": 16, "expert_count": 4,
                               "expert_used_count": 2, "expert_feed_forward_length": 24, **_RMS},
     {"mlp_only_layers": []}),
    # What is not in the file is fixed by `llama.cpp`.
    ("gemma2", "gemma2", {**_GEMMA, "attn_logit_softcapping": 50.0,
                          "final_logit_softcapping": 30.0}, {"query_pre_attn_scalar": 16}),
    ("gemma3", "gemma3", {**_GEMMA, "rope.freq_base": 3000.0, "rope.scaling.type": "linear",
                          "rope.scaling.factor": 8.0},
     {"query_pre_attn_scalar": 16, "layer_types": ["sliding_attention"] * 2,
      "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 3000.0},
                          "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
    ("phi3", "phi3", {"attention.sliding_window": 6, "rope.dimension_count": 12,
                      "attention.layer_norm_rms_epsilon": 1e-5}, {}),
    ("gpt2", "gpt2", {"feed_forward_length": 192, **_EPS}, {}),
    ("bert", "bert", {"attention.layer_norm_epsilon": 1e-12}, {}),
    ("deepseek_v2_lite", "deepseek2",
     {**_DEEPSEEK, "expert_shared_count": 2, "rope.freq_base": 500.0, "rope.scaling.type": "yarn",
      "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16,
      "rope.scaling.yarn_log_multiplier": 0.0707, "expert_gating_func": 1}, {}),
    ("deepseek_v3", "deepseek2",
     {**_DEEPSEEK, "expert_shared_count": 1, "attention.q_lora_rank": 24, "expert_gating_func": 2,
      "rope.freq_base": 500.0, "expert_weights_scale": 2.5, "expert_weights_norm": True},
     {"n_group": 1, "topk_group": 1,
      "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
)  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "keys", "changes"), OTHER_FILES)
def test_a_gguf_file_of_another_family_gives_the_same(
    name: str, kind: str, keys: dict[str, Any], changes: dict[str, Any], tmp_path: Path, made: Made
) -> None:
    import gguf

    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, kind)
    sizes: dict[str, Any] = {
        "block_count": 2,
        "embedding_length": 48,
        "feed_forward_length": 80,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "context_length": 64,
    }
    if kind in ("gpt2", "bert"):
        del sizes["attention.head_count_kv"]
    writers = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    for key, value in {**sizes, **keys}.items():
        add = writer.add_string if isinstance(value, str) else writers[type(value)]
        add(f"{kind}.{key}", value)
    tensors = converted(name, kind)
    dense = changes.get("mlp_only_layers") == []
    if dense:
        # The dense layer of the case has no experts in its file: give both files the first one's.
        tensors = {key: value for key, value in tensors.items() if not key.startswith("blk.1.")}
        tensors |= {
            key.replace("blk.0.", "blk.1."): value
            for key, value in tensors.items()
            if key.startswith("blk.0.")
        }
    for key, array in tensors.items():
        writer.add_tensor(key, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = opened(file)
    folder = opened(made(name, **({} if dense else changes)))
    states, wanted = passed(model), passed(folder)
    if dense:
        states, wanted = states[:2], wanted[:2]
    for layer, (a, b) in enumerate(zip(states, wanted, strict=True)):
        assert np.allclose(a, b, rtol=1e-4, atol=2e-5), layer
    if isinstance(model, Decoder) and isinstance(folder, Decoder) and not dense:
        x = model.hidden(TOKENS)
        assert np.allclose(model.logits(x), folder.logits(x), rtol=1e-4, atol=2e-5)


def test_a_masked_encoder_has_its_head_beside(made: Made) -> None:
    plain = CASES["bert"]["tensors"]
    tensors: dict[str, Any] = dict.fromkeys(plain)
    for key, shape in plain.items():
        if "pooler" not in key:
            tensors[f"bert.{key}"] = REFERENCE.tensor(key, tuple(shape))
    head = "cls.predictions"
    tensors |= {
        f"{head}.transform.dense.weight": np.zeros((48, 48), np.float32),
        f"{head}.transform.dense.bias": np.zeros(48, np.float32),
        f"{head}.transform.LayerNorm.weight": np.ones(48, np.float32),
        f"{head}.transform.LayerNorm.bias": np.zeros(48, np.float32),
        f"{head}.bias": np.zeros(97, np.float32),
        f"{head}.decoder.bias": np.zeros(97, np.float32),
    }
    model = opened(made("bert", tensors=tensors, architectures=["BertForMaskedLM"]))
    for found, wanted in zip(passed(model), CASES["bert"]["states"], strict=True):
        assert near(found, wanted)
