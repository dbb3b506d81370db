"""Quantizers: exact codes by hand, the identities of the formats, and what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sw_driver.quantize import (
    SCHEMES,
    Clip,
    Group,
    QuantizedWeights,
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


def error(w: np.ndarray, result: QuantizedWeights) -> np.ndarray:
    """Squared error ``(N, groups)``."""
    square = np.square(result.dequantized().astype(np.float64) - w)
    return np.stack([square[:, result.columns(g)].sum(axis=1) for g in range(result.groups)], 1)


def least_by_scan(w: np.ndarray, scheme: Scheme, bits: int) -> float:
    """The least squared error of one group over a fine scan of scales and all zero points."""
    grid = np.array(sorted(levels(scheme, bits)), dtype=np.float64)
    points = grid if scheme == "asymmetric" else [0.0]
    scales = np.geomspace(1e-2, 2, 1500) * np.abs(w).max()
    least = np.inf
    for zero in points:
        values = scales[:, None] * (grid - zero)
        distance = np.abs(w[:, None, None] - values).min(axis=2)
        least = min(least, float(np.square(distance).sum(axis=0).min()))
    return least


SMALL = [(scheme, bits) for scheme, bits in CASES if bits <= 3]


@pytest.mark.parametrize(("scheme", "bits"), SMALL)
def test_exact_clipping_is_the_least_error(scheme: Scheme, bits: int) -> None:
    rng = np.random.default_rng(bits)
    w = np.concatenate([rng.normal(size=(3, 20)), rng.normal(size=(2, 20)) ** 3]).astype(np.float32)
    w[1, 4] = 9
    w[2] = np.abs(w[2])
    found = SCHEMES[scheme](w, bits, 20, scale_dtype=np.float32, clip="exact")
    for row, got in zip(w.astype(np.float64), error(w, found)[:, 0], strict=True):
        scanned = least_by_scan(row, scheme, bits)
        # Never above what a scan finds, and not below what a fine one nearly reaches.
        assert got <= scanned * (1 + 1e-6)
        assert got >= scanned * (1 - 5e-3)


@pytest.mark.parametrize(("scheme", "bits"), [case for case in CASES if case[1] <= 4])
@pytest.mark.parametrize("group", [32, 50, "channel", "tensor"])
def test_searched_clipping_lies_between_absmax_and_exact(
    scheme: Scheme, bits: int, group: Group
) -> None:
    w = np.random.default_rng(8).standard_t(4, size=(6, 128)).astype(np.float32)
    quantize = SCHEMES[scheme]
    errors = {
        clip: error(w, quantize(w, bits, group, scale_dtype=np.float32, clip=clip))
        for clip in ("absmax", "mse", "exact")
    }
    if group == "tensor":
        errors = {clip: found.sum(keepdims=True) for clip, found in errors.items()}
    assert (errors["mse"] <= errors["absmax"] * (1 + 1e-5)).all()
    assert (errors["exact"] <= errors["mse"] * (1 + 1e-5)).all()
    if scheme in ("symmetric", "bipolar") and 1 < bits < 4:
        assert errors["mse"].sum() < 0.85 * errors["absmax"].sum()
    if scheme != "asymmetric":
        assert errors["mse"].sum() < 1.15 * errors["exact"].sum()


@pytest.mark.parametrize(("scheme", "bits"), CASES)
@pytest.mark.parametrize("clip", ["absmax", "mse"])
def test_channel_and_tensor_are_groups(scheme: Scheme, bits: int, clip: Clip) -> None:
    w = weights()[6:]
    quantize = SCHEMES[scheme]
    row, whole = quantize(w, bits, "channel", clip=clip), quantize(w, bits, 200, clip=clip)
    assert np.array_equal(row.codes, whole.codes)
    assert np.array_equal(row.scale, whole.scale)
    # One scale for all is that of all elements in one row.
    tensor = quantize(w, bits, "tensor", clip=clip)
    flat = quantize(w.reshape(1, -1), bits, w.size, clip=clip)
    assert np.unique(tensor.scale).tolist() == flat.scale.ravel().tolist()
    assert np.array_equal(tensor.codes.ravel(), flat.codes.ravel())
    assert np.array_equal(tensor.dequantized().ravel(), flat.dequantized().ravel())


def test_corners_of_groups_of_any_size() -> None:
    for group in (1, 2, 3, 16, 24, 64, 65, 128):
        w = np.zeros((3, 130), dtype=np.float32)
        w[1] = 1e-42
        w[2] = np.where(np.arange(130) % 2, np.float32(3e38), np.float32(-3e38))
        for (scheme, bits), clip in itertools.product(CASES[::3], ("absmax", "mse")):
            found = SCHEMES[scheme](w, bits, group, scale_dtype=np.float32, clip=clip)
            assert np.isfinite(found.dequantized()).all()
            assert set(np.unique(found.codes)) <= levels(scheme, bits)
            if scheme != "bipolar":
                assert not found.dequantized()[0].any()
            assert (
                np.sign(found.dequantized()[2]) == np.sign(w[2])
            ).all() or scheme == "asymmetric"


def test_a_wrong_value_is_named_with_its_place() -> None:
    w = np.ones((900, 300), dtype=np.float32)
    w[811, 271] = np.nan
    for group in (64, 100, "channel", "tensor"):
        for clip in ("absmax", "mse"):
            for scheme, bits in (("asymmetric", 4), ("symmetric", 4), ("ternary", 2)):
                with pytest.raises(ValueError, match=r"w: must be finite, got nan at \[811, 271\]"):
                    SCHEMES[scheme](w, bits, group, clip=clip)  # type: ignore[index]
    with pytest.raises(ValueError, match=r"x: must be finite, got nan at \[811, 271\]"):
        quantize_activations(w)


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
        (lambda w: quantize_bipolar(w / 0, 4, 8), r"w: must be finite, got inf at \[0, 0\]"),
        (lambda w: quantize_bipolar(w, 4, "row"), "group: must be a number, channel or tensor"),
        (lambda w: quantize_bipolar(w, 4, 8, clip="max"), "clip: must be absmax, mse or exact"),
        (lambda w: quantize_bipolar(w, 7, 8, clip="exact"), "clip: exact must have at most 6 bits"),
        (lambda w: quantize_activations(w, 1), r"bits: must lie in \[2, 16\], got 1"),
        (lambda w: quantize_activations(w * np.nan), "x: must be finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.filterwarnings("ignore:invalid value")
def test_refusals(call, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=text):
        call(np.ones((2, 8), dtype=np.float32))
