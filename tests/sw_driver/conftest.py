"""Checkpoints that tests write, of every kind that is read."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

Arrays = dict[str, np.ndarray]

_SAFETENSORS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
    "int32": "I32", "uint8": "U8", "float8_e4m3fn": "F8_E4M3",
}  # fmt: skip


def write_safetensors(file: Path, arrays: Arrays) -> Path:
    """A safetensors file by the format's definition."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": _SAFETENSORS[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,),
    "MXFP4": (),
}  # fmt: skip
"""Where the float16 numbers of a block lie."""


def random_blocks(rng: np.random.Generator, kind: str, rows: int, width: int) -> np.ndarray:
    """Rows of blocks of every code, every part of a scale, and scales of many sizes."""
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    made = rng.integers(0, 256, (rows * width // block, size), dtype=np.uint8)
    for at in HALVES[kind]:
        scales = rng.standard_normal((len(made), 1)) * 2.0 ** rng.integers(-24, 8, (len(made), 1))
        made[:, at : at + 2] = scales.astype(np.float16).view(np.uint8)
    if kind == "TQ2_0":
        # Fields of 0, 1 and 2.
        fields = rng.integers(0, 3, (4, len(made), 64), dtype=np.uint8)
        made[:, :64] = fields[0] | fields[1] << 2 | fields[2] << 4 | fields[3] << 6
    if kind == "MXFP4":
        made[:, 0] %= 253
    return made.reshape(rows, -1)


def tensors_of_llama(
    hidden: int = 256, inner: int = 512, layers: int = 2, kv: int = 128, vocab: int = 320
) -> dict[str, tuple[int, ...]]:
    """Shapes of a small Llama by the names of GGUF files; the head is tied."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocab, hidden),
        "output_norm.weight": (hidden,),
    }
    for layer in range(layers):
        at = f"blk.{layer}"
        shapes |= {
            f"{at}.attn_q.weight": (hidden, hidden),
            f"{at}.attn_k.weight": (kv, hidden),
            f"{at}.attn_v.weight": (kv, hidden),
            f"{at}.attn_output.weight": (hidden, hidden),
            f"{at}.ffn_gate.weight": (inner, hidden),
            f"{at}.ffn_up.weight": (inner, hidden),
            f"{at}.ffn_down.weight": (hidden, inner),
            f"{at}.attn_norm.weight": (hidden,),
            f"{at}.ffn_norm.weight": (hidden,),
        }
    return shapes


LLAMA_KEYS = {
    "block_count": 2,
    "embedding_length": 256,
    "feed_forward_length": 512,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "context_length": 1024,
    "rope.dimension_count": 64,
}


def write_gguf(
    file: Path,
    kind: str,
    keys: dict[str, Any],
    shapes: dict[str, tuple[int, ...]],
    formats: Callable[[str], str] | str = "F32",
    *,
    words: int = 0,
) -> Path:
    """A GGUF file by the `gguf` package; vectors are F32, matrices as ``formats`` says."""
    import gguf

    rng = np.random.default_rng(len(shapes))
    writer = gguf.GGUFWriter(file, kind)
    for key, value in keys.items():
        name = f"{kind}.{key}"
        if isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_uint32(name, value)
    if words:
        writer.add_array("tokenizer.ggml.tokens", [f"<{number}>" for number in range(words)])
        writer.add_array("tokenizer.ggml.scores", [0.5] * words)
    for name, shape in shapes.items():
        form = formats if isinstance(formats, str) else formats(name)
        if len(shape) == 1 or form == "F32":
            writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32))
        elif form == "F16":
            writer.add_tensor(name, rng.standard_normal(shape).astype(np.float16))
        else:
            rows = int(np.prod(shape[:-1]))
            raw = random_blocks(rng, form, rows, shape[-1]).reshape(*shape[:-1], -1)
            writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType[form])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def packed_stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes ``(K, N)`` as words ``(K·bits/32, N)``: of every column one long binary number."""
    words = np.empty((len(codes) * bits // 32, codes.shape[1]), dtype=np.uint32)
    for column in range(codes.shape[1]):
        number = sum(int(code) << (bits * at) for at, code in enumerate(codes[:, column]))
        for at in range(len(words)):
            words[at, column] = number >> (32 * at) & 0xFFFFFFFF
    return words.view(np.int32)


def packed_awq(codes: np.ndarray) -> np.ndarray:
    """Codes ``(K, N)`` as words ``(K, N/8)``: columns 0, 2, 4, 6, 1, 3, 5, 7 from the lowest."""
    words = np.zeros((len(codes), codes.shape[1] // 8), dtype=np.uint32)
    for nibble, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
        words |= codes[:, column::8].astype(np.uint32) << np.uint32(4 * nibble)
    return words.view(np.int32)


def packed_trits(codes: np.ndarray) -> np.ndarray:
    """{−1, 0, +1} ``(N, K)`` as bytes ``(N/4, K)``: a field for each quarter of the rows."""
    fields = (codes + 1).astype(np.uint8).reshape(4, len(codes) // 4, -1)
    return fields[0] | fields[1] << 2 | fields[2] << 4 | fields[3] << 6


@pytest.fixture(scope="session")
def files() -> SimpleNamespace:
    """The writers above."""
    return SimpleNamespace(
        safetensors=write_safetensors,
        gguf=write_gguf,
        blocks=random_blocks,
        halves=HALVES,
        llama_shapes=tensors_of_llama,
        llama_keys=LLAMA_KEYS,
        stream=packed_stream,
        awq=packed_awq,
        trits=packed_trits,
    )
