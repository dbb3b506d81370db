"""GGUF files: formats against the `gguf` package, headers that skip, architectures, refusals."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest

from rtl_gen.errors import InputError
from sw_driver.checkpoint import Checkpoint, load_model
from sw_driver.checkpoint.ggml import GGML_TYPES
from sw_driver.config_file import ConfigError
from sw_driver.mapper.workload import Linear, decode_workload, prefill_workload
from sw_driver.text.bert import Bert

CODED = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("TQ1_0", "TQ2_0", "MXFP4"),
)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of float32 are the same, signs of zero included."""
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


def one_tensor(file: Path, raw: np.ndarray, kind: str) -> Checkpoint:
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tensor("x.weight", raw, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Checkpoint(file)


def reference(raw: np.ndarray, kind: str) -> np.ndarray:
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])


def test_types_are_those_of_the_package() -> None:
    for number, kind in GGML_TYPES.items():
        theirs = gguf.GGMLQuantizationType(number)
        assert (kind.name, (kind.block, kind.size)) == (theirs.name, gguf.GGML_QUANT_SIZES[theirs])
    assert {kind.name for kind in GGML_TYPES.values() if kind.storage.bits} == set(CODED)


@pytest.mark.parametrize("kind", CODED)
def test_dequantized_is_the_reference_bit_for_bit(
    tmp_path: Path, files: SimpleNamespace, kind: str
) -> None:
    raw = files.blocks(np.random.default_rng(7), kind, 37, 768)
    checkpoint = one_tensor(tmp_path / "x.gguf", raw, kind)
    tensor = checkpoint.tensors["x.weight"]
    assert tensor.shape == (37, 768)
    assert tensor.size == raw.size
    expected = reference(raw, kind)
    assert same_bits(checkpoint.floats("x.weight"), expected)
    assert same_bits(checkpoint.rows("x.weight", 5, 6), expected[5:6])
    assert same_bits(checkpoint.weights("x.weight", 30).dequantized(), expected[30:])
    for start, stop in ((3, 3), (-1, 2), (5, 38)):
        with pytest.raises(
            ConfigError, match=rf"rows must lie in \[0, 37\], got {start} to {stop}"
        ):
            checkpoint.rows("x.weight", start, stop)
    weights = checkpoint.weights("x.weight")
    # Every code of the format is met, and none beyond its width.
    low = -(2 ** (weights.bits - 1)) if weights.signed else 0
    codes = set(np.unique(weights.codes).tolist())
    if kind == "MXFP4":
        assert codes == {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12}
    elif tensor.storage.ternary:
        assert codes == {-1, 0, 1}
    else:
        assert codes == set(range(low, low + 2**weights.bits))
    # What is stored besides the codes is what the mapper charges.
    code_bits = {"TQ1_0": 1.625}.get(kind, tensor.storage.bits)
    charged = code_bits + tensor.storage.group_bits / tensor.storage.group
    assert charged == tensor.bits_per_weight


def test_large_tensors_are_read_in_pieces(
    tmp_path: Path, files: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = files.blocks(np.random.default_rng(3), "Q4_K", 23, 512)
    checkpoint = one_tensor(tmp_path / "x.gguf", raw, "Q4_K")
    whole = checkpoint.weights("x.weight")
    monkeypatch.setattr("sw_driver.checkpoint.decode.PIECE", 4 * 512)
    pieces = checkpoint.weights("x.weight")
    assert same_bits(pieces.dequantized(), whole.dequantized())
    assert pieces.two_level is not None
    assert whole.two_level is not None
    assert np.array_equal(pieces.two_level.offset_part, whole.two_level.offset_part)


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("Q8_0", 40),
        ("Q5_1", 27),
        ("Q5_0", 26),
        ("Q4_1", 20),
        ("Q4_0", 19),
        ("MXFP4", 16),
        ("TQ2_0", 1),
    ],
)
def test_real_weights_come_back(tmp_path: Path, kind: str, least: float) -> None:
    w, _ = Bert().weight(0, "down")
    raw = gguf.quants.quantize(w, gguf.GGMLQuantizationType[kind])
    checkpoint = one_tensor(tmp_path / "x.gguf", raw, kind)
    found = checkpoint.floats("x.weight")
    assert same_bits(found, reference(raw, kind))
    # They are the weights that were stored, to the signal-to-noise ratio of the format.
    noise = ((found - w).astype(np.float64) ** 2).sum()
    assert 10 * np.log10((w.astype(np.float64) ** 2).sum() / noise) > least


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_superblocks_keep_both_levels(tmp_path: Path, files: SimpleNamespace, kind: str) -> None:
    raw = files.blocks(np.random.default_rng(1), kind, 9, 512)
    weights = one_tensor(tmp_path / "x.gguf", raw, kind).weights("x.weight")
    level = weights.two_level
    assert level is not None
    assert level.factor.dtype == np.float16
    assert level.factor.shape == (9, 2)
    groups = 256 // weights.group
    factor = np.repeat(level.factor.astype(np.float64), groups, axis=1)
    assert np.array_equal(weights.scale.astype(np.float64), factor * level.part)
    if level.offset_factor is not None:
        least = np.repeat(level.offset_factor.astype(np.float64), groups, axis=1)
        assert weights.offset is not None
        assert np.array_equal(weights.offset.astype(np.float64), -(least * level.offset_part))
    assert (level.offset_factor is None) == (kind in ("Q3_K", "Q6_K"))


def test_floats_of_every_width(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.0, 3e4, 2.0**-14]], dtype=np.float32)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("f32", values)
    writer.add_tensor("f16", values.astype(np.float16))
    bf16 = gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16)
    writer.add_tensor("bf16", bf16, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = Checkpoint(tmp_path / "x.gguf")
    for name in ("f32", "f16"):
        assert same_bits(
            checkpoint.floats(name), values.astype(name.replace("f", "float")).astype("f4")
        )
    assert same_bits(checkpoint.floats("bf16"), reference(bf16, "BF16"))


@pytest.mark.parametrize(
    ("kind", "at", "text"),
    [
        ("Q4_0", 0, r"x\.weight: scales must be finite, row 3 has others"),
        ("Q4_K", 2, r"x\.weight: scales must be finite, row 3 has others"),
        ("MXFP4", 0, r"x\.weight: scales must be finite, row 3 has others"),
        ("TQ2_0", 0, r"x\.weight: codes must be 0, 1 or 2 in ternary blocks, got 3"),
    ],
)
def test_codes_that_a_format_has_not(
    tmp_path: Path, files: SimpleNamespace, kind: str, at: int, text: str
) -> None:
    raw = files.blocks(np.random.default_rng(1), kind, 5, 512)
    raw[3, at : at + 2] = (0xFF, 0xFF)
    checkpoint = one_tensor(tmp_path / "x.gguf", raw, kind)
    with pytest.raises(ConfigError, match=text):
        checkpoint.floats("x.weight")
    assert checkpoint.rows("x.weight", 0, 3).shape == (3, 512)


def test_codebooks_are_listed_and_not_read(tmp_path: Path) -> None:
    raw = np.zeros((4, 256 // 32 * 18), dtype=np.uint8)
    checkpoint = one_tensor(tmp_path / "x.gguf", raw, "IQ4_NL")
    assert checkpoint.tensors["x.weight"].storage.name == "IQ4_NL"
    with pytest.raises(ConfigError, match="dtype must be one of F64, F32, F16, BF16, got IQ4_NL"):
        checkpoint.floats("x.weight")


# Architectures. Shapes are written down here from the models' definitions.

BASE = {
    "block_count": 2,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "context_length": 128,
}
GQA = {**BASE, "attention.head_count_kv": 2}


def layers(parts: dict[str, tuple[int, ...]], **outside: tuple[int, ...]) -> dict[str, Any]:
    shapes = {f"{name}.weight": shape for name, shape in outside.items()}
    for layer in range(2):
        for name, shape in parts.items():
            ending = "" if name.endswith(".bias") else ".weight"
            shapes[f"blk.{layer}.{name}{ending}"] = shape
    return shapes


ATTENTION = {
    "attn_norm": (64,), "attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64),
    "attn_output": (64, 64), "ffn_norm": (64,),
}  # fmt: skip
GATED = {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}
TABLE = {"token_embd": (50, 64), "output_norm": (64,)}
QKV_BIAS = {"attn_q.bias": (64,), "attn_k.bias": (32,), "attn_v.bias": (32,)}
NORMS = {"attn_q_norm": (24,), "attn_k_norm": (24,)}
WIDE = {
    "attn_norm": (64,),
    "attn_q": (96, 64),
    "attn_k": (48, 64),
    "attn_v": (48, 64),
    "attn_output": (64, 96),
    "ffn_norm": (64,),
}
POST = {"post_attention_norm": (64,), "post_ffw_norm": (64,)}
BIASED = {
    "attn_norm": (64,),
    "attn_norm.bias": (64,),
    "attn_qkv": (192, 64),
    "attn_qkv.bias": (192,),
    "attn_output": (64, 64),
    "attn_output.bias": (64,),
    "ffn_up": (96, 64),
    "ffn_up.bias": (96,),
    "ffn_down": (64, 96),
    "ffn_down.bias": (64,),
}
EXPERTS = {
    "ffn_gate_inp": (6, 64), "ffn_gate_exps": (6, 24, 64), "ffn_up_exps": (6, 24, 64),
    "ffn_down_exps": (6, 64, 24),
}  # fmt: skip

MODELS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", "LlamaForCausalLM", GQA, layers({**ATTENTION, **GATED}, **TABLE)),
    "llama untied, biased": (
        "llama",
        "LlamaForCausalLM",
        GQA,
        layers(
            {**ATTENTION, **GATED, **QKV_BIAS, "attn_output.bias": (64,)},
            **TABLE,
            output=(50, 64),
        ),
    ),
    "mixtral": (
        "llama",
        "MixtralForCausalLM",
        {**GQA, "feed_forward_length": 24, "expert_count": 6, "expert_used_count": 2},
        layers({**ATTENTION, **EXPERTS}, **TABLE),
    ),
    "qwen2": (
        "qwen2",
        "Qwen2ForCausalLM",
        GQA,
        layers({**ATTENTION, **GATED, **QKV_BIAS}, **TABLE),
    ),
    "qwen3": (
        "qwen3",
        "Qwen3ForCausalLM",
        {**GQA, "attention.key_length": 24},
        layers({**WIDE, **NORMS, **GATED}, **TABLE),
    ),
    "qwen3moe": (
        "qwen3moe",
        "Qwen3MoeForCausalLM",
        {
            **GQA,
            "attention.key_length": 24,
            "expert_count": 6,
            "expert_used_count": 2,
            "expert_feed_forward_length": 24,
        },
        layers({**WIDE, **NORMS, **EXPERTS}, **TABLE),
    ),
    "gemma": (
        "gemma",
        "GemmaForCausalLM",
        {**GQA, "attention.key_length": 24},
        layers({**WIDE, **GATED}, **TABLE),
    ),
    "gemma2": (
        "gemma2",
        "Gemma2ForCausalLM",
        {**GQA, "attention.key_length": 24, "attention.sliding_window": 32},
        layers({**WIDE, **GATED, **POST}, **TABLE),
    ),
    "gemma3": (
        "gemma3",
        "Gemma3ForCausalLM",
        {**GQA, "attention.key_length": 24, "attention.sliding_window": 32},
        layers({**WIDE, **GATED, **POST, **NORMS}, **TABLE),
    ),
    "phi2": (
        "phi2",
        "PhiForCausalLM",
        {**BASE, "rope.dimension_count": 8},
        {
            **layers(BIASED, **TABLE, output=(50, 64)),
            "output.bias": (50,),
            "output_norm.bias": (64,),
        },
    ),
    "phi3": (
        "phi3",
        "Phi3ForCausalLM",
        GQA,
        layers(
            {
                "attn_norm": (64,),
                "attn_qkv": (128, 64),
                "attn_output": (64, 64),
                "ffn_norm": (64,),
                "ffn_up": (192, 64),
                "ffn_down": (64, 96),
            },
            **TABLE,
            output=(50, 64),
        ),
    ),
    "gpt2": (
        "gpt2",
        "GPT2LMHeadModel",
        BASE,
        {
            **layers(
                {**BIASED, "ffn_norm": (64,), "ffn_norm.bias": (64,)},
                **TABLE,
                position_embd=(128, 64),
            ),
            "output_norm.bias": (64,),
        },
    ),
    "bitnet": (
        "bitnet",
        "BitnetForCausalLM",
        GQA,
        layers({**ATTENTION, **GATED, "attn_sub_norm": (64,), "ffn_sub_norm": (96,)}, **TABLE),
    ),
    "bert": (
        "bert",
        "BertModel",
        BASE,
        {
            **layers(
                {
                    **{f"attn_{name}": (64, 64) for name in ("q", "k", "v", "output")},
                    **{f"attn_{name}.bias": (64,) for name in ("q", "k", "v", "output")},
                    "ffn_up": (96, 64),
                    "ffn_up.bias": (96,),
                    "ffn_down": (64, 96),
                    "ffn_down.bias": (64,),
                    **{f"{name}_norm": (64,) for name in ("attn_output", "layer_output")},
                    **{f"{name}_norm.bias": (64,) for name in ("attn_output", "layer_output")},
                },
                token_embd=(50, 64),
                position_embd=(128, 64),
                token_types=(2, 64),
                token_embd_norm=(64,),
            ),
            "token_embd_norm.bias": (64,),
        },
    ),
    "deepseek2": (
        "deepseek2",
        "DeepseekV3ForCausalLM",
        {
            **BASE,
            "attention.head_count_kv": 1,
            "attention.q_lora_rank": 20,
            "attention.kv_lora_rank": 32,
            "rope.dimension_count": 8,
            "attention.key_length": 40,
            "attention.key_length_mla": 24,
            "attention.value_length": 32,
            "attention.value_length_mla": 12,
            "leading_dense_block_count": 0,
            "expert_count": 6,
            "expert_used_count": 2,
            "expert_shared_count": 2,
            "expert_feed_forward_length": 24,
        },
        layers(
            {
                "attn_norm": (64,),
                "ffn_norm": (64,),
                "attn_q_a": (20, 64),
                "attn_q_a_norm": (20,),
                "attn_q_b": (96, 20),
                "attn_kv_a_mqa": (40, 64),
                "attn_kv_a_norm": (32,),
                "attn_k_b": (4, 32, 16),
                "attn_v_b": (4, 12, 32),
                "attn_output": (64, 48),
                **EXPERTS,
                "exp_probs_b.bias": (6,),
                "ffn_gate_shexp": (48, 64),
                "ffn_up_shexp": (48, 64),
                "ffn_down_shexp": (64, 48),
            },
            **TABLE,
            output=(50, 64),
        ),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_architecture_has_the_parameters_of_its_tensors(
    tmp_path: Path, files: SimpleNamespace, name: str
) -> None:
    kind, family, keys, shapes = MODELS[name]
    file = files.gguf(tmp_path / "model.gguf", kind, keys, shapes, "F16")
    checkpoint = Checkpoint(file)
    arch = checkpoint.architecture
    assert arch.family == family
    assert (
        arch.parameters
        == checkpoint.parameters
        == sum(int(np.prod(shape)) for shape in shapes.values())
    )
    # Every matrix that is multiplied with has its format.
    matrices = {
        tensor.role
        for tensor in arch.tensors
        if len(tensor.shape) == 2 and not tensor.role.endswith("norm")
    }
    assert {*arch.stored, "kv_b"} - {"k_up", "v_up"} >= matrices - {"positions", "token_types"}
    assert {storage.name for shares in arch.stored.values() for storage, _ in shares} == {"F16"}
    assert load_model(file) == arch
    assert load_model(tmp_path) == arch


def test_windows_heads_and_ranks_are_read(tmp_path: Path, files: SimpleNamespace) -> None:
    def arch(name: str) -> Any:
        kind, _, keys, shapes = MODELS[name]
        return Checkpoint(files.gguf(tmp_path / "m.gguf", kind, keys, shapes)).architecture

    assert [group.window for group in arch("gemma2").layer_groups] == [32, None]
    assert (arch("qwen3").head_dim, arch("qwen3").heads, arch("qwen3").kv_heads) == (24, 4, 2)
    assert arch("phi2").rotary == 8
    latent = arch("deepseek2").latent
    assert (latent.q_rank, latent.kv_rank, latent.nope, latent.rope, latent.value) == (
        *(20, 32, 16, 8, 12),
    )
    assert arch("llama").tied
    assert not arch("llama untied, biased").tied
    assert arch("bitnet").ternary


@pytest.mark.parametrize("split", [True, False])
def test_latents_whose_groups_lie_across(
    tmp_path: Path, files: SimpleNamespace, split: bool
) -> None:
    kind, _, keys, shapes = MODELS["deepseek2"]
    keys = {**keys, "attention.key_length_mla": 40}
    shapes = {**shapes}
    for layer in range(2):
        at = f"blk.{layer}"
        shapes[f"{at}.attn_q_b.weight"] = (160, 20)
        if split:
            shapes[f"{at}.attn_k_b.weight"] = (4, 32, 32)
        else:
            del shapes[f"{at}.attn_k_b.weight"], shapes[f"{at}.attn_v_b.weight"]
            shapes[f"{at}.attn_kv_b.weight"] = (176, 32)

    def formats(name: str) -> str:
        return "Q8_0" if any(part in name for part in ("k_b", "v_b", "kv_b")) else "F16"

    arch = Checkpoint(files.gguf(tmp_path / "m.gguf", kind, keys, shapes, formats)).architecture
    for work, note in (
        (decode_workload(arch, 1, context=3), "" if split else "k_up is stored within kv_b"),
        (prefill_workload(arch, 4), "kv_b is stored as k_up and v_up" if split else ""),
    ):
        found = [item for item in work.notes if "groups across its K" in item]
        assert [item[: len(note)] for item in found] == ([note] if note else [])
        stored = {
            item.role: item.storage.name
            for item in work.operators
            if isinstance(item, Linear) and item.storage is not None
        }
        absorbed = work.phase == "decode"
        assert stored.get("v_up") == ("Q8_0" if absorbed else None)
        assert stored.get("k_up") == ("Q8_0" if absorbed and split else None)
        assert stored.get("kv_b") == (None if absorbed or split else "Q8_0")


def test_vocabularies_are_skipped(tmp_path: Path, files: SimpleNamespace) -> None:
    shapes = files.llama_shapes()
    small = files.gguf(tmp_path / "a.gguf", "llama", files.llama_keys, shapes)
    large = files.gguf(tmp_path / "b.gguf", "llama", files.llama_keys, shapes, words=100_000)

    def peak(file: Path) -> int:
        Checkpoint(file)
        tracemalloc.start()
        try:
            Checkpoint(file)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert large.stat().st_size - small.stat().st_size > 1_500_000
    # A window of it and the table of tensors, whatever it has of words.
    assert peak(large) < peak(small) + (1 << 19)
    words = Checkpoint(large)._header.fields["tokenizer.ggml.tokens"]  # type: ignore[union-attr]
    assert words.length == 100_000  # type: ignore[union-attr]


def test_parts_of_a_split_file(tmp_path: Path, files: SimpleNamespace) -> None:
    shapes = list(files.llama_shapes().items())
    names = [f"m-{part:05}-of-00002.gguf" for part in (1, 2)]
    for part, name in enumerate(names):
        writer = gguf.GGUFWriter(tmp_path / name, "llama")
        if part == 0:
            for key, value in files.llama_keys.items():
                writer.add_uint32(f"llama.{key}", value)
        writer.add_uint16("split.no", part)
        writer.add_uint16("split.count", 2)
        for tensor, shape in shapes[part * 9 : part * 9 + 9 + 2 * part]:
            writer.add_tensor(tensor, np.ones(shape, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    checkpoint = Checkpoint(tmp_path / names[0])
    assert dict(shapes) == {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    assert checkpoint.architecture.layers == 2
    assert load_model(tmp_path).parameters == checkpoint.parameters
    (tmp_path / names[1]).unlink()
    with pytest.raises(InputError, match=r"m-00002-of-00002\.gguf: cannot be read, no such file"):
        Checkpoint(tmp_path / names[0])
    (tmp_path / names[0]).rename(tmp_path / "m.gguf")
    with pytest.raises(ConfigError, match=r"split\.count: its file must be named …-00001-of-00002"):
        Checkpoint(tmp_path / "m.gguf")


# Files by hand, to break them.


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def info(
    name: str | bytes = "a", sizes: tuple[int, ...] = (32,), kind: int = 2, offset: int = 0
) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def made(
    tmp_path: Path,
    *infos: bytes,
    fields: tuple[bytes, ...] = (),
    data: int = 64,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> Path:
    tensors, keys = counts or (len(infos), len(fields))
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join((*fields, *infos))
    file = tmp_path / "x.gguf"
    file.write_bytes(head + b"\0" * (-len(head) % 32) + b"\0" * data)
    return file


def field(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def test_a_file_by_hand_is_read(tmp_path: Path) -> None:
    file = made(
        tmp_path,
        info("a"),
        info("b", (32, 2), 2, 32),
        fields=(
            field("x", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 8, 1) + text("word")),
            field("y", 12, struct.pack("<d", 2.5)),
        ),
        data=96,
        version=2,
    )
    checkpoint = Checkpoint(file)
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {
        "a": (32,),
        "b": (2, 32),
    }


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"version": 1}, "version: must be one of 2, 3, got 1"),
        ({"version": 3 << 24}, r"version: .*, got 50331648 \(of a big-endian file\)"),
        (
            {"counts": (1 << 60, 0)},
            "tensor_count: must be at most 3 in 128 bytes, got 1152921504606",
        ),
        (
            {"counts": (0, 10**9)},
            "metadata_kv_count: must be at most 8 in 128 bytes, got 1000000000",
        ),
        ({"infos": [info(sizes=())]}, "a: must have 1 to 4 dimensions, got 0"),
        ({"infos": [info(sizes=(32,) * 5)]}, "a: must have 1 to 4 dimensions, got 5"),
        (
            {"infos": [info(sizes=(32, 0))]},
            r"a: dimensions must lie in \[1, 281474976710656\), got",
        ),
        ({"infos": [info(sizes=(1 << 40, 1 << 40))]}, "is cut off: its header tells of 68"),
        (
            {"infos": [info(sizes=(33,))]},
            "a: rows must be a multiple of 32 elements for Q4_0, got 33",
        ),
        ({"infos": [info(kind=4)]}, "a: type must be one of 0, 1, 2, 3, 6, .*, got 4"),
        ({"infos": [info(offset=8)]}, "a: offset must be a multiple of 32, got 8"),
        ({"infos": [info(offset=1 << 40)]}, "is cut off: its header tells of 10995116278"),
        ({"infos": [info(), info("b")]}, "b: must not overlap a"),
        ({"infos": [info(), info(offset=32)]}, "a: must be given once"),
        ({"infos": [info("\x1b[31m")]}, r"\?\[31m: must be a printable name"),
        ({"infos": [info("")]}, "must be a printable name of at most 512 letters"),
        (
            {"infos": [info(b"\xff")]},
            "name of a tensor at byte 32: must be UTF-8 text, got byte 0xff",
        ),
        (
            {"fields": [text("k" * 70_000)]},
            "key at byte 32: must be at most 65536 bytes, got 70000",
        ),
        ({"fields": [field("k", 13, b"")]}, "k: type must be 0 to 12, got 13"),
        ({"fields": [field("k", 0, b"1")] * 2}, "k: must be given once"),
        (
            {"fields": [field("k", 8, struct.pack("<Q", 1 << 62))]},
            "is cut off: 4611686018427387904",
        ),
        (
            {"fields": [field("k", 9, struct.pack("<IQ", 8, 1 << 40))]},
            "k: must have at most 9 items in what is left of the file, got 1099511627776",
        ),
        (
            {"fields": [field("k", 9, struct.pack("<IQ", 10, 1 << 61))]},
            "k: must have at most 9 items in what is left of the file, got 2305843009213693952",
        ),
        (
            {"fields": [field("k", 9, struct.pack("<IQ", 10, 10))]},
            "k: must have at most 9 items in what is left of the file, got 10",
        ),
        ({"fields": [field("k", 9, struct.pack("<IQ", 13, 1))]}, "k: type must be 0 to 12, got 13"),
        (
            {"fields": [field("k", 9, struct.pack("<IQ", 9, 1) * 6)]},
            "k: is nested too deep",
        ),
        (
            {"fields": [field("general.alignment", 4, struct.pack("<I", 24))]},
            "general.alignment: must be a power of two, got 24",
        ),
        (
            {"fields": [field("general.alignment", 8, text("x"))]},
            "general.alignment: must be a power of two, got 'x'",
        ),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, arguments: dict[str, Any], line: str) -> None:
    more = dict(arguments)
    fields = tuple(more.pop("fields", ()))
    file = made(tmp_path, *more.pop("infos", ()), fields=fields, **more)
    if not fields and "infos" not in arguments and "counts" in more:
        file.write_bytes(file.read_bytes()[:32].ljust(128, b"\0"))
    with pytest.raises(ConfigError, match=line) as caught:
        Checkpoint(file)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(f"{file}: ")


def test_tensors_that_share_a_byte_are_refused(tmp_path: Path) -> None:
    one = field("general.alignment", 4, struct.pack("<I", 1))
    for offset, good in ((18, True), (17, False)):
        file = made(tmp_path, info("a"), info("b", offset=offset), fields=(one,))
        if good:
            assert len(Checkpoint(file).tensors) == 2
        else:
            with pytest.raises(ConfigError, match="b: must not overlap a"):
                Checkpoint(file)


def test_texts_of_a_file_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = struct.pack("<IQ", 8, 3) + text("a") * 3
    file = made(tmp_path, fields=(field("k", 9, words), field("l", 9, words)))
    monkeypatch.setattr("sw_driver.checkpoint.gguf_file.MAX_TEXTS", 6)
    assert Checkpoint(file).tensors == {}
    monkeypatch.setattr("sw_driver.checkpoint.gguf_file.MAX_TEXTS", 5)
    line = "l: must not bring the texts and lists of the file above 5, got 3"
    with pytest.raises(ConfigError, match=line):
        Checkpoint(file)


def test_every_problem_of_the_table_is_said(tmp_path: Path) -> None:
    file = made(tmp_path, info("a", kind=99), info("b", (7,)), info("c", offset=3))
    with pytest.raises(ConfigError) as caught:
        Checkpoint(file)
    assert [line.partition("gguf: ")[2][:8] for line in str(caught.value).splitlines()] == [
        *("a: type ", "b: rows ", "c: offse"),
    ]


def test_what_is_no_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="must begin with GGUF and a header of 24 bytes"):
        Checkpoint(file)
    file.write_bytes(b"\0" * 100)
    with pytest.raises(ConfigError, match="must begin with GGUF"):
        Checkpoint(file)
    with pytest.raises(InputError, match="cannot be read, no such file"):
        Checkpoint(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            {"block_count": None, "attention.head_count": 5},
            ["llama.block_count: is required", "llama.embedding_length: must be a multiple of"],
        ),
        (
            {"attention.head_count_kv": [2, 1]},
            ["llama.attention.head_count_kv: must be an integer"],
        ),
        ({"feed_forward_length": 500}, ["blk.0.ffn_gate.weight: shape must be [500, 256] as the"]),
        ({"block_count": 3}, ["q: must be stored once for 3 layers, got 2 matrices"]),
        ({"expert_count": 4}, ["llama.expert_used_count: is required"]),
    ],
)
def test_metadata_that_does_not_fit(
    tmp_path: Path, files: SimpleNamespace, change: dict[str, Any], lines: list[str]
) -> None:
    keys = {
        key: value for key, value in {**files.llama_keys, **change}.items() if value is not None
    }
    file = files.gguf(tmp_path / "m.gguf", "llama", keys, files.llama_shapes())
    checkpoint = Checkpoint(file)
    with pytest.raises(ConfigError) as caught:
        checkpoint.architecture  # noqa: B018
    found = str(caught.value).splitlines()
    for line in lines:
        assert any(item.startswith(f"{file}: {line}") for item in found), found


def test_unknown_architecture(tmp_path: Path, files: SimpleNamespace) -> None:
    file = files.gguf(tmp_path / "m.gguf", "mamba", {}, {"a.weight": (2, 2)})
    with pytest.raises(ConfigError, match=r'general\.architecture: must be one of .*, got "mamba"'):
        load_model(file)
