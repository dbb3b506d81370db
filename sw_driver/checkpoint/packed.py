"""Tensors of safetensors files as models know them: packed parts put together under one name.

Formats and their sources:

- GPTQ (arXiv 2210.17323) as AutoGPTQ and GPTQModel store it: ``qweight`` ``(K·B/32, N)`` and
  ``qzeros`` ``(G, N·B/32)`` as little-endian streams of ``B``-bit codes in words of 32 bits,
  ``scales`` ``(G, N)``, ``g_idx`` ``(K,)`` the group of every row.
- AWQ (arXiv 2306.00978) as AutoAWQ stores it for its GEMM kernels: ``qweight`` ``(K, N/8)``, eight
  columns a word in the order 0, 2, 4, 6, 1, 3, 5, 7.
- BitNet b1.58 as `transformers` stores it: ``weight`` ``(N/4, K)`` of bytes, whose four two-bit
  fields are rows of the four quarters, and one ``weight_scale``.
- FP8 as DeepSeek-V3 stores it: ``weight`` E4M3 with a factor for each block of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sw_driver.architecture import Storage
from sw_driver.checkpoint.tensor import FLOATS, Region, StoredTensor
from sw_driver.config_file import Fields, shown

MAX_PROBLEMS = 20
METHODS = ("awq", "bitnet", "fp8", "gptq")
GPTQ_BITS = (2, 3, 4, 8)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Column of each nibble of a word, from the lowest."""

_BITNET = Storage(name="BitNet", bits=2, ternary=True)
_FP8 = Storage(name="FP8 E4M3")
_SCALES = ("F16", "BF16", "F32")
_CODED = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a configuration says that weights are packed.

    Attributes:
        method: one of :data:`METHODS`, another's name, or "" for none.
        bits, group: width of codes; elements of K that share a scale, 0 for all.
        layout: of :class:`~sw_driver.checkpoint.tensor.StoredTensor`.
        block: rows and columns that share a factor of FP8.
    """

    method: str = ""
    bits: int = 0
    group: int = 0
    layout: str = "plain"
    block: tuple[int, int] = (128, 128)

    @property
    def known(self) -> bool:
        return not self.method or self.method in METHODS


def packing_of(config: Any, file: str, where: str = "") -> Packing:
    """The packing that a ``quantization_config`` (or a file of its own) tells of.

    Raises:
        ConfigError: with every problem.
    """
    if config is None:
        return Packing()
    data = config if isinstance(config, dict) else {}
    fields = Fields({f"{where}{name}": value for name, value in data.items()}, file)
    if not isinstance(config, dict):
        fields.problem(where.rstrip("."), "must be an object of fields", config)
    method = fields.text(f"{where}quant_method", "gptq" if "desc_act" in data else "").lower()
    found = Packing(method=method)
    if method == "gptq":
        form = fields.text(f"{where}checkpoint_format", "gptq")
        if form not in ("gptq", "gptq_v2"):
            fields.problem(f"{where}checkpoint_format", "must be gptq or gptq_v2", form)
        found = Packing(
            method=method,
            bits=_bits(fields, where, GPTQ_BITS),
            group=_group(fields, where),
            layout=form,
        )
        if data.get("dynamic"):
            fields.problem(
                f"{where}dynamic", "must be empty: widths of single modules are not read"
            )
    elif method == "awq":
        version = fields.text(f"{where}version", "gemm").lower()
        if version != "gemm":
            fields.problem(
                f"{where}version", "must be gemm, whose order of columns is read", version
            )
        found = Packing(
            method=method,
            bits=_bits(fields, where, (4,)),
            group=_group(fields, where),
            layout="awq",
        )
    elif method == "bitnet":
        kind = fields.text(f"{where}linear_class", "bitlinear")
        if kind not in ("bitlinear", "autobitlinear"):
            fields.problem(f"{where}linear_class", "must be bitlinear or autobitlinear", kind)
        # BitLinear divides by the stored scale, AutoBitLinear multiplies with it.
        layout = "bitnet" if kind == "autobitlinear" else "bitnet_inverse"
        found = Packing(method=method, bits=2, layout=layout)
    elif method == "fp8":
        block = fields.items(f"{where}weight_block_size") or [128, 128]
        plain = [size for size in block if type(size) is int and 1 <= size <= 1 << 16]
        if len(plain) != 2 or len(block) != 2:
            fields.problem(f"{where}weight_block_size", "must be two sizes from 1 on")
            plain = [128, 128]
        found = Packing(method=method, bits=8, layout="fp8", block=(plain[0], plain[1]))
    fields.finish()
    return found


def _bits(fields: Fields, where: str, widths: tuple[int, ...]) -> int:
    name = f"{where}w_bit" if fields.given(f"{where}w_bit") else f"{where}bits"
    bits = fields.integer(name, widths[-1] if name in fields.bad else None)
    if name not in fields.bad and bits not in widths:
        fields.problem(name, f"must be one of {', '.join(map(str, widths))}", bits)
        return widths[-1]
    return bits


def _group(fields: Fields, where: str) -> int:
    """The group size, 0 for one group."""
    name = f"{where}q_group_size" if fields.given(f"{where}q_group_size") else f"{where}group_size"
    group = fields.integer(name, 128, low=-1, high=1 << 20)
    if group == 0:
        fields.problem(name, "must be positive, or -1 for all of K", group)
    return max(group, 0)


def stored_tensors(
    regions: Mapping[str, Region], packing: Packing
) -> tuple[dict[str, StoredTensor], list[str]]:
    """Tensors as models know them, and what is wrong with packed ones."""
    found: dict[str, StoredTensor] = {}
    problems: list[str] = []
    used: set[str] = set()
    plain: dict[str, Storage] = {}
    for name, region in regions.items():
        made: StoredTensor | str | None = None
        if name.endswith(".qweight"):
            made = _coded(name.removesuffix(".qweight"), regions, packing)
        elif name.endswith(".weight") and region.dtype == "U8" and packing.method == "bitnet":
            made = _ternary(name.removesuffix(".weight"), regions, packing)
        elif name.endswith(".weight") and f"{name}_scale_inv" in regions:
            made = _fp8(name, regions, packing)
        if made is None:
            continue
        if isinstance(made, str):
            problems.append(made)
            continue
        if made.name in found or (made.name in regions and made.parts.get("weight") is not region):
            problems.append(f"{made.name}: must be stored once, plain or packed")
        found[made.name] = made
        used |= {part_name for part_name in _names(name) if part_name in regions}
    for name, region in regions.items():
        if name in used or name in found:
            continue
        found[name] = StoredTensor(
            name=name,
            shape=region.shape,
            # Tensors of one format share it: a large model has a hundred thousand of them.
            storage=plain.setdefault(region.dtype, Storage(name=region.dtype)),
            layout="plain",
            parts={"weight": region},
        )
    return found, problems[:MAX_PROBLEMS]


def _names(name: str) -> list[str]:
    """The parts that a packed tensor may have, by the name of its first."""
    if name.endswith(".qweight"):
        prefix = name.removesuffix("qweight")
        return [prefix + part for part in _CODED]
    return [name, f"{name}_scale", f"{name}_scale_inv"]


def _coded(prefix: str, regions: Mapping[str, Region], packing: Packing) -> StoredTensor | str:
    """A matrix of GPTQ or AWQ."""
    name = f"{prefix}.qweight"
    if packing.method not in ("gptq", "awq"):
        got = shown(packing.method) if packing.method else "none"
        return f"{name}: needs quantization_config.quant_method gptq or awq, got {got}"
    parts = {part: regions[f"{prefix}.{part}"] for part in _CODED if f"{prefix}.{part}" in regions}
    for part, dtypes in (("qweight", ("I32",)), ("qzeros", ("I32",)), ("scales", _SCALES)):
        if part not in parts:
            return f"{prefix}.{part}: is required by {name}"
        if parts[part].dtype not in dtypes:
            among, other = " or ".join(dtypes), parts[part].dtype
            return f"{prefix}.{part}: dtype must be {among}, got {other}"
        if len(parts[part].shape) != 2 or not all(parts[part].shape):
            sizes = list(parts[part].shape)
            return f"{prefix}.{part}: shape must be two sizes from 1 on, got {sizes}"
    bits, (rows, columns) = packing.bits, parts["qweight"].shape
    awq = packing.method == "awq"
    if awq:
        k, n = rows, columns * 8
    else:
        if rows * 32 % bits:
            return f"{name}: rows must be whole codes of {bits} bits, got {rows}"
        k, n = rows * 32 // bits, columns
    group = packing.group or k
    groups = -(-k // group)
    wanted: dict[str, tuple[int, ...]] = {"scales": (groups, n)}
    if n * bits % 32:
        return f"{name}: columns must be whole words of {bits}-bit zero points, got {n}"
    wanted["qzeros"] = (groups, n * bits // 32)
    if "g_idx" in parts:
        if parts["g_idx"].dtype not in ("I32", "I64"):
            return f"{prefix}.g_idx: dtype must be I32 or I64, got {parts['g_idx'].dtype}"
        wanted["g_idx"] = (k,)
    for part, shape in wanted.items():
        if parts[part].shape != shape:
            sizes = list(parts[part].shape)
            return (
                f"{prefix}.{part}: shape must be {list(shape)} for K = {k}, N = {n}, {bits} bits "
                f"in groups of {group}, got {sizes}"
            )
    scale = 8 * parts["scales"].size // (groups * n)
    storage = Storage(
        name=f"{packing.method.upper()} {bits}-bit",
        bits=bits,
        group=group,
        group_bits=scale + bits,
        signed=False,
    )
    return StoredTensor(
        name=f"{prefix}.weight", shape=(n, k), storage=storage, layout=packing.layout, parts=parts
    )


def _ternary(
    prefix: str, regions: Mapping[str, Region], packing: Packing
) -> StoredTensor | str | None:
    """A matrix of packed {−1, 0, +1}."""
    weight = regions[f"{prefix}.weight"]
    scale = regions.get(f"{prefix}.weight_scale")
    if len(weight.shape) != 2 or not all(weight.shape):
        return f"{prefix}.weight: shape must be two sizes from 1 on, got {list(weight.shape)}"
    if scale is None:
        return f"{prefix}.weight_scale: is required by packed {prefix}.weight"
    if scale.dtype not in _SCALES or scale.shape not in ((), (1,)):
        got = f"{scale.dtype} {list(scale.shape)}"
        return f"{prefix}.weight_scale: must be one number of {' or '.join(_SCALES)}, got {got}"
    return StoredTensor(
        name=f"{prefix}.weight",
        shape=(4 * weight.shape[0], weight.shape[1]),
        # One scale a tensor: none of it is a row's.
        storage=_BITNET,
        layout=packing.layout,
        parts={"weight": weight, "weight_scale": scale},
    )


def _fp8(name: str, regions: Mapping[str, Region], packing: Packing) -> StoredTensor | str:
    """A matrix of E4M3 with a factor for each block of rows and columns."""
    weight, scale = regions[name], regions[f"{name}_scale_inv"]
    if weight.dtype != "F8_E4M3":
        return f"{name}: dtype must be F8_E4M3 beside {name}_scale_inv, got {weight.dtype}"
    if scale.dtype not in (*_SCALES, "F64"):
        return f"{name}_scale_inv: dtype must be {' or '.join(_SCALES)}, got {scale.dtype}"
    shape = tuple(
        -(-size // block) for size, block in zip(weight.shape, packing.block, strict=False)
    )
    if len(weight.shape) != 2 or scale.shape != shape:
        block = "×".join(map(str, packing.block))
        return (
            f"{name}_scale_inv: shape must be {list(shape)} for {list(weight.shape)} in blocks of "
            f"{block}, got {list(scale.shape)}"
        )
    return StoredTensor(
        name=name,
        shape=weight.shape,
        storage=_FP8,
        layout="fp8",
        parts={"weight": weight, "scale": scale},
        block=packing.block,
    )


def is_float(tensor: StoredTensor) -> bool:
    """Whether a tensor is plain floats."""
    return tensor.layout in ("plain", "ggml") and tensor.storage.name in FLOATS
