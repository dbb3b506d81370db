"""Makes ``golden.json``: what the `transformers` library says of small models of every family.

Weights are random numbers that follow from the tensors' names, so that a test can make the same
checkpoints without the library. Run it where `torch` and `transformers` are installed::

    python tests/sw_driver/forward/reference.py > tests/sw_driver/forward/golden.json
"""

from __future__ import annotations

import copy
import json
import sys
import zlib
from typing import Any

import numpy as np

TOKENS = [1, 5, 9, 33, 77, 2, 3, 96, 14, 15, 92, 6]

_SIZES = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
_PLAIN = {key: value for key, value in _SIZES.items() if key != "num_key_value_heads"}
_LATENT = {
    **_SIZES, "num_key_value_heads": 4, "kv_lora_rank": 16, "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8, "v_head_dim": 10, "n_routed_experts": 6, "num_experts_per_tok": 2,
    "moe_intermediate_size": 24, "first_k_dense_replace": 1,
}  # fmt: skip


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 500.0, **more}


_YARN = _rope("yarn", factor=4.0, original_max_position_embeddings=16)
_LLAMA3 = _rope(
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
_LONG = _rope(
    "longrope",
    short_factor=[1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    long_factor=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    original_max_position_embeddings=8,
)

# Name, class of the library, fields of the configuration.
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("llama", "LlamaForCausalLM", {**_SIZES, "rope_parameters": _rope("default")}),
    (
        "llama_bias",
        "LlamaForCausalLM",
        {**_SIZES, "attention_bias": True, "mlp_bias": True, "rope_parameters": _rope("default")},
    ),
    ("llama3", "LlamaForCausalLM", {**_SIZES, "rope_parameters": _LLAMA3}),
    (
        "llama_linear",
        "LlamaForCausalLM",
        {**_SIZES, "head_dim": 16, "rope_parameters": _rope("linear", factor=4.0)},
    ),
    (
        "llama_yarn",
        "LlamaForCausalLM",
        {**_SIZES, "tie_word_embeddings": True, "rope_parameters": _YARN},
    ),
    ("mistral", "MistralForCausalLM", {**_SIZES, "sliding_window": 5}),
    (
        "qwen2",
        "Qwen2ForCausalLM",
        {**_SIZES, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    ("qwen3", "Qwen3ForCausalLM", {**_SIZES, "head_dim": 16}),
    ("gemma", "GemmaForCausalLM", {**_SIZES, "head_dim": 16}),
    (
        "gemma2",
        "Gemma2ForCausalLM",
        {**_SIZES, "head_dim": 16, "sliding_window": 4, "query_pre_attn_scalar": 20},
    ),
    (
        "gemma3",
        "Gemma3ForCausalLM",
        {
            **_SIZES,
            "head_dim": 16,
            "sliding_window": 4,
            "query_pre_attn_scalar": 20,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": _rope("default"),
                "full_attention": {**_rope("linear", factor=8.0), "rope_theta": 3000.0},
            },
        },
    ),
    ("phi", "PhiForCausalLM", {**_SIZES, "partial_rotary_factor": 0.5, "qk_layernorm": True}),
    ("phi3", "Phi3ForCausalLM", {**_SIZES, "sliding_window": 6, "pad_token_id": 0}),
    (
        "phi3_long",
        "Phi3ForCausalLM",
        {
            **_SIZES,
            "pad_token_id": 0,
            "original_max_position_embeddings": 8,
            "rope_parameters": _LONG,
        },
    ),
    (
        "gpt2",
        "GPT2LMHeadModel",
        {"vocab_size": 97, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    ("opt", "OPTForCausalLM", {**_PLAIN, "ffn_dim": 80}),
    (
        "opt_post",
        "OPTForCausalLM",
        {**_PLAIN, "ffn_dim": 80, "do_layer_norm_before": False, "word_embed_proj_dim": 32},
    ),
    ("bert", "BertModel", _PLAIN),
    ("bitnet", "BitNetForCausalLM", _SIZES),
    (
        "mixtral",
        "MixtralForCausalLM",
        {**_SIZES, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    (
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        {
            **_SIZES,
            "head_dim": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
    ),
    (
        "deepseek_v2",
        "DeepseekV2ForCausalLM",
        {
            **_LATENT,
            "q_lora_rank": 24,
            "n_shared_experts": 2,
            "topk_method": "group_limited_greedy",
            "n_group": 3,
            "topk_group": 2,
            "routed_scaling_factor": 1.5,
            "norm_topk_prob": False,
        },
    ),
    (
        "deepseek_v2_lite",
        "DeepseekV2ForCausalLM",
        {
            **_LATENT,
            "q_lora_rank": None,
            "n_shared_experts": 2,
            "topk_method": "greedy",
            "norm_topk_prob": False,
            "rope_parameters": {**_YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
        },
    ),
    (
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        {
            **_LATENT,
            "q_lora_rank": 24,
            "n_shared_experts": 1,
            "n_group": 3,
            "topk_group": 2,
            "routed_scaling_factor": 2.5,
            "norm_topk_prob": True,
            "rope_parameters": {**_YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
        },
    ),
)


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of a name: norms' weights around one, the rest around zero."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.standard_normal(shape) * (0.1 if len(shape) == 1 else 0.15)
    stem = name.rpartition(".")[0].rpartition(".")[2].lower()
    norm = "norm" in stem or stem.startswith("ln_")
    return (values + (norm and name.endswith(".weight"))).astype(np.float32)


def picked(states: np.ndarray) -> list[float]:
    """Some numbers of ``(T, width)``: of the first, a middle and the last token."""
    few = np.concatenate([states[0, :2], states[len(states) // 2, :2], states[-1, -2:]])
    return [float(f"{value:.7g}") for value in few]


def _case(name: str, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    import torch
    import transformers

    # The library writes into what it is given.
    settings = {"bos_token_id": 1, "eos_token_id": 2, **copy.deepcopy(fields)}
    model_class = getattr(transformers, kind)
    config = model_class.config_class(**settings)
    config._attn_implementation = "eager"
    model = model_class(config).eval().float()
    # What a checkpoint holds has other names and shapes than what the library computes with.
    import tempfile
    from pathlib import Path

    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        file = Path(folder, "model.safetensors")
        shapes = {key: tuple(value.shape) for key, value in load_file(file).items()}
        made = {key: torch.from_numpy(tensor(key, shape)) for key, shape in shapes.items()}
        if kind == "BitNetForCausalLM":
            for key, value in made.items():
                if "_proj." in key:
                    scale = 1 / value.abs().mean().clamp(min=1e-5)
                    made[key] = (value * scale).round().clamp(-1, 1) / scale
        save_file(made, file, metadata={"format": "pt"})
        model = model_class.from_pretrained(folder, attn_implementation="eager").eval().float()
    with torch.no_grad():
        found = model(input_ids=torch.tensor([TOKENS]), output_hidden_states=True)
    states = [state[0].numpy() for state in found.hidden_states]
    # Inputs of the layers; the last one is behind the last norm, and may be projected.
    entries = [picked(state) for state in states if state.shape[1] == config.hidden_size]
    result: dict[str, Any] = {
        "name": name,
        "config": {**fields, "architectures": [kind]},
        "tensors": shapes,
        "states": entries,
    }
    if "logits" in found:
        result["logits"] = picked(found.logits[0].numpy())
    return result


def main() -> None:
    import torch
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    cases = [_case(*case) for case in CASES]
    json.dump({"versions": versions, "cases": cases}, sys.stdout, separators=(",", ":"))


if __name__ == "__main__":
    main()
