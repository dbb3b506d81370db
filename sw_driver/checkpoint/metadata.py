"""The architecture that the metadata of a GGUF file tells of.

Its keys are translated to the fields of a ``config.json``, which is read as any other; errors name
the keys of the file. Source: the GGUF specification and the loader of `llama.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sw_driver.architecture import Architecture, parse_architecture
from sw_driver.checkpoint.gguf_file import GgufHeader, Skipped
from sw_driver.checkpoint.tensor import Region
from sw_driver.config_file import ConfigError, shown

# Fields of a config.json, and the keys of a file behind the name of its architecture.
_SHAPE = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
}
_HEAD_DIM = {"head_dim": "attention.key_length"}
_WINDOW = {"sliding_window": "attention.sliding_window"}
_EXPERTS = {
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
_GPT2 = {
    "n_embd": "embedding_length",
    "n_layer": "block_count",
    "n_head": "attention.head_count",
    "n_inner": "feed_forward_length",
    "n_positions": "context_length",
    "vocab_size": "vocab_size",
}
_DEEPSEEK = {
    "q_lora_rank": "attention.q_lora_rank",
    "kv_lora_rank": "attention.kv_lora_rank",
    "qk_rope_head_dim": "rope.dimension_count",
    "first_k_dense_replace": "leading_dense_block_count",
    "n_routed_experts": "expert_count",
    "n_shared_experts": "expert_shared_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}

_CLASSES: dict[str, tuple[str, dict[str, str]]] = {
    "llama": ("LlamaForCausalLM", {**_SHAPE, **_HEAD_DIM}),
    "qwen2": ("Qwen2ForCausalLM", _SHAPE),
    "qwen3": ("Qwen3ForCausalLM", {**_SHAPE, **_HEAD_DIM}),
    "qwen3moe": ("Qwen3MoeForCausalLM", {**_SHAPE, **_HEAD_DIM, **_EXPERTS}),
    "gemma": ("GemmaForCausalLM", {**_SHAPE, **_HEAD_DIM}),
    "gemma2": ("Gemma2ForCausalLM", {**_SHAPE, **_HEAD_DIM, **_WINDOW}),
    "gemma3": ("Gemma3ForCausalLM", {**_SHAPE, **_HEAD_DIM, **_WINDOW}),
    "phi2": ("PhiForCausalLM", _SHAPE),
    "phi3": ("Phi3ForCausalLM", {**_SHAPE, **_WINDOW}),
    "gpt2": ("GPT2LMHeadModel", _GPT2),
    "bitnet": ("BitnetForCausalLM", _SHAPE),
    "bitnet-b1.58": ("BitNetForCausalLM", _SHAPE),
    "bert": ("BertModel", _SHAPE),
    "deepseek2": ("DeepseekV2ForCausalLM", {**_SHAPE, **_DEEPSEEK}),
}


def gguf_architecture(
    header: GgufHeader, tensors: Mapping[str, Region], path: Path
) -> Architecture:
    """The architecture of a file; ``tensors`` are those of all its parts.

    Raises:
        ConfigError: it is not supported, or a key is missing or wrong; one line per problem.
    """
    file = str(path)
    kind = header.fields.get("general.architecture")
    if not isinstance(kind, str) or kind not in _CLASSES:
        rule = f"general.architecture: must be one of {', '.join(_CLASSES)}"
        raise ConfigError(file, [f"{rule}, got {_told(kind)}"])
    family, names = _CLASSES[kind]
    read = _Metadata(header, kind)
    data: dict[str, Any] = {"architectures": [family]}
    keys: dict[str, str] = {}
    for field, key in names.items():
        keys[field] = f"{kind}.{key}"
        value = read.get(key)
        if value is not None:
            data[field] = value
    _more(kind, data, keys, read, tensors)
    name = header.fields.get("general.name")
    label = (
        name if isinstance(name, str) and name.isprintable() and 0 < len(name) < 80 else path.stem
    )
    try:
        found = parse_architecture(data, file, label)
    except ConfigError as error:
        raise ConfigError(file, [_by_key(problem, keys) for problem in error.problems]) from None
    if family == "BertModel" and "cls.weight" not in tensors:
        return replace(found, pooler=False, biases=found.biases - {"pooler"})
    return found


class _Metadata:
    """The values of one architecture's keys."""

    def __init__(self, header: GgufHeader, kind: str):
        self.header, self.kind = header, kind

    def get(self, key: str) -> Any:
        """A value as a config.json would hold it, None if there is none."""
        value = self.header.fields.get(f"{self.kind}.{key}")
        if isinstance(value, Skipped):
            return [] if value.kind == 9 else {}
        if isinstance(value, tuple):
            # A value for each layer: one if they are alike.
            return value[0] if value and len(set(value)) == 1 else list(value)
        if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
            return int(value)
        return value


def _more(
    kind: str,
    data: dict[str, Any],
    keys: dict[str, str],
    read: _Metadata,
    tensors: Mapping[str, Region],
) -> None:
    """What is not one key of its own."""
    table = tensors.get("token_embd.weight")
    if table is not None and len(table.shape) == 2:
        # The table is what counts; a vocabulary may be shorter than it is.
        data["vocab_size"] = table.shape[0]
    elif "vocab_size" not in data:
        words = read.header.fields.get("tokenizer.ggml.tokens")
        if isinstance(words, Skipped):
            data["vocab_size"] = words.length
    if kind != "bert":
        data["tie_word_embeddings"] = "output.weight" not in tensors
    if kind == "llama":
        experts = read.get("expert_count")
        if experts:
            data["architectures"] = ["MixtralForCausalLM"]
            data["num_local_experts"] = experts
            data["num_experts_per_tok"] = read.get("expert_used_count")
            data.setdefault("num_key_value_heads", data.get("num_attention_heads"))
            keys["num_local_experts"] = "llama.expert_count"
            keys["num_experts_per_tok"] = "llama.expert_used_count"
        else:
            data["attention_bias"] = "blk.0.attn_q.bias" in tensors
    elif kind in ("qwen2", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "bitnet-b1.58"):
        data.setdefault("num_key_value_heads", data.get("num_attention_heads"))
    elif kind == "bert":
        table = tensors.get("token_types.weight")
        data["type_vocab_size"] = table.shape[0] if table is not None and table.shape else 0
    if kind == "phi2" or kind == "phi3":
        turned, heads = read.get("rope.dimension_count"), data.get("num_attention_heads")
        hidden = data.get("hidden_size")
        counts = [value for value in (turned, heads, hidden) if type(value) is int and value > 0]
        if len(counts) == 3 and counts[0] * counts[1] <= counts[2]:
            data["partial_rotary_factor"] = counts[0] * counts[1] / counts[2]
    if kind == "deepseek2":
        data["num_key_value_heads"] = data.get("num_attention_heads")
        wide = read.get("attention.key_length_mla")
        key = "attention.key_length" if wide is None else "attention.key_length_mla"
        wide, turned = read.get(key), data.get("qk_rope_head_dim")
        keys["qk_nope_head_dim"] = f"{kind}.{key}"
        if type(wide) is int and type(turned) is int:
            data["qk_nope_head_dim"] = wide - turned
        value = read.get("attention.value_length_mla")
        key = "attention.value_length" if value is None else "attention.value_length_mla"
        data["v_head_dim"], keys["v_head_dim"] = read.get(key), f"{kind}.{key}"
        corrected = any(name.endswith("exp_probs_b.bias") for name in tensors)
        if corrected:
            data["architectures"] = ["DeepseekV3ForCausalLM"]
            data["topk_method"] = "noaux_tc"


def _by_key(problem: str, keys: Mapping[str, str]) -> str:
    """A problem of a field, said of the key that it was read from."""
    field, colon, rule = problem.partition(": ")
    return f"{keys.get(field, field)}{colon}{rule}"


def _told(value: object) -> str:
    return "a list" if isinstance(value, Skipped) else shown(value)
