"""Damaged and hostile checkpoints: the project's own error or a checkpoint, in bounded memory."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hw.block import spec_from_dict
from rtl_gen.errors import InputError
from sw_driver.checkpoint import Checkpoint
from sw_driver.checkpoint.inspect_report import inspect_checkpoint
from sw_driver.mapper.core import Core, core_of
from sw_driver.mapper.mapping import Choices, map_workload
from sw_driver.mapper.workload import decode_workload

ROUNDS = 100
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def core() -> Core:
    return core_of(
        spec_from_dict(  # type: ignore[arg-type]
            {
                "block": "lut_core",
                "name": "c",
                "tile": {"m": 2, "n": 64, "k": 16},
                "weights": {"encoding": "unsigned", "max_bits": 8},
                "max_k": 16384,
            }
        )
    )


# Valid checkpoints of every kind, small enough to be damaged often.

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40,
    "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip
SHAPES = {
    "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64), "mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64),
    "mlp.down_proj": (64, 96),
}  # fmt: skip


def tensors(files: SimpleNamespace, method: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    found: dict[str, np.ndarray] = {
        "model.embed_tokens.weight": rng.standard_normal((40, 64)).astype(ml_dtypes.bfloat16),
        "model.norm.weight": np.ones(64, dtype=np.float16),
    }
    for name, (n, k) in SHAPES.items():
        at = f"model.layers.0.{name}"
        codes, zeros = rng.integers(0, 16, (k, n)), rng.integers(0, 16, (k // 32, n))
        scales = np.ones((k // 32, n), dtype=np.float16)
        if method == "gptq":
            found |= {
                f"{at}.qweight": files.stream(codes, 4),
                f"{at}.qzeros": np.ascontiguousarray(files.stream(zeros.T, 4).T),
                f"{at}.scales": scales,
                f"{at}.g_idx": rng.permutation(np.arange(k) // 32).astype(np.int32),
            }
        elif method == "awq":
            found |= {
                f"{at}.qweight": files.awq(codes),
                f"{at}.qzeros": files.awq(zeros),
                f"{at}.scales": scales,
            }
        elif method == "bitnet":
            found[f"{at}.weight"] = files.trits(codes.T % 3 - 1)
            found[f"{at}.weight_scale"] = np.ones(1, dtype=ml_dtypes.bfloat16)
        elif method == "fp8":
            found[f"{at}.weight"] = (codes.T / 8).astype(ml_dtypes.float8_e4m3fn)
            found[f"{at}.weight_scale_inv"] = np.ones((1, 1), dtype=np.float32)
        else:
            found[f"{at}.weight"] = rng.standard_normal((n, k)).astype(np.float16)
    return found


SETTINGS: dict[str, dict[str, Any] | None] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"},
    "bitnet": {"quant_method": "bitnet", "linear_class": "autobitlinear"},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "shards": None,
}
FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ2_0")
KINDS = (*SETTINGS, "gguf", "split")


def valid(folder: Path, files: SimpleNamespace, kind: str) -> Path:
    """A checkpoint in a folder; what to open of it."""
    folder.mkdir()
    if kind in ("gguf", "split"):
        shapes = files.llama_shapes(inner=256, layers=1, vocab=8)

        def formats(name: str) -> str:
            return FORMATS[sum(name.encode()) % len(FORMATS)]

        keys = {**files.llama_keys, "feed_forward_length": 256, "block_count": 1}
        if kind == "gguf":
            return Path(files.gguf(folder / "m.gguf", "llama", keys, shapes, formats, words=20))
        parts = [dict(list(shapes.items())[:6]), dict(list(shapes.items())[6:])]
        for number, part in enumerate(parts):
            file = folder / f"m-{number + 1:05}-of-00002.gguf"
            files.gguf(file, "llama", keys if number == 0 else {}, part, formats)
            raw = bytearray(file.read_bytes())
            # One key more: split.count.
            count = struct.unpack_from("<Q", raw, 16)[0]
            struct.pack_into("<Q", raw, 16, count + 1)
            key = struct.pack("<Q", 11) + b"split.count" + struct.pack("<IH", 2, 2)
            alignment = 32 - len(key) % 32
            pad = struct.pack("<Q", 1) + b"p" + struct.pack("<IIQ", 9, 0, 0)
            fill = alignment - len(pad) if alignment >= len(pad) else alignment + 32 - len(pad)
            struct.pack_into("<Q", raw, 16, count + 2)
            pad = struct.pack("<Q", 1) + b"p" + struct.pack("<IIQ", 9, 0, fill) + b"\0" * fill
            file.write_bytes(bytes(raw[:24]) + key + pad + bytes(raw[24:]))
        return folder
    told = SETTINGS[kind]
    config = LLAMA if told is None else {**LLAMA, "quantization_config": told}
    (folder / "config.json").write_text(json.dumps(config))
    arrays = tensors(files, kind)
    if kind != "shards":
        files.safetensors(folder / "model.safetensors", arrays)
        return folder
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    listed = {}
    for number, name in enumerate(names):
        part = dict(list(arrays.items())[number::2])
        files.safetensors(folder / name, part)
        listed |= dict.fromkeys(part, name)
    (folder / INDEX).write_text(json.dumps({"weight_map": listed}))
    return folder


def damaged(raw: bytes, dice: random.Random) -> bytes:
    """A file with one to three places changed, most of them where it tells of itself."""
    data = bytearray(raw)
    for _ in range(dice.randint(1, 3)):
        reach = len(data) if dice.random() < 0.2 else min(len(data), 3000)
        at = dice.randrange(max(1, reach))
        choice = dice.randrange(8)
        if choice == 0:
            data[at : at + 1] = bytes([dice.randrange(256)])
        elif choice == 1:
            width = dice.choice((1, 4, 8))
            value = dice.choice((0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10**9, len(raw)))
            data[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
        elif choice == 2:
            del data[at:]
        elif choice == 3:
            del data[at : at + dice.randint(1, 40)]
        elif choice == 4:
            data[at:at] = data[at : at + dice.randint(1, 200)]
        elif choice == 5:
            data[at:at] = dice.randbytes(dice.randint(1, 20))
        elif choice == 6:
            # A digit of a text becomes a number beside it, or a large one.
            digits = [i for i, byte in enumerate(data[:3000]) if 48 <= byte <= 57]
            if digits:
                place = dice.choice(digits)
                data[place : place + 1] = dice.choice(
                    (b"0", b"7", b"99999999999999", b"-1", b'"x"')
                )
        else:
            swap = dice.choice((b"F16", b"F64", b"I32", b"U8", b"BF16", b"weight", b"scales"))
            place = data.find(dice.choice((b"F16", b"I32", b"BF16", b"U8", b"weight", b"scales")))
            if place >= 0:
                data[place : place + len(swap)] = swap
    return bytes(data)


def exercise(path: Path, core: Core) -> str:
    """Everything that is done with a checkpoint; what was refused, "" for nothing."""
    try:
        checkpoint = Checkpoint(path)
        str(inspect_checkpoint(path))
        json.loads(inspect_checkpoint(path, every=True).json())
    except InputError as error:
        return str(error)
    said = ""
    for name, tensor in checkpoint.tensors.items():
        try:
            if tensor.storage.bits:
                weights = checkpoint.weights(name)
                assert weights.dequantized().shape == weights.codes.shape
            else:
                checkpoint.floats(name)
        except InputError as error:
            said += f"{error}\n"
    try:
        arch = checkpoint.architecture
        map_workload(decode_workload(arch, 1, context=3), core)
        map_workload(decode_workload(arch, 1, context=3), core, Choices(weight_bits=2))
    except InputError as error:
        said += str(error)
    return said


def each(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for file in sorted(folder.iterdir()):
        yield file, file.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_or_harmless(
    tmp_path: Path, files: SimpleNamespace, core: Core, kind: str
) -> None:
    path = valid(tmp_path / "x", files, kind)
    path = sorted(path.iterdir())[0] if kind == "split" else path
    assert exercise(path, core) == ""
    dice = random.Random(KINDS.index(kind))
    whole = dict(each(tmp_path / "x"))
    refused = 0
    for _ in range(ROUNDS):
        file = dice.choice(list(whole))
        file.write_bytes(damaged(whole[file], dice))
        said = exercise(path, core)
        refused += bool(said)
        for line in said.splitlines():
            assert len(line) < 2000
            assert line.isprintable()
        file.write_bytes(whole[file])
    # Damage goes unseen where it lies in the data, or changes nothing that is read.
    assert ROUNDS // 4 < refused < ROUNDS


def peak(act: Callable[[], object]) -> int:
    """Bytes that an act takes at once, whether it refuses or not."""
    tracemalloc.start()
    try:
        act()
    except InputError:
        pass
    finally:
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return size


@pytest.mark.parametrize("kind", ["gguf", "gptq", "shards"])
def test_headers_take_no_more_than_their_files(
    tmp_path: Path, files: SimpleNamespace, kind: str
) -> None:
    path = valid(tmp_path / "x", files, kind)
    dice = random.Random(7)
    whole = dict(each(tmp_path / "x"))
    bound = (1 << 20) + 8 * sum(len(raw) for raw in whole.values())
    for _ in range(40):
        file = dice.choice(list(whole))
        file.write_bytes(damaged(whole[file], dice))
        assert peak(lambda: Checkpoint(path)) < bound
        file.write_bytes(whole[file])


HUGE = (2**31, 2**40, 2**63 - 1, 2**64 - 1)


def test_lengths_of_any_size_take_no_memory(tmp_path: Path, files: SimpleNamespace) -> None:
    """Every eight bytes of a header, taken for a length, become a huge one."""
    whole = valid(tmp_path / "x", files, "gguf").read_bytes()
    file = tmp_path / "h.gguf"
    # To the end of the table of tensors; counts and lengths lie at any byte.
    end = whole.index(b"blk.0.ffn_down.weight") + 64
    for at in range(4, end, 11):
        for value in HUGE:
            file.write_bytes(whole[:at] + struct.pack("<Q", value) + whole[at + 8 :])
            with contextlib.suppress(InputError):
                Checkpoint(file)
    for at in (8, 16, 24):
        for value in HUGE:
            file.write_bytes(whole[:at] + struct.pack("<Q", value) + whole[at + 8 :])
            assert peak(lambda: Checkpoint(file)) < 1 << 20


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 1_000_000,
        b'{"a":' * 300_000,
        b'{"x":[' + b"0," * 300_000 + b"0]}",
        b'{"x":{"dtype":"F32","shape":[' + b"1," * 300_000 + b'1],"data_offsets":[0,4]}}',
        b"{" + b",".join(b'"%d":0' % i for i in range(30_000)) + b"}",
        b"{" + b",".join([b'"x":0'] * 100_000) + b"}",
        b'{"x":' + b"9" * 1_000_000 + b"}",
        b'{"x":"' + b"\\u0001" * 500_000 + b'"}',
    ],
    ids=["lists", "objects", "numbers", "shape", "names", "repeated", "digits", "text"],
)
def test_headers_of_nonsense(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(InputError) as caught:
        Checkpoint(file)
    assert len(str(caught.value)) < 25_000
    assert peak(lambda: Checkpoint(file)) < (1 << 20) + 64 * len(text)
