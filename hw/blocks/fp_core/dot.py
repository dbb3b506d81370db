"""One step's dot products, exactly as they are defined: integers and flags, in numpy.

Of products ``p_k · 2^(x_k − unit)`` (see :mod:`hw.blocks.fp_core.product`) those of two finite
numbers other than zero take part; ``X`` is the largest ``x_k`` of them, 0 if there is none. With a
window of ``V`` bits each magnitude is cut to multiples of ``2^(X + bias)``, ``bias = bits − V −
unit``, towards zero; then the sum is exact::

    D = Σ_k ± floor(p_k · 2^(x_k − X + V − bits))          value D · 2^(X + bias)

``exact`` is the window in which nothing is ever cut, with ``X`` the largest exponent of the
formats, a constant that belongs to ``bias``. It is magnitudes that are cut, so that the sum of
negated operands is the negated sum.

A step is NaN if an operand is, if an infinity meets a zero, or if infinities of both signs meet; it
is infinite if products of one sign are (IEEE 754-2019, 6.1, 6.2, 7.2).
"""

from __future__ import annotations

from dataclasses import dataclass

from hw.blocks.fp_core.spec import FpCoreSpec
from hw.formats import FP16
from hw.lazy import np


@dataclass(frozen=True)
class StepSum:
    """Sums of one step, all ``(M, N)``.

    Attributes:
        d: ``D``; ``int64``, or Python integers where that is too narrow.
        code: ``X``; 0 with an exact window.
        nan, pinf, ninf: the sum is NaN, or an infinity; ``d`` is then 0.
        cut: something was cut off.
    """

    d: np.ndarray
    code: np.ndarray
    nan: np.ndarray
    pinf: np.ndarray
    ninf: np.ndarray
    cut: np.ndarray


def dequantized(
    spec: FpCoreSpec, w: np.ndarray, scale: np.ndarray, zero: np.ndarray | None
) -> np.ndarray:
    """FP16 codes of ``(q − z) · s``, rounded once to nearest even, ``(N, K)``.

    Args:
        w: ``q`` ``(N, K)``.
        scale: FP16 codes ``(N, K / group)``.
        zero: ``z`` ``(N, K / group)``, None where the encoding has none.

    The product is exact in ``float64`` (9 by 11 bits). Overflow gives an infinity, an infinite
    scale times 0 NaN.
    """
    places = np.arange(w.shape[1]) // spec.group
    q = w.astype(np.int64)
    if zero is not None:
        q = q - zero.astype(np.int64)[:, places]
    with np.errstate(invalid="ignore"):
        values = q * FP16.decode(scale)[:, places]
    return FP16.encode(values)


def step_sum(spec: FpCoreSpec, a: np.ndarray, w: np.ndarray) -> StepSum:
    """The sums of one step of codes ``a`` ``(M, K)`` and ``w`` ``(N, K)``."""
    product = spec.product
    af, wf = product.a, product.w
    a, w = a[:, None, :], w[None, :, :]
    a_sign, _, a_part, a_power = af.fields(a)
    w_sign, _, w_part, w_power = wf.fields(w)
    a_nan, w_nan, a_inf, w_inf = af.is_nan(a), wf.is_nan(w), af.is_inf(a), wf.is_inf(w)
    a_zero, w_zero = (a_part == 0) & ~a_inf, (w_part == 0) & ~w_inf
    negative = a_sign != w_sign

    infinite = (a_inf | w_inf) & ~(a_nan | w_nan)
    invalid = (a_inf & w_zero) | (w_inf & a_zero)
    plus = (infinite & ~negative).any(axis=2)
    minus = (infinite & negative).any(axis=2)
    nan = (a_nan | w_nan | invalid).any(axis=2) | (plus & minus)
    special = nan | plus | minus

    p = np.where(a_nan | w_nan | a_inf | w_inf, 0, a_part * w_part)
    x = a_power + w_power + product.unit
    largest = np.where(p != 0, x, 0).max(axis=2)
    top = np.full_like(largest, product.high) if spec.window == "exact" else largest
    window = spec.window_bits
    up, down = max(window - product.bits, 0), max(product.bits - window, 0)
    kind = object if window + spec.tile.k.bit_length() > 62 else np.int64
    # Up as far as the window reaches, then down by the distance: floor of a magnitude.
    places = (np.clip(top[:, :, None] - x, 0, window) + down).astype(kind)
    raised = p.astype(kind) << up
    kept = raised >> places
    cut = ((kept << places) != raised).any(axis=2) & ~special
    d = np.where(negative, -kept, kept).sum(axis=2)
    return StepSum(
        d=np.where(special, 0, d),
        code=np.zeros_like(largest) if spec.window == "exact" else largest,
        nan=nan,
        pinf=plus & ~nan,
        ninf=minus & ~nan,
        cut=cut,
    )
