"""From the bits of columns and broadcasts back to the operands of the core that multiplies them.

A core's golden model says how operands travel; here is the way back, so that whatever bits a bank
holds have a result. The inverse is proven each time: the operands found must travel as those bits.
"""

from __future__ import annotations

from hw.block import block
from hw.blocks.pim_bank.spec import PimBankSpec
from hw.gemm import GemmWork, Job
from hw.lazy import np
from hw.streams import Stream

WORD = 32
"""Bits of an element of the arrays here: rows of ``uint32``, least significant first."""


def rows(item: Stream, values: dict[str, np.ndarray], bits: int) -> np.ndarray:
    """Beats as rows of ``bits`` bits, ``(beats, bits / 32)``, zeros above the payload."""
    packed = item.pack(values)
    padded = np.zeros((len(packed), bits // 8), dtype=np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view("<u4").astype(np.int64)


def fields(item: Stream, given: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of rows, whatever lies above the payload."""
    octets = np.ascontiguousarray(given.astype("<u4")).view(np.uint8)[:, : item.nbytes].copy()
    spare = item.nbytes * 8 - item.width
    octets[:, -1] &= 0xFF >> spare
    return item.unpack(octets)


def work(spec: PimBankSpec, operand: np.ndarray, column: np.ndarray) -> GemmWork:
    """The core's work whose beats are these rows, in the order of passes and steps.

    Args:
        operand: rows of activations ``(passes · k_steps, operand_words · column_bits / 32)``.
        column: rows of weights ``(passes · k_steps, column_bits / 32)``.

    Raises:
        ValueError: no operands travel so, such as activations that differ from pass to pass.
    """
    core, passes = spec.core, spec.passes
    a_stream, w_stream = spec.core_streams["i_a"], spec.core_streams["i_w"]
    a_beats, w_beats = fields(a_stream, operand), fields(w_stream, column)
    if len(operand) != len(column) or len(operand) % len(passes) or not len(operand):
        raise ValueError(
            f"columns: must be as many as operands and a multiple of {len(passes)} passes, "
            f"got {len(column)} and {len(operand)}"
        )
    k_steps = len(operand) // len(passes)
    # (passes, k_steps, k, …): the tile has one row of each.
    a = a_beats["a"][:, 0].reshape(len(passes), k_steps, *a_beats["a"].shape[2:])
    w = w_beats["w"][:, 0].reshape(len(passes), k_steps, *w_beats["w"].shape[2:])
    weights = _weights(spec, w)
    found = GemmWork(
        job=Job(k_steps=k_steps, weight_bits=core.max_weight_bits),
        a=_activations(spec, a).reshape(1, -1),
        w=weights.reshape(1, -1),
    )
    back = block(core.block).golden.beats(core, found)
    same = np.array_equal(back["i_a"]["a"], a_beats["a"])
    if not same or not np.array_equal(back["i_w"]["w"], w_beats["w"]):
        raise ValueError("columns: no operands travel so")
    return found


def _activations(spec: PimBankSpec, a: np.ndarray) -> np.ndarray:
    """Activations ``(k_steps, k)`` from the beats of every pass."""
    core = spec.core
    if core.block != "bitserial_core":
        return a[0]
    where = {i: index for index, (i, _) in enumerate(spec.passes)}
    planes = [a[where[i]] for i in range(core.activation_width)]
    return _values(core.activations.code, planes)  # type: ignore[attr-defined]


def _weights(spec: PimBankSpec, w: np.ndarray) -> np.ndarray:
    """Weights ``(k_steps, k)`` from the beats of every pass."""
    core = spec.core
    if core.block == "bitserial_core":
        where = {j: index for index, (_, j) in enumerate(spec.passes)}
        return _values(core.weight_encoding, [w[where[j]] for j in range(core.max_weight_bits)])
    if core.block == "lut_core":
        return _looked_up(spec, w)
    codes = w[0]
    if core.weight_encoding == "bipolar":
        return 2 * codes - ((1 << core.max_weight_bits) - 1)
    return codes


def _looked_up(spec: PimBankSpec, w: np.ndarray) -> np.ndarray:
    """Weights of a LUT core from its plane bits ``(passes, k_steps, k, planes)``."""
    core = spec.core
    bits = w.copy()
    if core.symmetric:  # type: ignore[attr-defined]
        # The top lane of a group says whether those below it are complemented, and is its own.
        for group in core.groups:  # type: ignore[attr-defined]
            top = bits[..., group[-1] : group[-1] + 1, :]
            bits[..., group[0] : group[-1], :] ^= top
            bits[..., group[-1] : group[-1] + 1, :] = 1 - top
    # Most significant planes first.
    planes = [bits[p, ..., i] for p in reversed(range(len(bits))) for i in range(bits.shape[-1])]
    if core.symmetric and core.weight_encoding == "twos_complement":  # type: ignore[attr-defined]
        planes[-1] = 1 - planes[-1]
    return _values(core.weight_encoding, planes)


def _values(encoding: str, planes: list[np.ndarray]) -> np.ndarray:
    """Numbers of planes, least significant first."""
    count = len(planes)
    code = sum(plane << index for index, plane in enumerate(planes))
    if encoding == "twos_complement":
        return np.asarray(code - (planes[-1] << count))
    if encoding == "bipolar":
        return np.asarray(2 * code - ((1 << count) - 1))
    return np.asarray(code)
