"""Packed safetensors: GPTQ, AWQ, BitNet, FP8 against their definitions; operands of cores."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hw.block import spec_from_dict
from sim.gemm import tile
from sw_driver.checkpoint import Checkpoint
from sw_driver.checkpoint.weights import GroupedWeights, absmean_ternary
from sw_driver.config_file import ConfigError


def folder(
    tmp_path: Path, files: SimpleNamespace, quantization: Any, arrays: dict[str, np.ndarray]
) -> Path:
    config = {"model_type": "llama"}
    if quantization is not None:
        config["quantization_config"] = quantization
    (tmp_path / "config.json").write_text(json.dumps(config))
    files.safetensors(tmp_path / "model.safetensors", arrays)
    return tmp_path


def gptq(
    files: SimpleNamespace, bits: int, *, k: int, n: int, group: int, act_order: bool, v2: bool
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The tensors of a layer, and its weights ``(N, K)`` by the definition."""
    rng = np.random.default_rng(bits * 100 + k)
    groups = -(-k // group)
    codes = rng.integers(0, 2**bits, (k, n))
    zeros = rng.integers(0, 2**bits, (groups, n))
    scales = (rng.standard_normal((groups, n)) / 8).astype(np.float16)
    g_idx = np.arange(k) // group
    if act_order:
        g_idx = rng.permutation(g_idx)
    stored = zeros if v2 else (zeros - 1) % 2**bits
    arrays = {
        "m.qweight": files.stream(codes, bits),
        "m.qzeros": np.ascontiguousarray(files.stream(stored.T, bits).T),
        "m.scales": scales,
        "m.g_idx": g_idx.astype(np.int32),
    }
    weights = np.empty((n, k), dtype=np.float32)
    for column in range(k):
        at = g_idx[column]
        # Eleven bits of a scale times nine of a difference: exact.
        weights[:, column] = scales[at].astype(np.float64) * (codes[column] - zeros[at])
    return arrays, weights


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize(
    ("k", "group", "act_order"), [(128, 32, False), (96, 32, True), (96, 64, 1)]
)
def test_gptq_is_its_definition(
    tmp_path: Path,
    files: SimpleNamespace,
    bits: int,
    v2: bool,
    k: int,
    group: int,
    act_order: bool,
) -> None:
    arrays, expected = gptq(files, bits, k=k, n=64, group=group, act_order=act_order, v2=v2)
    settings = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "desc_act": act_order,
        "checkpoint_format": "gptq_v2" if v2 else "gptq",
    }
    checkpoint = Checkpoint(folder(tmp_path, files, settings, arrays))
    (tensor,) = checkpoint.tensors.values()
    assert (tensor.name, tensor.shape) == ("m.weight", (64, k))
    assert tensor.size == sum(array.nbytes for array in arrays.values())
    assert (tensor.storage.bits, tensor.storage.group_bits) == (bits, 16 + bits)
    assert np.array_equal(checkpoint.floats("m.weight"), expected)
    assert np.array_equal(checkpoint.rows("m.weight", 3, 40), expected[3:40])
    weights = checkpoint.weights("m.weight")
    assert (weights.order is not None) == bool(act_order)
    # Codes of a group are together, whatever the order of the file.
    assert weights.codes.shape == (64, k)
    assert weights.scale.shape == weights.zero.shape == (64, -(-k // group))  # type: ignore[union-attr]


def test_three_bits_cross_words(files: SimpleNamespace) -> None:
    # The layout of AutoGPTQ: codes 10 and 21 lie in two words.
    codes = np.zeros((32, 1), dtype=np.int64)
    codes[10], codes[21] = 0b101, 0b110
    words = files.stream(codes, 3).view(np.uint32)[:, 0].tolist()
    assert words == [0b01 << 30, 1, 0b11]
    codes[:] = 0
    codes[21] = 0b001
    assert files.stream(codes, 3).view(np.uint32)[:, 0].tolist() == [0, 1 << 31, 0]


def test_gptq_without_config_in_its_own_file(tmp_path: Path, files: SimpleNamespace) -> None:
    arrays, expected = gptq(files, 4, k=64, n=32, group=64, act_order=False, v2=False)
    del arrays["m.g_idx"]
    folder(tmp_path, files, None, {**arrays, "m.bias": np.zeros(32, dtype=np.float16)})
    with pytest.raises(ConfigError, match=r"m\.qweight: needs quantization_config\.quant_method"):
        Checkpoint(tmp_path)
    (tmp_path / "quantize_config.json").write_text(
        json.dumps({"bits": 4, "group_size": -1, "desc_act": False, "sym": True})
    )
    checkpoint = Checkpoint(tmp_path)
    assert np.array_equal(checkpoint.floats("m.weight"), expected)
    assert set(checkpoint.tensors) == {"m.weight", "m.bias"}


def test_awq_is_its_definition(tmp_path: Path, files: SimpleNamespace) -> None:
    rng = np.random.default_rng(5)
    k, n, group = 128, 48, 32
    codes, zeros = rng.integers(0, 16, (k, n)), rng.integers(0, 16, (k // group, n))
    scales = (rng.standard_normal((k // group, n)) / 8).astype(np.float16)
    arrays = {"m.qweight": files.awq(codes), "m.qzeros": files.awq(zeros), "m.scales": scales}
    settings = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"}
    checkpoint = Checkpoint(folder(tmp_path, files, settings, arrays))
    at = np.arange(k) // group
    expected = (scales[at].astype(np.float32) * (codes - zeros[at])).T.astype(np.float32)
    assert np.array_equal(checkpoint.floats("m.weight"), expected)
    assert np.array_equal(checkpoint.rows("m.weight", 13, 21), expected[13:21])
    assert np.array_equal(checkpoint.weights("m.weight").zero, zeros.T)


@pytest.mark.parametrize("kind", ["autobitlinear", "bitlinear"])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32])
def test_bitnet_is_its_definition(
    tmp_path: Path, files: SimpleNamespace, kind: str, dtype: Any
) -> None:
    codes = np.random.default_rng(2).integers(-1, 2, (24, 40))
    scale = np.array([1.7], dtype=dtype)
    arrays = {"m.weight": files.trits(codes), "m.weight_scale": scale}
    settings = {"quant_method": "bitnet", "linear_class": kind, "quantization_mode": "offline"}
    checkpoint = Checkpoint(folder(tmp_path, files, settings, arrays))
    (tensor,) = checkpoint.tensors.values()
    assert (tensor.shape, tensor.storage.ternary) == ((24, 40), True)
    weights = checkpoint.weights("m.weight")
    assert np.array_equal(weights.codes, codes)
    # BitLinear divides its results by the scale, AutoBitLinear multiplies them with it.
    factor = scale.astype(np.float32)[0] if kind == "autobitlinear" else 1 / scale.astype("f4")[0]
    assert np.array_equal(checkpoint.floats("m.weight"), codes.astype(np.float32) * factor)
    assert np.array_equal(checkpoint.weights("m.weight", 5, 19).codes, codes[5:19])


def test_ternary_weights_that_are_kept_in_floats(tmp_path: Path, files: SimpleNamespace) -> None:
    w = np.random.default_rng(2).standard_normal((24, 40)).astype(ml_dtypes.bfloat16)
    settings = {"quant_method": "bitnet", "quantization_mode": "online"}
    checkpoint = Checkpoint(folder(tmp_path, files, settings, {"m.weight": w}))
    weights = checkpoint.ternary("m.weight")
    x = w.astype(np.float64)
    mean = np.abs(x).mean()
    assert np.array_equal(weights.codes, np.clip(np.rint(x / mean), -1, 1))
    assert weights.dequantized() == pytest.approx(weights.codes * mean, rel=1e-6)
    assert weights.groups == 1
    assert np.abs(absmean_ternary(np.zeros((2, 3), dtype=np.float32)).codes).max() == 0


def test_fp8_is_scaled_by_blocks(tmp_path: Path, files: SimpleNamespace) -> None:
    rng = np.random.default_rng(9)
    w = rng.standard_normal((20, 50)).astype(ml_dtypes.float8_e4m3fn)
    scale = rng.random((3, 4)).astype(np.float32) + np.float32(0.5)
    arrays = {"m.weight": w, "m.weight_scale_inv": scale}
    settings = {"quant_method": "fp8", "weight_block_size": [8, 16], "fmt": "e4m3"}
    checkpoint = Checkpoint(folder(tmp_path, files, settings, arrays))
    expected = np.empty((20, 50), dtype=np.float32)
    for row in range(20):
        for column in range(50):
            expected[row, column] = np.float32(w[row, column]) * scale[row // 8, column // 16]
    assert np.array_equal(checkpoint.floats("m.weight"), expected)
    assert np.array_equal(checkpoint.rows("m.weight", 7, 9), expected[7:9])
    assert set(checkpoint.tensors) == {"m.weight"}


# What the core computes is the stored product, whatever its encoding.


def grouped(files: SimpleNamespace, tmp_path: Path, kind: str) -> GroupedWeights:
    if kind == "GPTQ":
        arrays, _ = gptq(files, 4, k=96, n=32, group=32, act_order=True, v2=True)
        settings = {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": 32,
            "checkpoint_format": "gptq_v2",
        }
        return Checkpoint(folder(tmp_path, files, settings, arrays)).weights("m.weight")
    raw = files.blocks(np.random.default_rng(0), kind, 32, 512)
    file = tmp_path / "x.gguf"
    import gguf

    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tensor("x", raw, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Checkpoint(file).weights("x")


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_1", "Q8_0", "Q3_K", "Q4_K", "TQ2_0", "MXFP4", "GPTQ"])
@pytest.mark.parametrize("encoding", ["unsigned", "twos_complement", "bipolar", "ternary"])
def test_operands_of_cores_keep_every_product(
    tmp_path: Path, files: SimpleNamespace, kind: str, encoding: str
) -> None:
    weights = grouped(files, tmp_path, kind)
    if encoding == "ternary" and not weights.storage.ternary:
        with pytest.raises(ValueError, match="weights are not ternary"):
            weights.operand(encoding)
        return
    operand = weights.operand(encoding)
    top = 2**weights.bits
    low, high = {
        "unsigned": (0, top - 1),
        "twos_complement": (-top // 2, top // 2 - 1),
        "bipolar": (1 - top, top - 1),
        "ternary": (-1, 1),
    }[encoding]
    assert low <= operand.w.min() <= operand.w.max() <= high
    if encoding == "bipolar":
        assert (operand.w % 2 == 1).all()
    # Codes that are stored in the encoding of the core are the core's, and need no sums.
    if weights.signed and encoding == "twos_complement":
        assert np.array_equal(operand.w, weights.codes)
        assert operand.shift is None
    k = weights.codes.shape[1]
    a = np.random.default_rng(1).integers(-128, 128, (3, k))
    inputs = a if weights.order is None else a[:, weights.order]
    zero = np.zeros(weights.scale.shape, dtype=int) if weights.zero is None else weights.zero
    for group in range(weights.groups):
        columns = weights.columns(group)
        w = operand.w[:, columns] - (0 if operand.z is None else operand.z[:, group, None])
        sums = inputs[:, columns].sum(axis=1, keepdims=True)
        found = operand.factor * (inputs[:, columns] @ w.T)
        if operand.shift is not None:
            found = found + sums * operand.shift[:, group]
        plain = weights.codes[:, columns].astype(int) - zero[:, group, None]
        assert np.array_equal(found, inputs[:, columns] @ plain.T)


@pytest.mark.parametrize(
    ("kind", "weights", "bits"),
    [
        ("Q4_0", {"encoding": "unsigned", "max_bits": 4}, 4),
        ("Q4_K", {"encoding": "unsigned", "max_bits": 8}, 4),
        ("Q4_K", {"encoding": "twos_complement", "max_bits": 8}, 4),
        ("Q6_K", {"encoding": "bipolar", "max_bits": 8}, 6),
        ("MXFP4", {"encoding": "twos_complement", "max_bits": 8}, 5),
        ("TQ1_0", {"encoding": "ternary", "packing": "planes"}, 2),
        ("GPTQ", {"encoding": "unsigned", "max_bits": 4}, 4),
    ],
)
def test_cores_compute_with_stored_weights(
    tmp_path: Path, files: SimpleNamespace, kind: str, weights: dict[str, Any], bits: int
) -> None:
    spec: Any = spec_from_dict(
        {
            "block": "lut_core",
            "name": "c",
            "tile": {"m": 2, "n": 8, "k": 16},
            "weights": weights,
            "max_k": 1024,
        }
    )
    stored = grouped(files, tmp_path, kind)
    operand = stored.operand(spec.weight_encoding)
    a = np.random.default_rng(1).integers(-128, 128, (3, stored.codes.shape[1]))
    inputs = a if stored.order is None else a[:, stored.order]
    found = np.zeros((3, len(stored.codes)))
    for group in range(stored.groups):
        columns = stored.columns(group)
        part = inputs[:, columns]
        z = None if operand.z is None else operand.z[:, group]
        # Jobs of the width that the mapper charges; the core's reference has the last word.
        plan = tile(spec, part, operand.w[:, columns], z=z, weight_bits=bits)
        exact = operand.factor * plan.assemble(plan.expected())["o"].astype(np.float64)
        sums = part.sum(axis=1, keepdims=True)
        if operand.shift is not None:
            exact += sums * operand.shift[:, group]
        found += exact * stored.scale[:, group].astype(np.float64)
        if stored.offset is not None:
            found += sums * stored.offset[:, group].astype(np.float64)
    wanted = a @ stored.dequantized().T.astype(np.float64)
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6 * np.abs(wanted).max())


def test_unknown_encoding_is_refused(tmp_path: Path, files: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="encoding must be one of unsigned"):
        grouped(files, tmp_path, "Q4_0").operand("gray")


# Refusals.

GOOD = {"quant_method": "gptq", "bits": 4, "group_size": 32}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({**GOOD, "bits": 5}, "quantization_config.bits: must be one of 2, 3, 4, 8, got 5"),
        ({**GOOD, "bits": None}, "quantization_config.bits: is required"),
        ({**GOOD, "bits": "4"}, 'quantization_config.bits: must be an integer, got "4"'),
        ({**GOOD, "group_size": 0}, "quantization_config.group_size: must be positive, or -1"),
        (
            {**GOOD, "checkpoint_format": "marlin"},
            "checkpoint_format: must be gptq or gptq_v2, got",
        ),
        ({**GOOD, "dynamic": {"x": {}}}, "quantization_config.dynamic: must be empty"),
        ({**GOOD, "quant_method": "awq", "bits": 8}, "bits: must be one of 4, got 8"),
        ({**GOOD, "quant_method": "awq", "version": "gemv"}, 'version: must be gemm, .* "gemv"'),
        ({**GOOD, "quant_method": 3}, "quantization_config.quant_method: must be a text, got 3"),
        ({**GOOD, "quant_method": "aqlm"}, r"m\.qweight: needs .* gptq or awq, got \"aqlm\""),
        ([], "quantization_config: must be an object of fields, got an empty list"),
        (
            {"quant_method": "bitnet", "linear_class": "x"},
            "linear_class: must be bitlinear or auto",
        ),
        (
            {"quant_method": "fp8", "weight_block_size": [0, 1]},
            "weight_block_size: must be two sizes",
        ),
        ({**GOOD, "bits": 8}, r"m\.scales: shape must be \[1, 64\] for K = 32, N = 64, 8 bits"),
        ({**GOOD, "group_size": 16}, r"m\.scales: shape must be \[4, 64\] for K = 64, N = 64"),
    ],
)
def test_settings_that_do_not_fit(
    tmp_path: Path, files: SimpleNamespace, settings: Any, line: str
) -> None:
    arrays, _ = gptq(files, 4, k=64, n=64, group=32, act_order=False, v2=False)
    with pytest.raises(ConfigError, match=line) as caught:
        Checkpoint(folder(tmp_path, files, settings, arrays))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"m.qzeros": None}, r"m\.qzeros: is required by m\.qweight"),
        (
            {"m.scales": np.ones((2, 64), dtype=np.int32)},
            r"m\.scales: dtype must be F16 or BF16 or",
        ),
        ({"m.qweight": np.ones((8, 64))}, r"m\.qweight: dtype must be I32, got F64"),
        ({"m.qweight": np.ones(64, dtype=np.int32)}, r"m\.qweight: shape must be two sizes from 1"),
        ({"m.qzeros": np.ones((2, 9), dtype=np.int32)}, r"m\.qzeros: shape must be \[2, 8\]"),
        ({"m.g_idx": np.ones(63, dtype=np.int32)}, r"m\.g_idx: shape must be \[64\]"),
        ({"m.weight": np.ones((64, 64))}, r"m\.weight: must be stored once, plain or packed"),
    ],
)
def test_parts_that_do_not_fit(
    tmp_path: Path, files: SimpleNamespace, change: dict[str, Any], line: str
) -> None:
    arrays, _ = gptq(files, 4, k=64, n=64, group=32, act_order=False, v2=False)
    changed = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    with pytest.raises(ConfigError, match=line):
        Checkpoint(folder(tmp_path, files, GOOD, changed))


def test_rows_are_whole_codes(tmp_path: Path, files: SimpleNamespace) -> None:
    arrays, _ = gptq(files, 3, k=64, n=64, group=32, act_order=False, v2=False)
    arrays["m.qweight"] = arrays["m.qweight"][:-1]
    with pytest.raises(ConfigError, match=r"m\.qweight: rows must be whole codes of 3 bits, got 5"):
        Checkpoint(folder(tmp_path, files, {**GOOD, "bits": 3}, arrays))


@pytest.mark.parametrize("value", [-1, 2, 7])
def test_groups_are_of_their_size(tmp_path: Path, files: SimpleNamespace, value: int) -> None:
    arrays, _ = gptq(files, 4, k=64, n=64, group=32, act_order=True, v2=False)
    arrays["m.g_idx"][5] = value
    checkpoint = Checkpoint(folder(tmp_path, files, GOOD, arrays))
    with pytest.raises(ConfigError, match=r"m\.weight: g_idx must name 2 groups, each for 32 ele"):
        checkpoint.floats("m.weight")


def test_scales_are_finite(tmp_path: Path, files: SimpleNamespace) -> None:
    arrays, _ = gptq(files, 4, k=64, n=64, group=32, act_order=False, v2=False)
    arrays["m.scales"][1, 7] = np.inf
    checkpoint = Checkpoint(folder(tmp_path, files, GOOD, arrays))
    with pytest.raises(ConfigError, match=r"m\.weight: scales must be finite, row 7 has others"):
        checkpoint.floats("m.weight")
    assert checkpoint.rows("m.weight", 8, 64).shape == (56, 64)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"m.weight_scale": None}, r"m\.weight_scale: is required by packed m\.weight"),
        ({"m.weight_scale": np.ones(2, dtype="f4")}, r"m\.weight_scale: must be one number of F16"),
        ({"m.weight": np.zeros(8, dtype=np.uint8)}, r"m\.weight: shape must be two sizes"),
        (
            {"m.weight": np.full((2, 8), 3, dtype=np.uint8)},
            "codes must be 0, 1 or 2 in packed trits",
        ),
        (
            {"m.weight_scale": np.zeros(1, dtype="f4")},
            "weight_scale must be finite and not 0, got 0",
        ),
    ],
)
def test_trits_that_are_none(
    tmp_path: Path, files: SimpleNamespace, change: dict[str, Any], line: str
) -> None:
    arrays = {
        "m.weight": np.zeros((2, 8), dtype=np.uint8),
        "m.weight_scale": np.ones(1, dtype=np.float32),
    }
    changed = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    with pytest.raises(ConfigError, match=line):
        Checkpoint(folder(tmp_path, files, {"quant_method": "bitnet"}, changed)).floats("m.weight")


def test_factors_of_fp8_that_do_not_fit(tmp_path: Path, files: SimpleNamespace) -> None:
    w = np.zeros((20, 50), dtype=ml_dtypes.float8_e4m3fn)
    arrays = {"m.weight": w, "m.weight_scale_inv": np.ones((1, 2), dtype=np.float32)}
    with pytest.raises(ConfigError, match=r"m\.weight_scale_inv: shape must be \[1, 1\] for \[20"):
        Checkpoint(folder(tmp_path, files, {"quant_method": "fp8"}, arrays))
    nan = np.array([[0x7F]], dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    arrays = {"m.weight": nan, "m.weight_scale_inv": np.ones((1, 1), dtype=np.float32)}
    checkpoint = Checkpoint(folder(tmp_path, files, {"quant_method": "fp8"}, arrays))
    with pytest.raises(
        ConfigError, match=r"m\.weight\[0\]\[0\]: must be a finite float32, got nan"
    ):
        checkpoint.floats("m.weight")


def test_other_methods_are_listed_as_they_are(tmp_path: Path, files: SimpleNamespace) -> None:
    arrays = {"m.weight_packed": np.zeros((2, 3), dtype=np.int32)}
    checkpoint = Checkpoint(folder(tmp_path, files, {"quant_method": "compressed-tensors"}, arrays))
    assert checkpoint.tensors["m.weight_packed"].storage.name == "I32"
    (note,) = checkpoint.notes
    assert 'quant_method "compressed-tensors" is not read' in note
