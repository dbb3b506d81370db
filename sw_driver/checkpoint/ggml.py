"""The types of tensors in GGUF files: sizes, and what their blocks hold.

Source: the block structures of the `ggml` library (``ggml-common.h``) and their table in the `gguf`
package. A block is so many consecutive elements of a row; superblocks of 256 elements have groups
with scales of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from sw_driver.architecture import Storage


@dataclass(frozen=True, slots=True)
class GgmlType:
    """A type: elements and bytes of a block, and the format; ``readable`` if it is decoded here."""

    name: str
    block: int
    size: int
    storage: Storage
    readable: bool


_OFFSETS = ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K")


def _coded(name: str, block: int, size: int, bits: int, group: int, **more: str | bool) -> GgmlType:
    """A type of integer codes; what is no code is scales and offsets, in equal parts a group."""
    ternary = bool(more.get("ternary"))
    # Packed trits take less than the two bits of a ternary code.
    codes = {"TQ1_0": 8 * 52}.get(name, bits * block)
    spare = (8 * size - codes) * group
    if spare % block:
        raise ValueError(f"{name}: scales of {8 * size - codes} bits do not divide into groups")
    storage = Storage(
        name=name,
        bits=bits,
        group=group,
        group_bits=spare // block,
        signed=name not in _OFFSETS,
        offset=name in _OFFSETS,
        ternary=ternary,
        float_format=str(more.get("float_format", "")),
    )
    return GgmlType(name, block, size, storage, True)


def _plain(name: str, size: int, *, readable: bool = True) -> GgmlType:
    return GgmlType(name, 1, size, Storage(name=name), readable)


def _listed(name: str, block: int, size: int) -> GgmlType:
    """A type that is listed but not decoded: its codes stand for entries of codebooks."""
    return GgmlType(name, block, size, Storage(name=name), False)


GGML_TYPES: dict[int, GgmlType] = {
    0: _plain("F32", 4),
    1: _plain("F16", 2),
    2: _coded("Q4_0", 32, 18, 4, 32),
    3: _coded("Q4_1", 32, 20, 4, 32),
    6: _coded("Q5_0", 32, 22, 5, 32),
    7: _coded("Q5_1", 32, 24, 5, 32),
    8: _coded("Q8_0", 32, 34, 8, 32),
    9: _listed("Q8_1", 32, 40),
    10: _coded("Q2_K", 256, 84, 2, 16),
    11: _coded("Q3_K", 256, 110, 3, 16),
    12: _coded("Q4_K", 256, 144, 4, 32),
    13: _coded("Q5_K", 256, 176, 5, 32),
    14: _coded("Q6_K", 256, 210, 6, 16),
    15: _listed("Q8_K", 256, 292),
    16: _listed("IQ2_XXS", 256, 66),
    17: _listed("IQ2_XS", 256, 74),
    18: _listed("IQ3_XXS", 256, 98),
    19: _listed("IQ1_S", 256, 50),
    20: _listed("IQ4_NL", 32, 18),
    21: _listed("IQ3_S", 256, 110),
    22: _listed("IQ2_S", 256, 82),
    23: _listed("IQ4_XS", 256, 136),
    24: _plain("I8", 1, readable=False),
    25: _plain("I16", 2, readable=False),
    26: _plain("I32", 4, readable=False),
    27: _plain("I64", 8, readable=False),
    28: _plain("F64", 8),
    29: _listed("IQ1_M", 256, 56),
    30: _plain("BF16", 2),
    34: _coded("TQ1_0", 256, 54, 2, 256, ternary=True),
    35: _coded("TQ2_0", 256, 66, 2, 256, ternary=True),
    39: _coded("MXFP4", 32, 17, 4, 32, float_format="mxfp4"),
    40: _listed("NVFP4", 64, 36),
}
"""By the number that files give them."""
