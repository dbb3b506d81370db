"""Quantizers: exact codes by hand, the identities of the formats, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from sw_driver.quantize import (
    SCHEMES,
    Scheme,
    quantize_activations,
    quantize_asymmetric,
    quantize_bipolar,
    quantize_symmetric,
    quantize_ternary,
    reinterpret,
)

CASES: list[tuple[Scheme, int]] = [
    *(("asymmetric", bits) for bits in range(1, 9)),  # type: ignore[list-item]
    *(("symmetric", bits) for bits in range(2, 9)),  # type: ignore[list-item]
    *(("bipolar", bits) for bits in range(1, 9)),  # type: ignore[list-item]
    ("ternary", 2),
]


def weights(shape: tuple[int, int] = (24, 200), seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    w = rng.normal(size=shape).astype(np.float32)
    w[0] = 0
    w[1, :64] = 1e-7
    w[2] *= 1e4
    w[3, 5] = 300
    w[4] = np.abs(w[4])
    w[5] = -np.abs(w[5])
    return w


def levels(scheme: Scheme, bits: int) -> set[int]:
    if scheme == "asymmetric":
        return set(range(2**bits))
    if scheme == "symmetric":
        return set(range(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1)))
    if scheme == "bipolar":
        return set(range(-(2**bits) + 1, 2**bits, 2))
    return {-1, 0, 1}


@pytest.mark.parametrize(("scheme", "bits"), CASES)
@pytest.mark.parametrize("group", [32, 64, 200, 1000])
def test_codes_are_levels_of_the_format(scheme: Scheme, bits: int, group: int) -> None:
    w = weights()
    result = SCHEMES[scheme](w, bits, group)
    assert set(np.unique(result.codes)) <= levels(scheme, bits)
    assert result.codes.shape == w.shape
    assert result.groups == -(-200 // min(group, 200))
    assert result.scale.dtype == np.float16
    assert np.all(result.scale > 0)
    if result.zero is not None:
        assert result.zero.min() >= 0
        assert result.zero.max() <= 2**bits - 1
    assert np.all(np.isfinite(result.dequantized()))


@pytest.mark.parametrize(("scheme", "bits"), CASES)
def test_each_code_is_the_nearest_level(scheme: Scheme, bits: int) -> None:
    w = weights((6, 96), seed=9)
    result = SCHEMES[scheme](w, bits, 32, scale_dtype=np.float32)
    for n in range(len(w)):
        for g in range(result.groups):
            zero = 0 if result.zero is None else int(result.zero[n, g])
            grid = np.array(sorted(levels(scheme, bits)))
            values = float(result.scale[n, g]) * (grid - zero)
            part = w[n, result.columns(g)].astype(np.float64)
            best = np.abs(part[:, None] - values).min(axis=1)
            got = np.abs(part - result.dequantized()[n, result.columns(g)])
            # Equal but for the rounding of float32.
            assert np.all(got <= best + 1e-5 * (np.abs(part) + 1e-3))


def test_asymmetric_by_hand() -> None:
    w = np.array([[-1.0, 0.0, 1.0, 2.0, 0.5, 1.5, -0.5, 0.4]], dtype=np.float32)
    result = quantize_asymmetric(w, 2, 4)
    assert result.scale.tolist() == [[1.0, np.float16(2 / 3)]]
    assert result.zero is not None
    assert result.zero.tolist() == [[1, 1]]
    assert result.codes.tolist() == [[0, 1, 2, 3, 2, 3, 0, 2]]


def test_symmetric_by_hand() -> None:
    w = np.array([[-3.0, 1.0, 2.0, 0.4]], dtype=np.float32)
    result = quantize_symmetric(w, 3, 4)
    assert result.scale.tolist() == [[1.0]]
    assert result.codes.tolist() == [[-3, 1, 2, 0]]


def test_symmetric_clip_follows_the_rounding() -> None:
    w = np.array([[1.0, -1.0, 0.5]], dtype=np.float32)
    for value in (1.0, 0.9, 0.123, 1234.5):
        assert quantize_symmetric(w * np.float32(value), 8, 3).codes[0, :2].tolist() == [127, -127]
    # The largest float16 is a scale too small for these: they would get the codes ±1202.
    assert quantize_symmetric(w * np.float32(1e8), 8, 3).codes.tolist() == [[127, -127, 127]]
    # And the smallest one is too large for these.
    assert quantize_symmetric(w * np.float32(1e-5), 8, 3).codes.tolist() == [[0, 0, 0]]


def test_bipolar_by_hand() -> None:
    w = np.array([[3.0, -3.0, 0.1, -0.1, 1.9, 2.1, -1.9, -2.1]], dtype=np.float32)
    result = quantize_bipolar(w, 2, 8)
    assert result.scale.tolist() == [[1.0]]
    assert result.codes.tolist() == [[3, -3, 1, -1, 1, 3, -1, -3]]
    one = quantize_bipolar(np.array([[2.0, -4.0, 6.0, -8.0]], dtype=np.float32), 1, 4)
    assert one.scale.tolist() == [[5.0]]
    assert one.codes.tolist() == [[1, -1, 1, -1]]


def test_ternary_by_hand() -> None:
    w = np.array([[2.0, -0.9, 0.1, -1.0]], dtype=np.float32)
    result = quantize_ternary(w, 2, 4, scale_dtype=np.float32)
    assert result.scale.tolist() == [[1.0]]
    assert result.codes.tolist() == [[1, -1, 0, -1]]


@pytest.mark.parametrize("bits", range(1, 9))
def test_reinterpretation_is_an_identity(bits: int) -> None:
    q, z = np.meshgrid(np.arange(2**bits), np.arange(2**bits))
    q2, z2 = reinterpret(q, z, bits)
    assert set(np.unique(q2)) == set(range(-(2**bits) + 1, 2**bits, 2))
    # r = s·(q − z) = (s / 2)·(q' − z'), exactly, for every code and zero point.
    assert np.array_equal(2 * (q - z), q2 - z2)
    planes = [(q >> b) & 1 for b in range(bits)]
    assert np.array_equal(q2, sum((1 << b) * (2 * plane - 1) for b, plane in enumerate(planes)))


def test_reinterpreted_weights_are_the_same_numbers() -> None:
    result = quantize_asymmetric(weights(), 4, 40)
    assert result.zero is not None
    q2, z2 = reinterpret(result.codes, result.zero, 4)
    half = result.scale.astype(np.float64) / 2
    again = np.repeat(half, 40, axis=1) * (q2 - np.repeat(z2, 40, axis=1))
    assert np.allclose(again, result.dequantized(), rtol=1e-6, atol=0)


def test_more_bits_are_closer() -> None:
    w = weights((32, 256))[6:]
    for scheme in ("asymmetric", "symmetric", "bipolar"):
        errors = [
            float(np.square(SCHEMES[scheme](w, bits, 64).dequantized() - w).mean())  # type: ignore[index]
            for bits in range(2, 9)
        ]
        assert errors == sorted(errors, reverse=True)


def test_activations_by_hand() -> None:
    x = np.array([[127.0, -127.0, 63.4], [0.0, 0.0, 0.0], [-2.0, 1.0, 0.5]], dtype=np.float32)
    result = quantize_activations(x)
    assert result.codes.tolist() == [[127, -127, 63], [0, 0, 0], [-127, 64, 32]]
    assert result.scale.tolist() == [1.0, 1.0, pytest.approx(2 / 127)]
    four = quantize_activations(x, 4)
    assert four.codes.tolist()[0] == [7, -7, 3]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_activation_codes_stay_symmetric(dtype: type) -> None:
    x = np.random.default_rng(1).normal(size=(500, 33)).astype(dtype)
    codes = quantize_activations(x).codes
    assert np.all(np.abs(codes).max(axis=1) == 127)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda w: quantize_asymmetric(w, 9, 32), r"bits: must lie in \[1, 8\], got 9"),
        (lambda w: quantize_symmetric(w, 1, 32), "bits: must be at least 2 for symmetric codes"),
        (lambda w: quantize_ternary(w, 4, 32), "bits: must be 2 for ternary codes, got 4"),
        (lambda w: quantize_bipolar(w, 4, 0), "group: must be positive, got 0"),
        (lambda w: quantize_bipolar(w[0], 4, 8), "w: must be a matrix with elements, got shape"),
        (lambda w: quantize_bipolar(w.astype(int), 4, 8), "w: must hold floating-point numbers"),
        (lambda w: quantize_bipolar(w / 0, 4, 8), "w: must be finite"),
        (lambda w: quantize_activations(w, 1), r"bits: must lie in \[2, 16\], got 1"),
        (lambda w: quantize_activations(w * np.nan), "x: must be finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.filterwarnings("ignore:invalid value")
def test_refusals(call, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=text):
        call(np.ones((2, 8), dtype=np.float32))
