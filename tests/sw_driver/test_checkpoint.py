"""Folders of safetensors, models mapped as they are stored, and reports of what a file holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner

from hw.block import spec_from_dict
from rtl_gen.errors import InputError
from sw_driver.checkpoint import Checkpoint, load_model
from sw_driver.checkpoint.inspect_report import inspect_checkpoint
from sw_driver.checkpoint.roles import role_of
from sw_driver.commands.inspect import inspect
from sw_driver.commands.map import map_model
from sw_driver.config_file import ConfigError
from sw_driver.mapper.core import Core, core_of
from sw_driver.mapper.many import evaluate_many
from sw_driver.mapper.mapping import Choices, Mapping, OperatorCost, map_workload, takes
from sw_driver.mapper.workload import decode_workload, prefill_workload
from sw_driver.text.bert import model_folder

INDEX = "model.safetensors.index.json"


def core(**more: Any) -> Core:
    settings: dict[str, Any] = {
        "block": "lut_core",
        "name": "c",
        "tile": {"m": 2, "n": 64, "k": 16},
        "weights": {"encoding": "unsigned", "max_bits": 8},
        "max_k": 16384,
    }
    return core_of(spec_from_dict({**settings, **more}))  # type: ignore[arg-type]


def row(mapping: Mapping, name: str) -> OperatorCost:
    (item,) = [item for item in mapping.operators if item.name == name]
    return item


# Safetensors.


def test_tensors_are_those_of_the_reference(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.standard_normal((3, 5)).astype(np.float32),
        "b": rng.standard_normal((2, 2, 4)).astype(np.float16),
        "c": rng.standard_normal(7),
        "d": np.arange(6, dtype=np.int64).reshape(2, 3),
        "e": np.array(2.5, dtype=np.float32),
        "f": np.zeros((0, 4), dtype=np.float32),
    }
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"x": "y"})
    checkpoint = Checkpoint(tmp_path / "model.safetensors")
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {
        name: array.shape for name, array in arrays.items()
    }
    for name in "abcef":
        assert np.array_equal(checkpoint.floats(name), arrays[name].astype(np.float32))
    assert np.array_equal(checkpoint.rows("b", 1, 3), arrays["b"].reshape(4, 4)[1:3])
    with pytest.raises(ConfigError, match=r"b: rows must lie in \[0, 4\], got 3 to 5"):
        checkpoint.rows("b", 3, 5)
    with pytest.raises(ConfigError, match="d: dtype must be one of F64, F32, F16, BF16, got I64"):
        checkpoint.rows("d", 0, 1)
    with pytest.raises(ConfigError, match="a: must be stored as codes, got F32"):
        checkpoint.weights("a")
    with pytest.raises(ConfigError, match="has no architecture: it needs a config"):
        checkpoint.architecture  # noqa: B018


@pytest.mark.parametrize("shape", [(0, 1 << 40), (1 << 40, 0), (3, 0)])
def test_empty_tensors_of_any_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    header = {"x": {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 0]}}
    raw = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(len(raw).to_bytes(8, "little") + raw)
    assert Checkpoint(tmp_path / "x").floats("x").shape == shape


def test_empty_tensors_that_no_array_is(tmp_path: Path) -> None:
    header = {"x": {"dtype": "F32", "shape": [1 << 40, 1 << 40, 0], "data_offsets": [0, 0]}}
    raw = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(len(raw).to_bytes(8, "little") + raw)
    with pytest.raises(ConfigError, match="x: shape must have less than 281474976710656 elements"):
        Checkpoint(tmp_path / "x")


def sharded(tmp_path: Path, files: SimpleNamespace) -> dict[str, np.ndarray]:
    arrays = {f"t{i}": np.full((2, 3), i, dtype=np.float32) for i in range(4)}
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    for part, name in enumerate(names):
        files.safetensors(tmp_path / name, dict(list(arrays.items())[2 * part : 2 * part + 2]))
    listed = {name: names[int(name[1]) // 2] for name in arrays}
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return arrays


@pytest.mark.parametrize("indexed", [True, False])
def test_shards_are_one_checkpoint(tmp_path: Path, files: SimpleNamespace, indexed: bool) -> None:
    arrays = sharded(tmp_path, files)
    if not indexed:
        (tmp_path / INDEX).unlink()
    checkpoint = Checkpoint(tmp_path)
    assert len(checkpoint.files) == 2
    for name, array in arrays.items():
        assert np.array_equal(checkpoint.floats(name), array)


def test_shards_may_be_links(tmp_path: Path, files: SimpleNamespace) -> None:
    (tmp_path / "blobs").mkdir()
    sharded(tmp_path / "blobs", files)
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    assert len(Checkpoint(tmp_path / "snapshot").tensors) == 4


@pytest.mark.parametrize(
    ("shard", "got"),
    [
        ("../x.safetensors", '"../x.safetensors"'),
        ("/etc/x.safetensors", '"/etc/x.safetensors"'),
        ("a\\x.safetensors", '"a.*x.safetensors"'),
        ("C:x.safetensors", '"C:x.safetensors"'),
        (INDEX, f'"{INDEX}"'),
        (".safetensors", '".safetensors"'),
        ("x\x00.safetensors", ""),
        ("", '""'),
        (3, "3"),
        (["x.safetensors"], "a list"),
    ],
)
def test_shards_lie_in_their_folder(
    tmp_path: Path, files: SimpleNamespace, shard: Any, got: str
) -> None:
    sharded(tmp_path, files)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"t0": shard}}))
    line = "weight_map.t0: must be the name of a safetensors file in the same folder, got"
    with pytest.raises(ConfigError, match=f"{INDEX}: {line} {got}"):
        Checkpoint(tmp_path)


def test_an_index_and_its_shards_agree(tmp_path: Path, files: SimpleNamespace) -> None:
    sharded(tmp_path, files)
    index = json.loads((tmp_path / INDEX).read_text())
    listed = index["weight_map"]

    def refused(change: dict[str, Any]) -> list[str]:
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": {**listed, **change}}))
        with pytest.raises(ConfigError) as caught:
            Checkpoint(tmp_path)
        return [
            line.removeprefix(f"{tmp_path / INDEX}: ") for line in str(caught.value).splitlines()
        ]

    assert refused({"t9": listed["t0"]}) == [f"weight_map.t9: is not in {listed['t0']}"]
    assert refused({"t0": listed["t3"]}) == [f"weight_map.t0: is not in {listed['t3']}"]
    missing = "model-00009-of-00009.safetensors"
    assert refused({"t0": missing}) == [f"{missing}: cannot be read, no such file or directory"]
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    (line,) = refused({"t0": "loop.safetensors"})
    assert line.startswith("loop.safetensors: cannot be read, ")
    (tmp_path / "folder.safetensors").mkdir()
    (line,) = refused({"t0": "folder.safetensors"})
    assert line.startswith("folder.safetensors: ")
    (tmp_path / listed["t0"]).write_bytes(b"abc")
    assert refused({}) == [f"{listed['t0']}: is no safetensors file: shorter than its first field"]
    (tmp_path / INDEX).write_text("[]")
    with pytest.raises(ConfigError, match="must be an object of fields"):
        Checkpoint(tmp_path)
    (tmp_path / INDEX).write_text('{"weight_map": 3}')
    with pytest.raises(ConfigError, match="weight_map: must be an object of files, got 3"):
        Checkpoint(tmp_path)


def test_tensors_that_an_index_leaves_out_are_noted(tmp_path: Path, files: SimpleNamespace) -> None:
    sharded(tmp_path, files)
    listed = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    del listed["t1"]
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": listed}))
    checkpoint = Checkpoint(tmp_path)
    assert set(checkpoint.tensors) == {"t0", "t2", "t3"}
    assert checkpoint.notes == (f"1 tensors of its files are not in {INDEX} and not read",)


def test_numbered_files_are_complete(tmp_path: Path, files: SimpleNamespace) -> None:
    sharded(tmp_path, files)
    (tmp_path / INDEX).unlink()
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model-00002-of-00002\.safetensors: is missing"):
        Checkpoint(tmp_path)
    files.safetensors(tmp_path / "model-00002-of-00002.safetensors", {"t0": np.zeros(1)})
    with pytest.raises(ConfigError, match="t0: must be given once, in one file"):
        Checkpoint(tmp_path)
    files.safetensors(tmp_path / "other.safetensors", {"x": np.zeros(1)})
    with pytest.raises(ConfigError, match=r"other\.safetensors: is of no one set"):
        Checkpoint(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").rename(
        tmp_path / "a-99999-of-99999.safetensors"
    )
    with pytest.raises(ConfigError, match="must be of at most 4096, got 99999"):
        Checkpoint(tmp_path)


def test_folders_without_weights(tmp_path: Path, files: SimpleNamespace, root: Path) -> None:
    with pytest.raises(ConfigError, match=r"must hold a safetensors file or .*, holds none$"):
        Checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin is not read, it is a program"):
        Checkpoint(tmp_path)
    # The configuration alone is a model, too.
    (tmp_path / "config.json").write_text((root / "sw_driver/models/gpt2.json").read_text())
    assert load_model(tmp_path).storage == ()
    for name in ("a", "b"):
        files.safetensors(tmp_path / f"{name}.safetensors", {name: np.zeros(1)})
    with pytest.raises(ConfigError, match=r"must hold one safetensors file, .* got 2 files"):
        Checkpoint(tmp_path)
    with pytest.raises(ConfigError, match=r"no\.gguf: cannot be read, no such file"):
        load_model("no.gguf")
    for name in ("a", "b"):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / f"{name}.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"holds several models, name one of a\.gguf, b\.gguf"):
        load_model(tmp_path / "two")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read(tmp_path: Path, files: SimpleNamespace) -> None:
    file = files.safetensors(tmp_path / "model.safetensors", {"x": np.zeros(1)})
    file.chmod(0)
    with pytest.raises(InputError, match="cannot be read, permission denied"):
        Checkpoint(file)


def test_a_file_that_shrinks_after_its_header(tmp_path: Path, files: SimpleNamespace) -> None:
    file = files.safetensors(tmp_path / "model.safetensors", {"x": np.zeros(100)})
    checkpoint = Checkpoint(file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ConfigError, match="x: ends before its data does"):
        checkpoint.floats("x")
    file.unlink()
    with pytest.raises(ConfigError, match="x: cannot be read, no such file"):
        checkpoint.floats("x")


# Names of tensors.


@pytest.mark.parametrize(
    ("name", "roles", "layer", "expert"),
    [
        ("model.layers.3.self_attn.q_proj.weight", ("q",), 3, None),
        ("model.language_model.layers.3.mlp.down_proj.weight", ("down",), 3, None),
        ("model.layers.0.self_attn.qkv_proj.weight", ("q", "k", "v"), 0, None),
        ("model.layers.0.mlp.gate_up_proj.weight", ("gate", "up"), 0, None),
        ("model.layers.9.mlp.experts.255.down_proj.weight", ("expert down",), 9, 255),
        ("model.layers.9.mlp.shared_experts.up_proj.weight", ("shared up",), 9, None),
        ("model.layers.9.mlp.gate.weight", ("router",), 9, None),
        ("model.layers.1.block_sparse_moe.experts.7.w3.weight", ("expert up",), 1, 7),
        ("model.layers.1.self_attn.kv_a_proj_with_mqa.weight", ("kv_a",), 1, None),
        ("model.decoder.layers.1.fc2.weight", ("down",), 1, None),
        ("transformer.h.11.attn.c_attn.weight", ("q", "k", "v"), 11, None),
        ("h.11.mlp.c_proj.weight", ("down",), 11, None),
        ("bert.encoder.layer.5.attention.output.dense.weight", ("o",), 5, None),
        ("encoder.layer.5.output.dense.weight", ("down",), 5, None),
        ("embeddings.word_embeddings.weight", ("embedding",), None, None),
        ("lm_head.weight", ("lm_head",), None, None),
        ("model.embed_tokens.weight", ("embedding",), None, None),
        ("blk.7.ffn_gate_exps.weight", ("expert gate",), 7, None),
        ("blk.7.ffn_gate.3.weight", ("expert gate",), 7, 3),
        ("output.weight", ("lm_head",), None, None),
    ],
)
def test_names_tell_roles(
    name: str, roles: tuple[str, ...], layer: int | None, expert: int | None
) -> None:
    role = role_of(name)
    assert role is not None
    assert (role.roles, role.layer, role.expert) == (roles, layer, expert)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.3.input_layernorm.weight",
        "model.layers.3.self_attn.q_proj.bias",
        "model.layers.3.self_attn.q_norm.weight",
        "vision_tower.vision_model.encoder.layers.3.self_attn.q_proj.weight",
        "multi_modal_projector.linear.weight",
        "output_norm.weight",
        "rope_freqs.weight",
    ],
)
def test_names_of_what_is_no_operator(name: str) -> None:
    assert role_of(name) is None


# Models mapped as they are stored.


def mixed(name: str) -> str:
    """As Q4_K_M has it: values and half of the down projections wider."""
    if "attn_v" in name or name == "blk.1.ffn_down.weight" or "token_embd" in name:
        return "Q6_K"
    return "Q4_K"


@pytest.fixture
def q4_k_m(tmp_path: Path, files: SimpleNamespace) -> Path:
    path: Path = files.gguf(
        tmp_path / "m.gguf", "llama", files.llama_keys, files.llama_shapes(), mixed, words=320
    )
    return path


def test_gguf_is_mapped_as_it_is(q4_k_m: Path) -> None:
    arch = load_model(q4_k_m)
    assert {
        role: [(storage.name, count) for storage, count in shares]
        for role, shares in arch.storage
        if len(shares) > 1 or shares[0][0].name != "Q4_K"
    } == {"v": [("Q6_K", 2)], "down": [("Q4_K", 1), ("Q6_K", 1)], "embedding": [("Q6_K", 1)]}
    mapping = map_workload(decode_workload(arch, 1, context=31), core())
    q, v = row(mapping, "q"), row(mapping, "v")
    # 4 bits and 16 bits for 32 elements; 6 bits and 9 for 16; of two layers.
    assert (q.bits, q.weight_bytes) == (4, 2 * 256 * 256 // 2)
    assert q.scale_bytes == 2 * (256 * 256 // 32 * 2 + 2)
    assert (v.bits, v.weight_bytes) == (6, 2 * 128 * 256 * 6 // 8)
    assert v.scale_bytes == 2 * (128 * 256 // 16 * 9 // 8 + 2)
    # One operator for each format, its groups are steps of their own.
    for name, bits, group in (("down (Q4_K)", 4, 32), ("down (Q6_K)", 6, 16)):
        item = row(mapping, name)
        assert (item.gemms, item.bits) == (1, bits)
        assert item.jobs == 256 // 64 * (512 // group)
        assert item.cycles == 2 + 256 // 64 * (512 // 16) * bits
    # The tied head multiplies with the table as it is stored.
    assert row(mapping, "lm_head").bits == 6
    assert "weights stored as Q4_K, Q6_K are mapped as they are" in mapping.notes
    # What the file holds of matrices is what the mapper packs; the table is there twice.
    stored = sum(
        tensor.size for tensor in Checkpoint(q4_k_m).tensors.values() if len(tensor.shape) == 2
    )
    norms = 5 * 256 * 2
    assert mapping.parameter_bytes == stored + 320 * 256 * 2 + norms


def test_offsets_take_sums_of_activations(q4_k_m: Path) -> None:
    def sums(on: Core, choices: Choices | None = None) -> int:
        mapping = map_workload(decode_workload(load_model(q4_k_m), 2, context=9), on, choices)
        return dict(mapping.vector).get("sum activations for offsets", 0)

    # Q4_K has offsets: q, k, o, gate and up of two layers, down of one; K of each, two steps.
    coded = 2 * (2 * 5 * 256 + 512)
    # Q6_K has none; its codes are shifted where a core has no zero points and is not signed.
    signed = 2 * (2 * 256 + 512 + 256)
    assert sums(core()) == coded
    assert sums(core(weights={"encoding": "twos_complement", "max_bits": 8})) == coded
    assert sums(core(weights={"encoding": "bipolar", "max_bits": 8})) == coded + signed
    assert sums(core(), Choices(weight_bits=4)) == 0


def test_narrow_cores_refuse_what_they_cannot_hold(q4_k_m: Path) -> None:
    arch = load_model(q4_k_m)
    work = decode_workload(arch, 1, context=31)
    narrow = core(weights={"encoding": "unsigned", "max_bits": 4})
    with pytest.raises(InputError) as caught:
        map_workload(work, narrow)
    assert str(caught.value) == (
        "weight_bits: v, down, lm_head: stored as Q6_K, 6-bit integers that are no weights of c; "
        "a width for them requantizes"
    )
    with pytest.raises(InputError, match="stored as Q6_K"):
        evaluate_many([narrow], [work])
    choices = Choices(operator_bits={"v": 4, "down": 3, "lm_head": 4})
    mapping = map_workload(work, narrow, choices)
    assert (row(mapping, "v").bits, row(mapping, "down (Q6_K)").bits) == (4, 3)
    assert row(mapping, "q").bits == 4
    notes = "\n".join(mapping.notes)
    assert "stored as Q6_K, quantized for c: v, down, lm_head" in notes
    assert "stored as Q4_K, quantized for c: down" in notes
    # A width for all is a width for all.
    everything = map_workload(work, narrow, Choices(weight_bits=2))
    assert {item.bits for item in everything.operators if item.kind == "linear"} == {2}


def test_wide_cores_take_narrow_codes(q4_k_m: Path) -> None:
    wide = replace(core(), min_weight_bits=8)
    mapping = map_workload(decode_workload(load_model(q4_k_m), 1, context=31), wide)
    assert row(mapping, "q").bits == 8
    assert row(mapping, "q").scale_bytes == 2 * (256 * 256 // 32 * 2 + 2)
    assert any("codes of Q4_K, Q6_K are narrower than those of c" in note for note in mapping.notes)


@pytest.mark.parametrize(
    ("form", "on", "bits"),
    [
        ("TQ2_0", {"weights": {"encoding": "ternary", "packing": "planes"}}, 2),
        ("TQ1_0", {"weights": {"encoding": "unsigned", "max_bits": 4}}, 2),
        ("MXFP4", {"weights": {"encoding": "unsigned", "max_bits": 8}}, 5),
        ("Q8_0", {"weights": {"encoding": "bipolar", "max_bits": 8}}, 8),
    ],
)
def test_formats_and_cores_that_fit(
    tmp_path: Path, files: SimpleNamespace, form: str, on: dict[str, Any], bits: int
) -> None:
    def formats(name: str) -> str:
        return "F16" if "token" in name else form

    file = files.gguf(tmp_path / "m.gguf", "llama", files.llama_keys, files.llama_shapes(), formats)
    one = core(**on)
    mapping = map_workload(decode_workload(load_model(file), 1, context=3), one)
    assert row(mapping, "gate").bits == bits
    assert f"weights stored as {form} are mapped as they are" in mapping.notes
    assert any(note == "stored as F16, quantized for c: lm_head" for note in mapping.notes)


def test_ternary_cores_take_ternary_codes_alone(q4_k_m: Path) -> None:
    ternary = core(weights={"encoding": "ternary", "packing": "planes"})
    with pytest.raises(InputError) as caught:
        map_workload(decode_workload(load_model(q4_k_m), 1, context=3), ternary)
    assert [
        line.partition(":")[2].partition(",")[0] for line in str(caught.value).splitlines()
    ] == [
        " q",
        " v",
    ]
    assert "k, o, gate, up, down: stored as Q4_K, 4-bit integers" in str(caught.value)


def test_mx_core_takes_its_own_format(tmp_path: Path, files: SimpleNamespace, root: Path) -> None:
    from sw_driver.mapper.core import load_core

    def formats(name: str) -> str:
        return "F16" if "token" in name else "MXFP4"

    file = files.gguf(tmp_path / "m.gguf", "llama", files.llama_keys, files.llama_shapes(), formats)
    work = decode_workload(load_model(file), 1, context=3)
    mx = load_core(root / "hw/configs/density/mx_fp4.yaml")
    mapping = map_workload(work, mx)
    assert row(mapping, "q").scale_bytes == 0
    # Codes and scales in the core's own beats: 4.25 bits.
    assert row(mapping, "q").weight_bytes == 2 * 256 * 256 * 17 // 32
    many = evaluate_many([mx], [work])
    assert (many.cycles[0, 0], many.bytes[0, 0]) == (mapping.cycles, mapping.bytes)
    other = load_core(root / "hw/configs/density/mx_int8.yaml")
    with pytest.raises(InputError, match="stored as MXFP4, 5-bit integers that are no weights of"):
        map_workload(work, other)
    (storage,) = {item.storage for item in work.operators if getattr(item, "name", "") == "q"}
    assert storage is not None
    assert (takes(mx, storage), takes(other, storage)) == (True, False)


def test_many_points_equal_single_mappings(q4_k_m: Path, files: SimpleNamespace) -> None:
    arch = load_model(q4_k_m)

    def other(name: str) -> str:
        return "F16" if "token" in name else "MXFP4" if "ffn" in name else "TQ2_0"

    second = files.gguf(
        q4_k_m.parent / "n.gguf", "llama", files.llama_keys, files.llama_shapes(), other
    )
    cores = [
        core(),
        core(tile={"m": 3, "n": 48, "k": 20}, planes="parallel"),
        core(weights={"encoding": "twos_complement", "max_bits": 8}, planes=3),
        core(block="mac_core", weights={"encoding": "twos_complement", "bits": 8}),
    ]
    works = [
        decode_workload(arch, 3, context=100, batch=2),
        prefill_workload(arch, 77),
        decode_workload(load_model(second), 2, context=9),
    ]
    for choices in (
        Choices(),
        Choices(group=64, buffer_bytes=70_000),
        Choices(operator_bits={"down": 8, "q": 8}),
    ):
        many = evaluate_many(cores, works, choices)
        for i, one in enumerate(cores):
            for j, work in enumerate(works):
                single = map_workload(work, one, choices)
                assert many.cycles[i, j] == single.cycles
                assert many.bytes[i, j] == single.bytes
                assert many.seconds[i, j] == pytest.approx(single.seconds)


LLAMA = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50,
    "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip


def llama_folder(
    tmp_path: Path, files: SimpleNamespace, packed: bool, **config: Any
) -> dict[str, np.ndarray]:
    """A small Llama; its projections are GPTQ of four bits, or BF16."""
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    told = {**LLAMA, **({"quantization_config": settings} if packed else {}), **config}
    (tmp_path / "config.json").write_text(json.dumps(told))
    bf16 = ml_dtypes.bfloat16
    arrays: dict[str, np.ndarray] = {
        "model.embed_tokens.weight": np.ones((50, 64), dtype=bf16),
        "model.norm.weight": np.ones(64, dtype=bf16),
    }
    shapes = {
        "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
        "self_attn.o_proj": (64, 64), "mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64),
        "mlp.down_proj": (64, 96),
    }  # fmt: skip
    for layer in range(2):
        at = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            arrays[f"{at}.{norm}.weight"] = np.ones(64, dtype=bf16)
        for name, (n, k) in shapes.items():
            if not packed:
                arrays[f"{at}.{name}.weight"] = np.ones((n, k), dtype=bf16)
                continue
            arrays |= {
                f"{at}.{name}.qweight": np.zeros((k // 8, n), dtype=np.int32),
                f"{at}.{name}.qzeros": np.zeros((k // 32, n // 8), dtype=np.int32),
                f"{at}.{name}.scales": np.ones((k // 32, n), dtype=np.float16),
                f"{at}.{name}.g_idx": (np.arange(k) // 32).astype(np.int32),
            }
    files.safetensors(tmp_path / "model.safetensors", arrays)
    return arrays


def test_folders_are_mapped_as_they_are(tmp_path: Path, files: SimpleNamespace) -> None:
    llama_folder(tmp_path, files, packed=True)
    arch = load_model(tmp_path)
    assert arch.notes == ()
    assert arch.parameters == Checkpoint(tmp_path).parameters
    mapping = map_workload(decode_workload(arch, 1, context=9), core())
    down = row(mapping, "down")
    assert (down.bits, down.jobs) == (4, 2 * 3)
    # A scale of 16 bits and a zero point of 4 for 32 elements.
    assert down.scale_bytes == 2 * (64 * 3 * 20 // 8 + 2)
    assert row(mapping, "lm_head").bits == 8
    assert "stored as BF16, quantized for c: lm_head" in mapping.notes


def test_floats_take_what_was_chosen(tmp_path: Path, files: SimpleNamespace) -> None:
    llama_folder(tmp_path, files, packed=False)
    work = decode_workload(load_model(tmp_path), 1, context=9)
    mapping = map_workload(work, core(), Choices(weight_bits=3, group=32))
    plain = map_workload(
        decode_workload(load_model(tmp_path / "config.json"), 1, context=9),
        core(),
        Choices(weight_bits=3, group=32),
    )
    assert (mapping.cycles, mapping.bytes) == (plain.cycles, plain.bytes)
    assert "stored as BF16, quantized for c: q, k, v, o, gate, up, down, lm_head" in mapping.notes


@pytest.mark.parametrize(
    ("config", "lines"),
    [
        ({"num_hidden_layers": 3}, ["q: must be stored once for 3 layers, got 2 matrices"]),
        (
            {"intermediate_size": 80},
            [
                "model.layers.0.mlp.gate_proj.weight: shape must be [80, 64] as the architecture "
                "has it, got [96, 64]",
                "gate: must be stored once for 2 layers, got 0 matrices",
            ],
        ),
        ({"tie_word_embeddings": False}, ["lm_head: must be stored once for 1 layer, got 0"]),
    ],
)
def test_tensors_that_are_not_the_architectures(
    tmp_path: Path, files: SimpleNamespace, config: dict[str, Any], lines: list[str]
) -> None:
    llama_folder(tmp_path, files, packed=False, **config)
    with pytest.raises(ConfigError) as caught:
        load_model(tmp_path)
    found = str(caught.value).splitlines()
    for line in lines:
        assert any(item.startswith(f"{tmp_path}: {line}") for item in found), found


def test_real_weights_are_a_checkpoint() -> None:
    arch = load_model(model_folder("minilm"))
    assert arch.parameters == 22_713_216
    assert {storage.name for shares in arch.stored.values() for storage, _ in shares} == {"F32"}
    work = prefill_workload(arch, 16)
    mapping = map_workload(work, core())
    assert "stored as F32, quantized for c: q, k, v, o, up, down, pooler" in mapping.notes


def test_transposed_and_fused_projections(
    tmp_path: Path, files: SimpleNamespace, root: Path
) -> None:
    data = json.loads((root / "sw_driver/models/gpt2.json").read_text())
    data |= {"n_embd": 24, "n_layer": 1, "n_head": 2, "n_positions": 8, "vocab_size": 10}
    (tmp_path / "config.json").write_text(json.dumps(data))
    arrays = {
        "wte.weight": np.zeros((10, 24)),
        "h.0.attn.c_attn.weight": np.zeros((24, 72)),
        "h.0.attn.c_proj.weight": np.zeros((24, 24)),
        "h.0.mlp.c_fc.weight": np.zeros((24, 96)),
        "h.0.mlp.c_proj.weight": np.zeros((96, 24)),
    }
    files.safetensors(tmp_path / "model.safetensors", arrays)
    stored = load_model(tmp_path).stored
    assert set(stored) == {"q", "k", "v", "o", "up", "down", "embedding"}
    arrays["h.0.mlp.c_fc.weight"] = np.zeros((96, 24))
    files.safetensors(tmp_path / "model.safetensors", arrays)
    with pytest.raises(ConfigError, match=r"h\.0\.mlp\.c_fc\.weight: shape must be \[24, 96\]"):
        load_model(tmp_path)


def test_experts_of_a_layer_are_stored_alike(
    tmp_path: Path, files: SimpleNamespace, root: Path
) -> None:
    data = json.loads((root / "sw_driver/models/deepseek-v2-lite.json").read_text())
    data |= {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 9,
        "num_key_value_heads": 2,
        "kv_lora_rank": 12,
        "qk_nope_head_dim": 8,
        "v_head_dim": 4,
        "qk_rope_head_dim": 4,
        "n_routed_experts": 3,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 6,
        "intermediate_size": 20,
        "num_nextn_predict_layers": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(data))
    arrays = {"model.embed_tokens.weight": (9, 16), "lm_head.weight": (9, 16)}
    for layer in range(3):
        at = f"model.layers.{layer}"
        arrays |= {
            f"{at}.self_attn.q_proj.weight": (24, 16),
            f"{at}.self_attn.kv_a_proj_with_mqa.weight": (16, 16),
            f"{at}.self_attn.kv_b_proj.weight": (24, 12),
            f"{at}.self_attn.o_proj.weight": (16, 8),
        }
        sizes = {"mlp": 20} if layer == 0 else {"mlp.shared_experts": 12}
        if layer:
            arrays[f"{at}.mlp.gate.weight"] = (3, 16)
            sizes |= {f"mlp.experts.{expert}": 6 for expert in range(3)}
        for name, width in sizes.items():
            arrays |= {
                f"{at}.{name}.gate_proj.weight": (width, 16),
                f"{at}.{name}.up_proj.weight": (width, 16),
                f"{at}.{name}.down_proj.weight": (16, width),
            }
    zeros = {name: np.zeros(shape, dtype=np.float32) for name, shape in arrays.items()}
    files.safetensors(tmp_path / "model.safetensors", zeros)
    # The third layer predicts further tokens and is not the model's.
    arch = load_model(tmp_path)
    assert [(role, shares[0][1]) for role, shares in arch.storage if "expert" in role] == [
        ("expert gate", 1),
        ("expert up", 1),
        ("expert down", 1),
    ]
    assert dict(arch.storage)["kv_b"][0][1] == 2
    map_workload(decode_workload(arch, 1, context=3), core())
    one = "model.layers.1.mlp.experts.1.up_proj.weight"
    changed = {**zeros, one: zeros[one].astype(np.float16)}
    files.safetensors(tmp_path / "model.safetensors", changed)
    with pytest.raises(ConfigError, match="layer 1: expert up: must be stored alike for all exp"):
        load_model(tmp_path)
    del changed[one]
    files.safetensors(tmp_path / "model.safetensors", changed)
    with pytest.raises(ConfigError, match="expert up: must be stored for 3 experts in 1 la"):
        load_model(tmp_path)


# Commands.


def test_map_takes_a_checkpoint(q4_k_m: Path, root: Path) -> None:
    lut = str(root / "hw/configs/lut_core.yaml")
    result = CliRunner().invoke(map_model, [str(q4_k_m), "--core", lut, "--decode", "1"])
    assert result.exit_code == 2
    assert result.output == (
        "weight_bits: v, down, lm_head: stored as Q6_K, 6-bit integers that are no weights of "
        "lut_core; a width for them requantizes\n"
    )
    arguments = [str(q4_k_m), "--core", lut, "--decode", "1", "--json"]
    for operator in ("v", "down", "lm_head"):
        arguments += ["--weight-bits", f"{operator}=4"]
    result = CliRunner().invoke(map_model, arguments)
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert data["model"]["storage"]["v"] == [
        {
            "name": "Q6_K",
            "bits": 6,
            "group": 16,
            "group_bits": 9,
            "ternary": False,
            "signed": True,
            "offset": False,
            "float_format": "",
            "layers": 2,
        }
    ]


def test_headers_load_nothing_heavy(q4_k_m: Path, root: Path) -> None:
    for verb in (["inspect", str(q4_k_m)], ["map", str(q4_k_m), "--decode", "1"]):
        script = (
            "import sys\n"
            "from sw_driver.commands.inspect import inspect\n"
            "from sw_driver.commands.map import map_model\n"
            f"verb = {verb!r}\n"
            "more = ['--core', 'hw/configs/bitserial_core.yaml'] if verb[0] == 'map' else []\n"
            "run = {'map': map_model, 'inspect': inspect}[verb[0]]\n"
            "run([*verb[1:], *more], standalone_mode=False)\n"
            "print('\\n@', *sorted(name.partition('.')[0] for name in sys.modules))"
        )
        for _ in range(1 + (verb[0] == "map")):  # the first may have to read the specification
            result = subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root
            )
        loaded = set(result.stdout.rpartition("@")[2].split())
        assert "sw_driver" in loaded
        assert not loaded & {"numpy", "pydantic", "yaml", "rich", "matplotlib", "gguf", "sim"}


def test_inspect_tells_what_there_is(q4_k_m: Path) -> None:
    result = CliRunner().invoke(inspect, [str(q4_k_m)])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "m.gguf"
    assert lines[1].startswith("GGUF file, 1 file: 20 tensors, 1,262,848 parameters, ")
    assert lines[2] == "model: m (LlamaForCausalLM), 1,262,848 parameters in 2 layers"
    assert any(line.split()[:3] == ["Q6_K", "6", "16"] for line in lines)
    assert any(line.split()[:3] == ["blk.*.ffn_gate.weight", "2", "512×256"] for line in lines)
    # Of two formats they are two rows.
    for name, form in (("blk.0.ffn_down.weight", "Q4_K"), ("blk.1.ffn_down.weight", "Q6_K")):
        assert any(line.split()[:4] == [name, "1", "256×512", form] for line in lines)
    every = CliRunner().invoke(inspect, [str(q4_k_m), "--all"]).output
    assert "blk.1.ffn_gate.weight" in every
    assert "*" not in every
    data = json.loads(CliRunner().invoke(inspect, [str(q4_k_m), "--json"]).output)
    assert len(data["tensors"]) == 20
    assert data["bytes"] == sum(item["bytes"] for item in data["tensors"])
    (v,) = [item for item in data["tensors"] if item["name"] == "blk.0.attn_v.weight"]
    assert (v["format"], v["shape"], v["bits_per_weight"]) == ("Q6_K", [128, 256], 6.5625)


def test_inspect_tells_why_it_cannot_be_mapped(tmp_path: Path, files: SimpleNamespace) -> None:
    report = inspect_checkpoint(files.safetensors(tmp_path / "x", {"a": np.zeros((2, 3))}))
    (note,) = report.notes
    assert note.startswith("cannot be mapped: ")
    assert "needs a config.json" in note
    result = CliRunner().invoke(inspect, [str(tmp_path / "none")])
    assert result.exit_code == 2
    assert result.output == f"{tmp_path / 'none'}: cannot be read, no such file or directory\n"
