"""Data of stored tensors as numbers: floats as they are, packed weights as codes and scales."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sw_driver.architecture import Storage
from sw_driver.checkpoint.packed import AWQ_ORDER
from sw_driver.checkpoint.tensor import Region, StoredTensor
from sw_driver.checkpoint.weights import GroupedWeights, TwoLevel, joined
from sw_driver.config_file import ConfigError

PIECE = 1 << 20
"""Elements that are unpacked at a time."""

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "I64": "<i8",
    "I32": "<i4", "U8": "u1",
}  # fmt: skip

# E2M1 in halves, by code (OCP Microscaling Formats 1.0, table 5).
_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.int8)


def raw(region: Region, name: str, start: int = 0, size: int | None = None) -> bytes:
    """Bytes of a region.

    Raises:
        ConfigError: the file is shorter than it was, or cannot be read any more.
    """
    size = region.size - start if size is None else size
    try:
        with region.file.open("rb") as handle:
            handle.seek(region.start + start)
            found = handle.read(size)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ConfigError(str(region.file), [f"{name}: cannot be read, {reason}"]) from None
    if len(found) != size:
        raise ConfigError(str(region.file), [f"{name}: ends before its data does"])
    return found


def rows_of(tensor: StoredTensor) -> int:
    """Rows of a tensor, of all matrices of a stack."""
    count = 1
    for size in tensor.shape[:-1]:
        count *= size
    return count


def float_rows(tensor: StoredTensor, start: int, stop: int) -> np.ndarray:
    """Rows of a tensor of floats as ``float32`` ``(rows, K)``, blocks of FP8 scaled.

    Raises:
        ConfigError: it holds no floats, or some that no finite ``float32`` is.
    """
    part = tensor.parts["weight"]
    width = tensor.shape[-1] if tensor.shape else 1
    if tensor.layout not in ("plain", "ggml", "fp8") or part.dtype not in (*_FLOAT, "F8_E4M3"):
        among = ", ".join(_FLOAT)
        raise ConfigError(
            str(part.file),
            [f"{tensor.name}: dtype must be one of {among}, got {tensor.storage.name}"],
        )
    item = np.dtype(_DTYPES[part.dtype]).itemsize
    data = raw(part, tensor.name, start * width * item, (stop - start) * width * item)
    values = _floats(np.frombuffer(data, dtype=_DTYPES[part.dtype]), part.dtype)
    values = values.reshape(stop - start, width)
    if tensor.layout == "fp8":
        values = values * _fp8_factors(tensor, start, stop)
    good = np.isfinite(values)
    if not good.all():
        row, column = np.unravel_index(int(np.argmin(good)), values.shape)
        index = [*np.unravel_index(start + int(row), tensor.shape[:-1]), column]
        where = "".join(f"[{int(i)}]" for i in index if tensor.shape)
        got = values[row, column]
        raise ConfigError(
            str(part.file), [f"{tensor.name}{where}: must be a finite float32, got {got}"]
        )
    return values


_FLOAT = ("F64", "F32", "F16", "BF16")


def _floats(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E4M3":
        from hw.formats import FP8_E4M3

        return np.asarray(FP8_E4M3.decode(values)).astype(np.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused by the caller
        return values.astype(np.float32)


def _fp8_factors(tensor: StoredTensor, start: int, stop: int) -> np.ndarray:
    """``(rows, K)``: the factor of every element."""
    weight, scale = tensor.parts["weight"], tensor.parts["scale"]
    found = _floats(
        np.frombuffer(raw(scale, tensor.name), dtype=_DTYPES[scale.dtype]), scale.dtype
    ).reshape(scale.shape)
    rows = np.arange(start, stop) // tensor.block[0]
    factors: np.ndarray = np.repeat(found[rows], tensor.block[1], axis=1)[:, : weight.shape[1]]
    return factors


def weight_rows(tensor: StoredTensor, start: int, stop: int) -> GroupedWeights:
    """Rows of a tensor of codes, as they are stored.

    Raises:
        ConfigError: the tensor holds no codes, or codes or scales that its format does not have.
    """
    reader = _READERS.get(tensor.layout)
    if not tensor.storage.bits or reader is None:
        rule = f"{tensor.name}: must be stored as codes, got {tensor.storage.name}"
        raise ConfigError(str(tensor.parts["weight"].file), [rule])
    step = max(1, PIECE // max(1, tensor.shape[-1]))
    if tensor.layout.startswith("bitnet"):
        return reader(tensor, start, stop)
    pieces = [reader(tensor, low, min(low + step, stop)) for low in range(start, stop, step)]
    return joined(pieces)


def _refuse(tensor: StoredTensor, part: str, rule: str) -> ConfigError:
    return ConfigError(str(tensor.parts[part].file), [f"{tensor.name}: {rule}"])


# GGUF: rows of blocks.


def _ggml_rows(tensor: StoredTensor, start: int, stop: int) -> GroupedWeights:
    part = tensor.parts["weight"]
    rows, width = rows_of(tensor), tensor.shape[-1]
    row_size = part.size // rows
    data = np.frombuffer(
        raw(part, tensor.name, start * row_size, (stop - start) * row_size), dtype=np.uint8
    )
    made = _BLOCKS[tensor.storage.name](data.reshape(-1, _block_size(tensor)))
    count = stop - start

    def by_row(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values.reshape(count, -1)

    # Every stored factor is a column of the block decoder's scales: what is not finite shows there.
    stored = [made.factor, made.offset_factor]
    if not all(np.isfinite(values).all() for values in stored if values is not None):
        bad = next(v for v in stored if v is not None and not np.isfinite(v).all())
        place = int(np.argmin(np.isfinite(bad.reshape(count, -1)).all(axis=1)))
        raise _refuse(tensor, "weight", f"scales must be finite, row {start + place} has others")
    codes = made.codes.reshape(count, width)
    if tensor.storage.ternary and made.codes.size and int(made.codes.max()) > 1:
        raise _refuse(tensor, "weight", "codes must be 0, 1 or 2 in ternary blocks, got 3")
    scale, offset = made.factor.astype(np.float32), None
    if made.part is not None:
        scale = scale * made.part
    if made.offset_factor is not None:
        offset = made.offset_factor.astype(np.float32)
        if made.offset_part is not None:
            offset = -(offset * made.offset_part)
    levels = None
    if made.part is not None:
        levels = TwoLevel(
            factor=made.factor.reshape(count, -1),
            part=made.part.reshape(count, -1),
            offset_factor=by_row(made.offset_factor),
            offset_part=by_row(made.offset_part),
        )
    return GroupedWeights(
        storage=tensor.storage,
        group=tensor.storage.group,
        codes=codes,
        scale=scale.reshape(count, -1),
        offset=by_row(offset),
        two_level=levels,
    )


def _block_size(tensor: StoredTensor) -> int:
    from sw_driver.checkpoint.ggml import GGML_TYPES

    return next(kind.size for kind in GGML_TYPES.values() if kind.name == tensor.storage.name)


class _Blocks:
    """Decoded blocks: codes ``(n, block)``, factors ``(n, 1)``, parts ``(n, groups)``."""

    def __init__(
        self,
        codes: np.ndarray,
        factor: np.ndarray,
        part: np.ndarray | None = None,
        offset_factor: np.ndarray | None = None,
        offset_part: np.ndarray | None = None,
    ):
        self.codes, self.factor, self.part = codes, factor, part
        self.offset_factor, self.offset_part = offset_factor, offset_part


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The ``float16`` of every block at a byte, ``(n, 1)``."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2")


def _fields(data: np.ndarray, run: int, bits: int) -> np.ndarray:
    """Bytes ``(n, m)`` to fields ``(n, m·8/bits)``: of a run of bytes all lowest fields first."""
    count = len(data)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields = (data.reshape(count, -1, 1, run) >> shifts) & np.uint8(2**bits - 1)
    return fields.reshape(count, -1)


def _signed(values: np.ndarray, offset: int) -> np.ndarray:
    return values.astype(np.int8) - np.int8(offset)


def _q4_0(b: np.ndarray) -> _Blocks:
    return _Blocks(_signed(_fields(b[:, 2:18], 16, 4), 8), _half(b, 0))


def _q4_1(b: np.ndarray) -> _Blocks:
    codes = _fields(b[:, 4:20], 16, 4).astype(np.int16)
    return _Blocks(codes, _half(b, 0), offset_factor=_half(b, 2))


def _q5(b: np.ndarray, at: int) -> np.ndarray:
    """Five bits: the highest ones of 32 elements in four bytes, then the nibbles."""
    high = np.unpackbits(b[:, at : at + 4], axis=1, bitorder="little")
    return _fields(b[:, at + 4 : at + 20], 16, 4) | high << 4


def _q5_0(b: np.ndarray) -> _Blocks:
    return _Blocks(_signed(_q5(b, 2), 16), _half(b, 0))


def _q5_1(b: np.ndarray) -> _Blocks:
    return _Blocks(_q5(b, 4).astype(np.int16), _half(b, 0), offset_factor=_half(b, 2))


def _q8_0(b: np.ndarray) -> _Blocks:
    return _Blocks(np.ascontiguousarray(b[:, 2:34]).view(np.int8), _half(b, 0))


def _q2_k(b: np.ndarray) -> _Blocks:
    scales = b[:, :16].astype(np.int16)
    return _Blocks(
        _fields(b[:, 16:80], 32, 2).astype(np.int16),
        _half(b, 80),
        scales & 15,
        _half(b, 82),
        scales >> 4,
    )


def _q3_k(b: np.ndarray) -> _Blocks:
    # The bit of the mask is set where nothing is taken off.
    low, missing = _fields(b[:, 32:96], 32, 2), 1 - _fields(b[:, :32], 32, 1)
    nibbles, pairs = _fields(b[:, 96:104], 8, 4), _fields(b[:, 104:108], 4, 2)
    part = (nibbles | pairs << 4).astype(np.int16) - 32
    return _Blocks(low.astype(np.int8) - (missing << 2).astype(np.int8), _half(b, 108), part)


def _six_bits(b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eight scales and eight minima of six bits in twelve bytes."""
    low, middle, high = (b[:, at : at + 4].astype(np.int16) for at in (0, 4, 8))
    scale = np.concatenate([low & 63, high & 15 | low >> 6 << 4], axis=1)
    least = np.concatenate([middle & 63, high >> 4 | middle >> 6 << 4], axis=1)
    return scale, least


def _q4_k(b: np.ndarray) -> _Blocks:
    part, least = _six_bits(b[:, 4:16])
    codes = _fields(b[:, 16:144], 32, 4).astype(np.int16)
    return _Blocks(codes, _half(b, 0), part, _half(b, 2), least)


def _q5_k(b: np.ndarray) -> _Blocks:
    part, least = _six_bits(b[:, 4:16])
    codes = _fields(b[:, 48:176], 32, 4) | _fields(b[:, 16:48], 32, 1) << 4
    return _Blocks(codes.astype(np.int16), _half(b, 0), part, _half(b, 2), least)


def _q6_k(b: np.ndarray) -> _Blocks:
    codes = _fields(b[:, :128], 64, 4) | _fields(b[:, 128:192], 32, 2) << 4
    part = np.ascontiguousarray(b[:, 192:208]).view(np.int8).astype(np.int16)
    return _Blocks(_signed(codes, 32), _half(b, 208), part)


def _trits(data: np.ndarray, run: int, count: int) -> np.ndarray:
    """Bytes that are fractions of 256 in base 3: ``count`` digits of each, run by run."""
    powers = 3 ** np.arange(count, dtype=np.uint16)[:, None]
    # What is left of the fraction after some digits, then the next one.
    rest = (data.reshape(len(data), -1, 1, run) * powers) & 255
    return (rest * 3 >> 8).reshape(len(data), -1)


def _tq1_0(b: np.ndarray) -> _Blocks:
    digits = [_trits(b[:, :32], 32, 5), _trits(b[:, 32:48], 16, 5), _trits(b[:, 48:52], 4, 4)]
    return _Blocks(_signed(np.concatenate(digits, axis=1), 1), _half(b, 52))


def _tq2_0(b: np.ndarray) -> _Blocks:
    return _Blocks(_signed(_fields(b[:, :64], 32, 2), 1), _half(b, 64))


def _mxfp4(b: np.ndarray) -> _Blocks:
    # E8M0, and half of it for the integers; 255 stands for no number.
    power = b[:, :1].astype(np.int32)
    scale = np.where(power == 255, np.float32(np.nan), np.ldexp(np.float32(1), power - 128))
    return _Blocks(_E2M1[_fields(b[:, 1:17], 16, 4)], scale)


_BLOCKS: dict[str, Callable[[np.ndarray], _Blocks]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "TQ1_0": _tq1_0,
    "TQ2_0": _tq2_0,
    "MXFP4": _mxfp4,
}


# GPTQ and AWQ: words of 32 bits, K along the rows.


def _matrix(region: Region, name: str, start: int, stop: int) -> np.ndarray:
    """Columns of a stored matrix, without reading the others where a file can be mapped."""
    height, width = region.shape
    dtype = np.dtype(_DTYPES[region.dtype])
    if stop - start == width:
        return np.frombuffer(raw(region, name), dtype=dtype).reshape(height, width)
    columns = np.empty((height, stop - start), dtype=dtype)
    try:
        with region.file.open("rb") as handle:
            for row in range(height):
                handle.seek(region.start + (row * width + start) * dtype.itemsize)
                piece = handle.read((stop - start) * dtype.itemsize)
                if len(piece) != (stop - start) * dtype.itemsize:
                    raise ConfigError(str(region.file), [f"{name}: ends before its data does"])
                columns[row] = np.frombuffer(piece, dtype=dtype)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ConfigError(str(region.file), [f"{name}: cannot be read, {reason}"]) from None
    return columns


def _stream(words: np.ndarray, bits: int) -> np.ndarray:
    """Words ``(rows, …)`` along axis 0 to codes: a little-endian stream of ``bits``-bit fields."""
    words = np.ascontiguousarray(words).view(np.uint32)
    if 32 % bits == 0:
        shifts = np.arange(0, 32, bits, dtype=np.uint32)[:, None]
        fields = (words[:, None] >> shifts) & np.uint32(2**bits - 1)
        return fields.reshape(-1, words.shape[1]).astype(np.int16)
    # Fields that cross words: three words hold 32 of three bits.
    count = len(words) * 32 // bits
    first = np.arange(count) * bits
    word, shift = first // 32, (first % 32).astype(np.uint64)[:, None]
    after = np.minimum(word + 1, len(words) - 1)
    pair = words[word].astype(np.uint64) | words[after].astype(np.uint64) << np.uint64(32)
    fields = (pair >> shift) & np.uint64(2**bits - 1)
    return fields.astype(np.int16)


def _gptq_rows(tensor: StoredTensor, start: int, stop: int) -> GroupedWeights:
    bits, n = tensor.storage.bits, tensor.shape[0]
    codes = _stream(_matrix(tensor.parts["qweight"], tensor.name, start, stop), bits).T
    # Words of zero points do not end where rows do: all are read, they are few.
    zeros = _stream(_matrix(tensor.parts["qzeros"], tensor.name, 0, n * bits // 32).T, bits)
    zeros = zeros[start:stop]
    if tensor.layout == "gptq":
        # One less than the zero point is stored, modulo the width.
        zeros = (zeros + 1) & (2**bits - 1)
    order = _order(tensor)
    if order is not None:
        codes = codes[:, order]
    return GroupedWeights(
        storage=tensor.storage,
        group=tensor.storage.group,
        codes=np.ascontiguousarray(codes),
        scale=_scales(tensor, start, stop),
        zero=np.ascontiguousarray(zeros),
        order=order,
    )


def _order(tensor: StoredTensor) -> np.ndarray | None:
    """The order that brings the elements of a group together, None if they are so.

    Raises:
        ConfigError: groups are not of their size.
    """
    part = tensor.parts.get("g_idx")
    if part is None:
        return None
    k, group = tensor.shape[1], tensor.storage.group
    numbers = np.frombuffer(raw(part, tensor.name), dtype=_DTYPES[part.dtype])
    plain = np.arange(k) // group
    if np.array_equal(numbers, plain):
        return None
    order = np.argsort(numbers, kind="stable")
    if not np.array_equal(numbers[order], plain):
        rule = f"g_idx must name {int(plain[-1]) + 1} groups, each for {group} elements of K"
        raise _refuse(tensor, "g_idx", rule)
    return order


def _scales(tensor: StoredTensor, start: int, stop: int) -> np.ndarray:
    """``float32`` ``(rows, groups)``."""
    part = tensor.parts["scales"]
    values = _floats(_matrix(part, tensor.name, start, stop), part.dtype).T
    if not np.isfinite(values).all():
        row = start + int(np.argmin(np.isfinite(values).all(axis=1)))
        raise _refuse(tensor, "scales", f"scales must be finite, row {row} has others")
    return np.ascontiguousarray(values)


def _awq_rows(tensor: StoredTensor, start: int, stop: int) -> GroupedWeights:
    # Whole words of eight columns.
    first, last = start // 8, -(-stop // 8)
    inside = slice(start - 8 * first, stop - 8 * first)

    def columns(part: str) -> np.ndarray:
        words = _matrix(tensor.parts[part], tensor.name, first, last)
        fields = _stream(words.reshape(1, -1), 4).reshape(8, *words.shape)
        made = np.empty((*words.shape, 8), dtype=np.int16)
        made[..., AWQ_ORDER] = np.moveaxis(fields, 0, -1)
        return np.ascontiguousarray(made.reshape(len(words), -1)[:, inside].T)

    return GroupedWeights(
        storage=tensor.storage,
        group=tensor.storage.group,
        codes=columns("qweight"),
        scale=_scales(tensor, start, stop),
        zero=columns("qzeros"),
    )


# BitNet: rows of four quarters in one byte.


def _bitnet_rows(tensor: StoredTensor, start: int, stop: int) -> GroupedWeights:
    part, factor = tensor.parts["weight"], tensor.parts["weight_scale"]
    quarter, k = part.shape
    codes = np.empty((stop - start, k), dtype=np.int8)
    for number in range(4):
        low, high = max(start, number * quarter), min(stop, (number + 1) * quarter)
        for at in range(low, high, max(1, PIECE // k)):
            end = min(high, at + max(1, PIECE // k))
            data = raw(part, tensor.name, (at - number * quarter) * k, (end - at) * k)
            fields = np.frombuffer(data, dtype=np.uint8) >> np.uint8(2 * number) & np.uint8(3)
            if fields.size and fields.max() == 3:
                raise _refuse(tensor, "weight", "codes must be 0, 1 or 2 in packed trits, got 3")
            codes[at - start : end - start] = (fields.astype(np.int8) - 1).reshape(end - at, k)
    stored = np.frombuffer(raw(factor, tensor.name), dtype=_DTYPES[factor.dtype])
    scale = _floats(stored, factor.dtype)[0]
    if not np.isfinite(scale) or scale == 0:
        raise _refuse(tensor, "weight_scale", f"weight_scale must be finite and not 0, got {scale}")
    if tensor.layout == "bitnet_inverse":
        scale = np.float32(1) / scale
    if not np.isfinite(scale):
        raise _refuse(tensor, "weight_scale", "weight_scale must have a finite inverse")
    return GroupedWeights(
        storage=tensor.storage,
        group=k,
        codes=codes,
        scale=np.full((stop - start, 1), scale, dtype=np.float32),
    )


_READERS: dict[str, Callable[[StoredTensor, int, int], GroupedWeights]] = {
    "ggml": _ggml_rows,
    "gptq": _gptq_rows,
    "gptq_v2": _gptq_rows,
    "awq": _awq_rows,
    "bitnet": _bitnet_rows,
    "bitnet_inverse": _bitnet_rows,
}

__all__ = ["Storage", "float_rows", "raw", "rows_of", "weight_rows"]
